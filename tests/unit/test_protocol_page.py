"""docs/reference/protocol.md matches the code: examples are decoded, tables are compared."""

from __future__ import annotations

import base64
import hmac
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arqonbus.bus.follow import MAX_RECOVERY_BYTES
from arqonbus.bus.fragments import LEAST_FRAME_BYTES
from arqonbus.bus.frames import Close
from arqonbus.bus.request_head import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    BadRequest,
    HeadReader,
)
from arqonbus.bus.session import NoGates, Session, SessionLimits
from arqonbus.bus.upgrade import Handshake, Refused, Request, refused
from arqonbus.bus.welcome import welcome
from arqonbus.bus.wire import BY_SUBPROTOCOL, JSON
from arqonbus.commands.dispatch import COMMANDS
from arqonbus.commands.groups import MAX_WAITING
from arqonbus.config import Settings
from arqonbus.config.network import ENDPOINT
from arqonbus.protocol import arqonbus_pb2 as pb
from arqonbus.protocol import canonical, clocks, envelope, names, wire_json, wire_protobuf
from arqonbus.protocol.envelope import COMMAND, MESSAGE, Envelope, check
from arqonbus.protocol.errors import BusError, Code, Invalid
from arqonbus.protocol.signatures import DOMAIN
from arqonbus.shield.grants import ACTIONS, EVERYTHING, MAX_GRANTS
from arqonbus.shield.tokens import MAX_ROLES, MAX_TOKEN_BYTES, NEVER, Identity, Verifier
from arqonbus.storage.ports import Durability

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reference/protocol.md").read_text("utf-8")
BUS = "\n".join(file.read_text("utf-8") for file in sorted((ROOT / "arqonbus/bus").glob("*.py")))

