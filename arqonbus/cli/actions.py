"""Commands that are several: each of their actions is a parser of its own, with the examples of them all."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def actions_of(parser: argparse.ArgumentParser, epilog: str) -> Callable[[str, str], argparse.ArgumentParser]:
    """What adds an action by name and summary, and gives its parser. `args.action` says which was chosen."""
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
