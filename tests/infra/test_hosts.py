"""What hosts are, compared with what the profile says: looked at over ssh, nothing retyped.

What is expected of a host is stated in arqonbus.deploy.drift, for this suite and for `arqonbus drift`. What
only shows from outside, or over time, is here. Runs before anything else happens to the deployment.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import ssl
from urllib.parse import urlsplit

import pytest

from arqonbus.deploy.alerts import alert_rules
from arqonbus.deploy.drift.comparison import compare, expectations
from arqonbus.deploy.drift.deployment import LOGS_PORT, Deployment
from arqonbus.deploy.drift.model import CHECKS, Looked, Machine
from arqonbus.deploy.units import CREDENTIALS
from tests.infra.hosts import BUS, DATA, PUBLIC, VALKEY, Hosts

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), pytest.mark.xdist_group("rollout")]

UNITS = {"arqonbus@1": "the bus is up", "arqonbus-projector": "the projector is up"}


@pytest.fixture(scope="module")
def looked(declared: Deployment, machines: list[Machine]) -> list[Looked]:
    """What came of asking all hosts over ssh."""
    return compare(declared, machines)


@pytest.mark.parametrize("check", CHECKS)
def test_hosts_are_as_declared(
    declared: Deployment, machines: list[Machine], looked: list[Looked], check: str
) -> None:
    """Each check looks at something, and finds nothing."""
    assert [each.reason for each in looked] == [""] * len(machines)
    assert [each for one in looked for each in one.differences if each.check == check] == []
    assert check in {each.check for machine in machines for each in expectations(declared, machine)}


def test_the_way_to_a_host_makes_no_difference(
    deployment: Hosts, declared: Deployment, machines: list[Machine]
) -> None:
    """Through the engine instead of ssh."""
    through_engine = [
        dataclasses.replace(machine, spec=f"docker://{deployment.container(machine.name).name}")
        for machine in machines
    ]
    assert [(each.reason, each.differences) for each in compare(declared, through_engine)] == [("", ())] * 3


@pytest.mark.parametrize("name", BUS)
def test_what_only_a_host_has_stands_in_its_overlay(deployment: Hosts, name: str) -> None:
    """And the profile says where a value comes from."""
    host = deployment.host(name)
    overlay = host.check_output("/usr/local/bin/arqonbus profile explain telemetry.host")
    assert overlay.startswith(f"telemetry.host = {deployment.address(name)}")
    assert "set by /etc/arqonbus/local.yaml:" in overlay


@pytest.mark.parametrize("name", BUS)
def test_nobody_else_reads_a_secret(deployment: Hosts, name: str) -> None:
    """By what another user sees of them."""
    key = deployment.profile().settings.server.tls.key_file
    for secret in (key, f"{CREDENTIALS}/jwt_secret"):
        assert deployment.host(name).run(f"sudo -u nobody cat {secret}").rc != 0


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", BUS)
def test_logs_go_to_the_journal_without_secrets(deployment: Hosts, name: str, unit: str) -> None:
    """As JSON, one line each, from the first start on."""
    journal = deployment.host(name).check_output(f"journalctl --unit {unit} --output cat --no-pager")
    lines = [json.loads(line) for line in journal.splitlines() if line.startswith("{")]
    assert UNITS[unit] in {line["message"] for line in lines}
    deployment.refuse_secrets(journal)


def test_the_front_door_serves_the_declared_name(deployment: Hosts) -> None:
    """Over TLS, for the public name, by the authority of the deployment; TLS 1.1 is refused."""
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
    unnamed = host.run(f"valkey-cli --tls --cacert /etc/arqonbus/tls/ca.pem -h {VALKEY} PING")
    assert "NOAUTH" in unnamed.stdout + unnamed.stderr
    bare = host.run(f"psql 'host={address} user=arqonbus dbname=arqonbus sslmode=disable' -c 'select 1'")
    assert "no encryption" in bare.stderr


def test_the_logs_of_all_hosts_are_in_one_place(deployment: Hosts) -> None:
    """From the first start on, and still as the bus wrote them."""
    read = "journalctl --directory /var/log/journal/remote --unit arqonbus@1 --output cat --no-pager"
    lines = [json.loads(line) for line in deployment.sh(DATA, read).splitlines() if line.startswith("{")]
    assert [line["message"] for line in lines].count("the bus is up") >= len(BUS)


def test_prometheus_has_the_alerts_of_the_profile(deployment: Hosts) -> None:
    """All of them, evaluated without an error, and none that fires."""
    ask = 'from urllib.request import urlopen; print(urlopen("http://127.0.0.1:9090/api/v1/rules").read().decode())'
    said = json.loads(deployment.sh(DATA, f"python3 -c '{ask}'"))
    rules = [rule for group in said["data"]["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules] == [
        rule.name for rule in alert_rules(deployment.profile().settings)
    ]
    assert {rule["health"] for rule in rules} == {"ok"}
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert firing <= {"ArqonbusLoopLag"}  # a busy machine makes every loop lag


def test_the_firewall_keeps_the_ports_of_the_bus_for_the_load_balancer(deployment: Hosts) -> None:
    """From here the front door opens, and nothing behind it does."""
    settings = deployment.profile().settings
    ports = (settings.server.port, settings.telemetry.port, settings.projector.telemetry_port)
    behind = [(name, port) for name in BUS for port in ports]
    behind += [(DATA, 6379), (DATA, settings.datastores.postgres.port), (DATA, LOGS_PORT)]
    for name, port in behind:
        with pytest.raises(TimeoutError), socket.create_connection((deployment.address(name), port), 0.5):
            pass
