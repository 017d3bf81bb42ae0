"""May this HTTP request become a connection, and which? Pure: a request in, a decision out.

Every refusal is an HTTP response with a JSON body {code, message, docs} and nothing internal. The order is
deliberate: what costs nothing comes first, the token's signature last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import parse_qsl

import msgspec

from arqonbus.bus.request_head import BadRequest, tokens
from arqonbus.bus.wire import BY_SUBPROTOCOL, JSON, PROTOBUF, Wire
from arqonbus.config import Settings
from arqonbus.config.globs import Glob
from arqonbus.config.network import ENDPOINT
from arqonbus.protocol.errors import BusError, Code
from arqonbus.shield.peer_names import Names, ServiceNames
from arqonbus.shield.proxies import TrustedProxies
from arqonbus.shield.tokens import Identity

BEARER = "bearer."
RETRY_AFTER_SECONDS = 2
DOCS = "docs/reference/errors.md#"
_WEBSOCKET_KEY = re.compile(r"[A-Za-z0-9+/]{22}==", re.ASCII)  # 16 bytes in base64
_UPGRADE = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
_TOKEN_PARAMETERS = frozenset({"token", "access_token", "jwt", "authorization", "bearer"})

_FOR_BROWSERS = (
    ("Strict-Transport-Security", "max-age=31536000"),  # which counts over TLS only, by RFC 6797
    ("X-Content-Type-Options", "nosniff"),
)

_STATUS: Mapping[Code, HTTPStatus] = {
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.EXPIRED: HTTPStatus.UNAUTHORIZED,
    Code.ORIGIN_REFUSED: HTTPStatus.FORBIDDEN,
    Code.AUTHORIZATION_ERROR: HTTPStatus.FORBIDDEN,
    Code.INFRA_PROTOCOL_REQUIRED: HTTPStatus.UPGRADE_REQUIRED,
    Code.SUBPROTOCOL_UNSUPPORTED: HTTPStatus.BAD_REQUEST,
    Code.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.TOO_MANY_CONNECTIONS: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.DRAINING: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    Code.STORAGE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.INTERNAL_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass(frozen=True, slots=True)
class Request:
    """The parts of a request that decide about the upgrade. Header names are in lower case, values in order.

    `address`: the other end of the socket. `certificate`: the names in the one that it showed, if any.
    """

    target: str
    headers: Mapping[str, Sequence[str]]
    address: str
    certificate: Names = ()
    method: str = "GET"
    version: str = "1.1"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The connection may be. `subprotocol` is what the response names, if the client asked for any.

    `address`: where the client is, seen through the proxies that the profile trusts.
    """

    identity: Identity
    wire: Wire
    subprotocol: str | None
    address: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The HTTP response of a refusal. `reason`: its sentence, for the log."""

    status: HTTPStatus
    code: Code
    headers: tuple[tuple[str, str], ...]
    body: bytes
    reason: str = ""


class Handshake:
    """Decide on upgrade requests under one profile."""

    def __init__(self, settings: Settings, verify: Callable[[str], Identity]) -> None:
        """`verify` gives the identity of a token or raises BusError."""
        self._settings = settings
        self._verify = verify
        self._origins = [Glob(origin) for origin in settings.server.origins]
        self._proxies = TrustedProxies(settings.server.trusted_proxies, settings.server.forwarded_header)
        self._services = ServiceNames(settings.auth.service_identities)

    def address(self, request: Request) -> str:
        """The address of the client."""
        return self._proxies.client(request.address, request.headers)

    def decide(self, request: Request, obstacle: BusError | None) -> Accepted | Refused:
        """`obstacle`: why the node takes no connection at all just now (full, draining), or None."""
        try:
            path, _, query = request.target.partition("?")
            if path != ENDPOINT:
                raise BusError(Code.NOT_FOUND, f"the bus is at {ENDPOINT}")
            if obstacle is not None:
                raise obstacle
            _check_upgrade(request)
            self._check_origin(request)
            offered = _offered(request)
            identity = self._verify(_token(request, query, offered))
            self._check_certificate(request, identity)
            accepted = self._accept(identity, [name for name in offered if not name.startswith(BEARER)])
            return replace(accepted, address=self.address(request))
        except BusError as error:
            return refused(error)

    def _check_origin(self, request: Request) -> None:
        for origin in request.headers.get("origin", ()):
            if not any(allowed.matches(origin) for allowed in self._origins):
                raise BusError(Code.ORIGIN_REFUSED, "pages of this origin may not connect")

    def _check_certificate(self, request: Request, identity: Identity) -> None:
        if not self._settings.auth.service_mtls or identity.kind != "service":
            return
        if not request.certificate:
            raise BusError(Code.AUTHORIZATION_ERROR, "services show a certificate on this bus")
        if not self._services.names(request.certificate, identity.tenant, identity.subject):
            raise BusError(Code.AUTHORIZATION_ERROR, "the certificate does not name the service of the token")

    def _accept(self, identity: Identity, offered: Sequence[str]) -> Accepted:
        protocol = self._settings.protocol
        if offered:
            name = next((name for name in offered if name in BY_SUBPROTOCOL), None)
            if name is None:
                raise BusError(
                    Code.SUBPROTOCOL_UNSUPPORTED, f"offer one of {', '.join(sorted(BY_SUBPROTOCOL))}"
                )
            wire = BY_SUBPROTOCOL[name]
        else:
            name, wire = None, PROTOBUF if protocol.infra == "protobuf" else JSON
        if wire.json:
            if identity.kind == "service" and protocol.infra == "protobuf" and not protocol.allow_json_infra:
                raise BusError(
                    Code.INFRA_PROTOCOL_REQUIRED, f"services connect with {PROTOBUF.subprotocol} on this bus"
                )
            if identity.kind != "service" and not protocol.edge_json:
                raise BusError(
                    Code.INFRA_PROTOCOL_REQUIRED,
                    f"all clients connect with {PROTOBUF.subprotocol} on this bus",
                )
        return Accepted(identity, wire, name)


def refused(error: BusError) -> Refused:
    """The HTTP response for an error before the upgrade."""
    status = _STATUS.get(error.code, HTTPStatus.BAD_REQUEST)
    if isinstance(error, BadRequest):
        status = error.status
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *_FOR_BROWSERS]
    if status == HTTPStatus.UNAUTHORIZED:
        reason = "invalid_token" if error.code == Code.EXPIRED else "invalid_request"
        headers.append(("WWW-Authenticate", f'Bearer realm="arqonbus", error="{reason}"'))
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        seconds = max(1, -(-error.retry_after_ms // 1000)) if error.retry_after_ms else RETRY_AFTER_SECONDS
        headers.append(("Retry-After", str(seconds)))
    if isinstance(error, BadRequest):
        headers += error.headers
    elif status == HTTPStatus.UPGRADE_REQUIRED:
        headers.append(("Upgrade", "websocket"))
    body = {"code": error.code, "message": error.message, "docs": DOCS + error.code.lower()}
    return Refused(status, error.code, tuple(headers), msgspec.json.encode(body), error.message)


def _check_upgrade(request: Request) -> None:
    """Check a request as RFC 6455, section 4.2.1, requires. Raises BadRequest."""
    headers = request.headers
    if request.method != "GET":
        raise BadRequest(
            HTTPStatus.METHOD_NOT_ALLOWED, "a WebSocket begins with GET", headers=[("Allow", "GET")]
        )
    if request.version != "1.1":
        raise BadRequest(
            HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
            "an upgrade takes HTTP/1.1; a proxy in between must forward with it",
        )
    if "websocket" not in tokens(headers.get("upgrade", ())):
        text = "this is a WebSocket endpoint; send Upgrade: websocket, and let proxies pass it on"
        raise BadRequest(HTTPStatus.UPGRADE_REQUIRED, text, headers=_UPGRADE)
    if "upgrade" not in tokens(headers.get("connection", ())):
        text = "send Connection: Upgrade, and let proxies pass it on"
        raise BadRequest(HTTPStatus.UPGRADE_REQUIRED, text, headers=_UPGRADE)
    if list(headers.get("sec-websocket-version", ())) != ["13"]:
        text = "send Sec-WebSocket-Version: 13, once; the bus speaks no other version"
        raise BadRequest(HTTPStatus.UPGRADE_REQUIRED, text, headers=_UPGRADE)
    keys = headers.get("sec-websocket-key", ())
    if len(keys) != 1 or not _WEBSOCKET_KEY.fullmatch(keys[0]):
        raise BadRequest(HTTPStatus.BAD_REQUEST, "send one Sec-WebSocket-Key: 16 random bytes in base64")
    if "transfer-encoding" in headers or set(headers.get("content-length", ())) - {"0"}:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "an upgrade has no body")


def canonical_head(request: Request) -> bytes:
    """The one spelling of an accepted upgrade: all that a WebSocket library has to read of it."""
    (key,) = request.headers["sec-websocket-key"]
    return (
        f"GET {ENDPOINT} HTTP/1.1\r\nHost: bus\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode("ascii")


def _offered(request: Request) -> list[str]:
    values = request.headers.get("sec-websocket-protocol", ())
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def _token(request: Request, query: str, offered: Sequence[str]) -> str:
    """The one token of the request, from the Authorization header or the subprotocol list."""
    if any(name.lower() in _TOKEN_PARAMETERS for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise BusError(
            Code.UNAUTHENTICATED,
            "a token in the query string ends up in logs; send it in the Authorization header",
        )
    found = [name[len(BEARER) :] for name in offered if name.startswith(BEARER)]
    for value in request.headers.get("authorization", ()):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise BusError(Code.UNAUTHENTICATED, "the Authorization header is not Bearer and a token")
        found.append(token.strip())
    if not found:
        raise BusError(Code.UNAUTHENTICATED, "a token is needed: send Authorization: Bearer …")
    if len(found) > 1:
        raise BusError(Code.UNAUTHENTICATED, "the request carries more than one token")
    return found[0]


__all__ = ["BEARER", "Accepted", "Handshake", "Refused", "Request", "canonical_head", "refused"]
