"""The token of a client: fixed, or from a function that may fail."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from arqonbus.client.errors import NotConnected
from arqonbus.client.opening import check_token

Token = str | Callable[[], str | Awaitable[str]]

TOKEN_SECONDS = 10.0


class TokenFailed(Exception):
    """The token function raised, gave nothing usable, or took too long. `__cause__` says why."""


class TokenSource:
    """Gives tokens. `renewable`: whether another call can give another token."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self.renewable = not isinstance(token, str)

    async def fresh(self) -> str:
        """A token to use now. Raises TokenFailed, or NotConnected for a fixed token that is unusable."""
        if isinstance(self._token, str):
            return check_token(self._token)
        try:
            async with asyncio.timeout(TOKEN_SECONDS):
                token = self._token()
                return check_token(await token if inspect.isawaitable(token) else token)
        except NotConnected as error:
            raise TokenFailed(f"the token function gave an unusable value: {error}") from error
        except Exception as error:
            raise TokenFailed(f"the token function failed: {type(error).__name__}: {error}") from error


__all__ = ["Token", "TokenFailed", "TokenSource"]
