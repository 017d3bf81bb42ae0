"""An operator sets what the settings reference documents and preflight passes, but the bus does not start
because this version does not have the setting."""

from __future__ import annotations

import pytest

from arqonbus.cli import main
from tests.servers.arqonbus import REPOSITORY


@pytest.mark.parametrize("setting", ["server.workers=4", "telemetry.otlp_endpoint=https://otel.acme.io:4318"])
def test_preflight_fails_and_names_the_setting(
    setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started."""
    monkeypatch.chdir(REPOSITORY)
    assert main(["preflight", "--profile", "dev", "--phase", "static", "--set", setting]) == 1
    assert setting.partition("=")[0] in capsys.readouterr().out
