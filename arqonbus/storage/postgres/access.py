"""Connections to Postgres as the profile describes them, with readable error messages.

No message contains a password.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Literal

import asyncpg

from arqonbus.config.stores import Postgres, login
from arqonbus.config.url import Url
from arqonbus.storage.ports import StorageError

CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 60.0
_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError, TimeoutError)

# A generic plan assumes ten rows and takes a million steps for a batch of a thousand. JIT compilation takes
# longer than any of these plans runs.
_PLANNING = {"plan_cache_mode": "force_custom_plan", "jit": "off"}
# A transaction is idle only if its process hangs or its connection was abandoned half-way.
_BOUNDS = {"idle_in_transaction_session_timeout": "15s"}

if TYPE_CHECKING:  # generic for the type checker only
    Connection = asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection
    Pool = asyncpg.Pool


class PostgresUnavailable(StorageError):
    """Postgres cannot be connected to. Nothing was changed."""


async def connect(store: Postgres, *, application: str, seconds: float = CONNECT_SECONDS) -> Connection:
    """Connect. Raises PostgresUnavailable, whose message names the remedy."""
    dsn, options = _options(store, application)
    try:
        return await asyncpg.connect(dsn, timeout=seconds, **options)
    except _FAILURES as error:
        raise PostgresUnavailable(_sentence(store, error)) from error


async def open_pool(
    store: Postgres, *, application: str, role: str, seconds: float = CONNECT_SECONDS
) -> Pool:
    """Open a pool of connections with a role, sized by the profile. Raises PostgresUnavailable."""
    dsn, options = _options(store, application)
    options["server_settings"] |= {"role": role, **_PLANNING, **_BOUNDS}
    try:
        return await asyncpg.create_pool(
            dsn,
            min_size=min(store.pool.min, store.pool.max),
            max_size=store.pool.max,
            timeout=seconds,
            command_timeout=COMMAND_SECONDS,
            **options,
        )
    except _FAILURES as error:
        raise PostgresUnavailable(_sentence(store, error)) from error


def _options(store: Postgres, application: str) -> tuple[Url, dict[str, Any]]:
    dsn = store.dsn()
    if dsn is None:
        raise PostgresUnavailable(
            "No Postgres is configured; set datastores.postgres.url, or ARQONBUS_POSTGRES_URL."
        )
    return dsn, {
        "user": store.user,
        "password": store.password.get_secret_value() if store.password else None,
        "ssl": _ssl(store, dsn),
        "server_settings": {"application_name": application},
    }


def _ssl(store: Postgres, dsn: Url) -> ssl.SSLContext | Literal["prefer", "require"] | bool | None:
    if "sslmode" in dsn.options:
        return None  # asyncpg reads it from the URL
    mode = store.sslmode
    if mode == "disable":
        return False
    if mode == "prefer" or (mode == "require" and store.ca_file is None):
        return mode
    # Like libpq, verify the chain under `require` if a CA is set.
    context = ssl.create_default_context(cafile=str(store.ca_file) if store.ca_file else None)
    context.check_hostname = mode == "verify-full"
    return context


def _sentence(store: Postgres, error: Exception) -> str:
    where, role = place(store), login(store)[0] or "of this user"
    database = store.database_name or "its default"
    match error:
        case asyncpg.InvalidPasswordError():
            return (
                f"{where} refuses the password of the role {role}. If the database was created with another "
                "password, the role still has that one: restore it, or set the new one with ALTER ROLE."
            )
        case asyncpg.InvalidAuthorizationSpecificationError():
            return (
                f"{where} does not let the role {role} in ({error}). Check the role, and pg_hba.conf there."
            )
        case asyncpg.InvalidCatalogNameError():
            return f"{where} has no database {database}; create it, with {role} as its owner."
        case asyncpg.CannotConnectNowError():
            return f"{where} is not ready ({error}); try again when it is."
        case asyncpg.TooManyConnectionsError():
            return f"{where} has no connection left; raise max_connections there, or lower the pools."
        case asyncpg.PostgresError():
            return f"{where} refuses the connection: {error}"
        case ssl.SSLError():
            return (
                f"{where} does not pass the TLS check ({error}); see datastores.postgres.sslmode and ca_file."
            )
        case TimeoutError():
            return f"{where} did not answer in time; check that it runs and that this host may reach it."
        case OSError():
            reason = error.strerror or str(error)
            return (
                f"{where} cannot be reached ({reason}); check that it runs and that this host may reach it."
            )
        case _:
            return f"The connection to {where} cannot be made: {error}"


def place(store: Postgres) -> str:
    """Address of the store, for messages."""
    host, port = store.address
    return f"Postgres at {host or 'the default socket'}:{port}"


__all__ = ["CONNECT_SECONDS", "Connection", "Pool", "PostgresUnavailable", "connect", "open_pool", "place"]
