"""The command line: find the command, parse its options, run it, and return an exit code.

Imports nothing but the standard library until a command is chosen, so that help is instant. Exit codes:
0 done, 1 failed, 2 wrong usage, 3 unreadable profile, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

# A command is the module arqonbus.cli.<name> with SUMMARY, EPILOG, configure(parser) and run(args) -> int.
# The summaries are repeated here, because the root's help imports no command; a test compares them.
COMMANDS: Mapping[str, str] = {
    "serve": "Run the bus.",
    "publish": "Publish messages to a room.",
    "subscribe": "Print messages of rooms as they arrive, one per line.",
    "tail": "Follow rooms with readable output.",
    "history": "Read stored messages of a room.",
    "status": "Show the state of a running bus.",
    "bench": "Measure throughput and latency of a running bus.",
    "smoke": "Test a running bus: publish and receive a few messages.",
    "token": "Create, verify and explain tokens.",
    "schema": "List message schemas, validate payloads and compare versions.",
    "profile": "Show the settings of a profile and where each is set.",
    "preflight": "Check a profile, this host and its servers before a start.",
    "capacity": "Compute the resources that a profile needs: memory, files, stores, CPU.",
    "drift": "Compare deployed hosts with the profile.",
    "projector": "Project episodes, and show projected episodes.",
    "dlq": "List, replay and discard dead letters of the projector.",
    "audit": "Show the audit log, and verify that it was not changed.",
    "export": "Publish pending events from Continuum's outbox.",
    "backup": "Back up Postgres and Valkey.",
    "restore": "Restore Postgres from a backup.",
    "drill": "Restore a backup to separate servers, and verify it.",
    "recover": "Restore a damaged SQLite log from its last checkpoint.",
    "migrate": "Migrate the Postgres schema to this version.",
}

USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

_EPILOG = """examples:
  arqonbus serve
  arqonbus tail orders
  arqonbus publish orders '{"id": 1}'
  arqonbus profile explain server.port --profile prod

`arqonbus <command> --help` shows the options and examples of a command."""


class Failure(Exception):
    """An error message for the user, and the exit code.

    `error_code`: the stable code of the bus, if any.

    `as_json`: write it as JSON; set by commands that connect to a bus when --json is given.
    """

    def __init__(self, message: str, code: int = 1, *, error_code: str = "", as_json: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.error_code = error_code
        self.as_json = as_json


def print_failure(failure: Failure, **facts: object) -> None:
    """Write a failure to standard error, as a sentence or as one line of JSON with additional facts."""
    if failure.as_json:
        code = {"code": failure.error_code} if failure.error_code else {}
        text = json.dumps({"error": {"message": str(failure), **code, **facts}}, ensure_ascii=False)
    else:
        place = "".join(f"{name} {value}: " for name, value in facts.items())
        text = f"arqonbus: {place}{failure}"
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except Failure as failure:
        print_failure(failure)
        return failure.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:
        if not is_full_output(error):
            raise
        _discard_output()
        print_failure(Failure(f"the output cannot be written: {error.strerror}"))
        return 1


def is_full_output(error: BaseException) -> bool:
    """True if standard output cannot be written because its disk is full."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None


def _discard_output() -> None:
    """Python would fail again when it flushes standard output at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in COMMANDS:
        return _root(arguments)
    name, *rest = arguments
    parser = parser_of(name)
    given, unexpected = parser.parse_known_args(rest)
    if unexpected:
        parser.error(_unexpected(unexpected))
    code: int = importlib.import_module(f"arqonbus.cli.{name}").run(given)
    return code


def parser_of(name: str) -> argparse.ArgumentParser:
    """The argument parser of one command."""
    module = importlib.import_module(f"arqonbus.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"arqonbus {name}",
        description=module.SUMMARY,
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    return parser


def _unexpected(arguments: list[str]) -> str:
    """The message for unexpected arguments. Their values are not shown: they may be misplaced secrets."""
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    if options:
        return f"unknown option {', '.join(options)}; see --help"
    return f"{len(arguments)} unexpected argument(s); quote values with spaces, and see --help"


def _root(arguments: list[str]) -> int:
    from arqonbus import __version__

    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"  {name:{width}}{summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="arqonbus",
        usage="arqonbus <command> [options]",
        description=f"A self-hosted WebSocket message bus.\n\ncommands:\n{listing}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"arqonbus {__version__}")
    if not arguments:
        parser.print_help()
        return USAGE
    if not arguments[0].startswith("-"):
        _unknown_command(parser, arguments[0])
    parser.parse_known_args(arguments)
    parser.error("no command given; write the command first, then its options")


def _unknown_command(parser: argparse.ArgumentParser, name: str) -> NoReturn:
    close = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {close[0]}?" if close else f"commands are {', '.join(COMMANDS)}"
    parser.error(f"{name!r} is not a command; {hint}")


__all__ = ["COMMANDS", "Failure", "is_full_output", "main", "parser_of", "print_failure"]
