"""NET, continued: allowed origins and trusted proxies."""

from __future__ import annotations

import re
from ipaddress import ip_network

from arqonbus.preflight.checks.net import host_of, is_local
from arqonbus.preflight.model import EVERYWHERE, OUTSIDE_DEV, Context, Outcome, verdict
from arqonbus.preflight.registry import check

LEAST_PREFIX = {4: 8, 6: 32}  # 10.0.0.0/8 is the widest private range


@check(
    "ARQ-NET-003",
    "Wildcards in server.origins stay within one domain",
    severity=OUTSIDE_DEV,
    why="Any web page that a user opens could connect on that user's behalf.",
    fix=("$EDITOR FILE   # origins: [https://app.your-domain]",),
    reads=("server.origins",),
    tags=("origins",),
)
def origins_are_named(context: Context) -> Outcome:
    wide = [origin for origin in context.settings.server.origins if _too_wide(origin)]
    remarks = [f'server.origins allows "{origin}"' for origin in wide]
    return verdict(remarks, expected="origins that end in a domain of this deployment")


@check(
    "ARQ-NET-025",
    "server.trusted_proxies is narrow, and set if proxy_protocol is on",
    severity=EVERYWHERE,
    why="A trusted proxy can claim any client address, and so bypass the limits per address.",
    fix=("$EDITOR FILE   # server: {trusted_proxies: [10.0.0.5]}",),
    reads=("server.trusted_proxies", "server.proxy_protocol"),
)
def proxies_are_few(context: Context) -> Outcome:
    server = context.settings.server
    remarks = []
    if server.proxy_protocol and not server.trusted_proxies:
        remarks.append("server.proxy_protocol is on and server.trusted_proxies is empty")
    for text in server.trusted_proxies:
        network = ip_network(text)
        if network.prefixlen < LEAST_PREFIX[network.version]:
            remarks.append(f"the trusted proxy range {text} covers {network.num_addresses} addresses")
    return verdict(remarks, expected="the addresses of your proxies only")


@check(
    "ARQ-NET-026",
    "Trusted proxies report the addresses of clients",
    severity=EVERYWHERE,
    why="Otherwise all clients have the address of their proxy, and share the limits per address.",
    fix=("$EDITOR FILE   # server: {forwarded_header: x-forwarded-for}",),
    reads=("server.trusted_proxies", "server.forwarded_header", "server.proxy_protocol"),
)
def proxies_report_clients(context: Context) -> Outcome:
    server = context.settings.server
    remarks = []
    if server.trusted_proxies and not (server.forwarded_header or server.proxy_protocol):
        remarks.append("server.trusted_proxies is set without forwarded_header or proxy_protocol")
    if server.forwarded_header and not server.trusted_proxies:
        remarks.append("server.forwarded_header is set and server.trusted_proxies is empty")
    return verdict(remarks, expected="the header that your proxies write on every request")


def _too_wide(origin: str) -> bool:
    host = origin.partition("://")[2] or origin
    labels = host.partition(":")[0].split(".")
    # At least two whole labels at the end; otherwise the pattern covers other people's domains.
    return "*" in origin and (len(labels) < 3 or any("*" in label for label in labels[-2:]))


@check(
    "ARQ-NET-004",
    "Every allowed origin uses https://",
    severity=OUTSIDE_DEV,
    why="A page loaded without TLS can be modified on the network, and then acts with the user's token.",
    fix=("$EDITOR FILE   # origins: [https://app.your-domain]",),
    reads=("server.origins",),
    tags=("origins",),
)
def origins_are_encrypted(context: Context) -> Outcome:
    plain = [origin for origin in context.settings.server.origins if origin.startswith("http://")]
    return verdict([f'server.origins allows "{origin}"' for origin in plain], expected="https:// only")


@check(
    "ARQ-NET-005",
    "server.origins does not allow localhost",
    severity=OUTSIDE_DEV,
    why="Any program on the user's machine could connect on that user's behalf.",
    fix=("$EDITOR FILE   # remove the origin",),
    reads=("server.origins",),
    tags=("origins",),
)
def origins_are_not_local(context: Context) -> Outcome:
    local = [each for each in context.settings.server.origins if is_local(host_of(each))]
    return verdict([f'server.origins allows "{origin}"' for origin in local], expected="no localhost")


@check(
    "ARQ-NET-006",
    "Every origin has the form scheme://host[:port]",
    severity=EVERYWHERE,
    why="A browser sends only scheme, host and port: an origin in another form never matches, and the page "
    "is refused.",
    fix=("$EDITOR FILE   # origins: [https://app.your-domain]",),
    reads=("server.origins",),
    tags=("origins",),
)
def origins_can_match(context: Context) -> Outcome:
    form = re.compile(r"[a-z*][a-z0-9+.*-]*://[^/?#@\s]+|\*|null")
    wrong = [each for each in context.settings.server.origins if not form.fullmatch(each.lower())]
    return verdict(
        [f'"{each}" matches no page' for each in wrong], expected="https://host or https://host:port"
    )
