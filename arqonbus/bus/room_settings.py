"""The profile's rules per room, looked up once and kept. Pure."""

from __future__ import annotations

from arqonbus.config import RoomSettings, Settings
from arqonbus.storage.ports import KEEP_NOTHING, Durability, Retention, RoomKey

MAX_KEPT = 100_000  # room names come from clients, so the memory of them is bounded


class RoomSettingsLookup:
    """Settings, retention and durability by room name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: dict[str, RoomSettings] = {}
        self._retentions: dict[str, Retention] = {}
        self._levels: dict[str, Durability] = {}

    def reload(self, settings: Settings) -> None:
        """Forget what was looked up; new rules hold from now on."""
        self._settings = settings
        self._found.clear()
        self._retentions.clear()
        self._levels.clear()

    def of(self, room: str) -> RoomSettings:
        """The settings of the room."""
        found = self._found.get(room)
        if found is None:
            if len(self._found) >= MAX_KEPT:
                self.reload(self._settings)
            found = self._found[room] = self._settings.room_settings(room)
        return found

    def retention(self, key: RoomKey) -> Retention:
        """The retention of the room."""
        retention = self._retentions.get(key.room)
        if retention is None:
            found = self.of(key.room)
            most = found.max_messages if found.history else KEEP_NOTHING
            retention = Retention(most, found.max_age_us if found.history else 0)
            self._retentions[key.room] = retention
        return retention

    def durability(self, key: RoomKey) -> Durability:
        """The level that an ack of the room promises. An engine gives more than MEMORY by itself."""
        level = self._levels.get(key.room)
        if level is None:
            found = self.of(key.room)
            level = Durability.named(found.durability)
            if not found.in_process:
                level = max(level, Durability.HOT)
            self._levels[key.room] = level
        return level


__all__ = ["RoomSettingsLookup"]
