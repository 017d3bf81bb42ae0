"""Hosts that drift: each drift is made for real, named, and mended by what was printed about it.

All of them at once, as they come together over a year, in the deployment that is there.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from arqonbus.deploy.drift.asking import to_type
from arqonbus.deploy.drift.comparison import compare, look
from arqonbus.deploy.drift.deployment import Deployment
from arqonbus.deploy.drift.model import Difference, Machine
from tests.infra.hosts import BUS, DATA, ENVIRONMENT, PLAY_SECONDS, PUBLIC, Hosts
from tests.runbooks.host import program
from tests.runbooks.runbook import RUNBOOKS, parse
from tests.servers.certificates import signed_anew

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), pytest.mark.xdist_group("rollout")]

FIRST, SECOND = BUS
SITE, DEPLOY = f"scripts/rollout site {ENVIRONMENT}", f"scripts/rollout deploy {ENVIRONMENT}"
RECEIPT = "/var/lib/arqonbus/1/receipt.json"
CODE = "/opt/arqonbus/current/lib/python3.13/site-packages"
PSQL = "cd /; runuser -u postgres -- psql -qc"
VALKEY = (
    "REDISCLI_AUTH=$(cat /etc/arqonbus/valkey-operator) valkey-cli -e -s /run/valkey/valkey.sock "
    "--user operator --no-auth-warning"
)


@dataclass(frozen=True)
class Seed:
    """What somebody did to a host, and the words by which it is found.

    What is not mended by what is printed, but with an interruption or by a person, has an `undo`.
    """

    check: str
    host: str
    script: str
    subject: str
    found: str
    undo: str = ""


SEEDS = [
    Seed(
        "ARQ-DRF-001",
        DATA,
        "sed -i 's/retries 3/retries 9/' /etc/haproxy/haproxy.cfg",
        "haproxy.cfg",
        "retries 9",
    ),
    Seed(
        "ARQ-DRF-001",
        FIRST,
        f"sed -i 's/drain_seconds: 4/drain_seconds: 5/' /etc/arqonbus/profiles/{ENVIRONMENT}/profile.yaml",
        "profile.yaml",
        "drain_seconds: 5",
    ),
    Seed(
        "ARQ-DRF-001",
        SECOND,
        "sed -i 's/TasksMax=256/TasksMax=512/' /etc/systemd/system/arqonbus@.service",
        "arqonbus@.service",
        "TasksMax=512",
    ),
    Seed(
        "ARQ-DRF-001", SECOND, "echo '# mine' >>/etc/sysctl.d/60-arqonbus.conf", "60-arqonbus.conf", "# mine"
    ),
    Seed("ARQ-DRF-002", FIRST, "chmod 0666 /etc/arqonbus/local.yaml", "local.yaml", "root:root 0666"),
    Seed(
        "ARQ-DRF-002", FIRST, "chown nobody /usr/local/bin/arqonbus", "/usr/local/bin/arqonbus", "nobody:root"
    ),
    Seed("ARQ-DRF-002", SECOND, "chgrp users /etc/arqonbus/tls/server.key", "server.key", "root:users 0640"),
    Seed(
        "ARQ-DRF-003",
        FIRST,
        "printf '[Service]\\nLimitNOFILE=64\\n' >'/etc/systemd/system/arqonbus@.service.d/override.conf'; "
        "systemctl daemon-reload",
        "arqonbus@.service.d",
        "override.conf",
    ),
    Seed(
        "ARQ-DRF-003",
        SECOND,
        f"touch /etc/arqonbus/profiles/{ENVIRONMENT}/mine.yaml",
        "profiles",
        "mine.yaml",
    ),
    Seed("ARQ-DRF-003", DATA, "touch /etc/postgresql/17/main/conf.d/zz.conf", "conf.d", "zz.conf"),
    Seed("ARQ-DRF-003", SECOND, "touch /etc/arqonbus/credentials/spare", "credentials", "spare"),
    Seed(
        "ARQ-DRF-004",
        FIRST,
        "chmod 0644 /etc/arqonbus/credentials/jwt_secret",
        "jwt_secret",
        "root:root 0644",
    ),
    Seed(
        "ARQ-DRF-004",
        SECOND,
        "echo another >/etc/arqonbus/credentials/postgres_password",
        "postgres_password",
        "another one",
    ),
    Seed(
        "ARQ-DRF-005",
        FIRST,
        "systemd-run --quiet --unit foreign python3 -m http.server 8099; "
        "until ss -ltn | grep -q :8099; do sleep 0.1; done",
        "sockets",
        "0.0.0.0:8099 (python3)",
        undo="systemctl stop foreign",
    ),
    Seed(
        "ARQ-DRF-006", FIRST, "systemctl stop arqonbus-backup.timer", "backup.timer", "ActiveState inactive"
    ),
    Seed("ARQ-DRF-006", SECOND, "systemctl stop arqonbus-projector", "projector", "ActiveState inactive"),
    Seed(
        "ARQ-DRF-006",
        SECOND,
        "systemctl disable arqonbus-drill.timer",
        "drill.timer",
        "UnitFileState disabled",
    ),
    Seed(
        "ARQ-DRF-007",
        SECOND,
        "systemctl set-property --runtime arqonbus@1.service TasksMax=64",
        "arqonbus@1.service",
        "TasksMax 64",
    ),
    Seed(
        "ARQ-DRF-008",
        DATA,
        "rm -f /run/mended; systemd-run --quiet --unit broken test -e /run/mended; "
        "until systemctl is-failed --quiet broken; do sleep 0.1; done; touch /run/mended",
        "units",
        "broken.service",
    ),
    Seed(
        "ARQ-DRF-009",
        DATA,
        "echo vm.overcommit_memory=0 >/etc/sysctl.d/99-local.conf",
        "sysctl.d",
        "vm.overcommit_memory 0 by /etc/sysctl.d/99-local.conf",
    ),
    Seed(
        "ARQ-DRF-010",
        FIRST,
        "nft add rule inet arqonbus input tcp dport 8099 accept",
        "table inet arqonbus",
        "tcp dport 8099 accept",
    ),
    Seed("ARQ-DRF-011", FIRST, "gpasswd --add deploy arqonbus", "group arqonbus", "deploy"),
    Seed("ARQ-DRF-012", DATA, "systemctl disable systemd-timesyncd", "systemd-timesyncd", "enabled disabled"),
    Seed(
        "ARQ-DRF-013",
        DATA,
        f"echo '192.0.2.9 {PUBLIC}' >>/etc/hosts",
        "/etc/hosts",
        "192.0.2.9",
    ),
    Seed(
        "ARQ-DRF-020",
        SECOND,
        'ln -s "$(readlink -f /opt/arqonbus/current)" /opt/arqonbus/releases/0.0.9; '
        "ln -sfn releases/0.0.9 /opt/arqonbus/current",
        "current",
        "releases/0.0.9",
        undo="cd /opt/arqonbus/releases && test -L 0.0.9 && "
        'ln -sfn "releases/$(basename "$(readlink 0.0.9)")" ../current && rm 0.0.9',
    ),
    Seed(
        "ARQ-DRF-021",
        SECOND,
        f"sed -i.true 's/^Version: .*/Version: 0.1/' {CODE}/idna-*.dist-info/METADATA",
        "releases",
        "idna 0.1",
        undo=f"cd {CODE}/idna-*.dist-info && mv METADATA.true METADATA",
    ),
    Seed(
        "ARQ-DRF-021",
        FIRST,
        f"sed -i.true '1i # mine' {CODE}/arqonbus/cli/status.py",
        "releases",
        "changed arqonbus/cli/status.py",
        undo=f"cd {CODE}/arqonbus/cli && mv status.py.true status.py",
    ),
    Seed(
        "ARQ-DRF-023",
        FIRST,
        f"mv {RECEIPT} {RECEIPT}.true",
        RECEIPT,
        "none that can be read",
        undo=f"mv {RECEIPT}.true {RECEIPT}",
    ),
    Seed(
        "ARQ-DRF-023",
        SECOND,
        f'sed -i.true \'s/"at": [0-9]*/"at": 1000000000/\' {RECEIPT}',
        RECEIPT,
        "hours before it",
        undo=f"mv {RECEIPT}.true {RECEIPT}",
    ),
    Seed(
        "ARQ-DRF-024",
        DATA,
        "cd /etc/valkey/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        "-days 400 -subj /CN=mallory -keyout /dev/null -out server.pem 2>/dev/null",
        "valkey/tls/server.pem",
        "issued by CN=mallory",
    ),
    Seed("ARQ-DRF-024", DATA, "", "postgresql/tls/server.pem", "ended "),
    Seed(
        "ARQ-DRF-030",
        DATA,
        f"{VALKEY} CONFIG SET maxmemory-policy allkeys-lru",
        "CONFIG",
        "maxmemory-policy allkeys-lru",
    ),
    Seed("ARQ-DRF-031", DATA, f"{VALKEY} ACL SETUSER arqonbus +flushall", "ACL", "arqonbus: +flushall"),
    Seed("ARQ-DRF-031", DATA, f"{VALKEY} ACL SETUSER mallory on nopass", "ACL", "user mallory"),
    Seed(
        "ARQ-DRF-041",
        DATA,
        f"{PSQL} 'ALTER SYSTEM SET synchronous_commit = off'; {PSQL} 'SELECT pg_reload_conf()' >/dev/null; "
        f"until {PSQL} 'SHOW synchronous_commit' | grep -q off; do sleep 0.1; done",
        "settings",
        "synchronous_commit off",
    ),
    Seed("ARQ-DRF-040", DATA, "", "ALTER SYSTEM", "synchronous_commit by"),
    Seed(
        "ARQ-DRF-042",
        DATA,
        f"{PSQL} 'GRANT pg_read_all_data TO arqonbus'",
        "roles",
        "arqonbus in pg_read_all_data",
    ),
    Seed("ARQ-DRF-042", DATA, f"{PSQL} 'ALTER ROLE arqonbus CREATEDB'", "roles", "arqonbus LOGIN CREATEDB"),
    Seed(
        "ARQ-DRF-050",
        DATA,
        f"echo 'set server bus/{SECOND} state maint' | socat - UNIX-CONNECT:/run/haproxy/admin.sock",
        "backend bus",
        f"{SECOND} at",
    ),
    Seed(
        "ARQ-DRF-060",
        DATA,
        "sed -i 's/:9101/:9191/' /etc/prometheus/prometheus.yml; systemctl reload prometheus",
        "Prometheus",
        f"arqonbus of {FIRST} down",
    ),
    Seed(
        "ARQ-DRF-006",
        SECOND,
        "systemctl disable --now systemd-journal-upload",
        "systemd-journal-upload",
        "inactive",
    ),
]


def named(seed: Seed, differences: list[Difference]) -> list[Difference]:
    """The differences that tell of a seed."""
    return [
        each
        for each in differences
        if (each.check, each.host) == (seed.check, seed.host)
        and seed.subject in each.subject
        and seed.found in each.found
    ]


@pytest.fixture
def drifted(deployment: Hosts) -> Iterator[Hosts]:
    """The hosts after all of it."""
    expire(deployment)
    for name in (*BUS, DATA):
        deployment.sh(name, "\n".join(f"( {seed.script or ':'} )" for seed in SEEDS if seed.host == name))
    yield deployment
    undo(deployment)


def undo(hosts: Hosts) -> None:
    """What is mended by a person, or with an interruption. Once is enough; again changes nothing."""
    for name in (*BUS, DATA):
        hosts.sh(
            name, "\n".join(f"( {seed.undo} ) || :" for seed in SEEDS if seed.host == name and seed.undo)
        )


def expire(hosts: Hosts) -> None:
    """Let the certificate of PostgreSQL end, which is not loaded yet, and that of the authority itself."""
    place, authority = "/etc/postgresql/tls/server.pem", hosts.authority / "ca.pem"
    key, yesterday = hosts.authority / "ca.key", datetime.now(UTC) - timedelta(days=1)
    ended = signed_anew(hosts.sh(DATA, f"cat {place}"), key, yesterday)
    hosts.sh(DATA, f"cat >{place} <<'END'\n{ended}END")
    authority.write_text(signed_anew(authority.read_text(), key, yesterday))


def test_every_drift_is_named_and_mended_by_what_is_printed(
    drifted: Hosts, declared: Deployment, machines: list[Machine]
) -> None:
    """From the runbook: it is found, what it prints is typed, the rest is rolled out, and nothing is left."""
    runbook = parse((RUNBOOKS / "operations" / "drift.md").read_text("utf-8"))
    environ = drifted.environ()
    for command in (each for each in runbook.commands if each.section == "Diagnose"):
        drifted.refuse_secrets(command.run(drifted.clone, environ, seconds=PLAY_SECONDS))

    found = [each for looked in compare(declared, machines) for each in looked.differences]
    assert [seed for seed in SEEDS if not named(seed, found)] == []
    by_hand = {each for seed in SEEDS if seed.undo for each in named(seed, found)}
    typed = to_type([each for each in found if each not in by_hand], SITE, DEPLOY)
    rollout = typed.index(SITE)
    type_at_hosts(drifted, typed[:rollout])
    for command in (each for each in runbook.commands if each.section == "Mitigate"):
        drifted.refuse_secrets(command.run(drifted.clone, environ, seconds=PLAY_SECONDS))
    type_at_hosts(drifted, typed[rollout + 1 :])
    undo(drifted)
    for command in (each for each in runbook.commands if each.section == "Verify"):
        drifted.refuse_secrets(command.run(drifted.clone, environ, seconds=PLAY_SECONDS))
    authority = x509.load_pem_x509_certificate((drifted.authority / "ca.pem").read_bytes())
    assert authority.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3000)


def type_at_hosts(hosts: Hosts, commands: list[str]) -> None:
    """Type commands as an operator does, whose ssh knows these hosts."""
    program(hosts.directory / "bin" / "ssh", f'#!/bin/sh\nexec /usr/bin/ssh -F {hosts.ssh_config} "$@"\n')
    environ = hosts.environ()
    done = subprocess.run(
        ["bash", "-eux", "-c", "\n".join(commands)],
        cwd=hosts.clone,
        env=environ | {"PATH": f"{hosts.directory / 'bin'}:{environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PLAY_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_host_that_is_away_is_away_and_has_not_drifted(
    deployment: Hosts, declared: Deployment, machines: list[Machine]
) -> None:
    """Frozen, so that not even its end of the connection says anything."""
    [machine] = [machine for machine in machines if machine.name == SECOND]
    deployment.container(SECOND).pause()
    try:
        looked = look(
            declared, dataclasses.replace(machine, arguments=f"{machine.arguments} -o ConnectTimeout=2")
        )
    finally:
        deployment.container(SECOND).unpause()
    assert looked.reason
    assert looked.differences == ()
