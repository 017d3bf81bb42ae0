"""Location of a profile's files. Checks for existence; reads no file.

A name such as `prod` is looked up in one directory: the given one, else $ARQONBUS_PROFILES_DIR, else
./profiles, else the profiles of the package. A path is used as it is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arqonbus.config.findings import ConfigError, Fault, Finding
from arqonbus.config.layer import LayerFile
from arqonbus.config.settings import environment_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ProfileFiles:
    """The files of one profile, lowest layer first, and the name of its directory."""

    name: str
    files: tuple[LayerFile, ...]


def profile_name(environ: Mapping[str, str]) -> str:
    """Name of the default profile: $ARQONBUS_PROFILE, else $ARQONBUS_ENVIRONMENT, else dev."""
    return environ.get("ARQONBUS_PROFILE") or environ.get("ARQONBUS_ENVIRONMENT") or "dev"


def find_profile(
    profile: str | Path, *, root: Path, environ: Mapping[str, str], profiles_dir: Path | None = None
) -> ProfileFiles:
    """Find a profile by name or path. Raises ConfigError, with the directories that were searched."""
    if isinstance(profile, Path) or "/" in profile or profile.endswith((".yaml", ".yml")):
        return _at_path(root / profile, root)
    places = _places(root, environ, profiles_dir)
    for name in dict.fromkeys((profile.strip(), environment_name(profile))):
        for place in places if _NAME.fullmatch(name) else ():
            if (place / name / "profile.yaml").exists():
                return _at_path(place / name / "profile.yaml", root)
    known = sorted({found.parent.name for place in places for found in place.glob("*/profile.yaml")})
    looked = ", ".join(_shown(place, root) for place in places)
    hint = f"there is {', '.join(known)}" if known else "name a directory of profiles with --profiles-dir"
    close = difflib.get_close_matches(environment_name(profile), known, 1)
    hint = f"did you mean {close[0]}?" if close else hint
    message = f"there is no profile {profile.strip()!r} in {looked}; {hint}"
    raise ConfigError([Finding(Fault.PROFILE_MISSING, message)])


def _places(root: Path, environ: Mapping[str, str], profiles_dir: Path | None) -> list[Path]:
    named = environ.get("ARQONBUS_PROFILES_DIR")
    if profiles_dir is not None or named:
        # No fallback from an explicit directory: it could load another deployment's profile.
        return [root / (profiles_dir or named or "")]
    package = Path(__file__).resolve().parent.parent
    places = [root / "profiles", package / "profiles", package.parent / "profiles"]
    # For the same reason only the first directory with profiles is used.
    return [next((place for place in places if any(place.glob("*/profile.yaml"))), places[0])]


def _at_path(path: Path, root: Path) -> ProfileFiles:
    file = path / "profile.yaml" if path.is_dir() else path
    if not file.exists():
        message = f"there is no profile at {_shown(file, root)}; name one, or a file that exists"
        raise ConfigError([Finding(Fault.PROFILE_MISSING, message)])
    base = file.parent.parent / "base.yaml"
    files = [LayerFile("base", base, _shown(base, root))] if base.is_file() else []
    return ProfileFiles(file.parent.name, (*files, LayerFile("profile", file, _shown(file, root))))


def _shown(path: Path, root: Path) -> str:
    inside = root != Path(root.anchor) and path.is_relative_to(root)
    return str(path.relative_to(root) if inside else path)


__all__ = ["ProfileFiles", "find_profile", "profile_name"]
