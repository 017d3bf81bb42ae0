"""Options of every command that connects to a running bus: URL and token.

In dev, both have defaults: the URL is that of the dev profile, and the token is minted with the dev key.
Elsewhere, both are required, as options or environment variables.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arqonbus.cli import Failure
from arqonbus.cli.profile_options import add_profile_options, load_profile

if TYPE_CHECKING:
    from arqonbus.client import Client, ClientError
    from arqonbus.config import Settings

DEV_TENANT = "demo"
DEV_TTL = 24 * 3600.0
URL = "ARQONBUS_URL"
TOKEN = "ARQONBUS_TOKEN"  # noqa: S105  (the name of a variable)


def add_connect_options(parser: argparse.ArgumentParser) -> None:
    """Add --url, --token-file, --wire, --timeout and the profile's options."""
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--url", metavar="URL", help=f"URL of the bus (default: ${URL}, or the profile's port)"
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help=f"file with the token (default: ${TOKEN}; in dev a new one is minted)",
    )
    group.add_argument("--wire", choices=("protobuf", "json"), default="protobuf", help="default: protobuf")
    group.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="default: 10")
    parser.add_argument("--json", action="store_true", help="write JSON")
    add_profile_options(parser)


def client_of(args: argparse.Namespace, **options: Any) -> Client:
    """A client for the bus from the options, not yet connected. Raises Failure."""
    from arqonbus.client import Client
    from arqonbus.config.network import local_url

    url, token = given_url(args), given_token(args)
    if url is None or token is None:
        settings = _profile(args)
        url = url or local_url(settings.server)
        token = token or dev_token(settings)
    try:
        return Client(url, token, wire=args.wire, timeout=args.timeout, **options)
    except ValueError as error:
        raise Failure(str(error), 2) from error


def run_client(
    args: argparse.Namespace, work: Callable[[Client], Coroutine[Any, Any, int]], **options: Any
) -> int:
    """Connect, do the work, close. Raises Failure for errors, as JSON with --json."""
    from arqonbus.client import ClientError

    async def connected() -> int:
        async with client_of(args, **options) as client:
            return await work(client)

    try:
        return asyncio.run(connected())
    except ClientError as error:
        raise failure_of(error, args) from error
    except Failure as failure:
        failure.as_json = args.json
        raise


def failure_of(error: ClientError, args: argparse.Namespace) -> Failure:
    """The Failure for an error of the client."""
    code = getattr(error, "code", "")
    return Failure(str(error), error_code=code if isinstance(code, str) else "", as_json=args.json)


def dev_token(settings: Settings) -> str:
    """A token for development, signed with the dev key: full access to the tenant `demo` for one day."""
    from arqonbus.shield.tokens import Claims, mint

    return mint(settings, Claims(DEV_TENANT, _user(), DEV_TTL, role="admin"))


def given_url(args: argparse.Namespace) -> str | None:
    """The URL from option or environment, or None."""
    url: str | None = args.url or os.environ.get(URL)
    return url


def given_token(args: argparse.Namespace) -> str | None:
    """The token from option or environment, or None. Raises Failure for an unreadable file."""
    if args.token_file is None:
        return os.environ.get(TOKEN)
    try:
        return str(args.token_file.read_text("utf-8")).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            f"the token file {args.token_file} cannot be read; give a file that holds a token"
        ) from error


def _profile(args: argparse.Namespace) -> Settings:
    from arqonbus.config import with_dev_key

    settings = load_profile(args, secrets_of=("auth.jwt.",)).settings
    if settings.environment != "dev":
        raise Failure(
            f"outside dev, URL and token are required; give --url and --token-file, or ${URL} and ${TOKEN}",
            2,
        )
    try:
        return with_dev_key(settings)
    except (OSError, ValueError) as error:
        raise Failure(f"the dev key cannot be used: {error}") from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "developer"


__all__ = [
    "add_connect_options",
    "client_of",
    "dev_token",
    "failure_of",
    "given_token",
    "given_url",
    "run_client",
]
