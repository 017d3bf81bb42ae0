"""Layers of a profile: values with their locations, and reading of a layer from a file.

A file is read through dynaconf, one instance per file with all dynamic features off. dynaconf would evaluate
strings that begin with @, upper-case keys, merge lists and search for more files; so this module is its only
loader and passes it the parsed document as one opaque value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from dynaconf import Dynaconf

from arqonbus.config.document import MAX_BYTES, Document, parse
from arqonbus.config.findings import ConfigError, Fault, Finding, Location, Path
from arqonbus.config.regular_file import NotRegular, read_regular

_FILE = "ARQONBUS_LAYER_FILE"
_DOCUMENT = "ARQONBUS_LAYER_DOCUMENT"


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A file of a layer: the layer's name, the path, and the path for messages."""

    layer: str
    path: FilePath
    shown: str


@dataclass(frozen=True, slots=True)
class Layer:
    """Values of one source. A higher layer replaces lists and single values, and merges mappings."""

    name: str
    source: str
    data: dict[str, Any] = field(default_factory=dict)
    places: Mapping[Path, Location] = field(default_factory=dict)

    def place(self, path: Path) -> Location:
        """Location of the value at the path, or of the nearest parent."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.places:
                return self.places[path[:depth]]
        return Location(self.name, self.source)


def read_layer(file: LayerFile) -> Layer:
    """Read one YAML file. Raises ConfigError with all its faults."""
    store = Dynaconf(
        core_loaders=[],
        loaders=[__name__],
        settings_files=[],
        preload=[],
        includes=[],
        root_path=str(file.path.parent),
        environments=False,
        env_switcher="ARQONBUS_NO_SWITCHER",
        envvar_prefix=False,
        load_dotenv=False,
        auto_cast=False,
        merge_enabled=False,
        dotted_lookup=False,
        sysenv_fallback=False,
        skip_files=["*"],
        **{_FILE: file},
    )
    document: Document = store[_DOCUMENT]
    places = {path: Location(file.layer, file.shown, *mark) for path, mark in document.marks.items()}
    return Layer(file.layer, file.shown, document.data, places)


def load(obj: Any, env: str | None = None, silent: bool = True, key: str | None = None) -> None:
    """Loader function that dynaconf calls: set the parsed document of the instance's file."""
    file: LayerFile = obj[_FILE]
    document = parse(_text(file), layer=file.layer, source=file.shown)
    obj.set(_DOCUMENT, document, loader_identifier="arqonbus")


def _text(file: LayerFile) -> str:
    place = Location(file.layer, file.shown)
    try:
        raw = read_regular(file.path, MAX_BYTES, follow_links=True).raw
    except NotRegular:
        message = "this is not a regular file; name a YAML file"
        raise ConfigError([Finding(Fault.FILE_UNREADABLE, message, place)]) from None
    except OSError as error:
        message = f"the file cannot be read ({error.strerror}); correct its path or its permissions"
        raise ConfigError([Finding(Fault.FILE_UNREADABLE, message, place)]) from error
    if len(raw) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 1024} KiB, the limit for a profile"
        raise ConfigError([Finding(Fault.YAML_TOO_LARGE, message, place)])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = "the file is not UTF-8 from here on; save it as UTF-8"
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise ConfigError(
            [Finding(Fault.YAML_INVALID, message, Location(file.layer, file.shown, line, column))]
        ) from error


__all__ = ["Layer", "LayerFile", "load", "read_layer"]
