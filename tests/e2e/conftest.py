"""A Docker engine, which the suite provides where there is none, and one running stack for all tests here.

A test that fails shows the last log lines of every service; the end of the run shows the seconds of each
step.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator

import docker
import pytest
from docker import DockerClient

from tests.e2e.stack import REPOSITORY, Stack

TESTBED_SECONDS = 300
_SECONDS = pytest.StashKey[dict[str, float]]()


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """The engine, with the base image in it."""
    for script in ("engine", "base-image"):
        subprocess.run([REPOSITORY / "tests" / "testbed" / script], check=True, timeout=TESTBED_SECONDS)
    client = docker.from_env()
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module")
def stack(
    engine: DockerClient, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Stack]:
    """The stack, built and up."""
    running = Stack(engine, tmp_path_factory.mktemp("clone"))
    pytestconfig.stash[_SECONDS] = running.seconds
    try:
        running.build()
        running.build("second build")
        running.up()
        yield running
    finally:
        running.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        stacks = (used for used in getattr(item, "funcargs", {}).values() if isinstance(used, Stack))
        report.sections += [("logs of the stack", running.logs()) for running in stacks]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if seconds := config.stash.get(_SECONDS, None):
        steps = "  ".join(f"{step} {taken:g}" for step, taken in seconds.items())
        terminalreporter.write_line(f"seconds of the stack:  {steps}")


__all__ = ["engine", "stack"]
