"""Rendered units, variables, facts and rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from arqonbus.cli import main
from arqonbus.cli.profile import _TARGETS
from arqonbus.config import Resolved, load
from arqonbus.deploy.alerts import alert_rules
from arqonbus.deploy.render import TARGETS, Unrenderable, render
from arqonbus.telemetry import metrics, projection

REPOSITORY = Path(__file__).resolve().parents[3]


def profile(name: str = "prod", *overrides: str) -> Resolved:
    return load(name, root=REPOSITORY, environ={}, overrides=overrides, secrets_of=())


def directives(unit: str) -> dict[str, list[str]]:
    """The lines of a unit by name."""
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_command_knows_every_target() -> None:
    """The names in the help are those that can be rendered."""
    assert list(_TARGETS) == list(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_a_rendering_is_deterministic(target: str, name: str) -> None:
    """The same profile gives the same text, which ends with one line end."""
    text = render(target, profile(name))
    assert text == render(target, profile(name))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_the_unit_starts_nothing_before_preflight() -> None:
    """The gate writes the receipt that serve asks for."""
    unit = directives(render("systemd", profile()))
    gate, program = unit["ExecStartPre"][0], unit["ExecStart"][0]
    assert re.search(r"/arqonbus preflight --profile prod --receipt (\S+)$", gate)
    assert program == gate.replace(" preflight ", " serve ")
    assert unit["Type"] == ["notify"]
    assert 0 < float(unit["WatchdogSec"][0].removesuffix("s")) <= 60


def test_the_unit_loads_the_credentials_of_the_profile() -> None:
    """Each reference to a credential is one line, and nothing else is loaded."""
    unit = directives(render("systemd", profile()))
    names = ["jwt_secret", "postgres_password", "valkey_password"]
    assert unit["LoadCredential"] == [f"{name}:/etc/arqonbus/credentials/{name}" for name in names]
    assert "LoadCredential" not in directives(render("systemd", profile("dev")))


def test_the_unit_waits_for_the_drain() -> None:
    """The stop timeout is longer than the drain, whatever that is."""
    for drain in (1, 20, 300.5):
        unit = directives(render("systemd", profile("prod", f"server.drain_seconds={drain}")))
        assert float(unit["TimeoutStopSec"][0].removesuffix("s")) >= drain + 15


@pytest.mark.parametrize(("connections", "files"), [(10_000, 12_000), (1, 2), (50_001, 60_002)])
def test_the_unit_may_open_a_fifth_more_files_than_connections(connections: int, files: int) -> None:
    """Rounded up."""
    unit = directives(render("systemd", profile("prod", f"server.max_connections={connections}")))
    assert unit["LimitNOFILE"] == [str(files)]


HARDENING = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateUsers": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "MemoryDenyWriteExecute": "yes",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
    "LimitCORE": "0",
}


@pytest.mark.parametrize("name", HARDENING)
def test_the_unit_has_next_to_no_rights(name: str) -> None:
    """Every directive that the exposure depends on stands in it."""
    assert directives(render("systemd", profile()))[name] == [HARDENING[name]]


def test_a_low_port_takes_one_right() -> None:
    """Only the right to bind it, and then no user namespace, in which it would count for nothing."""
    unit = directives(render("systemd", profile("prod", "server.port=443")))
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]
    assert "PrivateUsers" not in unit


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (".state", {"StateDirectory": "arqonbus/%i", "WorkingDirectory": "%S/arqonbus/%i"}),
        ("/var/lib/bus/a", {"StateDirectory": "bus/a", "WorkingDirectory": "/var/lib/bus/a"}),
        ("/srv/bus", {"ReadWritePaths": "/srv/bus", "WorkingDirectory": "/srv/bus"}),
    ],
)
def test_the_unit_may_write_its_state_only(state: str, expected: dict[str, str]) -> None:
    """Wherever the profile puts it, and its receipt with it."""
    unit = directives(render("systemd", profile("prod", f"state_dir={state}")))
    assert {name: unit[name][0] for name in expected} == expected
    assert unit["ExecStart"][0].endswith(f" {expected['WorkingDirectory']}/receipt.json")


@pytest.mark.parametrize("state", ["/srv/a b", "/srv/%i", "/srv/a\nExecStart=x"])
def test_what_would_break_out_of_the_unit_is_refused(state: str) -> None:
    """A path with marks of systemd's own gives no unit."""
    with pytest.raises(Unrenderable, match="state_dir"):
        render("systemd", profile("prod", f"state_dir={state}"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    ("target", "file"),
    [("systemd", "arqonbus@.service"), ("systemd-projector", "arqonbus-projector.service")],
)
@pytest.mark.parametrize("name", ["dev", "prod"])
def test_systemd_takes_the_unit(tmp_path: Path, name: str, target: str, file: str) -> None:
    """Without a word, and finds little to expose."""
    unit = tmp_path / file
    text = render(target, profile(name)).replace("/opt/arqonbus/current/bin/arqonbus", "/bin/true")
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=15", "--no-pager", unit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert judged.returncode == 0, judged.stdout


def test_the_projector_has_the_rights_of_the_bus_and_the_same_gate() -> None:
    """What hardens one hardens the other; both pass preflight first, with a receipt of their own."""
    bus, projector = (directives(render(each, profile())) for each in ("systemd", "systemd-projector"))
    for name in HARDENING:
        assert projector[name] == bus[name], name
    assert (
        "preflight --process projector --profile prod --receipt %S/arqonbus/projector/receipt.json"
        in projector["ExecStartPre"][0]
    )
    assert "projector run --profile prod" in projector["ExecStart"][0]


def compose_env(name: str) -> dict[str, str]:
    lines = render("compose-env", profile(name)).splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", ["dev", "staging", "prod"])
def test_compose_reads_every_variable(name: str) -> None:
    """What is rendered stands in docker-compose.yml, and what dev says is what it assumes without it."""
    compose = (REPOSITORY / "docker-compose.yml").read_text()
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", compose))
    own = {key: value for key, value in compose_env(name).items() if not key.startswith("COMPOSE_")}
    assert set(own) <= set(defaults)
    if name == "dev":
        # The load balancer is not one of dev's.
        assert {key: defaults[key] for key in own} == own
        assert "${BUS_PORT:-9100}:9100" in compose
        assert "${TELEMETRY_PORT:-9101}:9101" in compose


def test_compose_gets_the_names_of_the_profile() -> None:
    """Under which its servers are reached, and its secrets are kept."""
    prod = compose_env("prod")
    assert (prod["BUS_HOST"], prod["BUS_ADDRESS"], prod["BUS_PORT"]) == ("bus.example.org", "0.0.0.0", "443")
    assert (prod["VALKEY_HOST"], prod["VALKEY_SECRET"]) == ("valkey.example.org", "valkey_password")
    assert (prod["POSTGRES_HOST"], prod["POSTGRES_SECRET"]) == ("postgres.example.org", "postgres_password")
    assert (prod["TLS"], prod["FSYNC"], prod["CONNECTIONS"]) == ("on", "always", "20000")


def test_staging_and_prod_differ_in_names_only() -> None:
    """For compose, too."""
    staging, prod = compose_env("staging"), compose_env("prod")
    assert staging.keys() == prod.keys()
    different = {key for key in prod if staging[key] != prod[key]}
    projects = {"COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME", "PROFILE"}
    assert different == projects | {"BUS_HOST", "POSTGRES_HOST", "VALKEY_HOST"}


def test_no_volume_is_shared_by_two_environments() -> None:
    """Each is a project of its own; dev has the name in the file."""
    assert yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["name"] == "arqonbus"
    assert "COMPOSE_PROJECT_NAME" not in compose_env("dev")
    assert compose_env("prod")["COMPOSE_PROJECT_NAME"] == "arqonbus-prod"


@pytest.mark.parametrize("drain", [1, 20, 300.5])
def test_compose_stops_the_bus_after_its_drain(drain: float) -> None:
    """Whatever that is."""
    text = render("compose-env", profile("prod", f"server.drain_seconds={drain}"))
    assert int(re.findall(r"^STOP_SECONDS=(\d+)$", text, re.M)[0]) >= drain + 15


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("dev", ["bus:9101", "projector:9102"]),
        ("prod", ["bus-1.edge", "bus-2.edge", "projector-1", "projector-2"]),
    ],
)
def test_prometheus_scrapes_what_compose_starts(name: str, nodes: list[str]) -> None:
    """Under names that stand in docker-compose.yml, and each says which environment it is of."""
    compose = (REPOSITORY / "docker-compose.yml").read_text()
    jobs = yaml.safe_load(render("compose-prometheus", profile(name)))["scrape_configs"]
    targets = [target for job in jobs for target in job["static_configs"][0]["targets"]]
    assert len(targets) == len(nodes)
    assert all(target.startswith(node) for target, node in zip(targets, nodes, strict=True))
    assert all(f"{target.partition(':')[0]}" in compose for target in targets)
    assert {job["static_configs"][0]["labels"]["environment"] for job in jobs} == {name}


