"""The keys that Continuum's agents may have in Valkey for coordination, built here and nowhere else. Pure.

Three families, each below its tenant: presence and rate limits of an agent, and a cache of an episode that
always ends by itself. No episode bodies, ever: a cache holds references and small derived values.
"""

from __future__ import annotations

from arqonbus.protocol.ids import is_ulid
from arqonbus.protocol.names import is_name

MAX_CACHE_SECONDS = 15 * 60
MAX_CACHE_BYTES = 4096

# For an ACL: what a user of Continuum's may touch in one tenant, and nothing else.
FAMILIES = (
    "tenant:{tenant}:agent:*:presence:*",
    "tenant:{tenant}:agent:*:rate_limit:*",
    "tenant:{tenant}:episode:*:cache:*",
)


class ForbiddenKey(ValueError):
    """A part of a key that could reach beyond its family, or a cache without an end."""


def presence(tenant: str, agent: str, name: str) -> str:
    """`tenant:{t}:agent:{a}:presence:{name}`."""
    return f"{_agent(tenant, agent)}:presence:{_part('name', name)}"


def rate_limit(tenant: str, agent: str, name: str) -> str:
    """`tenant:{t}:agent:{a}:rate_limit:{name}`."""
    return f"{_agent(tenant, agent)}:rate_limit:{_part('name', name)}"


def cache(tenant: str, episode: str, name: str) -> str:
    """`tenant:{t}:episode:{e}:cache:{name}`; written with `cache_seconds` only."""
    if not is_ulid(episode):
        raise ForbiddenKey("the episode is no ULID")
    return f"tenant:{_part('tenant', tenant)}:episode:{episode}:cache:{_part('name', name)}"


def cache_seconds(seconds: int, value: bytes) -> int:
    """The time that a cached value may live. Raises ForbiddenKey for one that is too long, or a body."""
    if not 0 < seconds <= MAX_CACHE_SECONDS:
        raise ForbiddenKey(f"a cache of an episode lives 1 to {MAX_CACHE_SECONDS} s, not {seconds}")
    if len(value) > MAX_CACHE_BYTES:
        raise ForbiddenKey(f"a cached value has {MAX_CACHE_BYTES} bytes at most; episodes are not kept here")
    return seconds


def acl_rules(tenant: str) -> str:
    """The rules of a Valkey user that is confined to the families of one tenant."""
    patterns = " ".join(f"~{family.format(tenant=_part('tenant', tenant))}" for family in FAMILIES)
    return (
        f"resetkeys resetchannels {patterns} -@all +get +set +del +expire +pexpire +ttl +incrby +hello +ping"
    )


def _agent(tenant: str, agent: str) -> str:
    return f"tenant:{_part('tenant', tenant)}:agent:{_part('agent', agent)}"


def _part(what: str, text: str) -> str:
    if not is_name(text):
        raise ForbiddenKey(f"the {what} is no name; write 1-128 of A-Z a-z 0-9 . _ -")
    return text


__all__ = [
    "FAMILIES",
    "MAX_CACHE_SECONDS",
    "ForbiddenKey",
    "acl_rules",
    "cache",
    "cache_seconds",
    "presence",
    "rate_limit",
]
