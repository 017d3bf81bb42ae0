"""`arqonbus token`: mint, verify and explain tokens."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from arqonbus.cli import Failure
from arqonbus.cli.actions import actions_of
from arqonbus.cli.profile_options import add_profile_options, load_profile
from arqonbus.cli.table import print_table, styled

if TYPE_CHECKING:
    from arqonbus.config import Settings
    from arqonbus.shield.tokens import Identity

SUMMARY = "Create, verify and explain tokens."

EPILOG = """examples:
  arqonbus token mint --sub alice --tenant demo
  arqonbus token mint --sub billing --tenant demo --kind service --grant 'orders.*:publish' --ttl 30d
  arqonbus token mint --sub ops --tenant demo --role admin --ttl 15m --profile prod
  arqonbus token mint --sub alice --tenant demo | arqonbus token verify
  arqonbus token verify --file token.txt --json
  arqonbus token explain --file token.txt --room orders.eu --action publish

A token is read from the argument, --file or standard input. As an argument, it is visible to other users of
this host. exit codes: 0 done, 1 missing or invalid token, 2 wrong usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    add = actions_of(parser, EPILOG)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = add(name, summary)
        added.add_argument("--json", action="store_true", help="write JSON")
        add_profile_options(added)
        return added

    mint = action("mint", "Create a token for this profile's bus, and print it.")
    mint.add_argument("--sub", required=True, metavar="NAME", help="subject of the token")
    mint.add_argument("--tenant", required=True, metavar="NAME", help="tenant of the token")
    mint.add_argument("--role", choices=("user", "admin"), default="user", help="default: user")
    mint.add_argument("--kind", choices=("human", "service"), default="human", help="default: human")
    mint.add_argument(
        "--grant",
        action="append",
        metavar="ROOM:ACTIONS",
        help="permission, such as 'orders.*:publish,subscribe', or 'orders.*:*' for all; may be repeated",
    )
    mint.add_argument("--ttl", default="1h", metavar="DURATION", help="validity; default: 1h")
    mint.add_argument("--id", default="", metavar="ID", help="id of the token (jti)")
    mint.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="sign with this private key in PEM instead of auth.jwt.secret",
    )
    mint.add_argument(
        "--grants-of",
        action="append",
        metavar="ROLE",
        default=[],
        help="role of the profile; may be repeated",
    )
    explain = action("explain", "Explain what a token may do, and which grant, role or room rule allows it.")
    explain.add_argument("token", nargs="?", metavar="TOKEN", help="the token; - or omitted: standard input")
    explain.add_argument("--file", type=Path, metavar="FILE", help="file with the token")
    explain.add_argument("--room", metavar="ROOM", help="only permissions in this room")
    explain.add_argument(
        "--action", dest="may", metavar="ACTION", help="only whether this action is allowed in --room"
    )
    verify = action("verify", "Verify a token with this profile's keys, and print its claims.")
    verify.add_argument("token", nargs="?", metavar="TOKEN", help="the token; - or omitted: standard input")
    verify.add_argument("--file", type=Path, metavar="FILE", help="file with the token")


def run(args: argparse.Namespace) -> int:
    return {"mint": _mint, "verify": _verify, "explain": _explain}[args.action](args)


def _mint(args: argparse.Namespace) -> int:
    from arqonbus.config.units import parse_duration
    from arqonbus.shield.grants import parse_grant
    from arqonbus.shield.tokens import Claims, mint

    settings = _settings(args)
    try:
        ttl = parse_duration(args.ttl)
    except ValueError as error:
        raise Failure(f"--ttl {error}", 2) from error
    if not 1 <= ttl <= 10 * 365 * 86_400:
        raise Failure("--ttl is not between 1s and ten years; choose a shorter one", 2)
    try:
        grants = [parse_grant(text) for text in args.grant] if args.grant else None
    except ValueError as error:
        raise Failure(f"--grant {error}", 2) from error
    claims = Claims(args.tenant, args.sub, ttl, args.kind, args.role, grants, args.id, args.grants_of)
    try:
        now = time.time()
        token = mint(settings, claims, private_pem=_private_key(args.key), now=lambda: now)
    except ValueError as error:
        raise Failure(f"no token was created: {error}") from error
    if args.json:
        print(json.dumps({"token": token, "valid until": _iso(math.ceil(now + ttl))}, indent=2))
    else:
        print(token)
    return 0


