"""Message ids."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.protocol import ids
from arqonbus.protocol.ids import (
    born_ms,
    derived_ulid,
    is_message_id,
    is_ulid,
    is_uuid7,
    new_ulid,
    new_uuid7,
)

MAKERS = [new_ulid, new_uuid7]
ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
UUID7 = "01890a5d-ac96-774b-bcce-b302099a8057"
MAX_ULID = "7" + "Z" * 25


@pytest.mark.parametrize("make", MAKERS)
def test_ids_ascend(make: Callable[[], str]) -> None:
    """Each id is greater than the one before, also within one millisecond."""
    made = [make() for _ in range(20_000)]
    assert all(first < second for first, second in itertools.pairwise(made))


@pytest.mark.parametrize("make", MAKERS)
def test_ids_ascend_by_the_smallest_step(make: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids ascend even if the random source gives nothing but zero."""
    monkeypatch.setattr(ids.secrets, "randbits", lambda bits: 0)
    made = [make() for _ in range(1000)]
    assert all(first < second for first, second in itertools.pairwise(made))


@pytest.mark.parametrize("make", MAKERS)
def test_ids_ascend_across_threads(make: Callable[[], str]) -> None:
    """Threads never get the same id, and each of them sees ids ascend."""
    made: list[list[str]] = [[] for _ in range(4)]
    start = threading.Barrier(4)

    def work(mine: list[str]) -> None:
        start.wait(10)
        mine.extend(make() for _ in range(3000))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(mine == sorted(mine) for mine in made)
    assert len({one for mine in made for one in mine}) == 12_000


@pytest.mark.parametrize("make", MAKERS)
def test_a_clock_that_is_set_back(make: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After the clock was set back ids go on ascending, in the millisecond where they were."""
    before = make()
    monkeypatch.setattr(ids.time, "time_ns", lambda: (born_ms(before) - 3_600_000) * 1_000_000)
    after = make()
    assert before < after
    assert born_ms(after) == born_ms(before)


@pytest.mark.parametrize("make", MAKERS)
def test_birth(make: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An id tells the millisecond of its birth."""
    future = born_ms(make()) + 86_400_000
    monkeypatch.setattr(ids, "_last_ms", 0)
    monkeypatch.setattr(ids.time, "time_ns", lambda: future * 1_000_000 + 999_999)
    assert born_ms(make()) == future


@pytest.mark.parametrize("text", ["", "x", UUID7.upper(), ULID.lower(), UUID7.replace("7", "4", 1)])
def test_birth_of_no_id(text: str) -> None:
    """What is no id has no birth."""
    with pytest.raises(ValueError, match="not a ULID"):
        born_ms(text)


@given(st.integers(0, 2**128 - 1))
def test_uuid7_is_what_the_standard_library_says(number: int) -> None:
    """Of all 128-bit numbers exactly those with version 7 and the RFC's variant are accepted."""
    for version in (1, 4, 7):
        text = str(uuid.UUID(int=number & ~(0xF << 76) | version << 76))
        assert is_uuid7(text) == (version == 7 and uuid.UUID(text).variant == uuid.RFC_4122)


REFUSED = {
    "empty": "",
    "too short": ULID[:-1],
    "too long": ULID + "0",
    "lower case": ULID.lower(),
    "letter I": "I" + ULID[1:],
    "letter L inside": ULID[:9] + "L" + ULID[10:],
    "letter O at the end": ULID[:-1] + "O",
    "letter U": ULID[:-1] + "U",
    "more than 128 bits": "8" + "0" * 25,
    "space before": " " + ULID[:-1],
    "line break behind": ULID[:-1] + "\n",
    "hyphen": ULID[:5] + "-" + ULID[6:],
    "full-width digit": "０" + ULID[1:],
    "UUID in upper case": UUID7.upper(),
    "UUID without hyphens": UUID7.replace("-", ""),
    "UUID in braces": "{" + UUID7[:-2] + "}",
    "UUID as URN": "urn:uuid:" + UUID7[9:],
    "UUID of version 4": "9c5b94b1-35ad-49bb-b118-8e8fc24abf80",
    "UUID of another variant": UUID7[:19] + "c" + UUID7[20:],
    "UUID with a hyphen moved": UUID7[:7] + "-" + UUID7[7] + UUID7[9:],
    "UUID with a hyphen more": UUID7[:-1] + "-",
    "UUID with another letter": UUID7[:-1] + "g",
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """Only the canonical form is an id, so that no id has two spellings."""
    assert not is_message_id(REFUSED[case])


@pytest.mark.parametrize("text", [ULID, MAX_ULID, "0" * 26, UUID7])
def test_accepted(text: str) -> None:
    """Canonical ULIDs, from the least to the greatest, and UUIDv7 are ids."""
    assert is_message_id(text)
    assert is_ulid(text) != is_uuid7(text)


@given(st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=26, max_size=26))
def test_ulid_alphabet(text: str) -> None:
    """A text of 26 is a ULID if it has no I, L, O or U and fits 128 bits."""
    assert is_ulid(text) == (not set(text) & set("ILOU") and text[0] in "01234567")


def test_derived_ulid() -> None:
    """An id that is derived is the same each time, another one for other parts, and tells its birth."""
    derived = derived_ulid(1_700_000_000_000, "room", "a", 12)
    assert derived == derived_ulid(1_700_000_000_000, "room", "a", 12)
    assert is_ulid(derived)
    assert born_ms(derived) == 1_700_000_000_000
    others = [derived_ulid(1_700_000_000_000, *parts) for parts in (("room", "a1", 2), ("rooma", 12), ())]
    assert len({derived, *others}) == 4
