"""Admission of connections by tokens, the issuer's keys and revocations, for new and open connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from arqonbus.bus.counters import Counters
from arqonbus.config import Settings
from arqonbus.service.jwks import JwksKeeper
from arqonbus.service.revoking import RevocationKeeper, read_file
from arqonbus.shield.revocations import Revocation
from arqonbus.shield.secret_strength import demand_verification
from arqonbus.shield.tokens import Identity, Verifier
from arqonbus.storage.ports import EventLog


class Admission:
    """`on_change` is called when connections have to be looked at again."""

    def __init__(self, settings: Settings, on_change: Callable[[], None]) -> None:
        """Raises ValueError for a key that cannot be used, or that is not safe in this environment."""
        demand_verification(settings)
        self.settings = settings
        self._verifier = Verifier(settings)
        self._on_change = on_change
        self._counters: Counters
        self._document: Any = None
        self._revoking: RevocationKeeper
        self._looking: asyncio.Task[None] | None = None
        self.jwks: JwksKeeper | None = None

    async def start(self, event_log: EventLog, counters: Counters) -> None:
        """Begin to keep keys and revocations. Raises ValueError."""
        self._counters = counters
        self._revoking = RevocationKeeper(self.settings, event_log, self._on_change)
        self._looking = asyncio.create_task(self._revoking.run(), name="revocations")
        await self._start_jwks()

    async def stop(self) -> None:
        """Keep nothing any more."""
        if self.jwks is not None:
            await self.jwks.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def verify(self, token: str) -> Identity:
        """The identity of a token. Raises BusError."""
        return self._revoking.revocations.check(self._verifier.verify(token))

    def renewed(self, identity: Identity) -> Identity | None:
        """The current identity of a connection; None if it may no longer be connected."""
        if self._revoking.revocations.revoked(identity):
            return None
        # One that no key vouches for is the bus's own, or of a dev bus that looks at no signature.
        return self._verifier.renewed(identity) if identity.key else identity

    async def revoke(self, revocation: Revocation) -> Callable[[], None]:
        """Revoke tokens on all nodes; what ends their connections here at once. Raises StorageError."""
        await self._revoking.revoke(revocation)
        return self._on_change

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read another profile's keys, roles and revocations; what takes them over. Raises ValueError."""
        demand_verification(settings)
        verifier = Verifier(settings)
        if self._document is not None and settings.auth.jwt.jwks_url == self.settings.auth.jwt.jwks_url:
            with contextlib.suppress(ValueError):
                verifier.use_jwks(self._document)
        revoked = read_file(settings)

        def take_over() -> None:
            self._revoking.take_file(settings, revoked)
            self._take_over(settings, verifier)

        return take_over

    def _take_over(self, settings: Settings, verifier: Verifier) -> None:
        old, self.settings, self._verifier = self.settings, settings, verifier
        if _of_jwks(old) != _of_jwks(settings):
            self._restarting = asyncio.create_task(self._restart_jwks(), name="jwks restart")
        elif self.jwks is not None:
            verifier.on_unknown_key = self.jwks.want
        self._on_change()

    async def _restart_jwks(self) -> None:
        if self.jwks is not None:
            await self.jwks.stop()
            self.jwks = None
        await self._start_jwks()

    async def _start_jwks(self) -> None:
        if self.settings.auth.jwt.jwks_url is None:
            return
        self.jwks = JwksKeeper(self.settings, self._counters, self._use, self._drop)
        self._verifier.on_unknown_key = self.jwks.want
        await self.jwks.start()

    def _use(self, document: Any) -> int:
        count = self._verifier.use_jwks(document)
        self._document = document
        self._on_change()
        return count

    def _drop(self) -> None:
        """Take no new token of the issuer's keys. Who is connected stays until the token ends."""
        self._document = None
        self._verifier.drop_jwks()


def _of_jwks(settings: Settings) -> tuple[object, ...]:
    jwt = settings.auth.jwt
    return jwt.jwks_url, jwt.jwks_ca_file, jwt.jwks_refresh, jwt.jwks_max_stale


__all__ = ["Admission"]
