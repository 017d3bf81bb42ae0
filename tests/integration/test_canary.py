"""Secrets are planted in every place that can hold one, and searched for in everything that is written.

Each canary holds the same mark, so that any part of any of them that shows is found.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from arqonbus.cli import main
from arqonbus.config import load
from arqonbus.config.redaction import redact_value
from tests.servers.bus import REPOSITORY, BusProcess
from tests.servers.processes import free_port

MARK = "c4n4ry"

Said = Callable[..., tuple[int, str]]


def canary(place: str) -> str:
    """A secret that is long and mixed enough for every rule about secrets."""
    return f"{MARK}-{place}-8Jq2WmX5kZ1vN7pL4cYr9TzK4vQ{MARK}"


def assert_silent(text: str, about: object) -> None:
    """No part of a canary stands in the text, as it is or encoded for a URL."""
    place = text.lower().find(MARK)
    assert place < 0, f"{about} shows …{text[max(0, place - 200) : place + 80]}…"


BASE = "server: {port: 9100}\n"

DEV = f"""
environment: dev
state_dir: state
server: {{host: 127.0.0.1, origins: ["*"]}}
storage: {{backend: sqlite}}
datastores:
  valkey:
    url: valkey://arqonbus:{canary("url")}@127.0.0.1:1
    user: arqonbus
    sentinel: {{password: {canary("sentinel")}}}
  postgres:
    url: postgresql://arqonbus:{canary("dsn")}@127.0.0.1:1/arqonbus?sslpassword={canary("query")}
    sslmode: disable
auth:
  jwt:
    secret: {canary("literal")}
    previous_secret:
      value: {{from: file, path: secrets/previous}}
      valid_until: 2999-01-31T00:00:00Z
