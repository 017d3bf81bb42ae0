"""Names of tenants, rooms and channels."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.protocol.names import is_name

RULE = re.compile(r"[A-Za-z0-9._-]{1,128}")


@given(st.one_of(st.text(max_size=10), st.text("aZ0._-:/ {}\n", max_size=140)))
def test_names_follow_the_rule(text: str) -> None:
    """A name is 1-128 of A-Z a-z 0-9 . _ - and nothing else."""
    assert is_name(text) == bool(RULE.fullmatch(text))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129])
def test_length(size: int) -> None:
    """A name has between 1 and 128 characters."""
    assert is_name("n" * size) == (1 <= size <= 128)


@pytest.mark.parametrize("separator", list(":/\\{}*>#,;|@\0\t\n \r\x7f~é０"))
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_separator(separator: str, place: int) -> None:
    """No separator of any key or path can stand at any place of a name."""
    assert not is_name("ab"[:place] + separator + "ab"[place:])
