"""ArqonBus: a self-hosted WebSocket message bus, delivered as a declarative deployment bundle."""

__version__ = "0.1.0"

__all__ = ["__version__"]
