"""NET, continued: the pages that may connect."""

from __future__ import annotations

import re

from arqonbus.preflight.checks.net import host_of, is_local
from arqonbus.preflight.model import EVERYWHERE, OUTSIDE_DEV, Context, Outcome, verdict
from arqonbus.preflight.registry import check


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
