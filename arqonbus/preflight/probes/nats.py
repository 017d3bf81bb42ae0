"""Asks NATS: reads its greeting, introduces us, and waits for the answer to one PING. Publishes nothing."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from typing import Any
from urllib.parse import unquote, urlsplit

from arqonbus.preflight.facts import NatsAnswers
from arqonbus.preflight.probes.reach import Server, Unusable, Way, failure_of, opened, wrong_protocol

_SECTION = "datastores.nats"


async def ask_nats(url: str, seconds: float) -> NatsAnswers:
    """The answers of the server at the URL. Never raises for what the server does."""
    parts = urlsplit(url)
    server = Server("NATS", _SECTION, parts.hostname or "localhost", parts.port or 4222)
    asking = _Asking(url, server)
    try:
        async with asyncio.timeout(seconds):
            return await asking.answers()
    except Unusable as error:
        return NatsAnswers(where=server.where, failure=error.failure)
    except TimeoutError as error:
        return NatsAnswers(where=server.where, failure=failure_of(error, server, asking.way))


class _Asking:
    """One round of questions."""

    def __init__(self, url: str, server: Server) -> None:
        self._parts = urlsplit(url)
        self._server = server
        self.way = Way()

    async def answers(self) -> NatsAnswers:
        began = time.perf_counter()
        async with opened(self._server, None, self.way) as (reader, writer):
            info = self._greeting(await _line(reader))
            encrypted = self._parts.scheme == "tls" or bool(info.get("tls_required"))
            if encrypted and not (info.get("tls_required") or info.get("tls_available")):
                raise Unusable(
                    self._server.failure(
                        "no_tls", "does not speak TLS", "$EDITOR nats-server.conf   # tls { … }"
                    )
                )
            if encrypted:
                self.way.stage = "tls"
                await writer.start_tls(ssl.create_default_context(), server_hostname=self._server.host)
            self.way.stage = "talk"
            writer.write(b"CONNECT " + json.dumps(self._introduction()).encode() + b"\r\nPING\r\n")
            self._judge(await _line(reader))
            return NatsAnswers(
                where=self._server.where,
                version=str(info.get("version", "")),
                encrypted=encrypted,
                auth_required=bool(info.get("auth_required")),
                max_payload=int(info.get("max_payload", 0)),
                probe_ms=(time.perf_counter() - began) * 1000,
            )

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
        introduction: dict[str, Any] = {"verbose": False, "pedantic": False, "name": "arqonbus preflight"}
        if self._parts.username and self._parts.password is None:
            return introduction | {"auth_token": unquote(self._parts.username)}
        if self._parts.username:
            return introduction | {
                "user": unquote(self._parts.username),
                "pass": unquote(self._parts.password or ""),
            }
        return introduction

    def _judge(self, line: bytes) -> None:
        if line.startswith(b"PONG"):
            return
        if b"uthoriz" in line or b"uthentic" in line:
            kind = "wrong_password" if self._parts.username else "no_password"
            text = "refuses our user and password" if self._parts.username else "wants a user and a password"
            fix = "$EDITOR FILE   # nats: {url: nats://USER:PASSWORD@HOST:4222}"
            raise Unusable(self._server.failure(kind, text, fix))  # type: ignore[arg-type]
        if not line:
            raise Unusable(failure_of(EOFError(), self._server, self.way))
        text = line.decode("utf-8", "replace").strip()
        raise Unusable(self._server.failure("other", f"answers with {text}", "nc -v HOST 4222"))


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        return b"?"  # a line without an end is no line of NATS


__all__ = ["ask_nats"]
