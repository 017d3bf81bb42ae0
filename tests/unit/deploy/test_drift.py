"""How answers of hosts are judged, and what `arqonbus drift` says; real hosts are in tests/infra."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from arqonbus.cli import main
from arqonbus.deploy.drift.asking import Unanswered, answers, differences, script, to_type
from arqonbus.deploy.drift.bus import packages
from arqonbus.deploy.drift.certificates import is_valid
from arqonbus.deploy.drift.deployment import locked
from arqonbus.deploy.drift.judges import (
    MISSING,
    NOTHING,
    at_most,
    exactly,
    same_lines,
    same_secret,
    same_text,
    same_values,
)
from arqonbus.deploy.drift.model import CHECKS, Difference, Expectation, Judge, Machine
from arqonbus.deploy.drift.services import passed_preflight
from arqonbus.deploy.drift.stores import directives, parameters
from arqonbus.deploy.drift.topology import NoTopology, chosen, machine_of, named
from tests.servers.certificates import Authority

ROOT = Path(__file__).resolve().parents[3]
RECEIPT = {"at": 1000, "digest": "d", "phases": ["host", "online", "static"], "waived": []}
DIGEST = "a" * 64


def receipt(**changed: object) -> str:
    return f"receipt={json.dumps(RECEIPT | changed)}\nstarted=1010\ndigest=d"


@pytest.mark.parametrize(
    ("judge", "answer", "expected"),
    [
        (exactly("root:root 0644"), "root:root 0644\n", []),
        (exactly("root:root 0644"), "stat: cannot statx", [("root:root 0644", "stat: cannot statx")]),
        (exactly(""), "\n", []),
        (same_text("a\nb\n"), "a\nb\n", []),
        (same_text("a\nb\n"), "a\nc\n", [("line 2: b", "line 2: c")]),
        (same_text("a\nb\n"), "a\n", [("line 2: b", "line 2: the end of the file")]),
        (same_text("a\n"), "a\n\n", [("line 2: the end of the file", "line 2: an empty line")]),
        (same_text("a\n"), "a\r\n", [("the line ends as rendered", "other line ends")]),
        (same_secret(DIGEST), f"{DIGEST}  /etc/x", []),
        (same_secret(DIGEST), f"{'b' * 64}  /etc/x", [("the secret of this deployment", "another one")]),
        (
            same_secret(DIGEST),
            "sha256sum: /etc/x: No such file",
            [("the secret of this deployment", "no secret")],
        ),
        (same_lines({"a", "b"}), "b\na\n", []),
        (same_lines({"a"}), "b\n", [("a", MISSING), (NOTHING, "b")]),
        (same_values({"maxmemory": "512mb"}), "maxmemory=536870912", []),
        (same_values({"save": '""'}), "save=", []),
        (same_values({"ssl": "on"}), "ssl=off", [("ssl on", "ssl off")]),
        (same_values({"ssl": "on"}), "", [("ssl on", "ssl is missing")]),
        (at_most(1.5, r"level: ([0-9.]+)"), "level: 1.2", []),
        (at_most(1.5, r"level: ([0-9.]+)"), "level: 9.6", [("1.5 at most", "9.6")]),
        (at_most(1.5, r"level: ([0-9.]+)"), "no such unit", [("1.5 at most", "no such unit")]),
        (packages({"idna": "3", "x": "1"}, frozenset("x")), "Idna==3\n", []),
        (
            packages({"idna": "3"}, frozenset()),
            "idna==2\nspare==1\n",
            [("idna 3", "idna 2"), ("spare nothing", "spare 1")],
        ),
        (passed_preflight, receipt(), []),
        (
            passed_preflight,
            receipt(at=-900),
            [("a receipt within 900 s before the start", "one of 0.5 hours before it")],
        ),
        (passed_preflight, receipt(waived=["ARQ-BAK-004"]), [("nothing waived", "waived: ARQ-BAK-004")]),
        (
            passed_preflight,
            receipt(phases=["static"]),
            [("a receipt of host, online, static", "one of static")],
        ),
        (
            passed_preflight,
            "receipt=\nstarted=1\n",
            [("a receipt of a preflight that passed", "none that can be read")],
        ),
    ],
)
def test_an_answer_is_the_expected_one_or_says_what_is_not(
    judge: Judge, answer: str, expected: list[tuple[str, str]]
) -> None:
    """Expected and found, for each thing that differs."""
    assert list(judge(answer)) == expected


def test_a_certificate_is_judged_by_who_issued_it_for_whom_and_until_when(tmp_path: Path) -> None:
    """And by what is served with it."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    cert = ours.client("server", "bus.example.org")[0].read_text()
    foreign = theirs.client("server", "other.example.org")[0].read_text()
    now = datetime.now(UTC) - timedelta(days=1)
    judge = is_valid(ours.file.read_bytes(), ("bus.example.org",), now)

    def faults(found: Iterable[tuple[str, str]]) -> list[str]:
        return [expected for expected, _ in found]

    later = is_valid(ours.file.read_bytes(), ("bus.example.org",), now + timedelta(days=31))
    assert faults(judge(f"{cert}===\n{cert}")) == []
    assert "served" in faults(judge(f"{cert}===\n{foreign}"))
    assert faults(judge(f"{foreign}===\n{foreign}"))[:2] == [
        "issued by the authority of the deployment",
        "for bus.example.org",
    ]
    assert faults(later(f"{cert}===\n{cert}")) == ["valid for 30 days"]
    assert faults(judge("cat: No such file===")) == ["a certificate"]


