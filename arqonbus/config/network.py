"""Listener settings: address, TLS, telemetry port, wire protocol."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from arqonbus.config.field import Section, section, setting
from arqonbus.config.units import Count, FilePath, Port, Seconds, Secret, Size, Switch, Text
from arqonbus.config.url import Schemes, Url

ENDPOINT = "/v1/ws"


class Tls(Section):
    """TLS of the bus's listener."""

    cert_file: FilePath | None = setting(
        None,
        "Certificate chain in PEM, leaf first. Enables TLS together with key_file.",
        example="/etc/arqonbus/tls/server.pem",
    )
    key_file: FilePath | None = setting(
        None, "Private key of the certificate in PEM, unencrypted.", example="/etc/arqonbus/tls/server.key"
    )
    client_ca_file: FilePath | None = setting(
        None,
        "Certificate authority of the services' certificates (mTLS).",
        example="/etc/arqonbus/tls/clients-ca.pem",
    )

    @property
    def enabled(self) -> bool:
        """True if the bus itself terminates TLS."""
        return self.cert_file is not None and self.key_file is not None


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError("is not an address range; write for example 10.0.0.0/24 or 10.0.0.7") from None


class Server(Section):
    """The listener for clients."""

    host: Text = setting("127.0.0.1", "Address to listen on.", example="10.0.0.5")
    port: Port = setting(9100, "Port to listen on.", example=9100)
    public_url: Annotated[Url, Schemes("ws", "wss")] | None = setting(
        None,
        "URL at which clients reach the bus, through proxies and load balancers.",
        example="wss://bus.example.org/v1/ws",
    )
    origins: tuple[Text, ...] = setting(
        (),
        "Origins of web pages that may connect; * matches any characters. "
        "Does not affect clients that send no Origin header.",
        example=["https://app.example.org"],
        reload="hot",
    )
    trusted_proxies: tuple[Annotated[Text, AfterValidator(_network)], ...] = setting(
        (),
        "Address ranges of trusted proxies, which report a client's address in forwarded_header or in a "
        "PROXY header; from other addresses these headers are ignored.",
        example=["10.0.0.0/24"],
    )
    forwarded_header: Literal["forwarded", "x-forwarded-for"] | None = setting(
        None,
        "Header in which trusted_proxies report the client's address. It must be one that they write or "
        "replace on every request; no other header is read. Without a value, none is.",
        example="x-forwarded-for",
    )
    proxy_protocol: Switch = setting(
        False,
        "Require a PROXY header, version 1 or 2, on each connection of trusted_proxies.",
        example=True,
    )
    workers: Annotated[Count, Field(ge=1, le=256)] = setting(
        1, "Worker processes that share the port.", example=4, available=False
    )
    transport: Literal["picows", "websockets"] = setting(
        "picows", "Server implementation: picows (fast) or websockets (reference).", example="picows"
    )
    max_connections: Annotated[Count, Field(ge=1)] = setting(
        10_000, "Maximum number of connections of a node; more are refused with 503.", example=50_000
    )
    handshake_timeout: Seconds = setting(
        10.0, "Time within which a connection must complete its handshake.", example="10s"
    )
    drain_seconds: Seconds = setting(
        20.0, "Time over which connections are closed after SIGTERM.", example=20
    )
    tls: Tls = section(Tls, "TLS of the bus's listener; leave it out if a load balancer terminates TLS.")


def local_url(server: Server) -> str:
    """URL for clients on this machine."""
    scheme = "wss" if server.tls.enabled else "ws"
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{scheme}://{host}:{server.port}{ENDPOINT}"


class Telemetry(Section):
    """Logs, metrics, health."""

    host: Text = setting("127.0.0.1", "Address of the health and metrics endpoint.", example="10.0.0.5")
    port: Port = setting(9101, "Port of the health and metrics endpoint.", example=9101)
    token: Secret | None = setting(
        None,
        "Bearer token for /metrics and /readyz?verbose; without one, access is not restricted.",
        example={"from": "credential", "name": "telemetry_token"},
        secrecy="value",
        reload="hot",
        min_length=16,
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "Lowest severity that is logged.", example="info", reload="hot"
    )
    log_format: Literal["auto", "json", "text"] = setting(
        "auto", "Log format; auto: text on a terminal, else JSON.", example="json"
    )
    otlp_endpoint: Annotated[Url, Schemes("http", "https")] | None = setting(
        None,
        "OTLP endpoint for traces.",
        example="http://otel:4318",
        available=False,
    )


class Protocol(Section):
    """Wire formats and size limits."""

    infra: Literal["protobuf", "any"] = setting(
        "any", "Wire format that services (tokens of kind service) must use.", example="protobuf"
    )
    allow_json_infra: Switch = setting(
        True, "Let services use JSON although infra is protobuf.", example=False
    )
    edge_json: Switch = setting(True, "Let clients of people (tokens of kind human) use JSON.", example=True)
    schema_strict: Switch = setting(
        False, "Refuse payloads that no schema of their room covers.", example=True
    )
    max_frame_bytes: Annotated[Size, Field(ge=1024, le=2**30)] = setting(
        2 * 2**20, "Largest WebSocket message accepted.", example="2MiB"
    )
    max_payload_bytes: Annotated[Size, Field(ge=1, le=2**30)] = setting(
        2**20, "Largest payload of one envelope.", example="1MiB"
    )


__all__ = ["ENDPOINT", "Protocol", "Server", "Telemetry", "Tls", "local_url"]