def test_ansible_gets_the_settings_without_the_secrets() -> None:
    """As JSON, with the names under which the secrets are kept."""
    facts = json.loads(render("ansible", profile()))
    assert facts["settings"]["server"]["port"] == 9100
    assert facts["credentials"] == ["jwt_secret", "postgres_password", "valkey_password"]
    assert facts["secrets"]["auth.jwt.secret"] == "{from: credential, name: jwt_secret}"
    assert facts["stop_seconds"] == 35
    assert facts["public"] == {"host": "bus.example.org", "port": 443}
    assert facts["valkey"] == {"host": "valkey.example.org", "port": 6379}
    assert facts["units"] == {
        "arqonbus@.service": render("systemd", profile()),
        "arqonbus-projector.service": render("systemd-projector", profile()),
    }
    assert facts["rules"] == render("prometheus-rules", profile())
    assert facts["settings"]["auth"]["jwt"]["secret"] == "********"
    assert "c4nary" not in render("ansible", profile("dev", "datastores.nats.url=nats://a:c4nary@nats:4222"))


def test_a_load_balancer_waits_longer_than_the_bus_whatever_it_is_deployed_with() -> None:
    """One formula and one rounding for compose and for hosts, also for half seconds."""
    resolved = profile("prod", "limits.ping_interval=10.2", "limits.ping_timeout=5")
    assert json.loads(render("ansible", resolved))["idle_seconds"] == 31
    assert "IDLE_SECONDS=31\n" in render("compose-env", resolved)


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("10.0.0.5", "10.0.0.5:9101"),
        ("0.0.0.0", "127.0.0.1:9101"),
        ("::", "[::1]:9101"),
        ("fd00::5", "[fd00::5]:9101"),
    ],
)
def test_prometheus_scrapes_where_telemetry_listens(host: str, target: str) -> None:
    """A wildcard is no address to ask; the loopback is."""
    config = yaml.safe_load(
        render("prometheus", profile("prod", f'telemetry.host="{host}"'.replace('"', "")))
    )
    [job] = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": [target], "labels": {"environment": "prod"}}]


