"""The one redactor: what people may see of a profile, and of any text in which a secret could stand.

Pure. Everything that shows settings or errors goes through here, so that there is one place to be right.
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

# In free text a URL ends at white space or a quote; the first part of a password may still hold quotes.
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):[^\s@]*@(?:[^\s\"'<>@]*@)*")
_URL_TOKEN = re.compile(r"(?<=\bnats://)[^\s/@:]+@")
_QUERY_SECRET = re.compile(r"(?i)([?&;][\w.-]*(?:passw|pwd|secret|token)[\w.-]*=)[^&;#\s\"'<>]*")
_USER = re.compile(r"[\w.%+~-]*")
# The part before @ is a user without a password, and no token as in NATS.
_WITH_USERS = ("valkey", "valkeys", "redis", "rediss", "unix", "postgres", "postgresql")
_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)


def redact_value(value: Any, secrecy: Secrecy) -> Any:
    """A value as it may be shown. A reference says where a secret is, so it is shown."""
    if isinstance(value, Reference):
        return str(value)
    if value is None or secrecy == "no":
        return value
    return _redact_url(value) if secrecy == "url" and isinstance(value, str) else MASK


def _redact_url(url: str) -> str:
    """A whole URL, which somebody may have written badly: what may be a password counts as one."""
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
    """What is masked in a URL, as it stands there and as it is meant."""
    scheme, mark, rest = url.partition("://")
    head, at, _ = rest.rpartition("@")
    user, colon, password = head.partition(":")
    found = [password if colon else user if scheme not in _WITH_USERS else ""] if mark and at else []
    found += [match[0].removeprefix(match[1]) for match in _QUERY_SECRET.finditer(url)]
    for secret in found:
        yield from (secret, unquote(secret))


def redact_at(path: Path, value: Any) -> Any:
    """A value of a layer as it may be shown, judged by the setting that it belongs to."""
    if isinstance(value, Mapping):
        return {key: redact_at((*path, key), inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [redact_at((*path, index), inner) for index, inner in enumerate(value)]
    return redact_value(value, secrecy_at(path))


def redacted(settings: Settings) -> dict[str, Any]:
    """The whole tree as plain JSON values, secrets masked. A missing secret is null, not a mask."""
    plain = settings.model_dump(mode="json", by_alias=True)
    for path, leaf in leaves().items():
        if leaf.secrecy != "no":
            holder = plain
            for part in path[:-1]:
                holder = holder[part]
            holder[path[-1]] = redact_value(holder[path[-1]], leaf.secrecy)
    return plain


def digest(settings: Settings) -> str:
    """SHA-256 of the redacted tree as canonical JSON: equal for equal settings, whatever their secrets."""
    text = json.dumps(redacted(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Redactor:
    """Masks the secrets of one profile, and what looks like a secret anywhere, in free text."""

    def __init__(self, settings: Settings) -> None:
        # Longest first: a secret that contains another one must not be left in halves.
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
