"""Options of every command that reads a profile, and the loading of that profile."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arqonbus.cli import Failure

if TYPE_CHECKING:
    from arqonbus.config import Resolved

UNREADABLE_PROFILE = 3


def add_profile_options(parser: argparse.ArgumentParser) -> None:
    """Add --profile, --profiles-dir, --secrets-dir and --set."""
    group = parser.add_argument_group("profile")
    group.add_argument(
        "--profile",
        metavar="NAME",
        help="name or path of the profile (default: $ARQONBUS_PROFILE, $ARQONBUS_ENVIRONMENT, or dev)",
    )
    group.add_argument(
        "--profiles-dir",
        metavar="DIR",
        type=Path,
        help="directory of the profiles (default: $ARQONBUS_PROFILES_DIR)",
    )
    group.add_argument("--secrets-dir", metavar="DIR", type=Path, help="directory with one file per secret")
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override one setting, such as server.port=9200; may be repeated",
    )


def load_profile(
    args: argparse.Namespace,
    *,
    secrets_of: Sequence[str] = ("",),
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """Load the profile from the options. Raises Failure with every finding, ordered by location.

    `environ`: the environment variables to use (default: those of the process). With --json, the findings are
    also written to standard output as JSON.
    """
    from arqonbus.config import ConfigError

    profile = _profile_of(args)
    try:
        return read_profile(args, secrets_of=secrets_of, environ=environ)
    except ConfigError as error:
        if getattr(args, "json", False):
            print(json.dumps({"profile": str(profile), "findings": _plain(error)}, indent=2))
        count = len(error.findings)
        faults = "1 error" if count == 1 else f"{count} errors"
        lines = "".join(f"\n  {finding}" for finding in error.findings)
        raise Failure(f"{faults} in the profile {profile}{lines}", UNREADABLE_PROFILE) from error


def read_profile(
    args: argparse.Namespace,
    *,
    secrets_of: Sequence[str] = ("",),
    environ: Mapping[str, str] | None = None,
) -> Resolved:
    """Load the profile from the options. Raises ConfigError."""
    from arqonbus.config import load

    return load(
        _profile_of(args),
        environ=environ,
        overrides=args.overrides,
        secrets_dir=args.secrets_dir,
        profiles_dir=args.profiles_dir,
        secrets_of=secrets_of,
    )


def _profile_of(args: argparse.Namespace) -> str:
    from arqonbus.config import profile_name

    return str(args.profile or profile_name(os.environ))


def _plain(error: object) -> list[dict[str, object]]:
    from arqonbus.config import ConfigError

    assert isinstance(error, ConfigError)
    return [
        {
            "code": finding.code.value,
            "key": finding.key or None,
            "message": finding.message,
            "layer": finding.location.layer if finding.location else None,
            "location": str(finding.location) if finding.location else None,
        }
        for finding in error.findings
    ]


__all__ = ["UNREADABLE_PROFILE", "add_profile_options", "load_profile", "read_profile"]
