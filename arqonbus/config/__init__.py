"""What a profile is: the settings tree, its layers, secrets, provenance, schema and digest.

Reads files, the environment and secrets when `load` is called, and at no other time.
"""

from __future__ import annotations

from arqonbus.config.globs import Glob
from arqonbus.config.rooms import RoomPolicy
from arqonbus.config.settings import Settings

__all__ = ["Glob", "RoomPolicy", "Settings"]
