"""NET: listener addresses and ports, allowed origins, and timeouts that depend on each other."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from operator import attrgetter
from urllib.parse import urlsplit

from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
    WARN_IN_DEV,
    WARNING_EVERYWHERE,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    Remark,
    passed,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check

PROXY_IDLE_SECONDS = 60.0  # nginx, HAProxy's common setting and the load balancers of clouds
STOP_SECONDS = 90.0  # systemd's default

_PLACEHOLDER = re.compile(r"(^|\.)(example|invalid|test)$|(^|\.)example\.(com|net|org)$")
# Without the passwords: a missing secret must not hide a wrong host.
ADDRESSES = (
    "datastores.valkey.url",
    "datastores.postgres.url",
    "datastores.postgres.host",
    "datastores.postgres.port",
    "datastores.postgres.database",
    "datastores.postgres.user",
    "datastores.nats.url",
)
_LOCAL_NAMES = {"localhost", "localhost.localdomain", "ip6-localhost"}


def is_local(host: str) -> bool:
    """Return whether a host name or address means this machine."""
    host = host.strip("[]").lower()
    if host in _LOCAL_NAMES or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _every_address(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_unspecified


def host_of(url: str | None) -> str:
    """The host of a URL; empty if the URL has none or cannot be parsed."""
    try:
        return (urlsplit(url or "").hostname or "").lower()
    except ValueError:
        return ""


def _is_set(context: Context, key: str) -> Outcome:
    if context.is_set(key):
        return passed()
    default = attrgetter(key)(context.settings)
    text = f"{key} is not set; the default {default} would apply"
    return verdict([Remark(text, (key,))], expected="a value in the profile, even if it equals the default")


_EXPLICIT = "A default that changes in an upgrade must not move a production listener."


@check(
    "ARQ-NET-001",
    "server.host is set explicitly",
    severity=OUTSIDE_DEV,
    why=_EXPLICIT,
    fix=("$EDITOR FILE   # server: {host: 0.0.0.0}",),
    reads=("server.host",),
)
def host_is_set(context: Context) -> Outcome:
    return _is_set(context, "server.host")


@check(
    "ARQ-NET-002",
    "server.port is set explicitly",
    severity=OUTSIDE_DEV,
    why=_EXPLICIT,
    fix=("$EDITOR FILE   # server: {port: 9100}",),
    reads=("server.port",),
)
def port_is_set(context: Context) -> Outcome:
    return _is_set(context, "server.port")


@check(
    "ARQ-NET-007",
    "telemetry.host is set explicitly",
    severity=OUTSIDE_DEV,
    why=_EXPLICIT,
    fix=("$EDITOR FILE   # telemetry: {host: 127.0.0.1}",),
    reads=("telemetry.host",),
)
def telemetry_host_is_set(context: Context) -> Outcome:
    return _is_set(context, "telemetry.host")


@check(
    "ARQ-NET-008",
    "telemetry.port is set explicitly",
    severity=OUTSIDE_DEV,
    why=_EXPLICIT,
    fix=("$EDITOR FILE   # telemetry: {port: 9101}",),
    reads=("telemetry.port",),
)
def telemetry_port_is_set(context: Context) -> Outcome:
    return _is_set(context, "telemetry.port")


@check(
    "ARQ-NET-009",
    "The telemetry listener is not public",
    severity=WARN_IN_DEV,
    why="Metrics and health checks need no token; they expose tenant names, versions and load.",
    fix=("$EDITOR FILE   # telemetry: {host: 127.0.0.1}, or a private address of the host",),
    reads=("telemetry.host",),
)
def telemetry_is_private(context: Context) -> Outcome:
    host = context.settings.telemetry.host
    address = _address(host)
    public = _every_address(host) or (address is not None and address.is_global)
    return verdict(
        [f"telemetry listens on {host}"] if public else [], expected="a loopback or private address"
    )


@check(
    "ARQ-NET-010",
    "Public listeners use TLS",
    severity=WARN_IN_DEV,
    why="Without TLS, tokens and messages can be read on the network.",
    fix=(
        "$EDITOR FILE   # server: {tls: {cert_file: …, key_file: …}}",
        "$EDITOR FILE   # server: {host: 127.0.0.1}, if a load balancer on this host terminates TLS",
    ),
    reads=("server.host", "server.tls"),
    tags=("encryption",),
)
def reachable_means_encrypted(context: Context) -> Outcome:
    server = context.settings.server
    bare = server.tls.cert_file is None and not is_local(server.host)
    remarks = (
        [Remark(f"server.host is {server.host} and server.tls is not set", ("server.host",))] if bare else []
    )
    return verdict(remarks, expected="TLS, or a loopback address behind a proxy that terminates TLS")


@check(
    "ARQ-NET-011",
    "server.public_url is set",
    severity=OUTSIDE_DEV,
    why="Clients reconnect to this address, and preflight compares the certificate with it.",
    fix=("$EDITOR FILE   # server: {public_url: wss://bus.your-domain/v1/ws}",),
    reads=("server.public_url",),
)
def public_url_is_said(context: Context) -> Outcome:
    missing = context.settings.server.public_url is None
    return verdict(["server.public_url is not set"] if missing else [], expected="wss://host/v1/ws")


@check(
    "ARQ-NET-012",
    "server.public_url is a public wss:// address with the path /v1/ws",
    severity=OUTSIDE_DEV,
    why="With ws://, clients send their tokens unencrypted; any other path returns 404.",
    fix=("$EDITOR FILE   # server: {public_url: wss://bus.your-domain/v1/ws}",),
    reads=("server.public_url",),
    requires=("ARQ-NET-011",),
)
def public_url_is_right(context: Context) -> Outcome:
    url = context.settings.server.public_url or ""
    remarks = []
    if not url.startswith("wss://"):
        remarks.append("server.public_url is not wss://")
    if is_local(host_of(url)) or not host_of(url):
        remarks.append(f"server.public_url has no public host ({host_of(url) or 'none'})")
    if url.partition("://")[2].partition("/")[2].rstrip("/") != "v1/ws":
        remarks.append("server.public_url does not end in /v1/ws")
    return verdict(remarks, expected="wss://, a public host, /v1/ws")


@check(
    "ARQ-NET-013",
    "No example domain is left in the profile",
    severity=WARNING_OUTSIDE_DEV,
    why="Domains such as example.org are reserved: a profile that uses one is not finished.",
    fix=("$EDITOR FILE   # use the names of this deployment",),
    reads=("server.public_url", "server.origins", *ADDRESSES, "auth.jwt.issuer", "auth.jwt.jwks_url"),
)
def no_examples_left(context: Context) -> Outcome:
    settings = context.settings
    named: list[tuple[str, str]] = [
        ("server.public_url", host_of(settings.server.public_url)),
        *(("server.origins", host_of(each)) for each in settings.server.origins),
        ("datastores.valkey.url", settings.datastores.valkey.address[0]),
        (
            "datastores.postgres.url" if settings.datastores.postgres.url else "datastores.postgres.host",
            settings.datastores.postgres.address[0],
        ),
        ("datastores.nats.url", settings.datastores.nats.address[0]),
        ("auth.jwt.issuer", host_of(settings.auth.jwt.issuer)),
        ("auth.jwt.jwks_url", host_of(settings.auth.jwt.jwks_url)),
    ]
    remarks = [
        Remark(f"{key} uses the example domain {host}", (key,))
        for key, host in named
        if _PLACEHOLDER.search(host)
    ]
    return verdict(remarks, expected="names of this deployment")


@check(
    "ARQ-NET-014",
    "server.port and telemetry.port differ",
    severity=EVERYWHERE,
    why="The second listener cannot open the port, and the bus does not start.",
    fix=("$EDITOR FILE   # telemetry: {port: 9101}",),
    reads=("server.host", "server.port", "telemetry.host", "telemetry.port"),
)
def ports_differ(context: Context) -> Outcome:
    server, telemetry = context.settings.server, context.settings.telemetry
    same_host = server.host == telemetry.host or _every_address(server.host) or _every_address(telemetry.host)
    clash = server.port == telemetry.port and same_host
    remarks = (
        [Remark(f"server.port and telemetry.port are both {server.port}", ("telemetry.port",))]
        if clash
        else []
    )
    return verdict(remarks, expected="two different ports")


@check(
    "ARQ-NET-015",
    "Ports are 1024 or higher",
    severity=WARNING_EVERYWHERE,
    why="A port below 1024 requires CAP_NET_BIND_SERVICE, which the bus does not need otherwise.",
    fix=("$EDITOR FILE   # server: {port: 9100}, with a load balancer on 443 in front",),
    reads=("server.port", "telemetry.port"),
)
def ports_are_unprivileged(context: Context) -> Outcome:
    ports = {"server.port": context.settings.server.port, "telemetry.port": context.settings.telemetry.port}
    remarks = [Remark(f"{key} is {port}", (key,)) for key, port in ports.items() if port < 1024]
    return verdict(remarks, expected="1024 or more")


@check(
    "ARQ-NET-016",
    f"limits.ping_interval is above 0 and below {PROXY_IDLE_SECONDS:g} s",
    severity=WARN_IN_DEV,
    why="Proxies close idle connections, most of them after 60 s; clients then keep reconnecting.",
    fix=("$EDITOR FILE   # limits: {ping_interval: 25s}",),
    reads=("limits.ping_interval",),
    tags=("timeouts",),
)
def pings_outpace_proxies(context: Context) -> Outcome:
    interval = context.settings.limits.ping_interval
    remarks = []
    if interval == 0:
        remarks.append("limits.ping_interval is 0: pings are disabled")
    elif interval >= PROXY_IDLE_SECONDS:
        remarks.append(f"limits.ping_interval is {interval:g} s")
    return verdict(remarks, expected=f"more than 0 and less than {PROXY_IDLE_SECONDS:g} s")


@check(
    "ARQ-NET-017",
    "Dead connections are detected within 90 s",
    severity=WARNING_OUTSIDE_DEV,
    why="Until then, messages are queued for the disconnected client, and presence still lists it.",
    fix=("$EDITOR FILE   # limits: {ping_interval: 25s, ping_timeout: 20s}",),
    reads=("limits.ping_interval", "limits.ping_timeout"),
    tags=("timeouts",),
)
def dead_connections_are_found(context: Context) -> Outcome:
    limits = context.settings.limits
    total = limits.ping_interval + limits.ping_timeout
    late = (
        [f"limits.ping_interval and limits.ping_timeout add up to {total:g} s"]
        if limits.ping_interval and total > 90
        else []
    )
    return verdict(late, expected="at most 90 s")


@check(
    "ARQ-NET-018",
    "Graceful shutdown takes at least 1 s",
    severity=OUTSIDE_DEV,
    why="Without a drain, all clients reconnect at once, and publishes in flight get no ack.",
    fix=("$EDITOR FILE   # server: {drain_seconds: 20}",),
    reads=("server.drain_seconds",),
    tags=("timeouts",),
)
def there_is_a_drain(context: Context) -> Outcome:
    seconds = context.settings.server.drain_seconds
    return verdict([f"server.drain_seconds is {seconds:g}"] if seconds < 1 else [], expected="at least 1 s")


@check(
    "ARQ-NET-019",
    "server.drain_seconds is below the default stop timeout of systemd",
    severity=OUTSIDE_DEV,
    why="When the stop timeout ends, systemd kills the bus in the middle of the drain.",
    fix=("$EDITOR FILE   # server: {drain_seconds: 20}", "systemctl edit arqonbus@   # TimeoutStopSec=60"),
    reads=("server.drain_seconds",),
    tags=("timeouts",),
)
def drain_fits_the_default(context: Context) -> Outcome:
    seconds = context.settings.server.drain_seconds
    late = [f"server.drain_seconds is {seconds:g}"] if seconds >= STOP_SECONDS else []
    return verdict(late, expected=f"less than {STOP_SECONDS:g} s, the default of systemd")


@check(
    "ARQ-NET-020",
    "server.drain_seconds is below TimeoutStopSec of this host's unit",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="When TimeoutStopSec ends, systemd kills the bus in the middle of the drain.",
    fix=("systemctl edit arqonbus@   # TimeoutStopSec=60", "systemctl daemon-reload"),
    reads=("server.drain_seconds",),
    tags=("timeouts",),
)
def drain_fits_the_unit(context: Context) -> Outcome:
    host, seconds = context.host, context.settings.server.drain_seconds
    if host.stop_seconds is None:
        return skipped("no unit on this host sets TimeoutStopSec")
    late = seconds >= host.stop_seconds
    remarks = [f"server.drain_seconds is {seconds:g} and {host.stop_source} allows {host.stop_seconds:g} s"]
    return verdict(remarks if late else [], expected="a value below the stop timeout")


def _port_outcome(context: Context, key: str, states: Sequence[str], expected: str) -> Outcome:
    ports = [port for port in context.host.ports if port.key == key]
    if not ports:
        return skipped(f"{key} was not tested on this host")
    remarks = [f"{p.host}:{p.port} {p.reason or p.state}" for p in ports if p.state in states]
    return verdict(remarks, expected=expected) if remarks else passed()


@check(
    "ARQ-NET-021",
    "server.port is free, or used by this bus",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="If the bus cannot open the port, it does not start.",
    fix=("ss -ltnp 'sport = :9100'", "$EDITOR FILE   # server: {port: another}"),
    reads=("server.host", "server.port"),
)
def port_is_free(context: Context) -> Outcome:
    return _port_outcome(context, "server.port", ("taken", "refused"), "a port that can be opened")


@check(
    "ARQ-NET-022",
    "telemetry.port is free, or used by this bus",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="If the bus cannot open the port, it does not start.",
    fix=("ss -ltnp 'sport = :9101'", "$EDITOR FILE   # telemetry: {port: another}"),
    reads=("telemetry.host", "telemetry.port"),
)
def telemetry_port_is_free(context: Context) -> Outcome:
    return _port_outcome(context, "telemetry.port", ("taken", "refused"), "a port that can be opened")


@check(
    "ARQ-NET-023",
    "The listener addresses belong to this host",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus cannot listen on another host's address or on a name that does not resolve.",
    fix=("ip -brief address", "$EDITOR FILE   # server: {host: an address of this host}"),
    reads=("server.host", "telemetry.host"),
)
def addresses_are_here(context: Context) -> Outcome:
    foreign = [port for port in context.host.ports if port.state == "not_here"]
    remarks = [
        Remark(f"{p.host} is not an address of this host", (p.key.replace("port", "host"),)) for p in foreign
    ]
    return verdict(remarks, expected="addresses of this host")


@check(
    "ARQ-NET-024",
    "server.handshake_timeout is between 1 s and 60 s",
    severity=WARNING_OUTSIDE_DEV,
    why="A client that connects and sends nothing would occupy a connection slot indefinitely.",
    fix=("$EDITOR FILE   # server: {handshake_timeout: 10s}",),
    reads=("server.handshake_timeout",),
    tags=("timeouts",),
)
def handshakes_end(context: Context) -> Outcome:
    seconds = context.settings.server.handshake_timeout
    wrong = seconds < 1 or seconds > 60
    return verdict(
        [f"server.handshake_timeout is {seconds:g} s"] if wrong else [], expected="between 1 s and 60 s"
    )
