"""The first thing a client hears: who it is here, what it may send, what the node can do. Pure."""

from __future__ import annotations

from arqonbus import __version__
from arqonbus.bus.follow import MAX_RECOVERY_BYTES
from arqonbus.bus.session import Session
from arqonbus.config import Settings
from arqonbus.protocol import replies
from arqonbus.protocol.envelope import Envelope
from arqonbus.storage.ports import Durability


def welcome(
    session: Session,
    settings: Settings,
    node: str,
    durability: Durability,
    *,
    groups: bool,
    degraded: bool,
) -> Envelope:
    """The signal `welcome`. `groups`: the log has consumer groups; `degraded`: it is unreachable."""
    limits, protocol, history = settings.limits, settings.protocol, settings.storage.history
    return replies.signal(
        "welcome",
        {
            "client": session.client,
            "tenant": session.identity.tenant,
            "node": node,
            "version": __version__,
            "server_time": replies.now_text(),
            "ping_interval_ms": int(limits.ping_interval * 1000),
            "limits": {
                "max_frame_bytes": protocol.max_frame_bytes,
                "max_payload_bytes": protocol.max_payload_bytes,
                "send_queue_bytes": limits.send_queue_bytes,
                "messages_per_second": limits.messages_per_second,
            },
            "capabilities": {
                "consumer_groups": groups,
                "durability": durability.name.lower(),
                "degraded": degraded,
                "recovery_window": {
                    "max_messages": history.max_messages,
                    "max_age_seconds": history.max_age,
                    "max_bytes": MAX_RECOVERY_BYTES,
                },
            },
        },
    )


__all__ = ["welcome"]
