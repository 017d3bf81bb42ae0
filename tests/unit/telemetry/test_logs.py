"""The log: one line per record, as JSON or for people; no value can forge a line."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from arqonbus.telemetry.logs import JsonFormatter, TextFormatter, configure


def record(message: str = "something happened", **facts: object) -> logging.LogRecord:
    made = logging.LogRecord("arqonbus.test", logging.WARNING, __file__, 1, message, None, None)
    vars(made).update(facts)
    return made


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


def test_a_json_line_has_time_level_logger_message_and_facts() -> None:
    """A JSON line is one object; facts stand beside the message."""
    line = json.loads(JsonFormatter().format(record(code="X", count=2)))
    assert line["time"].endswith("Z")
    assert (line["level"], line["logger"], line["message"]) == (
        "warning",
        "arqonbus.test",
        "something happened",
    )
    assert (line["code"], line["count"]) == ("X", 2)


def test_a_json_line_stays_one_line() -> None:
    """A line break in a fact or a traceback is escaped."""
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made = record(fact="a\nb")
        made.exc_info = sys.exc_info()
    text = JsonFormatter().format(made)
    assert "\n" not in text
    assert "two\nlines" in json.loads(text)["exception"]


def test_text_cannot_forge_a_second_line() -> None:
    """Control characters in message and facts are shown, not obeyed."""
    text = TextFormatter(colour=False).format(record("a\nb", fact="x\x1b[31m"))
    assert "\n" not in text
    assert "\x1b" not in text
    assert "a\\nb" in text


def test_colour_only_where_asked() -> None:
    """Levels are coloured on a terminal and nowhere else."""
    assert "\x1b[33m" in TextFormatter(colour=True).format(record())
    assert "\x1b" not in TextFormatter(colour=False).format(record())


@pytest.mark.parametrize(("form", "json_expected"), [("json", True), ("text", False), ("auto", True)])
def test_the_form_follows_the_profile(root: logging.Logger, form: str, json_expected: bool) -> None:
    """auto writes JSON where there is no terminal; debug records are left out at level info."""
    stream = io.StringIO()
    configure("info", form, stream)  # type: ignore[arg-type]
    logging.getLogger("arqonbus.test").debug("not shown")
    logging.getLogger("arqonbus.test").info("shown", extra={"n": 1})
    [line] = stream.getvalue().splitlines()
    assert line.startswith("{") is json_expected
    assert "shown" in line
