"""Running checks: skips and their reasons, broken checks, waivers, receipts, hostile input, the command."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from arqonbus.cli import main
from arqonbus.config import Location
from arqonbus.preflight import receipt, runner, start_check
from arqonbus.preflight.facts import FactsUnreadable, facts_text, read_facts
from arqonbus.preflight.model import OUTSIDE_DEV, Check, Context, Outcome, Phase, Status, passed
from arqonbus.preflight.registry import UnknownCheck, add, checks, select
from arqonbus.preflight.runner import Loaded, Report
from arqonbus.preflight.waivers import parse_waivers, read_waivers
from tests.unit.preflight.deployment import NOW, Deployment, failed_ids

PLACE = Location("waivers", "waivers.yaml")
BOMB = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{f'*{before},' * 9}]\n" for before, name in pairwise("abcdefghi")
)


def ends(report: Report) -> dict[str, str]:
    return {result.check.id: result.outcome.status.value for result in report.results}


def one_check(judge: Any, **options: Any) -> Check:
    return Check("ARQ-NET-999", "A title", Phase.STATIC, OUTSIDE_DEV, "Why.", ("fix",), judge, **options)


@pytest.fixture
def only_check(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run one check of the test's own over the good deployment."""

    def run(tmp_path: Path, judge: Any) -> runner.Result:
        check = one_check(judge)
        monkeypatch.setattr(runner, "checks", lambda: {check.id: check})
        deployment = Deployment(tmp_path)
        context = Context(deployment.intake().resolved, (), deployment.captured(), None, NOW)
        return runner.run(context, Loaded("prod", "prod", "digest")).results[0]

    return run


def test_a_check_that_breaks_counts_as_failed_and_tells_no_secret(only_check: Any, tmp_path: Path) -> None:
    """The others go on; the exception's text goes through the redactor."""

    def judge(context: Context) -> Outcome:
        secret = context.settings.auth.jwt.secret
        assert secret is not None
        raise RuntimeError(f"saw {secret.get_secret_value()}")

    result = only_check(tmp_path, judge)
    assert result.outcome.status is Status.ERRORED
    assert result.blocks
    assert result.seen[0].text == "the check itself failed with RuntimeError: saw ********"


def test_what_depends_on_a_failed_check_is_skipped_because_of_it(tmp_path: Path) -> None:
    """The reason names the check, through chains of requirements too."""
    report = Deployment(tmp_path).put_in({"facts": {"host.files.0.state": "missing"}}).report()
    reasons = {result.check.id: result.outcome.because for result in report.results}
    assert reasons["ARQ-TLS-006"] == "ARQ-TLS-003 failed: Every TLS file exists and is readable"
    assert reasons["ARQ-TLS-004"] == reasons["ARQ-TLS-008"] == reasons["ARQ-TLS-006"]


def test_a_value_at_fault_skips_what_judges_it_and_nothing_else(tmp_path: Path) -> None:
    """Everything else of the profile is judged in the same pass."""
    report = Deployment(tmp_path).put_in({"profile": {"server.port": "x", "protocol.infra": "any"}}).report()
    assert failed_ids(report) == {"ARQ-CFG-007", "ARQ-PRO-001"}
    reasons = {result.check.id: result.outcome.because for result in report.results}
    assert reasons["ARQ-NET-002"] == "server.port has no valid value (BAD_VALUE)"
    assert ends(report)["ARQ-NET-001"] == "passed"


def test_only_brings_what_is_required(tmp_path: Path) -> None:
    """One id runs with the checks that it needs."""
    report = Deployment(tmp_path).report(only={"ARQ-TLS-006"})
    assert set(ends(report)) == {"ARQ-TLS-003", "ARQ-TLS-004", "ARQ-TLS-005", "ARQ-TLS-006"}


def test_without_facts_host_and_online_checks_are_skipped(tmp_path: Path) -> None:
    """They say so, and nothing is errored."""
    deployment = Deployment(tmp_path)
    deployment.facts = {}
    report = deployment.report()
    assert failed_ids(report) == set()
    assert all(
        result.outcome.status is Status.SKIPPED
        for result in report.results
        if result.check.phase is not Phase.STATIC
    )


