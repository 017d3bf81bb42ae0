"""Migration of a Postgres database to the schema of this version, one step at a time.

Each step and its row in the ledger are one transaction, so that a step is done or not done, whatever fails.
One runner works at a time: an advisory lock on a separate connection lets others wait, and the ledger, locked
in each step, excludes them even if that connection is lost. There are no downgrades: a database that is ahead
of this version, or whose migrations were changed, is refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from arqonbus import __version__
from arqonbus.config.stores import Postgres
from arqonbus.storage.ports import StorageError
from arqonbus.storage.postgres.access import Connection, connect, place
from arqonbus.storage.postgres.migrations.steps import (
    Applied,
    MigrationRefused,
    Step,
    StepPosition,
    compare,
    own_steps,
    pending,
)

# An arbitrary number that nothing else uses: the letters "arqonbus".
LOCK_KEY = int.from_bytes(b"arqonbus", "big")

_LEDGER = "arqonbus_ledger.migrations"
_CREATE_LEDGER = f"""
CREATE SCHEMA IF NOT EXISTS arqonbus_ledger;
CREATE TABLE IF NOT EXISTS {_LEDGER} (
    number      integer PRIMARY KEY CHECK (number > 0),
    name        text NOT NULL,
    checksum    text NOT NULL,
    phase       text,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seconds     double precision NOT NULL,
    version     text NOT NULL,
    role        text NOT NULL DEFAULT session_user
);
"""


class Patience(NamedTuple):
    """Timeouts in seconds: for another runner, for a lock in a step, for one statement of a step."""

    runner: float = 300.0
    lock: float = 5.0
    statement: float = 60.0


class MigrationFailed(StorageError):
    """A step failed and was rolled back as a whole; earlier steps stay applied."""


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was just applied."""

    step: Step
    seconds: float


async def status(store: Postgres, steps: Sequence[Step] | None = None) -> Sequence[StepPosition]:
    """Compare the database with the steps. Changes nothing. Raises StorageError."""
    async with _connection(store) as connection:
        return compare(_steps(steps), await _ledger(connection))


async def plan(store: Postgres, steps: Sequence[Step] | None = None) -> Sequence[Step]:
    """The steps that `apply` would run. Changes nothing. Raises StorageError, MigrationRefused as `apply`."""
    async with _connection(store) as connection:
        return pending(_steps(steps), await _ledger(connection))


async def apply(
    store: Postgres,
    steps: Sequence[Step] | None = None,
    *,
    patience: Patience | None = None,
    on_done: Callable[[Done], None] = lambda _: None,
) -> Sequence[Done]:
    """Apply every pending step, and call `on_done` after each commit.

    Raises StorageError: MigrationRefused before anything was changed, MigrationFailed in a step.
    """
    wanted, patience = _steps(steps), patience or Patience()
    done: list[Done] = []
    async with _connection(store) as guard, _connection(store) as worker:
        await _take_lock(store, guard, patience.runner)
        await _create_ledger(store, worker)
        for step in pending(wanted, await _ledger(worker)):
            taken = await _take(worker, step, patience)
            done.append(taken)
            on_done(taken)
    return done


def _steps(steps: Sequence[Step] | None) -> Sequence[Step]:
    return own_steps() if steps is None else steps


@asynccontextmanager
async def _connection(store: Postgres) -> AsyncIterator[Connection]:
    connection = await connect(store, application=f"arqonbus migrate {__version__}")
    try:
        yield connection
    except (asyncpg.InterfaceError, OSError, asyncpg.AdminShutdownError) as error:
        raise MigrationFailed(
            f"The connection to {place(store)} was lost ({error}). A step that was under way is "
            "rolled back, or it is done and in the ledger; run the same command again."
        ) from error
    finally:
        # close() would wait for the running statement after a cancellation.
        connection.terminate()


