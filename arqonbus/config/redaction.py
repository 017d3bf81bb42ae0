"""Redaction of secrets in settings and in free text.

Pure. All output of settings and errors uses this module.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr

from arqonbus.config.field import MASK, Secrecy
from arqonbus.config.findings import Path
from arqonbus.config.secrets import Reference
from arqonbus.config.settings import Settings
from arqonbus.config.tree import leaves, secrecy_at

# In free text a URL ends at white space or a quote; the first part of a password may contain quotes.
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):[^\s@]*@(?:[^\s\"'<>@]*@)*")
_URL_TOKEN = re.compile(r"(?<=\bnats://)[^\s/@:]+@")
_QUERY_SECRET = re.compile(r"(?i)([?&;][\w.-]*(?:passw|pwd|secret|token)[\w.-]*=)[^&;#\s\"'<>]*")
_USER = re.compile(r"[\w.%+~-]*")
# Schemes in which the part before @ is a user; in NATS it may be a token.
_WITH_USERS = ("valkey", "valkeys", "redis", "rediss", "unix", "postgres", "postgresql")
_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)


def redact_value(value: Any, secrecy: Secrecy) -> Any:
    """Redact a value. A reference names only the source of a secret and is shown."""
    if isinstance(value, Reference):
        return str(value)
    if value is None or secrecy == "no":
        return value
    return _redact_url(value) if secrecy == "url" and isinstance(value, str) else MASK


def _redact_url(url: str) -> str:
    """Redact a URL, even a malformed one: anything that may be a password counts as one."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return MASK
    head, at, tail = rest.rpartition("@")
    user, colon, _ = head.partition(":")
    if not _USER.fullmatch(user) or (at and not colon and scheme not in _WITH_USERS):
        user = MASK
    head = f"{user}:{MASK}" if colon else user
    return _QUERY_SECRET.sub(rf"\1{MASK}", f"{scheme}://{head}{at}{tail}")


def _url_secrets(url: str) -> Iterator[str]:
    """The secrets in a URL, both encoded and decoded."""
    scheme, mark, rest = url.partition("://")
    head, at, _ = rest.rpartition("@")
    user, colon, password = head.partition(":")
    found = [password if colon else user if scheme not in _WITH_USERS else ""] if mark and at else []
    found += [match[0].removeprefix(match[1]) for match in _QUERY_SECRET.finditer(url)]
    for secret in found:
        yield from (secret, unquote(secret))


def redact_at(path: Path, value: Any) -> Any:
    """Redact a value of a layer by the secrecy of its setting."""
    if isinstance(value, Mapping):
        return {key: redact_at((*path, key), inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [redact_at((*path, index), inner) for index, inner in enumerate(value)]
    return redact_value(value, secrecy_at(path))


def redacted(settings: Settings) -> dict[str, Any]:
    """All settings as plain JSON values, secrets masked. A missing secret is null, not a mask."""
    plain = settings.model_dump(mode="json", by_alias=True)
    for path, leaf in leaves().items():
        if leaf.secrecy != "no":
            holder = plain
            for part in path[:-1]:
                holder = holder[part]
            holder[path[-1]] = redact_value(holder[path[-1]], leaf.secrecy)
    return plain


def digest(settings: Settings) -> str:
    """SHA-256 of the redacted settings as canonical JSON; independent of the values of secrets."""
    text = json.dumps(redacted(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Redactor:
    """Masks in free text the secrets of one profile and everything that looks like a secret."""

    def __init__(self, settings: Settings) -> None:
        # Longest first, so that a secret that contains another one is masked as a whole.
        self._secrets = sorted({secret for secret in _secrets(settings) if len(secret) >= 4}, key=len)[::-1]

    def text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        text = _PEM.sub(MASK, text)
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
        text = _URL_TOKEN.sub(f"{MASK}@", text)
        text = _QUERY_SECRET.sub(rf"\1{MASK}", text)
        return _TOKEN.sub(MASK, text)


def _secrets(model: BaseModel) -> Iterator[str]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from _secrets(value)
        elif isinstance(value, str):
            yield from _url_secrets(value)


__all__ = ["MASK", "Redactor", "digest", "redact_at", "redact_value", "redacted"]
