"""May this profile run here: checks of the profile, of the host and of the servers, all in one pass.

Every check is a pure function over what was gathered before. Nothing here changes a profile, a host or a
server, but for one key and one temporary table that end by themselves.
"""

from __future__ import annotations

from arqonbus.preflight.decision import StartDecision, online_subset, start_check

__all__ = ["StartDecision", "online_subset", "start_check"]
