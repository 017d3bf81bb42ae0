"""The code that is generated from the schema is the code that is committed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PROTO = "arqonbus/protocol/arqonbus.proto"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with freshly generated code."""
    folder = tmp_path_factory.mktemp("generated")
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    command = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", f"--plugin={plugin}", "-I."]
    subprocess.run(
        [*command, f"--python_out={folder}", f"--mypy_out={folder}", PROTO], cwd=REPOSITORY, check=True
    )
    return folder


@pytest.mark.parametrize("name", ["arqonbus_pb2.py", "arqonbus_pb2.pyi"])
def test_generated_code_is_current(generated: Path, name: str) -> None:
    """Generating from arqonbus.proto gives the committed file, byte for byte."""
    fresh = (generated / "arqonbus/protocol" / name).read_bytes()
    assert fresh == (REPOSITORY / "arqonbus/protocol" / name).read_bytes()
