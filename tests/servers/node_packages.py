"""npm packages for tests, installed once per lock file, and kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers.arqonbus import REPOSITORY

SDK = REPOSITORY / "clients/js"


def installed(folder: Path) -> Path:
    """The `node_modules` that `npm ci` makes of a folder's package.json and package-lock.json."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.fail("node and npm are needed; install Node 20 or newer (Debian: apt install nodejs npm)")
    digest = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arqonbus-npm" / digest
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one test run share the folder
        if not (cache / "installed").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(folder / name, cache)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=cache, capture_output=True, text=True, timeout=100)
            if done.returncode:
                pytest.fail(f"npm ci failed:\n{done.stderr}")
            (cache / "installed").touch()
    return cache / "node_modules"


def sdk_copy(folder: Path) -> Path:
    """The JavaScript SDK with its packages, in a folder of the same layout as the repository."""
    copied = folder / "clients/js"
    shutil.copytree(SDK, copied, ignore=shutil.ignore_patterns("node_modules", "types"))
    (folder / "node_modules").symlink_to(installed(SDK))
    return copied


def addresses_in(lock: Path) -> list[str]:
    """The packages of a lock file that are not pinned by their digest alone."""
    packages = json.loads(lock.read_text("utf-8"))["packages"]
    assert len(packages) > 1
    return [
        name
        for name, package in packages.items()
        if name and ("resolved" in package or not package["integrity"].startswith("sha512-"))
    ]


__all__ = ["SDK", "addresses_in", "installed", "sdk_copy"]
