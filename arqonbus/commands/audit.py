"""op.audit: what admins did in the tenant, oldest first. Read-only; rows are chained by hash."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from arqonbus.bus.follow import unavailable
from arqonbus.commands.projector import store_of
from arqonbus.commands.table import Caller, Command
from arqonbus.continuum.view import audit_view
from arqonbus.storage.ports import StorageError


class AuditListArguments(msgspec.Struct, forbid_unknown_fields=True):
    """`cursor`: the previous page's, which is the number of its last row."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100
    cursor: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] = 0


async def list_(caller: Caller, arguments: AuditListArguments) -> dict[str, Any]:
    tenant = caller.peer.session.identity.tenant
    store = store_of(caller)
    try:
        entries = await store.audit(tenant, arguments.cursor, arguments.limit + 1)
    except StorageError as failure:
        raise unavailable(failure) from failure
    page = entries[: arguments.limit]
    result: dict[str, Any] = {"entries": [audit_view(entry) for entry in page]}
    if len(entries) > len(page):
        result["cursor"] = page[-1].number
    return result


COMMANDS = (
    Command("op.audit.list", "List what admins did in the tenant.", AuditListArguments, list_, who="admin"),
)

__all__ = ["COMMANDS"]
