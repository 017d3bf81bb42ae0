"""The signing secret of dev: generated on the first run, kept in state_dir.

Only in dev. In other environments a missing secret stays missing and is reported where it is needed.
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
    """The settings with the generated secret if dev has no other key; else unchanged.

    Creates state_dir (0700) and the file (0600) if needed. Raises ValueError for an unusable file, OSError if
    the directory cannot be written.
    """
    jwt = settings.auth.jwt
    if settings.environment != "dev" or jwt.secret or jwt.public_keys or jwt.jwks_url:
        return settings
    secret = SecretStr(dev_secret(settings.state_dir))
    auth = settings.auth.model_copy(update={"jwt": jwt.model_copy(update={"secret": secret})})
    return settings.model_copy(update={"auth": auth})


def dev_secret(state_dir: Path) -> str:
    """The secret of this state directory, generated on first use. Concurrent first calls get the same one."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = state_dir / FILE_NAME
    if not path.exists():
        # Linking creates the file atomically and never replaces an existing one.
        fresh = state_dir / f"{FILE_NAME}.{os.getpid()}.{secrets.token_hex(4)}"
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(secrets.token_urlsafe(48) + "\n")
                stream.flush()
                os.fsync(handle)
            # If another process was first, its secret is used.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(fresh)
        finally:
            fresh.unlink()
    try:
        return read_secret_file(path)
    except ValueError as error:
        raise ValueError(f"the dev key {error}; remove the file and a new one is made") from error


__all__ = ["FILE_NAME", "dev_secret", "with_dev_key"]