def _explain(args: argparse.Namespace) -> int:
    from arqonbus.protocol.names import is_name
    from arqonbus.shield.explain import reasons, unknown_roles
    from arqonbus.shield.grants import ACTIONS

    if args.may is not None and (args.may not in ACTIONS or args.room is None):
        raise Failure(f"--action requires --room and must be one of {', '.join(sorted(ACTIONS))}", 2)
    if args.room is not None and not is_name(args.room):
        raise Failure("--room is not a valid name: 1 to 128 of A-Z a-z 0-9 . _ -", 2)
    settings = _settings(args)
    identity = _identity(args, settings)
    if identity is None:
        return 1
    found = [each for each in reasons(identity, settings, args.room) if args.may in (None, *each.allow)]
    ignored = unknown_roles(identity, settings)
    if args.json:
        because = [{"room": each.room, "allow": sorted(each.allow), "because": each.source} for each in found]
        print(json.dumps({"allowed": bool(found), "reasons": because, "unknown_roles": ignored}, indent=2))
        return 0 if found else 1
    who = f"{identity.subject} of {identity.tenant}"
    where = f"in {args.room}" if args.room else "in any room"
    print(f"{who} {'may' if found else 'may not'} {args.may or 'do something'} {where}.")
    if found:
        print()
        rows = [(each.room, ", ".join(sorted(each.allow)), each.source) for each in found]
        print_table(("ROOM", "MAY", "GRANTED BY"), rows)
    if ignored:
        print(styled(f"\nThe profile has no such roles: {', '.join(ignored)}.", "yellow"))
    return 0 if found else 1


def _identity(args: argparse.Namespace, settings: Settings) -> Identity | None:
    """The identity in the token. None after an answer in JSON that it is not accepted."""
    from arqonbus.protocol.errors import BusError
    from arqonbus.shield.tokens import Verifier

    token = _read_token(args)
    try:
        return Verifier(settings).verify(token)
    except ValueError as error:
        raise Failure(f"the profile's keys cannot be used: {error}") from error
    except BusError as error:
        if args.json:
            verdict = {"valid": False, "code": error.code.value, "message": error.message}
            print(json.dumps(verdict, indent=2))
            return None
        raise Failure(f"the token is not accepted ({error.code.value}): {error.message}") from error


def _verify(args: argparse.Namespace) -> int:
    identity = _identity(args, _settings(args))
    if identity is None:
        return 1
    if args.json:
        print(json.dumps({"valid": True, **_plain(identity)}, indent=2, ensure_ascii=False))
        return 0
    plain = _plain(identity)
    grants = plain.pop("grants")
    print_table(("CLAIM", "VALUE"), [(name, value) for name, value in plain.items() if value])
    if grants == "everything":
        print("\nIt may do everything in its tenant.")
    elif not grants:
        print(styled("\nIt has no grants: it may only do what rooms grant to every client.", "yellow"))
    else:
        print()
        rows = [(rule.room.pattern, ", ".join(sorted(rule.allow))) for rule in identity.grants.rules]
        print_table(("ROOM", "MAY"), rows)
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    from arqonbus.config import with_dev_key

    settings = load_profile(args, secrets_of=("auth.jwt.",)).settings
    try:
        return with_dev_key(settings)
    except ValueError as error:
        raise Failure(str(error)) from error
    except OSError as error:
        reason = f"{settings.state_dir} cannot be written ({error.strerror})"
        raise Failure(f"{reason}; the dev key is kept there, see state_dir") from error


def _private_key(path: Path | None) -> str | None:
    from arqonbus.config.secrets import read_secret_file

    if path is None:
        return None
    try:
        return read_secret_file(path)
    except ValueError as error:
        raise Failure(f"the private key {error}") from error


def _read_token(args: argparse.Namespace) -> str:
    if args.file is not None and args.token is not None:
        raise Failure("two tokens were given; give one, as an argument or with --file", 2)
    try:
        if args.file is not None:
            return str(args.file.read_text("utf-8")).strip()
        if args.token not in (None, "-"):
            return str(args.token).strip()
        return sys.stdin.read(65_536).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure("the token cannot be read; give a text file that holds it") from error


def _plain(identity: Identity) -> dict[str, object]:
    from arqonbus.shield.grants import grants_claim

    grants = identity.grants
    return {
        "tenant": identity.tenant,
        "subject": identity.subject,
        "kind": identity.kind,
        "role": identity.role,
        "id": identity.token_id,
        "valid until": _iso(identity.expires_at),
        "grants": "everything" if grants.unlimited else grants_claim(grants.rules),
    }


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