"""

PROD = """
environment: prod
state_dir: state
server:
  host: 127.0.0.1
  port: 9100
  public_url: wss://bus.acme.io/v1/ws
  origins: [https://app.acme.io]
telemetry: {host: 127.0.0.1, port: 9101, log_format: json}
protocol: {infra: protobuf, allow_json_infra: false, schema_strict: true}
storage: {backend: valkey, mode: strict, durability: durable, require_dual_data_stack: true}
datastores:
  valkey: {url: "valkey://127.0.0.1:1", user: arqonbus, password: {from: credential, name: valkey}}
  postgres:
    {host: 127.0.0.1, port: 1, user: arqonbus, password: {from: env, name: PG_SECRET}, sslmode: disable}
auth:
  jwt:
    secret: {from: command, argv: [cat, secrets/jwt]}
    previous_secret: {value: {from: file, path: secrets/previous}, valid_until: 2999-01-31T00:00:00Z}
"""

ENVIRON = {
    "JWT_SECRET": canary("variable"),
    "NATS_URL": f"nats://bus:{canary('nats')}@127.0.0.1:1",
    "ARQONBUS_DATASTORES__POSTGRES__PASSWORD": canary("password-variable"),
}
PROD_ENVIRON = {"PG_SECRET": canary("reference")}
SET = ("--set", f"datastores.valkey.sentinel.password={canary('option')}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment full of canaries, and nothing of this machine's own environment."""
    for name, text in {"base": BASE, "dev/profile": DEV, "prod/profile": PROD}.items():
        file = tmp_path / "profiles" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("previous", "jwt", "valkey", "datastores.valkey.password", "unused"):
        file = secrets / name
        file.write_text(canary(f"file-{name}") + "\n")
        file.chmod(0o640)
    for name in [*os.environ]:
        if name.startswith("ARQONBUS_") or name in ("JWT_SECRET", "NATS_URL"):
            monkeypatch.delenv(name)
    for name, value in {**ENVIRON, **PROD_ENVIRON}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIONS = ("--secrets-dir", "secrets")
PROFILES: Mapping[str, Sequence[str]] = {
    "dev": ("--profile", "dev", *OPTIONS, *SET),
    "prod": ("--profile", "prod", *OPTIONS),
}
# The keys that hold canaries in one layer or another.
KEYS = (
    "auth.jwt.secret",
    "auth.jwt.previous_secret.value",
    "datastores.valkey.url",
    "datastores.valkey.password",
    "datastores.valkey.sentinel.password",
    "datastores.postgres.url",
    "datastores.postgres.password",
    "datastores.nats.url",
)
TARGETS = ("systemd", "compose-env", "ansible", "prometheus", "prometheus-rules")


def profile_commands() -> Iterator[tuple[str, ...]]:
    yield ("show",)
    yield ("show", "--all")
    yield from (("explain", key) for key in KEYS)
    yield ("digest",)
    yield ("sources",)
    yield ("sources", "--variables")
    yield ("diff", "dev", "prod")
    yield ("plan", "dev", "prod")
    yield from (("render", target) for target in TARGETS)


@pytest.fixture
def said(place: Path, capfd: pytest.CaptureFixture[str]) -> Said:
    """Runs a command line here, and gives its exit code and everything that it wrote."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return run


def test_the_canaries_are_in_the_settings(place: Path) -> None:
    """What is searched for was really loaded, from every layer."""
    overrides = [SET[1]]
    settings = load("dev", root=place, secrets_dir=place / "secrets", overrides=overrides).settings
    jwt, stores = settings.auth.jwt, settings.datastores
    held = (
        jwt.secret,
        jwt.previous_secret.value,
        stores.valkey.password,
        stores.valkey.sentinel.password,
        stores.postgres.password,
    )
    places = ("variable", "file-previous", "file-datastores.valkey.password", "option", "password-variable")
    assert [secret.get_secret_value() if secret else "" for secret in held] == [canary(p) for p in places]
    for url in (stores.valkey.url, stores.postgres.url, stores.nats.url):
        assert url
        assert MARK in url


def test_a_part_of_a_canary_is_noticed() -> None:
    """The search fails for what it is meant to find."""
    with pytest.raises(AssertionError, match="shows"):
        assert_silent(f"refused at {canary('x')[-8:].upper()}", "an example")


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("command", [*profile_commands()], ids=" ".join)
def test_profile_shows_no_secret(said: Said, command: tuple[str, ...], name: str, form: str) -> None:
    """No action of `arqonbus profile`, in no form, for no profile."""
    options = PROFILES[name]
    if command[0] in ("diff", "plan"):
        options = OPTIONS  # a secret of --set would be refused for one of the two
    code, text = said("profile", *command, *options, *(["--json"] if form == "json" else []))
    assert code in (0, 1)
    assert text.strip() or command[0] == "plan"
    assert_silent(text, command)


@pytest.mark.parametrize("form", ["tree", "json", "junit", "sarif", "html"])
@pytest.mark.parametrize("name", PROFILES)
def test_preflight_shows_no_secret(said: Said, place: Path, name: str, form: str) -> None:
    """Neither a report, nor the bundle, although servers refuse and much is wrong."""
    options = ("--format", form, "--capture", "bundle", "--receipt", "receipt.json")
    code, text = said("preflight", *PROFILES[name], *options)
    assert code in (0, 1)
    assert len(text) > 500
    assert_silent(text, form)
    assert len(list((place / "bundle").iterdir())) >= 7
    for file in (place / "bundle").iterdir():
        assert_silent(file.read_text(), file.name)
    for file in (place / "profiles").rglob("*.json"):
        assert_silent(file.read_text(), file.name)


def test_a_receipt_holds_no_secret(said: Said, place: Path) -> None:
    """It holds a fingerprint and a signature that are made of one."""
    (place / "profiles/dev/profile.yaml").write_text(
        f"environment: dev\nstate_dir: {place}/state\nserver: {{host: 127.0.0.1, port: {free_port()}}}\n"
        f"telemetry: {{port: {free_port()}}}\n"
        "storage: {backend: sqlite}\n"
    )
    options = ("--set", "auth.jwt.leeway=5s", "--receipt", "receipt.json", "--fail-on", "error")
    os.environ.pop("NATS_URL")
    code, text = said("preflight", "--profile", "dev", *options)
    assert code == 0, text
    receipt = json.loads((place / "receipt.json").read_text())
    assert receipt["secret_fingerprint"]
    assert_silent(json.dumps(receipt) + text, "the receipt")


NOWHERE = ("--set", "server.host=192.0.2.1")  # where a bus cannot listen, so that it ends

# Faults beside secrets, as they come of editing: how the text of the dev profile is changed.
LITERAL = f"secret: {canary('literal')}"
FAULTS: Mapping[str, tuple[str, str]] = {
    "a list": (LITERAL, f"secret: [{canary('a')}, {canary('b')}]"),
    "a mapping": (LITERAL, f"secret: {{value: {canary('a')}}}"),
    "a reference that says too much": (LITERAL, f"secret: {{from: env, name: X, value: {canary('a')}}}"),
    "an unknown origin": (LITERAL, f"secret: {{from: {canary('a')}, name: x}}"),
    "a misspelt key": (LITERAL, f"secrett: {canary('a')}"),
    "a misspelt section": ("sentinel: {", "sentinels: {"),
    "no space after the colon": (LITERAL, f"secret:{canary('a')}"),
    "an open quote": (LITERAL, f'secret: "{canary("a")}'),
    "a tag": (LITERAL, f"secret: !vault {canary('a')}"),
    "an unknown alias": (LITERAL, f"secret: *{canary('a')}"),
    "an anchor": (LITERAL, f"secret: &{canary('a')} {canary('b')}\n    issuer: [*{canary('a')}]"),
    "twice": (LITERAL, f"{LITERAL}\n    {LITERAL}"),
    "a tab": (LITERAL, f"\t{LITERAL}"),
    "a colon inside": (LITERAL, f"{LITERAL}: {canary('a')}"),
    "a block": (LITERAL, f"secret: |\n    {canary('a')}"),
    "a control character": (LITERAL, f"{LITERAL}\x07"),
    "under the wrong section": ("auth:\n  jwt:\n", "auth:\n  require_exp: [x]\n  limits:\n"),
    "a section that is a text": ("  valkey:\n    url:", "  valkey: >\n    url:"),
    "an unknown scheme": ("valkey://", "http://"),
    "a scheme of nothing": ("valkey://", ""),
    "a URL with blanks": ("valkey://arqonbus:", "valkey ://arqonbus:x "),
    "a slash in a password": (f":{canary('url')}@", f":{canary('a')}/{canary('b')}@"),
    "a hash in a password": (f":{canary('url')}@", f":{canary('a')}#{canary('b')}@"),
    "a question mark in a password": (f":{canary('url')}@", f":{canary('a')}?{canary('b')}@"),
    "a bracket in a password": (f":{canary('url')}@", f":{canary('a')}[{canary('b')}@"),
    "an @ in a password": (f":{canary('url')}@", f":{canary('a')}@{canary('b')}@"),
    "a broken address": ("@127.0.0.1:1\n", "@[::1:x\n"),
    "a reference to nothing": ("path: secrets/previous", "path: secrets/missing"),
    "a moment that is none": ("2999-01-31T00:00:00Z", "tomorrow"),
    "a port that is none": ("host: 127.0.0.1,", "host: 127.0.0.1, port: many,"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "command",
    [
        ("profile", "show"),
        ("profile", "show", "--json"),
        ("profile", "explain", "auth.jwt.secret"),
        ("profile", "render", "ansible"),
        ("preflight", "--phase", "static"),
        ("preflight", "--phase", "static", "--format", "json", "--capture", "bundle"),
        ("serve", "--json", *NOWHERE),
    ],
    ids=" ".join,
)
def test_errors_beside_a_secret_show_none(
    said: Said, place: Path, fault: str, command: tuple[str, ...]
) -> None:
    """What is said about a broken value says its shape, not what it is."""
    file = place / "profiles/dev/profile.yaml"
    old, new = FAULTS[fault]
    assert old in DEV
    file.write_text(DEV.replace(old, new))
    code, text = said(*command, *PROFILES["dev"])
    assert code in (0, 1, 3)
    assert text.strip()
    assert "Traceback" not in text
    assert_silent(text, fault)
    for written in place.glob("bundle/*"):
        assert_silent(written.read_text(), written.name)


BROKEN_WORDS: Mapping[str, tuple[Mapping[str, str], Sequence[str]]] = {
    "a variable that is none": ({"ARQONBUS_JWT_SECRETT": canary("a")}, ()),
    "a variable of dynaconf": ({"SECRET_FOR_DYNACONF": canary("a")}, ()),
    "two variables that disagree": ({"ARQONBUS_AUTH_JWT_SECRET": canary("a")}, ()),
    "a URL in a variable": ({"ARQONBUS_VALKEY_URL": f"://x:{canary('a')}@y"}, ()),
    "a number in a variable": ({"ARQONBUS_AUTH__JWT__PREVIOUS_SECRET__VALID_UNTIL": "x"}, ()),
    "a reference in a variable": ({"JWT_SECRET": f"{{from: env, name: {canary('a')}}}"}, ()),
    "a misspelt option": ({}, ("--set", f"auth.jwt.secrett={canary('a')}")),
    "an option without a key": ({}, ("--set", f"={canary('a')}")),
    "an option without a sign": ({}, ("--set", canary("a"))),
    "an option for a section": ({}, ("--set", f"auth.jwt={canary('a')}")),
    "an option of another type": ({}, ("--set", f"datastores.valkey.url={canary('a')}")),
}


BUNDLE = ("preflight", "--capture", "bundle")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (command, words)
        for command in (("profile", "show", "--json"), ("serve", *NOWHERE), BUNDLE)
        for words in BROKEN_WORDS
    ],
)
def test_errors_of_words_show_no_secret(
    said: Said,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    command: tuple[str, ...],
) -> None:
    """Nor does what is said about variables and options."""
    variables, options = BROKEN_WORDS[words]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["arqonbus", *command, *PROFILES["dev"], *options])
    code, text = said(*command, *PROFILES["dev"], *options)
    assert code in (0, 1, 3)
    assert_silent(text, words)
    for written in place.glob("bundle/*"):
        assert_silent(written.read_text(), written.name)


def spoil_mode(file: Path) -> None:
    file.chmod(0o644)


def spoil_bytes(file: Path) -> None:
    file.write_bytes(canary("a").encode() + b"\xff\xfe")


def spoil_nul(file: Path) -> None:
    file.write_text(canary("a") + "\0")


def spoil_size(file: Path) -> None:
    file.write_text(canary("a") * 2000)


@pytest.mark.parametrize("spoil", [spoil_mode, spoil_bytes, spoil_nul, spoil_size])
@pytest.mark.parametrize("name", ["previous", "datastores.valkey.password", "auth.jwt.secrett"])
def test_errors_of_secret_files_show_no_secret(
    said: Said, place: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    """A file that is unfit is named, and nothing of it."""
    file = place / "secrets" / name
    file.write_text(canary("a"))
    spoil(file)
    for command in (("serve",), ("preflight", "--phase", "static")):
        code, text = said(*command, *PROFILES["dev"])
        assert code in (1, 3)
        assert name in text
        assert_silent(text, command)


def started(directory: Path, *arguments: str) -> tuple[int, str]:
    """`arqonbus serve` as a process of its own, until it ends."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "default", "-m", "arqonbus", "serve", *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONASYNCIODEBUG": "1"},
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


