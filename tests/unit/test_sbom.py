"""The audit of dependencies: what is planted is found, and what is locked passes."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
HASH = "    --hash=sha256:" + "0" * 64


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    loader = SourceFileLoader("sbom", str(ROOT / "scripts" / "sbom"))
    spec = importlib.util.spec_from_loader("sbom", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sbom"] = module  # named tuples ask for it
    loader.exec_module(module)
    return module


def test_what_is_locked_may_be_shipped(sbom: ModuleType) -> None:
    """Every dependency: pinned, hashed, installed as locked, licensed, not advised against."""
    found = list(sbom.locked((ROOT / "requirements" / "run.lock").read_text("utf-8")))
    assert len(found) > 20
    assert list(sbom.audit(found)) == []


def test_the_bill_names_them_all(sbom: ModuleType) -> None:
    """Each with version, address and licence; and it is the same bill for the same lock."""
    found = list(sbom.locked((ROOT / "requirements" / "run.lock").read_text("utf-8")))
    bill = sbom.bill(found)
    assert bill == sbom.bill(found)
    named = {component["name"]: component for component in bill["components"]}
    assert {"protobuf", "redis", "asyncpg", "websockets", "picows"} <= set(named)
    assert all(component["licenses"] for component in named.values())
    assert json.loads(json.dumps(bill))["specVersion"] == "1.6"


@pytest.mark.parametrize(
    ("lock", "advisories", "said"),
    [
        ("pyyaml==6.0.3", [], "has no hash"),
        (f"pyyaml==0.1 \\\n{HASH}", [], "is locked, and"),
        (f"no-such-thing==1.0 \\\n{HASH}", [], "is locked and not installed here"),
        (f"pytest-testinfra==1.0 ; python_version < '3' \\\n{HASH}", [], None),
        (
            f"no-such-thing==1.4 ; python_version < '3' \\\n{HASH}",
            [{"package": "no-such-thing", "versions": ">=1,<1.5", "id": "CVE-0", "reason": "it leaks"}],
            "must not be shipped (CVE-0): it leaks",
        ),
    ],
)
def test_what_is_planted_is_found(
    sbom: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    lock: str,
    advisories: list[dict[str, str]],
    said: str | None,
) -> None:
    """With the name and the version."""
    monkeypatch.setattr(sbom, "ADVISORIES", tmp_path / "advisories.json")
    (tmp_path / "advisories.json").write_text(json.dumps(advisories))
    faults = list(sbom.audit(list(sbom.locked(lock))))
    if said is None:
        assert faults == []
    else:
        assert any(said in fault for fault in faults)


def test_a_licence_that_nobody_allowed(sbom: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is named with what it says."""
    monkeypatch.setattr(sbom, "licence", lambda name: {"AGPL-3.0"})
    found = list(sbom.locked((ROOT / "requirements" / "run.lock").read_text("utf-8")))
    assert all("a licence that nobody allowed: AGPL-3.0" in fault for fault in sbom.audit(found))
    assert list(sbom.audit(found))
