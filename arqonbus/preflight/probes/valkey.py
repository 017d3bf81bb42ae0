"""Query Valkey for user, version and settings, and test a write. Writes one key, which expires."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, MovedError, NoPermissionError, RedisError, ResponseError

from arqonbus.config.stores import Valkey, login
from arqonbus.preflight.facts import ProbeFailure, SlotRange, ValkeyAnswers
from arqonbus.preflight.probes.reach import (
    ProbedServer,
    Unusable,
    Way,
    failure_of,
    opened,
    speaks_tls,
    unusable_files,
    wrong_protocol,
)
from arqonbus.preflight.probes.sentinel import ask_sentinels
from arqonbus.storage.client_tls import client_context
from arqonbus.storage.valkey.keys import probe_key
from arqonbus.storage.valkey.sentinel import endpoint_of_node

_SECTION = "datastores.valkey"
_INFO = ("maxmemory_policy", "used_memory", "maxmemory", "aof_enabled", "aof_last_write_status", "loading")
_SETTINGS = ("maxmemory-policy", "appendonly", "appendfsync", "maxmemory")
_SLOT_TRIES = 64


async def ask_valkey(store: Valkey, seconds: float) -> ValkeyAnswers:
    """Query the server at the profile's URL, and the other primaries of its cluster.

    With sentinels: these, and the primary that they name. Never raises for a fault of a server.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    if store.sentinel.nodes:
        return await _ask_watched(store, deadline)
    host, port = store.address
    seed = ProbedServer("Valkey", _SECTION, host or "localhost", port)
    said = await _ask(store, seed, deadline)
    others = [ProbedServer("Valkey", _SECTION, host, port) for host, port in _primaries(said.ranges, seed)]
    asked = await asyncio.gather(*(_ask(store, server, deadline) for server in others))
    return replace(said, nodes=tuple(asked))


async def _ask_watched(store: Valkey, deadline: float) -> ValkeyAnswers:
    """Limit the sentinels to half of the time, so that a silent one does not delay the primary."""
    now = asyncio.get_running_loop().time()
    sentinels = tuple(await ask_sentinels(store, now + (deadline - now) / 2))
    named = Counter(said.primary for said in sentinels if said.primary).most_common(1)
    if not named:
        failures = [said.failure for said in sentinels if said.failure is not None]
        return ValkeyAnswers(
            where=f"{store.sentinel.service} of the sentinels", failure=failures[0], sentinels=sentinels
        )
    host, port = endpoint_of_node(named[0][0])
    said = await _ask(store, ProbedServer("Valkey", _SECTION, host, port), deadline)
    return replace(said, sentinels=sentinels)


async def _ask(store: Valkey, server: ProbedServer, deadline: float) -> ValkeyAnswers:
    asking = _ValkeyProbe(store, server, max(0.0, deadline - asyncio.get_running_loop().time()))
    try:
        async with asyncio.timeout_at(deadline):
            return await asking.answers()
    except Unusable as error:
        return ValkeyAnswers(where=server.where, failure=error.failure)
    except TimeoutError as error:
        failure = failure_of(error, server, asking.way)
        return ValkeyAnswers(where=server.where, failure=failure)


def _primaries(ranges: Sequence[SlotRange], seed: ProbedServer) -> Sequence[tuple[str, int]]:
    """Addresses of primaries not queried yet. A primary without a host name has that of the seed node."""
    found = {(each.host or seed.host, each.port) for each in ranges}
    return sorted(found - {(seed.host, seed.port)})


