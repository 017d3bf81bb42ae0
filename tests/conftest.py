"""What holds for every test."""

import pytest
from hypothesis import settings

# How fast an example is says more about the machine than about the code.
settings.register_profile("arqonbus", deadline=None)
settings.load_profile("arqonbus")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests that share servers or hosts stay with one worker by their group; two would make two of them."""
    if getattr(session.config.option, "loadgroup", False):
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        lost = [item.nodeid for item in grouped if "@" not in item.nodeid]
        if lost:
            raise pytest.UsageError(f"this pytest-xdist ignores groups, for one that of {lost[0]}")
