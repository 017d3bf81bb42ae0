"""Settings of what is kept and where: the message log, its retention, Valkey, Postgres, NATS."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field, field_validator, model_validator

from arqonbus.config.field import Section, section, setting
from arqonbus.config.units import Count, FilePath, Port, Seconds, Secret, Size, Switch, Text
from arqonbus.config.url import Schemes, Url
from arqonbus.protocol.durability import DurabilityName

# Where a URL names no port.
VALKEY_PORT = 6379
POSTGRES_PORT = 5432
NATS_PORT = 4222

StorageMode = Literal["strict", "degraded"]


class History(Section):
    """How much of a room is kept. Whichever bound is reached first trims; 0 means no bound."""

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
        "Database file; without one it is arqonbus.sqlite in state_dir.",
        example="/var/lib/arqonbus/arqonbus.sqlite",
        reload="cold",
    )
    checkpoint_every: Seconds = setting(
        6 * 3600.0,
        "Time between two copies of the file beside it, to go back to if it is damaged; 0: none.",
        example="1h",
    )


class Storage(Section):
    """The message log."""

    backend: Literal["memory", "sqlite", "valkey"] = setting(
        "sqlite", "Engine that keeps the messages.", example="valkey", reload="cold"
    )
    mode: StorageMode = setting(
        "strict",
        "strict refuses a publish that cannot be stored as declared; degraded goes on in memory and says so.",
        example="strict",
    )
    degraded_max_bytes: Size = setting(
        64 * 2**20,
        "Messages that are kept in memory while the engine is away; beyond it they are refused.",
        example="64MiB",
    )
    durability: DurabilityName = setting(
        "hot",
        "Level that an ack promises: memory, hot (in the engine) or durable (on disk).",
        example="durable",
    )
    require_dual_data_stack: Switch = setting(
        False, "Whether Valkey and Postgres must both be configured and reachable.", example=True
    )
    history: History = section(History, "How much every room keeps, unless rooms says otherwise.")
    dedup_window: Seconds = setting(
        300.0, "Time in which a repeated message id is recognised.", example="5m", reload="hot"
    )
    sqlite: Sqlite = section(Sqlite, "The embedded engine.")


class ClientTls(Section):
    """TLS towards a data store."""

    enabled: Switch = setting(False, "Whether the connection is encrypted and verified.", example=True)
    ca_file: FilePath | None = setting(
        None,
        "Certificate authority of the store; without one, the system's.",
        example="/etc/arqonbus/tls/ca.pem",
    )
    cert_file: FilePath | None = setting(
        None, "Certificate that this node shows.", example="/etc/arqonbus/tls/node.pem"
    )
    key_file: FilePath | None = setting(
        None, "Private key of that certificate.", example="/etc/arqonbus/tls/node.key"
    )


class Sentinel(Section):
    """How the current primary is found."""

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
        "Where Valkey is. Put the password in password, not here.",
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
    tls: ClientTls = section(ClientTls, "TLS towards Valkey; also switched on by valkeys:// or rediss://.")
    cluster: Switch = setting(False, "Whether url names a node of a Valkey Cluster.", example=True)
    sentinel: Sentinel = section(Sentinel, "Sentinels that know the primary; then url is not used.")
    durable_replicas: Count | None = setting(
        None,
        "Replicas that flush a durable message before its ack; without one, all that the sentinels see up.",
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
        """Host and port of `url`; the host is empty for a socket file and where no URL is set."""
        return _address(self.url, VALKEY_PORT)


class Pool(Section):
    """Connections held to Postgres, per node."""

    min: Count = setting(1, "Connections kept open.", example=2)
    max: Annotated[Count, Field(ge=1)] = setting(10, "Connections at most.", example=20)

    @model_validator(mode="after")
    def _min_fits_max(self) -> Pool:
        if self.min > self.max:
            raise ValueError("min is greater than max; lower min or raise max")
        return self


class Postgres(Section):
    """The durable store. Either url, or host and the other parts."""

    url: Annotated[Url, Schemes("postgres", "postgresql")] | None = setting(
        None,
        "Where Postgres is. Put the password in password, not here.",
        example="postgresql://arqonbus@postgres:5432/arqonbus",
        secrecy="url",
    )
    host: Text | None = setting(None, "Host, when no url is given.", example="postgres")
    port: Port = setting(POSTGRES_PORT, "Port, when no url is given.", example=5432)
    database: Text = setting("arqonbus", "Database, when no url is given.", example="arqonbus")
    user: Text | None = setting(None, "Role; goes before the one in url.", example="arqonbus")
    password: Secret | None = setting(
        None,
        "Password of the role.",
        example={"from": "credential", "name": "postgres_password"},
        secrecy="value",
    )
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = setting(
        "prefer", "How TLS is used, in libpq's words.", example="verify-full"
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
        """The address with user and database and without `password`; None when none is configured."""
        if self.url is not None or self.host is None:
            return self.url
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        return Url(f"postgresql://{user}{_bracketed(self.host)}:{self.port}/{quote(self.database, safe='')}")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; the host is empty where none is configured."""
        return _address(self.dsn(), POSTGRES_PORT)

    @property
    def database_name(self) -> str:
        """The database that `dsn` names; empty where it names none."""
        dsn = self.dsn()
        return dsn.path.lstrip("/") if dsn else ""


class Nats(Section):
    """A NATS server to exchange messages with."""

    url: Annotated[Url, Schemes("nats", "tls")] | None = setting(
        None,
        "Where NATS is. Put the password in password, not here.",
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
    tls: ClientTls = section(ClientTls, "TLS towards NATS; also switched on by tls://.")

    @property
    def encrypted(self) -> bool:
        return self.tls.enabled or (self.url is not None and self.url.scheme == "tls")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; the host is empty where none is configured."""
        return _address(self.url, NATS_PORT)


class Datastores(Section):
    """The servers that hold data."""

    valkey: Valkey = section(Valkey, "The shared engine.")
    postgres: Postgres = section(Postgres, "The durable store.")
    nats: Nats = section(Nats, "A NATS server to exchange messages with.")


def login(store: Valkey | Postgres | Nats) -> tuple[str, str]:
    """User and password, each from its own setting or else from the URL; empty where neither has it."""
    user, password = (store.url.user, store.url.password) if store.url else ("", "")
    return store.user or user, store.password.get_secret_value() if store.password else password


def _host_of(text: str) -> str:
    """The host that a URL with this text as its address has; empty where it cannot be parsed."""
    try:
        return Url(f"postgresql://{_bracketed(text)}/").host
    except ValueError:
        return ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


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
