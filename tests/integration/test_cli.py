"""The commands as people and scripts use them, against a bus in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arqonbus.cli import COMMANDS
from arqonbus.client import Client
from tests.servers.bus import REPOSITORY, BusProcess
from tests.servers.processes import wait_until


class Cli:
    """Runs `arqonbus` with the url and token of one bus."""

    def __init__(self, bus: BusProcess) -> None:
        names = ("PATH", "HOME", "LANG", "TMPDIR")
        self.environ = {name: os.environ[name] for name in names if name in os.environ}
        self.environ |= {
            "PYTHONPATH": str(REPOSITORY),
            "ARQONBUS_URL": bus.url,
            "ARQONBUS_TOKEN": bus.token("cli"),
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "arqonbus", *arguments]

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            input=text,
            capture_output=True,
            text=True,
            env=self.environ,
            timeout=60,
            cwd=REPOSITORY,
            check=False,
        )

    def ok(self, *arguments: str, text: str = "") -> str:
        done = self.run(*arguments, text=text)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def start(self, *arguments: str, stdin: int | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            # A suite that runs in the background ignores SIGINT, and its children would inherit that.
            ["env", "--default-signal=INT", *self.command(*arguments)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environ,
            cwd=REPOSITORY,
        )


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    process = BusProcess(tmp_path / "bus", "storage.backend=sqlite").start()
    yield process
    process.kill()


@pytest.fixture
def cli(bus: BusProcess) -> Cli:
    return Cli(bus)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name: str) -> None:
    """Every command explains itself with examples and its exit codes."""
    done = subprocess.run(
        [sys.executable, "-m", "arqonbus", name, "--help"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0
    assert "examples:\n  arqonbus" in done.stdout
    assert "exit codes:" in done.stdout
    assert "--json" in done.stdout or "<action>" in done.stdout


def test_publish_then_history(cli: Cli) -> None:
    """What is published is acked with its place and durability, and stands in the history."""
    assert cli.ok("publish", "hello", '{"n": 1}', "--name", "greeting").startswith("hello 1  hot  ")
    ack = json.loads(cli.ok("publish", "hello", "plain", "--text", "--json"))
    assert (ack["sequence"], ack["durability"], ack["duplicate"]) == (2, "hot", False)
    lines = cli.ok("history", "hello", "--oldest-first").splitlines()
    assert lines[0].endswith('hello 1  greeting  {"n": 1}')
    assert lines[1].endswith("hello 2  plain")
    assert lines[2] == "2 messages"
    newest = json.loads(cli.ok("history", "hello", "--limit", "1", "--json"))
    assert newest["sequence"] == 2


def test_lines_of_standard_input_keep_their_order(cli: Cli) -> None:
    """With - every line is a message; they are stored in their order."""
    acks = cli.ok("publish", "many", "-", "--json", text="".join(f"{n}\n" for n in range(300)))
    assert [json.loads(line)["sequence"] for line in acks.splitlines()] == list(range(1, 301))
    stored = cli.ok("history", "many", "--oldest-first", "--all", "--strict-sequence", "--json")
    assert [json.loads(line)["payload"] for line in stored.splitlines()] == list(range(300))


def test_a_pattern_reads_every_room_that_it_matches(cli: Cli) -> None:
    """In the order of their names, whole, and nothing of a room that it does not match."""
    for room in ("orders.us", "orders.eu", "bills.eu"):
        for n in range(3):
            cli.ok("publish", room, str(n))
    lines = cli.ok("history", "orders.*", "--all", "--oldest-first", "--json").splitlines()
    read = [(message["room"], message["payload"]) for message in map(json.loads, lines)]
    assert read == [(room, n) for room in ("orders.eu", "orders.us") for n in range(3)]
    assert cli.ok("history", "*.eu", "--limit", "1").endswith(
        "2 messages in 2 rooms; for more, use --limit or --all\n"
    )
    assert cli.ok("history", "nothing.*").strip() == "0 messages in 0 rooms"


def test_a_repeated_id_is_said(cli: Cli) -> None:
    """Publishing an id twice says that it was stored before."""
    message_id = "01J9ZC0M2Q8F5RB7K3T1V6WXYZ"
    cli.ok("publish", "hello", "1", "--id", message_id)
    assert "already stored" in cli.ok("publish", "hello", "1", "--id", message_id)


def test_subscribe_prints_payloads(cli: Cli) -> None:
    """subscribe prints what comes and stops after --count."""
    reader = cli.start("subscribe", "feed", "--count", "2")
    wait_until(lambda: _rooms(cli) == 1, "the subscriber has joined")
    for payload in ('{"a": 1}', '"two"', "3"):
        cli.ok("publish", "feed", payload)
    out, _ = reader.communicate(timeout=20)
    assert (out.splitlines(), reader.returncode) == (['{"a": 1}', '"two"'], 0)


def _rooms(cli: Cli) -> int:
    rooms: int = json.loads(cli.run("status", "--json").stdout)["tenant"]["rooms"]
    return rooms


def test_subscribe_since_a_position(cli: Cli) -> None:
    """subscribe --since begins behind the position."""
    acks = [json.loads(cli.ok("publish", "log", str(n), "--json")) for n in range(4)]
    since = f"{acks[1]['epoch']}:{acks[1]['sequence']}"
    assert cli.ok("subscribe", "log", "--since", since, "--count", "2").splitlines() == ["2", "3"]


def test_tail_shows_the_last_messages_first(cli: Cli) -> None:
    """tail shows the newest of the past in order, then what comes; Ctrl-C ends it with 130."""
    for n in range(5):
        cli.ok("publish", "news", str(n))
    watcher = cli.start("tail", "news", "--last", "2")
    assert watcher.stdout is not None
    past = [watcher.stdout.readline() for _ in range(3)]
    assert [line.split("  ")[1:] for line in past[:2]] == [["news 4", "3\n"], ["news 5", "4\n"]]
    assert past[2] == "following news; press Ctrl-C to stop\n"
    cli.ok("publish", "news", '"now"')
    assert watcher.stdout.readline().endswith('news 6  "now"\n')
    watcher.send_signal(signal.SIGINT)
    try:
        assert watcher.wait(20) == 130
    finally:
        watcher.kill()
        watcher.wait()
        watcher.stdout.close()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """The first line of output that holds the text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"{text!r} was not printed")


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def test_tail_says_when_the_bus_dies_and_returns(
    cli: Cli, bus: BusProcess, ended: list[subprocess.Popen[str]]
) -> None:
    """After a kill tail says so at once, with the reason; when the bus is back it says that, and goes on."""
    text, machine = cli.start("tail", "news"), cli.start("tail", "news", "--json")
    ended += [text, machine]
    read_until(text, "following")
    wait_until(lambda: len(_members(cli, "news")) == 2, "both have joined")
    bus.kill()
    assert "--- the connection was lost: " in read_until(text, "lost")
    assert json.loads(read_until(machine, "state"))["state"] == "rejoining"
    bus.start()
    read_until(text, "--- connected again")
    assert json.loads(read_until(machine, "state"))["state"] == "online"
    cli.ok("publish", "news", '"still here"')
    assert read_until(text, "still here")
    assert json.loads(read_until(machine, "still here"))["payload"] == "still here"


