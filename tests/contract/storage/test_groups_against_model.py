"""Random histories of a consumer group, compared with a simple model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arqonbus.storage.ports import FROM_BEGIN, KEEP_NOTHING, GroupKey, GroupRead, Retention

from .conftest import Bench, append, with_groups
from .test_groups import PLENTY, groups_of

LONG = 3_600_000_000
NEVER = 1 << 60

_sequences = st.lists(st.integers(1, 12), max_size=6)
_consumers = st.sampled_from(["a", "b"])
_append = st.tuples(st.just("append"), st.integers(1, 6), st.sampled_from([0, 0, 0, 3, 10, KEEP_NOTHING]))
_read = st.tuples(st.just("read"), _consumers, st.integers(0, 12), st.booleans())
_ack = st.tuples(st.just("ack"), _sequences)
_nack = st.tuples(st.just("nack"), _consumers, st.integers(1, 12), st.booleans())
_claim = st.tuples(st.just("claim"), _consumers, _sequences)
_extend = st.tuples(st.just("extend"), _consumers, _sequences, st.booleans())
_delete = st.tuples(st.just("delete room"))
_step = st.one_of(_append, _read, _read, _read, _ack, _nack, _claim, _extend, _delete)
_steps = st.lists(_step, min_size=5, max_size=40).map(lambda steps: [("append", 6, 0), *steps])


@pytest.fixture(params=with_groups)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    made = request.param(request)
    yield made
    await made.close()


@dataclass
class Held:
    consumer: str
    deliveries: int
    due: int  # the step at which it may be handed out again
    reason: str = ""


@dataclass
class Model:
    """A room and its group as a list and a dict. Time is the number of the step."""

    exists: bool = True
    entries: list[int] = field(default_factory=list)
    last: int = 0
    given: int = 0
    missed: int = 0
    pending: dict[int, Held] = field(default_factory=dict)
    renewed: bool = False
    now: int = 0

    def append(self, count: int, most: int) -> None:
        self.exists = True
        self.entries += range(self.last + 1, self.last + count + 1)
        self.last += count
        if most:
            self.entries = [] if most == KEEP_NOTHING else self.entries[-most:]

    def delete_room(self) -> None:
        self.exists, self.entries, self.last, self.renewed = False, [], 0, True

    def enter(self) -> int:
        """What was missed because the room began anew."""
        if not (self.renewed and self.exists):
            return 0
        missed = len(self.pending)
        self.pending, self.given, self.renewed = {}, 0, False
        return missed

    def again(
        self, sequences: list[int], consumer: str, due: int
    ) -> tuple[list[tuple[int, int, str, str]], int]:
        jobs, missed = [], 0
        for sequence in sequences:
            held = self.pending[sequence]
            if sequence not in self.entries:
                del self.pending[sequence]
                missed += 1
            else:
                jobs.append((sequence, held.deliveries + 1, held.consumer, held.reason))
                self.pending[sequence] = Held(consumer, held.deliveries + 1, due)
        return jobs, missed

    def read(self, consumer: str, limit: int, due: int) -> tuple[list[tuple[int, int, str, str]], int]:
        if not self.exists:
            return [], 0
        missed = self.enter()
        back = sorted((held.due, sequence) for sequence, held in self.pending.items() if held.due <= self.now)
        jobs, gone = self.again([sequence for _, sequence in back[:limit]], consumer, due)
        missed += gone
        want = limit - len(jobs)
        new = [sequence for sequence in self.entries if sequence > self.given]
        if want and self.given < self.last:
            end = new[want - 1] if len(new) >= want else self.last
            new = new[:want]
            missed += end - self.given - len(new)
            self.given = end
            for sequence in new:
                self.pending[sequence] = Held(consumer, 1, due)
                jobs.append((sequence, 1, "", ""))
        self.missed += missed
        return jobs, missed


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
async def test_random_histories(bench: Bench, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    """Any order of appends, trims, reads, acks, nacks, claims and deletions gives what the model gives."""
    log = bench.logs[0] if bench.logs else await bench.log()
    groups = groups_of(log)
    group, model = GroupKey(bench.room(), "group"), Model()
    await groups.delete(group)
    await log.delete_room(group.room)
    await groups.ensure(group, FROM_BEGIN, 5)
    epoch = (await log.head(group.room)).epoch
    ids = iter(range(1_000_000))

    def equal(found: GroupRead, jobs: list[tuple[int, int, str, str]], missed: int) -> None:
        assert [(job.entry.sequence, job.deliveries, job.consumer, job.reason) for job in found.jobs] == jobs
        assert found.missed == missed

    for model.now, step in enumerate(steps):
        kind, *arguments = step
        if kind == "append":
            count, most = arguments
            stored = await append(
                log, group.room, *(f"id-{next(ids)}" for _ in range(count)), retention=Retention(most, 0)
            )
            epoch = stored.epoch
            model.append(count, most)
        elif kind == "read":
            consumer, limit, ends_at_once = arguments
            lease_us, due = (0, model.now) if ends_at_once else (LONG, NEVER)
            found = await groups.read(group, consumer, limit, lease_us, PLENTY)
            equal(found, *model.read(consumer, limit, due))
        elif kind == "ack":
            (sequences,) = arguments
            current = model.exists and not model.renewed
            expected = set(sequences) & set(model.pending) if current else set()
            if current:
                assert await groups.ack(group, epoch, sequences) == len(expected)
            for sequence in expected:
                del model.pending[sequence]
        elif kind == "nack":
            consumer, sequence, at_once = arguments
            held = None if model.renewed else model.pending.get(sequence)
            if held is None or held.consumer != consumer:
                assert await groups.nack(group, epoch, consumer, sequence, 0, "why") == 0 or model.renewed
            else:
                delay_us, due = (0, model.now) if at_once else (LONG, NEVER)
                deliveries = await groups.nack(group, epoch, consumer, sequence, delay_us, "why")
                assert deliveries == held.deliveries
                model.pending[sequence] = Held("", held.deliveries, due, "why")
        elif kind == "claim" and model.exists:
            consumer, sequences = arguments
            missed = model.enter()
            wanted = [sequence for sequence in dict.fromkeys(sequences) if sequence in model.pending]
            jobs, gone = model.again(wanted, consumer, NEVER)
            model.missed += missed + gone
            equal(await groups.claim(group, epoch, consumer, sequences, 0, LONG), jobs, missed + gone)
        elif kind == "extend" and not model.renewed:
            consumer, sequences, at_once = arguments
            mine = [
                sequence
                for sequence in dict.fromkeys(sequences)
                if sequence in model.pending and model.pending[sequence].consumer == consumer
            ]
            lease_us, due = (0, model.now) if at_once else (LONG, NEVER)
            assert list(await groups.extend(group, epoch, consumer, sequences, lease_us)) == mine
            for sequence in mine:
                model.pending[sequence].due = due
        elif kind == "delete room":
            await log.delete_room(group.room)
            model.delete_room()
        if model.exists and not model.renewed:
            state = await groups.state(group)
            delayed = sum(not held.consumer for held in model.pending.values())
            lag = sum(sequence > model.given for sequence in model.entries)
            assert state[1:] == (
                epoch, model.given, lag, len(model.pending) - delayed, delayed, model.missed, 5,
            )  # fmt: skip
            listed = await groups.pending(group, (0, 0), 1000)
            assert {job.sequence: (job.consumer, job.deliveries, job.reason) for job in listed} == {
                sequence: (held.consumer, held.deliveries, held.reason)
                for sequence, held in model.pending.items()
            }
