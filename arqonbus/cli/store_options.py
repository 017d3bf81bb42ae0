"""Options of every command that uses the projection store directly, and the opening of the store.

These commands need no running bus: they connect to the profile's store with the profile's credentials.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from arqonbus.cli import USAGE, Failure
from arqonbus.cli.profile_options import add_profile_options, load_profile

if TYPE_CHECKING:
    from arqonbus.config import Settings
    from arqonbus.continuum.control import Control
    from arqonbus.storage.projection import ProjectionStore

DEV_TENANT = "demo"


class Opened(NamedTuple):
    """An open store and the selected tenant; None: all tenants."""

    store: ProjectionStore
    tenant: str | None
    control: Control

    @property
    def one_tenant(self) -> str:
        """The selected tenant. Raises Failure if none is selected."""
        if self.tenant is None:
            raise Failure("no tenant given; use --tenant", USAGE)
        return self.tenant


def add_store_options(parser: argparse.ArgumentParser, *, every_tenant: bool = False) -> None:
    """Add --tenant, --json and the profile's options. `every_tenant`: without --tenant, use all tenants."""
    usual = "all" if every_tenant else f"in dev {DEV_TENANT}"
    parser.add_argument("--tenant", metavar="NAME", help=f"tenant; default: {usual}")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(every_tenant=every_tenant)
    add_profile_options(parser)


def run_on_store(args: argparse.Namespace, work: Callable[[Opened], Coroutine[Any, Any, int]]) -> int:
    """Open the store, do the work, close it. Raises Failure for errors."""
    from arqonbus.protocol.errors import BusError
    from arqonbus.storage.ports import StorageError

    settings = load_profile(args, secrets_of=("datastores.postgres.",)).settings
    try:
        return asyncio.run(_opened(settings, _tenant(args, settings), work))
    except BusError as error:
        if args.json:
            print(json.dumps({"error": error.message, "code": error.code.value}, indent=2))
        raise Failure(error.message) from error
    except (StorageError, OSError) as error:
        if args.json:
            print(json.dumps({"error": str(error)}, indent=2))
        raise Failure(str(error)) from error


async def _opened(
    settings: Settings, tenant: str | None, work: Callable[[Opened], Coroutine[Any, Any, int]]
) -> int:
    from arqonbus.continuum.control import Control
    from arqonbus.service.boundary import boundary
    from arqonbus.service.engines import projection_store

    store = projection_store(settings, "command line")
    try:
        await store.open()
        return await work(Opened(store, tenant, Control(store, tenant, _actor(), boundary(settings))))
    finally:
        await store.close()


def time(text: str) -> datetime:
    """Parse a time option: RFC 3339 with a zone."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("write a time such as 2026-01-31T12:00:00Z") from None
    if given.tzinfo is None:
        raise argparse.ArgumentTypeError("the time has no zone; end it with Z")
    return given.astimezone(UTC)


def positive(text: str) -> int:
    """Parse a number option of at least 1."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**9):
        raise argparse.ArgumentTypeError("write a number of at least 1")
    return int(text)


def _tenant(args: argparse.Namespace, settings: Settings) -> str | None:
    from arqonbus.protocol.names import is_name

    tenant: str | None = args.tenant
    if tenant is not None and not is_name(tenant):
        raise Failure("a tenant is 1-128 of A-Z a-z 0-9 . _ -", USAGE)
    if tenant is None and not args.every_tenant:
        if settings.environment != "dev":
            raise Failure("no tenant given; use --tenant", USAGE)
        return DEV_TENANT
    return tenant


def _actor() -> str:
    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):
        return "command line"


__all__ = ["Opened", "add_store_options", "positive", "run_on_store", "time"]
