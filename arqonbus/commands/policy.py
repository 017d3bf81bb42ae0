"""op.policy: what the content policy is, and taking over a changed one without a restart."""

from __future__ import annotations

from typing import Any

from arqonbus.commands.table import Caller, Command, NoArguments
from arqonbus.protocol.errors import BusError, Code


async def get(caller: Caller, _: NoArguments) -> dict[str, Any]:
    """The rules and their findings. The patterns themselves are not shown."""
    policy = caller.node.settings.policy
    found = [
        {"rule": rule, "action": action, "mode": mode, "count": count}
        for (rule, action, mode), count in sorted(caller.node.gates.decisions.items())
    ]
    return {
        "mode": policy.mode,
        "rooms": list(policy.rooms),
        "max_inspected_bytes": policy.max_inspected_bytes,
        "blocked_keys": list(policy.blocked_keys),
        "blocked_paths": list(policy.blocked_paths),
        "redacted_keys": list(policy.redacted_keys),
        "secrets": policy.secrets,
        "rules": [
            {"name": rule.name, "action": rule.action, "rooms": list(rule.rooms)} for rule in policy.rules
        ],
        "found": found,
    }


async def reload(caller: Caller, _: NoArguments) -> dict[str, Any]:
    """Read the profile again and take it over whole, if it is valid and all that changed is hot."""
    node = caller.node
    if node.services.reload is None:
        raise BusError(Code.CAPABILITY_UNAVAILABLE, "this bus was not started from a profile on disk")
    identity = caller.peer.session.identity
    outcome = "failed"
    try:
        keys = node.services.reload()
        outcome = "done"
    finally:
        if (store := node.services.projection) is not None:
            await store.record(identity.tenant, identity.subject, "policy.reload", {}, outcome)
    return {"changed": list(keys)}


COMMANDS = (
    Command("op.policy.get", "Show the content policy and its findings.", NoArguments, get, who="admin"),
    Command(
        "op.policy.reload",
        "Reload the content policy from the profile.",
        NoArguments,
        reload,
        who="admin",
    ),
)

__all__ = ["COMMANDS"]