LEAVE_OUT_NATS = "NATS_URL"
FAILING_STARTS: Mapping[str, Sequence[str]] = {
    "a feature that is not there": (*PROFILES["dev"], "--set", "server.workers=2"),
    "a dead Valkey": (*PROFILES["dev"][:-2], "--set", "storage.backend=valkey"),
    "a state directory that is a file": (*PROFILES["dev"][:-2], "--set", "state_dir=profiles/base.yaml"),
    "an address of nobody": (*PROFILES["dev"][:-2], "--set", "server.host=192.0.2.1"),
    "a preflight that fails": PROFILES["prod"],
    "a broken glass": (*PROFILES["prod"], "--break-glass", "the drill"),
}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("fault", FAILING_STARTS)
def test_a_start_that_fails_shows_no_secret(
    place: Path, monkeypatch: pytest.MonkeyPatch, fault: str, form: str
) -> None:
    """Neither its log at debug, nor its last sentence, nor a traceback."""
    if fault != "a feature that is not there":
        monkeypatch.delenv(LEAVE_OUT_NATS)
    options = [
        *FAILING_STARTS[fault],
        "--set",
        "telemetry.log_level=debug",
        "--set",
        f"server.port={free_port()}",
    ]
    options += ["--set", f"telemetry.port={free_port()}", *(["--json"] if form == "json" else [])]
    code, text = started(place, *options)
    assert code == 1, text
    assert "the bus did not start" in text
    assert_silent(text, fault)


