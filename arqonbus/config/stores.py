"""Storage settings: the event log, its retention, Valkey, Postgres, NATS."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field, field_validator, model_validator

from arqonbus.config.field import Section, section, setting
from arqonbus.config.units import Count, FilePath, Port, Seconds, Secret, Size, Switch, Text
from arqonbus.config.url import Schemes, Url, bracketed
from arqonbus.protocol.durability import DurabilityName

# Default ports of URLs.
VALKEY_PORT = 6379
POSTGRES_PORT = 5432
NATS_PORT = 4222

StorageMode = Literal["strict", "degraded"]


class History(Section):
    """Retention of rooms. The bound that is reached first trims; 0 means no bound."""

    max_messages: Count = setting(
        10_000, "Messages that a room keeps; 0: no bound.", example=10_000, reload="hot"
    )
    max_age: Seconds = setting(
        86_400.0, "Age up to which a room keeps messages; 0: no bound.", example="24h", reload="hot"
    )


class Sqlite(Section):
    """The embedded engine."""

    path: FilePath | None = setting(
        None,
        "Database file; default: arqonbus.sqlite in state_dir.",
        example="/var/lib/arqonbus/arqonbus.sqlite",
        reload="cold",
    )
    checkpoint_every: Seconds = setting(
        6 * 3600.0,
        "Interval of checkpoints: copies of the file, to recover from if it is damaged; 0: none.",
        example="1h",
    )


class Storage(Section):
    """The event log."""

    backend: Literal["memory", "sqlite", "valkey"] = setting(
        "sqlite", "Storage engine of the event log.", example="valkey", reload="cold"
    )
    mode: StorageMode = setting(
        "strict",
        "strict refuses messages that cannot be stored as declared; degraded keeps them in memory.",
        example="strict",
    )
    degraded_max_bytes: Size = setting(
        64 * 2**20,
        "Limit of messages kept in memory in mode degraded; above it they are refused.",
        example="64MiB",
    )
    durability: DurabilityName = setting(
        "hot",
        "Durability level of acks: memory, hot (in the engine) or durable (on disk).",
        example="durable",
    )
    require_dual_data_stack: Switch = setting(
        False, "Require both Valkey and Postgres to be configured and reachable.", example=True
    )
    history: History = section(History, "Default retention of rooms.")
    dedup_window: Seconds = setting(
        300.0, "Time for which message ids are remembered to detect duplicates.", example="5m", reload="hot"
    )
    sqlite: Sqlite = section(Sqlite, "The embedded engine.")


class ClientTls(Section):
    """TLS to a data store."""

    enabled: Switch = setting(False, "Encrypt and verify the connection.", example=True)
    ca_file: FilePath | None = setting(
        None,
        "Certificate authority of the store; default: the system's.",
        example="/etc/arqonbus/tls/ca.pem",
    )
    cert_file: FilePath | None = setting(
        None, "Client certificate of this node.", example="/etc/arqonbus/tls/node.pem"
    )
    key_file: FilePath | None = setting(
        None, "Private key of that certificate.", example="/etc/arqonbus/tls/node.key"
    )


class Sentinel(Section):
    """Discovery of the primary through Sentinel."""

    service: Text | None = setting(None, "Name of the monitored primary.", example="arqonbus")
    nodes: tuple[Annotated[str, Field(pattern=r"^[^\s@/]+:[0-9]{1,5}$")], ...] = setting(
        (), "Sentinels as host:port.", example=["valkey-1:26379", "valkey-2:26379", "valkey-3:26379"]
    )
    password: Secret | None = setting(
        None,
        "Password of the sentinels.",
        example={"from": "credential", "name": "sentinel"},
        secrecy="value",
    )


class Valkey(Section):
    """The shared engine."""

    url: Annotated[Url, Schemes("valkey", "valkeys", "redis", "rediss", "unix")] | None = setting(
        None,
        "URL of Valkey. Set the password in password, not here.",
        example="valkey://valkey:6379",
        secrecy="url",
    )
    user: Text | None = setting(None, "ACL user.", example="arqonbus")
    password: Secret | None = setting(
        None,
        "Password of the ACL user.",
        example={"from": "credential", "name": "valkey_password"},
        secrecy="value",
    )
    tls: ClientTls = section(ClientTls, "TLS to Valkey; also enabled by valkeys:// or rediss://.")
    cluster: Switch = setting(False, "Whether url names a node of a Valkey Cluster.", example=True)
    sentinel: Sentinel = section(Sentinel, "Sentinels that locate the primary; url is not used then.")
    durable_replicas: Count | None = setting(
        None,
        "Replicas that flush a durable message before its ack; default: all that the sentinels report up.",
        example=1,
    )

    @property
    def encrypted(self) -> bool:
        return self.tls.enabled or (self.url is not None and self.url.scheme in ("valkeys", "rediss"))

    @property
    def configured(self) -> bool:
        return self.url is not None or bool(self.sentinel.nodes)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `url`; the host is empty for a socket file or without a URL."""
        return _address(self.url, VALKEY_PORT)


