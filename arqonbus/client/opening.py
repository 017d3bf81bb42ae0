"""Open a link: connect, upgrade, and sort what goes wrong into what may pass and what will not."""

from __future__ import annotations

import json
import re
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import (
    InvalidHandshake,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
)
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from arqonbus.client.errors import ConnectionRefused, NotConnected
from arqonbus.client.link import Link, Socket, WireName

OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0
MAX_BODY = 200  # characters of a body that is not the bus's own, in an error text

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_TOKEN = re.compile(r"[\x21-\x7e]+")


class TryAgain(Exception):
    """This attempt failed; another may succeed. `after`: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0, refused: ConnectionRefused | None = None) -> None:
        super().__init__(reason)
        self.after = after
        self.refused = refused


class Untrusted(TryAgain):
    """The certificate of the bus could not be verified."""


class Expired(TryAgain):
    """The token that was presented has expired."""


def check_url(url: str) -> str:
    """The url, if a client can connect to it. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss"):
        hint = {"http": "; use ws://", "https": "; use wss://"}.get(parts.scheme, "")
        raise ValueError(f"the url {url!r} does not begin with ws:// or wss://{hint}")
    if not parts.hostname:
        raise ValueError(f"the url {url!r} names no host")
    _ = parts.port  # raises ValueError when it is not a number in range
    return url


def check_token(token: Any) -> str:
    """The token, if it can be a header value. Raises NotConnected."""
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        kind = "is empty" if token == "" else "is not a string of printable ASCII characters"
        raise NotConnected(f"the token {kind}")
    return token


async def open_link(url: str, token: str, wire: WireName, tls: ssl.SSLContext | None) -> Link:
    """Connect and upgrade.

    Raises TryAgain, ConnectionRefused for a final answer, NotConnected for a final failure.
    """
    encryption: dict[str, Any] = {} if tls is None else {"ssl": tls}
    try:
        opened = await connect(
            url,
            subprotocols=[f"arqonbus.v1.{wire}"],  # type: ignore[list-item]
            additional_headers={"Authorization": f"Bearer {check_token(token)}"},
            compression=None,
            max_size=None,
            ping_interval=None,  # the link has its own watch
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            create_connection=Socket,
            **encryption,
        )
    except InvalidProxyStatus as answer:
        status = answer.response.status_code
        raise TryAgain(f"the proxy {proxy_of(url)} answered with HTTP {status}") from answer
    except InvalidStatus as answer:
        raise _refusal(answer) from answer
    except ssl.SSLCertVerificationError as error:
        raise Untrusted(f"the certificate of {url} could not be verified: {error.verify_message}") from error
    except (InvalidURI, InvalidProxy) as error:
        raise NotConnected(f"no connection to {url} is possible: {error}") from error
    except (OSError, TimeoutError, InvalidHandshake) as error:
        through = proxy_of(url)
        raise TryAgain(_reason(error) + (f", through the proxy {through}" if through else "")) from error
    assert isinstance(opened, Socket)
    return Link(opened, wire)


def proxy_of(url: str) -> str:
    """The proxy that the environment names for this url, without its credentials; empty if there is none."""
    proxy = get_proxy(parse_uri(url))
    if proxy is None:
        return ""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return f"the host name could not be resolved: {error.strerror or error}"
    if isinstance(error, ConnectionRefusedError):
        return f"the connection was refused: {error}"
    text = str(error) or type(error).__name__
    cause = error.__cause__
    return f"{text}: {cause}" if cause is not None and str(cause) not in ("", text) else text


def _refusal(answer: InvalidStatus) -> Exception:
    response = answer.response
    text = bytes(response.body or b"").decode("utf-8", "replace")
    try:
        body = json.loads(text)
        code, message = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        shown = "".join(c if c.isprintable() else " " for c in text.strip())[:MAX_BODY]
        code, message = "", f"the server refused the connection{f': {shown}' if shown else ''}"
    refused = ConnectionRefused(response.status_code, code, message)
    if response.status_code in _RETRIED:
        after = response.headers.get("Retry-After", "0")
        return TryAgain(str(refused), float(after) if after.isascii() and after.isdigit() else 0.0, refused)
    if code == "EXPIRED":
        return Expired(str(refused), refused=refused)
    return refused


__all__ = ["Expired", "TryAgain", "Untrusted", "check_token", "check_url", "open_link"]
