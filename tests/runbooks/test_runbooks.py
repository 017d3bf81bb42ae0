"""Every runbook is complete, and each of its commands does what it says where the fault is there."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from arqonbus.config import load
from arqonbus.deploy.alerts import alert_rules
from arqonbus.preflight.registry import checks
from tests.observability.shown import SHOWN
from tests.runbooks.host import REPOSITORY, program
from tests.runbooks.outages import OUTAGES
from tests.runbooks.runbook import RUNBOOKS, Command, Unmet, parse
from tests.runbooks.scenes import SCENES as STAGED
from tests.unit.preflight.deployment import NOW, Deployment

INDEX = RUNBOOKS / "README.md"
FILES = {file.stem: file for file in sorted(RUNBOOKS.rglob("*.md")) if file != INDEX}
SECTIONS = ("Meaning", "Impact", "Diagnose", "Mitigate", "Verify", "Escalate", "Prevent")

# Stands for a host and servers in which all is well, so that what is found is the fault of the profile.
PROGRAM = """#!{python}
import sys
from arqonbus.cli import main
words = sys.argv[1:]
if words[:1] == ["preflight"] and "--explain" not in words:
    words += ["--facts", {facts!r}]
sys.exit(main(words))
"""

EDITOR = """#!{python}
import pathlib, sys
pathlib.Path(sys.argv[1]).write_text(pathlib.Path({corrected!r}).read_text())
"""


def faulty_production(root: Path) -> dict[str, str]:
    """A prod profile that any page may use with a weak secret, in a file that everybody can read."""
    deployment = Deployment(root / "good")
    deployment.write()
    corrected = root / "good/profiles/prod/profile.yaml"
    staging = corrected.read_text().replace("environment: prod", "environment: staging")
    (root / "facts.json").write_text(json.dumps({"gathered_at": NOW, **deployment.facts}))
    faulty = Deployment(root)
    faulty.put_in({"profile": {"server.origins": ["*"], "auth.require_exp": False}})
    faulty.modes["jwt_secret"] = 0o644
    faulty.write()
    other = root / "profiles/staging/profile.yaml"
    other.parent.mkdir()
    other.write_text(staging)
    program(root / "bin/arqonbus", PROGRAM.format(python=sys.executable, facts=str(root / "facts.json")))
    program(root / "bin/editor", EDITOR.format(python=sys.executable, corrected=str(corrected)))
    return {
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "CREDENTIALS_DIRECTORY": str(root / "secrets"),
        "EDITOR": str(root / "bin/editor"),
        "LANG": "C.UTF-8",
    }


SCENES: dict[str, Callable[[Path], dict[str, str]]] = {"production-preflight": faulty_production}
# Typed where hosts are.
ON_HOSTS = {
    "certificate-renewal", "drain", "drift", "first-rollout", "rollback", "rollout-smoke", "secret-rotation",
    "upgrade",
}  # fmt: skip
# Somebody looks for each of these by this name.
NAMES = {
    "Production preflight", "First rollout", "Upgrade", "Rollback", "Drain", "Secret rotation",
    "Certificate renewal", "Projector migration, backup and restore", "Restore drill", "Projection lag",
    "Dead-letter triage and replay", "Stale or duplicate storm", "Valkey down", "Valkey failed over",
    "Postgres down", "Disk full", "Slow consumers", "Auth failures spike", "Rollout smoke",
}  # fmt: skip


def test_every_runbook_has_a_scene() -> None:
    """There is none whose commands nobody ever typed."""
    assert set(FILES) == {*SCENES, *STAGED, *OUTAGES, *ON_HOSTS}
    typed = "".join(file.read_text() for file in (REPOSITORY / "tests/infra").glob("*.py"))
    for name in ON_HOSTS:
        assert f'"{name}"' in typed or f"{name}.md" in typed, name


def test_the_index_leads_to_every_runbook() -> None:
    """And to nothing that is not there; each of the names that people look for stands in it."""
    links = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", INDEX.read_text("utf-8"))
    assert {RUNBOOKS / target for _, target in links} == set(FILES.values())
    assert {name for name, _ in links} >= NAMES


def test_what_preflight_tells_to_look_up_is_in_the_index() -> None:
    """A check that says `see the runbook …` names one of them."""
    names = {name.lower() for name in re.findall(r"\[([^\]]+)\]", INDEX.read_text("utf-8"))}
    told = {
        line.removeprefix("see the runbook ")
        for each in checks().values()
        for line in each.fix
        if line.startswith("see the runbook ")
    }
    assert told
    assert told <= names


@pytest.mark.parametrize("name", FILES)
def test_a_runbook_leads_to_what_is_there(name: str) -> None:
    """No link of it ends in nothing."""
    targets = re.findall(r"\]\(([^)#]+)\)", FILES[name].read_text("utf-8"))
    assert [target for target in targets if not (FILES[name].parent / target).exists()] == []


@pytest.mark.parametrize("name", FILES)
def test_a_runbook_asks_for_metrics_that_exist(name: str) -> None:
    """What it takes from /metrics is shown there."""
    for command in parse(FILES[name].read_text("utf-8")).commands:
        if "/metrics" in command.script:
            asked = re.findall(r"\barqonbus_[a-z_]+", command.script)
            assert {re.sub(r"_(total|bucket|count|sum)$", "", metric) for metric in asked} <= SHOWN


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    """Whoever is woken by one finds the runbook by its name; a page is critical, a ticket is high."""
    rules = alert_rules(load("prod", root=REPOSITORY, environ={}, secrets_of=()).settings)
    found = {
        file.stem: parse(file.read_text("utf-8")).about["severity"]
        for file in (RUNBOOKS / "alerts").glob("*.md")
    }
    assert found == {rule.name: {"page": "critical", "ticket": "high"}[rule.severity] for rule in rules}


@pytest.mark.parametrize(
    "name", sorted({*FILES} & {file.stem for file in (RUNBOOKS / "alerts").glob("*.md")})
)
def test_the_runbook_of_an_alert_looks_at_the_metrics_of_the_alert(name: str) -> None:
    """Each metric of the expression stands in a command of Diagnose, as it is or by its distinct part."""
    rules = alert_rules(load("prod", root=REPOSITORY, environ={}, secrets_of=()).settings)
    (expression,) = [rule.expression for rule in rules if rule.name == name]
    typed = "".join(
        command.script
        for command in parse(FILES[name].read_text("utf-8")).commands
        if command.section == "Diagnose"
    )
    for metric in set(re.findall(r"arqonbus_\w+", expression)):
        distinct = metric.removeprefix("arqonbus_").removeprefix("projection_").removeprefix("storage_")
        assert distinct.removesuffix("_total") in typed or metric in typed


@pytest.mark.parametrize("name", FILES)
def test_a_runbook_is_complete(name: str) -> None:
    """It says whose it is and when it was tried, and has every section in order, with commands to look."""
    runbook = parse(FILES[name].read_text("utf-8"))
    assert set(runbook.about) == {"id", "severity", "owner", "last_drilled", "minutes"}
    assert runbook.about["id"] == name
    assert runbook.about["severity"] in ("blocker", "critical", "high")
    assert isinstance(runbook.about["last_drilled"], datetime.date)
    assert 0 < runbook.about["minutes"] <= 240
    assert runbook.sections == SECTIONS
    assert {"Diagnose", "Mitigate", "Verify"} <= {command.section for command in runbook.commands}


@pytest.mark.parametrize("name", SCENES)
def test_the_commands_do_what_the_runbook_says(name: str, tmp_path: Path) -> None:
    """From top to bottom, beginning with the fault and ending without it."""
    environ = SCENES[name](tmp_path)
    for command in parse(FILES[name].read_text("utf-8")).commands:
        command.run(tmp_path, environ)


@pytest.mark.parametrize(
    ("code", "present", "absent", "message"),
    [
        (1, (), (), "exit code 0 instead of 1"),
        (0, ("good",), (), "'good' is missing"),
        (0, (), ("bye",), "'bye' is there"),
    ],
)
def test_a_command_that_does_something_else_is_noticed(
    tmp_path: Path, code: int, present: tuple[str, ...], absent: tuple[str, ...], message: str
) -> None:
    """By its exit code, by what is missing and by what should be."""
    with pytest.raises(Unmet, match=message):
        Command("Verify", "echo bye", code, present, absent).run(tmp_path, dict(os.environ))


@pytest.mark.parametrize(
    "text", ["# Nothing", "---\nid: x\n---\n## Verify\n```sh\ntrue\n```\n", "---\nid: x\n---\n```sh\n```\n"]
)
def test_a_command_without_an_expectation_is_refused(text: str) -> None:
    """So is a file without a front matter."""
    with pytest.raises((ValueError, IndexError)):
        parse(text)
