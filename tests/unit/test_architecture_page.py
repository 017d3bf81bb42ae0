"""docs/architecture.md names modules, functions and floors that exist."""

from __future__ import annotations

import configparser
import re
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text("utf-8")
PARTS = [part for part in re.split(r"\n\n|\n(?=\d+\. )", PAGE) if "()`" in part]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w.]+/[\w./]+)`", PAGE))))
def test_a_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part[:40])
def test_a_function_is_in_a_module_that_its_paragraph_names(part: str) -> None:
    paths = re.findall(r"`(arqonbus/[\w/]+)\.py`", part)
    modules = [import_module(path.removesuffix("/__init__").replace("/", ".")) for path in paths]
    for name in re.findall(r"`([\w.]+)\(\)`", part):
        assert any(_has(module, name) for module in modules), name


def _has(module: Any, name: str) -> bool:
    try:
        reduce(getattr, name.split("."), module)
    except AttributeError:
        return False
    return True


def test_the_floors_are_those_that_are_enforced() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    floors = contracts["importlinter:contract:floors"]["layers"].split("\n")[1:]
    enforced = {
        package.strip(): number
        for number, floor in enumerate(reversed(floors), 1)
        for package in floor.split("|")
    }
    described = {package: int(floor) for floor, package in re.findall(r"\| (\d+) \| `arqonbus/(\w+)`", PAGE)}
    assert described == enforced
    packages = {path.parent.name for path in (ROOT / "arqonbus").glob("*/__init__.py")}
    assert set(described) == packages
    pure = contracts["importlinter:contract:pure"]["source_modules"].split("\n")[1:]
    assert len([module for module in pure if module.startswith("arqonbus.bus.")]) == 9
    assert set(pure) - {module for module in pure if module.startswith("arqonbus.bus.")} == {
        "arqonbus.protocol"
    }
