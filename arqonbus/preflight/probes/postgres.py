"""Query Postgres for role, version, settings and schema, and test a write. Writes one temporary table."""

from __future__ import annotations

import asyncio
import ssl
import time

import asyncpg

from arqonbus.config.stores import Postgres
from arqonbus.preflight.facts import FailureKind, PostgresAnswers, ProbeFailure
from arqonbus.preflight.probes.reach import ProbedServer, Unusable, Way, failure_of, opened, wrong_protocol
from arqonbus.storage.ports import StorageError
from arqonbus.storage.postgres import migrate
from arqonbus.storage.postgres.access import Connection, PostgresUnavailable, connect

_SECTION = "datastores.postgres"
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # 8, 80877103: PostgreSQL 17 documentation, 53.7
_SETTINGS = (
    "fsync", "full_page_writes", "synchronous_commit", "max_connections", "superuser_reserved_connections",
    "reserved_connections", "data_checksums", "password_encryption",
)  # fmt: skip
_FACTS = """
SELECT current_user::text AS role,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       pg_encoding_to_char((SELECT encoding FROM pg_database WHERE datname = current_database())) AS encoding,
       pg_is_in_recovery() AS recovering,
       coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted,
       (SELECT count(*) FROM pg_stat_activity)::int AS connections,
       extract(epoch FROM clock_timestamp())::float8 AS clock
"""


async def ask_postgres(store: Postgres, seconds: float) -> PostgresAnswers:
    """Query the server of the profile. Never raises for a fault of the server."""
    host, port = store.address
    server = ProbedServer("Postgres", _SECTION, host or "localhost", port)
    asking = _PostgresProbe(store, server, seconds)
    try:
        async with asyncio.timeout(seconds):
            return await asking.answers()
    except Unusable as error:
        return PostgresAnswers(where=server.where, failure=error.failure)
    except TimeoutError as error:
        failure = failure_of(error, server, asking.way)
        return PostgresAnswers(where=server.where, failure=failure)


class _PostgresProbe:
    """One query of the server."""

    def __init__(self, store: Postgres, server: ProbedServer, seconds: float) -> None:
        self._store = store
        self._server = server
        self._seconds = seconds
        self.way = Way()

    async def answers(self) -> PostgresAnswers:
        await self._first_words()
        try:
            connection = await connect(self._store, application="arqonbus preflight", seconds=self._seconds)
        except PostgresUnavailable as error:
            raise Unusable(self._refusal(error)) from error
        try:
            return await self._questions(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            failure = self._server.failure("other", f"answers with an error: {error}", "psql -c 'select 1'")
            raise Unusable(failure) from error
        finally:
            connection.terminate()

    async def _first_words(self) -> None:
        """Send SSLRequest: the one-byte answer shows whether this is Postgres."""
        async with opened(self._server, None, self.way) as (reader, writer):
            writer.write(_SSL_REQUEST)
            letter = await reader.read(5)
        if not letter:
            raise Unusable(failure_of(EOFError(), self._server, self.way))
        if letter[:1] not in (b"S", b"N") or len(letter) > 1:
            raise Unusable(wrong_protocol(self._server, letter))
        if letter == b"N" and self._store.sslmode not in ("disable", "prefer"):
            raise Unusable(
                self._server.failure(
                    "no_tls",
                    f"does not speak TLS, and sslmode is {self._store.sslmode}",
                    'psql -c "ALTER SYSTEM SET ssl = on"   # on the server',
                )
            )

    def _refusal(self, error: PostgresUnavailable) -> ProbeFailure:
        cause = error.__cause__
        if isinstance(cause, (ssl.SSLError, TimeoutError)):
            return failure_of(cause, self._server, self.way)
        kinds: tuple[tuple[type[Exception], FailureKind], ...] = (
            (asyncpg.InvalidPasswordError, "wrong_password"),
            (asyncpg.InvalidAuthorizationSpecificationError, "wrong_password"),
            (asyncpg.InvalidCatalogNameError, "no_database"),
            (asyncpg.CannotConnectNowError, "not_ready"),
            (asyncpg.TooManyConnectionsError, "full"),
        )
        found: list[FailureKind] = [kind for each, kind in kinds if isinstance(cause, each)]
        kind: FailureKind = found[0] if found else "other"
        return ProbeFailure(kind=kind, text=str(error).rstrip("."), fix=_REFUSALS.get(kind, ()))

    async def _questions(self, connection: Connection) -> PostgresAnswers:
        before = time.time()
        row = await connection.fetchrow(_FACTS)
        assert row is not None
        middle = (before + time.time()) / 2
        named = await connection.fetch(
            "SELECT name, setting FROM pg_settings WHERE name = ANY($1)", list(_SETTINGS)
        )
        problem, milliseconds = await self._probe(connection)
        pending, contract, refused = await self._schema()
        version = connection.get_server_version()
        return PostgresAnswers(
            where=self._server.where,
            version=version.major * 10_000 + version.minor,
            encrypted=row["encrypted"],
            role=row["role"],
            superuser=row["superuser"],
            may_create=row["may_create"],
            settings={each["name"]: each["setting"] for each in named},
            encoding=row["encoding"],
            recovering=row["recovering"],
            connections=row["connections"],
            clock_ahead=round(row["clock"] - middle, 1),
            pending=pending,
            pending_contract=contract,
            refused=refused,
            probe_problem=problem,
            probe_ms=milliseconds,
        )

    async def _probe(self, connection: Connection) -> tuple[str, float | None]:
        began = time.perf_counter()
        try:
            async with connection.transaction():
                await connection.execute("CREATE TEMP TABLE arqonbus_preflight (n int) ON COMMIT DROP")
                await connection.execute("INSERT INTO arqonbus_preflight VALUES (42)")
                back = await connection.fetchval("SELECT n FROM arqonbus_preflight")
        except asyncpg.PostgresError as error:
            return f"a write is refused: {error}", None
        milliseconds = (time.perf_counter() - began) * 1000
        return ("" if back == 42 else "it returned a different value than was written"), milliseconds

    async def _schema(self) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        try:
            steps = await migrate.plan(self._store)
        except migrate.MigrationRefused as error:
            return (), (), str(error).rstrip(".")
        except StorageError as error:
            return (), (), f"the schema cannot be read: {str(error).rstrip('.')}"
        contract = [str(step) for step in steps if step.phase == "contract"]
        return tuple(map(str, steps)), tuple(contract), ""


_REFUSALS: dict[FailureKind, tuple[str, ...]] = {
    "wrong_password": (
        f"$EDITOR FILE   # {_SECTION}: user, and the secret that password refers to",
        "psql -c \"ALTER ROLE arqonbus PASSWORD '…'\"   # on the server",
    ),
    "no_database": ("createdb --owner arqonbus arqonbus   # on the server",),
    "not_ready": ("pg_isready -h HOST",),
    "full": ("psql -c 'SELECT usename, count(*) FROM pg_stat_activity GROUP BY 1'",),
}

__all__ = ["ask_postgres"]
