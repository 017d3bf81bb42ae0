"""op.auth: a new token for a connection that stays, and the end of tokens before their time."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from arqonbus.bus.follow import unavailable
from arqonbus.commands.table import Answer, Caller, Command
from arqonbus.protocol.errors import BusError, Code, Invalid
from arqonbus.shield.revocations import Revocation
from arqonbus.storage.ports import StorageError

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class RefreshArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`token`: of the same tenant and subject as the one in use."""

    token: str


class RevokeArguments(msgspec.Struct, forbid_unknown_fields=True):
    """Either `jti`, one token of the tenant; or `sub`, all that this subject was given until now; or
    `everybody`, all tokens of the tenant until now, the caller's too.
    """

    jti: Id | None = None
    sub: Id | None = None
    everybody: bool = False


async def refresh(caller: Caller, arguments: RefreshArguments) -> dict[str, Any]:
    old = caller.peer.session.identity
    new = caller.node.verify(arguments.token)
    if (new.tenant, new.subject, new.kind) != (old.tenant, old.subject, old.kind):
        raise BusError(
            Code.AUTHORIZATION_ERROR,
            "the new token is of another tenant, subject or kind; open a new connection with it",
        )
    caller.node.membership.renew(caller.peer, new)
    return {"expires_at": datetime.fromtimestamp(new.expires_at, UTC).isoformat()}


async def revoke(caller: Caller, arguments: RevokeArguments) -> Answer:
    """Refuse tokens of the tenant from now on, and end their connections, on all nodes."""
    node, identity = caller.node, caller.peer.session.identity
    named = [arguments.jti is not None, arguments.sub is not None, arguments.everybody]
    if sum(named) != 1:
        raise Invalid("jti", "name exactly one of jti, sub and everybody")
    if node.services.revoke is None:
        raise BusError(Code.CAPABILITY_UNAVAILABLE, "this bus keeps no revocations")
    lifetime = node.settings.auth.jwt.max_lifetime
    now = time.time()
    facts = {"jti": arguments.jti or "", "sub": arguments.sub or "", "everybody": arguments.everybody}
    revocation = Revocation(
        identity.tenant,
        arguments.jti or "",
        arguments.sub or "",
        # Times of tokens are whole seconds; one of this second is as old as the call.
        issued_before=math.inf if arguments.jti else int(now) + 1,
        until=now + lifetime + node.settings.auth.jwt.leeway if lifetime else math.inf,
    )
    outcome = "failed"
    try:
        end_connections = await node.services.revoke(revocation)
        outcome = "done"
    except StorageError as failure:
        raise unavailable(failure) from failure
    finally:
        if (store := node.services.projection) is not None:
            await store.record(identity.tenant, identity.subject, "auth.revoke", facts, outcome)
    # Behind the reply: the connection of the caller may be among them.
    return Answer({"revoked": {key: value for key, value in facts.items() if value}}, end_connections)


COMMANDS = (
    Command(
        "op.auth.refresh",
        "Replace the token of this connection, without reconnecting.",
        RefreshArguments,
        refresh,
    ),
    Command(
        "op.auth.revoke",
        "Revoke tokens of the tenant and close their connections.",
        RevokeArguments,
        revoke,
        who="admin",
    ),
)

__all__ = ["COMMANDS"]