PAIRS = re.findall(r"```json\n((?:\{[^\n]*\n)+)```\n\n```hex\n([^`]*)```", PAGE)
LINES = [line for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = re.split(rf"^#+ {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1]
    rows: list[list[str]] = []
    for line in section.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


def frame_of(text: str) -> bytes:
    return bytes.fromhex(" ".join(line.partition("#")[0] for line in text.splitlines()))


def envelopes_of(text: str) -> list[Envelope]:
    lines = wire_json.decode(text)
    assert all(line.envelope is not None and not line.unknown_keys for line in lines)
    return [line.envelope for line in lines if line.envelope is not None]


# -- worked examples


@pytest.mark.parametrize(("text", "dump"), PAIRS, ids=["sent", "ack", "delivered", "refusal"])
def test_both_forms_of_an_example_are_the_same_envelopes(text: str, dump: str) -> None:
    decoded = wire_protobuf.decode(frame_of(dump))
    assert [one for one, _ in decoded] == envelopes_of(text)


@pytest.mark.parametrize(("text", "dump"), PAIRS, ids=["sent", "ack", "delivered", "refusal"])
def test_the_comments_of_a_dump_name_its_values(text: str, dump: str) -> None:
    """`name = value` and `name, n bytes: value`, for each value of a single field."""
    shown = [
        value
        for name, value in re.findall(r"# (\w+)(?: = |, \d+ bytes: )(.*)", dump)
        if name in Envelope.DESCRIPTOR.fields_by_name
    ]
    values: list[str] = []
    for one, _ in wire_protobuf.decode(frame_of(dump)):
        for field, value in one.ListFields():
            if field.enum_type is not None:
                values.append(field.enum_type.values_by_number[value].name)
            elif field.message_type is None:
                values.append(value.decode() if isinstance(value, bytes) else str(value))
    assert sorted(shown) == sorted(values)


def test_the_examples_are_there_and_a_client_may_send_its_own() -> None:
    assert len(PAIRS) == 4
    assert len(LINES) == 7
    kinds = Counter(one.kind for line in LINES for one in envelopes_of(line))
    assert kinds == {MESSAGE: 2, COMMAND: 1, pb.REPLY: 3, pb.SIGNAL: 1}
    frame = frame_of(PAIRS[0][1])
    sent = [one for one, _ in wire_protobuf.decode(frame)]
    for one in sent:
        check(one)
    assert wire_protobuf.frame_of(sent) == frame
    (join, _) = sent
    command = COMMANDS[join.name]
    msgspec.convert(msgspec.json.decode(join.payload), command.arguments, strict=True)


# -- tables


def test_close_codes() -> None:
    rows = {int(code): meaning for code, meaning, _ in table("Close codes")}
    assert list(rows) == [int(code) for code in Close]
    reserved = {code for code, meaning in rows.items() if "not sent by this version" in meaning}
    by_the_server_library = {Close.INTERNAL}
    unused = {code for code in Close if f"Close.{code.name}" not in BUS} - by_the_server_library
    assert reserved == unused


def _type_of(field: Any) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"map {_type_of(key)} to {_type_of(value)}"
    if field.message_type is not None:
        return f"message {field.message_type.name}"
    if field.enum_type is not None:
        return f"enum {field.enum_type.name}"
    names_of = {field.TYPE_STRING: "string", field.TYPE_BYTES: "bytes", field.TYPE_BOOL: "bool"}
    names_of |= {field.TYPE_INT64: "int64", field.TYPE_UINT64: "uint64"}
    return names_of[field.type]


def _fields() -> Iterator[tuple[str, int, str]]:
    for field in Envelope.DESCRIPTOR.fields:
        yield f"`{field.name}`", field.number, _type_of(field)


def test_fields_of_the_envelope() -> None:
    rows = table("Envelope")
    assert [(name, int(number), kind) for name, number, kind, *_ in rows] == list(_fields())
    shown = {key for row in rows for key in re.findall(r"`(\w+)`", row[3])}
    assert shown == wire_json.KNOWN_KEYS


SERVER_VALUES: Mapping[str, Any] = {
    "sender": "x",
    "server_time_us": 1,
    "sequence": 1,
    "epoch": "x",
    "reply_to": "x",
    "status": pb.Status(code="OK"),
    "durability": pb.HOT,
    "duplicate": True,
}


def test_fields_that_only_the_server_sets() -> None:
    """`tenant` is the exception that the page names: a client may repeat its own."""
    named = {row[0].strip("`") for row in table("Envelope") if row[4] == "server"} - {"tenant"}
    assert named == set(SERVER_VALUES)
    (sent,) = (one for line in LINES for one in envelopes_of(line) if one.kind == MESSAGE and not one.sender)
    for name, value in SERVER_VALUES.items():
        changed = Envelope()
        changed.CopyFrom(sent)
        changed.MergeFrom(Envelope(**{name: value}))
        with pytest.raises(Invalid) as refusal:
            check(changed)
        assert refusal.value.field_name == name


def test_numbers_of_the_enumerations() -> None:
    kinds = dict(re.findall(r"(\d) `([A-Z]+)`", PAGE))
    assert {name: int(number) for number, name in kinds.items()} == {k: v for k, v in pb.Kind.items() if v}
    (row,) = (row for row in table("Envelope") if row[0] == "`durability`")
    levels = {name: int(number) for number, name in re.findall(r"(\d) `(\w+)`", row[5])}
    assert levels == {level.name.lower(): level.value for level in Durability}


def test_commands() -> None:
    """Name, arguments with the required ones in bold, and who may call."""
    rows = {name.strip("`"): (arguments, who) for name, arguments, who, _ in table("Commands")}
    described = {}
    for command in COMMANDS.values():
        fields = msgspec.structs.fields(command.arguments)
        arguments = [
            f"**`{field.encode_name}`**" if field.required else f"`{field.encode_name}`" for field in fields
        ]
        described[command.name] = (", ".join(arguments), command.who)
    assert rows == described


def test_signals() -> None:
    rows = {name.strip("`"): set(re.findall(r"`(\w+)`", payload)) for name, payload, _ in table("Signals")}
    code = BUS + (ROOT / "arqonbus/protocol/replies.py").read_text("utf-8")
    sent = set(re.findall(r'signal\(\s*"([\w.]+)"|_announce\("([\w.]+)"|kind=SIGNAL, name="(\w+)"', code))
    assert set(rows) == {name for names_ in sent for name in names_ if name}
    for name, keys in rows.items():
        assert all(f'"{key}"' in code for key in keys - {"status"}), name


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_welcome() -> None:
    settings = Settings()
    who = Identity("demo", "alice", "human", "user", EVERYTHING, NEVER, "")
    limits = SessionLimits.of(settings)
    session = Session("c", who, JSON, limits, lambda _: frozenset(), Counter(), 0.0, NoGates())
    signal = welcome(session, settings, "node", Durability.HOT, groups=True, degraded=False)
    facts = msgspec.json.decode(signal.payload)
    assert [row[0].strip("`") for row in table("Welcome")] == list(_flat(facts))


UPGRADE = {
    "upgrade": ["websocket"],
    "connection": ["Upgrade"],
    "sec-websocket-version": ["13"],
    "sec-websocket-key": ["dGhlIHNhbXBsZSBub25jZQ=="],
    "authorization": ["Bearer t"],
}
HEADS = {
    400: b"no request line\r\n\r\n",
    405: b"POST /v1/ws HTTP/1.1\r\nHost: x\r\n\r\n",
    414: b"GET /" + b"x" * 9000,
    426: b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n\r\n",
    431: b"GET / HTTP/1.1\r\nX: " + b"x" * 17_000,
    501: b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n",
    505: b"GET / HTTP/2.0\r\n",
}


def _refusal(code: Code, status: int) -> Refused:
    """Of a request where HTTP decides the status, else of the code."""
    try:
        head = HeadReader().feed(HEADS[status] if code in (Code.VALIDATION_ERROR, Code.TOO_LARGE) else b"")
    except BadRequest as error:
        return refused(error)
    if head is None:
        return refused(BusError(code, ""))
    request = Request(head.target, head.headers, "::1", method=head.method)
    answer = Handshake(Settings(), _anybody).decide(request, None)
    assert isinstance(answer, Refused)
    return answer


def test_refused_upgrades() -> None:
    rows = [(int(status), Code(code.strip("`"))) for status, code, _ in table("Refused upgrades")]
    assert [status for status, _ in rows] == sorted(status for status, _ in rows)
    for status, code in rows:
        answer = _refusal(code, status)
        assert (answer.status, answer.code) == (status, code)
        assert set(msgspec.json.decode(answer.body)) == {"code", "message", "docs"}
        retry = any(name == "Retry-After" for name, _ in answer.headers)
        assert retry is (status in (429, 503))


def _anybody(token: str) -> Identity:
    return Identity("demo", token, "human", "user", EVERYTHING, NEVER, "")


def test_bounds_of_a_request() -> None:
    """As the text gives them."""
    assert (MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES) == (16 * 1024, 128, 8 * 1024)
    assert "at most 16 KiB and 128 header lines" in PAGE
    assert f"(by default {Settings().server.handshake_timeout:g} s)" in PAGE


def test_subprotocols_endpoint_and_query() -> None:
    assert {row[0].strip("`") for row in table("Connect")} == set(BY_SUBPROTOCOL)
    assert f"ws://HOST:PORT{ENDPOINT}`" in PAGE
    assert f"The default port is {Settings().server.port}." in PAGE
    (listed,) = re.findall(r"any of the parameters (.*?), in upper", PAGE, re.DOTALL)

    def decided(query: str) -> Any:
        request = Request(f"{ENDPOINT}?{query}", UPGRADE, "::1")
        return Handshake(Settings(), _anybody).decide(request, None)

    parameters = re.findall(r"`(\w+)`", listed)
    assert len(parameters) == 5
    for name in parameters:
        answer = decided(f"{name.upper()}=t")
        assert isinstance(answer, Refused)
        assert answer.code == Code.UNAUTHENTICATED
    assert not isinstance(decided("page=2"), Refused)


SECRET = "a secret of the tests that is long enough"
CLAIMS: Mapping[str, Any] = {"sub": "alice", "tenant": "demo", "exp": 2**40, "iss": "issuer", "aud": "bus"}


def _verified(claims: Mapping[str, Any]) -> Identity:
    """The identity of a token with these claims, where the profile sets issuer and audience."""
    jwt = {"secret": SECRET, "issuer": "issuer", "audience": "bus"}
    parts = [base64.urlsafe_b64encode(msgspec.json.encode(part)) for part in ({"alg": "HS256"}, claims)]
    signed = b".".join(part.rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), signed, "sha256")).rstrip(b"=")
    settings = Settings.model_validate({"auth": {"jwt": jwt}})
    return Verifier(settings).verify(f"{signed.decode()}.{signature.decode()}")


