"""Expectations of Valkey, PostgreSQL and the load balancer, as they run and in their files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from shlex import quote

from arqonbus.deploy.drift.certificates import certificate
from arqonbus.deploy.drift.deployment import Deployment
from arqonbus.deploy.drift.hosts import belongs, only, runs
from arqonbus.deploy.drift.judges import MISSING, NOTHING, same_lines, same_lines_by, same_values
from arqonbus.deploy.drift.model import Expectation, Judge, Machine

VALKEY_CONF = "/etc/valkey/valkey.conf"
USERS = "/etc/valkey/users.acl"
OPERATOR = "/etc/arqonbus/valkey-operator"
# Where the profile leaves it to a URL, as that of compose does.
ROLE = "arqonbus"
POSTGRES_DIRECTORY = "/etc/postgresql/17/main/conf.d"
# What acked events depend on, beside what the files say.
KEPT = {"data_checksums": "on", "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
# SHA-256 of nothing: stands for the password that only the host knows.
_UNKNOWN = "#e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_SAID_ANYWAY = frozenset(("reset", "sanitize-payload", "resetchannels", "resetkeys"))
_AS_OPERATOR = (
    f"REDISCLI_AUTH=$(cat {OPERATOR}) "
    "valkey-cli -t 5 -s /run/valkey/valkey.sock --user operator --no-auth-warning"
)
_IN_CONTAINER = (
    'REDISCLI_AUTH=$(tr -d "\\n" <"$VALKEY_PASSWORD_FILE") valkey-cli -s /run/valkey/valkey.sock -t 5'
    " --user arqonbus --no-auth-warning"
)
_PSQL = 'PGCONNECT_TIMEOUT=5 {psql} -XAtqc "{query}"'
_ATTRIBUTES = """
SELECT concat_ws(' ', rolname,
  CASE WHEN rolcanlogin THEN 'LOGIN' END,
  CASE WHEN rolsuper THEN 'SUPERUSER' END,
  CASE WHEN rolcreatedb THEN 'CREATEDB' END,
  CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
  CASE WHEN rolreplication THEN 'REPLICATION' END,
  CASE WHEN rolbypassrls THEN 'BYPASSRLS' END)
FROM pg_roles
WHERE rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls OR rolname IN ({ours})"""
_MEMBERSHIPS = """
SELECT member.rolname || ' in ' || role.rolname
FROM pg_auth_members
JOIN pg_roles member ON member.oid = pg_auth_members.member
JOIN pg_roles role ON role.oid = pg_auth_members.roleid
WHERE member.rolname IN ({ours})"""
_SETTINGS = """
SELECT lower(name) || '=' || current_setting(name)
FROM pg_settings
WHERE lower(name) IN ({names})"""
_OVERRIDES = (
    "SELECT name || ' by ' || sourcefile FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf' "
    "UNION ALL SELECT unnest(setconfig) || ' for a role or a database' FROM pg_db_role_setting"
)


# -- Valkey


def on_a_valkey_host(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    """Expectations of a host of Valkey."""
    site = deployment.rollout("site")
    yield runs("valkey-server.service", machine)
    yield belongs(USERS, "root", "valkey", "0640", site)
    yield belongs(OPERATOR, "root", "root", "0400", site)
    declared = _directives(machine, VALKEY_CONF)
    if declared:
        yield valkey_runs(declared, _AS_OPERATOR, lambda found: _set_again(declared, found, machine))
    if machine.users:
        load = machine.type_on(_as_operator("ACL LOAD"))
        digest = f"echo operator=$(sha256sum <{OPERATOR} | cut -d ' ' -f 1)"
        yield Expectation("ARQ-DRF-031", USERS, f"{digest}; cat {USERS}", _users(machine.users), site)
        yield Expectation(
            "ARQ-DRF-031", "ACL", f"{digest}; {_AS_OPERATOR} ACL LIST", _users(machine.users), load
        )
    if machine.authority is not None:
        name, port = deployment.settings.datastores.valkey.address
        yield from certificate(
            "/etc/valkey/tls/server.pem",
            "valkey",
            machine.authority,
            (name, machine.name),
            f"{machine.address}:{port}",
            site,
        )


def _as_operator(command: str) -> str:
    """For a shell of root on the host, past that of the login."""
    client = _AS_OPERATOR.replace("$", "\\$")
    return f'sh -c "{client} {command}"'


def _set_again(declared: Mapping[str, str], found: str, machine: Machine) -> str:
    """Without an interruption; where Valkey does not answer there is none to fear."""
    name = found.partition(" ")[0]
    if name not in declared:
        return machine.type_on("systemctl restart valkey-server")
    value = quote(declared[name].strip('"'))
    return machine.type_on(_as_operator(f"CONFIG SET {name} {value}"))


def valkey_runs(declared: Mapping[str, str], client: str, mend: str | Callable[[str], str]) -> Expectation:
    """Valkey itself says its settings; CONFIG SET leaves no trace in a file."""
    asked = f"{client} --json CONFIG GET {' '.join(declared)}"
    return Expectation("ARQ-DRF-030", "CONFIG", asked, _config(declared), mend)


def in_a_valkey_container(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    """Expectations of compose's container. Its memory limit is in docker-compose.yml."""
    text = (deployment.tree / "images" / "valkey" / "valkey.conf").read_text("utf-8")
    declared = {name: value for name, value in directives(text).items() if name != "bind"}
    settings = deployment.settings
    declared["appendfsync"] = "always" if settings.storage.durability == "durable" else "everysec"
    if settings.datastores.valkey.encrypted:
        declared |= {"port": "0", "tls-port": declared["port"]}
    yield valkey_runs(declared, _IN_CONTAINER, f"docker restart {machine.name}")