def _members(cli: Cli, room: str) -> list[object]:
    async def asked() -> list[object]:
        async with Client(cli.environ["ARQONBUS_URL"], cli.environ["ARQONBUS_TOKEN"]) as client:
            return list(await client.presence(room))

    return asyncio.run(asked())


def test_acks_of_lines_come_at_once(cli: Cli, ended: list[subprocess.Popen[str]]) -> None:
    """While standard input stays open each line is acked as it comes, and Ctrl-C ends the command."""
    process = cli.start("publish", "feed", "-", stdin=subprocess.PIPE)
    ended.append(process)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in (1, 2):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(f"feed {number} ")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_a_bad_line_does_not_stop_the_others(cli: Cli) -> None:
    """Lines that cannot be published are reported by number; the rest is stored, and the exit code is 1."""
    done = cli.run("publish", "feed", "-", text="1\n{\n\n3\n")
    assert done.returncode == 1
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["feed 1", "feed 2"]
    first, last = done.stderr.splitlines()
    assert first.startswith("arqonbus: line 2: the payload is not JSON")
    assert last == "arqonbus: 1 of 4 lines were not published"
    errors = cli.run("publish", "feed", "-", "--json", text="{\n2\n")
    assert json.loads(errors.stderr)["error"]["line"] == 1
    assert json.loads(errors.stdout)["sequence"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "error_code", "sentence"),
    [
        (["publish", "no room", "1"], 1, "VALIDATION_ERROR", "room is not"),
        (["publish", "r", "1", "--id", "order-1"], 1, "VALIDATION_ERROR", "id is neither"),
        (["history", "nowhere"], 1, "NOT_FOUND", "there is no such room"),
        (
            ["status", "--url", "ws://127.0.0.1:1/v1/ws", "--timeout", "0.3"],
            1,
            None,
            "connection was refused",
        ),
        (["status", "--url", "ws://no.invalid/", "--timeout", "0.3"], 1, None, "could not be resolved"),
    ],
)
def test_errors_with_json_are_json(
    cli: Cli, arguments: list[str], code: int, error_code: str | None, sentence: str
) -> None:
    """With --json an error is one JSON object with message and code, on standard error, with the cause."""
    done = cli.run(*arguments, "--json")
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error.get("code"), sentence in error["message"]) == (code, error_code, True), (
        error
    )


def test_a_url_of_another_scheme_is_wrong_usage(cli: Cli) -> None:
    """An http url is refused at once with the scheme to use."""
    done = cli.run("status", "--url", "http://127.0.0.1:9100/v1/ws")
    assert (done.returncode, "use ws://" in done.stderr) == (2, True)


