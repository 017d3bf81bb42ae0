"""Access to the telemetry port: everything but health needs telemetry.token.

/livez, /readyz and /version stay open, because load balancers ask them. Without a token everything is open
to every client that can reach the port.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN = frozenset({"/livez", "/readyz", "/version"})
_REFUSAL = {
    "code": "UNAUTHENTICATED",
    "message": "this needs the token of telemetry: Authorization: Bearer TOKEN",
}


class Guard:
    """ASGI middleware. `token` gives the secret that holds now, so that a rotated one counts at once."""

    def __init__(self, endpoints: ASGIApp, token: Callable[[], SecretStr | None]) -> None:
        self._endpoints = endpoints
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = self._token()
        if token is not None and scope["type"] == "http":
            request = Request(scope)
            asks_more = request.url.path not in OPEN or bool(request.query_params)
            if asks_more and not _is_bearer(request.headers.get("authorization", ""), token):
                refused = JSONResponse(_REFUSAL, 401, headers={"WWW-Authenticate": "Bearer"})
                await refused(scope, receive, send)
                return
        await self._endpoints(scope, receive, send)


def _is_bearer(header: str, token: SecretStr) -> bool:
    """Compared in a time that says nothing of how much of it is right."""
    scheme, _, given = header.partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.get_secret_value().encode())
    return right and scheme.lower() == "bearer"


__all__ = ["Guard"]
