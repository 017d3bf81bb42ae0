"""The durable history of rooms in Postgres: an append succeeds when its transaction is on disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from arqonbus.config.stores import Postgres
from arqonbus.storage.layers.durable_history import Kept, Piece, Top
from arqonbus.storage.ports import Entry, RoomKey
from arqonbus.storage.postgres.access import Connection
from arqonbus.storage.postgres.transactions import Transactions

# The store's current life; makes the commit of this transaction wait for the disk.
_LIFE = """
SELECT concat_ws(' ', pg_postmaster_start_time(), oid), set_config('synchronous_commit', 'on', true)
FROM pg_database WHERE datname = current_database()
"""
# Locks the rows of the rooms, so that their epochs are still valid at the commit. Always in the same order,
# so that nodes do not deadlock.
_LOCK = """
SELECT r.tenant_id, r.room, r.epoch FROM arqonbus.history_rooms r
JOIN unnest($1::text[], $2::text[]) AS asked (tenant_id, room) USING (tenant_id, room)
ORDER BY r.tenant_id, r.room FOR SHARE OF r
"""
_KEEP = """
INSERT INTO arqonbus.history
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bytea[])
ON CONFLICT DO NOTHING
"""
_TOP = """
SELECT r.epoch, coalesce((SELECT max(h.sequence) FROM arqonbus.history h
                          WHERE h.tenant_id = r.tenant_id AND h.room = r.room), 0) AS last
FROM arqonbus.history_rooms r WHERE r.tenant_id = $1 AND r.room = $2
"""
_RAISE = """
INSERT INTO arqonbus.history_rooms AS r VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, room) DO UPDATE SET epoch = excluded.epoch WHERE r.epoch < excluded.epoch
"""
_BEGIN = "INSERT INTO arqonbus.history_rooms VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_MOVE = "UPDATE arqonbus.history_rooms SET epoch = $4 WHERE tenant_id = $1 AND room = $2 AND epoch = $3"
_AFTER = """
SELECT sequence, time_us, id, channel, data FROM arqonbus.history
WHERE tenant_id = $1 AND room = $2 AND sequence > $3 ORDER BY sequence LIMIT $4
"""
_HELD = """
SELECT h.sequence FROM arqonbus.history h
JOIN unnest($3::bigint[], $4::text[]) AS asked (sequence, id) USING (sequence, id)
WHERE h.tenant_id = $1 AND h.room = $2
"""
_TRIM = "DELETE FROM arqonbus.history WHERE tenant_id = $1 AND room = $2 AND sequence < $3"
_FORGET_ROOM = "DELETE FROM arqonbus.history_rooms WHERE tenant_id = $1 AND room = $2"


class PostgresHistory:
    """HistoryStore in Postgres."""

    def __init__(self, store: Postgres) -> None:
        self._transactions = Transactions(store, "arqonbus history")

    async def close(self) -> None:
        """See HistoryStore.close."""
        self._transactions.close()

    async def keep(self, pieces: Sequence[Piece], life: str) -> Kept:
        """See HistoryStore.keep."""
        rooms = sorted({piece.room for piece in pieces})

        async def write(connection: Connection) -> Kept:
            found = await connection.fetchval(_LIFE)
            if found != life:
                return Kept(None, found)
            rows = await connection.fetch(_LOCK, [r.tenant for r in rooms], [r.room for r in rooms])
            epochs = {RoomKey(row["tenant_id"], row["room"]): row["epoch"] for row in rows}
            values = [
                (*piece.room, entry.sequence, entry.time_us, entry.id, entry.channel, entry.data)
                for piece in pieces
                if epochs.get(piece.room) == piece.epoch
                for entry in piece.entries
            ]
            if values:
                await connection.execute(_KEEP, *[list(column) for column in zip(*values, strict=True)])
            return Kept(epochs, found)

        return await self._transactions.run(write)

    async def top(self, room: RoomKey) -> Top | None:
        """See HistoryStore.top."""
        rows = await self._transactions.fetch(_TOP, *room)
        return Top(rows[0]["epoch"], rows[0]["last"]) if rows else None

    async def raise_epoch(self, room: RoomKey, epoch: str) -> None:
        """See HistoryStore.raise_epoch."""
        await self._transactions.fetch(_RAISE, *room, epoch)

    async def move_epoch(self, room: RoomKey, was: str | None, to: str) -> None:
        """See HistoryStore.move_epoch."""
        if was is None:
            await self._transactions.fetch(_BEGIN, *room, to)
        else:
            await self._transactions.fetch(_MOVE, *room, was, to)

    async def after(self, room: RoomKey, sequence: int, limit: int) -> Sequence[Entry]:
        """See HistoryStore.after."""
        return [Entry(*row) for row in await self._transactions.fetch(_AFTER, *room, sequence, limit)]

    async def held(self, room: RoomKey, ids: Mapping[int, str]) -> Collection[int]:
        """See HistoryStore.held."""
        rows = await self._transactions.fetch(_HELD, *room, list(ids), list(ids.values()))
        return frozenset(row["sequence"] for row in rows)

    async def trim(self, room: RoomKey, first: int) -> None:
        """See HistoryStore.trim."""
        await self._transactions.fetch(_TRIM, *room, first)

    async def forget(self, room: RoomKey) -> None:
        """See HistoryStore.forget."""
        await self._transactions.fetch(_FORGET_ROOM, *room)


__all__ = ["PostgresHistory"]