def test_status_is_a_table_or_json(cli: Cli) -> None:
    """status shows node, state and storage."""
    assert json.loads(cli.ok("status", "--json"))["state"] == "ready"
    rows = dict(line.rsplit(maxsplit=1) for line in cli.ok("status").splitlines())
    assert rows["storage backend"] == "sqlite"


def test_bench_prints_a_table(cli: Cli) -> None:
    """bench measures a little and prints acked and delivered messages."""
    out = cli.ok("bench", "--seconds", "0.5", "--subscribers", "2", "--in-flight", "4")
    assert out.splitlines()[0].split()[:2] == ["STEP", "MESSAGES"]
    facts = json.loads(cli.ok("bench", "--seconds", "0.5", "--subscribers", "3", "--rate", "200", "--json"))
    assert facts["delivered"] == 3 * facts["published"] > 0


def test_smoke_says_that_the_bus_works(cli: Cli) -> None:
    """smoke publishes and receives, with a token that it makes from the profile."""
    assert cli.ok("smoke").startswith("10 messages were acked (hot) in ")
    facts = json.loads(cli.ok("smoke", "--messages", "3", "--json"))
    assert (facts["messages"], facts["durability"]) == (3, "hot")
    assert 0 < facts["acked_ms"] <= facts["delivered_ms"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["smoke", "--url", "ws://127.0.0.1:1/v1/ws", "--timeout", "0.3"], 1, "the test failed"),
        (["smoke", "--messages", "0"], 2, "a number from 1 to"),
        (["smoke", "--ca-file", "/nonexistent"], 2, "no valid certificate"),
        (["publish", "a:b", "1"], 1, "room is not 1-128 of"),
        (["publish", "r", "{"], 2, "the payload is not JSON"),
        (["publish", "r", "1", "--header", "x"], 2, "is not KEY=VALUE"),
        (["subscribe", "a", "b", "--since", "x:1"], 2, "give a single room"),
        (["subscribe", "a", "--since", "x"], 2, "--since is not EPOCH:SEQUENCE"),
        (["history", "nowhere"], 1, "there is no such room"),
        (["history", "nowhere", "--from", "yesterday"], 2, "is not RFC 3339"),
        (["bench", "--publishers", "0"], 2, "at least 1"),
        (["status", "--url", "ws://127.0.0.1:1/v1/ws", "--timeout", "0.3"], 1, "no connection to"),
        (["status", "--token-file", "/nonexistent"], 1, "cannot be read"),
        (["publsh"], 2, "did you mean publish?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_goes_wrong_is_a_sentence(cli: Cli, arguments: list[str], code: int, sentence: str) -> None:
    """Each mistake ends with its exit code and one sentence, never a traceback."""
    done = cli.run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_refused_token_is_a_sentence(cli: Cli) -> None:
    """A token that the bus does not accept is refused at once, with its code."""
    cli.environ["ARQONBUS_TOKEN"] = "not.a.token"
    done = cli.run("status")
    assert (done.returncode, "UNAUTHENTICATED" in done.stderr) == (1, True)


def test_serve_twice_says_which_port(cli: Cli, bus: BusProcess) -> None:
    """A second bus on the same ports ends with a sentence and 1."""
    del cli.environ["ARQONBUS_TOKEN"], cli.environ["ARQONBUS_URL"]
    flags = [flag for value in bus.overrides for flag in ("--set", value)]
    done = cli.run("serve", *flags)
    assert done.returncode == 1
    assert "is taken, perhaps by another bus" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_dev_bus_needs_no_options(tmp_path: Path) -> None:
    """On a developer's machine url and token are found: serve prints a token, and commands make their own."""
    bus = BusProcess(tmp_path / "bus")
    flags = [flag for value in bus.overrides for flag in ("--set", value)]
    cli = Cli(bus)
    del cli.environ["ARQONBUS_TOKEN"], cli.environ["ARQONBUS_URL"]
    server = cli.start("serve", *flags)
    assert server.stdout is not None
    try:
        lines = [server.stdout.readline() for _ in range(9)]
        assert lines[0] == "ArqonBus 0.1.0 is up (dev)\n"
        token = lines[4].split()[1]
        assert cli.ok("publish", "hello", "1", *flags).startswith("hello 1")
        assert '"valid": true' in cli.ok("token", "verify", "--json", *flags, text=token)
        assert lines[8].strip().startswith("arqonbus publish hello")
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        server.stdout.close()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("server.workers=2", "server.workers is not available in this version"),
        ("storage.mode=degraded", "the SQLite file is part of the bus, so set storage.mode to strict"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, setting: str, sentence: str) -> None:
    """A setting that cannot be kept stops the start with a sentence, instead of being ignored."""
    with pytest.raises(RuntimeError, match=sentence):
        BusProcess(tmp_path / "bus", setting).start()
