"""Facts gathered on a real host: files, certificates, ports, backups; and the whole command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from arqonbus.cli import main
from arqonbus.preflight.facts import HostFacts
from arqonbus.preflight.fingerprint import fingerprint
from arqonbus.preflight.host import gather
from arqonbus.preflight.intake import Source, take_in
from tests.integration.test_preflight_online import Authority
from tests.unit.preflight.deployment import Deployment

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """Production with files of its own, as complete as one host can have it without servers."""
    authority = Authority(tmp_path / "tls")
    cert, key = authority.server("bus")
    key.chmod(0o640)
    backups = tmp_path / "backups"
    backups.mkdir(mode=0o750)
    (backups / "base-1.tar").write_bytes(b"x" * 100)
    (backups / "drill-1.json").write_text(json.dumps({"finished_at": time.time() - 60, "passed": True}))
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/order.json").write_text("{}")
    made = Deployment(tmp_path)
    return made.put_in(
        {
            "profile": {
                "state_dir": str(tmp_path / "state"),
                "server.host": "127.0.0.1",
                "server.public_url": "wss://127.0.0.1/v1/ws",
                "server.tls": {
                    "cert_file": str(cert),
                    "key_file": str(key),
                    "client_ca_file": str(authority.file),
                },
                "backup.directory": str(backups),
                "datastores.valkey.tls.ca_file": str(authority.file),
                "datastores.postgres.ca_file": str(authority.file),
            }
        }
    )


def gathered(deployment: Deployment) -> HostFacts:
    return gather(take_in(deployment.write()))


def test_facts_tell_what_is_there(deployment: Deployment) -> None:
    """Files with their modes, the certificate and its key, free ports, the newest backup and drill."""
    facts = gathered(deployment)
    files = {file.key: file for file in facts.files}
    assert files["server.tls.key_file"].mode == 0o640
    assert {file.state for file in facts.files} == {"file"}
    certificates = {each.key: each for each in facts.certificates}
    leaf = certificates["server.tls.cert_file"]
    assert (leaf.names, leaf.problem, leaf.key_kind, leaf.key_bits) == (("127.0.0.1",), "", "EC", 256)
    assert (leaf.authority, leaf.self_signed, leaf.chain_complete) == (False, False, False)
    assert 29 < (leaf.not_after - time.time()) / 86_400 < 31
    assert certificates["datastores.postgres.ca_file"].authority
    assert [key.matches for key in facts.keys] == [True]
    assert facts.backup is not None
    assert (facts.backup.newest, facts.backup.newest_bytes, facts.backup.drill_passed) == (
        "base-1.tar",
        100,
        True,
    )
    assert facts.nofile_hard >= facts.nofile > 0
    assert facts.memory_bytes > 2**20
    assert facts.uid == os.geteuid()
    assert facts.python[:2] >= (3, 11)


def test_a_key_that_is_encrypted_strange_or_switched_is_seen(deployment: Deployment, tmp_path: Path) -> None:
    """Each by its own name."""
    authority = Authority(tmp_path / "other")
    cert, key = authority.server("bus")
    tls = deployment.profile["server"]["tls"]
    own_cert, own_key = tls["cert_file"], tls["key_file"]
    tls["key_file"] = str(key)
    assert [fact.matches for fact in gathered(deployment).keys] == [False]
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    assert [fact.problem for fact in gathered(deployment).keys] == ["encrypted"]
    tls["cert_file"], tls["key_file"] = own_key, own_cert
    facts = gathered(deployment)
    assert [fact.problem for fact in facts.keys] == ["holds_certificate"]
    assert {each.key: each.problem for each in facts.certificates}["server.tls.cert_file"] == "holds_key"
    cert.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    tls["cert_file"] = str(cert)
    assert {each.key: each.problem for each in gathered(deployment).certificates}[
        "server.tls.cert_file"
    ] == "not_pem"


def test_a_port_that_is_taken_or_not_ours_is_seen(deployment: Deployment) -> None:
    """Taken by another process or by this one, as when a bus reads its profile again; and of nobody here."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        deployment.put_in({"profile": {"server.port": listening.getsockname()[1]}})
        deployment.put_in({"profile": {"telemetry.host": "192.0.2.1"}})
        ours = {fact.key: fact.state for fact in gathered(deployment).ports}
        with subprocess.Popen(["sleep", "60"], pass_fds=(listening.fileno(),)) as other:
            listening.close()
            states = {fact.key: fact.state for fact in gathered(deployment).ports}
            other.kill()
    assert ours == {"server.port": "ours", "telemetry.port": "not_here"}
    assert states == {"server.port": "taken", "telemetry.port": "not_here"}


