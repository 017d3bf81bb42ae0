"""VAL, continued: whether the sentinels agree on the primary and can elect another one."""

from __future__ import annotations

from arqonbus.preflight.checks.val import not_asked
from arqonbus.preflight.facts import SentinelAnswers
from arqonbus.preflight.model import EVERYWHERE, WARN_IN_DEV, Context, Outcome, Phase, skipped, verdict
from arqonbus.preflight.registry import check

_SENTINEL = "datastores.valkey.sentinel"


def _sentinels(context: Context) -> tuple[SentinelAnswers, ...]:
    assert context.facts is not None
    assert context.facts.valkey is not None
    return context.facts.valkey.sentinels


def _no_sentinels(context: Context) -> str:
    if not context.settings.datastores.valkey.sentinel.nodes:
        return "no sentinels are configured"
    because = not_asked(context)
    return because or ("" if _sentinels(context) else "the sentinels were not queried")


@check(
    "ARQ-VAL-020",
    "Every sentinel is reachable, and all name the same primary",
    phase=Phase.ONLINE,
    severity=EVERYWHERE,
    why="An outdated sentinel sends nodes to a replaced primary; without sentinels, nodes find none.",
    fix=("valkey-cli -h HOST -p 26379 SENTINEL MASTER arqonbus   # on each of them",),
    reads=(_SENTINEL,),
)
def sentinels_agree(context: Context) -> Outcome:
    because = _no_sentinels(context)
    if because:
        return skipped(because)
    said = _sentinels(context)
    remarks = [each.failure.text for each in said if each.failure is not None]
    fix = [command for each in said if each.failure is not None for command in each.failure.fix]
    named = sorted({each.primary for each in said if each.primary})
    if len(named) > 1:
        remarks += [f"{each.where} names {each.primary}" for each in said if each.primary]
    return verdict(remarks, expected="the same primary from every sentinel", fix=list(dict.fromkeys(fix)))


@check(
    "ARQ-VAL-021",
    "The sentinels can elect another primary",
    phase=Phase.ONLINE,
    severity=WARN_IN_DEV,
    why="Without a quorum and a replica, no failover happens when the primary fails.",
    fix=(
        "valkey-cli -h HOST -p 26379 SENTINEL CKQUORUM arqonbus",
        "valkey-cli -h HOST -p 26379 SENTINEL REPLICAS arqonbus",
    ),
    reads=(_SENTINEL,),
    requires=("ARQ-VAL-020",),
)
def sentinels_can_elect(context: Context) -> Outcome:
    because = _no_sentinels(context)
    if because:
        return skipped(because)
    remarks = []
    for each in _sentinels(context):
        if each.quorum_problem:
            remarks.append(f"{each.where} has no quorum: {each.quorum_problem}")
        if each.replicas == 0:
            remarks.append(f"{each.where} knows no replica")
        if each.flags != "master":
            remarks.append(f"{each.where} reports the primary as {each.flags}")
    return verdict(remarks, expected="a quorum, a replica, and a primary that is up")
