"""The profile's rules per room, looked up once and kept. Pure."""

from __future__ import annotations

from arqonbus.config import RoomPolicy, Settings
from arqonbus.storage.ports import Durability, Retention, RoomKey

MAX_KEPT = 100_000  # room names come from clients, so the memory of them is bounded
KEEP_NOTHING = Retention(-1, 0)


class Policies:
    """Policy, retention and durability by room name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policies: dict[str, RoomPolicy] = {}
        self._retentions: dict[str, Retention] = {}
        self._levels: dict[str, Durability] = {}

    def renew(self, settings: Settings) -> None:
        """Forget what was looked up; new rules hold from now on."""
        self._settings = settings
        self._policies.clear()
        self._retentions.clear()
        self._levels.clear()

    def of(self, room: str) -> RoomPolicy:
        """What holds for the room."""
        policy = self._policies.get(room)
        if policy is None:
            if len(self._policies) >= MAX_KEPT:
                self.renew(self._settings)
            policy = self._policies[room] = self._settings.room_policy(room)
        return policy

    def retention(self, key: RoomKey) -> Retention:
        """How much of the room is kept."""
        retention = self._retentions.get(key.room)
        if retention is None:
            policy = self.of(key.room)
            retention = Retention(policy.max_messages, policy.max_age_us) if policy.history else KEEP_NOTHING
            self._retentions[key.room] = retention
        return retention

    def durability(self, key: RoomKey) -> Durability:
        """The level that an ack of the room promises. An engine gives more than MEMORY by itself."""
        level = self._levels.get(key.room)
        if level is None:
            policy = self.of(key.room)
            level = Durability[policy.durability.upper()]
            if not policy.in_process:
                level = max(level, Durability.HOT)
            self._levels[key.room] = level
        return level


__all__ = ["KEEP_NOTHING", "Policies"]
