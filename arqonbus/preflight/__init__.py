"""Preflight: checks of the profile, the host and the servers, all in one pass.

Every check is a pure function of facts that were gathered before. Nothing here changes a profile, a host or a
server, except one key and one temporary table that expire by themselves.
"""

from __future__ import annotations

from arqonbus.preflight.decision import StartDecision, online_subset, start_check

__all__ = ["StartDecision", "online_subset", "start_check"]
