"""Puts the processes together from a profile: the bus, and the projector beside it.

The only place that knows which rooms of the house belong together.
"""

from arqonbus.service.bus import BusService, reload, run
from arqonbus.service.engines import event_log, node_name, projection_store
from arqonbus.service.projector import run_projector

__all__ = ["BusService", "event_log", "node_name", "projection_store", "reload", "run", "run_projector"]
