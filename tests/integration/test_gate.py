"""Outside dev nothing is opened before preflight passed, and breaking the glass leaves traces."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.servers.bus import REPOSITORY, BusProcess
from tests.servers.processes import free_port

PROFILE = """\
environment: staging
server: {{host: 127.0.0.1, port: {port}}}
telemetry: {{host: 127.0.0.1, port: {telemetry}}}
state_dir: {state}
storage: {{backend: sqlite, mode: strict}}
"""


class Staging:
    """A staging profile with plenty of faults, and `arqonbus serve` on it."""

    def __init__(self, directory: Path) -> None:
        self.port, self.telemetry = free_port(), free_port()
        self.path = directory / "staging" / "profile.yaml"
        self.path.parent.mkdir()
        self.path.write_text(
            PROFILE.format(port=self.port, telemetry=self.telemetry, state=directory / "state")
        )
        secrets = directory / "secrets"
        secrets.mkdir(mode=0o700)
        secret = secrets / "auth.jwt.secret"
        secret.write_text("Zk3v9QpL7xT2mWc8RyB5nHs4JdF6gKuA1eXo0iVtNb\n")
        secret.chmod(0o600)
        self.command = [
            *(sys.executable, "-m", "arqonbus", "serve", "--json"),
            *("--profile", str(self.path), "--secrets-dir", str(secrets)),
        ]
        self.environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.environ["PYTHONPATH"] = str(REPOSITORY)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=60,
            cwd=REPOSITORY,
            check=False,
        )

    def is_bound(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path)


def test_a_profile_that_does_not_pass_opens_nothing(staging: Staging) -> None:
    """The findings are shown, the exit code is 1, and no port was opened."""
    done = staging.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert "ARQ-STO-" in done.stderr
    assert "the bus did not start: preflight did not pass" in done.stderr
    assert "Traceback" not in done.stderr
    assert not staging.is_bound()


def test_a_receipt_that_does_not_count_changes_nothing(staging: Staging, tmp_path: Path) -> None:
    """A made-up receipt is named in the log and the preflight runs all the same."""
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps({"digest": "x", "signature": "y"}))
    done = staging.run("--receipt", str(receipt))
    assert done.returncode == 1
    assert "the receipt was not accepted" in done.stderr


def test_breaking_the_glass_is_logged_and_counted(staging: Staging) -> None:
    """With a reason the bus starts; the log and a metric say that preflight was overridden."""
    server = subprocess.Popen(
        [*staging.command, "--break-glass", "drill"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=staging.environ,
        cwd=REPOSITORY,
    )
    assert server.stdout is not None
    try:
        assert json.loads(server.stdout.readline())["storage"] == "sqlite, hot"
        with urllib.request.urlopen(f"http://127.0.0.1:{staging.telemetry}/metrics", timeout=5) as answer:
            assert "arqonbus_preflight_bypassed 1.0" in answer.read().decode()
    finally:
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=30)
    [line] = [json.loads(line) for line in log.splitlines() if "preflight failed" in line]
    assert (line["level"], line["reason"]) == ("critical", "drill")
    assert line["failed"]


def test_verbose_readiness_runs_the_online_checks(tmp_path: Path) -> None:
    """/readyz?verbose names each online check and how it ended."""
    bus = BusProcess(tmp_path / "bus").start()
    try:
        with urllib.request.urlopen(f"{bus.health}/readyz?verbose", timeout=10) as answer:
            body = json.loads(answer.read())
    finally:
        bus.kill()
    assert body["ready"] is True
    assert {check["phase"] for check in body["checks"]} == {"online"}
    assert {check["status"] for check in body["checks"]} == {"skipped"}  # dev has no servers behind it
