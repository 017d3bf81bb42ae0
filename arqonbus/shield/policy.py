"""The content policy: messages are inspected before they are published. Pure.

Almost every message is clean, and one pass of RE2 over the bytes, for all rules at once, proves it. Only if
something may be a finding is the payload parsed. Then values, keys, headers and the name are inspected: all
in one pass, and if that finds something, one by one. A message that is too large to inspect is blocked, not
skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from arqonbus.config.globs import Glob
from arqonbus.config.patterns import compile_linear
from arqonbus.config.policy import Policy as PolicySettings
from arqonbus.protocol.envelope import Envelope, is_json
from arqonbus.protocol.wire_json import MAX_DEPTH, nesting_exceeds, strict_reader
from arqonbus.shield.pattern_sets import MAX_REDACTIONS, is_anchored, redacted, set_of
from arqonbus.shield.places import place_in_payload, shown
from arqonbus.shield.secret_forms import random_text, secret_patterns, without_random_text

Action = Literal["allow", "redact", "block"]
REDACTED = "[redacted]"
MAX_FINDINGS = 20  # named for one message
MAX_NAMES = 4_096  # and other labels of messages that were clean; they come again
MAX_TEXTS = 20_000  # keys and values of a message in which something was found; what has more is blocked
MAX_LOOKS = 2_048  # of them that are looked at one by one, unless a rule means the ends of a value
GROUP = 32  # texts that are looked at together first


class PolicyFinding(NamedTuple):
    """A finding: the rule, the action, and the place (a path of keys, a header, or the name)."""

    rule: str
    action: Action
    where: str


class Judgement(NamedTuple):
    """The verdict of a policy on one message. `payload`, `headers`: the replacements to publish, if any."""

    findings: Sequence[PolicyFinding]
    payload: bytes | None = None
    headers: Mapping[str, str] | None = None

    @property
    def blocked(self) -> PolicyFinding | None:
        """The first finding for which the message may not be published."""
        return next((finding for finding in self.findings if finding.action == "block"), None)


CLEAN = Judgement(())


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    action: Action
    text: str
    pattern: Any
    anchored: bool


class ContentPolicy:
    """A compiled policy. Raises ValueError for a pattern, or a set of them, that RE2 does not take."""

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self._scope = [Glob(pattern) for pattern in settings.rooms]
        self._rules = [
            (
                [Glob(pattern) for pattern in rule.rooms],
                _Rule(
                    rule.name,
                    rule.action,
                    rule.pattern,
                    compile_linear(rule.pattern),
                    anchored=is_anchored(rule.pattern),
                ),
            )
            for rule in settings.rules
        ]
        self._secrets: list[_Rule] = []
        if settings.secrets != "ignore":
            # Where these have an anchor, a quotation mark does as well.
            self._secrets = [
                _Rule(name, settings.secrets, text, compile_linear(text), anchored=False)
                for name, text in secret_patterns()
            ]
        self._inspectors: dict[tuple[int, ...], Inspector] = {}
        if settings.mode != "off":
            self._inspector(range(len(self._rules)), in_scope=True)  # no room has more to be judged by

    def of(self, room: str) -> Inspector | None:
        """The inspector of a room; None: nothing is inspected. '': messages without a room."""
        if self.settings.mode == "off":
            return None
        in_scope = _covers(self._scope, room)
        chosen = [number for number, (rooms, _) in enumerate(self._rules) if _covers(rooms, room)]
        if not in_scope and not chosen:
            return None
        return self._inspector(chosen, in_scope=in_scope)

    def _inspector(self, chosen: Sequence[int], *, in_scope: bool) -> Inspector:
        key = (int(in_scope), *chosen)
        if key not in self._inspectors:
            rules = [self._rules[number][1] for number in chosen]
            self._inspectors[key] = Inspector(self.settings, rules + self._secrets * in_scope, whole=in_scope)
        return self._inspectors[key]


def _covers(patterns: Sequence[Glob], room: str) -> bool:
    return any(pattern.matches(room) for pattern in patterns)


class Inspector:
    """The rules of one set of rooms. `whole`: keys, paths and sizes are judged too, not forms alone."""

    def __init__(self, settings: PolicySettings, rules: Sequence[_Rule], *, whole: bool) -> None:
        self._max_bytes = settings.max_inspected_bytes
        self._max_value = settings.max_value_bytes if whole else 0
        self._bits = settings.entropy if whole and settings.secrets != "ignore" else 0.0
        self._random: Action = "allow" if settings.secrets == "ignore" else settings.secrets
        self._rules = rules
        self._blocked = frozenset(settings.blocked_keys if whole else ())
        self._redacted = frozenset(settings.redacted_keys if whole else ())
        self._paths = [tuple(path.split(".")) for path in settings.blocked_paths] if whole else []
        names = self._blocked | self._redacted | {_last_key(path) for path in self._paths} - {""}
        self._filter = set_of([rule.text for rule in rules], [f'"{name}"' for name in sorted(names)])
        self._clean_names: set[str] = set()  # names, content types and other labels; there are few
        self._anchored = any(rule.anchored for rule in rules)
        self._always_read = self._anchored or any(not _last_key(path) for path in self._paths)

    def judge(self, envelope: Envelope) -> Judgement:
        """Findings in the payload, the headers and every other text of a message or command."""
        payload = envelope.payload
        if len(payload) > self._max_bytes:
            return Judgement((PolicyFinding("size", "block", "payload"),))
        findings: list[PolicyFinding] = []
        for where, text in _labels(envelope):
            if text not in self._clean_names:
                self._judge_label(text, where, findings)
        headers = self._judge_headers(envelope.headers, findings) if envelope.headers else None
        changed = None if self._looks_clean(payload) else self._judge_payload(envelope, findings)
        return Judgement(findings[:MAX_FINDINGS], changed, headers) if findings else CLEAN

    def _looks_clean(self, payload: bytes) -> bool:
        """True if the bytes alone prove that there is no finding. False proves nothing."""
        if self._always_read or b"\\" in payload or (self._max_value and len(payload) > self._max_value):
            return not payload
        if self._filter(payload):
            return False
        return not self._bits or random_text(payload.decode("latin-1"), self._bits) is None

    def _judge_label(self, text: str, where: str, findings: list[PolicyFinding]) -> None:
        before = len(findings)
        self.whole(text, where, findings)
        if len(findings) == before:
            if len(self._clean_names) == MAX_NAMES:
                self._clean_names.clear()
            self._clean_names.add(text)

    def _judge_headers(
        self, headers: Mapping[str, str], findings: list[PolicyFinding]
    ) -> Mapping[str, str] | None:
        kept: dict[str, str] = {}
        for name, value in headers.items():
            self.whole(name, "a header's name", findings)
            kept[name] = self.text(value, f"header {shown(name)}", findings)
            if name in self._blocked:
                findings.append(PolicyFinding("blocked-key", "block", f"header {shown(name)}"))
            elif name in self._redacted and value != REDACTED:
                findings.append(PolicyFinding("redacted-key", "redact", f"header {shown(name)}"))
                kept[name] = REDACTED
        return kept if kept != dict(headers) else None

    def _judge_payload(self, envelope: Envelope, findings: list[PolicyFinding]) -> bytes | None:
        """The payload that is published instead, if something in it is redacted."""
        payload = envelope.payload
        declared = is_json(envelope.content_type)
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            self.whole(payload.decode("latin-1"), "payload", findings)
            return None
        # What looks like JSON is read as such, whatever its sender calls it: a reader may do the same.
        if declared or text.lstrip()[:1] in ("{", "["):
            try:
                published = self._judge_json(text, findings)
            except ValueError:  # no JSON, or JSON that two readers may read in two ways
                if declared:
                    findings.append(PolicyFinding("unreadable", "block", "payload"))
                    return None
            else:
                # An escape is one thing to a reader of JSON and another to a reader of text.
                if not declared and "\\" in text:
                    self.whole(text if published is None else published.decode(), "payload", findings)
                return published
        if envelope.content_type.startswith("text/"):
            changed = self.text(text, "payload", findings)
            return changed.encode() if changed != text else None
        self.whole(text, "payload", findings)
        return None

    def _judge_json(self, text: str, findings: list[PolicyFinding]) -> bytes | None:
        """Raises ValueError for what cannot be read, half a surrogate pair in a text included."""
        if nesting_exceeds(text, MAX_DEPTH):
            findings.append(PolicyFinding("depth", "block", "payload"))
            return None
        value = _read(text)
        texts = _texts(value)
        suspects: Sequence[str] = texts if self._holds_something(texts) else ()
        if len(suspects) > MAX_TEXTS:
            findings.append(PolicyFinding("values", "block", "payload"))
            return None
        if not self._anchored:
            groups = [suspects[start : start + GROUP] for start in range(0, len(suspects), GROUP)]
            suspects = [text for group in groups if self._holds_something(group) for text in group]
            if len(suspects) > MAX_LOOKS:
                findings.append(PolicyFinding("values", "block", "payload"))
                return None
        found: list[PolicyFinding] = []
        walk = _Walk(self, found, frozenset(suspects))
        try:
            value = walk.value(value, ())
        except _Enough:
            findings += found
            findings.insert(0, PolicyFinding("values", "block", "payload"))
            return None
        findings += found
        return msgspec.json.encode(value) if walk.changed else None

    def _holds_something(self, texts: Sequence[str]) -> bool:
        """True if one of the texts may hold a finding. The line break between them is not part of a word."""
        together = "\n".join(texts)
        raw = together.encode()  # refuses half a surrogate pair
        if self._anchored or self._rules_in(raw):
            return True
        return bool(self._bits) and random_text(together, self._bits) is not None

    def is_clean(self, text: str, *, look: bool) -> bool:
        """True if a value or key has no finding. Without `look`, the text is known to be clean."""
        return not self._is_long(text) and not (look and any(True for _ in self._found(text)))

    def _is_long(self, text: str) -> bool:
        # No character takes more than four bytes.
        return 0 < self._max_value < len(text) * 4 and self._max_value < len(text.encode())

    def _rules_in(self, text: bytes) -> Sequence[_Rule]:
        """Those that match somewhere in the text, in the order of the profile."""
        return [self._rules[number] for number in sorted(self._filter(text)) if number < len(self._rules)]

    def _found(self, text: str) -> Iterator[_Rule]:
        yield from self._rules_in(text.encode())
        if self._bits and random_text(text, self._bits) is not None:
            yield _Rule("random-text", self._random, "", None, anchored=False)

    def whole(self, text: str, where: str, findings: list[PolicyFinding]) -> None:
        """A text of which no part can be replaced without harm: what would be redacted is blocked."""
        findings += [
            PolicyFinding(rule.name, "block" if rule.action == "redact" else rule.action, where)
            for rule in self._found(text)
        ]

    def text(self, text: str, where: str, findings: list[PolicyFinding]) -> str:
        """The text with what has to be redacted in it replaced."""
        if self._is_long(text):  # blocked: nothing of it has to be redacted
            findings.append(PolicyFinding("value-size", "block", where))
            return text
        for rule in self._found(text):
            action = rule.action
            if action == "redact":
                if rule.pattern is not None:
                    changed = redacted(rule.pattern, text, REDACTED)
                else:
                    changed = without_random_text(text, self._bits, REDACTED, MAX_REDACTIONS)
                action, text = ("block", text) if changed is None else (action, changed)
            findings.append(PolicyFinding(rule.name, action, where))
        return text

    @property
    def keys(self) -> tuple[frozenset[str], frozenset[str]]:
        """Keys that are blocked, and keys whose values are redacted."""
        return self._blocked, self._redacted

    def is_blocked_path(self, path: Sequence[str]) -> bool:
        return any(_path_matches(pattern, path) for pattern in self._paths)


def _labels(envelope: Envelope) -> Iterator[tuple[str, str]]:
    """Texts that cannot be replaced, with their places. Ids, the room and the trace have a fixed form."""
    yield "name", envelope.name
    yield "content_type", envelope.content_type
    yield "channel", envelope.channel
    if envelope.recipient:
        yield "recipient", envelope.recipient
    if envelope.clock:
        for actor, counter in envelope.clock.items():
            yield "clock", actor
            yield "clock", str(counter)


class _Enough(Exception):
    """More was found in a message than is worked on."""


class _Walk:
    """Goes through a JSON value, collects findings and redacts in place.

    `suspects`: texts that are looked at too, and not only where they stand and how long they are. Raises
    _Enough at more than MAX_REDACTIONS findings.
    """

    def __init__(self, inspector: Inspector, findings: list[PolicyFinding], suspects: frozenset[str]) -> None:
        self._inspector = inspector
        self._findings = findings
        self._suspects = suspects
        self._blocked, self._redacted = inspector.keys
        self.changed = False

    def value(self, value: Any, path: tuple[str, ...]) -> Any:
        if len(self._findings) > MAX_REDACTIONS:
            raise _Enough
        if path and self._inspector.is_blocked_path(path):
            self._findings.append(PolicyFinding("blocked-path", "block", place_in_payload(path)))
        if isinstance(value, str):
            return self._judged(value, path)
        if isinstance(value, msgspec.Raw):  # a number, as its digits
            digits = bytes(value).decode()
            return 0 if self._judged(digits, path) != digits else value
        if isinstance(value, dict):
            for key, inner in value.items():
                value[key] = self._member(key, inner, (*path, key))
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                value[number] = self.value(inner, (*path, str(number)))
        return value

    def _member(self, key: str, inner: Any, path: tuple[str, ...]) -> Any:
        if key in self._blocked:
            self._findings.append(PolicyFinding("blocked-key", "block", place_in_payload(path)))
        elif key in self._redacted and inner != REDACTED:
            self._findings.append(PolicyFinding("redacted-key", "redact", place_in_payload(path)))
            self.changed = True
            return REDACTED
        if not self._inspector.is_clean(key, look=key in self._suspects):
            self._inspector.whole(key, f"a key in {place_in_payload(path[:-1])}", self._findings)
        return self.value(inner, path)

    def _judged(self, text: str, path: tuple[str, ...]) -> str:
        if self._inspector.is_clean(text, look=text in self._suspects):
            return text
        changed = self._inspector.text(text, place_in_payload(path), self._findings)
        self.changed |= changed != text
        return changed


def _texts(value: Any) -> list[str]:
    """The keys, the values and the digits of the numbers in a JSON value, in any order."""
    texts: list[str] = []
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            texts += value
            rest += value.values()
        elif isinstance(value, list):
            rest += value
        elif isinstance(value, msgspec.Raw):
            texts.append(bytes(value).decode())
    return texts


_read = strict_reader(lambda digits: msgspec.Raw(digits.encode()))


def _last_key(path: Sequence[str]) -> str:
    """The last part of a path that must occur in the text as a key; an index need not."""
    return next((part for part in reversed(path) if part != "*" and not part.isdigit()), "")


def _path_matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    return len(pattern) == len(path) and all(
        part in ("*", key) for part, key in zip(pattern, path, strict=True)
    )


__all__ = ["CLEAN", "REDACTED", "Action", "ContentPolicy", "Inspector", "Judgement", "PolicyFinding"]
