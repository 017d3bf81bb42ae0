"""Sources of secrets: references in a profile, and the secrets directory.

Each reference reads a file, a variable or the output of a command. No message contains a secret, the output
of a command or the content of a file.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arqonbus.config.environment import ALIASES, put
from arqonbus.config.field import MASK
from arqonbus.config.findings import Fault, Finding, Location
from arqonbus.config.findings import Path as KeyPath
from arqonbus.config.layer import Layer
from arqonbus.config.regular_file import NotRegular, read_regular
from arqonbus.config.tree import leaves, sections, suggestion

MAX_BYTES = 64 * 1024
COMMAND_SECONDS = 10.0

_LOOKS_LIKE_REFERENCE = re.compile(r"""\s*\{\s*["']?from["']?\s*:""")
_TARGETS: Mapping[str, str] = {"file": "path", "credential": "name", "env": "name", "command": "argv"}


class UnfitSecret(ValueError):
    """A secret that cannot be read. The message continues after the key; `fix`: commands that correct it."""

    def __init__(self, message: str, *fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference `{from: …}` in a profile: the source of a secret, never the secret."""

    origin: str
    target: tuple[str, ...]

    def __str__(self) -> str:
        return f"{{from: {self.origin}, {_TARGETS[self.origin]}: {' '.join(self.target)}}}"


def parse_reference(value: Mapping[str, Any]) -> Reference:
    """Parse `{from: file, path: …}` and the other forms.

    Raises ValueError; the message continues after the key.
    """
    origin = value.get("from")
    if not isinstance(origin, str) or origin not in _TARGETS:
        raise ValueError("has no known source; write {from: file|credential|env|command, …}")
    wanted = _TARGETS[origin]
    if set(value) != {"from", wanted}:
        raise ValueError(f"has missing or extra keys; from: {origin} needs {wanted} and nothing else")
    target = value[wanted]
    words = target if origin == "command" else [target]
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        shape = "a list of words" if origin == "command" else "text"
        raise ValueError(f"has a {wanted} of the wrong type; write {shape}")
    if origin == "credential" and ("/" in target or target in {".", ".."}):
        raise ValueError("has a name with a path in it; write the file's name in the secrets directory")
    return Reference(origin, tuple(words))


FOLLOWED_ONCE = "a reference is followed once, so write the secret itself there"


def is_reference_text(text: str) -> bool:
    """True if a text looks like a reference, where only a secret is allowed."""
    return _LOOKS_LIKE_REFERENCE.match(text) is not None


@dataclass(frozen=True, slots=True)
class Vault:
    """Resolves references. `directories`: the secrets directories, in order of precedence."""

    environ: Mapping[str, str]
    directories: Sequence[Path]

    def resolve(self, reference: Reference) -> str:
        """Read the secret.

        Raises ValueError; the message continues after the key and never contains the secret.
        """
        secret = self._look_up(reference)
        if is_reference_text(secret):
            raise ValueError(f"is to come from {reference}, which holds another reference; {FOLLOWED_ONCE}")
        return secret

    def _look_up(self, reference: Reference) -> str:
        match reference.origin:
            case "file":
                return read_secret_file(Path(reference.target[0]))
            case "env":
                return self._variable(reference.target[0])
            case "command":
                return _command_output(reference.target)
            case _:
                return self._credential(reference.target[0])

    def _variable(self, name: str) -> str:
        if name not in self.environ:
            raise ValueError(f"is to come from the variable {name}, which is not set; set it")
        if not self.environ[name]:
            raise ValueError(f"is to come from the variable {name}, which is empty; give it a value")
        return self.environ[name]

    def _credential(self, name: str) -> str:
        if not self.directories:
            raise ValueError(
                f"is to come from the credential {name}, and there is no secrets directory; "
                "name one with --secrets-dir, or use LoadCredential= of systemd"
            )
        for directory in self.directories:
            if (directory / name).exists() or (directory / name).is_symlink():
                return read_secret_file(directory / name)
        places = " or ".join(str(directory) for directory in self.directories)
        raise UnfitSecret(
            f"is to come from the credential {name}, which is not in {places}; put it there",
            f"install -m 0640 /dev/stdin {self.directories[0] / name}   # paste the secret, then Ctrl-D",
        )


def read_secret_file(path: Path) -> str:
    """The text of a secret's file, without one newline at its end. Raises ValueError."""
    try:
        content = read_regular(path, MAX_BYTES, follow_links=False)
    except NotRegular:
        raise ValueError(f"is to come from {path}, which is not a regular file; name a file") from None
    except OSError as error:
        if path.is_symlink():
            raise ValueError(f"is to come from {path}, a symbolic link; name the file itself") from error
        raise ValueError(f"is to come from {path}, which cannot be read ({error.strerror})") from error
    if content.mode & ~0o640:
        raise UnfitSecret(
            f"is to come from {path}, which has mode {content.mode:04o}; only its owner and group "
            f"may read it: chmod 0640 {path}",
            f"chmod 0640 {path}",
        )
    return _secret_text(content.raw, f"is to come from {path}, which")


def _secret_text(raw: bytes, subject: str) -> str:
    if len(raw) > MAX_BYTES:
        raise ValueError(f"{subject} holds more than {MAX_BYTES // 1024} KiB; no secret is that long")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        # Not chained: the exception contains the bytes of the secret.
        raise ValueError(f"{subject} is not UTF-8 text; write the secret as text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise ValueError(f"{subject} is empty; write the secret into it")
    if "\0" in text:
        raise ValueError(f"{subject} holds a NUL character; write the secret as text")
    return text


def _command_output(argv: Sequence[str]) -> str:
    name = argv[0]
    try:
        done = subprocess.run(  # noqa: S603 - the profile's author names the command; no shell reads it
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except OSError as error:
        raise ValueError(
            f"is to come from the command {name}, which cannot run ({error.strerror})"
        ) from error
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"is to come from the command {name}, which did not end within {COMMAND_SECONDS:g} s"
        ) from None
    if done.returncode:
        raise ValueError(f"is to come from the command {name}, which ended with code {done.returncode}")
    return _secret_text(done.stdout, f"is to come from the command {name}, whose output")


def secrets_directories(given: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> list[Path]:
    """The secrets directories: the given one alone, else systemd's and /run/secrets."""
    if given is not None:
        return [Path(given)]
    named = environ.get("CREDENTIALS_DIRECTORY")
    candidates = [Path(named)] if named else []
    default = Path("/run/secrets")
    return [*candidates, default] if default.is_dir() else candidates


def read_secrets(
    directories: Sequence[Path], secrets_of: tuple[str, ...] = ("",)
) -> tuple[Layer, list[Finding]]:
    """Read files that are named after a setting, as a layer. Other files are for references.

    A secret whose key does not begin with one of `secrets_of` is a mask, and its file is not opened.
    """
    findings: list[Finding] = []
    data: dict[str, Any] = {}
    places: dict[KeyPath, Location] = {}
    for directory in reversed(directories):
        place = Location("secrets", str(directory))
        try:
            names = sorted(entry.name for entry in directory.iterdir())
        except OSError as error:
            message = f"the secrets directory {directory} cannot be read ({error.strerror}); name a directory"
            findings.append(Finding(Fault.SECRET_UNREADABLE, message, place))
            continue
        for name in names:
            path = key_of_file(name)
            place = Location("secrets", str(directory / name))
            if path in leaves():
                key = ".".join(path)
                hidden = leaves()[path].secrecy == "value" and not key.startswith(secrets_of)
                try:
                    put(data, path, MASK if hidden else read_secret_file(directory / name))
                except ValueError as error:
                    findings.append(unreadable(key, error, place))
                places[path] = place
            elif len(path) > 1 and path[:1] in sections():
                message = f"the file {name} is named like a setting that does not exist; {suggestion(path)}"
                findings.append(Finding(Fault.UNKNOWN_KEY, message, place))
    return Layer("secrets", "the secrets directory", data, places), findings


def unreadable(key: str, error: ValueError, place: Location) -> Finding:
    """The finding for a secret that could not be read."""
    fix = error.fix if isinstance(error, UnfitSecret) else ()
    return Finding(Fault.SECRET_UNREADABLE, f"{key} {error}", place, key, fix)


def key_of_file(name: str) -> tuple[str, ...]:
    """Path of the setting for a file name such as `auth.jwt.secret`, `auth__jwt__secret` or `jwt_secret`."""
    alias = ALIASES.get(name.upper())
    return tuple((alias or name.lower().replace("__", ".")).split("."))


__all__ = [
    "FOLLOWED_ONCE",
    "Reference",
    "Vault",
    "is_reference_text",
    "key_of_file",
    "parse_reference",
    "read_secret_file",
    "read_secrets",
    "secrets_directories",
    "unreadable",
]
