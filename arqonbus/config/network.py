"""Settings of the doors: the bus's socket, its TLS, the telemetry port, the wire protocol."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from arqonbus.config.field import Section, section, setting
from arqonbus.config.units import Count, FilePath, Port, Seconds, Secret, Size, Switch, Text
from arqonbus.config.url import Schemes, Url

ENDPOINT = "/v1/ws"


class Tls(Section):
    """TLS of the bus's own socket."""

    cert_file: FilePath | None = setting(
        None,
        "Certificate chain in PEM, leaf first. Together with key_file it switches TLS on.",
        example="/etc/arqonbus/tls/server.pem",
    )
    key_file: FilePath | None = setting(
        None, "Private key of the certificate in PEM, unencrypted.", example="/etc/arqonbus/tls/server.key"
    )
    client_ca_file: FilePath | None = setting(
        None,
        "Certificate authority that signs the certificates of services (mTLS).",
        example="/etc/arqonbus/tls/clients-ca.pem",
    )

    @property
    def enabled(self) -> bool:
        """Whether the bus itself ends TLS."""
        return self.cert_file is not None and self.key_file is not None


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError("is not an address range; write such as 10.0.0.0/24 or 10.0.0.7") from None


class Server(Section):
    """Where clients connect."""

    host: Text = setting("127.0.0.1", "Address to listen on.", example="10.0.0.5")
    port: Port = setting(9100, "Port to listen on.", example=9100)
    public_url: Annotated[Url, Schemes("ws", "wss")] | None = setting(
        None,
        "URL under which clients reach the bus, through whatever stands before it.",
        example="wss://bus.example.org/v1/ws",
    )
    origins: tuple[Text, ...] = setting(
        (),
        "Origins of web pages that may connect; * stands for any run of characters. "
        "Clients that send no Origin header are not concerned.",
        example=["https://app.example.org"],
        reload="hot",
    )
    trusted_proxies: tuple[Annotated[Text, AfterValidator(_network)], ...] = setting(
        (),
        "Address ranges of the proxies that say where a client is, in forwarded_header or in a PROXY header; "
        "from elsewhere these headers mean nothing.",
        example=["10.0.0.0/24"],
    )
    forwarded_header: Literal["forwarded", "x-forwarded-for"] | None = setting(
        None,
        "Header in which trusted_proxies say where a client is. It must be one that they write or replace on "
        "every request; no other is read. Without a value none is.",
        example="x-forwarded-for",
    )
    proxy_protocol: Switch = setting(
        False,
        "Whether trusted_proxies begin each connection with a PROXY header, version 1 or 2; then they must.",
        example=True,
    )
    workers: Annotated[Count, Field(ge=1, le=256)] = setting(
        1, "Worker processes that share the port.", example=4, available=False
    )
    transport: Literal["picows", "websockets"] = setting(
        "picows", "Server implementation: picows is the fast one, websockets the reference.", example="picows"
    )
    max_connections: Annotated[Count, Field(ge=1)] = setting(
        10_000, "Connections that this node holds at most; more are refused with 503.", example=50_000
    )
    handshake_timeout: Seconds = setting(
        10.0, "Time in which a connection must finish its upgrade.", example="10s"
    )
    drain_seconds: Seconds = setting(
        20.0, "Time over which connections are closed after SIGTERM.", example=20
    )
    tls: Tls = section(Tls, "TLS of the bus's own socket; leave it out where a load balancer ends TLS.")


def local_url(server: Server) -> str:
    """Where clients on this machine connect to a bus with these settings."""
    scheme = "wss" if server.tls.enabled else "ws"
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{scheme}://{host}:{server.port}{ENDPOINT}"


class Telemetry(Section):
    """Logs, metrics, health."""

    host: Text = setting("127.0.0.1", "Address of the health and metrics endpoint.", example="10.0.0.5")
    port: Port = setting(9101, "Port of the health and metrics endpoint.", example=9101)
    token: Secret | None = setting(
        None,
        "Bearer token for /metrics and /readyz?verbose; without one, whoever reaches the port may ask.",
        example={"from": "credential", "name": "telemetry_token"},
        secrecy="value",
        reload="hot",
        min_length=16,
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "Least severity that is logged.", example="info", reload="hot"
    )
    log_format: Literal["auto", "json", "text"] = setting(
        "auto", "Form of the log: auto writes text on a terminal and JSON elsewhere.", example="json"
    )
    otlp_endpoint: Annotated[Url, Schemes("http", "https")] | None = setting(
        None,
        "OTLP endpoint that traces are sent to.",
        example="http://otel:4318",
        available=False,
    )


class Protocol(Section):
    """What may be spoken on the wire."""

    infra: Literal["protobuf", "any"] = setting(
        "any", "Wire format that services (tokens of kind service) must speak.", example="protobuf"
    )
    allow_json_infra: Switch = setting(
        True, "Whether services may speak JSON although infra is protobuf.", example=False
    )
    edge_json: Switch = setting(
        True, "Whether people's clients (tokens of kind human) may speak JSON.", example=True
    )
    schema_strict: Switch = setting(
        False, "Whether a payload that its room's schema does not know is refused.", example=True
    )
    max_frame_bytes: Annotated[Size, Field(ge=1024, le=2**30)] = setting(
        2 * 2**20, "Largest WebSocket message that is read.", example="2MiB"
    )
    max_payload_bytes: Annotated[Size, Field(ge=1, le=2**30)] = setting(
        2**20, "Largest payload of one envelope.", example="1MiB"
    )


__all__ = ["ENDPOINT", "Protocol", "Server", "Telemetry", "Tls", "local_url"]
