"""Every scenario with the JavaScript SDK: in Node, in Chromium and in Firefox.

The scenarios of one platform run at the same time, before the first of its tests; each test asserts one.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.sdk.fleet import run_all
from tests.sdk.runner import Scenario, sdks
from tests.servers.arqonbus import REPOSITORY
from tests.servers.node_packages import sdk_copy

SDKS = sdks()
Outcomes = dict[str, BaseException | None]


def scenarios_of(sdk: str) -> pytest.MarkDecorator:
    rows = SDKS[sdk].scenarios()
    return pytest.mark.parametrize("scenario", rows, ids=[scenario.name for scenario in rows])


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDK and its drivers as in the repository, with what they need."""
    folder = tmp_path_factory.mktemp("javascript")
    sdk_copy(folder)
    shutil.copytree(REPOSITORY / "tests/sdk/drivers", folder / "tests/sdk/drivers")
    return folder


def outcomes_of(sdk: str, request: pytest.FixtureRequest, root: Path, folder: Path) -> Outcomes:
    """What the selected scenarios of an SDK raised."""
    wanted = {
        item.callspec.params["scenario"].name
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == f"test_{sdk}"
    }
    some = [scenario for scenario in SDKS[sdk].scenarios() if scenario.name in wanted]
    return asyncio.run(run_all(sdk, some, root, folder))


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return outcomes_of("node", request, root, tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="session")
def chromium(
    request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Outcomes:
    return outcomes_of("chromium", request, root, tmp_path_factory.mktemp("chromium"))


@pytest.fixture(scope="session")
def firefox(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return outcomes_of("firefox", request, root, tmp_path_factory.mktemp("firefox"))


def judge(outcome: BaseException | None) -> None:
    if outcome is not None:
        raise outcome


@pytest.mark.timeout(900)
@pytest.mark.xdist_group("sdk_node")
@scenarios_of("node")
def test_node(scenario: Scenario, node: Outcomes) -> None:
    """In Node, with the package ws."""
    judge(node[scenario.name])


@pytest.mark.timeout(900)
@pytest.mark.xdist_group("sdk_chromium")
@scenarios_of("chromium")
def test_chromium(scenario: Scenario, chromium: Outcomes) -> None:
    """In workers of a page in Chromium."""
    judge(chromium[scenario.name])


@pytest.mark.timeout(900)
@pytest.mark.xdist_group("sdk_firefox")
@scenarios_of("firefox")
def test_firefox(scenario: Scenario, firefox: Outcomes) -> None:
    """In workers of a page in Firefox."""
    judge(firefox[scenario.name])
