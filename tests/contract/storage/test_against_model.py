"""Random histories on every backend, compared with a simple model."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arqonbus.storage.ports import KEEP_NOTHING, Retention

from .conftest import Bench, append

_append = st.tuples(
    st.just("append"),
    st.lists(st.integers(0, 30).map(lambda number: f"id-{number}"), max_size=8),
    st.sampled_from([0, 0, 1, 3, 10, KEEP_NOTHING]),
)
_read = st.tuples(st.just("read"), st.integers(0, 40), st.integers(0, 40), st.integers(0, 12))
_read_back = st.tuples(st.just("read_back"), st.integers(0, 40), st.integers(0, 12))
_delete = st.tuples(st.just("delete"))
_steps = st.lists(st.one_of(_append, _append, _append, _read, _read_back, _delete), max_size=25)


class Model:
    """A room as one list and one dict."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.last = 0
        self.entries: list[tuple[int, str]] = []
        self.known: dict[str, int] = {}

    @property
    def first(self) -> int:
        return self.entries[0][0] if self.entries else (self.last + 1 if self.last else 0)

    def append(self, ids: list[str], most: int) -> tuple[list[int], set[int]]:
        sequences, duplicates = [], set()
        for index, id_ in enumerate(ids):
            if id_ in self.known:
                duplicates.add(index)
            else:
                self.last += 1
                self.known[id_] = self.last
                self.entries.append((self.last, id_))
            sequences.append(self.known[id_])
        if most == KEEP_NOTHING:
            self.entries = []
        elif most:
            self.entries = self.entries[-most:]
        return sequences, duplicates


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
async def test_random_histories(bench: Bench, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    """Appends, reads, trims and deletions in any order give what the model gives."""
    log = bench.logs[0] if bench.logs else await bench.log()
    room, model = bench.room(), Model()
    await log.delete_room(room)
    for step in steps:
        if step[0] == "append":
            _, ids, most = step
            stored = await append(log, room, *ids, retention=Retention(most, 0))
            sequences, duplicates = model.append(ids, most)
            assert (list(stored.sequences), stored.duplicates) == (sequences, duplicates)
        elif step[0] == "read":
            _, after, until, limit = step
            page = await log.read(room, after, until, limit)
            wanted = [entry for entry in model.entries if after < entry[0] <= (until or model.last)]
            assert [(entry.sequence, entry.id) for entry in page.entries] == wanted[:limit]
        elif step[0] == "read_back":
            _, before, limit = step
            page = await log.read_back(room, before, limit)
            wanted = [entry for entry in model.entries if not before or entry[0] < before][::-1]
            assert [(entry.sequence, entry.id) for entry in page.entries] == wanted[:limit]
        else:
            await log.delete_room(room)
            model.forget()
        head = await log.head(room)
        if head.epoch:
            assert (head.first, head.last) == (model.first or 1, model.last)
        else:
            assert (head.first, head.last, model.last) == (0, 0, 0)