def test_missing_files_and_directories_are_facts(deployment: Deployment) -> None:
    """Nothing raises; what cannot be seen is told."""
    deployment.put_in(
        {
            "profile": {
                "server.tls.cert_file": "/nowhere/a.pem",
                "server.tls.key_file": "/tmp",
                "backup.directory": "/nowhere",
            }
        }
    )
    facts = gathered(deployment)
    states = {file.key: file.state for file in facts.files}
    assert (states["server.tls.cert_file"], states["server.tls.key_file"]) == ("missing", "directory")
    assert facts.backup is not None
    assert facts.backup.state == "missing"


def test_the_secret_of_another_environment_is_compared(deployment: Deployment) -> None:
    """By the fingerprint in its receipt, and by a literal in its profile."""
    deployment.write()
    for name, text in (("staging", None), ("dev", "a-literal-of-dev-" + "x" * 20)):
        directory = deployment.root / "profiles" / name
        directory.mkdir()
        if text is None:
            said = {"environment": name, "secret_fingerprint": fingerprint(deployment.secrets["jwt_secret"])}
            (directory / "receipt.json").write_text(json.dumps(said))
        else:
            (directory / "profile.yaml").write_text(f"environment: dev\nauth: {{jwt: {{secret: {text}}}}}\n")
    found = gathered(deployment).secret_fingerprints
    assert found["staging"] == fingerprint(deployment.secrets["jwt_secret"])
    assert found["dev"] == fingerprint("a-literal-of-dev-" + "x" * 20)


def test_alerts_are_compared_with_runbooks(deployment: Deployment) -> None:
    """An alert whose runbook is there, one whose is not, one that names none."""
    rules = deployment.root / "observability/rules.yml"
    rules.parent.mkdir()
    rules.write_text(
        "groups:\n- name: g\n  rules:\n"
        "  - {alert: A, expr: up, annotations: {runbook_url: runbooks/alerts/A.md}}\n"
        "  - {alert: B, expr: up, annotations: {runbook_url: runbooks/alerts/B.md}}\n"
        "  - {alert: C, expr: up}\n  - {record: r, expr: up}\n"
    )
    (deployment.root / "runbooks/alerts").mkdir(parents=True)
    (deployment.root / "runbooks/alerts/A.md").write_text("")
    alerts = gathered(deployment).alerts
    assert alerts is not None
    assert {alert.name: alert.exists for alert in alerts} == {"A": True, "B": False, "C": False}


