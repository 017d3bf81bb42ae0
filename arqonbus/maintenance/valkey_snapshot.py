"""Valkey's part of a backup: the snapshot that a replica would be sent, and what a server reads from it.

The user that takes it needs `+psync +replconf +ping` and no key. A cluster, or a Valkey behind sentinels, is
not one server with one snapshot; it is refused.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from arqonbus.config.stores import Valkey, login
from arqonbus.maintenance.store_programs import ProgramFailed, program, run

LOAD_SECONDS = 600

_AT_REST = re.compile(r"^loading:0", re.MULTILINE)
_KEYS = re.compile(r"(\d+) keys read")
_LOADED = re.compile(r"^rdb_last_load_keys_(?:loaded|expired):(\d+)", re.MULTILINE)


def take_snapshot(store: Valkey, target: Path) -> int:
    """Write a snapshot of what the server holds now; the number of its keys. Raises ProgramFailed."""
    if store.cluster or store.sentinel.nodes:
        kind = "a cluster" if store.cluster else "behind sentinels"
        raise ProgramFailed(
            f"Valkey is {kind}, which has no one snapshot; take Postgres alone with --part postgres, and "
            "Valkey's files on each of its hosts"
        )
    run(["valkey-cli", *_address(store), "--rdb", str(target)], _password(store))
    found = _KEYS.search(run(["valkey-check-rdb", str(target)]))
    if found is None:
        raise ProgramFailed(f"what Valkey sent cannot be read; see: valkey-check-rdb {target}")
    return int(found[1])


def _password(store: Valkey) -> Mapping[str, str]:
    _, given = login(store)
    return {"REDISCLI_AUTH": given} if given else {}


def _address(store: Valkey) -> list[str]:
    """The options that lead to the server."""
    host, port = store.address
    at_host = ["-h", host, "-p", str(port)]
    options = ["-s", store.url.path] if store.url and store.url.scheme == "unix" else at_host
    user, _ = login(store)
    options += ["--user", user, "--no-auth-warning"] if user else []
    if store.encrypted:
        tls = {"--cacert": store.tls.ca_file, "--cert": store.tls.cert_file, "--key": store.tls.key_file}
        options += ["--tls", *(word for name, file in tls.items() if file for word in (name, str(file)))]
    return options


def loaded_keys(snapshot: Path) -> int:
    """Keys that a server of its own reads from a snapshot, those that ended meanwhile too.

    It has no port, and writes nothing. Raises ProgramFailed where it does not read the snapshot.
    """
    with tempfile.TemporaryDirectory(prefix="arqonbus-drill-") as directory:
        place = Path(directory)
        (place / "dump.rdb").symlink_to(snapshot.resolve())
        options = ["--port", "0", "--unixsocket", str(place / "s"), "--dir", directory]
        options += ["--save", "", "--appendonly", "no"]
        with (place / "server.log").open("wb") as log:
            server = subprocess.Popen([program("valkey-server"), *options], stdout=log, stderr=log)  # noqa: S603
        try:
            return _once_loaded(server, place)
        finally:
            server.kill()
            server.wait()


def _once_loaded(server: subprocess.Popen[bytes], place: Path) -> int:
    deadline = time.monotonic() + LOAD_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            told = run(["valkey-cli", "-s", str(place / "s"), "INFO", "persistence"])
        except ProgramFailed:
            told = ""
        if _AT_REST.search(told):
            return sum(int(count) for count in _LOADED.findall(told))
        time.sleep(0.1)
    said = (place / "server.log").read_text("utf-8", "replace").strip().splitlines()[-1:]
    raise ProgramFailed(f"a server does not read the snapshot: {' '.join(said) or 'no reason given'}")


__all__ = ["loaded_keys", "take_snapshot"]
