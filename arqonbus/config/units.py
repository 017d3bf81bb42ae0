"""Types of setting values: sizes, durations, switches, whole numbers, texts.

Pure. Error messages continue after the name of the setting and never contain the value, because it may be
secret.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, WithJsonSchema

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SWITCH_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
_AMOUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s?([A-Za-z]{0,3})", re.ASCII)
_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def parse_switch(value: object) -> bool:
    """Parse a boolean: true/false, yes/no, on/off, 1/0, in any case."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, int)) and str(value).lower() in _SWITCH_WORDS:
        return _SWITCH_WORDS[str(value).lower()]
    raise ValueError("is not a yes or a no; write true or false (yes, no, on, off, 1 and 0 are read too)")


def parse_whole(value: object) -> int:
    """Parse an integer, or its digits as text. `true` is not 1."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    raise ValueError("is not a whole number; write digits only, such as 9100")


def parse_size(value: object) -> int:
    """Parse a size in bytes from a number or from text with a unit: `65536`, `64KiB`, `1.5MiB`, `2MB`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (match := _AMOUNT.fullmatch(value)):
        amount, unit = match.groups()
        if unit in _SIZE_UNITS:
            size = float(amount) * _SIZE_UNITS[unit] if "." in amount else int(amount) * _SIZE_UNITS[unit]
            if size == int(size):
                return int(size)
    raise ValueError("is not a size; write bytes, or a number with B, kB, MB, GB, KiB, MiB or GiB: 64KiB")


def parse_duration(value: object) -> float:
    """Parse a duration in seconds from a number or text with a unit: `5`, `250ms`, `1.5m`, `24h`, `7d`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12:
        return float(value)
    if isinstance(value, str) and (match := _AMOUNT.fullmatch(value)):
        amount, unit = match.groups()
        if unit in _DURATION_UNITS:
            return float(amount) * _DURATION_UNITS[unit]
    raise ValueError("is not a duration; write seconds, or a number with ms, s, m, h or d: 5s")


Switch = Annotated[
    bool,
    BeforeValidator(parse_switch),
    WithJsonSchema(
        {
            "anyOf": [{"type": "boolean"}, {"enum": ["yes", "no", "on", "off", "true", "false"]}],
            "unit": "switch",
        }
    ),
]
Whole = Annotated[int, BeforeValidator(parse_whole)]
Count = Annotated[int, BeforeValidator(parse_whole), Field(ge=0)]
Port = Annotated[int, BeforeValidator(parse_whole), Field(ge=1, le=65535)]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(B|kB|KB|MB|GB|KiB|MiB|GiB)?$"},
            ],
            "unit": "bytes",
        }
    ),
]
Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(ms|s|m|h|d)?$"},
            ],
            "unit": "seconds",
        }
    ),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


def _fit_for_a_secret(secret: SecretStr) -> SecretStr:
    """The same rule for every origin of a secret, because each of its readers strips other characters."""
    text = secret.get_secret_value()
    if text.startswith("-----BEGIN"):
        return secret  # a key in the wrong setting, which has an error of its own
    if text.startswith("\ufeff"):
        raise ValueError("begins with a byte order mark; save it as UTF-8 without one")
    if text != text.strip():
        raise ValueError("has a blank or a line break at its begin or end; remove it")
    if not text.isprintable():
        raise ValueError("has a line break or a control character in it; write one line of text")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise ValueError("is in quotes, which count as part of it; remove them")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_fit_for_a_secret)]


def _path_of_text(value: object) -> object:
    """Refuse an empty path, which would mean the current directory."""
    if value == "":
        raise ValueError("is empty; write a path, or leave the setting out")
    return value


FilePath = Annotated[Path, BeforeValidator(_path_of_text)]

__all__ = [
    "Count",
    "FilePath",
    "Port",
    "Seconds",
    "Secret",
    "Size",
    "Switch",
    "Text",
    "Whole",
    "parse_duration",
    "parse_size",
    "parse_switch",
    "parse_whole",
]
