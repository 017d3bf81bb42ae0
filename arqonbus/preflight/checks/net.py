"""NET: the addresses and ports of this node, the pages that may connect, and the times that must fit."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
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
# Without the passwords, so that a secret that is missing does not hide a wrong host.
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
    """Whether a name or an address means this machine."""
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
    """The host of a URL; empty, if there is none to be read."""
    try:
        return (urlsplit(url or "").hostname or "").lower()
    except ValueError:
        return ""


def _is_said(context: Context, key: str) -> Outcome:
    remarks = [] if context.is_set(key) else [Remark(f"nobody sets {key}; the default would hold", (key,))]
    return verdict(remarks, expected="a value in the profile, also where it equals the default")


_SAID = "What an upgrade changes must not move a production port; a reviewer sees only what is written."


@check(
    "ARQ-NET-001",
    "The address of the bus is said",
    severity=OUTSIDE_DEV,
    why=_SAID,
    fix=("$EDITOR FILE   # server: {host: 0.0.0.0}",),
    reads=("server.host",),
)
def host_is_said(context: Context) -> Outcome:
    return _is_said(context, "server.host")


@check(
    "ARQ-NET-002",
    "The port of the bus is said",
    severity=OUTSIDE_DEV,
    why=_SAID,
    fix=("$EDITOR FILE   # server: {port: 9100}",),
    reads=("server.port",),
)
def port_is_said(context: Context) -> Outcome:
    return _is_said(context, "server.port")


@check(
    "ARQ-NET-007",
    "The address of telemetry is said",
    severity=OUTSIDE_DEV,
    why=_SAID,
    fix=("$EDITOR FILE   # telemetry: {host: 127.0.0.1}",),
    reads=("telemetry.host",),
)
def telemetry_host_is_said(context: Context) -> Outcome:
    return _is_said(context, "telemetry.host")


@check(
    "ARQ-NET-008",
    "The port of telemetry is said",
    severity=OUTSIDE_DEV,
    why=_SAID,
    fix=("$EDITOR FILE   # telemetry: {port: 9101}",),
    reads=("telemetry.port",),
)
def telemetry_port_is_said(context: Context) -> Outcome:
    return _is_said(context, "telemetry.port")


@check(
    "ARQ-NET-009",
    "Telemetry is not public",
    severity=WARN_IN_DEV,
    why="Metrics and health tell tenants, versions and load to whoever asks, without a token.",
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
    "What others can reach is encrypted",
    severity=WARN_IN_DEV,
    why="Tokens and messages would cross the network for everybody on the way to read.",
    fix=(
        "$EDITOR FILE   # server: {tls: {cert_file: …, key_file: …}}",
        "$EDITOR FILE   # server: {host: 127.0.0.1}, where a load balancer on this host ends TLS",
    ),
    reads=("server.host", "server.tls"),
    tags=("encryption",),
)
def reachable_means_encrypted(context: Context) -> Outcome:
    server = context.settings.server
    bare = server.tls.cert_file is None and not is_local(server.host)
    remarks = [Remark(f"the bus listens on {server.host} without TLS", ("server.host",))] if bare else []
    return verdict(remarks, expected="TLS, or a loopback address behind a proxy")


@check(
    "ARQ-NET-011",
    "The public address is said",
    severity=OUTSIDE_DEV,
    why="Clients are told to come back to it, and the certificate is compared with it.",
    fix=("$EDITOR FILE   # server: {public_url: wss://bus.your-domain/v1/ws}",),
    reads=("server.public_url",),
)
def public_url_is_said(context: Context) -> Outcome:
    missing = context.settings.server.public_url is None
    return verdict(["server.public_url is not set"] if missing else [], expected="wss://host/v1/ws")


@check(
    "ARQ-NET-012",
    "The public address is one that clients can use safely",
    severity=OUTSIDE_DEV,
    why="Clients that are given ws:// send their token in the clear; another path gives 404.",
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
        remarks.append(f"server.public_url names no host that others can reach ({host_of(url) or 'none'})")
    if url.partition("://")[2].partition("/")[2].rstrip("/") != "v1/ws":
        remarks.append("server.public_url does not end in /v1/ws")
    return verdict(remarks, expected="wss://, a public host, /v1/ws")


@check(
    "ARQ-NET-013",
    "No name of the examples is left",
    severity=WARNING_OUTSIDE_DEV,
    why="Names such as example.org belong to nobody; this profile was not finished.",
    fix=("$EDITOR FILE   # write your own names",),
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
    remarks = [Remark(f"{key} names {host}", (key,)) for key, host in named if _PLACEHOLDER.search(host)]
    return verdict(remarks, expected="names of this deployment")


@check(
    "ARQ-NET-014",
    "Bus and telemetry have ports of their own",
    severity=EVERYWHERE,
    why="The second one cannot be opened, and the bus does not start.",
    fix=("$EDITOR FILE   # telemetry: {port: 9101}",),
    reads=("server.host", "server.port", "telemetry.host", "telemetry.port"),
)
def ports_differ(context: Context) -> Outcome:
    server, telemetry = context.settings.server, context.settings.telemetry
    same_host = server.host == telemetry.host or _every_address(server.host) or _every_address(telemetry.host)
    clash = server.port == telemetry.port and same_host
    remarks = [Remark(f"both want port {server.port}", ("telemetry.port",))] if clash else []
    return verdict(remarks, expected="two different ports")


@check(
    "ARQ-NET-015",
    "No port needs privileges",
    severity=WARNING_EVERYWHERE,
    why="A port below 1024 can only be opened with a capability that the bus otherwise runs without.",
    fix=("$EDITOR FILE   # server: {port: 9100}, behind a load balancer on 443",),
    reads=("server.port", "telemetry.port"),
)
def ports_are_unprivileged(context: Context) -> Outcome:
    ports = {"server.port": context.settings.server.port, "telemetry.port": context.settings.telemetry.port}
    remarks = [Remark(f"{key} is {port}", (key,)) for key, port in ports.items() if port < 1024]
    return verdict(remarks, expected="1024 or more")


@check(
    "ARQ-NET-016",
    "Connections are kept alive through proxies",
    severity=WARN_IN_DEV,
    why="A proxy cuts connections that are silent for its idle timeout, mostly 60 s; clients reconnect.",
    fix=("$EDITOR FILE   # limits: {ping_interval: 25s}",),
    reads=("limits.ping_interval",),
    tags=("timeouts",),
)
def pings_outpace_proxies(context: Context) -> Outcome:
    interval = context.settings.limits.ping_interval
    remarks = []
    if interval == 0:
        remarks.append("pings are off")
    elif interval >= PROXY_IDLE_SECONDS:
        remarks.append(f"a ping goes out every {interval:g} s")
    return verdict(remarks, expected=f"more than 0 and less than {PROXY_IDLE_SECONDS:g} s")


@check(
    "ARQ-NET-017",
    "Dead connections are found before a minute and a half is over",
    severity=WARNING_OUTSIDE_DEV,
    why="Until then messages pile up for a client that is gone, and it counts as present.",
    fix=("$EDITOR FILE   # limits: {ping_interval: 25s, ping_timeout: 20s}",),
    reads=("limits.ping_interval", "limits.ping_timeout"),
    tags=("timeouts",),
)
def dead_connections_are_found(context: Context) -> Outcome:
    limits = context.settings.limits
    total = limits.ping_interval + limits.ping_timeout
    late = [f"interval and timeout together are {total:g} s"] if limits.ping_interval and total > 90 else []
    return verdict(late, expected="90 s at most")


@check(
    "ARQ-NET-018",
    "Connections are closed over time at a stop",
    severity=OUTSIDE_DEV,
    why="Without a drain all clients reconnect in one moment, and what was about to be acked is cut.",
    fix=("$EDITOR FILE   # server: {drain_seconds: 20}",),
    reads=("server.drain_seconds",),
    tags=("timeouts",),
)
def there_is_a_drain(context: Context) -> Outcome:
    seconds = context.settings.server.drain_seconds
    return verdict([f"the drain takes {seconds:g} s"] if seconds < 1 else [], expected="1 s at least")


@check(
    "ARQ-NET-019",
    "The drain ends before the service is killed",
    severity=OUTSIDE_DEV,
    why="What stops the bus kills it after its own timeout, in the middle of the drain.",
    fix=("$EDITOR FILE   # server: {drain_seconds: 20}", "systemctl edit arqonbus@   # TimeoutStopSec=60"),
    reads=("server.drain_seconds",),
    tags=("timeouts",),
)
def drain_fits_the_default(context: Context) -> Outcome:
    seconds = context.settings.server.drain_seconds
    late = [f"the drain takes {seconds:g} s"] if seconds >= STOP_SECONDS else []
    return verdict(late, expected=f"less than {STOP_SECONDS:g} s, the default of systemd")


@check(
    "ARQ-NET-020",
    "The drain fits the stop timeout of this host's unit",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="systemd kills the bus in the middle of the drain.",
    fix=("systemctl edit arqonbus@   # TimeoutStopSec=60", "systemctl daemon-reload"),
    reads=("server.drain_seconds",),
    tags=("timeouts",),
)
def drain_fits_the_unit(context: Context) -> Outcome:
    host, seconds = context.host, context.settings.server.drain_seconds
    if host.stop_seconds is None:
        return skipped("no unit of this host sets a stop timeout")
    late = seconds >= host.stop_seconds
    remarks = [f"the drain takes {seconds:g} s and {host.stop_source} allows {host.stop_seconds:g} s"]
    return verdict(remarks if late else [], expected="a drain shorter than the stop timeout")


def _port_outcome(context: Context, key: str, states: Sequence[str], expected: str) -> Outcome:
    ports = [port for port in context.host.ports if port.key == key]
    if not ports:
        return skipped(f"{key} was not tried on this host")
    remarks = [f"{p.host}:{p.port} {p.reason or p.state}" for p in ports if p.state in states]
    return verdict(remarks, expected=expected) if remarks else passed()


@check(
    "ARQ-NET-021",
    "The port of the bus is free, or ours",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus cannot open it and does not start.",
    fix=("ss -ltnp 'sport = :9100'", "$EDITOR FILE   # server: {port: another}"),
    reads=("server.host", "server.port"),
)
def port_is_free(context: Context) -> Outcome:
    return _port_outcome(context, "server.port", ("taken", "refused"), "a port that can be opened")


@check(
    "ARQ-NET-022",
    "The port of telemetry is free, or ours",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus opens it first and does not start without it.",
    fix=("ss -ltnp 'sport = :9101'", "$EDITOR FILE   # telemetry: {port: another}"),
    reads=("telemetry.host", "telemetry.port"),
)
def telemetry_port_is_free(context: Context) -> Outcome:
    return _port_outcome(context, "telemetry.port", ("taken", "refused"), "a port that can be opened")


@check(
    "ARQ-NET-023",
    "This host has the addresses that are listened on",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="An address of another host, or a name that is not known, cannot be listened on.",
    fix=("ip -brief address", "$EDITOR FILE   # server: {host: an address of this host}"),
    reads=("server.host", "telemetry.host"),
)
def addresses_are_here(context: Context) -> Outcome:
    away = [port for port in context.host.ports if port.state == "not_here"]
    remarks = [Remark(f"{p.host} is no address of this host", (p.key.replace("port", "host"),)) for p in away]
    return verdict(remarks, expected="addresses of this host")


@check(
    "ARQ-NET-024",
    "Half-open connections end",
    severity=WARNING_OUTSIDE_DEV,
    why="Whoever connects and says nothing would hold a place as long as they like.",
    fix=("$EDITOR FILE   # server: {handshake_timeout: 10s}",),
    reads=("server.handshake_timeout",),
    tags=("timeouts",),
)
def handshakes_end(context: Context) -> Outcome:
    seconds = context.settings.server.handshake_timeout
    wrong = seconds < 1 or seconds > 60
    return verdict([f"a handshake may take {seconds:g} s"] if wrong else [], expected="between 1 s and 60 s")