def test_claims() -> None:
    """Each claim of the table is judged, required ones may not be missing, and no other claim is read."""
    rows = {row[0].strip("`"): row[2] for row in table("Tokens")}
    assert _verified(CLAIMS).subject == "alice"
    for name, required in rows.items():
        with pytest.raises(BusError):
            _verified({**CLAIMS, name: {"of": 1}})
        rest = {key: value for key, value in CLAIMS.items() if key != name}
        if name in CLAIMS:
            assert required.startswith(("yes", "if"))
            with pytest.raises(BusError):
                _verified(rest)
        else:
            assert required.startswith("no") or name == "iat"
    code = (ROOT / "arqonbus/shield/tokens.py").read_text("utf-8")
    assert set(re.findall(r'claims(?:\.get\(|\[|, )"(\w+)"', code)) == set(rows)


def test_grants() -> None:
    (listed,) = re.findall(r"The actions are (.*?);", PAGE)
    assert set(re.findall(r"`(\w+)`", listed)) == ACTIONS
    assert f"of at most {MAX_GRANTS} entries" in PAGE
    assert f"list of at most {MAX_ROLES} strings" in PAGE
    assert DOMAIN == b"arqonbus.v1.message\0"
    assert "`arqonbus.v1.message`" in PAGE


def test_limits() -> None:
    settings = Settings()
    limits, protocol = settings.limits, settings.protocol
    assert [int(row[1]) for row in table("Limits")] == [
        names.MAX_LENGTH,
        envelope.MAX_NAME,
        envelope.MAX_CONTENT_TYPE,
        envelope.MAX_HEADERS,
        envelope.MAX_HEADER_BYTES,
        clocks.MAX_ENTRIES,
        wire_protobuf.MAX_ENVELOPES,
        wire_json.MAX_DEPTH,
        MAX_TOKEN_BYTES,
        protocol.max_payload_bytes,
        canonical.MAX_OVERHEAD_BYTES,
        wire_json.MAX_LINE_BYTES,
        canonical.MAX_UNKNOWN_FIELDS,
        canonical.MAX_UNKNOWN_BYTES,
        protocol.max_frame_bytes,
        limits.messages_per_second,
        limits.messages_burst,
        limits.bytes_per_second,
        LEAST_FRAME_BYTES,
        limits.joins_per_connection,
        limits.commands_per_connection,
        MAX_WAITING,
        limits.bad_frames,
        limits.send_queue_bytes,
        MAX_RECOVERY_BYTES,
    ]
    assert wire_json.MAX_ENVELOPES == wire_protobuf.MAX_ENVELOPES


def test_error_codes_of_the_page_exist() -> None:
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE))
    assert named <= {code.value for code in Code}
    assert len(named) > 10