class Pool(Section):
    """Pool of connections to Postgres, per node."""

    min: Count = setting(1, "Connections kept open.", example=2)
    max: Annotated[Count, Field(ge=1)] = setting(10, "Maximum number of connections.", example=20)

    @model_validator(mode="after")
    def _min_fits_max(self) -> Pool:
        if self.min > self.max:
            raise ValueError("min is greater than max; lower min or raise max")
        return self


class Postgres(Section):
    """The durable store. Either url, or host and the other parts."""

    url: Annotated[Url, Schemes("postgres", "postgresql")] | None = setting(
        None,
        "URL of Postgres. Set the password in password, not here.",
        example="postgresql://arqonbus@postgres:5432/arqonbus",
        secrecy="url",
    )
    host: Text | None = setting(None, "Host, if url is not set.", example="postgres")
    port: Port = setting(POSTGRES_PORT, "Port, if url is not set.", example=5432)
    database: Text = setting("arqonbus", "Database, if url is not set.", example="arqonbus")
    user: Text | None = setting(None, "Role; overrides the one in url.", example="arqonbus")
    password: Secret | None = setting(
        None,
        "Password of the role.",
        example={"from": "credential", "name": "postgres_password"},
        secrecy="value",
    )
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = setting(
        "prefer", "Use of TLS, as in libpq.", example="verify-full"
    )
    ca_file: FilePath | None = setting(
        None, "Certificate authority of the server.", example="/etc/arqonbus/tls/ca.pem"
    )
    pool: Pool = section(Pool, "Connections held per node.")

    @property
    def configured(self) -> bool:
        return self.url is not None or self.host is not None

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str | None) -> str | None:
        if host is not None and _host_of(host) != host.lower():
            raise ValueError("is not a host; write a name or an address, and the port in port")
        return host

    def dsn(self) -> Url | None:
        """URL with user and database, without `password`; None if not configured."""
        if self.url is not None or self.host is None:
            return self.url
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        return Url(f"postgresql://{user}{bracketed(self.host)}:{self.port}/{quote(self.database, safe='')}")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; the host is empty if not configured."""
        return _address(self.dsn(), POSTGRES_PORT)

    @property
    def database_name(self) -> str:
        """The database in `dsn`; empty if it has none."""
        dsn = self.dsn()
        return dsn.path.lstrip("/") if dsn else ""


class Nats(Section):
    """A NATS server to exchange messages with."""

    url: Annotated[Url, Schemes("nats", "tls")] | None = setting(
        None,
        "URL of NATS. Set the password in password, not here.",
        example="nats://nats:4222",
        secrecy="url",
    )
    user: Text | None = setting(None, "User; without one, password is a token.", example="arqonbus")
    password: Secret | None = setting(
        None,
        "Password of the user, or a token.",
        example={"from": "credential", "name": "nats_password"},
        secrecy="value",
    )
    tls: ClientTls = section(ClientTls, "TLS to NATS; also enabled by tls://.")

    @property
    def encrypted(self) -> bool:
        return self.tls.enabled or (self.url is not None and self.url.scheme == "tls")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; the host is empty if not configured."""
        return _address(self.url, NATS_PORT)


class Datastores(Section):
    """The servers that hold data."""

    valkey: Valkey = section(Valkey, "The shared engine.")
    postgres: Postgres = section(Postgres, "The durable store.")
    nats: Nats = section(Nats, "A NATS server to exchange messages with.")


def login(store: Valkey | Postgres | Nats) -> tuple[str, str]:
    """User and password, each from its own setting or else from the URL; empty if not set."""
    user, password = (store.url.user, store.url.password) if store.url else ("", "")
    return store.user or user, store.password.get_secret_value() if store.password else password


def _host_of(text: str) -> str:
    """The host in a URL with this address; empty if it cannot be parsed."""
    try:
        return Url(f"postgresql://{bracketed(text)}/").host
    except ValueError:
        return ""


def _address(url: Url | None, default_port: int) -> tuple[str, int]:
    return (url.host, url.port or default_port) if url else ("", default_port)


__all__ = [
    "ClientTls",
    "Datastores",
    "History",
    "Nats",
    "Pool",
    "Postgres",
    "Sentinel",
    "Sqlite",
    "Storage",
    "StorageMode",
    "Valkey",
    "login",
]
