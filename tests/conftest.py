"""What holds for every test."""

import pytest
from hypothesis import settings

# How fast an example is says more about the machine than about the code.
settings.register_profile("arqonbus", deadline=None)
settings.load_profile("arqonbus")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests that share servers or hosts have to be told apart by their group, or two workers would make them."""
    if getattr(session.config.option, "loadgroup", False):
        lost = [
            item.nodeid
            for item in session.items
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid
        ]
        if lost:
            raise pytest.UsageError(f"this pytest-xdist ignores groups, for one that of {lost[0]}")
