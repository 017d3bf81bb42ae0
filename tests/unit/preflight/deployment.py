"""Valid deployments, and faults to put in: files, variables, secrets, facts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from arqonbus.preflight.decision import judge
from arqonbus.preflight.facts import Facts
from arqonbus.preflight.fingerprint import fingerprint
from arqonbus.preflight.intake import Intake, Source, take_in
from arqonbus.preflight.model import Phase, Severity
from arqonbus.preflight.runner import Report
from arqonbus.storage.valkey.engine import LIBRARY_VERSION

CORPUS = Path(__file__).parent / "corpus"
REPOSITORY = Path(__file__).parents[3]
NOW = 1_900_000_000.0

_FACTS = TypeAdapter(Facts)


def good(name: str) -> dict[str, Any]:
    """One of the deployments in which nothing is wrong: profile, secrets, facts."""
    return dict(yaml.safe_load((CORPUS / f"good_{name}.yaml").read_text("utf-8")))


def put(data: Any, path: str, value: Any) -> None:
    """Set `a.b.0.c` in nested mappings and lists; None as a value of a mapping removes the key."""
    *around, last = path.split(".")
    for part in around:
        data = data[int(part)] if isinstance(data, list) else data.setdefault(part, {})
    if isinstance(data, list):
        data[int(last)] = value
    elif value is None:
        data.pop(last, None)
    else:
        data[last] = value


class Deployment:
    """Written to a directory of its own, and judged there."""

    def __init__(self, root: Path, kind: str = "prod") -> None:
        start = copy.deepcopy(good(kind))
        self.root = root
        self.environment = str(start["profile"]["environment"])
        self.profile: dict[str, Any] = start["profile"]
        self.facts: dict[str, Any] = start.get("facts", {})
        self.secrets: dict[str, str] = start.get("secrets", {})
        self.modes: dict[str, int] = {}
        self.environ: dict[str, str] = {}
        self.overrides: list[str] = []
        self.waivers = ""
        self.text = ""
        self.whole: str | None = None
        self.overlay: str | None = None
        self.with_base = True
        self.loaded = self.environment

    def put_in(self, fault: Mapping[str, Any]) -> Deployment:
        """Make one fault as the corpus describes it."""
        for path, value in fault.get("profile", {}).items():
            put(self.profile, path, value)
        for path, value in fault.get("facts", {}).items():
            put(self.facts, path, value)
        for name, text in fault.get("secrets", {}).items():
            put(self.secrets, name.replace(".", "\0"), text)
        self.modes |= {name: int(str(mode), 8) for name, mode in fault.get("modes", {}).items()}
        self.environ |= fault.get("environ", {})
        self.overrides += fault.get("set", [])
        self.waivers += fault.get("waivers", "")
        self.text += fault.get("text", "")
        self.whole = fault.get("whole", self.whole)
        self.overlay = fault.get("overlay", self.overlay)
        self.with_base = self.with_base and not fault.get("without_base", False)
        self.loaded = fault.get("load", self.loaded)
        if fault.get("bomb"):
            self.whole = "a: &a [x]\n" + "".join(
                f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
            )
        if "same_secret" in fault:
            print_of = fingerprint(self.secrets["jwt_secret"])
            put(self.facts, "host.secret_fingerprints", {fault["same_secret"]: print_of})
        return self

    def write(self) -> Source:
        """The files on disk, and how to load them."""
        profiles = self.root / "profiles" / self.environment
        profiles.mkdir(parents=True, exist_ok=True)
        base = (
            (REPOSITORY / "profiles/base.yaml").read_text()
            if self.with_base
            else "limits: {bad_frames: 10}\n"
        )
        (self.root / "profiles/base.yaml").write_text(base)
        written = yaml.safe_dump(self.profile, sort_keys=False, allow_unicode=True, width=1000)
        (profiles / "profile.yaml").write_text((written if self.whole is None else self.whole) + self.text)
        if self.waivers:
            (profiles / "waivers.yaml").write_text(self.waivers)
        if self.overlay is not None:
            (self.root / "overlay.yaml").write_text(self.overlay)
        secrets = self.root / "secrets"
        secrets.mkdir(exist_ok=True)
        for name, text in self.secrets.items():
            file = secrets / name.replace("\0", ".")
            file.write_text(text)
            file.chmod(self.modes.get(name.replace("\0", "."), 0o640))
        return Source(
            self.loaded,
            root=self.root,
            environ=self.environ,
            overrides=self.overrides,
            secrets_dir=secrets,
        )

    def intake(self) -> Intake:
        return take_in(self.write())

    def captured(self) -> Facts:
        """The facts; a Valkey has the library of this version, where nothing else is said."""
        first = self.facts.get("valkey") or {}
        for said in (first, *first.get("nodes", ())):
            said.setdefault("library", LIBRARY_VERSION)
        return _FACTS.validate_json(json.dumps({"gathered_at": NOW, **self.facts}))

    def report(self, **options: Any) -> Report:
        return judge(self.intake(), self.captured(), **options)


def failed_ids(report: Report) -> set[str]:
    """The ids of everything that failed or warned, waived or not."""
    return {r.check.id for r in report.results if r.outcome.status.value in ("failed", "errored")}


def corpus(name: str) -> list[dict[str, Any]]:
    """The entries of a file of the corpus."""
    return list(yaml.safe_load((CORPUS / f"{name}.yaml").read_text("utf-8")))


__all__ = ["CORPUS", "NOW", "Deployment", "Phase", "Severity", "corpus", "failed_ids", "good", "put"]
