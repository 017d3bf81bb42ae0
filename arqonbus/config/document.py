"""Parse a YAML text to plain values, with the line and column of each.

Only a subset of YAML: `true` and `false` are the only booleans, so `no`, `on` and `1:30` stay text; dates
stay text; tags, merge keys, several documents and duplicate keys are refused. Size, depth and expansion of
aliases are bounded before values are built. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from arqonbus.config.findings import ConfigError, Fault, Finding, Location, Path, dotted

MAX_BYTES = 2**20
MAX_NODES = 20_000
MAX_DEPTH = 32

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}(?:[eE][-+]?[0-9]{1,2})?", re.ASCII)
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True)
class Document:
    """The values of a YAML text. `marks`: line and column of every key and list item, counted from 1."""

    data: dict[str, Any] = field(default_factory=dict)
    marks: Mapping[Path, tuple[int, int]] = field(default_factory=dict)


class _Composer(yaml.SafeLoader):
    """PyYAML's composer with bounds on nodes and depth."""

    nodes = 0
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes += 1
        self.depth += 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise _TooLarge(self.get_mark())
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _TooLarge(Exception):
    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__()
        self.mark = mark


# Without the implicit resolvers of YAML 1.1 every plain scalar is text with its style.
_Composer.yaml_implicit_resolvers = {}


def parse(text: str, *, layer: str, source: str) -> Document:
    """Parse a YAML text whose top level is a mapping. Raises ConfigError with all faults."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConfigError([_too_large(Location(layer, source))])
    root = _compose(text, layer, source)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.value == "" and not root.style):
        message = "holds no settings; write at least one, or do not name the file"
        raise ConfigError([Finding(Fault.YAML_INVALID, f"the file {message}", Location(layer, source))])
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        message = f"the file holds {kind} at its top; write settings as key: value"
        raise ConfigError([Finding(Fault.YAML_INVALID, message, _at(root.start_mark, layer, source))])
    builder = _Builder(layer, source)
    data = builder.value(root, ())
    if builder.findings:
        raise ConfigError(builder.findings)
    return Document(data, builder.marks)


def parse_inline(text: str) -> Any:
    """Parse a value on one line, such as `[a, b]`. Raises ValueError; the message continues after the key."""
    try:
        root = _compose(text, "", "")
        builder = _Builder("", "")
        value = builder.value(root, ()) if root is not None else None
    except ConfigError as error:
        raise ValueError(error.findings[0].message) from error
    if builder.findings:
        raise ValueError(builder.findings[0].message)
    return value


def _compose(text: str, layer: str, source: str) -> yaml.Node | None:
    loader: _Composer | None = None
    try:
        loader = _Composer(text)
        node: yaml.Node | None = loader.get_single_node()
        return node
    except _TooLarge as error:
        raise ConfigError([_too_large(_at(error.mark, layer, source))]) from None
    except yaml.reader.ReaderError as error:
        message = f"the file holds the character U+{int(error.character):04X}, which YAML does not allow"
        line, column = _place(text, error.position)
        raise ConfigError(
            [Finding(Fault.YAML_INVALID, message, Location(layer, source, line, column))]
        ) from None
    except yaml.MarkedYAMLError as error:
        # The snippet in str(error) could contain a secret; the problem and its place do not.
        mark = error.problem_mark or error.context_mark
        place = _at(mark, layer, source) if mark else Location(layer, source)
        raise ConfigError([Finding(Fault.YAML_INVALID, _problem(error), place)]) from None
    finally:
        if loader is not None:
            loader.dispose()


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "the text cannot be read"
    if "'\\t'" in problem:
        return "a tab is used for indentation; YAML allows spaces only"
    if "expected a single document" in (error.context or ""):
        return "the file holds several documents; keep the first and remove what follows ---"
    if "alias" in problem or "anchor" in problem:
        # Its name may be a secret that begins with * or &, so the message omits it.
        return "an alias or anchor is invalid here; quote a value that begins with * or &"
    return f"this is not YAML: {problem}"


class _Builder:
    """Builds values from nodes. Collects faults and continues, so that one pass finds all."""

    def __init__(self, layer: str, source: str) -> None:
        self.layer = layer
        self.source = source
        self.marks: dict[Path, tuple[int, int]] = {}
        self.findings: list[Finding] = []
        self._built = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._built += 1
        if self._built > MAX_NODES or id(node) in self._open:
            raise ConfigError([_too_large(_at(node.start_mark, self.layer, self.source))])
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return self._sequence(node, path)
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        self._refuse_tag(node, "tag:yaml.org,2002:map", path)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._find(Fault.YAML_INVALID, "a key must be a name", key_node.start_mark, path)
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in result:
                first = self.marks[here][0]
                message = f"{dotted(here)} is repeated, first set in line {first}; keep one of them"
                self._find(Fault.DUPLICATE_KEY, message, key_node.start_mark, here)
                continue
            self.marks[here] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            result[key] = self.value(value_node, here)
        return result

    def _sequence(self, node: yaml.SequenceNode, path: Path) -> list[Any]:
        self._refuse_tag(node, "tag:yaml.org,2002:seq", path)
        for index, item in enumerate(node.value):
            self.marks[(*path, index)] = (item.start_mark.line + 1, item.start_mark.column + 1)
        return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        self._refuse_tag(node, "tag:yaml.org,2002:str", path)
        text = str(node.value)
        if isinstance(node, yaml.ScalarNode) and node.style:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _NUMBER.fullmatch(text) else text

    def _refuse_tag(self, node: yaml.Node, plain: str, path: Path) -> None:
        if node.tag != plain:
            message = f"{dotted(path) or 'the file'} has a YAML tag; profiles are written without tags"
            self._find(Fault.YAML_INVALID, message, node.start_mark, path)

    def _find(self, code: Fault, message: str, mark: yaml.Mark, path: Path) -> None:
        self.findings.append(Finding(code, message, _at(mark, self.layer, self.source), dotted(path)))


def _at(mark: yaml.Mark, layer: str, source: str) -> Location:
    return Location(layer, source, mark.line + 1, mark.column + 1)


def _place(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _too_large(place: Location) -> Finding:
    message = (
        f"the file is larger, deeper or more repetitive than a profile may be ({MAX_BYTES // 1024} KiB, "
        f"{MAX_DEPTH} levels, {MAX_NODES} values with aliases expanded); make it smaller"
    )
    return Finding(Fault.YAML_TOO_LARGE, message, place)


__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "Document", "parse", "parse_inline"]