def test_answers_cannot_be_taken_for_each_other() -> None:
    """Whatever a file holds; and what is not an answer to every question is none."""
    asked = [
        Expectation("ARQ-DRF-001", "a", "printf 'x\\narqonbus-drift-end\\n'", same_text("x\n"), "mend"),
        Expectation("ARQ-DRF-003", "b", "echo spare", same_lines(()), lambda found: f"rm {found}"),
    ]
    said = subprocess.run(["sh", "-c", script(asked)], capture_output=True, text=True, check=True).stdout
    machine = Machine("host", "local://", frozenset())
    found = differences(machine, asked, answers(said, 2))
    assert [(each.check, each.found, each.mend) for each in found] == [
        ("ARQ-DRF-001", "line 2: arqonbus-drift-end", "mend"),
        ("ARQ-DRF-003", "spare", "rm spare"),
    ]
    for broken in (
        "",
        "Welcome!\n" + said,
        said.replace("arqonbus-drift-end\n", ""),
        "é!\n\narqonbus-drift-end",
    ):
        with pytest.raises(Unanswered):
            answers(broken, 2)
    assert answers(f"{base64.b64encode(b'x').decode()}\narqonbus-drift-end\n", 1) == ["x"]


def test_what_mends_it_is_in_an_order_in_which_it_can_be_typed() -> None:
    """Once each: what is in the way of the rollout, the rollout, then what is restarted with right files."""
    site, deploy, restart = "scripts/rollout site prod", "scripts/rollout deploy prod", "systemctl restart a"
    drained = "scripts/rollout drain prod --limit a && rm d"
    mends = [restart, site, restart, f"rm b && {site}", f"{drained} && {deploy}", "rm c", f"rm e && {deploy}"]
    found = [Difference("ARQ-DRF-001", "host", "", "", "", mend) for mend in mends]
    assert to_type(found, site, deploy) == ["rm b", drained, "rm c", "rm e", site, restart]
    assert to_type(found[4:], site, deploy) == [drained, "rm c", "rm e", deploy]
    assert to_type(found[:1], site, deploy) == [restart]
    assert to_type([], site, deploy) == []


def test_configurations_are_read_as_their_servers_read_them() -> None:
    """The last word on a name holds; comments say nothing."""
    assert directives('# x\nport 1\nport 2\nsave ""\n') == {"port": "2", "save": '""'}
    assert parameters("a = 'x'\n# b = 1\na = 'y'\n") == {"a": "'y'"}
    pinned, optional = locked("Google_re2==1.1 \\\n    --hash=x\nwin==2 ; sys_platform == 'x' \\\n")
    assert (pinned, optional) == ({"google-re2": "1.1", "win": "2"}, frozenset({"win"}))


def test_machines_are_reached_as_ansible_reaches_them() -> None:
    """What the playbook leaves becomes a transport, parts and files; patterns choose by name or group."""
    told = {
        "name": "data-1",
        "groups": ["data", "edge"],
        "address": "192.0.2.1",
        "nodes": {},
        "names": {},
        "users": "",
        "authority": "ca.pem",
        "secrets": "secrets",
        "connection": "ssh",
        "host": "192.0.2.1",
        "port": 2222,
        "user": "deploy",
        "key": "",
        "arguments": "-o X=y",
        "files": [{"path": "/x", "mode": "0644", "content": "x"}],
    }
    machine = machine_of(told)
    assert machine.spec == "ssh://deploy@192.0.2.1:2222"
    assert machine.parts == {"valkey", "postgres", "loadbalancer"}
    assert machine.type_on("systemctl stop x") == "ssh data-1 sudo systemctl stop x"
    assert machine_of(told | {"connection": "docker", "host": "box"}).spec == "docker://box"
    assert chosen([machine], ["edge", "data-*"]) == [machine]
    with pytest.raises(NoTopology, match="no host is called web; there is data-1"):
        chosen([machine], ["web"])
    assert named("valkey+postgres=ssh://admin@db").parts == {"valkey", "postgres"}
    for wrong in ("ssh://db", "web=ssh://db", "bus=db"):
        with pytest.raises(NoTopology, match="is no host; write PART=SPEC"):
            named(wrong)


def test_the_command_lists_what_it_compares(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check with what holds."""
    assert main(["drift", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == dict(CHECKS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no hosts given"),
        (["--inventory", "nowhere"], "the inventory nowhere does not exist"),
        (["--hosts", "web=ssh://x"], "web=ssh://x is no host"),
    ],
)
def test_hosts_that_are_none_are_wrong_usage(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is asked."""
    assert main(["drift", "--profile", "staging", "--profiles-dir", str(ROOT / "profiles"), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_host_that_cannot_be_asked_has_not_drifted(capsys: pytest.CaptureFixture[str]) -> None:
    """It is said to be away, with the reason; the exit code is one of its own."""
    options = ["--profile", "staging", "--profiles-dir", str(ROOT / "profiles")]
    options += ["--hosts", "bus=ssh://127.0.0.1:1"]
    assert main(["drift", *options]) == 3
    assert "127.0.0.1 was not checked: ssh: connect to host 127.0.0.1 port 1" in capsys.readouterr().out
    assert main(["drift", *options, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["differences"] == []
    assert [(each["asked"], each["compared"]) for each in told["hosts"]] == [(False, 0)]
