"""The command line: finds the command, parses its options, runs it, turns its end into an exit code.

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
# The summaries stand here too, because the root's help imports no command; a test compares them.
COMMANDS: Mapping[str, str] = {
    "serve": "Run the bus.",
    "publish": "Publish messages to a room.",
    "subscribe": "Print the messages of rooms as they come.",
    "tail": "Follow rooms with readable output.",
    "history": "Read what a room holds.",
    "status": "Show what a running bus says about itself.",
    "bench": "Measure a running bus.",
    "smoke": "Publish and receive a few messages, to see that a bus works.",
    "token": "Make or check a token.",
    "schema": "See, try and compare the schemas of messages.",
    "profile": "Show what a profile says, and why.",
    "preflight": "Check whether a profile may run here, and say what to do.",
    "capacity": "Compute what a profile needs: memory, files, stores, processors.",
    "drift": "Compare hosts with what the profile says.",
    "projector": "Project episodes, and look at what was projected.",
    "dlq": "See, replay and discard records that could not be projected.",
    "audit": "See who did what, and check that the audit was not changed.",
    "export": "Tell the bus what stands in Continuum's outbox.",
    "backup": "Take a backup of what Postgres and Valkey hold.",
    "restore": "Bring Postgres back to a backup.",
    "drill": "Restore a backup to servers of its own, and judge it.",
    "recover": "Go back to the last checkpoint of a damaged SQLite log.",
    "migrate": "Bring the durable store to the schema of this version.",
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
    """A failure for the user: one sentence and the exit code.

    `error_code`: the stable code of the bus, if any.

    Commands that connect to a bus set `as_json` when --json was given: then it is written as JSON.
    """

    def __init__(self, message: str, code: int = 1, *, error_code: str = "", as_json: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.error_code = error_code
        self.as_json = as_json


def print_failure(failure: Failure, **facts: object) -> None:
    """Write a failure to standard error, as a sentence or as one line of JSON with further facts."""
    if failure.as_json:
        code = {"code": failure.error_code} if failure.error_code else {}
        text = json.dumps({"error": {"message": str(failure), **code, **facts}}, ensure_ascii=False)
    else:
        place = "".join(f"{name} {value}: " for name, value in facts.items())
        text = f"arqonbus: {place}{failure}"
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code."""
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
    """Whether standard output cannot be written because its disk is full."""
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
    """The parser of one command's options."""
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
    """What is wrong with arguments that nothing takes. Not repeated: they may be secrets in a wrong place."""
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    if options:
        return f"there is no option {', '.join(options)}; see --help"
    return f"{len(arguments)} more than it takes; a value with spaces goes in quotes, see --help"


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
    parser.error("name a command first; its options come after it")


def _unknown_command(parser: argparse.ArgumentParser, name: str) -> NoReturn:
    close = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(COMMANDS)}"
    parser.error(f"{name!r} is not a command; {hint}")


__all__ = ["COMMANDS", "Failure", "is_full_output", "main", "parser_of", "print_failure"]
