"""What hosts are, compared with what the profile says: looked at over ssh, nothing retyped.

Runs against the deployment of this directory before anything else happens to it.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from arqonbus.config.capacity import open_files
from arqonbus.ops.needs import credentials
from arqonbus.ops.render import render
from arqonbus.ops.units import CREDENTIALS, PROFILES
from tests.infra.hosts import BUS, DATA, PUBLIC, Hosts

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), pytest.mark.xdist_group("rollout")]

UNIT = "arqonbus@1"
EXPOSURE = 1.5
SSH = 22


def declared_sockets(hosts: Hosts, name: str) -> set[tuple[str, int]]:
    """What a host is to listen on, beside ssh."""
    settings, address = hosts.profile().settings, hosts.address(name)
    if name in BUS:
        return {(settings.server.host, settings.server.port), (address, settings.telemetry.port)}
    public = urlsplit(settings.server.public_url or "").port or 443
    valkey = urlsplit(settings.datastores.valkey.url or "").port
    assert valkey is not None
    return {(address, public), (address, valkey), (address, settings.datastores.postgres.port)}


def listening(hosts: Hosts, name: str) -> Iterator[tuple[str, int]]:
    """What it listens on. The engine's own name server in a container is not the host's."""
    said = hosts.host(name).check_output("ss --no-header --listening --tcp --udp --numeric")
    for line in said.splitlines():
        address, _, port = line.split()[4].rpartition(":")
        if address != "127.0.0.11" and int(port) != SSH:
            yield address, int(port)


@pytest.mark.parametrize("name", [*BUS, DATA])
def test_hosts_listen_on_what_is_declared_and_on_nothing_else(deployment: Hosts, name: str) -> None:
    """The set of sockets, not only that some are there."""
    assert set(listening(deployment, name)) == declared_sockets(deployment, name)


@pytest.mark.parametrize("name", BUS)
def test_the_process_is_the_declared_one(deployment: Hosts, name: str) -> None:
    """Its user, no capability, no way to gain one, its open files; enabled, active, and of the release."""
    host = deployment.host(name)
    service = host.service(UNIT)
    assert service.is_running
    assert service.is_enabled
    pid = int(host.check_output(f"systemctl show --property MainPID --value {UNIT}"))
    status = dict(
        line.split(":\t", 1)
        for line in host.check_output(f"cat /proc/{pid}/status").splitlines()
        if ":\t" in line
    )
    assert {int(status[key], 16) for key in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert host.user("arqonbus").uid == int(status["Uid"].split()[0])
    limits = host.check_output(f"cat /proc/{pid}/limits")
    assert re.search(rf"Max open files\s+{open_files(deployment.profile().settings)}\s", limits)
    assert host.file("/opt/arqonbus/current").linked_to.startswith("/opt/arqonbus/releases/")


@pytest.mark.parametrize("name", BUS)
def test_the_unit_is_the_rendered_one_and_exposes_little(deployment: Hosts, name: str) -> None:
    """Byte for byte; and systemd's own judgement of it."""
    host = deployment.host(name)
    text = host.file("/etc/systemd/system/arqonbus@.service").content_string
    assert text == render("systemd", deployment.profile())
    judged = host.check_output(f"systemd-analyze security --no-pager {UNIT}.service | tail -n 1")
    found = re.search(r"exposure level for \S+: ([0-9.]+)", judged)
    assert found is not None
    assert float(found[1]) <= EXPOSURE


@pytest.mark.parametrize("name", BUS)
def test_what_runs_is_what_preflight_passed(deployment: Hosts, name: str) -> None:
    """The digest of the settings as they are now is that of the signed receipt."""
    host = deployment.host(name)
    receipt = json.loads(host.check_output("cat /var/lib/arqonbus/1/receipt.json"))
    digest = host.check_output("/usr/local/bin/arqonbus profile digest --profile staging").strip()
    assert receipt["digest"] == digest
    assert receipt["phases"] == ["host", "online", "static"]
    assert receipt["waived"] == []
    overlay = host.check_output("/usr/local/bin/arqonbus profile explain telemetry.host --profile staging")
    assert overlay.startswith(f"telemetry.host = {deployment.address(name)}")
    assert "set by /etc/arqonbus/local.yaml:" in overlay


@pytest.mark.parametrize("name", BUS)
def test_secrets_are_for_root_and_keys_for_the_bus(deployment: Hosts, name: str) -> None:
    """By their modes and owners, and by what another user sees of them."""
    host = deployment.host(name)
    directory = host.file(CREDENTIALS)
    assert (directory.mode, directory.user) == (0o700, "root")
    expected = {*credentials(deployment.profile()), "valkey_backup_password"}
    assert set(host.check_output(f"ls {CREDENTIALS}").split()) == expected
    for each in expected:
        file = host.file(f"{CREDENTIALS}/{each}")
        assert (file.mode, file.user, file.group) == (0o400, "root", "root")
    tls = deployment.profile().settings.server.tls
    key = host.file(str(tls.key_file))
    assert (key.mode, key.user, key.group) == (0o640, "root", "arqonbus")
    assert host.run(f"sudo -u nobody cat {tls.key_file} {CREDENTIALS}/jwt_secret").rc != 0
    for each in ("profile.yaml",):
        file = host.file(f"{PROFILES}/staging/{each}")
        assert (file.mode, file.user) == (0o644, "root")
        assert file.content_string == (deployment.clone / "profiles" / "staging" / each).read_text()


