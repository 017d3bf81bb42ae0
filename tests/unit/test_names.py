"""Names in the package: unique classes, one name for loggers."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "arqonbus"


def test_a_class_name_is_defined_in_one_module() -> None:
    """Left out: generated modules, and the synchronous client, whose classes are named as those they wrap."""
    modules: dict[str, list[str]] = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        if not file.name.endswith("_pb2.py") and file != PACKAGE / "client" / "sync.py":
            for statement in ast.parse(file.read_text("utf-8")).body:
                if isinstance(statement, ast.ClassDef):
                    modules[statement.name].append(str(file.relative_to(PACKAGE)))
    assert len(modules) > 300
    assert {name: places for name, places in modules.items() if len(places) > 1} == {}


def test_a_module_calls_its_logger_logger() -> None:
    names = {
        (str(file.relative_to(PACKAGE)), target.id)
        for file in PACKAGE.rglob("*.py")
        for statement in ast.parse(file.read_text("utf-8")).body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.value) == "logging.getLogger(__name__)"
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    assert len(names) > 30
    assert {pair for pair in names if pair[1] != "logger"} == set()
