"""The profile snippets in the guides are valid."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from arqonbus.config import load

ROOT = Path(__file__).resolve().parents[3]
_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
PIECES = [
    (file.name, piece)
    for file in sorted((ROOT / "docs" / "howto").glob("*.md"))
    for piece in _YAML.findall(file.read_text("utf-8"))
]


@pytest.mark.parametrize(("guide", "piece"), PIECES)
def test_a_piece_of_a_profile_is_read(guide: str, piece: str, tmp_path: Path) -> None:
    """As the whole of a dev profile."""
    (tmp_path / "profiles" / "dev").mkdir(parents=True)
    shutil.copy(ROOT / "profiles" / "base.yaml", tmp_path / "profiles" / "base.yaml")
    (tmp_path / "profiles" / "dev" / "profile.yaml").write_text(f"environment: dev\n{piece}")
    resolved = load("dev", root=tmp_path, environ={})
    assert resolved.settings.environment == "dev", guide


def test_there_are_pieces() -> None:
    """A guide that lost its fences would pass for nothing."""
    assert len(PIECES) >= 3
