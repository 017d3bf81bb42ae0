"""What an operator finds on a host: the commands of the bus, and services behind systemctl and journalctl.

The services are real processes of the test; only the two programs that reach them are stand-ins.
"""

from __future__ import annotations

import json
import os
import socketserver
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.runbooks.runbook import RUNBOOKS

REPOSITORY = RUNBOOKS.parent

_ARQONBUS = """#!{python}
import sys
from arqonbus.cli import main
sys.exit(main())
"""

_CALL = """#!{python}
import json, pathlib, socket, sys
with socket.create_connection(("127.0.0.1", {port}), 60) as connection:
    connection.sendall(json.dumps([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]).encode() + b"\\n")
    code, said = json.loads(connection.makefile().readline())
print(said)
sys.exit(code)
"""


class Service(NamedTuple):
    """One unit: how it is started and ended, whether it runs, and where its output goes."""

    start: Callable[[], object]
    stop: Callable[[], object]
    active: Callable[[], bool]
    log: Path


def program(file: Path, text: str) -> None:
    """Put a program into a directory of PATH."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(stat.S_IRWXU)


def answer(services: Mapping[str, Service], words: list[str]) -> tuple[int, str]:
    """What systemctl or journalctl does: exit code and output."""
    match words:
        case ["systemctl", "start", name] if name in services:
            if not services[name].active():
                services[name].start()
            return 0, ""
        case ["systemctl", "stop", name] if name in services:
            services[name].stop()
            return 0, ""
        case ["systemctl", "restart", name] if name in services:
            services[name].stop()
            services[name].start()
            return 0, ""
        case ["systemctl", "is-active", name] if name in services:
            active = services[name].active()
            return (0, "active") if active else (3, "inactive")
        case ["journalctl", "-u", name, "-n", count] | [
            "journalctl",
            "-u",
            name,
            "-o",
            "cat",
            "-n",
            count,
        ] if name in services:
            lines = services[name].log.read_text("utf-8", "replace").splitlines()
            return 0, "\n".join(lines[-int(count) :])
        case _:
            return 1, f"{words} is nothing that a runbook types"


@contextmanager
def host(root: Path, services: Mapping[str, Service]) -> Iterator[dict[str, str]]:
    """The environment of a shell on this host, for the time of a with block."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                code, said = answer(services, json.loads(self.rfile.readline()))
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                code, said = 1, repr(error)
            self.wfile.write(json.dumps([code, said]).encode() + b"\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        listening = threading.Thread(target=server.serve_forever, args=(0.05,))
        listening.start()
        try:
            port = server.server_address[1]
            program(root / "bin/arqonbus", _ARQONBUS.format(python=sys.executable))
            for name in ("systemctl", "journalctl"):
                program(root / "bin" / name, _CALL.format(python=sys.executable, port=port))
            yield {
                "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(REPOSITORY),
                "HOME": str(root),
                "LANG": "C.UTF-8",
            }
        finally:
            server.shutdown()
            listening.join()


__all__ = ["REPOSITORY", "Service", "host", "program"]