def test_an_id_is_given_once_and_has_its_form() -> None:
    """Receipts and waivers name ids, so they are never given again."""
    known = checks()["ARQ-NET-001"]
    for id in ("ARQ-NET-001", "ARQ-XXX-001", "net-1"):
        with pytest.raises(ValueError, match="is not a valid check id, or is already registered"):
            add(dataclasses.replace(known, id=id))
    with pytest.raises(UnknownCheck, match="did you mean ARQ-NET-003"):
        select(["ARQ-NTE-003"])


# -- waivers


def test_a_waiver_excuses_one_check_until_its_last_day() -> None:
    """The whole day counts."""
    waivers = parse_waivers("- {id: arq-pro-003, reason: r, owner: o, expires: 2030-03-17}\n", PLACE)
    assert waivers.entries[0].id == "ARQ-PRO-003"
    assert waivers.entries[0].place.line == 1
    assert waivers.entries[0].ends_at > NOW


def test_a_fatal_check_cannot_be_waived(tmp_path: Path) -> None:
    """The waiver is a finding of its own, and the check still stops the start."""
    text = "- {id: ARQ-SEC-001, reason: r, owner: o, expires: 2030-05-01}\n"
    report = Deployment(tmp_path).put_in({"environ": {"JWT_SKIP_VALIDATION": "0"}, "waivers": text}).report()
    assert [result.check.id for result in report.failures] == ["ARQ-SEC-001", "ARQ-WVR-005"]


def test_a_waiver_of_another_scope_does_not_hold(tmp_path: Path) -> None:
    """An environment, or a setting that the check did not judge."""
    for scope in ("staging", "server.port"):
        text = f"- {{id: ARQ-PRO-003, reason: r, owner: o, expires: 2030-05-01, scope: {scope}}}\n"
        fault = {"profile": {"protocol.schema_strict": False}, "waivers": text}
        report = (
            Deployment(tmp_path / scope).put_in(fault).report()
            if (tmp_path / scope).mkdir() is None
            else None
        )
        assert report is not None
        assert [result.check.id for result in report.failures] == ["ARQ-PRO-003"]


def test_a_part_of_the_checks_does_not_call_waivers_unused(tmp_path: Path) -> None:
    """A waiver of an online check says nothing in a static run."""
    text = "- {id: ARQ-VAL-003, reason: r, owner: o, expires: 2030-05-01}\n"
    deployment = Deployment(tmp_path).put_in({"waivers": text})
    assert failed_ids(deployment.report(phases=(Phase.STATIC,))) == set()
    assert failed_ids(deployment.report()) == {"ARQ-WVR-004"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}\n", "does not contain a list"),
        ("just text\n", "does not contain a list"),
        ("- 5\n", "entry 1 is not a mapping"),
        ("- {id: A, reason: r, owner: o}\n", "entry 1 has no expires"),
        ("- {id: A, reason: r, owner: o, expires: tomorrow}\n", "has an invalid expires"),
        ("- {id: A, reason: r, owner: o, expires: 2030-02-30}\n", "has an invalid expires"),
        ("- {id: A, reason: r, owner: o, expires: 2030-02-01, for: ever}\n", "has the unknown key for"),
        ("- {id: A, reason: r, owner: o, expires: 2030-02-01, scope: [a]}\n", "has a scope that is not text"),
        ("- {id: A, id: B}\n", "cannot be read"),
        ("\t- x\n", "cannot be read"),
        ("[" * 200, "cannot be read"),
        (BOMB, "cannot be read"),
        ("- !!python/object:os.system {}\n", "cannot be read"),
        ("x" * (2**20 + 1), "does not contain a list"),
    ],
)  # fmt: skip
def test_a_waivers_file_that_is_none_is_a_sentence(text: str, words: str) -> None:
    """Never a traceback, and nothing is excused by it."""
    waivers = parse_waivers(text, PLACE)
    assert waivers.entries == ()
    assert words in waivers.troubles[0].text


