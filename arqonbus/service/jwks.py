"""Keeps the public keys of an issuer (JWKS, RFC 7517): fetched in the background, kept on disk.

No token and no connection ever waits for the issuer. While it cannot be reached the last good set is used,
also over a restart, for as long as the profile says. What is fetched is bounded in size and time, from that
one address: a redirect is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arqonbus.bus.counters import Counters
from arqonbus.config import Settings
from arqonbus.config.access import Jwt

MAX_BYTES = 512 * 1024
FETCH_SECONDS = 10.0
FIRST_SECONDS = 5.0  # that a start without kept keys waits for the first ones
RETRY_SECONDS = 15.0  # after a failure, at most
EARLY_SECONDS = 10.0  # between two fetches because tokens name unknown keys
FILE_NAME = "jwks.json"

logger = logging.getLogger(__name__)


class FetchFailed(Exception):
    """The issuer gave no set of keys; the text is the end of a sentence and repeats nothing of its answer."""


class JwksKeeper:
    """Fetches and keeps. `use` takes a document over, or raises ValueError; `drop` ends the use of all."""

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        use: Callable[[Any], int],
        drop: Callable[[], None],
    ) -> None:
        self._jwt: Jwt = settings.auth.jwt
        self._https_only = settings.environment != "dev"
        self._path = settings.state_dir / FILE_NAME
        self._use, self._drop = use, drop
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._counters = counters
        counters.jwks_fetched_at = 0.0

    async def start(self) -> None:
        """Use the set on disk and start fetching. Raises ValueError for an unsafe address."""
        check_address(self._jwt.jwks_url or "", https_only=self._https_only)
        kept = await asyncio.to_thread(self._read)
        self._task = asyncio.create_task(self._run(), name="jwks")
        if not kept:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_SECONDS):
                    await self._tried.wait()

    @property
    def _fetched_at(self) -> float:
        """Unix time of the set in use; 0: none."""
        return self._counters.jwks_fetched_at or 0.0

    async def stop(self) -> None:
        """Fetch no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def want(self) -> None:
        """A token named a key that is not known: fetch early, though not often."""
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            good = await self._fetch()
            self._tried.set()
            fetched = time.monotonic()
            self._forget_stale()
            # Apart by chance, so that the nodes of a bus do not ask all at once.
            pause = self._jwt.jwks_refresh if good else min(RETRY_SECONDS, self._jwt.jwks_refresh)
            pause *= random.uniform(0.9, 1.0)  # noqa: S311 - no secret
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            await asyncio.sleep(max(0.0, EARLY_SECONDS - (time.monotonic() - fetched)))

    async def _fetch(self) -> bool:
        url = self._jwt.jwks_url or ""
        try:
            document = await fetch(url, self._jwt.jwks_ca_file, FETCH_SECONDS)
            count = self._use(document)
        except (FetchFailed, ValueError) as error:
            self._counters.jwks_failures += 1
            age = round(time.time() - self._fetched_at) if self._fetched_at else None
            logger.warning("the JWKS was not fetched", extra={"url": url, "reason": str(error), "age": age})
            return False
        self._counters.jwks_fetched_at = time.time()
        logger.info("the JWKS was fetched", extra={"url": url, "keys": count})
        try:
            await asyncio.to_thread(self._write, document)
        except OSError as error:
            logger.warning("the JWKS was not kept on disk", extra={"reason": error.strerror})
        return True

    def _forget_stale(self) -> None:
        if self._fetched_at and time.time() - self._fetched_at > self._jwt.jwks_max_stale:
            logger.error("the JWKS is too old and no longer used", extra={"url": self._jwt.jwks_url})
            self._counters.jwks_fetched_at = 0.0
            self._drop()

    def _read(self) -> bool:
        """Use the set on disk if it is of this address and not too old."""
        try:
            kept = json.loads(self._path.read_bytes()[: 2 * MAX_BYTES])
            age = time.time() - float(kept["fetched_at"])
            if kept["url"] != self._jwt.jwks_url or not -60 <= age <= self._jwt.jwks_max_stale:
                return False
            self._use(kept["jwks"])
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            logger.warning("the kept JWKS cannot be used", extra={"file": str(self._path)})
            return False
        self._counters.jwks_fetched_at = float(kept["fetched_at"])
        return True

    def _write(self, document: Any) -> None:
        """A whole file appears at once or not at all; its mode keeps others from writing keys into it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        kept = {"url": self._jwt.jwks_url, "fetched_at": self._fetched_at, "jwks": document}
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(kept, stream)
            stream.flush()
            os.fsync(handle)
        fresh.replace(self._path)


def check_address(url: str, *, https_only: bool) -> None:
    """Raise ValueError for an address that keys are not fetched from."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.password:
        raise ValueError("auth.jwt.jwks_url is not an address without user and password")
    if https_only and parts.scheme != "https":
        raise ValueError(
            "auth.jwt.jwks_url is not https://, so that an attacker on the network could replace the keys"
        )


async def fetch(url: str, ca_file: Path | None, seconds: float) -> Any:
    """The JSON document at the address. Raises FetchFailed; never takes longer than `seconds`."""
    request = await asyncio.to_thread(_Request, url, ca_file, seconds)
    work = asyncio.create_task(asyncio.to_thread(request.run))
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(work)
    except TimeoutError:
        raise FetchFailed(f"the issuer did not answer within {seconds:g} s") from None
    finally:
        request.abort()  # a thread that still reads is woken up
        work.add_done_callback(lambda done: done.cancelled() or done.exception())


class _Request:
    """One GET in a thread. http.client follows no redirect and asks no proxy."""

    def __init__(self, url: str, ca_file: Path | None, seconds: float) -> None:
        parts = urlsplit(url)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host, port = parts.hostname or "", parts.port
        self._ca_file = ca_file
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=seconds, context=self._context()
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=seconds)

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise FetchFailed("auth.jwt.jwks_ca_file cannot be used") from error

    def run(self) -> Any:
        connection = self._connection
        try:
            connection.request("GET", self._target, headers={"Accept": "application/json"})
            with connection.getresponse() as response:
                if response.status != 200:
                    raise FetchFailed(f"the issuer answered {response.status}")
                body = response.read(MAX_BYTES + 1)
            if len(body) > MAX_BYTES:
                raise FetchFailed(f"the issuer sent more than {MAX_BYTES} bytes")
            return json.loads(body)
        except (OSError, http.client.HTTPException) as error:
            raise FetchFailed(f"the issuer cannot be asked ({type(error).__name__})") from error
        except (ValueError, RecursionError):
            raise FetchFailed("the issuer sent something else than JSON") from None
        finally:
            connection.close()

    def abort(self) -> None:
        found = self._connection.sock
        if found is not None:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)


__all__ = ["FILE_NAME", "MAX_BYTES", "FetchFailed", "JwksKeeper", "check_address", "fetch"]
