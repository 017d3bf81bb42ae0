"""What can go wrong for a user of the client, one exception per kind of answer."""

from __future__ import annotations

from arqonbus.protocol.errors import BusError


class ClientError(Exception):
    """Base of everything that the client raises."""


class ConnectionRefused(ClientError):
    """The bus refused the upgrade, for a reason that trying again does not mend. `code` is its error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{message} ({code}, HTTP {status})" if code else f"{message} (HTTP {status})")
        self.status = status
        self.code = code


class Disconnected(ClientError):
    """The connection ended before the answer came: whether the request was carried out is not known."""


class Closed(ClientError):
    """The bus ended the connection for good (close codes 1008 and 4100-4199), or the client was closed."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class Rejected(ClientError):
    """The bus answered with an error. `error` has code, message, retry_after_ms and details."""

    def __init__(self, error: BusError) -> None:
        super().__init__(f"{error.message} ({error.code})")
        self.error = error
        self.code = error.code


class MessagesLost(ClientError):
    """Messages of a subscription are gone: it cannot be proven what came between, or they were dropped."""

    def __init__(self, room: str, reason: str) -> None:
        super().__init__(f"messages of room {room} were lost: {reason}")
        self.room = room
        self.reason = reason


__all__ = ["ClientError", "Closed", "ConnectionRefused", "Disconnected", "MessagesLost", "Rejected"]
