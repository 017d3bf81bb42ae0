"""Query NATS: read its greeting, log in and send one PING. Publishes no message.

If a bridge is configured, it also queries JetStream for the bridge's stream.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import time
from typing import Any

from arqonbus.config.bridge import Bridge
from arqonbus.config.stores import Nats, login
from arqonbus.preflight.facts import NatsAnswers
from arqonbus.preflight.probes.reach import (
    ProbedServer,
    Unusable,
    Way,
    failure_of,
    opened,
    unusable_files,
    wrong_protocol,
)
from arqonbus.storage.client_tls import client_context

_SECTION = "datastores.nats"


async def ask_nats(store: Nats, seconds: float, bridge: Bridge | None = None) -> NatsAnswers:
    """Query the server of the profile. Never raises for a fault of the server."""
    host, port = store.address
    server = ProbedServer("NATS", _SECTION, host or "localhost", port)
    asking = _NatsProbe(store, server, bridge)
    try:
        async with asyncio.timeout(seconds):
            return await asking.answers()
    except Unusable as error:
        return NatsAnswers(where=server.where, failure=error.failure)
    except TimeoutError as error:
        return NatsAnswers(where=server.where, failure=failure_of(error, server, asking.way))


class _NatsProbe:
    """One query of the server."""

    def __init__(self, store: Nats, server: ProbedServer, bridge: Bridge | None) -> None:
        self._bridge = bridge if bridge is not None and bridge.mappings else None
        self._store = store
        self._server = server
        self._user, self._password = login(store)
        self.way = Way()

    async def answers(self) -> NatsAnswers:
        began = time.perf_counter()
        async with opened(self._server, None, self.way) as (reader, writer):
            info = self._greeting(await _line(reader))
            encrypted = self._store.encrypted or bool(info.get("tls_required"))
            if encrypted and not (info.get("tls_required") or info.get("tls_available")):
                raise Unusable(
                    self._server.failure(
                        "no_tls", "does not speak TLS", "$EDITOR nats-server.conf   # tls { … }"
                    )
                )
            if encrypted:
                self.way.stage = "tls"
                await writer.start_tls(self._tls(), server_hostname=self._server.host)
            self.way.stage = "talk"
            writer.write(b"CONNECT " + json.dumps(self._introduction()).encode() + b"\r\nPING\r\n")
            self._judge(await _line(reader))
            probe_ms = (time.perf_counter() - began) * 1000
            problem, subjects, held = "", None, False
            if self._bridge is not None:
                problem, subjects, held = await _stream(reader, writer, self._bridge)
            return NatsAnswers(
                where=self._server.where,
                version=str(info.get("version", "")),
                encrypted=encrypted,
                auth_required=bool(info.get("auth_required")),
                max_payload=int(info.get("max_payload", 0)),
                jetstream_problem=problem,
                stream_subjects=subjects,
                dead_letters_held=held,
                probe_ms=probe_ms,
            )

    def _tls(self) -> ssl.SSLContext:
        try:
            return client_context(self._store.tls)
        except OSError as error:
            raise Unusable(unusable_files(self._server, error)) from error

    def _greeting(self, line: bytes) -> dict[str, Any]:
        if not line:
            raise Unusable(failure_of(EOFError(), self._server, self.way))
        try:
            info = json.loads(line[5:]) if line.startswith(b"INFO ") else None
        except ValueError:
            info = None
        if not isinstance(info, dict):
            raise Unusable(wrong_protocol(self._server, line))
        return info

    def _introduction(self) -> dict[str, Any]:
        introduction: dict[str, Any] = {
            "verbose": False,
            "pedantic": False,
            "name": "arqonbus preflight",
            "headers": True,
            "no_responders": True,
        }
        if self._user and self._password:
            return introduction | {"user": self._user, "pass": self._password}
        if self._user or self._password:
            return introduction | {"auth_token": self._user or self._password}
        return introduction

    def _judge(self, line: bytes) -> None:
        if line.startswith(b"PONG"):
            return
        if b"uthoriz" in line or b"uthentic" in line:
            fix = (
                f"$EDITOR FILE   # {_SECTION}: "
                "{user: arqonbus, password: {from: credential, name: nats_password}}"
            )
            if self._user or self._password:
                failure = self._server.failure(
                    "wrong_password", "refuses the configured user and password", fix
                )
            else:
                failure = self._server.failure("no_password", "requires a user and a password", fix)
            raise Unusable(failure)
        if not line:
            raise Unusable(failure_of(EOFError(), self._server, self.way))
        text = line.decode("utf-8", "replace").strip()
        raise Unusable(self._server.failure("other", f"answers with {text}", "nc -v HOST 4222"))


async def _stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bridge: Bridge
) -> tuple[str, tuple[str, ...] | None, bool]:
    """The fault of JetStream, the stream's subjects, and whether a stream covers the dead letters."""
    inbox = f"_INBOX.{secrets.token_hex(8)}"
    writer.write(f"SUB {inbox} 1\r\n".encode())
    problem, info = await _request(reader, writer, inbox, f"STREAM.INFO.{bridge.stream}", {})
    if problem:
        return problem, None, False
    subjects = info.get("config", {}).get("subjects") if "error" not in info else None
    problem, names = await _request(reader, writer, inbox, "STREAM.NAMES", {"subject": bridge.dead_letters})
    return problem, None if "error" in info else tuple(subjects or ()), bool(names.get("streams"))


async def _request(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    inbox: str,
    name: str,
    question: dict[str, str],
) -> tuple[str, dict[str, Any]]:
    """Send one request to JetStream; return its fault or its answer."""
    body = json.dumps(question).encode() if question else b""
    writer.write(f"PUB $JS.API.{name} {inbox} {len(body)}\r\n".encode() + body + b"\r\n")
    while line := await _line(reader):
        words = line.split()
        if line.startswith(b"HMSG "):
            return "JetStream is not enabled", {}
        if line.startswith(b"-ERR"):
            return f"JetStream refuses the request: {line[4:].decode('utf-8', 'replace').strip()}", {}
        if line.startswith(b"MSG "):
            answer = json.loads((await reader.readexactly(int(words[-1]) + 2)).decode("utf-8", "replace"))
            return "", answer if isinstance(answer, dict) else {}
        if line.startswith(b"PING"):
            writer.write(b"PONG\r\n")
    return "JetStream does not answer", {}


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        return b"?"  # NATS terminates every line


__all__ = ["ask_nats"]
