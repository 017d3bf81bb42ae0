"""Durations, sizes and the other types of settings."""

import pytest

from arqonbus.config.units import parse_duration, parse_size, parse_switch, parse_whole


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (65536, 65536),
        ("64KiB", 65536),
        ("64 KiB", 65536),
        ("1.5MiB", 1572864),
        ("2MB", 2_000_000),
        ("7", 7),
    ],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(text: object, size: int) -> None:
    """Sizes with decimal and binary units come out in bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "bad", [-1, True, 1.5, "", "64K", "KiB", "1.0001KiB", "-1KiB", "1e3", None, "६४", "1 0"]
)
def test_what_is_not_a_size_is_refused_without_being_repeated(bad: object) -> None:
    """A refusal says what to write and not what was found."""
    with pytest.raises(ValueError, match="is not a size; write bytes, or a number with B, kB") as caught:
        parse_size(bad)
    assert "1.0001" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(5, 5.0), (0.5, 0.5), ("250ms", 0.25), ("5s", 5.0), ("1.5m", 90.0), ("24h", 86400.0), ("7d", 604800.0)],
)
def test_a_duration_is_seconds_or_a_number_with_a_unit(text: object, seconds: float) -> None:
    """Durations with units come out in seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "bad", [-1, True, "", "5 minutes", "s", "-5s", float("nan"), float("inf"), None, "1:30"]
)
def test_what_is_not_a_duration_is_refused(bad: object) -> None:
    """Negative, endless and sexagesimal durations are not read."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(bad)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *((word, True) for word in (True, "true", "YES", "on", "1", 1)),
        *((word, False) for word in (False, "False", "no", "off", "0", 0)),
    ],
)
def test_one_parser_reads_every_spelling_of_a_switch(word: object, value: bool) -> None:
    """The same words are booleans in files, variables and options."""
    assert parse_switch(word) is value


@pytest.mark.parametrize("bad", ["", "y", "enabled", 2, None, 1.0, [], " true"])
def test_what_is_not_a_switch_is_refused(bad: object) -> None:
    """There is no truthiness."""
    with pytest.raises(ValueError, match="is not a yes or a no"):
        parse_switch(bad)


@pytest.mark.parametrize("bad", [True, 1.0, "1.0", "0x10", "1_000", "", None, "१"])
def test_a_whole_number_is_digits_only(bad: object) -> None:
    """A boolean, a fraction and other notations are not counts."""
    with pytest.raises(ValueError, match="is not a whole number"):
        parse_whole(bad)
    assert parse_whole("9100") == parse_whole(9100) == 9100
