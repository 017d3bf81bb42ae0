"""NET, continued: the pages that may connect, and the proxies whose word counts."""

from __future__ import annotations

import re
from ipaddress import ip_network

from arqonbus.preflight.checks.net import host_of, is_local
from arqonbus.preflight.model import EVERYWHERE, OUTSIDE_DEV, Context, Outcome, verdict
from arqonbus.preflight.registry import check

LEAST_PREFIX = {4: 8, 6: 32}  # 10.0.0.0/8 is the widest range that anybody has of their own


@check(
    "ARQ-NET-003",
    "Only named pages may connect",
    severity=OUTSIDE_DEV,
    why="Any page that a user opens could connect in their name.",
    fix=("$EDITOR FILE   # origins: [https://app.your-domain]",),
    reads=("server.origins",),
    tags=("origins",),
)
def origins_are_named(context: Context) -> Outcome:
    wide = [origin for origin in context.settings.server.origins if _too_wide(origin)]
    remarks = [f'server.origins allows "{origin}"' for origin in wide]
    return verdict(remarks, expected="origins that end in a domain of yours")


@check(
    "ARQ-NET-025",
    "Trusted proxies are few, and are there where they are needed",
    severity=EVERYWHERE,
    why="Who is trusted may say that it is any address, and so be in nobody's limits.",
    fix=("$EDITOR FILE   # server: {trusted_proxies: [10.0.0.5]}",),
    reads=("server.trusted_proxies", "server.proxy_protocol"),
)
def proxies_are_few(context: Context) -> Outcome:
    server = context.settings.server
    remarks = []
    if server.proxy_protocol and not server.trusted_proxies:
        remarks.append("proxy_protocol is on and no proxy is trusted, so none is listened to")
    for text in server.trusted_proxies:
        network = ip_network(text)
        if network.prefixlen < LEAST_PREFIX[network.version]:
            remarks.append(f"{text} takes in {network.num_addresses} addresses")
    return verdict(remarks, expected="the addresses of your proxies")


def _too_wide(origin: str) -> bool:
    host = origin.partition("://")[2] or origin
    labels = host.partition(":")[0].split(".")
    # Two whole labels at the end at least, or the pattern takes in domains of strangers.
    return "*" in origin and (len(labels) < 3 or any("*" in label for label in labels[-2:]))


@check(
    "ARQ-NET-004",
    "Pages that may connect were loaded over TLS",
    severity=OUTSIDE_DEV,
    why="A page that came in the clear can be changed on its way, and then acts with the user's token.",
    fix=("$EDITOR FILE   # origins: [https://app.your-domain]",),
    reads=("server.origins",),
    tags=("origins",),
)
def origins_are_encrypted(context: Context) -> Outcome:
    plain = [origin for origin in context.settings.server.origins if origin.startswith("http://")]
    return verdict([f'server.origins allows "{origin}"' for origin in plain], expected="https:// only")


@check(
    "ARQ-NET-005",
    "No page of a developer's machine may connect",
    severity=OUTSIDE_DEV,
    why="Whatever runs on the user's own machine could connect in their name.",
    fix=("$EDITOR FILE   # remove the origin",),
    reads=("server.origins",),
    tags=("origins",),
)
def origins_are_not_local(context: Context) -> Outcome:
    local = [each for each in context.settings.server.origins if is_local(host_of(each))]
    return verdict([f'server.origins allows "{origin}"' for origin in local], expected="no localhost")


@check(
    "ARQ-NET-006",
    "Every origin has the form of one",
    severity=EVERYWHERE,
    why="A browser sends scheme, host and port, and nothing else: such an origin never matches, so the page "
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