def test_a_waivers_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    """A directory, a binary file; none at all is no fault."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "not a regular file" in read_waivers(tmp_path / "directory", "w").troubles[0].text
    assert "not UTF-8" in read_waivers(tmp_path / "binary", "w").troubles[0].text
    assert read_waivers(tmp_path / "missing", "w").troubles == ()


# -- receipts and the gate


@pytest.fixture
def passing(tmp_path: Path) -> Any:
    """A good deployment with its report, and a receipt that was just written."""
    deployment = Deployment(tmp_path)
    intake, report = deployment.intake(), deployment.report()
    path = tmp_path / "receipt.json"
    said = receipt.receipt_of(report, intake.resolved)
    receipt.write_receipt(path, said, intake.resolved.settings, tmp_path)
    return intake.resolved, path, tmp_path


def test_a_fresh_receipt_stands_for_the_start(passing: Any) -> None:
    """It holds no secret and only its group can read it."""
    resolved, path, root = passing
    receipt.verify_receipt(path, resolved, root, NOW + 10)
    assert resolved.settings.auth.jwt.secret.get_secret_value() not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in root.iterdir() if entry.name.startswith(".receipt")] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "other"}, "has an invalid signature"),
        ({"signature": None}, "has an invalid signature"),
        ({"signature": 5}, "has an invalid signature"),
    ],
)
def test_a_changed_receipt_is_refused(passing: Any, change: dict[str, Any], words: str) -> None:
    """The signature covers everything that it says."""
    resolved, path, root = passing
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(receipt.ReceiptRefused, match=words):
        receipt.verify_receipt(path, resolved, root, NOW)


@pytest.mark.parametrize("now", [NOW + 901, NOW - 61])
def test_a_receipt_of_another_time_is_refused(passing: Any, now: float) -> None:
    """Older than fifteen minutes, or of the future."""
    resolved, path, root = passing
    with pytest.raises(receipt.ReceiptRefused, match="older than 900 s"):
        receipt.verify_receipt(path, resolved, root, now)


@pytest.mark.parametrize(
    ("key", "words"),
    [("digest", "other settings"), ("version", "another version"), ("host", "another host"),
     ("check_set", "another set of checks"), ("environment", "another environment"), ("phases", "a part of")],
)  # fmt: skip
def test_a_receipt_of_something_else_is_refused(passing: Any, key: str, words: str) -> None:
    """Signed properly, for another start."""
    resolved, path, root = passing
    said = {**json.loads(path.read_text()), key: "other"}
    said.pop("signature")
    receipt.write_receipt(path, said, resolved.settings, root)
    with pytest.raises(receipt.ReceiptRefused, match=words):
        receipt.verify_receipt(path, resolved, root, NOW)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, "x" * 100_000])
def test_a_file_that_is_no_receipt_is_refused(passing: Any, text: str) -> None:
    """A sentence, never a traceback."""
    resolved, path, root = passing
    path.write_text(text)
    with pytest.raises(receipt.ReceiptRefused, match=r"is not a receipt|has an invalid signature"):
        receipt.verify_receipt(path, resolved, root, NOW)


def test_a_run_that_did_not_pass_gets_no_receipt(tmp_path: Path) -> None:
    """Nor does an empty one."""
    deployment = Deployment(tmp_path).put_in({"profile": {"protocol.infra": "any"}})
    with pytest.raises(receipt.ReceiptRefused, match="did not pass"):
        receipt.receipt_of(deployment.report(), deployment.intake().resolved)


def test_the_gate_opens_for_a_receipt_and_else_judges(passing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fresh receipt nothing is gathered; a stale one is named and the checks run."""
    resolved, path, root = passing
    monkeypatch.setattr("arqonbus.preflight.decision.time.time", lambda: NOW + 5)
    assert start_check(resolved, online=False, receipt=path, root=root).report is None
    monkeypatch.setattr("arqonbus.preflight.decision.time.time", lambda: NOW + 5000)
    decision = start_check(resolved, online=False, receipt=path, root=root)
    assert "older than 900 s" in decision.refusal
    assert decision.report is not None
    assert not decision.allowed
    assert "ARQ-TLS-003" in failed_ids(decision.report)


# -- facts


