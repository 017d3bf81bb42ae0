"""Connect to a server step by step (name, port, TLS, first bytes) and name the step that fails.

Independent of the protocol. Opens one connection at a time and closes it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from arqonbus.preflight.facts import FailureKind, ProbeFailure

_EXPIRED, _NOT_YET, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64


@dataclass(frozen=True, slots=True)
class ProbedServer:
    """The server: `name` for messages, `section` for fixes."""

    name: str
    section: str
    host: str
    port: int

    @property
    def where(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.name} at {host}:{self.port}"

    def failure(self, kind: FailureKind, text: str, *fix: str) -> ProbeFailure:
        """A failure of this server; `text` follows the server's name."""
        return ProbeFailure(kind=kind, text=f"{self.where} {text}", fix=fix)


class Way:
    """The step that was reached, for a message after a timeout."""

    stage: Literal["connect", "tls", "talk"] = "connect"


class Unusable(Exception):
    """A step failed."""

    def __init__(self, failure: ProbeFailure) -> None:
        super().__init__(failure.text)
        self.failure = failure


@asynccontextmanager
async def opened(
    server: ProbedServer, tls: ssl.SSLContext | None = None, way: Way | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection. Raises Unusable, also for a timeout in the body: the server is silent."""
    writer: asyncio.StreamWriter | None = None
    way = way or Way()
    try:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        if tls is not None:
            way.stage = "tls"
            await writer.start_tls(tls, server_hostname=server.host)
        way.stage = "talk"
        yield reader, writer
    except (OSError, EOFError, TimeoutError) as error:
        raise Unusable(failure_of(error, server, way)) from error
    finally:
        if writer is not None:
            # Abort instead of close: closing a connection to a hanging server would exceed the deadline.
            writer.transport.abort()


def failure_of(error: BaseException, server: ProbedServer, way: Way) -> ProbeFailure:
    """The failure for an exception."""
    host, port, section = server.host, server.port, server.section
    see = (f"ss -ltn 'sport = :{port}'   # on {host}: is the server running on this port?",)
    match error:
        case ssl.SSLCertVerificationError():
            return _certificate_failure(error, server)
        case ssl.SSLError():
            return _tls_failure(error, server)
        case socket.gaierror():
            return server.failure(
                "no_such_name",
                f"is unreachable: {host} cannot be resolved",
                f"getent hosts {host}",
                f"$EDITOR FILE   # {section}: correct the name",
            )
        case ConnectionRefusedError():
            return server.failure(
                "refused",
                "is unreachable: connection refused, nothing listens on the port",
                *see,
                f"$EDITOR FILE   # {section}: correct host or port",
            )
        case TimeoutError() if way.stage == "tls":
            return server.failure(
                "no_tls",
                "accepts the connection but answers no TLS handshake: no TLS on this port, or it hangs",
                f"$EDITOR FILE   # {section}: the port with TLS",
                f"openssl s_client -connect {host}:{port} </dev/null",
            )
        case TimeoutError() if way.stage == "connect":
            return server.failure(
                "unreachable",
                "is unreachable: the connection timed out; a firewall drops packets, or the host is down",
                f"nc -vz -w 3 {host} {port}",
            )
        case TimeoutError():
            return server.failure(
                "silent",
                "accepts the connection but sends nothing: it hangs, or another service listens there",
                *see,
                f"nc -v -w 3 {host} {port}",
            )
        case EOFError() | ConnectionResetError() | BrokenPipeError():
            return server.failure("closed", "accepts the connection and closes it at once", *see)
        case OSError():
            return server.failure(
                "unreachable", f"is unreachable ({error.strerror or error})", f"nc -vz -w 3 {host} {port}"
            )
        case _:
            return server.failure("other", f"cannot be used ({type(error).__name__}: {error})")


def _certificate_failure(error: ssl.SSLCertVerificationError, server: ProbedServer) -> ProbeFailure:
    look = f"openssl s_client -connect {server.host}:{server.port} </dev/null | openssl x509 -noout -text"
    match error.verify_code:
        case code if code in (_EXPIRED, _NOT_YET):
            what = "has expired" if code == _EXPIRED else "is not valid yet"
            return server.failure(
                "certificate_expired", f"presents a certificate that {what}", look, "date -u"
            )
        case code if code in (_OTHER_NAME, _OTHER_ADDRESS):
            return server.failure(
                "certificate_name",
                f"presents a certificate that does not cover {server.host}",
                look,
                f"$EDITOR FILE   # {server.section}: the name that the certificate has",
            )
        case _:
            return server.failure(
                "certificate_untrusted",
                f"presents a certificate that the configured CA did not sign ({error.verify_message})",
                look,
                f"$EDITOR FILE   # {server.section}: ca_file of the authority that signed it",
            )


def _tls_failure(error: ssl.SSLError, server: ProbedServer) -> ProbeFailure:
    reason = (error.reason or "").upper()
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return server.failure(
            "client_certificate",
            "requires a client certificate and accepted none",
            f"$EDITOR FILE   # {server.section}: tls: {{cert_file: …, key_file: …}}",
        )
    return server.failure(
        "no_tls",
        f"does not speak TLS on this port ({error.reason or error})",
        f"$EDITOR FILE   # {server.section}: the port with TLS",
        f"openssl s_client -connect {server.host}:{server.port} </dev/null",
    )


async def speaks_tls(server: ProbedServer, seconds: float) -> bool:
    """Return whether the port answers a TLS handshake. No data is sent, so the server is not verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(seconds), opened(server, context):
            return True
    except (Unusable, TimeoutError):
        return False


def unusable_files(server: ProbedServer, error: OSError) -> ProbeFailure:
    """Failure for TLS files of the profile that are unreadable or invalid."""
    text = f"was not queried: the files of {server.section}.tls are unusable ({error})"
    return server.failure("other", text, "ls -l FILE")


def wrong_protocol(server: ProbedServer, first: bytes) -> ProbeFailure:
    """Failure for an answer that a server of this kind never sends."""
    guess = "an HTTP server" if first.startswith(b"HTTP/") else "another service"
    guess = "an SSH server" if first.startswith(b"SSH-") else guess
    return server.failure(
        "wrong_protocol",
        f"is not {server.name}: {guess} answers there",
        f"$EDITOR FILE   # {server.section}: correct host or port",
        f"ss -ltnp 'sport = :{server.port}'   # on {server.host}",
    )


__all__ = [
    "ProbedServer",
    "Unusable",
    "Way",
    "failure_of",
    "opened",
    "speaks_tls",
    "unusable_files",
    "wrong_protocol",
]
