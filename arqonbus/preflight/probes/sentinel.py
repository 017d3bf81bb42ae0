"""Query the sentinels for the primary and whether they can elect another one. Changes nothing."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

from arqonbus.config.stores import Valkey
from arqonbus.preflight.facts import ProbeFailure, SentinelAnswers
from arqonbus.preflight.probes.reach import ProbedServer, Unusable, Way, failure_of, unusable_files
from arqonbus.storage.client_tls import client_context
from arqonbus.storage.valkey.link import Access, Endpoint, LinkLost, ReplyError, ValkeyLink
from arqonbus.storage.valkey.sentinel import endpoint_of_node, facts_of

_SECTION = "datastores.valkey.sentinel"


async def ask_sentinels(store: Valkey, deadline: float) -> Sequence[SentinelAnswers]:
    """Query each sentinel of the profile. Never raises for a fault of a sentinel."""
    return await asyncio.gather(*(_ask(store, node, deadline) for node in store.sentinel.nodes))


async def _ask(store: Valkey, node: str, deadline: float) -> SentinelAnswers:
    host, port = endpoint_of_node(node)
    server = ProbedServer("the sentinel", _SECTION, host, port)
    try:
        async with asyncio.timeout_at(deadline):
            return await _questions(store, server)
    except Unusable as error:
        return SentinelAnswers(where=server.where, failure=error.failure)
    except TimeoutError as error:
        return SentinelAnswers(where=server.where, failure=failure_of(error, server, Way()))


async def _questions(store: Valkey, server: ProbedServer) -> SentinelAnswers:
    service = store.sentinel.service or ""
    password = store.sentinel.password.get_secret_value() if store.sentinel.password else ""
    access = Access(password=password, tls=_tls(store, server))
    link = None
    try:
        link = await ValkeyLink.connect(Endpoint(server.host, server.port), access)
        replies = await link.flight([("SENTINEL", "MASTER", service), ("SENTINEL", "CKQUORUM", service)])
        return _answers(server, service, replies)
    except ReplyError as error:
        raise Unusable(_refused(server, str(error), with_password=bool(password))) from error
    except (OSError, EOFError, LinkLost) as error:
        cause = error if isinstance(error, OSError) else EOFError()
        raise Unusable(failure_of(cause, server, Way())) from error
    finally:
        if link is not None:
            link.abort("it was asked")


def _answers(server: ProbedServer, service: str, replies: Sequence[Any]) -> SentinelAnswers:
    primary, quorum = replies
    if isinstance(primary, Exception):
        raise Unusable(_refused(server, str(primary), service=service))
    facts = facts_of(primary)
    return SentinelAnswers(
        where=server.where,
        primary=f"{facts[b'ip'].decode()}:{int(facts[b'port'])}",
        replicas=int(facts[b"num-slaves"]),
        flags=facts[b"flags"].decode(),
        quorum_problem=str(quorum) if isinstance(quorum, Exception) else "",
    )


def _tls(store: Valkey, server: ProbedServer) -> ssl.SSLContext | None:
    if not store.encrypted:
        return None
    try:
        return client_context(store.tls)
    except OSError as error:
        raise Unusable(unusable_files(server, error)) from error


def _refused(
    server: ProbedServer, text: str, *, service: str = "", with_password: bool = False
) -> ProbeFailure:
    if "No such master" in text:
        return server.failure(
            "other",
            f"watches no primary named {service}",
            "valkey-cli -p 26379 SENTINEL MASTERS   # the names that it watches",
            f"$EDITOR FILE   # {_SECTION}: {{service: NAME}}",
        )
    if "WRONGPASS" in text or ("without any password" in text and with_password):
        return server.failure(
            "wrong_password", "refuses this password", f"$EDITOR FILE   # {_SECTION}: the secret of password"
        )
    if "NOAUTH" in text:
        return server.failure(
            "no_password",
            "requires a password",
            f"$EDITOR FILE   # {_SECTION}: {{password: {{from: credential, name: sentinel}}}}",
        )
    return server.failure("other", f"answers with an error: {text}", "valkey-cli -p 26379 PING")


__all__ = ["ask_sentinels"]
