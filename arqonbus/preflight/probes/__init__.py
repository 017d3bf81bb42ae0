"""Asks the servers that a profile names, all at once, each within a deadline. A file per server."""

from __future__ import annotations

import asyncio

from arqonbus.config import Settings
from arqonbus.preflight.facts import NatsAnswers, PostgresAnswers, ValkeyAnswers

DEADLINE = 3.5

Answers = tuple[ValkeyAnswers | None, PostgresAnswers | None, NatsAnswers | None]


async def ask(settings: Settings, seconds: float = DEADLINE) -> Answers:
    """What the configured servers say. None: not configured. No server can make this fail."""
    return await asyncio.gather(
        _valkey(settings, seconds), _postgres(settings, seconds), _nats(settings, seconds)
    )


# Each library is loaded when its server is configured, not before: asyncpg alone takes as long as all
# static checks.


async def _valkey(settings: Settings, seconds: float) -> ValkeyAnswers | None:
    if not settings.datastores.valkey.configured:
        return None
    from arqonbus.preflight.probes.valkey import ask_valkey

    return await ask_valkey(settings.datastores.valkey, seconds)


async def _postgres(settings: Settings, seconds: float) -> PostgresAnswers | None:
    if not settings.datastores.postgres.configured:
        return None
    from arqonbus.preflight.probes.postgres import ask_postgres

    return await ask_postgres(settings.datastores.postgres, seconds)


async def _nats(settings: Settings, seconds: float) -> NatsAnswers | None:
    if settings.datastores.nats.url is None:
        return None
    from arqonbus.preflight.probes.nats import ask_nats

    return await ask_nats(settings.datastores.nats, seconds, settings.bridge)


__all__ = ["DEADLINE", "ask"]
