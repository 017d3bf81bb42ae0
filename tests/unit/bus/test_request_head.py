"""Parsing the head of a request."""

from __future__ import annotations

import base64
import contextlib
from http import HTTPStatus
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picows.picows import _parse_http_request, _validate_upgrade_request  # type: ignore[attr-defined]
from websockets.http11 import Request as HttpRequest
from websockets.server import ServerProtocol

from arqonbus.bus.request_head import MAX_HEAD_BYTES, BadRequest, HeadReader, RequestHead, parse_head, tokens
from arqonbus.bus.upgrade import Accepted, Refused, Request, canonical_head
from tests.unit.bus.test_upgrade import decide

HEAD = (
    b"GET /v1/ws HTTP/1.1\r\nHost: bus\r\nConnection: keep-alive, Upgrade\r\nUPGRADE:websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Authorization: Bearer human\r\n\r\n"
)


def read(*pieces: bytes) -> tuple[RequestHead | None, bytes]:
    """What a reader makes of pieces, and what is behind the head."""
    reader = HeadReader()
    for position, piece in enumerate(pieces):
        head = reader.feed(piece)
        if head is not None:
            return head, reader.rest + b"".join(pieces[position + 1 :])
    return None, b""


@given(st.lists(st.integers(0, len(HEAD)), max_size=6), st.sampled_from([b"", b"\r\n", b"\r\n\r\n"]))
def test_a_head_is_the_same_however_it_is_cut(cuts: list[int], before: bytes) -> None:
    """Empty lines before it are read over, and what is behind it is kept."""
    whole = before + HEAD + b"\x81\x80"
    bounds = [0, *sorted(cuts), len(whole)]
    head, rest = read(*(whole[a:b] for a, b in pairwise(bounds)))
    assert head is not None
    assert (head.method, head.target, head.version, head.raw, rest) == (
        "GET",
        "/v1/ws",
        "1.1",
        HEAD,
        b"\x81\x80",
    )
    assert head.headers["upgrade"] == ["websocket"]
    assert tokens(head.headers["connection"]) == {"keep-alive", "upgrade"}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01", 400),  # TLS
        (b"\0", 400),
        (b"\r\nQ\0", 400),
        (b"\r\n\r\n\0\r\nQUIT\n", 400),  # the PROXY protocol, version 2
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", 400),
        (b"GET /v1/ws HTTP/1.1\r\nHost: bus\n", 400),
        (b"GET /v1/ws HTTP/1.1\n", 400),
        (b"PRI * HTTP/2.0\r\n", 505),
        (b"G" * 9000, 414),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 3000, 431),
    ],
)
def test_what_cannot_become_a_head_is_refused_at_once(data: bytes, status: int) -> None:
    """Not only at its end, nor when the time is over; also if it comes byte by byte."""
    for pieces in ([data], [bytes((byte,)) for byte in data]):
        with pytest.raises(BadRequest) as caught:
            read(*pieces)
        assert caught.value.status == status


@pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", b"GET", HEAD[:-1], HEAD[:-2], HEAD[:-3]])
def test_more_may_come(data: bytes) -> None:
    """What can become a head is awaited, cut at any byte."""
    assert read(data) == (None, b"")
    assert read(*(bytes((byte,)) for byte in data)) == (None, b"")


TARGETS = {
    "/v1/ws?a=b": "/v1/ws?a=b",
    "http://bus/v1/ws": "/v1/ws",
    "HTTPS://bus:9100/v1/ws?x": "/v1/ws?x",
    "ws://[::1]:9100/v1/ws": "/v1/ws",
    "wss://bus": "/",
    "http://bus?x": "/?x",
    "*": "*",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_in_origin_form(target: str) -> None:
    assert parse_head(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).target == TARGETS[target]


@pytest.mark.parametrize(
    "target",
    ["v1/ws", "bus:443", "ftp://bus/v1/ws", "http:///v1/ws", "http://a@b/", "/#x", "http://b/#", "?x"],
)
def test_no_target(target: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_head(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert caught.value.status == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    "host",
    ["bus", "bus:9100", "my_service", "127.0.0.1:1", "[::1]", "[fe80::1%25eth0]:9100", "", "bus:", "a.b."],
)
def test_a_host(host: str) -> None:
    parse_head(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "a@b", "a,b:x", "[::1", "a:123456", "a:b", "a?b", "b\u00fcs", "a\\b"]
)
def test_no_host(host: str) -> None:
    with pytest.raises(BadRequest):
        parse_head(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())


@given(st.binary(max_size=300), st.integers(0, len(HEAD)))
def test_any_bytes_are_a_head_or_a_refusal(data: bytes, place: int) -> None:
    """Nothing else is raised, and nothing is kept beyond the bound."""
    for sent in (data, HEAD[:place] + data + HEAD[place:]):
        reader = HeadReader()
        with contextlib.suppress(BadRequest):
            head = reader.feed(sent)
            assert head is None or head.raw + reader.rest == sent.lstrip(b"\r\n")
            assert len(sent) <= MAX_HEAD_BYTES


@given(st.data())
def test_libraries_read_what_is_handed_to_them(data: st.DataObject) -> None:
    """The canonical head of whatever was accepted is an upgrade to both server libraries."""
    key = data.draw(st.binary(min_size=16, max_size=16).map(base64.b64encode))
    spelled = data.draw(
        st.sampled_from([b"Upgrade", b"keep-alive,UPGRADE", b"close , upgrade", b",upgrade,"])
    )
    raw = HEAD.replace(b"keep-alive, Upgrade", spelled).replace(b"dGhlIHNhbXBsZSBub25jZQ==", key)
    head = parse_head(raw)
    request = Request(head.target, head.headers, "192.0.2.1")
    assert isinstance(decide(request), Accepted)
    handed = canonical_head(request)
    _validate_upgrade_request(_parse_http_request(handed.removesuffix(b"\r\n\r\n")))
    server = ServerProtocol()
    server.receive_data(handed)
    (event,) = server.events_received()
    assert isinstance(event, HttpRequest)
    assert server.accept(event).status_code == 101


def test_a_key_that_a_library_would_refuse_is_refused_before() -> None:
    for key in (b"", b"AAAA", b"!" * 24, b"A" * 24, b"A" * 21 + b"===", b"A" * 22 + b"== "[:2] + b"A"):
        head = parse_head(HEAD.replace(b"dGhlIHNhbXBsZSBub25jZQ==", key))
        assert isinstance(decide(Request(head.target, head.headers, "192.0.2.1")), Refused)
