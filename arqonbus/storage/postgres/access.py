"""One connection to Postgres as the profile describes it, and its failures as sentences.

No message from here holds a password.
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

# A plan for batches of any size is made for ten rows, and takes a million steps for a batch of a thousand.
# Compiling plans takes longer than any of them runs.
_PLANNING = {"plan_cache_mode": "force_custom_plan", "jit": "off"}
# A transaction of ours is idle only where its process hangs or its connection was given up half-way.
_BOUNDS = {"idle_in_transaction_session_timeout": "15s"}

if TYPE_CHECKING:  # generic for the type checker only
    Connection = asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection
    Pool = asyncpg.Pool


class PostgresUnavailable(StorageError):
    """No connection. Nothing was changed."""


async def connect(store: Postgres, *, application: str, seconds: float = CONNECT_SECONDS) -> Connection:
    """Connect. Raises PostgresUnavailable with what to do."""
    dsn, options = _options(store, application)
    try:
        return await asyncpg.connect(dsn, timeout=seconds, **options)
    except _FAILURES as error:
        raise PostgresUnavailable(_sentence(store, error)) from error


async def open_pool(
    store: Postgres, *, application: str, role: str, seconds: float = CONNECT_SECONDS
) -> Pool:
    """Connections that work as a role, at most as many as the profile says. Raises PostgresUnavailable."""
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
        return None  # the URL says it, and asyncpg reads that
    mode = store.sslmode
    if mode == "disable":
        return False
    if mode == "prefer" or (mode == "require" and store.ca_file is None):
        return mode
    # libpq, too, verifies the chain under `require` as soon as an authority is named.
    context = ssl.create_default_context(cafile=str(store.ca_file) if store.ca_file else None)
    context.check_hostname = mode == "verify-full"
    return context


def _sentence(store: Postgres, error: Exception) -> str:
    where, role = place(store), login(store)[0] or "of this user"
    database = store.database_name or "its default"
    match error:
        case asyncpg.InvalidPasswordError():
            return (
                f"{where} refuses the password of the role {role}. If its data is older than the password, "
                "the role still has the first one: put that back, or give it the new one with ALTER ROLE."
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
    """Where the store is, for sentences."""
    host, port = store.address
    return f"Postgres at {host or 'the default socket'}:{port}"


__all__ = ["CONNECT_SECONDS", "Connection", "Pool", "PostgresUnavailable", "connect", "open_pool", "place"]
