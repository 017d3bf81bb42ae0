"""Progress of a long run for a person: how far it is, what takes long, and each failure at once."""

from __future__ import annotations

import time

import pytest

EVERY_SECONDS = 30.0
LONG_SECONDS = 20.0


class Progress:
    """Listens on the process that people look at; with xdist, the workers do the tests."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = self._shown = time.monotonic()
        self._running: dict[str, float] = {}
        self._total = self._done = self._failed = 0

    @property
    def _terminal(self) -> pytest.TerminalReporter:
        found: pytest.TerminalReporter = self._config.pluginmanager.getplugin("terminalreporter")
        return found

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Every worker collects the same tests."""
        self._total = len(ids)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without xdist."""
        self._total = self._total or len(session.items)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins, in whichever process."""
        self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test ended."""
        self._running.pop(nodeid, None)
        self._done += 1
        if time.monotonic() - self._shown > EVERY_SECONDS:
            self._show()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Show a failure now, and not after the last test."""
        if not report.failed:
            return
        self._failed += 1
        terminal = self._terminal
        terminal.ensure_newline()
        terminal.write_sep("_", f"{report.nodeid} failed in its {report.when}")
        terminal.write_line(report.longreprtext)
        for title, text in report.sections:
            terminal.write_sep("-", title)
            terminal.write_line(text)

    def _show(self) -> None:
        now = self._shown = time.monotonic()
        minutes, seconds = divmod(round(now - self._began), 60)
        words = [f"{minutes}:{seconds:02d}", f"{self._done} of {self._total}"]
        if self._failed:
            words.append(f"{self._failed} failed")
        for nodeid, began in self._running.items():
            if now - began > LONG_SECONDS:
                words.append(f"{nodeid} since {now - began:.0f} s")
        self._terminal.ensure_newline()
        self._terminal.write_line("  ".join(words))


__all__ = ["Progress"]