@pytest.mark.parametrize("name", BUS)
def test_logs_go_to_the_journal_without_secrets(deployment: Hosts, name: str) -> None:
    """As JSON, one line each, from the first start on."""
    journal = deployment.host(name).check_output(f"journalctl --unit {UNIT} --output cat --no-pager")
    lines = [json.loads(line) for line in journal.splitlines() if line.startswith("{")]
    assert "the bus is up" in {line["message"] for line in lines}
    deployment.refuse_secrets(journal)


@pytest.mark.parametrize("timer", ["arqonbus-backup.timer", "arqonbus-drill.timer"])
def test_backups_are_taken_and_drilled_by_themselves(deployment: Hosts, timer: str) -> None:
    """On each host of the bus, so that preflight finds a young one after any crash."""
    for name in BUS:
        service = deployment.host(name).service(timer)
        assert service.is_running
        assert service.is_enabled


def test_the_front_door_serves_the_declared_name(deployment: Hosts) -> None:
    """Over TLS, for the public name, by the authority of the deployment; TLS 1.1 is refused."""
    import socket

    host = urlsplit(deployment.profile().settings.server.public_url or "").hostname
    assert host == PUBLIC
    with (
        socket.create_connection((deployment.address(DATA), 443), timeout=10) as bare,
        ssl.create_default_context(cafile=deployment.authority / "ca.pem").wrap_socket(
            bare, server_hostname=PUBLIC
        ) as encrypted,
    ):
        assert encrypted.version() in ("TLSv1.2", "TLSv1.3")
        names = {value for kind, value in encrypted.getpeercert()["subjectAltName"] if kind == "DNS"}
    assert PUBLIC in names


def test_the_data_stores_let_nobody_in_unencrypted_or_unnamed(deployment: Hosts) -> None:
    """Whoever asks from a host of the bus, where the ports can be reached."""
    host = deployment.host(BUS[0])
    address = deployment.address(DATA)
    plain = host.run(f"timeout 5 valkey-cli -h {address} PING")
    assert "PONG" not in plain.stdout
    unnamed = host.run(
        "valkey-cli --tls --cacert /etc/arqonbus/tls/ca.pem -h valkey.staging.example.org PING"
    )
    assert "NOAUTH" in unnamed.stdout + unnamed.stderr
    bare = host.run(f"psql 'host={address} user=arqonbus dbname=arqonbus sslmode=disable' -c 'select 1'")
    assert "no encryption" in bare.stderr


def test_the_data_stores_keep_what_they_are_given(deployment: Hosts) -> None:
    """As the images do, and as the declared durability needs."""
    host = deployment.host(DATA)
    password = "REDISCLI_AUTH=$(cat /etc/arqonbus/valkey-operator)"
    ask = f"{password} valkey-cli -s /run/valkey/valkey.sock --user operator"
    said = host.check_output(f"{ask} --no-auth-warning CONFIG GET append* maxmemory-policy").split()
    settings = dict(zip(said[::2], said[1::2], strict=True))
    assert (settings["appendonly"], settings["maxmemory-policy"]) == ("yes", "noeviction")
    durable = deployment.profile().settings.storage.durability == "durable"
    assert settings["appendfsync"] == ("always" if durable else "everysec")
    users = host.check_output(f"{ask} --no-auth-warning ACL LIST")
    assert "user default off" in users
    query = "SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN "
    names = "('data_checksums', 'fsync', 'password_encryption', 'ssl')"
    said = host.check_output(f'cd / && runuser -u postgres -- psql -XAtqc "{query}{names}"')
    assert said.strip() == "on on scram-sha-256 on"
    roles = host.check_output(
        "cd / && runuser -u postgres -- psql -XAtqc 'SELECT rolname FROM pg_roles WHERE rolsuper'"
    )
    assert roles.split() == ["postgres"]


def test_the_firewall_keeps_the_ports_of_the_bus_for_the_load_balancer(deployment: Hosts) -> None:
    """From here the front door opens, and nothing behind it does."""
    import socket

    settings = deployment.profile().settings
    behind = [(name, port) for name in BUS for port in (settings.server.port, settings.telemetry.port)]
    behind += [(DATA, 6379), (DATA, settings.datastores.postgres.port)]
    for name, port in behind:
        with pytest.raises(TimeoutError), socket.create_connection((deployment.address(name), port), 0.5):
            pass


def test_every_unit_is_well(deployment: Hosts) -> None:
    """systemd has nothing to complain about on any host."""
    for name in (*BUS, DATA):
        failed = deployment.host(name).check_output("systemctl list-units --failed --no-legend --plain")
        assert failed == ""
