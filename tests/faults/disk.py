"""A small disk that can be filled to the last byte: a tmpfs. Needs root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import TracebackType


def why_not() -> str:
    """Why no disk can be mounted here; empty if it can."""
    return "" if os.geteuid() == 0 else "mounting a small disk needs root"


class Disk:
    """Mounted at `path` for the time of a with block."""

    def __init__(self, path: Path, megabytes: int = 256) -> None:
        self.path = path
        self._size = megabytes
        self._filler = path / "filler"

    def __enter__(self) -> Disk:
        self.path.mkdir(parents=True)
        options = f"size={self._size}m,mode=0755"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "arqonbus-faults", str(self.path)], check=True, timeout=20
        )
        return self

    def fill(self) -> None:
        """Leave no byte free."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                block = bytes(size)
                while True:
                    try:
                        if file.write(block) < size:
                            break
                    except OSError:
                        break

    def free(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True, timeout=20)


__all__ = ["Disk", "why_not"]