@pytest.mark.timeout(60)
def test_the_whole_preflight_against_dead_servers_ends(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three ports that accept and say nothing: each named, all the rest judged."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
        socket.create_server(("127.0.0.1", 0)) as three,
    ):
        ports = [each.getsockname()[1] for each in (one, two, three)]
        deployment.put_in(
            {
                "profile": {
                    "datastores.valkey.url": f"valkeys://127.0.0.1:{ports[0]}",
                    "datastores.postgres.host": "127.0.0.1",
                    "datastores.postgres.port": ports[1],
                    "datastores.nats.url": f"nats://127.0.0.1:{ports[2]}",
                }
            }
        )
        deployment.write()
        monkeypatch.chdir(deployment.root)
        code = main(["preflight", "--profile", "prod", "--secrets-dir", "secrets", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 1
    texts = {check["id"]: check["observed"][0]["text"] for check in report["checks"] if check["observed"]}
    assert "answers no TLS handshake" in texts["ARQ-VAL-001"]
    assert "sends nothing" in texts["ARQ-PGS-001"]
    assert "sends nothing" in texts["ARQ-NAT-001"]
    assert "errored" not in {check["status"] for check in report["checks"]}


def test_the_static_phase_is_quick_and_loads_no_server_library(deployment: Deployment) -> None:
    """A subprocess as people start it: no driver, no TLS library, no event loop's servers are imported."""
    deployment.write()
    code = (
        "import sys\nfrom arqonbus.cli import main\n"
        "code = main(['preflight', '--profile', 'prod', '--secrets-dir', 'secrets', '--phase', 'static'])\n"
        "slow = {'asyncpg', 'redis', 'cryptography', 'starlette', 'prometheus_client'} & set(sys.modules)\n"
        "print(code, sorted(slow), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=deployment.root,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.splitlines()[-1].endswith("[]"), done.stderr


def test_a_source_without_a_profile_is_told_and_not_raised(tmp_path: Path) -> None:
    """Nothing in the directory at all."""
    intake = take_in(Source("prod", root=tmp_path, environ={}, profiles_dir=tmp_path))
    assert intake.unread
    assert intake.findings[0].code == "PROFILE_MISSING"


def test_schemas_and_keys_that_nothing_can_be_judged_by(tmp_path: Path) -> None:
    """What the bus would refuse to start with is a sentence before."""
    (tmp_path / "bad.json").write_text('{"type": "strin"}')
    (tmp_path / "good.json").write_text('{"type": "object"}')
    schemas = [
        {"name": name, "content_type": f"application/{name}+json", "file": str(tmp_path / f"{name}.json")}
        for name in ("bad", "good")
    ]
    signers = [{"tenant": "demo", "subject": "alice", "pem": "no key"}]
    rules = [{"name": f"r{n}", "pattern": f"{n}x.{{990}}"} for n in range(150)]
    overrides = [
        f"schemas={json.dumps(schemas)}",
        f"auth.signers={json.dumps(signers)}",
        "policy.mode=enforce",
        f"policy.rules={json.dumps(rules)}",
    ]
    intake = take_in(Source("dev", root=REPOSITORY, environ={}, overrides=overrides))
    first, second, third = gather(intake).unusable
    assert first.startswith("schema bad is not a JSON Schema")
    assert second == "auth.signers[0] is not a public key in PEM"
    assert third.startswith("the rules of the policy are too large together")


def test_files_that_decide_who_is_let_in(tmp_path: Path) -> None:
    """They are seen as they are; a list of revoked tokens that is none is a sentence, and a pipe no wait."""
    authority = Authority(tmp_path / "ca")
    revoked = tmp_path / "revoked.yaml"
    overrides = [
        f"auth.revoked={revoked}",
        "auth.jwt.jwks_url=https://id.example.org/keys",
        f"auth.jwt.jwks_ca_file={authority.file}",
    ]
    problems = []

    def facts() -> HostFacts:
        return gather(take_in(Source("dev", root=REPOSITORY, environ={}, overrides=overrides)))

    problems.append(facts().revocations_problem)
    os.mkfifo(revoked)
    problems.append(facts().revocations_problem)
    revoked.unlink()
    for text in ("jti: a", "- {jti: a}"):
        revoked.write_text(text)
        problems.append(facts().revocations_problem)
    revoked.chmod(0o666)
    seen = facts()
    modes = {file.key: file.mode for file in seen.files}
    assert modes["auth.revoked"] == 0o666
    assert modes["auth.jwt.jwks_ca_file"] == authority.file.stat().st_mode & 0o777
    assert [each.authority for each in seen.certificates if each.key == "auth.jwt.jwks_ca_file"] == [True]
    assert [says.partition("auth.revoked ")[2].split(" (")[0] for says in problems] == [
        "names a file that cannot be read",
        "does not name a regular file",
        "is not a list of at most 100000 entries",
        "",
    ]
