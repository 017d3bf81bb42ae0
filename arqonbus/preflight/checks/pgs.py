"""PGS: version, schema, settings, permissions and latency of the Postgres server."""

from __future__ import annotations

from arqonbus.preflight.facts import PostgresAnswers
from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
    WARNING_EVERYWHERE,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    Remark,
    failed,
    passed,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check

LEAST_VERSION = 15
SLOW_MS, TOO_SLOW_MS = 50.0, 250.0

_FIRST = "ARQ-PGS-001"
_STORE = "datastores.postgres"


def _answers(context: Context) -> PostgresAnswers:
    if context.facts is None or context.facts.postgres is None:
        raise LookupError("Postgres was not queried")
    return context.facts.postgres


def not_asked(context: Context) -> str:
    """Reason why Postgres was not queried; empty if it was."""
    if not context.settings.datastores.postgres.configured:
        return "no Postgres is configured"
    if context.facts is None or context.facts.postgres is None:
        return "Postgres was not queried"
    return ""


@check(
    _FIRST,
    "Postgres is reachable and accepts the credentials",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Without Postgres, the durable record cannot be written.",
    fix=("psql 'host=HOST user=arqonbus dbname=arqonbus sslmode=verify-full' -c 'select 1'",),
    reads=(_STORE,),
    tags=("reach",),
)
def answers(context: Context) -> Outcome:
    because = not_asked(context)
    if because:
        return skipped(because)
    said = _answers(context)
    key = f"{_STORE}.url" if context.settings.datastores.postgres.url else f"{_STORE}.host"
    if said.failure is not None:
        return failed(
            Remark(said.failure.text, (key,)), expected="a reachable Postgres server", fix=said.failure.fix
        )
    return passed(said.probe_ms)


@check(
    "ARQ-PGS-002",
    "The connection to Postgres is encrypted",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="Without TLS, the durable record can be read on the network.",
    fix=("$EDITOR FILE   # datastores: {postgres: {sslmode: verify-full}}", "psql -c 'show ssl'"),
    reads=(_STORE,),
    requires=(_FIRST,),
    tags=("encryption",),
)
def is_encrypted(context: Context) -> Outcome:
    remarks = [Remark("the connection does not use TLS", (f"{_STORE}.sslmode",))]
    return verdict([] if _answers(context).encrypted else remarks, expected="TLS")


