"""The npm package: its types, its size, and that it runs: in Node alone, and in pages without a bundler."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tests.integration.conftest import Bus, StartBus
from tests.integration.conftest import start_bus as start_bus  # a fixture
from tests.servers.browser import Site, browser
from tests.servers.node_packages import SDK, addresses_in, sdk_copy

MOST_BYTES = 12_000  # of the SDK in a page, minified and compressed

# A program in TypeScript, which knows the package by its types only.
PROGRAM = """\
import { Client, Rejected, type Message } from "arqonbus";
import { Group, serve } from "arqonbus/workers";

export async function use(client: Client): Promise<bigint> {
  for await (const message of client.subscribe("orders", { policy: "pause" })) handle(message);
  for await (const job of new Group(client, "orders", "billing")) await job.ack();
  const service = await serve(client, "prices", (request) => request.json());
  await service.close();
  return (await client.publish("orders", { id: 1n })).sequence;
}

function handle(message: Message): string {
  return message.name;
}

// @ts-expect-error there is no such policy
export const wrong = (client: Client) => client.subscribe("orders", { policy: "never" });
export const code = (error: Rejected): string => error.code;
"""

# What a program and a page do alike: publish a number that no double holds, and read it back.
ROUND_TRIP = """\
export async function roundTrip(Client, url, token) {
  const client = new Client(url, token);
  await client.connect();
  const room = client.subscribe("orders");
  await room.ready;
  const ack = await client.publish("orders", { id: 9007199254740993n });
  const { value } = await room.next();
  await client.close();
  return { sequence: String(ack.sequence), id: String(value.json().id) };
}
"""
EXPECTED = {"sequence": "1", "id": "9007199254740993"}

MAIN = """\
import { Client } from "arqonbus";
import { Group } from "arqonbus/workers";
import { roundTrip } from "./round-trip.js";

if (typeof Group !== "function") throw new Error("no workers");
console.log(JSON.stringify(await roundTrip(Client, process.argv[2], process.argv[3])));
"""

JSON_PROGRAM = """\
import { parse, stringify } from "./node_modules/arqonbus/src/json.js";

for (const value of [NaN, { a: [-Infinity] }, undefined, () => 1]) {
  let text;
  try {
    text = stringify(value);
  } catch {
    continue;
  }
  throw new Error(`${value} became ${text}`);
}
console.log(JSON.stringify(JSON.parse(process.argv[2]).map((text) => stringify(parse(text)))));
"""

PAGE = """\
<!doctype html>
<script type="importmap">{"imports": {"arqonbus": "/node_modules/arqonbus/src/index.js"}}</script>
<script type="module">
  import { Client } from "arqonbus";
  import { roundTrip } from "./round-trip.js";
  const report = new WebSocket(`ws://${location.host}/report`);
  const done = roundTrip(Client, "URL", "TOKEN").catch(String);
  report.onopen = async () => report.send(JSON.stringify(await done));
</script>
"""


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SDK with its tools."""
    return sdk_copy(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def project(sdk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh project with the packed SDK, and nothing else."""
    folder = tmp_path_factory.mktemp("project")
    run(["npm", "pack", "--pack-destination", str(folder)], sdk)
    (folder / "package.json").write_text('{"type": "module"}')
    run(["npm", "install", "--offline", "--no-audit", "--no-fund", "./arqonbus-0.1.0.tgz"], folder)
    (folder / "round-trip.js").write_text(ROUND_TRIP)
    return folder


def run(command: list[str], folder: Path) -> str:
    """What it printed; fails with what it said."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_types_hold(sdk: Path) -> None:
    """`tsc --strict` has nothing to say about the sources."""
    run(["npm", "run", "--silent", "check"], sdk)


def test_the_size(sdk: Path) -> None:
    """What a page loads is small."""
    assert int(run(["npm", "run", "--silent", "size"], sdk)) <= MOST_BYTES


def test_the_lock_file_names_no_address() -> None:
    """What is installed is pinned by its digest; from where is for whoever installs it to say."""
    assert addresses_in(SDK / "package-lock.json") == []


def test_no_digit_is_lost(project: Path) -> None:
    """What JavaScript reads and writes again is what Python reads, however large the integers are."""
    texts = [
        "[9007199254740991, 9007199254740992, -9007199254740993, 18446744073709551615]",
        '{"a": {"b": [12345678901234567890123, "12345678901234567890123"]}, "1234567890123456": null}',
        r"""["\"12345678901234567890\\\\", "\\u0031234567890123456", 1.25, 1234567890123456.5, -1.5e22]""",
        json.dumps("integer-" + "1" * 40 + ":" + "2" * 40),
    ]
    (project / "json.js").write_text(JSON_PROGRAM)
    again = json.loads(run(["node", "json.js", json.dumps(texts)], project))
    assert [json.loads(text) for text in again] == [json.loads(text) for text in texts]


def test_what_is_in_the_package(project: Path) -> None:
    """Sources with a type declaration for each, and nothing else; no other package was installed."""
    package = project / "node_modules/arqonbus"
    sources = {path.stem for path in (package / "src").iterdir()}
    assert {path.name.removesuffix(".d.ts") for path in (package / "types").iterdir()} == sources
    assert {path.name for path in package.iterdir()} == {
        "package.json",
        "README.md",
        "LICENSE",
        "src",
        "types",
    }
    assert [path.name for path in (project / "node_modules").iterdir() if path.is_dir()] == ["arqonbus"]


def test_the_types_of_the_package(project: Path, sdk: Path) -> None:
    """A program in TypeScript compiles against it."""
    (project / "program.ts").write_text(PROGRAM)
    options = ["--strict", "--noEmit", "--module", "nodenext", "--lib", "es2022,dom,dom.asynciterable"]
    run([str(sdk.parents[1] / "node_modules/.bin/tsc"), *options, "program.ts"], project)


async def test_a_program_with_the_package_alone(project: Path, start_bus: StartBus) -> None:
    """Node runs it with its own WebSocket, without `ws`."""
    bus = await start_bus()
    (project / "main.js").write_text(MAIN)
    command = ["node", "--experimental-websocket", "main.js", bus.url, bus.token()]
    assert json.loads(await asyncio.to_thread(run, command, project)) == EXPECTED


@pytest.mark.parametrize("name", ["chromium", "firefox"])
async def test_a_page_with_the_package_unbundled(name: str, project: Path, start_bus: StartBus) -> None:
    """A real browser loads the modules as they are, and connects to a real bus."""
    bus: Bus = await start_bus()
    page = PAGE.replace("URL", bus.url).replace("TOKEN", bus.token())
    (project / f"{name}.html").write_text(page)
    reported: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def on_socket(socket: ServerConnection) -> None:
        reported.set_result(json.loads(await socket.recv()))

    async with (
        Site(project, on_socket).running() as site,
        browser(name, f"{site.origin}/{name}.html"),
        asyncio.timeout(60),
    ):
        assert await reported == EXPECTED
