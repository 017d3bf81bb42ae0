"""Another language speaks the protocol: a program for Node with `ws` and `protobufjs`, and nothing of ours.

It shares the schema file and the golden corpus with this side, no code.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from arqonbus.protocol import wire_protobuf
from tests.contract.protocol.corpus import CASES, described, fields_of
from tests.integration.conftest import StartBus
from tests.integration.conftest import start_bus as start_bus  # a fixture
from tests.servers.node_packages import addresses_in, installed

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SCHEMA = REPOSITORY / "arqonbus/protocol/arqonbus.proto"
SOURCES = ("package.json", "package-lock.json", "envelope.js", "corpus.js", "member.js")
PATIENCE = 60.0


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The programs beside what they need."""
    for name in SOURCES:
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(installed(HERE))
    return tmp_path


async def node(folder: Path, program: str, *arguments: str) -> Any:
    """What the program printed. Fails with what it said on stderr."""
    process = await asyncio.create_subprocess_exec(
        "node", program, *arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    return json.loads(out)


def test_the_lock_file_names_no_address() -> None:
    """What is installed is pinned by its digest; from where is for whoever installs it to say."""
    assert addresses_in(HERE / "package-lock.json") == []


async def test_the_corpus_in_another_language(programs: Path) -> None:
    """Node reads each field of the golden corpus exactly, and what it writes is read here exactly."""
    golden = {name: described(case) for name, case in CASES.items()}
    (programs / "golden.json").write_text(json.dumps(golden), "utf-8")
    counted = await node(programs, "corpus.js", str(SCHEMA), "golden.json", "written.json")
    assert counted == {
        "cases": len(CASES),
        "envelopes": sum(len(case.envelopes) for case in CASES.values()),
    }
    written = json.loads((programs / "written.json").read_text("utf-8"))
    assert set(written) == set(CASES)
    for name, frame in written.items():
        decoded = wire_protobuf.decode(bytes.fromhex(frame))
        assert [fields_of(envelope) for envelope, _ in decoded] == golden[name]["envelopes"], name


@pytest.mark.parametrize("transport", ["picows", "websockets"])
async def test_a_member_in_another_language(start_bus: StartBus, programs: Path, transport: str) -> None:
    """Node joins a room, publishes, and hears itself and a Python client, with every value exact."""
    bus = await start_bus(f"server.transport={transport}")
    alice = await bus.client()
    received = await alice.subscribe("orders")
    member = asyncio.create_task(
        node(programs, "member.js", str(SCHEMA), bus.url, bus.token("bob"), "orders", "3")
    )
    async with asyncio.timeout(PATIENCE):
        seen = [await anext(received) for _ in range(2)]
        ack = await alice.publish("orders", {"from": "Zürich"}, name="reply")
        heard = await member
    assert [one.id for one in seen] == heard["sent"]
    assert (seen[0].name, bytes(seen[0].payload)) == ("größe", b'{"price":1.10,"far":1e400}')
    assert bytes(seen[1].payload) == b"\x00\xff\x80"

    assert json.loads(bytes.fromhex(heard["welcome"]["payload"]))["node"]
    for place, message_id in enumerate(heard["sent"], 1):
        reply = heard["replies"][message_id]
        assert (reply["status"]["code"], reply["sequence"], reply["epoch"]) == ("OK", str(place), ack.epoch)
    refusal = heard["replies"][heard["refused"]]["status"]
    assert (refusal["code"], refusal["details"]) == ("VALIDATION_ERROR", {"field": "room"})

    first, second, third = heard["messages"]
    assert [one["sequence"] for one in heard["messages"]] == ["1", "2", "3"]
    assert (first["tenant"], first["epoch"], first["name"]) == ("demo", ack.epoch, "größe")
    assert second["clock"] == {"node": "9007199254740993", "far": "18446744073709551615"}
    assert (second["headers"], second["payload"]) == ({"key": "ключ"}, "00ff80")
    assert json.loads(bytes.fromhex(third["payload"])) == {"from": "Zürich"}
    assert third["id"] == ack.id
