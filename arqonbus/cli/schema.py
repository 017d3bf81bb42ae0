"""`arqonbus schema`: list schemas of a profile, validate payloads and compare versions."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from arqonbus.cli import USAGE, Failure
from arqonbus.cli.actions import actions_of
from arqonbus.cli.profile_options import add_profile_options, load_profile
from arqonbus.cli.table import print_table

SUMMARY = "List message schemas, validate payloads and compare versions."

EPILOG = """examples:
  arqonbus schema list --profile staging
  arqonbus schema check order.v1 order.json
  arqonbus schema compare schemas/order.v1.json schemas/order.v2.json
  arqonbus schema compare old.binpb new.binpb --message shop.Order --mode full

compare is for CI. backward: readers of the new schema can read every payload that was valid by the old one;
forward: the other way round; full: both. exit codes: 0 valid or compatible, 1 not, or undecidable, 2 wrong
usage, 3 unreadable profile"""


def configure(parser: argparse.ArgumentParser) -> None:
    add = actions_of(parser, EPILOG)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = add(name, summary)
        added.add_argument("--json", action="store_true", help="write JSON")
        return added

    add_profile_options(action("list", "List the schemas of the profile and the rooms that use them."))
    check = action("check", "Validate a payload with a schema of the profile.")
    check.add_argument("name", help="name of the schema")
    check.add_argument("payload", help="file with the payload; - for standard input")
    add_profile_options(check)
    compare = action("compare", "Compare two versions of a schema for compatibility.")
    compare.add_argument("old", type=Path, help="file of the old version")
    compare.add_argument("new", type=Path, help="file of the new version")
    compare.add_argument(
        "--mode", choices=("backward", "forward", "full"), default="backward", help="default: backward"
    )
    compare.add_argument("--message", metavar="NAME", help="protobuf: the full name of the message")


def run(args: argparse.Namespace) -> int:
    work = {"list": _list, "check": _check, "compare": _compare}[args.action]
    try:
        return work(args)
    except ValueError as error:
        raise Failure(str(error), USAGE) from error


def _list(args: argparse.Namespace) -> int:
    from arqonbus.shield.schemas import compile_schema

    resolved = load_profile(args, secrets_of=())
    settings = resolved.settings
    rows: list[dict[str, Any]] = []
    for schema in settings.schemas:
        compile_schema(schema)
        rooms = [rule.match for rule in settings.rooms if schema.name in rule.schemas]
        rows.append({"name": schema.name, "content_type": schema.content_type, "rooms": rooms})
    if args.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        print_table(
            ("schema", "content type", "rooms"),
            [(row["name"], row["content_type"], ", ".join(row["rooms"]) or "none") for row in rows],
        )
    else:
        print("the profile has no schemas")
    return 0


def _check(args: argparse.Namespace) -> int:
    from arqonbus.protocol.errors import Invalid
    from arqonbus.shield.schemas import compile_schema

    settings = load_profile(args, secrets_of=()).settings
    schema = next((each for each in settings.schemas if each.name == args.name), None)
    if schema is None:
        raise Failure(f"the profile has no schema {args.name}; list them with: arqonbus schema list", USAGE)
    try:
        payload = sys.stdin.buffer.read() if args.payload == "-" else Path(args.payload).read_bytes()
    except OSError as error:
        raise Failure(f"{args.payload} cannot be read: {error.strerror}", USAGE) from error
    fault = ""
    try:
        compile_schema(schema, strict=settings.protocol.schema_strict)(payload)
    except Invalid as error:
        fault = error.message
    if args.json:
        print(json.dumps({"valid": not fault, "fault": fault}, indent=2))
    else:
        print(fault or f"valid by {schema.name}")
    return 1 if fault else 0


def _compare(args: argparse.Namespace) -> int:
    from arqonbus.shield.compatibility import json_faults, protobuf_faults
    from arqonbus.shield.schemas import message_class, read_json_schema, read_schema_file

    old, new = (read_schema_file(path, str(path)) for path in (args.old, args.new))
    if args.message:
        types = [
            message_class(text, args.message, str(path)).DESCRIPTOR
            for text, path in ((old, args.old), (new, args.new))
        ]
        faults = protobuf_faults(types[0], types[1], args.mode)
    else:
        schemas = [read_json_schema(text, str(path)) for text, path in ((old, args.old), (new, args.new))]
        faults = json_faults(schemas[0], schemas[1], args.mode)
    if args.json:
        print(json.dumps({"mode": args.mode, "compatible": not faults, "faults": faults}, indent=2))
    else:
        for fault in faults:
            print(fault)
        verdict = f"not {args.mode} compatible" if faults else f"{args.mode} compatible"
        print(f"{args.new} is {verdict}{' both ways' if args.mode == 'full' and not faults else ''}")
    return 1 if faults else 0
