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
from arqonbus.ops.alerts import alert_rules
from tests.runbooks.host import REPOSITORY, program
from tests.runbooks.runbook import RUNBOOKS, Command, Unmet, parse
from tests.runbooks.scenes import SCENES as STAGED
from tests.unit.preflight.deployment import NOW, Deployment

FILES = {file.stem: file for file in sorted(RUNBOOKS.rglob("*.md"))}
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
# Typed where their hosts are, by the tests of the directory.
ELSEWHERE = {"drift": "tests/infra", "first-rollout": "tests/infra"}


def test_every_runbook_has_a_scene() -> None:
    """There is none whose commands nobody ever typed."""
    assert set(FILES) == {*SCENES, *STAGED, *ELSEWHERE}
    for name, directory in ELSEWHERE.items():
        assert any(f"{name}.md" in each.read_text() for each in (REPOSITORY / directory).glob("*.py"))


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
