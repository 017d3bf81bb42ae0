"""Three bare hosts for all tests here, and the deployment that is rolled out to them.

What happens to a deployment happens in an order: that of the files, and within a file that of its tests. The
end of the run shows the seconds of each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from arqonbus.deploy.drift.deployment import Deployment, locked
from arqonbus.deploy.drift.model import Machine
from arqonbus.deploy.drift.topology import of_inventory
from tests.e2e.conftest import engine
from tests.infra.hosts import ENVIRONMENT, Hosts
from tests.infra.releases import Releases

# What is refused is refused on bare hosts; what a host is, is looked at before it is changed again.
FILES = ("test_refusals.py", "test_hosts.py", "test_drift.py", "test_rollout.py")
_SECONDS = pytest.StashKey[dict[str, float]]()


@pytest.fixture(scope="session")
def hosts(
    engine: DockerClient,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Hosts]:
    """Three hosts on which nothing is installed yet."""
    made = Hosts(engine, tmp_path_factory.mktemp("rollout"))
    pytestconfig.stash[_SECONDS] = made.seconds
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Where releases come from."""
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session")
def deployment(hosts: Hosts) -> Hosts:
    """The hosts, from nothing to verified, as the runbook says."""
    hosts.follow("first-rollout")
    return hosts


@pytest.fixture(scope="session")
def declared(deployment: Hosts, releases: Releases) -> Deployment:
    """What the profile of the deployment says."""
    lock = (deployment.clone / "requirements" / "run.lock").read_text()
    return Deployment(deployment.profile(), releases.version, deployment.clone, ENVIRONMENT, *locked(lock))


@pytest.fixture(scope="session")
def machines(deployment: Hosts) -> list[Machine]:
    """The hosts with everything that is rendered for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployment.environ().items():
            patch.setenv(name, value)
        return of_inventory(deployment.clone, deployment.inventory)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # pytest-randomly has shuffled them before.
    here = Path(__file__).parent
    ours = [index for index, item in enumerate(items) if item.path.parent == here]
    in_order = sorted(
        (items[index] for index in ours),
        key=lambda item: (FILES.index(item.path.name), item.location[1] or 0),
    )
    for index, item in zip(ours, in_order, strict=True):
        items[index] = item


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if seconds := config.stash.get(_SECONDS, None):
        steps = "  ".join(f"{step} {taken:g}" for step, taken in seconds.items())
        terminalreporter.write_line(f"seconds of the rollout:  {steps}")


__all__ = ["declared", "deployment", "engine", "hosts", "machines", "releases"]
