"""Variables of docker-compose.yml from a profile, or the reasons why it cannot run the profile. Pure.

The containers of the bus have the profile and read most of it themselves. Ports, names and files that the
stores, the load balancer and the health checks share with it are fixed in the composition. A profile with
other values is refused here; its containers would start healthy, and no client could connect.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from arqonbus.config import Resolved, Settings
from arqonbus.config.capacity import memory_limit, open_files, projector_limit
from arqonbus.deploy.needs import (
    Unrenderable,
    heading,
    idle_seconds,
    public_address,
    references,
    stop_seconds,
    word,
)

DEV = "dev"
# Where telemetry listens in staging and prod.
COMPOSE_NODES = ("bus-1.edge", "bus-2.edge")
COMPOSE_PROJECTORS = ("projector-1.data", "projector-2.data")

# What the composition fixes, by setting. In dev it brings its own stores, and publishes the profile's ports.
_ALWAYS: dict[str, object] = {"projector.telemetry_port": 9102}
_TLS = "/etc/arqonbus/tls"
_OUTSIDE_DEV: dict[str, object] = {
    "server.port": 9100,
    "telemetry.port": 9101,
    "server.tls.cert_file": f"{_TLS}/server.pem",
    "server.tls.key_file": f"{_TLS}/server.key",
    "datastores.valkey.cluster": False,
    "datastores.valkey.sentinel.nodes": (),
    "datastores.valkey.user": "arqonbus",
    "datastores.valkey.tls.ca_file": f"{_TLS}/ca.pem",
    "datastores.valkey.tls.cert_file": None,
    "datastores.valkey.tls.key_file": None,
    "datastores.postgres.user": "arqonbus",
    "datastores.postgres.ca_file": f"{_TLS}/ca.pem",
    "backup.directory": "/var/backups/arqonbus",
}
_WITH_TLS = {"require", "verify-ca", "verify-full"}


def compose_env(resolved: Resolved) -> str:
    """The variables that docker-compose.yml reads."""
    settings, name = resolved.settings, word(resolved.profile)
    if refusals := [*_refusals(resolved)]:
        raise Unrenderable("; ".join(refusals))
    own = _project(name) | _addresses(settings) | _sizes(settings)
    secrets = {key: found.target[0] for key, found in references(resolved) if found.origin == "credential"}
    for store in ("postgres", "valkey"):
        if secret := secrets.get(f"datastores.{store}.password"):
            own[f"{store.upper()}_SECRET"] = secret
    lines = heading(resolved, "compose-env", ".env" if name == DEV else f"profiles/{name}/compose.env")
    lines.append("# A variable of the shell has precedence over a line of this file.")
    return "\n".join([*lines, *(f"{name}={value}" for name, value in sorted(own.items()))]) + "\n"


def _project(name: str) -> dict[str, object]:
    """Each environment is a project of its own, with its own volumes; dev is the one that the file names."""
    named = {} if name == DEV else {"COMPOSE_PROJECT_NAME": f"arqonbus-{name}"}
    return {"COMPOSE_PROFILES": name, "HEALTH_SECONDS": 1 if name == DEV else 2, "PROFILE": name, **named}


def _addresses(settings: Settings) -> dict[str, object]:
    """Addresses for clients, and the stores' names as far as the profile has them."""
    public_name, public_port = public_address(settings)
    hosts = {
        "BUS_HOST": public_name,
        "POSTGRES_HOST": settings.datastores.postgres.address[0],
        "VALKEY_HOST": settings.datastores.valkey.address[0],
    }
    return {
        "BUS_ADDRESS": settings.server.host,
        "BUS_PORT": public_port if public_name else settings.server.port,
        "TELEMETRY_PORT": settings.telemetry.port,
        **{name: word(host) for name, host in hosts.items() if host},
    }


def _sizes(settings: Settings) -> dict[str, object]:
    """Sizes, durations and durability."""
    memory = memory_limit(settings)
    return {
        "BACKUP_SECONDS": round(settings.backup.rpo / 2),
        "CONNECTIONS": len(COMPOSE_NODES) * settings.server.max_connections,
        "FSYNC": "always" if settings.storage.durability == "durable" else "everysec",
        "IDLE_SECONDS": idle_seconds(settings),
        "NOFILE": open_files(settings),
        "PROJECTOR_MEMORY": _mebibytes(projector_limit(settings)),
        "PROXY_PROTOCOL": "on" if settings.server.proxy_protocol else "off",
        "STOP_SECONDS": stop_seconds(settings),
        "TLS": "on" if settings.datastores.valkey.encrypted else "off",
        **({"BUS_MEMORY": _mebibytes(memory)} if memory else {}),
    }


def _refusals(resolved: Resolved) -> Iterator[str]:
    """Reasons why the composition cannot run this profile, one clause each."""
    settings = resolved.settings
    fixed = _ALWAYS if settings.environment == DEV else _ALWAYS | _OUTSIDE_DEV
    for key, only in fixed.items():
        value = _value(settings, key)
        found = str(value) if isinstance(only, str) and value is not None else value
        if found != only:
            yield f"{key} is {_shown(found)}, and docker-compose.yml has {_shown(only)}"
    if settings.environment == DEV:
        return
    valkey, postgres = settings.datastores.valkey, settings.datastores.postgres
    for key, port, only in (("valkey", valkey.address[1], 6379), ("postgres", postgres.address[1], 5432)):
        if port != only:
            yield f"the port of datastores.{key} is {port}, and docker-compose.yml has {only}"
    if postgres.database_name != "arqonbus":
        yield f"the database is {_shown(postgres.database_name)}, and docker-compose.yml has 'arqonbus'"
    if valkey.encrypted != (postgres.sslmode in _WITH_TLS):
        yield "the profile has TLS for one of Valkey and Postgres, and docker-compose.yml for both or neither"
    given = {key: found.origin for key, found in references(resolved)}
    for key in ("datastores.valkey.password", "datastores.postgres.password"):
        if given.get(key) not in (None, "credential"):
            yield f"{key} comes from a {given[key]}, and docker-compose.yml has credentials only"


def _value(settings: Settings, key: str) -> object:
    found: object = settings
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _shown(value: object) -> str:
    return "not set" if value is None or value == () else repr(value)


def _mebibytes(size: int) -> str:
    return f"{math.ceil(size / 2**20)}m"


__all__ = ["COMPOSE_NODES", "COMPOSE_PROJECTORS", "DEV", "compose_env"]
