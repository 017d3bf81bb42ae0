"""The small distribution of the client: it is complete, and needs only what it declares."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import arqonbus
from tests.servers.arqonbus import REPOSITORY
from tests.servers.bus import BusProcess

PROJECT = REPOSITORY / "clients" / "python"
DECLARED = {"google", "msgspec", "websockets"}
OPTIONAL = {
    "python_socks",
    "typing_extensions",
}  # which websockets and msgspec import where they are installed

_PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import arqonbus.client
from arqonbus.client import sync
with sync.Client(sys.argv[2], sys.argv[3]) as bus:
    sequence = bus.publish("orders", {"id": 1}).sequence
files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
outside = {name.partition(".")[0] for name, file in files.items() if "site-packages" in file}
print(json.dumps({"file": arqonbus.client.__file__, "outside": sorted(outside), "sequence": sequence}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    build = [
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        str(place),
    ]
    subprocess.run([sys.executable, "-m", *build, str(PROJECT)], check=True, cwd=place)
    return next(place.glob("arqonbus_client-*.whl"))


def test_its_version_and_bounds_are_those_of_the_bus() -> None:
    """Both packages come from one tree, so they say the same."""
    client = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    whole = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert client["version"] == whole["version"] == arqonbus.__version__
    assert set(client["dependencies"]) <= set(whole["dependencies"])


def test_it_holds_the_client_and_nothing_of_the_bus(wheel: Path) -> None:
    """arqonbus.client, arqonbus.protocol, and the marker that they are typed."""
    names = zipfile.ZipFile(wheel).namelist()
    packages = {"/".join(name.split("/")[:2]) for name in names if name.startswith("arqonbus/")}
    assert packages == {"arqonbus/__init__.py", "arqonbus/py.typed", "arqonbus/client", "arqonbus/protocol"}


def test_it_works_with_what_it_declares(wheel: Path, tmp_path: Path) -> None:
    """A program publishes with the wheel alone, and imports no library that the wheel does not declare."""
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    bus = BusProcess(tmp_path / "bus").start()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM, str(unpacked), bus.url, bus.token()],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
    finally:
        bus.kill()
    facts = json.loads(done.stdout)
    assert facts["file"].startswith(str(unpacked))
    assert facts["sequence"] == 1
    assert set(facts["outside"]) >= DECLARED
    assert not set(facts["outside"]) - DECLARED - OPTIONAL - {"_distutils_hack"}
