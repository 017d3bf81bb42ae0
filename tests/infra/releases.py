"""Releases built by scripts/build-release: of this tree, of another version, or with a fault."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.e2e.stack import copy_repository
from tests.infra.hosts import REPOSITORY

BUILD_SECONDS = 240
# Installs and passes preflight, and its bus comes up; its projector ends as soon as it is to project.
FAULT = """

def run(args: argparse.Namespace) -> int:
    raise Failure("this release is broken")
"""


class Releases:
    """Builds them into one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._source = directory / "source"
        copy_repository(self._source)
        self.version = _replaced_version(self._source, None)

    def build(self, version: str | None = None, *, broken: bool = False) -> Path:
        """The artifact of a version, or of the tree's own."""
        wanted = _replaced_version(self._source, version or self.version)
        program = self._source / "arqonbus" / "cli" / "projector.py"
        intact = program.read_text()
        if broken:
            program.write_text(intact + FAULT)
        try:
            subprocess.run(
                [
                    REPOSITORY / "scripts" / "build-release",
                    "--source",
                    self._source,
                    "--out",
                    self._directory,
                ],
                check=True,
                capture_output=True,
                timeout=BUILD_SECONDS,
            )
        finally:
            program.write_text(intact)
        return self._directory / f"arqonbus-{wanted}.tar.gz"


def _replaced_version(source: Path, version: str | None) -> str:
    """Write a version where versions stand; gives the one that stands there afterwards."""
    project, package = source / "pyproject.toml", source / "arqonbus" / "__init__.py"
    if version is not None:
        for file, line in ((project, "version"), (package, "__version__")):
            file.write_text(re.sub(rf'(?m)^{line} = ".*"$', f'{line} = "{version}"', file.read_text()))
    found = re.search(r'(?m)^version = "(.*)"$', project.read_text())
    assert found is not None
    return found[1]


__all__ = ["Releases"]
