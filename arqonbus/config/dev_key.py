"""The signing secret that a developer never has to think of: made on the first run, kept in state_dir.

Only dev. Elsewhere a missing secret stays missing, and whoever needs it says so.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from arqonbus.config.secrets import read_secret_file
from arqonbus.config.settings import Settings

FILE_NAME = "dev-jwt-secret"


def with_dev_key(settings: Settings) -> Settings:
    """The settings with the generated secret where dev has no key of its own; else as they are.

    Creates state_dir (0700) and the file (0600) when needed. Raises ValueError with a sentence when the
    file is there and unfit, OSError when the directory cannot be written.
    """
    jwt = settings.auth.jwt
    if settings.environment != "dev" or jwt.secret or jwt.public_keys or jwt.jwks_url:
        return settings
    secret = SecretStr(dev_secret(settings.state_dir))
    auth = settings.auth.model_copy(update={"jwt": jwt.model_copy(update={"secret": secret})})
    return settings.model_copy(update={"auth": auth})


def dev_secret(state_dir: Path) -> str:
    """The secret of this state directory, made on the first call. Two first calls agree on one."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = state_dir / FILE_NAME
    if not path.exists():
        # A whole file appears at once or not at all, and never over another one: hence the link.
        fresh = state_dir / f"{FILE_NAME}.{os.getpid()}.{secrets.token_hex(4)}"
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(secrets.token_urlsafe(48) + "\n")
                stream.flush()
                os.fsync(handle)
            # When another process was first, its secret is the one.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(fresh)
        finally:
            fresh.unlink()
    try:
        return read_secret_file(path)
    except ValueError as error:
        raise ValueError(f"the dev key {error}; remove the file and a new one is made") from error


__all__ = ["FILE_NAME", "dev_secret", "with_dev_key"]
