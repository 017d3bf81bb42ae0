"""The least server that fans out with the websockets library: no auth, validation, order or history."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict

from websockets.asyncio.server import ServerConnection, broadcast, serve

rooms: dict[str, set[ServerConnection]] = defaultdict(set)


async def handle(socket: ServerConnection) -> None:
    assert socket.request is not None
    _, role, room = socket.request.path.split("/")
    members = rooms[room]
    if role == "member":
        members.add(socket)
    await socket.send("ready")
    try:
        async for message in socket:
            broadcast(members, message)
    finally:
        members.discard(socket)


async def main() -> None:
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), compression=None, ping_interval=None) as server:
        await server.serve_forever()


asyncio.run(main())
