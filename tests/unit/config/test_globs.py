"""Patterns with a star."""

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arqonbus.config.globs import Glob, name_pattern


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "", True),
        ("orders.*", "orders.new", True),
        ("orders.*", "orders.", True),
        ("orders.*", "orders", False),
        ("*.new", "orders.eu.new", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("a*b*c", "axxbyyc", True),
        ("a*b*c", "acb", False),
        ("orders", "orders", True),
        ("orders", "orders.new", False),
    ],
)
def test_a_star_stands_for_any_run_of_characters(pattern: str, name: str, matches: bool) -> None:
    """Everything but a star stands for itself, dots included."""
    assert Glob(pattern).matches(name) is matches


@given(st.text("ab*", min_size=1, max_size=8), st.text("ab", max_size=12))
def test_a_pattern_means_what_a_shell_means_by_it(pattern: str, name: str) -> None:
    """The linear matcher agrees with the one of the standard library."""
    assert Glob(pattern).matches(name) is fnmatch.fnmatchcase(name, pattern)


def test_no_pattern_makes_matching_slow() -> None:
    """A pattern on which a backtracking matcher would hang ends at once."""
    begin = time.process_time()
    assert not Glob("a*" * 60 + "b").matches("a" * 128)
    assert time.process_time() - begin < 0.1


@pytest.mark.parametrize("bad", ["", "a b", "a/b", "ö", "a" * 129, "[ab]", "a?", "a\n"])
def test_a_pattern_that_no_name_could_match_is_refused(bad: str) -> None:
    """A typing error in a rule is told instead of never matching."""
    with pytest.raises(ValueError, match="is not a pattern of names"):
        name_pattern(bad)