def directives(text: str) -> dict[str, str]:
    """The lines of a configuration of Valkey; the last word on a name holds."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return {name: value.strip() for name, _, value in pairs}


def _directives(machine: Machine, path: str) -> dict[str, str]:
    return directives("".join(file.content for file in machine.files if file.path == path))


def _config(declared: Mapping[str, str]) -> Judge:
    def judge(answer: str) -> Iterator[tuple[str, str]]:
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            yield "an answer of Valkey", answer.strip().splitlines()[0] if answer.strip() else NOTHING
            return
        yield from same_values(declared)("\n".join(f"{name}={value}" for name, value in found.items()))

    return judge


def _users(expected: str) -> Judge:
    """Users by name with the set of their rules; hashes of passwords are not shown."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        first, _, rest = answer.partition("\n")
        operator = f"#{first.removeprefix('operator=')}"
        wanted, found = _rules(expected.replace(_UNKNOWN, operator)), _rules(rest)
        for name in sorted(wanted.keys() | found.keys()):
            if name not in found:
                yield f"user {name}", MISSING
            elif name not in wanted:
                yield NOTHING, f"user {name} with {_shown(found[name])}"
            elif wanted[name] != found[name]:
                less, more = wanted[name] - found[name], found[name] - wanted[name]
                yield f"{name}: {_shown(less)}", f"{name}: {_shown(more)}"

    return judge


def _rules(text: str) -> dict[str, set[str]]:
    lines = (line.split() for line in text.splitlines())
    return {words[1]: set(words[2:]) - _SAID_ANYWAY for words in lines if words[:1] == ["user"]}


def _shown(rules: set[str]) -> str:
    return " ".join(sorted({"a password" if rule.startswith("#") else rule for rule in rules})) or NOTHING


# -- PostgreSQL


