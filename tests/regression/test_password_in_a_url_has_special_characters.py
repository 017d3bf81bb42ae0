"""An operator pastes a generated password with / # ? or [ into datastores.postgres.url, and preflight prints
half of it and ends with an internal error."""

from __future__ import annotations

import pytest

from arqonbus.cli import main
from tests.servers.arqonbus import REPOSITORY


@pytest.mark.parametrize("mark", "/#?[]@ ")
def test_preflight_explains_and_shows_nothing(
    mark: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 with the setting's name and the way to write it; neither half of the password."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("ARQONBUS_POSTGRES_URL", f"postgresql://bus:h4lf{mark}0ther@127.0.0.1/bus")
    assert main(["preflight", "--profile", "dev"]) == 1
    said = capfd.readouterr()
    text = said.out + said.err
    assert "datastores.postgres.url" in text
    assert "%20" in text if mark == " " else "%2F" in text
    assert "h4lf" not in text
    assert "0ther" not in text
