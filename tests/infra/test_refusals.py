"""Bad input to a rollout: the play stops before it changes anything, and names the remedy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.infra.hosts import ADDRESSES, BUS, DATA, Hosts
from tests.infra.releases import Releases

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), pytest.mark.xdist_group("rollout")]


@pytest.fixture(scope="module")
def prepared(hosts: Hosts, releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options with which a rollout would succeed: inventories of these hosts, secrets, a release."""
    for inventory in sorted(hosts.inventory.parent.glob("*/hosts.yml")):
        subprocess.run([hosts.environ()["EDITOR"], inventory], check=True, timeout=10)
    directory = tmp_path_factory.mktemp("secrets")
    names = ("jwt_secret", "valkey_password", "postgres_password", "valkey_backup_password")
    program = hosts.clone / "images" / "arqonbus" / "make-secrets"
    subprocess.run([program, directory, *names], check=True, capture_output=True, timeout=30)
    return [
        "-e",
        f"arqonbus_secrets_directory={directory}",
        "-e",
        f"arqonbus_ca_directory={directory / 'ca'}",
        "-e",
        f"arqonbus_release={releases.build()}",
    ]


def untouched(hosts: Hosts) -> None:
    """No host has anything of a deployment yet."""
    for name in ADDRESSES:
        assert not hosts.host(name).file("/etc/arqonbus").exists


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_both_environments_could_be_rolled_out(hosts: Hosts, prepared: list[str], environment: str) -> None:
    """The profile and the inventory of each are judged by the same code; nothing is changed."""
    played = hosts.play("preflight", *prepared, step=f"preflight {environment}", environment=environment)
    assert set(played.changed.values()) == {0}
    untouched(hosts)


def test_a_misspelt_variable_is_refused(hosts: Hosts, prepared: list[str]) -> None:
    """With the one that was meant, before anything else is looked at."""
    played = hosts.play(
        "site", *prepared, "-e", "arqonbus_relase=x.tar.gz", fails=True, step="refused: misspelt"
    )
    assert (
        "arqonbus_relase is no variable of an inventory; did you mean arqonbus_release?" in played.sentences
    )
    untouched(hosts)


def test_a_host_that_is_away_stops_all(hosts: Hosts, prepared: list[str]) -> None:
    """Those that are there are not changed either."""
    hosts.container(BUS[1]).pause()
    try:
        played = hosts.play("site", *prepared, "--timeout", "4", fails=True, step="refused: away")
    finally:
        hosts.container(BUS[1]).unpause()
    assert f"{BUS[1]} cannot be reached as a user who may use sudo; nothing was changed" in played.sentences
    untouched(hosts)


def test_hosts_that_cannot_carry_it_stop_all(hosts: Hosts, prepared: list[str]) -> None:
    """Another system on one, somebody else's server on another: each is named, and what to do about it."""
    release = "/usr/lib/os-release"
    hosts.sh(BUS[0], f"sed -i.true 's/^VERSION_ID=.*/VERSION_ID=\"12\"/' {release}")
    try:
        played = hosts.play("site", *prepared, fails=True, step="refused: another system")
    finally:
        hosts.sh(BUS[0], f"mv {release}.true {release}")
    assert f"{BUS[0]} is Debian 12" in played.sentences
    assert "a host has to be Debian 13" in played.sentences
    hosts.sh(DATA, "systemd-run --unit foreign python3 -m http.server 5432")
    try:
        played = hosts.play("site", *prepared, fails=True, step="refused: foreign server")
    finally:
        hosts.sh(DATA, "systemctl stop foreign")
    assert f"On {DATA} something listens on port 5432" in played.sentences
    assert "this rollout did not put it there" in played.sentences
    untouched(hosts)


def test_a_host_without_room_stops_all(hosts: Hosts, prepared: list[str]) -> None:
    """Of all disks that something is written to, the fullest one is named."""
    hosts.sh(BUS[1], "mount -t tmpfs -o size=64m full /opt")
    try:
        played = hosts.play("site", *prepared, fails=True, step="refused: full disk")
    finally:
        hosts.sh(BUS[1], "umount /opt")
    assert f"{BUS[1]} has 64 MiB free on /opt; 2 GiB are needed" in played.sentences
    untouched(hosts)


def test_a_foreign_valkey_stops_all(hosts: Hosts, prepared: list[str]) -> None:
    """It may hold what somebody needs. What the sentence says to type makes room for ours."""
    hosts.sh(DATA, "apt-get update -qq && apt-get install -qq --no-install-recommends valkey-server")
    played = hosts.play("site", *prepared, fails=True, step="refused: foreign Valkey")
    assert f"On {DATA} the package valkey-server is installed" in played.sentences
    assert "remove what is there when nobody needs it: apt-get purge valkey-server" in played.sentences
    hosts.sh(DATA, "apt-get purge -qq --auto-remove valkey-server valkey-tools")
    untouched(hosts)


def test_a_profile_that_fails_preflight_stops_all(hosts: Hosts, prepared: list[str], tmp_path: Path) -> None:
    """The finding stands in the output, without the secret that it is about."""
    good = Path(prepared[1].partition("=")[2])
    weak = tmp_path / "secrets"
    shutil.copytree(good, weak)
    (weak / "jwt_secret").write_text("changeme-weak")
    played = hosts.play(
        "site", *prepared, "-e", f"arqonbus_secrets_directory={weak}", fails=True, step="refused: weak"
    )
    assert "does not pass preflight; nothing was changed" in played.sentences
    assert "ARQ-SEC-005" in played.output
    assert "changeme-weak" not in played.output
    untouched(hosts)
