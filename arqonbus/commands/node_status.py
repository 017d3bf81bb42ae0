"""op.ping, op.status, op.help: is it there, how is it, what can it do."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from arqonbus import __version__
from arqonbus.commands.table import Caller, Command, NoArguments
from arqonbus.protocol import replies


async def ping(caller: Caller, arguments: NoArguments) -> dict[str, Any]:
    return {"pong": True, "server_time": replies.now_text()}


async def status(caller: Caller, arguments: NoArguments) -> dict[str, Any]:
    node, identity = caller.node, caller.peer.session.identity
    peers = [peer for peer in node.clients.values() if peer.session.identity.tenant == identity.tenant]
    facts: dict[str, Any] = {
        "node": node.name,
        "version": __version__,
        "state": node.state.value,
        "uptime_seconds": round(time.time() - node.started_at, 3),
        "storage": {
            "backend": node.event_log.name,
            "mode": node.settings.storage.mode,
            "durability": node.event_log.durability.name.lower(),
        },
        "tenant": {
            "name": identity.tenant,
            "connections": len(peers),
            "rooms": sum(1 for key in node.hub.rooms if key.tenant == identity.tenant),
        },
    }
    if identity.role == "admin":
        load = node.load()
        facts["load"] = {
            "connections": load.connections,
            "rooms": load.rooms,
            "queued_bytes": load.queued_bytes,
            "messages_in": node.counters.messages_in,
            "delivered": node.hub.delivered,
        }
    return facts


class HelpArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`operation`: only this one, with its argument schema."""

    operation: str = ""


async def help_(caller: Caller, arguments: HelpArguments) -> dict[str, Any]:
    role = caller.peer.session.identity.role
    visible = [command for command in caller.commands.values() if command.who == "any" or role == "admin"]
    if arguments.operation:
        visible = [command for command in visible if command.name == arguments.operation]
        return {
            "operations": [
                {
                    "name": command.name,
                    "summary": command.summary,
                    "arguments": msgspec.json.schema(command.arguments),
                }
                for command in visible
            ]
        }
    return {"operations": [{"name": command.name, "summary": command.summary} for command in visible]}


COMMANDS = (
    Command("op.ping", "Answer at once.", NoArguments, ping),
    Command(
        "op.status",
        "Show the node's state, version and storage, and the tenant's counts; for admins also the load.",
        NoArguments,
        status,
    ),
    Command("op.help", "List the operations, or show the arguments of one.", HelpArguments, help_),
)

__all__ = ["COMMANDS"]
