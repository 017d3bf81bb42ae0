"""The buses of the integration tests."""

from tests.integration.conftest import bus, start_bus

__all__ = ["bus", "start_bus"]
