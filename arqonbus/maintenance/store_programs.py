"""Runs the programs of PostgreSQL and Valkey. No password stands on a command line."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from arqonbus.config.stores import Postgres, login

LIBRARY = Path("/usr/lib/postgresql")


class ProgramFailed(Exception):
    """A program that is missing or did not succeed; the message is a sentence."""


def program(name: str) -> str:
    """The newest of the host. Raises ProgramFailed where there is none."""
    paths = [path for path in LIBRARY.glob(f"*/bin/{name}") if path.parts[-3].isdigit()]
    found = {int(path.parts[-3]): path for path in paths}
    if found:
        return str(found[max(found)])
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        if (path := Path(directory) / name).is_file():
            return str(path)
    packages = "valkey-server" if name.startswith("valkey-") else "postgresql-client postgresql"
    raise ProgramFailed(f"{name} is not on this host; install it: apt-get install {packages}")


def environment(store: Postgres) -> Mapping[str, str]:
    """Environment for libpq to reach the store. The password is only in the environment of that process."""
    dsn = store.dsn()
    user, password = login(store)
    query = dsn.options if dsn else {}
    given = {
        "PGHOST": query.get("host") or store.address[0],
        "PGPORT": query.get("port") or str(store.address[1]),
        "PGUSER": user,
        "PGDATABASE": store.database_name,
        "PGPASSWORD": password,
        "PGSSLMODE": query.get("sslmode") or store.sslmode,
        "PGSSLROOTCERT": str(store.ca_file or ""),
    }
    return {name: value for name, value in given.items() if value}


def run(
    arguments: Sequence[str],
    environ: Mapping[str, str] | None = None,
    *,
    owner: pwd.struct_passwd | None = None,
    cwd: Path | None = None,
) -> str:
    """Run one program and give what it printed. Raises ProgramFailed with what it complained of."""
    name, *rest = arguments
    identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    done = subprocess.run(  # noqa: S603 - our own arguments, no shell
        [program(name), *rest],
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        **identity,  # type: ignore[call-overload]
    )
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip().splitlines()
        raise ProgramFailed(f"{name} did not succeed: {complaint[-1] if complaint else done.returncode}")
    return str(done.stdout)


def pipe(source: Sequence[str], target: Sequence[str], environ: Mapping[str, str]) -> None:
    """Let one program read what another writes. Raises ProgramFailed if either does not succeed."""
    env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", **environ}
    with tempfile.TemporaryFile() as complaints:
        # No shell: our own arguments.
        writer = subprocess.Popen(  # noqa: S603
            [program(source[0]), *source[1:]], env=env, stdout=subprocess.PIPE, stderr=complaints
        )
        done = subprocess.run(  # noqa: S603
            [program(target[0]), *target[1:]],
            env=env,
            stdin=writer.stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert writer.stdout is not None
        writer.stdout.close()
        if writer.wait() and not done.returncode:
            complaints.seek(0)
            said = complaints.read().decode("utf-8", "replace").strip().splitlines()
            raise ProgramFailed(f"{source[0]} did not succeed: {said[-1] if said else writer.returncode}")
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if "ERROR" in line] or [done.stderr.strip()]
        raise ProgramFailed(f"{target[0]} did not succeed: {said[0]}")


def server_user() -> pwd.struct_passwd | None:
    """Whom a server runs as where we are root, which PostgreSQL refuses to be; None where we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ProgramFailed("there is no user postgres on this host that a server could run as")


__all__ = ["ProgramFailed", "environment", "pipe", "program", "run", "server_user"]