def on_a_postgres_host(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    """Expectations of a host of PostgreSQL."""
    yield runs("postgresql@17-main.service", machine)
    rendered = {file.path: file.content for file in machine.files}
    psql, site = "runuser -u postgres -- psql", deployment.rollout("site")
    if text := rendered.get(f"{POSTGRES_DIRECTORY}/arqonbus.conf"):
        yield only(POSTGRES_DIRECTORY, {f"{POSTGRES_DIRECTORY}/arqonbus.conf"}, machine)
        reload = machine.type_on("systemctl restart postgresql@17-main")
        yield from postgres_runs(deployment, text, psql, machine, reload)
    if machine.authority is not None:
        store = deployment.settings.datastores.postgres
        yield from certificate(
            "/etc/postgresql/tls/server.pem",
            "postgres",
            machine.authority,
            (store.host or machine.name, machine.name),
            f"{machine.address}:{store.port}",
            site,
            protocol="-starttls postgres",
        )


def in_a_postgres_container(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    """Expectations of compose's container."""
    text = (deployment.tree / "images" / "postgres" / "arqonbus.conf").read_text("utf-8")
    if deployment.settings.datastores.valkey.encrypted:  # compose encrypts both stores, or none
        text += "ssl = on\nhba_file = '/run/postgresql/pg_hba.conf'\n"
    psql = "psql --host /run/postgresql --username postgres"
    yield from postgres_runs(deployment, text, psql, machine, f"docker restart {machine.name}")


def postgres_runs(
    deployment: Deployment, text: str, psql: str, machine: Machine, restart: str
) -> Iterator[Expectation]:
    """PostgreSQL itself says its settings, what overrides them, and who may do what."""
    declared = {**parameters(text), **KEPT}
    names = ", ".join(f"'{name}'" for name in declared)
    yield Expectation(
        "ARQ-DRF-041",
        "settings",
        _asked(psql, _SETTINGS.format(names=names)),
        same_values(declared),
        restart,
    )
    reset = machine.type_on(f'{psql} -c "ALTER SYSTEM RESET ALL" -c "SELECT pg_reload_conf()"')
    yield Expectation("ARQ-DRF-040", "ALTER SYSTEM", _asked(psql, _OVERRIDES), same_lines(()), reset)
    role = deployment.settings.datastores.postgres.user or ROLE
    site = deployment.rollout("site")
    ours = ", ".join(f"'{each}'" for each in (role, "arqonbus_writer", "arqonbus_reader"))
    expected = {f"{role} LOGIN", "arqonbus_writer", "arqonbus_reader", f"{role} in arqonbus_writer"}
    yield Expectation(
        "ARQ-DRF-042",
        "roles",
        "; ".join(_asked(psql, query.format(ours=ours)) for query in (_ATTRIBUTES, _MEMBERSHIPS)),
        _roles(expected),
        lambda found: site if found == MISSING else machine.type_on(f'{psql} -c "{_less(found)}"'),
    )


def _less(found: str) -> str:
    """The statement that takes away what was found."""
    role, _, granted = found.partition(" in ")
    if granted:
        return f"REVOKE {granted} FROM {role}"
    return f"ALTER ROLE {found.split()[0]} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"


def parameters(text: str) -> dict[str, str]:
    """The lines of a configuration of PostgreSQL; the last word on a name holds."""
    return dict(re.findall(r"^(\w+)\s*=\s*(.*)$", text, re.MULTILINE))


def _asked(psql: str, query: str) -> str:
    return _PSQL.format(psql=psql, query=query)


def _roles(expected: set[str]) -> Judge:
    """The superuser that the server was made with is there anyway."""

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        lines = [line for line in answer.splitlines() if line.split()[:1] != ["postgres"]]
        yield from same_lines_by(_role, expected)("\n".join(lines))

    return judge


def _role(line: str) -> str:
    """Attributes of a role, and each of its memberships, are separate questions."""
    return line if " in " in line else line.split()[0]


# -- load balancer


def on_an_edge_host(deployment: Deployment, machine: Machine) -> Iterator[Expectation]:
    """Expectations of the host of the load balancer."""
    yield runs("haproxy.service", machine)
    expected = {f"{name} {address} 0" for name, address in machine.nodes.items()}
    yield Expectation(
        "ARQ-DRF-050",
        "backend bus",
        "echo 'show servers state bus' | socat -t 5 - UNIX-CONNECT:/run/haproxy/admin.sock"
        " | awk '$2 == \"bus\" { print $4, $5, $7 }'",
        _nodes(expected),
        machine.type_on("systemctl reload haproxy"),
    )


def _nodes(expected: set[str]) -> Judge:
    """Name, address, and whether it is in."""

    def shown(line: str) -> str:
        name, _, rest = line.partition(" ")
        address, _, state = rest.partition(" ")
        return f"{name} at {address}, {'in' if state == '0' else f'taken out ({state})'}" if rest else line

    def judge(answer: str) -> Iterator[tuple[str, str]]:
        for wanted, found in same_lines_by(lambda line: line.split()[0], expected)(answer):
            yield (
                (wanted if wanted == NOTHING else shown(wanted)),
                (found if found == MISSING else shown(found)),
            )

    return judge


__all__ = [
    "directives",
    "in_a_postgres_container",
    "in_a_valkey_container",
    "on_a_postgres_host",
    "on_a_valkey_host",
    "on_an_edge_host",
    "parameters",
]