class _ValkeyProbe:
    """One query of the server."""

    def __init__(self, store: Valkey, server: ProbedServer, seconds: float) -> None:
        self._store = store
        self._server = server
        self._seconds = seconds
        self.way = Way()
        self._refused: list[str] = []
        self._user, self._password = login(store)

    async def answers(self) -> ValkeyAnswers:
        tls = self._tls()
        anonymous = await self._first_words(tls)
        client = self._client(tls)
        try:
            return await self._questions(client, anonymous=anonymous, encrypted=tls is not None)
        except AuthenticationError as error:
            raise Unusable(self._not_let_in(str(error))) from error
        except (RedisError, OSError) as error:
            raise Unusable(self._broken(error)) from error
        finally:
            with contextlib.suppress(
                RedisError, OSError
            ):  # the connection may be broken already; the answer remains valid
                await client.aclose()

    def _tls(self) -> ssl.SSLContext | None:
        if not self._store.encrypted:
            return None
        try:
            return client_context(self._store.tls)
        except OSError as error:
            raise Unusable(unusable_files(self._server, error)) from error

    async def _first_words(self, tls: ssl.SSLContext | None) -> bool:
        """Send PING without a password, to detect other services and open servers."""
        try:
            async with opened(self._server, tls, self.way) as (reader, writer):
                writer.write(b"*1\r\n$4\r\nPING\r\n")
                line = await reader.readline()
        except Unusable as error:
            raise Unusable(await self._why_closed(error.failure, tls)) from error
        if not line:
            closed = failure_of(EOFError(), self._server, self.way)
            raise Unusable(await self._why_closed(closed, tls))
        if line.startswith(b"-LOADING"):
            raise Unusable(
                self._server.failure("not_ready", "is still loading its data; try again", "sleep 5")
            )
        if line[:1] not in (b"+", b"-"):
            raise Unusable(wrong_protocol(self._server, line))
        return line.startswith(b"+PONG")

    async def _why_closed(self, failure: ProbeFailure, tls: ssl.SSLContext | None) -> ProbeFailure:
        if failure.kind != "closed" or tls is not None or not await speaks_tls(self._server, 1.0):
            return failure
        return self._server.failure(
            "wants_tls",
            "accepts TLS only, and the profile connects without TLS",
            f"$EDITOR FILE   # {_SECTION}: {{url: valkeys://…, tls: {{enabled: true, ca_file: …}}}}",
        )

    def _client(self, tls: ssl.SSLContext | None) -> Any:
        files = self._store.tls
        options: dict[str, Any] = {}
        if tls is not None:
            options = {
                "ssl": True,
                "ssl_ca_certs": str(files.ca_file) if files.ca_file else None,
                "ssl_certfile": str(files.cert_file) if files.cert_file else None,
                "ssl_keyfile": str(files.key_file) if files.key_file else None,
                "ssl_check_hostname": True,
            }
        return Redis(
            host=self._server.host,
            port=self._server.port,
            username=self._user or None,
            password=self._password or None,
            socket_timeout=self._seconds,
            socket_connect_timeout=self._seconds,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
            protocol=2,
            decode_responses=True,
            **options,
        )

    async def _questions(self, client: Any, *, anonymous: bool, encrypted: bool) -> ValkeyAnswers:
        hello = _mapping(await self._said(client, "HELLO"))
        user = await self._said(client, "ACL", "WHOAMI")
        info = await self._info(client)
        settings = _mapping(await self._said(client, "CONFIG", "GET", *_SETTINGS))
        problem, milliseconds = await self._probe(client)
        in_cluster = hello.get("mode") == "cluster"
        return ValkeyAnswers(
            where=self._server.where,
            version=str((info or {}).get("valkey_version") or hello.get("version", "")),
            user=str(user or self._user or "default"),
            anonymous=anonymous,
            encrypted=encrypted,
            role=str(hello.get("role", "master")),
            cluster=in_cluster,
            ranges=await self._ranges(client) if in_cluster else (),
            library=await self._library(client),
            aof=await self._aof(client, settings),
            settings=settings or None,
            info={key: info[key] for key in _INFO if key in info} if info else None,
            refused=tuple(self._refused),
            probe_problem=problem,
            probe_ms=milliseconds,
        )

    async def _said(self, client: Any, *command: str) -> Any:
        """The reply; None if the user may not run the command."""
        try:
            return await client.execute_command(*command)
        except NoPermissionError:
            if command != ("ACL", "WHOAMI"):  # the user is also known from the profile
                self._refused.append(" ".join(command[:2]) if command[0] == "CONFIG" else command[0])
            return None

    async def _info(self, client: Any) -> Mapping[str, str] | None:
        reply = await self._said(client, "INFO")
        if reply is None:
            return None
        if isinstance(reply, Mapping):
            return {str(key): str(value) for key, value in reply.items()}
        lines = (line.partition(":") for line in str(reply).splitlines() if ":" in line)
        return {key: value for key, _, value in lines}

    async def _ranges(self, client: Any) -> tuple[SlotRange, ...]:
        """Slots of each primary, from this server's CLUSTER SLOTS."""
        reply = await self._said(client, "CLUSTER", "SLOTS") or ()
        return tuple(
            SlotRange(first=int(first), last=int(last), host=str(primary[0] or ""), port=int(primary[1]))
            for first, last, primary, *_ in reply
        )

    async def _library(self, client: Any) -> int | None:
        try:
            version = await self._said(client, "FCALL", "arqonbus_version", "0")
        except ResponseError as error:
            if "not found" in str(error).lower():
                return None
            raise
        return None if version is None else int(version)

    async def _aof(self, client: Any, settings: Mapping[str, str]) -> bool | None:
        if "appendonly" in settings:
            return settings["appendonly"] == "yes"
        try:
            reply = await self._said(client, "WAITAOF", "1", "0", "1")
        except ResponseError as error:
            if "appendonly" in str(error).lower():
                return False
            raise
        return None if reply is None else True

    async def _probe(self, client: Any) -> tuple[str, float | None]:
        value, name = secrets.token_hex(8), f"preflight-{secrets.token_hex(4)}"
        for number in range(_SLOT_TRIES):
            key = probe_key(name, number).key
            began = time.perf_counter()
            try:
                await client.execute_command("SET", key, value, "EX", "60")
                back = await client.execute_command("GET", key)
                await client.execute_command("DEL", key)
            except NoPermissionError as error:
                return f"the Valkey user may not write: {error}", None
            except MovedError:
                continue  # another node of the cluster serves that key
            except ResponseError as error:
                return f"a write is refused: {error}", None
            milliseconds = (time.perf_counter() - began) * 1000
            return ("" if back == value else "it returned a different value than was written"), milliseconds
        return "this cluster node serves no slot", None

    def _not_let_in(self, text: str) -> ProbeFailure:
        user = self._user or "default"
        if (
            "NOAUTH" in text
            or "without any password" in text.lower()
            or "authentication required" in text.lower()
        ):
            return self._server.failure(
                "no_password" if not self._password else "wrong_password",
                f"requires a password for the user {user}" if not self._password else "has no password set",
                f"$EDITOR FILE   # {_SECTION}: {{password: {{from: credential, name: valkey_password}}}}",
            )
        return self._server.failure(
            "wrong_password",
            f"refuses the user {user} with this password",
            "valkey-cli ACL LIST   # on the server: does the user exist, and is it on?",
            f"$EDITOR FILE   # {_SECTION}: user, and the secret that password refers to",
        )

    def _broken(self, error: Exception) -> ProbeFailure:
        text = str(error)
        if text.startswith(("NOAUTH", "Authentication required")):
            return self._not_let_in("NOAUTH")
        return self._server.failure("other", f"answers with an error: {text}", "valkey-cli PING")


def _mapping(reply: Any) -> Mapping[str, Any]:
    """A reply as a mapping: RESP2 returns a flat list, and redis-py may already return a mapping."""
    if isinstance(reply, Mapping):
        return {str(key): value for key, value in reply.items()}
    if isinstance(reply, list):
        return {str(key): value for key, value in zip(reply[::2], reply[1::2], strict=False)}
    return {}


__all__ = ["ask_valkey"]
