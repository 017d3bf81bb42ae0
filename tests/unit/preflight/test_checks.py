"""Every check: its texts, where it passes, where it fails."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from arqonbus.preflight.model import Severity, Status
from arqonbus.preflight.registry import FAMILIES, check_set, checks, select
from arqonbus.preflight.runner import Report
from tests.unit.preflight.deployment import Deployment, corpus, failed_ids

FAULTS = corpus("faults")
EDGES = corpus("edges")
COMBINED = corpus("combined")
BY_ID = {fault["id"]: fault for fault in [*FAULTS, *EDGES]}


@cache
def _good(root: Path, kind: str) -> Report:
    return Deployment(root, kind).report()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    """Reports of deployments in which nothing is wrong; with a cluster, sentinels, a projector, a waiver."""
    reports = [Deployment(tmp_path_factory.mktemp(kind), kind).report() for kind in ("prod", "keys", "dev")]
    for kind, number in (("cluster", 1064), ("projector", 1065), ("sentinel", 1069)):
        reports.append(Deployment(tmp_path_factory.mktemp(kind)).put_in(BY_ID[number]).report())
    return [*reports, Deployment(tmp_path_factory.mktemp("waived")).put_in(BY_ID[858]).report()]


@pytest.mark.parametrize("id", checks())
def test_every_check_passes_somewhere_and_fails_somewhere(id: str, good: list[Report]) -> None:
    """There is a deployment that satisfies it, a fault that it finds, and words that help."""
    check = checks()[id]
    ends = {result.outcome.status for report in good for result in report.results if result.check.id == id}
    assert Status.PASSED in ends
    assert any(id in fault["expect"] for fault in FAULTS)
    assert check.why.endswith(".")
    assert all(command.strip() for command in check.fix)
    assert check.fix
    assert check.title


def test_nothing_is_wrong_where_nothing_is_wrong(good: list[Report]) -> None:
    """Good deployments have no failed check, no warning, and no waiver that is not needed."""
    assert [failed_ids(report) for report in good] == [*[set()] * 6, {"ARQ-PRO-001"}]
    assert all(not report.failures and not report.warnings for report in good)


@pytest.mark.parametrize("fault", [*FAULTS, *EDGES], ids=lambda fault: str(fault["id"]))
def test_one_fault_is_found_as_exactly_what_it_is(fault: dict[str, Any], tmp_path: Path) -> None:
    """One pass finds these ids and no other; a failed check says what it saw and what it wanted."""
    report = Deployment(tmp_path, fault.get("in", "prod")).put_in(fault).report()
    assert failed_ids(report) == set(fault["expect"])
    assert [result.check.id for result in report.waived] == fault.get("waived", [])
    assert bool(report.loaded.unread) == (fault.get("exit") == 3)
    for result in report.results:
        if result.outcome.status is Status.FAILED:
            assert result.seen
            assert result.outcome.expected
            assert all(seen.text and not seen.text.endswith(".") for seen in result.seen)


@pytest.mark.parametrize(
    ("whole", "id"),
    {
        "10 MB": ("policy: {blocked_keys: [" + "a, " * 3_500_000 + "a]}\n", "ARQ-CFG-004"),
        "deep": ("a: " + "{a: " * 5_000 + "1" + "}" * 5_000 + "\n", "ARQ-CFG-004"),
        "no text": ("\0\1\2", "ARQ-CFG-003"),
        "norway": ("environment: no\nserver: {port: 1:30}\n", "ARQ-CFG-007"),
        "octal": ("server: {port: 0o22}\n", "ARQ-CFG-007"),
        "date": ("server: {drain_seconds: 2026-01-01}\n", "ARQ-CFG-007"),
    }.values(),
    ids=("10 MB", "deep", "no text", "norway", "octal", "date"),
)
def test_a_hostile_profile_is_a_finding(whole: str, id: str, tmp_path: Path) -> None:
    """Size, depth, bytes and the surprises of YAML 1.1 end as one of its ids, and at once."""
    report = Deployment(tmp_path).put_in({"whole": whole}).report()
    assert id in failed_ids(report)
    assert not [r for r in report.results if r.outcome.status is Status.ERRORED]


@pytest.mark.parametrize("case", COMBINED, ids=lambda case: "+".join(map(str, case["faults"])))
def test_several_faults_are_all_found_in_one_pass(case: dict[str, Any], tmp_path: Path) -> None:
    """Faults of different layers do not hide each other."""
    deployment = Deployment(tmp_path)
    for number in case["faults"]:
        deployment.put_in(BY_ID[number])
    report = deployment.report()
    assert failed_ids(report) == set(case["expect"])
    skipped = {result.check.id for result in report.results if result.outcome.because}
    assert set(case.get("hidden", [])) <= skipped


def test_the_corpus_is_large_and_covers_every_check() -> None:
    """At least 150 faulty profiles, single and combined, and each check is found in one of them."""
    assert len(FAULTS) + len(COMBINED) >= 300
    assert {id for fault in FAULTS for id in fault["expect"]} == set(checks())
    assert len({fault["id"] for fault in FAULTS}) == len(FAULTS)


def test_ids_families_and_severities_are_consistent() -> None:
    """Ids are stable in form, staging is judged like prod, and what is required exists and comes earlier."""
    order = list(checks())
    assert len(order) >= 80
    for check in checks().values():
        assert re.fullmatch(r"ARQ-[A-Z]{3}-[0-9]{3}", check.id)
        assert check.family in FAMILIES
        assert check.severity["staging"] == check.severity["prod"] != Severity.OFF
        for required in check.requires:
            assert required in checks()


def test_what_a_check_reads_are_settings() -> None:
    """A check whose settings were renamed would never be skipped when they are broken."""
    from arqonbus.config.tree import leaves, sections

    known = {".".join(path) for path in (*leaves(), *sections())}
    assert {read for check in checks().values() for read in check.reads} <= known


def test_checks_are_chosen_by_id_family_or_tag() -> None:
    """`--only` takes all three, in any case."""
    assert select(["arq-net-003"]) == {"ARQ-NET-003"}
    assert {checks()[id].family for id in select(["tls"])} == {"TLS"}
    assert "ARQ-VAL-010" in select(["latency"])
    assert re.fullmatch(r"[0-9a-f]{12}", check_set())
