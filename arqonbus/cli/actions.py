"""Subcommands: one parser per action, each showing the examples of the whole command."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def actions_of(parser: argparse.ArgumentParser, epilog: str) -> Callable[[str, str], argparse.ArgumentParser]:
    """Return a function that adds an action and returns its parser. `args.action` is the chosen action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="<action>")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    return action


__all__ = ["actions_of"]