@check(
    "ARQ-PGS-003",
    "The Postgres version is supported",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="The schema uses features that older versions lack.",
    fix=("psql -c 'select version()'", "pg_upgradecluster VERSION main"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def is_new_enough(context: Context) -> Outcome:
    major = _answers(context).version // 10_000
    return verdict(
        [f"Postgres is version {major}"] if major < LEAST_VERSION else [],
        expected=f"{LEAST_VERSION} or newer",
    )


@check(
    "ARQ-PGS-004",
    "The Postgres role of the bus is not a superuser",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="With a superuser, a fault in the bus could affect every database and the files of the server.",
    fix=("psql -c 'ALTER ROLE arqonbus NOSUPERUSER'",),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def role_is_ordinary(context: Context) -> Outcome:
    said = _answers(context)
    remarks = [Remark(f"{said.role} is a superuser", (f"{_STORE}.user",))] if said.superuser else []
    return verdict(remarks, expected="an ordinary role that owns its database")


@check(
    "ARQ-PGS-005",
    "No migration is pending",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="The bus would write to tables and columns that do not exist yet.",
    fix=("arqonbus migrate plan --profile PROFILE", "arqonbus migrate apply --profile PROFILE"),
    reads=(_STORE,),
    requires=(_FIRST, "ARQ-PGS-006"),
    tags=("upgrade",),
)
def schema_is_current(context: Context) -> Outcome:
    pending = _answers(context).pending
    return verdict(
        [f"pending migrations: {', '.join(pending)}"] if pending else [], expected="no pending migration"
    )


@check(
    "ARQ-PGS-006",
    "The schema is not newer than this version",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A newer version migrated this database, or a migration was changed; writes could damage data.",
    fix=("arqonbus migrate status --profile PROFILE", "arqonbus --version   # run the newer version"),
    reads=(_STORE,),
    requires=(_FIRST,),
    tags=("upgrade",),
)
def schema_is_not_newer(context: Context) -> Outcome:
    refused = _answers(context).refused
    return verdict([refused] if refused else [], expected="a schema of this version or an earlier one")


@check(
    "ARQ-PGS-007",
    "fsync, full_page_writes and synchronous_commit are on",
    phase=Phase.ONLINE,
    severity=OUTSIDE_DEV,
    why="With one of them off, a crash of the server loses or damages durable messages.",
    fix=('psql -c "ALTER SYSTEM SET fsync = on"', "psql -c 'SELECT pg_reload_conf()'"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def keeps_commits(context: Context) -> Outcome:
    settings = _answers(context).settings
    names = ("fsync", "full_page_writes", "synchronous_commit")
    off = [name for name in names if settings.get(name) == "off"]
    fix = [f"psql -c 'ALTER SYSTEM SET {name} = on'" for name in off]
    return verdict(
        [f"{name} is off" for name in off], expected="on", fix=[*fix, "psql -c 'SELECT pg_reload_conf()'"]
    )


@check(
    "ARQ-PGS-008",
    "max_connections covers the pools of all workers",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Otherwise connections are refused when the load is highest.",
    fix=("psql -c 'SHOW max_connections'", "$EDITOR FILE   # datastores: {postgres: {pool: {max: 10}}}"),
    reads=("datastores.postgres", "server.workers"),
    requires=(_FIRST,),
)
def has_connections(context: Context) -> Outcome:
    settings = _answers(context).settings
    most = int(settings.get("max_connections", "0"))
    reserved = int(settings.get("superuser_reserved_connections", "0"))
    reserved += int(settings.get("reserved_connections", "0"))
    pool, workers = context.settings.datastores.postgres.pool.max, context.settings.server.workers
    if not most or pool * workers <= most - reserved:
        return passed()
    text = f"{workers} × {pool} connections are needed and {most - reserved} are available"
    return failed(Remark(text, (f"{_STORE}.pool.max",)), expected="pools that fit max_connections")


@check(
    "ARQ-PGS-009",
    "The database encoding is UTF8",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Other encodings cannot store all text, so some writes would fail.",
    fix=("createdb --encoding UTF8 --template template0 --owner arqonbus arqonbus",),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def is_unicode(context: Context) -> Outcome:
    encoding = _answers(context).encoding
    return verdict([f"the encoding is {encoding}"] if encoding != "UTF8" else [], expected="UTF8")


@check(
    "ARQ-PGS-010",
    "Postgres is a writable primary",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="A standby, or a role without permissions, answers queries but refuses writes.",
    fix=("psql -c 'SELECT pg_is_in_recovery()'", "psql -c 'GRANT CREATE ON DATABASE arqonbus TO arqonbus'"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def stores(context: Context) -> Outcome:
    said = _answers(context)
    remarks = ["the server is a standby"] if said.recovering else []
    if said.probe_problem and not said.recovering:
        remarks.append(said.probe_problem)
    if not said.may_create:
        remarks.append(f"the role {said.role} may not create schemas in the database")
    return verdict(remarks, expected="a primary, and a role that owns its database")


@check(
    "ARQ-PGS-011",
    f"Postgres answers within {SLOW_MS:g} ms",
    phase=Phase.ONLINE,
    severity=WARNING_EVERYWHERE,
    why="Every durable write waits for Postgres.",
    fix=("psql -c 'SELECT * FROM pg_stat_activity WHERE state <> $$idle$$'",),
    reads=(_STORE,),
    requires=(_FIRST, "ARQ-PGS-010"),
    tags=("latency",),
)
def is_quick(context: Context) -> Outcome:
    return _within(_answers(context).probe_ms, SLOW_MS)


@check(
    "ARQ-PGS-012",
    f"Postgres answers within {TOO_SLOW_MS:g} ms",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="Writes arrive faster than they complete.",
    fix=("psql -c 'SELECT * FROM pg_stat_activity WHERE state <> $$idle$$'",),
    reads=(_STORE,),
    requires=(_FIRST, "ARQ-PGS-010"),
    tags=("latency",),
)
def is_usable(context: Context) -> Outcome:
    return _within(_answers(context).probe_ms, TOO_SLOW_MS)


def _within(milliseconds: float | None, bound: float) -> Outcome:
    if milliseconds is None:
        return skipped("nothing was measured")
    if milliseconds <= bound:
        return passed(milliseconds)
    text = f"writing and reading a row took {milliseconds:.1f} ms"
    return failed(text, expected=f"at most {bound:g} ms", latency_ms=milliseconds)


@check(
    "ARQ-PGS-013",
    "The clocks of Postgres and this host differ by at most 1 s",
    phase=Phase.ONLINE,
    severity=WARNING_EVERYWHERE,
    why="Retention, token expiry and the order of the audit log compare times of both.",
    fix=("timedatectl", "systemctl restart systemd-timesyncd"),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def clocks_agree(context: Context) -> Outcome:
    ahead = _answers(context).clock_ahead
    text = f"the clock of Postgres is {abs(ahead):.1f} s {'ahead' if ahead > 0 else 'behind'}"
    return verdict([text] if abs(ahead) > 1 else [], expected="a difference of at most 1 s")


@check(
    "ARQ-PGS-014",
    "data_checksums is on, and password_encryption is scram-sha-256",
    phase=Phase.ONLINE,
    severity=WARNING_OUTSIDE_DEV,
    why="Without checksums, disk damage can reach the backups unnoticed; md5 hashes can be replayed.",
    fix=(
        "pg_checksums --enable -D DATA   # while the server is stopped",
        "ALTER SYSTEM SET password_encryption = 'scram-sha-256'",
    ),
    reads=(_STORE,),
    requires=(_FIRST,),
)
def guards_its_data(context: Context) -> Outcome:
    settings = _answers(context).settings
    remarks = []
    if settings.get("data_checksums") == "off":
        remarks.append("data_checksums is off")
    if settings.get("password_encryption") == "md5":
        remarks.append("password_encryption is md5")
    return verdict(remarks, expected="data_checksums on, password_encryption scram-sha-256")
