"""docker-compose.yml follows a profile, or `profile render compose-env` refuses it and names the setting."""

from __future__ import annotations

import pytest

from arqonbus.config import load
from arqonbus.deploy.needs import Unrenderable
from arqonbus.deploy.render import render
from tests.servers.arqonbus import REPOSITORY


def compose_env(name: str, *overrides: str) -> str:
    return render(
        "compose-env", load(name, root=REPOSITORY, environ={}, secrets_of=(), overrides=list(overrides))
    )


@pytest.mark.parametrize("name", ["staging", "prod"])
@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("server.port=9444", "server.port is 9444"),
        ("telemetry.port=9201", "telemetry.port is 9201"),
        ("projector.telemetry_port=9302", "projector.telemetry_port is 9302"),
        ("server.tls.cert_file=/etc/ssl/bus.pem", "server.tls.cert_file"),
        ("server.tls.key_file=/etc/ssl/bus.key", "server.tls.key_file"),
        ("datastores.valkey.url=valkeys://valkey.acme.io:6380", "port of datastores.valkey is 6380"),
        ("datastores.valkey.user=bus", "datastores.valkey.user is 'bus'"),
        ("datastores.valkey.cluster=true", "datastores.valkey.cluster"),
        ("datastores.valkey.tls.ca_file=/etc/ssl/ca.pem", "datastores.valkey.tls.ca_file"),
        ("datastores.postgres.port=5433", "port of datastores.postgres is 5433"),
        ("datastores.postgres.user=bus", "datastores.postgres.user is 'bus'"),
        ("datastores.postgres.database=bus", "the database is 'bus'"),
        ("datastores.postgres.ca_file=/etc/ssl/ca.pem", "datastores.postgres.ca_file"),
        ("datastores.postgres.sslmode=disable", "TLS for one of Valkey and Postgres"),
        ("backup.directory=/srv/backups", "backup.directory"),
    ],
)
def test_what_the_composition_fixes_is_refused(name: str, setting: str, named: str) -> None:
    """A profile that differs there would start healthy and serve no client."""
    with pytest.raises(Unrenderable, match=named):
        compose_env(name, setting)


def test_every_reason_is_named() -> None:
    """One attempt tells all that has to be changed."""
    with pytest.raises(Unrenderable, match=r"server\.port.*backup\.directory"):
        compose_env("prod", "server.port=9444", "backup.directory=/srv/backups")


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("dev", "server.port=9444"),
        ("dev", "server.host=127.0.0.2"),
        ("dev", "telemetry.port=9201"),
        ("prod", "server.public_url=wss://other.acme.io:8443/v1/ws"),
        ("prod", "server.max_connections=500"),
        ("prod", "server.drain_seconds=7"),
        ("prod", "server.proxy_protocol=true"),
        ("prod", "limits.ping_interval=11s"),
        ("prod", "storage.durability=hot"),
        ("prod", "datastores.valkey.url=valkeys://other.acme.io"),
        ("prod", "datastores.postgres.host=other.acme.io"),
        ("prod", "datastores.postgres.url=postgresql://arqonbus@other.acme.io/arqonbus"),
        ("prod", "backup.rpo=2h"),
    ],
)
def test_what_the_composition_follows_changes_its_variables(name: str, setting: str) -> None:
    """Each of these settings concerns more than the container of the bus."""
    assert compose_env(name, setting) != compose_env(name)


def test_a_tls_url_switches_tls_on() -> None:
    """valkeys:// means TLS, also without tls.enabled."""
    assert "TLS=on\n" in compose_env("prod", "datastores.valkey.tls.enabled=false")
