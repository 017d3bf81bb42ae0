"""The head of one HTTP/1.1 request: bytes in, a parsed head or a refusal out. No I/O.

h11 parses. What it forgives, and a proxy may therefore read differently from the bus, is refused before: bare
line feeds, folded lines, control characters, a length beside a transfer coding. Source: RFC 9112.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import h11

from arqonbus.protocol.errors import BusError, Code

MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 128
MAX_TARGET_BYTES = 8 * 1024
_END = b"\r\n\r\n"

_REQUEST_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+ ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_TOKEN_CHARACTER = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]")
# What RFC 9112 forbids, or lets a server refuse, because parsers disagree about it.
_AMBIGUOUS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n|\n[ \t]")
_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%_~-]+\]|[-A-Za-z0-9._~%!$&'()*+,;=]*)(?::[0-9]{0,5})?", re.ASCII)
_ABSOLUTE = re.compile(r"(?:https?|wss?)://(?P<authority>[^/?#]+)(?P<rest>.*)", re.ASCII | re.IGNORECASE)


class BadRequest(BusError):
    """A request that HTTP or RFC 6455 does not allow: `status` and additional `headers` of the answer."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        code: Code = Code.VALIDATION_ERROR,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(code, message)
        self.status = status
        self.headers = tuple(headers)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its body.

    `target` is in origin form (path and query), `headers` maps names in lower case to their values in order.
    `raw` is the head as it came, with the blank line behind it.
    """

    method: str
    target: str
    version: str
    headers: Mapping[str, Sequence[str]]
    raw: bytes = field(repr=False)


class HeadReader:
    """Collects the head of one connection. `rest` holds what came behind it."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._judged = 0  # bytes that were looked at
        self._line_read = False
        self.rest = b""

    @property
    def started(self) -> bool:
        """True if any byte has arrived."""
        return bool(self._data)

    def feed(self, data: bytes) -> RequestHead | None:
        """Take bytes; the head as soon as it is whole. Raises BadRequest, as early as it can be known."""
        found = self._data
        found += data
        if not self._line_read:
            while found.startswith(b"\r\n"):  # RFC 9112, 2.2
                del found[:2]
        end = found.find(_END, max(0, self._judged - len(_END) + 1))
        whole = end >= 0
        end = end + len(_END) if whole else len(found)
        self._judge_start()
        if end > MAX_HEAD_BYTES:
            raise BadRequest(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the request head is larger than {MAX_HEAD_BYTES} bytes; send fewer headers or cookies",
                Code.TOO_LARGE,
            )
        if not whole:
            # A carriage return at the end may be half of a line's end, and is looked at again.
            _refuse_ambiguous(found, max(0, self._judged - 1), len(found) - found.endswith(b"\r"))
            self._judged = len(found)
            return None
        self.rest = bytes(found[end:])
        return parse_head(bytes(found[:end]))

    def _judge_start(self) -> None:
        """Refuse what will never be HTTP before more of it is awaited."""
        if self._line_read or not self._data or self._data == b"\r":
            return
        if not _TOKEN_CHARACTER.match(self._data):
            raise BadRequest(HTTPStatus.BAD_REQUEST, "this is no HTTP request; this port speaks HTTP/1.1")
        end = self._data.find(b"\r\n")
        if end > MAX_TARGET_BYTES or (end < 0 and len(self._data) > MAX_TARGET_BYTES):
            raise BadRequest(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"the request line is longer than {MAX_TARGET_BYTES} bytes",
                Code.TOO_LARGE,
            )
        if end >= 0:
            self._line_read = True
            _read_line(bytes(self._data[:end]))


def parse_head(raw: bytes) -> RequestHead:
    """The head in `raw`, which ends with its blank line. Raises BadRequest."""
    _read_line(raw[: raw.index(b"\r\n")])
    _refuse_ambiguous(raw, 0, len(raw))
    if raw.count(b"\r\n") - 2 > MAX_HEADERS:
        raise BadRequest(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request has more than {MAX_HEADERS} header lines",
            Code.TOO_LARGE,
        )
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    connection.receive_data(raw)
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise BadRequest(
            HTTPStatus(error.error_status_hint),
            "a header line is malformed, Host is missing or repeated, or the body's length is not clear",
        ) from error
    assert isinstance(request, h11.Request)
    headers: dict[str, list[str]] = {}
    for name, value in request.headers:
        headers.setdefault(name.decode("ascii"), []).append(value.decode("latin-1"))
    if "transfer-encoding" in headers and ("content-length" in headers or request.http_version != b"1.1"):
        raise BadRequest(
            HTTPStatus.BAD_REQUEST,
            "the body has a transfer coding, and a length or HTTP/1.0; send one of them",
        )
    for host in headers.get("host", ()):
        if not _HOST.fullmatch(host):
            raise BadRequest(HTTPStatus.BAD_REQUEST, "the Host header is not a host and a port")
    return RequestHead(
        request.method.decode("ascii"),
        _origin_form(request.target.decode("ascii")),
        request.http_version.decode("ascii"),
        headers,
        raw,
    )


def tokens(values: Sequence[str]) -> frozenset[str]:
    """The tokens of a header that is a list, in lower case: lines in any number, commas in between."""
    return frozenset(token.strip(" \t").lower() for value in values for token in value.split(","))


def _read_line(line: bytes) -> None:
    """Refuse a request line that is not METHOD TARGET HTTP/1.x."""
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "the request line is not METHOD TARGET HTTP/1.1")
    if found[2] != b"1":
        raise BadRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this port speaks HTTP/1.1")


def _refuse_ambiguous(data: bytes | bytearray, start: int, end: int) -> None:
    # Bounds and not a slice: the expression looks at what stands before `start`.
    if _AMBIGUOUS.search(data, start, end):
        raise BadRequest(
            HTTPStatus.BAD_REQUEST,
            "the request head has a control character, a bare line feed or a folded header line",
        )


def _origin_form(target: str) -> str:
    """Path and query, also of the absolute form, which every server must accept (RFC 9112, 3.2.2)."""
    if target.startswith("/"):
        rest = target
    elif (absolute := _ABSOLUTE.fullmatch(target)) and _HOST.fullmatch(absolute["authority"]):
        rest = absolute["rest"]
        if not rest.startswith("/"):
            rest = "/" + rest
    elif target == "*":
        rest = target
    else:
        raise BadRequest(HTTPStatus.BAD_REQUEST, "the request target is neither a path nor an http URL")
    if "#" in rest:
        raise BadRequest(
            HTTPStatus.BAD_REQUEST, "the request target has a fragment; leave out # and what follows"
        )
    return rest


__all__ = [
    "MAX_HEADERS",
    "MAX_HEAD_BYTES",
    "MAX_TARGET_BYTES",
    "BadRequest",
    "HeadReader",
    "RequestHead",
    "parse_head",
    "tokens",
]
