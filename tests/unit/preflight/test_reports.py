"""Report formats, compared with golden files; no secret appears in any."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from arqonbus import __version__
from arqonbus.preflight.capture import capture, class_of, label_of
from arqonbus.preflight.report import html, json_, junit, sarif, tree
from arqonbus.preflight.runner import Report
from tests.unit.preflight.deployment import Deployment, corpus

GOLDEN = Path(__file__).parent / "golden"
CANARY = "Zq8mW2kT5vX1nR7p"
FORMS = {
    "tree.txt": tree.render,
    "report.json": json_.render,
    "junit.xml": junit.render,
    "sarif.json": sarif.render,
    "page.html": html.render,
}


def bad(root: Path) -> Deployment:
    """A deployment with faults of every layer and severity, one of them waived."""
    faults = {fault["id"]: fault for fault in corpus("faults")}
    deployment = Deployment(root)
    for number in (102, 9, 303, 301, 306, 858, 212, 656, 600, 610):
        deployment.put_in(faults[number])
    return deployment


@pytest.mark.parametrize("name", FORMS)
def test_a_report_reads_as_its_golden_file(name: str, tmp_path: Path) -> None:
    """The same facts give the same bytes, wherever the deployment stands."""
    text = FORMS[name](bad(tmp_path).report()).replace(str(tmp_path), "ROOT").replace(__version__, "VERSION")
    golden = GOLDEN / name
    if not golden.exists():
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, "utf-8")
        pytest.fail(f"{golden} was written; read it, and run the test again")
    assert text == golden.read_text("utf-8")


@pytest.mark.parametrize("name", FORMS)
def test_no_form_shows_a_secret(name: str, tmp_path: Path) -> None:
    """Secrets of files, of the profile and of the secrets directory are in none of them."""
    deployment = bad(tmp_path)
    secrets = [*deployment.secrets.values(), CANARY]
    text = FORMS[name](deployment.report())
    assert not [secret for secret in secrets if secret in text]


def test_machines_can_read_their_forms(tmp_path: Path) -> None:
    """XML and JSON parse; a finding of SARIF has its line, a waived one is suppressed."""
    report = bad(tmp_path).report()
    suites = ET.fromstring(junit.render(report))
    assert sum(int(suite.attrib["failures"]) for suite in suites) == len(report.failures)
    run = json.loads(sarif.render(report))["runs"][0]
    results = {result["ruleId"]: result for result in run["results"]}
    region = results["ARQ-NET-003"]["locations"][0]["physicalLocation"]["region"]
    assert region["startLine"] > 1
    assert "suppressions" in results["ARQ-PRO-001"]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == set(results)
    summary = json.loads(json_.render(report))["summary"]
    assert summary["failed"] == len(report.failures)


def test_html_holds_nothing_that_runs(tmp_path: Path) -> None:
    """What a profile says is text in the page, never markup."""
    deployment = Deployment(tmp_path).put_in(
        {"profile": {"server.origins": ["https://<script>alert(1)</script>"]}}
    )
    page = html.render(deployment.report())
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_tree_cannot_drive_a_terminal(tmp_path: Path) -> None:
    """Control characters of a profile are replaced."""
    deployment = Deployment(tmp_path).put_in({"profile": {"server.origins": ["https://a\x1b[2Jb.acme.io/"]}})
    assert "\x1b" not in tree.render(deployment.report())


def test_the_tree_names_the_line_and_what_it_overrides(tmp_path: Path) -> None:
    """As in `set by profiles/prod/profile.yaml:14, overriding profiles/base.yaml:9`."""
    deployment = Deployment(tmp_path).put_in({"profile": {"limits.ping_interval": "2m"}})
    line = next(line for line in tree.render(deployment.report()).splitlines() if "ARQ-NET-016" in line)
    assert "limits.ping_interval is 120 s — set by profiles/prod/profile.yaml:" in line
    assert ", overriding profiles/base.yaml:" in line


def captured(deployment: Deployment, directory: Path) -> tuple[Report, dict[str, str]]:
    intake, facts = deployment.intake(), deployment.captured()
    report = deployment.report()
    command = [
        "arqonbus",
        "preflight",
        "--set",
        f"datastores.valkey.password={CANARY}",
        f"--set=a.b={CANARY}",
    ]
    files = capture(directory, report, intake, facts, command)
    return report, {path.name: path.read_text("utf-8") for path in files}


def test_a_bundle_holds_everything_but_secrets(tmp_path: Path) -> None:
    """Findings, settings with their places, facts, versions, the command; only its group reads it."""
    deployment = bad(tmp_path)
    directory = tmp_path / "bundle"
    report, texts = captured(deployment, directory)
    reports = {"report.json", "report.txt", "report.html"}
    assert set(texts) == {"incident.json", "settings.json", "facts.json", "versions.json", *reports}
    whole = "\n".join(texts.values())
    assert not [secret for secret in [*deployment.secrets.values(), CANARY] if secret in whole]
    incident = json.loads(texts["incident.json"])
    assert incident["failed"] == [result.check.id for result in report.failures]
    assert (incident["class"], incident["severity"]) == ("config", "blocker")
    assert all(path.stat().st_mode & 0o007 == 0 for path in directory.iterdir())


@pytest.mark.parametrize(
    ("numbers", "kind", "label"),
    [([], "config", "none"), ([802], "config", "high"), ([600, 650], "dependency", "critical"),
     ([600, 801], "config", "critical"), ([300], "config", "blocker")],
)  # fmt: skip
def test_an_incident_is_classified(numbers: list[int], kind: str, label: str, tmp_path: Path) -> None:
    """Whose turn it is, and how urgent."""
    deployment = Deployment(tmp_path)
    for fault in corpus("faults"):
        if fault["id"] in numbers:
            deployment.put_in(fault)
    report = deployment.report()
    assert (class_of(report), label_of(report)) == (kind, label)
