"""Type of settings that are URLs, parsed once when the profile is loaded.

All users take the parts of an address from here, so that no URL of a loaded profile fails later. Pure. As in
`units`, error messages continue after the name of the setting and never contain the value, which may hold a
password.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Any, Self
from urllib.parse import parse_qsl, unquote

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII | re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\ufeff\u2028\u2029]")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SECRET_IN_QUERY = re.compile(r"(?i)(passw|pwd|secret|token)[\w.-]*=")
_WITH_TOKENS = ("nats", "tls")  # the part before @ is a secret if it has no colon
_ENCODE = "write / ? # [ ] @ in a user or password as %2F %3F %23 %5B %5D %40, or use the setting password"


class Url(str):
    """A URL of the profile, unchanged, with its parts.

    `scheme` is lower case. `user` and `password` are decoded, and empty if missing. `host` is lower case,
    without brackets, and empty for a socket file. `port` is None if missing. `path` is decoded and begins
    with a slash unless it is empty; `query` is as written. Raises ValueError.
    """

    scheme: str
    user: str
    password: str
    host: str
    port: int | None
    path: str
    query: str

    def __new__(cls, text: str) -> Self:
        url = super().__new__(cls, text)
        if _UNPRINTABLE.search(text):
            raise ValueError("has a blank or a control character in it; remove it, or write it as %20")
        if _BROKEN_ESCAPE.search(text):
            raise ValueError("has a % that is not followed by two hexadecimal digits; write % itself as %25")
        scheme, mark, rest = text.partition("://")
        if not mark or not _SCHEME.fullmatch(scheme):
            raise ValueError("is not a URL; it looks like scheme://host:port")
        authority, tail = _split(rest)
        if "@" in tail and scheme != "unix":
            raise ValueError(f"has a character in its user or password that ends the address; {_ENCODE}")
        login, _, address = authority.rpartition("@")
        if any(mark in login for mark in "@[]"):
            raise ValueError(f"has a character in its user or password that must be encoded; {_ENCODE}")
        user, _, password = login.partition(":")
        url.scheme, url.user, url.password = scheme.lower(), unquote(user), unquote(password)
        path, _, url.query = tail.partition("#")[0].partition("?")
        url.path = unquote(path)
        url.host, url.port = _address(address)
        if not url.host and url.scheme != "unix" and "host" not in url.options:
            raise ValueError("names no host; write it behind ://")
        return url

    @property
    def options(self) -> dict[str, str]:
        """The parameters of the query, decoded; the last value of a repeated one."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    @property
    def netloc_host(self) -> str:
        """The host as in a URL: an IPv6 address in brackets."""
        return bracketed(self.host)

    @property
    def holds_secret(self) -> bool:
        """True if the URL contains a password, a secret in the query, or a NATS token."""
        token = self.scheme in _WITH_TOKENS and self.user != ""
        return self.password != "" or token or bool(_SECRET_IN_QUERY.search(self.query))


class Schemes:
    """Annotation that restricts a `Url` setting to these schemes."""

    def __init__(self, *names: str) -> None:
        self._pattern = f"^({'|'.join(names)})://"

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.str_schema(min_length=1, max_length=4096, pattern=self._pattern)
        return core_schema.no_info_after_validator_function(Url, text)


def _split(rest: str) -> tuple[str, str]:
    """Split before the first / ? or #."""
    end = min((place for mark in "/?#" if (place := rest.find(mark)) >= 0), default=len(rest))
    return rest[:end], rest[end:]


def _address(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise ValueError("has an IPv6 address whose brackets do not match; write [2001:db8::1]:6379")
        try:
            IPv6Address(host.partition("%")[0])
        except ValueError:
            raise ValueError("has something in brackets that is not an IPv6 address") from None
        return host.lower(), _port(port.removeprefix(":"))
    if "," in text:
        raise ValueError("names several hosts; write one")
    if text.count(":") > 1:
        raise ValueError(
            "has several colons in its address; write an IPv6 address in brackets, as in [2001:db8::1]:6379"
        )
    host, _, port = text.partition(":")
    if any(mark in host for mark in "[]\"'<>\\^`{|}"):
        raise ValueError("has a character in its host that is not allowed there")
    return host.lower(), _port(port)


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise ValueError(f"has a port that is not a number from 1 to 65535; {_ENCODE}")
    return int(text)


def bracketed(host: str) -> str:
    """A host as a URL has it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def holds_secret(text: str) -> bool:
    """True if the text of a URL contains a secret, even if it cannot be parsed."""
    try:
        return Url(text).holds_secret
    except ValueError:
        scheme, _, rest = text.partition("://")
        login, at, _ = rest.rpartition("@")
        return (at != "" and (":" in login or scheme in _WITH_TOKENS)) or bool(_SECRET_IN_QUERY.search(text))


__all__ = ["Schemes", "Url", "bracketed", "holds_secret"]
