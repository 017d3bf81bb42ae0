"""A small deployment on disk, and a loader isolated from this machine."""

from pathlib import Path
from typing import Any

import pytest

from arqonbus.config import ConfigError, Resolved, load


class Deployment:
    """Profiles in a directory of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.secrets = root / "secrets"
        self.secrets.mkdir()
        self.write("base.yaml", "server:\n  port: 9100\n")
        self.write("dev/profile.yaml", "environment: dev\n")

    def write(self, name: str, text: str) -> Path:
        file = self.root / "profiles" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        return file

    def secret(self, name: str, text: str = "s3cret-" + "x" * 40, mode: int = 0o640) -> Path:
        file = self.secrets / name
        file.write_text(text, "utf-8")
        file.chmod(mode)
        return file

    def load(self, profile: str = "dev", **options: Any) -> Resolved:
        options.setdefault("environ", {})
        options.setdefault("secrets_dir", self.secrets)
        return load(profile, root=self.root, **options)

    def findings(self, profile: str = "dev", **options: Any) -> list[str]:
        """`CODE place: message` of everything that is wrong."""
        with pytest.raises(ConfigError) as caught:
            self.load(profile, **options)
        return [f"{finding.code} {finding}" for finding in caught.value.findings]


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)
