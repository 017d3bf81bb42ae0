"""A Prometheus of its own, that scrapes what the test runs and judges its rules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.servers.processes import Process, binary, free_port, wait_until

PACE = "{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}"


class PrometheusServer:
    """One server. `targets` are the addresses of each job; `rules` is the text of a rule file."""

    def __init__(self, directory: Path, targets: Mapping[str, str], rules: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._url = f"http://127.0.0.1:{free_port()}"
        self._process: Process | None = None
        (directory / "rules.yml").write_text(rules)
        jobs = [
            f"  - {{job_name: {job}, static_configs: [{{targets: ['{address}']}}]}}\n"
            for job, address in targets.items()
        ]
        (directory / "prometheus.yml").write_text(
            f"global: {PACE}\nrule_files: [rules.yml]\nscrape_configs:\n" + "".join(jobs)
        )

    def start(self) -> None:
        """Start it, and return when it scrapes."""
        command = [
            binary("prometheus", "prometheus"), f"--config.file={self._directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._directory / 'data'}", "--log.level=warn",
            f"--web.listen-address={self._url.removeprefix('http://')}",
        ]  # fmt: skip
        process = self._process = Process(command, self._directory / "server.log")

        def ready() -> bool:
            if not process.running:
                raise RuntimeError((self._directory / "server.log").read_text()[-2000:])
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self._url}/-/ready", timeout=5).is_success
            return False

        wait_until(ready, "prometheus")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = self._ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def healthy(self) -> set[str]:
        """The jobs whose last scrape succeeded."""
        targets = self._ask("targets")["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    def _ask(self, what: str) -> dict[str, Any]:
        answer = httpx.get(f"{self._url}/api/v1/{what}", timeout=10)
        answer.raise_for_status()
        data: dict[str, Any] = answer.json()["data"]
        return data


@contextlib.contextmanager
def running_prometheus(directory: Path, targets: Mapping[str, str], rules: str) -> Iterator[PrometheusServer]:
    """A server for the time of a with block."""
    server = PrometheusServer(directory, targets, rules)
    try:
        server.start()
        yield server
    finally:
        server.kill()


__all__ = ["PrometheusServer", "running_prometheus"]
