"""Facts of a profile that every kind of deployment needs: secrets, files, seconds, words. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from arqonbus.config import Resolved, Settings
from arqonbus.config.secrets import Reference
from arqonbus.config.tree import leaves

HTTPS = 443
# After the drain: what was acked is on its way to the stores before the process is killed.
STOP_MARGIN_SECONDS = 15

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OUTER_LAYERS = {"secrets", "environment"}


class Unrenderable(Exception):
    """A profile that a tool cannot be told about; the message is a sentence."""


def references(resolved: Resolved) -> Iterator[tuple[str, Reference]]:
    """Key and reference of every secret that the files of the profile refer to."""
    for path, leaf in leaves().items():
        given = [each for each in resolved.provenance.given(path) if each.location.layer not in _OUTER_LAYERS]
        if given and isinstance(given[0].value, Reference):
            yield leaf.key, given[0].value


def credentials(resolved: Resolved) -> list[str]:
    """The names of the credentials that the profile wants, each once."""
    return sorted({found.target[0] for _, found in references(resolved) if found.origin == "credential"})


def stop_seconds(settings: Settings) -> int:
    """Time that the bus has to end."""
    return math.ceil(settings.server.drain_seconds) + STOP_MARGIN_SECONDS


def idle_seconds(settings: Settings) -> int:
    """Seconds without traffic after which a load balancer may close a connection.

    Twice the time in which the bus finds a dead connection, so that the bus is always the first to notice.
    """
    return math.ceil(2 * (settings.limits.ping_interval + settings.limits.ping_timeout))


def public_address(settings: Settings) -> tuple[str, int]:
    """Name and port under which clients reach the deployment; no name where the profile has none."""
    url = settings.server.public_url
    return (url.host, url.port or HTTPS) if url else ("", HTTPS)


def heading(resolved: Resolved, target: str, file: str) -> list[str]:
    """The first line of a generated file: the command that generates it."""
    profile = word(resolved.profile)
    return [f"# Generated: arqonbus profile render {target} --profile {profile} --out {file}"]


def word(text: str) -> str:
    """A name as it may stand in any file. Raises Unrenderable for one with marks of another language."""
    if not _NAME.fullmatch(text):
        raise Unrenderable(f"{text!r} cannot be written to the file; use A-Z a-z 0-9 . _ - only")
    return text


def path_word(path: Path) -> str:
    """A path as it may stand in any file. Raises Unrenderable."""
    if not all(_NAME.fullmatch(part) for part in path.parts if part != "/"):
        raise Unrenderable(f"state_dir {str(path)!r} cannot be written; use A-Z a-z 0-9 . _ - only")
    return str(path)


__all__ = [
    "Unrenderable",
    "credentials",
    "heading",
    "idle_seconds",
    "path_word",
    "public_address",
    "references",
    "stop_seconds",
    "word",
]
