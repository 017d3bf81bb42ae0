"""`arqonbus schema` on files: output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arqonbus.cli import main

ORDER = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}


@pytest.fixture
def profile(tmp_path: Path) -> list[str]:
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    schema = {"name": "order", "content_type": "application/json", "file": str(tmp_path / "order.json")}
    rooms = [{"match": "orders.*", "schema": ["order"]}]
    return [
        "--profile",
        "dev",
        "--set",
        f"schemas={json.dumps([schema])}",
        "--set",
        f"rooms={json.dumps(rooms)}",
    ]


def test_list(profile: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each schema with its content type and its rooms."""
    assert main(["schema", "list", *profile]) == 0
    assert "application/json" in capsys.readouterr().out
    assert main(["schema", "list", *profile, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row == {"name": "order", "content_type": "application/json", "rooms": ["orders.*"]}
    assert main(["schema", "list", "--profile", "dev"]) == 0
    assert "no schemas" in capsys.readouterr().out


def test_check(profile: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for a valid payload, 1 with the place for another, 2 for a name that is none."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text('{"id": 1}')
    bad.write_text('{"id": "x"}')
    assert main(["schema", "check", "order", str(good), *profile]) == 0
    assert main(["schema", "check", "order", str(bad), *profile]) == 1
    assert "payload.id is not valid for order: type" in capsys.readouterr().out
    assert main(["schema", "check", "bill", str(good), *profile]) == 2
    assert "list them with: arqonbus schema list" in capsys.readouterr().err
    assert main(["schema", "check", "order", str(tmp_path / "none"), *profile]) == 2


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For CI: 0 when the new version can take the place of the old one, 1 with the reasons when not."""
    old, new = tmp_path / "v1.json", tmp_path / "v2.json"
    old.write_text(json.dumps(ORDER))
    new.write_text(json.dumps({**ORDER, "required": []}))
    assert main(["schema", "compare", str(old), str(new)]) == 0
    assert capsys.readouterr().out == f"{new} is backward compatible\n"
    assert main(["schema", "compare", str(new), str(old), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["compatible"], len(said["faults"])) == (False, 1)
    for content in ("", "{", '{"type": "strin"}', "[]", '{"a": 1, "a": 2}'):
        new.write_text(content)
        assert main(["schema", "compare", str(old), str(new)]) == 2, content
        assert str(new) in capsys.readouterr().err
    new.write_bytes(b"\xff\xff")
    assert main(["schema", "compare", str(new), str(new), "--message", "a.B"]) == 2
    assert "FileDescriptorSet" in capsys.readouterr().err


def test_a_profile_names_schemas_that_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    """A room cannot take a schema that nobody declared."""
    rooms = '[{"match": "*", "schema": ["order"]}]'
    assert main(["schema", "list", "--profile", "dev", "--set", f"rooms={rooms}"]) == 3
    assert "a room with a schema that schemas does not name: order" in capsys.readouterr().err