async def _ledger(connection: Connection) -> Sequence[Applied]:
    if await connection.fetchval("SELECT to_regclass($1)", _LEDGER) is None:
        return []
    rows = await connection.fetch(
        f"SELECT number, name, checksum, applied_at, version FROM {_LEDGER} ORDER BY number"  # noqa: S608
    )
    return [Applied(*row) for row in rows]


async def _take_lock(store: Postgres, guard: Connection, seconds: float) -> None:
    await guard.execute("SELECT set_config('lock_timeout', $1, false)", _milliseconds(seconds))
    try:
        await guard.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
    except asyncpg.LockNotAvailableError as error:
        raise MigrationFailed(
            f"Another `arqonbus migrate` has been running in {place(store)} for {seconds:g} s. "
            "This one changed nothing."
        ) from error


async def _create_ledger(store: Postgres, worker: Connection) -> None:
    if await worker.fetchval("SELECT to_regclass($1)", _LEDGER) is not None:
        return
    try:
        await worker.execute(_CREATE_LEDGER)
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationFailed(
            f"The role of datastores.postgres may not create schemas in {place(store)} ({error}). "
            "Make it the owner of the database, or grant it CREATE on the database."
        ) from error


async def _take(worker: Connection, step: Step, patience: Patience) -> Done:
    began = time.perf_counter()
    try:
        async with worker.transaction():
            await _set_limits(worker, patience)
            # A runner that lost its advisory lock may still be in this step: wait for it, then check again.
            await worker.execute(f"LOCK TABLE {_LEDGER} IN EXCLUSIVE MODE")
            last = await worker.fetchval(f"SELECT coalesce(max(number), 0) FROM {_LEDGER}")  # noqa: S608
            if last != step.number - 1:
                raise MigrationFailed(
                    f"The database moved to {last:04} while {step} was about to be applied: another runner "
                    "is at work. Nothing was changed by this one; run the same command again."
                )
            transaction = await worker.fetchval("SELECT pg_current_xact_id()::text")
            await worker.execute(step.sql)
            if await worker.fetchval("SELECT pg_current_xact_id()::text") != transaction:
                raise MigrationFailed(
                    f"The migration {step} ends its own transaction, so it can be half done. Take COMMIT and "
                    "ROLLBACK out of the file, and restore the database from before."
                )
            seconds = time.perf_counter() - began
            await worker.execute(
                f"INSERT INTO {_LEDGER} (number, name, checksum, phase, seconds, version) "  # noqa: S608
                "VALUES ($1, $2, $3, $4, $5, $6)",
                step.number,
                step.name,
                step.checksum,
                step.phase,
                seconds,
                __version__,
            )
    except asyncpg.LockNotAvailableError as error:
        raise MigrationFailed(
            f"The migration {step} waited {patience.lock:g} s for a lock that another session holds. It was "
            "rolled back; run the same command again when that session's transaction has ended."
        ) from error
    except asyncpg.QueryCanceledError as error:
        raise MigrationFailed(
            f"The migration {step} was cancelled ({error}) and rolled back. One statement may take "
            f"{patience.statement:g} s; give it more with --statement-timeout."
        ) from error
    except asyncpg.AdminShutdownError:
        raise  # the connection is lost, and with it the step: reported by _connection
    except asyncpg.PostgresError as error:
        raise MigrationFailed(f"The migration {step} failed and was rolled back: {error}") from error
    return Done(step, time.perf_counter() - began)


async def _set_limits(worker: Connection, patience: Patience) -> None:
    # The last one lets the server notice within a second that this process was killed, and roll back.
    for name, value in (
        ("lock_timeout", _milliseconds(patience.lock)),
        ("statement_timeout", _milliseconds(patience.statement)),
        ("client_connection_check_interval", "1000"),
    ):
        await worker.execute("SELECT set_config($1, $2, true)", name, value)


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


__all__ = [
    "LOCK_KEY",
    "Done",
    "MigrationFailed",
    "MigrationRefused",
    "Patience",
    "apply",
    "own_steps",
    "plan",
    "status",
]
