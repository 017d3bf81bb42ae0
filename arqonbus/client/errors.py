"""Exceptions of the client, one per kind of failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arqonbus.protocol.errors import BusError

if TYPE_CHECKING:
    from arqonbus.client.message import Ack


class ClientError(Exception):
    """Base of every exception that the client raises about the bus or the connection."""


class ConnectionRefused(ClientError):
    """The bus refused the upgrade, and trying again would not help. `code` is the bus's error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{message} ({code}, HTTP {status})" if code else f"{message} (HTTP {status})")
        self.status = status
        self.code = code
        self.message = message


class Disconnected(ClientError):
    """The connection ended before the answer came: whether the request was carried out is not known."""


class NotConnected(Disconnected):
    """No connection could be made, so nothing was sent. `__cause__` is the last failure.

    >>> await Client("ws://127.0.0.1:1/v1/ws", token, timeout=0.1).connect()
    Traceback (most recent call last):
    NotConnected: no connection to ws://127.0.0.1:1/v1/ws in time: the connection was refused...
    """


class Closed(ClientError):
    """The client has ended: `close` was called (1000), or the bus ended the connection for good.

    `code` is the WebSocket close code: a protocol error (1002, 1003, 1007, 1008) or 4100-4199.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class Rejected(ClientError):
    """The request was answered with an error. `error` has code, message, retry_after_ms and details.

    >>> await client.publish("no room", 1)
    Traceback (most recent call last):
    Rejected: room is not 1-128 of A-Z a-z 0-9 . _ - (VALIDATION_ERROR)

    The client itself raises it for what the bus would refuse: an invalid field, or a message that is too
    large.
    """

    def __init__(self, error: BusError) -> None:
        super().__init__(f"{error.message} ({error.code})")
        self.error = error
        self.code = error.code


class PublishFailed(ClientError):
    """Some messages of a `publish_many` were not acked. `results`: per message its Ack or its ClientError.

    >>> try:
    ...     await client.publish_many("news", [1, "x" * 2_000_000])
    ... except PublishFailed as failed:
    ...     [type(result).__name__ for result in failed.results]
    ['Ack', 'Rejected']
    """

    def __init__(self, results: list[Ack | ClientError]) -> None:
        errors = [result for result in results if isinstance(result, ClientError)]
        super().__init__(f"{len(errors)} of {len(results)} messages were not acked; the first: {errors[0]}")
        self.results = results


class MessagesLost(ClientError):
    """Messages of a subscription are gone: dropped, trimmed, or not provably complete."""

    def __init__(self, room: str, reason: str) -> None:
        super().__init__(f"messages of room {room} were lost: {reason}")
        self.room = room
        self.reason = reason


class GroupLost(ClientError):
    """The consumer group was deleted while this worker used it."""

    def __init__(self, room: str, group: str) -> None:
        super().__init__(
            f"the consumer group {group} of room {room} no longer exists; "
            "create it with op.groups.ensure or pass recreate=True"
        )
        self.room = room
        self.group = group


class DeadlineExceeded(ClientError, TimeoutError):
    """No service answered a request before its deadline.

    >>> await client.request("empty", 1, timeout=0.05)
    Traceback (most recent call last):
    DeadlineExceeded: no service answered in room empty within 0.05 s
    """


class RequestFailed(ClientError):
    """A service answered a request with an error. Raise it in a handler to send one."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


__all__ = [
    "ClientError",
    "Closed",
    "ConnectionRefused",
    "DeadlineExceeded",
    "Disconnected",
    "GroupLost",
    "MessagesLost",
    "NotConnected",
    "PublishFailed",
    "Rejected",
    "RequestFailed",
]
