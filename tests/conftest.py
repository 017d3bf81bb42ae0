"""What holds for every test."""

import pytest
from hypothesis import settings

from tests.progress import Progress

# How fast an example is says more about the machine than about the code.
settings.register_profile("arqonbus", deadline=None)
settings.load_profile("arqonbus")

LONGEST = ("rollout", "compose")  # groups that begin first, so that nobody waits for them at the end


def pytest_configure(config: pytest.Config) -> None:
    """Show progress in the process that a person sees, not in the workers of xdist."""
    if not hasattr(config, "workerinput") and config.get_verbosity() >= 0:
        config.pluginmanager.register(Progress(config), "progress")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        group = item.get_closest_marker("xdist_group")
        return LONGEST.index(group.args[0]) if group and group.args[0] in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests that share servers or hosts stay with one worker by their group; two would make two of them."""
    if getattr(session.config.option, "loadgroup", False):
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        lost = [item.nodeid for item in grouped if "@" not in item.nodeid]
        if lost:
            raise pytest.UsageError(f"this pytest-xdist ignores groups, for one that of {lost[0]}")
