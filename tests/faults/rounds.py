"""One round: a stack, load, faults at seeded times, quiet, the final read, the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from arqonbus.client import Client
from arqonbus.storage.ports import Durability, RoomKey
from arqonbus.storage.valkey.keys import room_keys
from tests.faults.checker import Evidence, Finding, Held, judge
from tests.faults.load import Producer, Watcher, held, wire_of
from tests.faults.replicated import ClusterStack
from tests.faults.stack import Plan, Stack, room_names
from tests.faults.stacks import STACKS

TENANT = "demo"
CLIENT_TIMEOUT = 60.0
QUIET_SECONDS = 90.0


class Struck(NamedTuple):
    """One fault that happened: its kind, and the longest that one producer then waited for an ack."""

    kind: str
    seconds: float


class Size(NamedTuple):
    """How much of everything."""

    faults: int = 10
    rooms: int = 4
    producers: int = 4
    consumers: int = 8
    window: int = 16


class Outcome(NamedTuple):
    """What a round was, and what was wrong in it."""

    stack: str
    seed: int
    published: Counter[str]  # acked, refused, unknown
    levels: Counter[str]
    struck: Sequence[Struck]
    recoveries: int
    findings: Sequence[Finding]
    skipped: Sequence[str]


async def run_round(
    name: str, directory: Path, plan: Plan, seed: int, size: Size, say: Callable[[str], None]
) -> Outcome:
    """One round. Raises TimeoutError when the bus does not come back by itself."""
    chance = random.Random(seed)
    rooms = list(room_names(size.rooms))
    async with STACKS[name](directory, plan) as stack, contextlib.AsyncExitStack() as exits:
        if isinstance(stack, ClusterStack):
            stack.slots = tuple(room_keys(RoomKey(TENANT, room)).slot for room in rooms)
        clients = [await _client(stack, exits, number) for number in range(size.producers + size.consumers)]
        producers = [
            Producer(f"producer-{number}", client, rooms, size.window, seed + number)
            for number, client in enumerate(clients[: size.producers])
        ]
        watchers = [
            Watcher(f"consumer-{number}", rooms[number % len(rooms)]) for number in range(size.consumers)
        ]
        for watcher, client in zip(watchers, clients[size.producers :], strict=True):
            await watcher.begin(client)
        async with asyncio.TaskGroup() as group:
            listening = [group.create_task(watcher.run()) for watcher in watchers]
            publishing = [group.create_task(producer.run()) for producer in producers]
            await asyncio.sleep(chance.uniform(0.3, 0.8))
            times = await _strike(stack, chance, size.faults, say)
            await stack.mend()
            await asyncio.sleep(0.5)
            for producer in producers:
                producer.stop()
            await asyncio.wait(publishing)
            await stack.handed_over()
            log = {room: await held(clients[0], room) for room in rooms}
            await _quiet(watchers, log)
            for listener in listening:
                listener.cancel()
        published = [each for producer in producers for each in producer.published]
        records = [watcher.record() for watcher in watchers]
        evidence = Evidence(
            published, records, log, _promised(stack.plan), one_order=stack.plan.mode == "strict"
        )
        return Outcome(
            stack.name,
            seed,
            Counter(each.outcome for each in published),
            Counter(each.level.name.lower() for each in published if each.level is not None),
            [Struck(kind, _longest_wait(producers, begin, end)) for kind, begin, end in times],
            sum(watcher.recoveries() for watcher in watchers),
            judge(evidence),
            stack.skipped,
        )


def _promised(plan: Plan) -> Durability:
    return Durability[plan.durability.upper()] if plan.mode == "strict" else Durability.MEMORY


async def _client(stack: Stack, exits: contextlib.AsyncExitStack, number: int) -> Client:
    bus = stack.buses[number // 2 % len(stack.buses)]  # both wires on every bus
    client = Client(bus.url, bus.token(f"client-{number}"), wire=wire_of(number), timeout=CLIENT_TIMEOUT)
    return await exits.enter_async_context(client)


async def _strike(
    stack: Stack, chance: random.Random, count: int, say: Callable[[str], None]
) -> list[tuple[str, float, float]]:
    """Strike at random; when each fault began, and when the next one did."""
    clock = asyncio.get_running_loop().time
    kinds = stack.kinds()
    chance.shuffle(kinds)
    order = [kinds[number % len(kinds)] for number in range(count)]
    begins: list[float] = []
    for kind in order:
        begins.append(clock())
        say(kind.name)
        await kind.strike(chance)
        await asyncio.sleep(chance.uniform(0.1, 1.2))
    await asyncio.sleep(1.5)
    ends = [*begins[1:], clock()]
    return [(kind.name, begin, end) for kind, begin, end in zip(order, begins, ends, strict=True)]


async def _quiet(watchers: Sequence[Watcher], log: Mapping[str, Held]) -> None:
    """Wait until every consumer stands at the end of its room, or has all of it; the judge does the rest."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + QUIET_SECONDS
    behind = [watcher for watcher in watchers if _is_behind(watcher, log[watcher.room])]
    while behind and clock() < deadline:
        await asyncio.sleep(0.1)
        behind = [watcher for watcher in behind if _is_behind(watcher, log[watcher.room])]
    await asyncio.sleep(0.1)


def _is_behind(watcher: Watcher, held: Held) -> bool:
    if not held.entries or watcher.position.sequence >= held.entries[-1][0]:
        return False
    got = {seen.id for seen in watcher.seen}
    return any(id_ not in got for _, id_ in held.entries)


def _longest_wait(producers: Sequence[Producer], begin: float, end: float) -> float:
    waits = [0.0]
    for producer in producers:
        times = [begin, *(at for at in producer.acks if begin < at < end), end]
        waits += [later - at for at, later in pairwise(times)]
    return max(waits)


__all__ = ["Outcome", "Size", "Struck", "run_round"]