def test_captured_facts_are_judged_as_they_were_gathered(tmp_path: Path) -> None:
    """Written and read again they are the same facts."""
    facts = Deployment(tmp_path).captured()
    path = tmp_path / "facts.json"
    path.write_text(facts_text(facts))
    assert read_facts(path) == facts


@pytest.mark.parametrize(
    "text", ["", "[]", '{"gathered_at": "soon"}', "[" * 5000, '{"gathered_at": 1, "host": {}}']
)
def test_facts_that_are_none_are_a_sentence(tmp_path: Path, text: str) -> None:
    """It says where they go wrong."""
    path = tmp_path / "facts.json"
    path.write_text(text)
    with pytest.raises(FactsUnreadable, match="does not contain valid facts: at "):
        read_facts(path)
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FactsUnreadable, match=r"not a regular file|cannot be read"):
            read_facts(missing)


# -- the command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A good deployment as the working directory, with captured facts."""
    deployment = Deployment(tmp_path)
    (tmp_path / "facts.json").write_text(facts_text(deployment.captured()))
    monkeypatch.chdir(tmp_path)
    return deployment


def command(deployment: Deployment, *arguments: str) -> int:
    deployment.write()
    return main(
        ["preflight", "--profile", "prod", "--secrets-dir", "secrets", "--facts", "facts.json", *arguments]
    )


def test_exit_codes(here: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    """0 clean, 2 warnings when asked to, 1 failed, 3 unreadable or wrong usage."""
    assert command(here) == 0
    here.put_in({"profile": {"telemetry.log_level": "error"}})
    assert command(here) == 0
    assert command(here, "--fail-on", "warning") == 2
    here.put_in({"profile": {"protocol.infra": "any"}})
    assert command(here) == 1
    assert command(here, "--only", "OBS", "--json") == 0
    assert command(here, "--only", "nothing") == 3
    assert command(here, "--format", "pdf") == 3
    assert command(here, "--profile", "nowhere") == 3
    assert command(here, "--facts", "nowhere.json") == 3
    here.put_in({"text": "\t\n- x"})
    assert command(here) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_the_static_phase_needs_no_facts(here: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    """And gathers none."""
    here.write()
    assert (
        main(["preflight", "--profile", "prod", "--secrets-dir", "secrets", "--phase", "static", "--json"])
        == 0
    )
    phases = {check["phase"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert phases == {"static"}


def test_a_defect_of_preflight_has_its_own_code(
    here: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """4, and a sentence that shows nothing of what it stumbled over."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret-canary")

    monkeypatch.setattr("arqonbus.preflight.decision.judge", broken)
    assert command(here) == 4
    assert "secret-canary" not in capsys.readouterr().err


def test_list_and_explain_tell_about_checks(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and as JSON."""
    assert main(["preflight", "--list", "--only", "TLS"]) == 0
    assert "ARQ-TLS-010" in capsys.readouterr().out
    assert main(["preflight", "--list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(checks())
    assert main(["preflight", "--explain", "arq-net-003"]) == 0
    assert "Any web page that a user opens" in capsys.readouterr().out
    assert main(["preflight", "--explain", "ARQ-NET-3"]) == 3
    assert "did you mean" in capsys.readouterr().err


def test_receipt_and_capture_are_written(here: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    """A bundle's facts give the same report again; a failed run gets no receipt."""
    assert command(here, "--capture", "bundle", "--receipt", "receipt.json", "--json") == 0
    first = capsys.readouterr().out
    assert json.loads((here.root / "receipt.json").read_text())["environment"] == "prod"
    assert command(here, "--facts", "bundle/facts.json", "--json") == 0
    assert capsys.readouterr().out == first
    here.put_in({"profile": {"protocol.infra": "any"}})
    assert command(here, "--receipt", "second.json") == 1
    assert not (here.root / "second.json").exists()


def test_passing_is_silent_about_nothing(tmp_path: Path, only_check: Any) -> None:
    """A check that passes has no remark and no advice."""
    result = only_check(tmp_path, lambda context: passed())
    assert (result.failed, result.seen, result.outcome.fix) == (False, (), ())
