"""Keys in Valkey: one slot for a room, no way out of a tenant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.protocol.names import is_name
from arqonbus.storage.ports import RoomKey, StorageError
from arqonbus.storage.valkey.keys import node_channel, probe_key, room_keys, slot_of, tenant_rooms

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=128)


def test_slot_of_the_specification() -> None:
    """Slots are CRC16/XMODEM modulo 16384; the specification's check value is 0x31C3."""
    assert slot_of("123456789") == 0x31C3


def test_keys_of_a_room() -> None:
    """All keys of a room begin with its tenant and carry one hash tag."""
    keys = room_keys(RoomKey("acme", "lobby"))
    assert keys.log == "tenant:acme:room:{acme/lobby}:log"
    assert all(key.startswith("tenant:acme:room:{acme/lobby}:") for key in keys[:-1])
    assert len(set(keys[:-1])) == 7
    assert keys.slot == slot_of("acme/lobby")
    assert tenant_rooms("acme") == ("tenant:{acme}:rooms", slot_of("acme"))


@given(one=st.tuples(NAMES, NAMES), two=st.tuples(NAMES, NAMES))
def test_rooms_share_no_key(one: tuple[str, str], two: tuple[str, str]) -> None:
    """Different rooms have different keys."""
    if one != two:
        assert not set(room_keys(RoomKey(*one))[:-1]) & set(room_keys(RoomKey(*two))[:-1])


@given(name=st.text(max_size=130).filter(lambda text: not is_name(text)))
def test_what_is_no_name(name: str) -> None:
    """Anything that is not a name is refused wherever a key is made."""
    for make in (
        lambda: room_keys(RoomKey(name, "room")),
        lambda: room_keys(RoomKey("tenant", name)),
        lambda: tenant_rooms(name),
        lambda: node_channel(name),
        lambda: probe_key(name, 0),
    ):
        with pytest.raises(StorageError, match="cannot be part of a Valkey key"):
            make()