def rules(**options: Any) -> list[dict[str, Any]]:
    [group] = yaml.safe_load(render("prometheus-rules", profile(), **options))["groups"]
    return list(group["rules"])


def test_alerts_ask_for_metrics_that_exist() -> None:
    """Each name in an expression is one that /metrics shows, but for Prometheus' own `up`."""
    source = Path(metrics.__file__).read_text() + Path(projection.__file__).read_text()
    shown = set(re.findall(r'"(arqonbus_[a-z_]+)"', source))
    for rule in rules():
        asked = set(re.findall(r"arqonbus_[a-z_]+", rule["expr"]))
        assert {re.sub(r"_(total|bucket)$", "", name) for name in asked} <= shown
        assert asked


def test_alerts_name_the_runbooks_that_exist() -> None:
    """And no other."""
    name = alert_rules(profile().settings)[0].name
    named = {rule["alert"]: rule["annotations"].get("runbook_url") for rule in rules(runbooks=[name])}
    assert named.pop(name) == f"runbooks/alerts/{name}.md"
    assert set(named.values()) == {None}


def test_the_bound_of_the_send_queues_follows_the_profile() -> None:
    """A tenth of what all clients together may let wait."""
    settings = profile("prod", "server.max_connections=100", "limits.send_queue_bytes=10000").settings
    assert "arqonbus_send_queue_bytes > 100000" in [rule.expression for rule in alert_rules(settings)]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["profile", "render", *arguments, "--profiles-dir", str(REPOSITORY / "profiles")])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_render_writes_a_file_and_checks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was written agrees; after an edit the check fails and says what to type."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "unit"
    target = ("systemd", "--profile", "prod")
    assert run(capsys, *target, "--out", "unit") == (0, "", "")
    assert run(capsys, *target, "--check", "unit") == (0, "", "")
    assert run(capsys, *target)[1] == file.read_text()
    assert json.loads(run(capsys, *target, "--json")[1]) == {"target": "systemd", "text": file.read_text()}
    file.write_text(file.read_text() + "#\n")
    code, out, err = run(capsys, *target, "--check", "unit")
    assert (code, out) == (1, "")
    assert err == (
        "arqonbus: unit is not up to date; write it with: "
        "arqonbus profile render systemd --profile prod --out unit\n"
    )
    assert "cannot be read" in run(capsys, *target, "--check", "missing")[2]
    assert "cannot be written" in run(capsys, *target, "--out", "missing/unit")[2]


def test_the_shell_that_renders_does_not_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text is for another machine: a secret or a port of this one changes nothing."""
    monkeypatch.delenv("ARQONBUS_PROFILE", raising=False)
    before = run(capsys, "systemd", "--profile", "prod")
    monkeypatch.setenv("JWT_SECRET", "x" * 40)
    monkeypatch.setenv("ARQONBUS_SERVER_PORT", "443")
    assert run(capsys, "systemd", "--profile", "prod") == before
    monkeypatch.setenv("ARQONBUS_PROFILE", "prod")
    assert run(capsys, "systemd") == before


def test_a_target_that_is_refused_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """In one sentence, with code 1."""
    code, out, err = run(capsys, "systemd", "--profile", "prod", "--set", "state_dir=/srv/a b")
    assert (code, out) == (1, "")
    assert err.startswith(
        "arqonbus: systemd cannot be rendered for this profile: state_dir '/srv/a b' cannot be written"
    )
