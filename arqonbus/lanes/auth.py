"""op.auth: a new token for a connection that stays."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from arqonbus.lanes.table import Caller, Command
from arqonbus.protocol.errors import BusError, Code


class RefreshArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`token`: of the same tenant and subject as the one in use."""

    token: str


async def refresh(caller: Caller, arguments: RefreshArguments) -> dict[str, Any]:
    old = caller.peer.session.identity
    new = caller.node.verify(arguments.token)
    if (new.tenant, new.subject, new.kind) != (old.tenant, old.subject, old.kind):
        raise BusError(
            Code.AUTHORIZATION_ERROR,
            "the new token is of another tenant, subject or kind; connect anew with it",
        )
    caller.node.renew(caller.peer, new)
    return {"expires_at": datetime.fromtimestamp(new.expires_at, UTC).isoformat()}


COMMANDS = (
    Command("op.auth.refresh", "Go on with a new token, without reconnecting.", RefreshArguments, refresh),
)

__all__ = ["COMMANDS"]
