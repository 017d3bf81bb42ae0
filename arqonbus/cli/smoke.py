"""`arqonbus smoke`: test a running bus with a few messages."""

from __future__ import annotations

import argparse
import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from arqonbus.cli import Failure, message_view
from arqonbus.cli.connect_options import add_connect_options, given_token, given_url

if TYPE_CHECKING:
    from arqonbus.client import Client
    from arqonbus.config import Settings

SUMMARY = "Test a running bus: publish and receive a few messages."

EPILOG = """examples:
  arqonbus smoke
  arqonbus smoke --url wss://bus.example.org/v1/ws --token-file token.txt
  arqonbus smoke --profile prod --url wss://10.0.0.5:9100/v1/ws --ca-file /etc/arqonbus/tls/ca.pem

Without a token, one is minted with the profile's secret, for the tenant arqonbus-smoke and two minutes.
exit codes: 0 the bus works, 1 it does not, 2 wrong usage, 3 unreadable profile"""

TENANT = "arqonbus-smoke"
TOKEN_SECONDS = 120.0


def configure(parser: argparse.ArgumentParser) -> None:
    add_connect_options(parser)
    parser.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="CA of the bus's certificate; default: the system's CAs"
    )
    parser.add_argument("--messages", type=_count, default=10, metavar="N", help="default: 10")


def run(args: argparse.Namespace) -> int:
    from arqonbus.client import ClientError
    from arqonbus.measure.smoke import SmokeFailed, smoke

    connect = _connect(args)
    try:
        seen = asyncio.run(smoke(connect, args.messages, args.timeout))
    except SmokeFailed as error:
        raise Failure(f"the bus does not work: {error}", as_json=args.json) from error
    except (ClientError, OSError) as error:
        code = getattr(error, "code", "")
        raise Failure(
            f"the test failed: {error}",
            error_code=code if isinstance(code, str) else "",
            as_json=args.json,
        ) from error
    except ValueError as error:
        raise Failure(str(error), 2, as_json=args.json) from error
    if args.json:
        message_view.print_json(
            {
                "node": seen.node,
                "messages": seen.messages,
                "durability": seen.durability,
                "acked_ms": round(seen.acked_ms, 1),
                "delivered_ms": round(seen.delivered_ms, 1),
            }
        )
    else:
        print(
            f"{seen.messages} messages were acked ({seen.durability}) in {seen.acked_ms:.0f} ms "
            f"and delivered in {seen.delivered_ms:.0f} ms"
        )
    return 0


def _connect(args: argparse.Namespace) -> Callable[[], Client]:
    from arqonbus.client import Client
    from arqonbus.config.network import local_url

    url, token = given_url(args), given_token(args)
    if url is None or token is None:
        settings = _settings(args)
        url = url or local_url(settings.server)
        token = token or _minted(settings)
    context = _context(args.ca_file) if args.ca_file is not None else None
    return lambda: Client(url, token, wire=args.wire, timeout=args.timeout, tls=context)


def _settings(args: argparse.Namespace) -> Settings:
    from arqonbus.cli.profile_options import load_profile
    from arqonbus.config import with_dev_key

    try:
        return with_dev_key(load_profile(args, secrets_of=("auth.jwt.",)).settings)
    except (OSError, ValueError) as error:
        raise Failure(f"no token could be minted: {error}; give one with --token-file") from error


def _minted(settings: Settings) -> str:
    from arqonbus.measure.smoke import ROOMS
    from arqonbus.shield.grants import parse_grant
    from arqonbus.shield.tokens import Claims, mint

    try:
        grants = [parse_grant(f"{ROOMS}*:publish,subscribe")]
        return mint(settings, Claims(TENANT, "smoke", TOKEN_SECONDS, "service", grants=grants))
    except ValueError as error:
        raise Failure(f"no token could be minted: {error}; give one with --token-file") from error


def _context(authority: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise Failure(f"--ca-file: {authority} contains no valid certificate", 2) from error


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 10_000:
        raise argparse.ArgumentTypeError("write a number from 1 to 10000")
    return count


__all__ = ["EPILOG", "SUMMARY", "configure", "run"]