def fetched(url: str, headers: Mapping[str, str] | None = None) -> str:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=dict(headers or {})), timeout=10
        ) as answer:
            return str(answer.headers) + answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return str(error.headers) + error.read().decode()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    """A running bus that knows canaries and logs everything."""
    process = BusProcess(
        tmp_path / "bus",
        f"auth.jwt.secret={canary('jwt')}",
        f"auth.jwt.previous_secret.value={canary('previous')}",
        "auth.jwt.previous_secret.valid_until=2999-01-31T00:00:00Z",
        f"datastores.valkey.url=valkey://arqonbus:{canary('url')}@127.0.0.1:1",
        f"datastores.postgres.url=postgresql://arqonbus:{canary('dsn')}@127.0.0.1:1/arqonbus",
        "storage.backend=sqlite",
        "telemetry.log_level=debug",
    ).start()
    try:
        yield process
    finally:
        process.stop()


def test_a_running_bus_shows_no_secret(
    bus: BusProcess, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """None of its pages, answers to bad tokens, or lines of its log, at debug."""
    for page in ("/metrics", "/livez", "/readyz", "/readyz?verbose", "/version", "/nothing"):
        text = fetched(bus.health + page)
        assert len(text) > 20
        assert_silent(text, page)
    door = bus.url.replace("ws://", "http://")
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    token = f"eyJhbGciOiJIUzI1NiJ9.{canary('token')}.x"
    assert_silent(fetched(f"{door}?token={token}", upgrade), "the answer to a token in the address")
    assert_silent(
        fetched(door, {**upgrade, "Authorization": f"Bearer {token}"}), "the answer to a token in a header"
    )
    monkeypatch.setenv("ARQONBUS_TOKEN", token)
    assert main(["status", "--url", bus.url]) == 1
    captured = capfd.readouterr()
    assert_silent(captured.out + captured.err, "the command of a client")
    code = bus.stop()
    assert code == 0
    log = bus.log.read_text()
    assert log
    assert_silent(log, "the log")


URLS = (
    "valkey://arqonbus:{}@h:1",
    "valkey://:{}@h:1",
    "valkey://arqonbus:{}@{}@h:1",
    "valkey://arqonbus:x/{}@h:1/0",
    "valkey://arqonbus:x {}@h:1",
    "valkey://arqonbus:x#{}@h",
    "valkey://arqonbus:x?{}@h",
    "valkey://a:{}@h1,b:{}@h2/x",
    "postgresql://arqonbus:x@h/db?password={}",
    "postgresql://h/db?sslmode=require&sslpassword={}&x=1",
    "postgresql://h/db?PASSWORD={}",
    "nats://{}@h:4222",
    "tls://{}@h:4222",
    "nats://a:{}@h1,nats://{}@h2",
)


@pytest.mark.parametrize("pattern", URLS)
def test_no_form_of_a_url_shows_its_secret(pattern: str) -> None:
    """Wherever in an address a secret can stand, or be put by mistake; the host stays readable."""
    url = pattern.format(*[canary("a")] * pattern.count("{}"))
    shown = redact_value(url, "url")
    assert_silent(shown, url)
    assert re.match(r"[a-z]+://", shown)
    assert "h" in shown.partition("://")[2]
