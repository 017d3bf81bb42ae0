"""The audit chain: a changed row is detected and named."""

from __future__ import annotations

import asyncio

import pytest

from arqonbus.storage.audit_chain import Verdict, Walk
from arqonbus.storage.projection import ProjectionStore
from tests.contract.projection.conftest import Bench


async def _written(store: ProjectionStore, rows: int = 6, tenant: str = "demo") -> None:
    for number in range(rows):
        arguments = {"letter": f"{number}", "many": [1, 2.5, None, True], "text": "ü \0 1e300", "n": 1e300}
        await store.record(tenant, "alice", "dlq.discard", arguments, f"done {number}")


async def _verdict(store: ProjectionStore, tenant: str = "demo") -> Verdict:
    walk, after = Walk(), 0
    head = await store.audit_head(tenant)
    while page := await store.audit(tenant, after, 2):
        if verdict := walk.take(page):
            return verdict
        after = page[-1].number
    return walk.end(*head)


async def test_an_untouched_audit_is_sound(store: ProjectionStore) -> None:
    """Rows come back as they were recorded, each tenant has a chain of its own, and an empty one is sound."""
    assert await _verdict(store) == Verdict(0)
    first = await store.record("demo", "alice", "kick", {"client": "c"}, "ok")
    await _written(store)
    await _written(store, 2, "other")
    assert await store.audit("demo", 0, 1) == [first]
    assert await _verdict(store) == Verdict(7)
    assert await _verdict(store, "other") == Verdict(2)
    assert list(await store.audited()) == ["demo", "other"]
    assert (await store.audit_head("demo"))[0] == 7
    assert await store.audit_head("nobody") == (0, "")


@pytest.mark.parametrize(
    ("tampering", "number", "words"),
    [
        ("UPDATE audit SET actor = 'mallory' WHERE number = 3", 3, "row 3 was changed"),
        ("UPDATE audit SET arguments = '{}' WHERE number = 1", 1, "row 1 was changed"),
        ("UPDATE audit SET outcome = '' WHERE number = 6", 6, "row 6 was changed"),
        ("DELETE FROM audit WHERE number = 4", 5, "row 4 is missing: row 5 follows row 3"),
        ("DELETE FROM audit WHERE number IN (2, 3)", 4, "row 2 to 3 is missing"),
        ("DELETE FROM audit WHERE number = 1", 2, "row 1 is missing"),
        ("DELETE FROM audit WHERE number > 4", 5, "row 5 to 6 is missing at the end"),
        ("DELETE FROM audit", 1, "row 1 to 6 is missing at the end"),
        # Rows 2 and 3 in each other's place, by way of a number that is free.
        (
            "UPDATE audit SET number = CASE number WHEN 2 THEN 103 ELSE 102 END WHERE number IN (2, 3); "
            "UPDATE audit SET number = number - 100 WHERE number > 100",
            2,
            "row 2 does not follow row 1",
        ),
        (
            "DELETE FROM audit WHERE number = 6; UPDATE audit_heads SET number = 5",
            5,
            "does not match the head",
        ),
    ],
)
async def test_tampering_is_found_and_named(
    bench: Bench, store: ProjectionStore, tampering: str, number: int, words: str
) -> None:
    """With all rights and without triggers: changed, removed, reordered, cut off."""
    await _written(store)
    for statement in tampering.split("; "):
        bench.tamper(statement)
    verdict = await _verdict(store)
    assert verdict.number == number
    assert words in verdict.fault


async def test_rows_of_many_writers_form_one_chain(bench: Bench) -> None:
    """Nobody chains to a row that somebody else chained to."""
    stores = [await bench.store() for _ in range(5)]
    await asyncio.gather(*(_written(each, 20) for each in stores))
    assert await _verdict(stores[0]) == Verdict(100)
