"""Query the servers of a profile in parallel, each within a deadline. One module per server."""

from __future__ import annotations

import asyncio

from arqonbus.config import Settings
from arqonbus.preflight.facts import NatsAnswers, PostgresAnswers, ValkeyAnswers

DEADLINE = 3.5

Answers = tuple[ValkeyAnswers | None, PostgresAnswers | None, NatsAnswers | None]


async def ask(settings: Settings, seconds: float = DEADLINE) -> Answers:
    """Query the configured servers; None for one that is not configured. Never raises for a server."""
    return await asyncio.gather(
        _valkey(settings, seconds), _postgres(settings, seconds), _nats(settings, seconds)
    )


# Each library is imported only if its server is configured: asyncpg alone takes as long as all static checks.


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
