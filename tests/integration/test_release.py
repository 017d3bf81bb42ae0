"""The one file that a host is given: complete, verifiable, and the same for the same tree."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest

from tests.infra.releases import Releases

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("release")]

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def artifact(releases: Releases) -> Path:
    return releases.build()


@pytest.fixture(scope="module")
def content(artifact: Path) -> dict[str, bytes]:
    """Path within the release, and what is there."""
    with tarfile.open(artifact) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        assert {member.uid for member in members} == {0}
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in members
        }


def test_every_locked_dependency_is_in_it(content: dict[str, bytes]) -> None:
    """As a wheel, and nothing that is not locked."""
    locked = re.findall(
        r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\$", (REPOSITORY / "requirements/run.lock").read_text(), re.M
    )
    # Conditions that do not hold on the hosts: another system, an older Python.
    wanted = {f"{name}-{version}" for name, version, condition in locked if not condition}
    wheels = {
        "-".join(Path(name).name.split("-")[:2]).replace("_", "-").lower()
        for name in content
        if name.startswith("wheels/")
    }
    assert wanted <= wheels
    known = {f"{name}-{version}" for name, version, _ in locked}
    assert {wheel for wheel in wheels - known if not wheel.startswith("arqonbus-")} == set()


def test_every_file_is_the_one_that_was_built(content: dict[str, bytes]) -> None:
    """By the checksums that the installer verifies, and the manifest's."""
    sums = dict(reversed(line.split("  ", 1)) for line in content["SHA256SUMS"].decode().splitlines())
    assert set(sums) == set(content) - {"SHA256SUMS"}
    assert {name: hashlib.sha256(content[name]).hexdigest() for name in sums} == sums
    manifest = json.loads(content["manifest.json"])
    assert manifest["files"].items() <= sums.items()
    assert manifest["wheel"] in content
    assert (manifest["name"], manifest["python"]) == ("arqonbus", "3.13")


def test_the_same_tree_gives_the_same_bytes(releases: Releases, artifact: Path) -> None:
    """Whenever it is built."""
    before = artifact.read_bytes()
    assert releases.build().read_bytes() == before
