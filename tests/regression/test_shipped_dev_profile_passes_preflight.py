"""In a fresh clone, preflight of the shipped dev profile fails, although `arqonbus serve` runs it."""

from __future__ import annotations

import pytest

from arqonbus.cli import main
from tests.servers.arqonbus import REPOSITORY


def test_the_shipped_dev_profile_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its own storage, which keeps the projection in a file."""
    monkeypatch.chdir(REPOSITORY)
    assert main(["preflight", "--profile", "dev", "--phase", "static"]) == 0, capsys.readouterr().out
