"""The life of a deployment, as an operator leads it, from bare hosts to bare hosts.

Every playbook's output is searched for the secrets of the deployment, whatever the test is about.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from arqonbus.client import Client
from arqonbus.client.errors import ConnectionRefused
from arqonbus.continuum.events import ROOM, encode_event
from arqonbus.protocol.envelope import JSON_CONTENT
from tests.infra.hosts import ADDRESSES, BUS, DATA, ENVIRONMENT, PUBLIC, VALKEY, Hosts, changes
from tests.infra.load import under_load
from tests.infra.releases import Releases
from tests.integration.waiting import until
from tests.servers.certificates import signed_anew
from tests.servers.episodes import event

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), pytest.mark.xdist_group("rollout")]

CURRENT = "readlink /opt/arqonbus/current"
UNITS = ("arqonbus@1", "arqonbus-projector")


def running(hosts: Hosts, name: str) -> list[str]:
    """Which of the units of the bus run on a host."""
    return [unit for unit in UNITS if hosts.host(name).service(unit).is_running]


def payloads(history: dict[str, list[dict[str, object]]]) -> list[object]:
    """What the messages of a room say, oldest first."""
    return [message["payload"] for message in reversed(history["messages"])]


# -- the rollout


async def test_messages_flow_through_the_front_door(deployment: Hosts) -> None:
    """From nothing: a client publishes through the load balancer, and another one receives, at the declared
    durability."""
    token = deployment.token("alice")
    async with (
        Client(deployment.url, token, tls=deployment.tls()) as alice,
        Client(deployment.url, token, tls=deployment.tls()) as bob,
    ):
        room = await bob.subscribe("first")
        ack = await alice.publish("first", {"n": 1})
        async with asyncio.timeout(10):
            assert (await anext(room)).json() == {"n": 1}
    assert ack.durability == "durable"


async def test_an_episode_becomes_a_row(deployment: Hosts) -> None:
    """What an agent tells through the front door stands in PostgreSQL, by the projector of whichever host."""
    told = event("demo")
    async with Client(deployment.url, deployment.token("agent"), tls=deployment.tls()) as client:
        await client.publish(ROOM, encode_event(told), content_type=JSON_CONTENT)
    query = f"SELECT event_id FROM arqonbus.episodes WHERE episode_id = '{told.episode}'"
    psql = f'cd /; runuser -u postgres -- psql --tuples-only --no-align arqonbus -c "{query}"'
    await until(lambda: deployment.sh(DATA, psql).strip() == told.event, seconds=30)


async def test_nobody_gets_in_without_a_token(deployment: Hosts) -> None:
    """Through the same door."""
    with pytest.raises(ConnectionRefused):
        async with Client(deployment.url, "not-a-token", tls=deployment.tls()):
            pass


def test_a_second_run_changes_nothing(deployment: Hosts) -> None:
    """Not a single thing on any host; the runbook has it done."""
    said = (deployment.clone / "again.log").read_text()
    assert changes(said) == dict.fromkeys(ADDRESSES, 0)


def test_check_mode_shows_what_would_change_and_changes_nothing(deployment: Hosts) -> None:
    """A line that somebody edited on a host is shown as a difference, and stays as it is."""
    file = "/etc/haproxy/haproxy.cfg"
    deployment.sh(DATA, f"sed -i 's/  retries 3/  retries 9/' {file}")
    played = deployment.play("site", "--check", "--diff", step="site --check --diff")
    assert "-  retries 9" in played.output
    assert "+  retries 3" in played.output
    assert {name: count > 0 for name, count in played.changed.items()} == {
        name: name == DATA for name in ADDRESSES
    }
    assert "retries 9" in deployment.sh(DATA, f"cat {file}")
    deployment.sh(DATA, f"sed -i 's/  retries 9/  retries 3/' {file}")


async def test_everything_is_there_after_a_reboot(deployment: Hosts) -> None:
    """Of all hosts at once: services come back in any order, and what was acked is still there."""
    token = deployment.token("alice")
    async with Client(deployment.url, token, tls=deployment.tls()) as alice:
        for n in range(20):
            await alice.publish("kept", {"n": n})
    await asyncio.to_thread(deployment.reboot)
    async with Client(deployment.url, token, tls=deployment.tls(), timeout=60) as alice:
        history = await alice.command("op.history.get", {"room": "kept", "limit": 100})
    assert payloads(history) == [{"n": n} for n in range(20)]
    # One that came up before its stores is started again by systemd.
    for unit in UNITS:
        await asyncio.to_thread(deployment.wait_for_service, unit, BUS)


# -- change


async def test_an_upgrade_loses_nothing_and_refuses_nobody(deployment: Hosts, releases: Releases) -> None:
    """Under load through the load balancer: every acked message reaches every reader, once, and whoever
    connects gets in."""
    artifact = await asyncio.to_thread(releases.build, "9.0.0")
    async with under_load(deployment, "upgrade") as books:
        await asyncio.to_thread(deployment.follow, "upgrade", RELEASE=str(artifact))
    assert books.lost() == []
    assert books.repeated() == []
    assert books.refusals == []
    assert books.connections > 20
    assert len(books.acked) > 100
    assert books.reconnects >= len(books.delivered)
    for name in BUS:
        assert deployment.sh(name, CURRENT).strip() == "releases/9.0.0"


async def test_a_broken_release_stops_at_the_first_host_and_is_taken_back(
    deployment: Hosts, releases: Releases
) -> None:
    """By itself, and the clients notice nothing but a reconnect. Its bus is up; its projector is not."""
    artifact = await asyncio.to_thread(releases.build, "9.0.1", broken=True)
    async with under_load(deployment, "broken") as books:
        played = await asyncio.to_thread(
            deployment.play,
            "upgrade",
            "-e",
            f"arqonbus_release={artifact}",
            fails=True,
            step="broken upgrade, under load",
        )
    assert books.lost() == []
    assert books.refusals == []
    assert f"{BUS[0]} did not come into service with 9.0.1" in played.sentences
    assert "It runs 9.0.0 again, behind the load balancer, and was verified." in played.sentences
    for name in BUS:
        assert deployment.sh(name, CURRENT).strip() == "releases/9.0.0"
        assert running(deployment, name) == [*UNITS]
    assert deployment.sh(DATA, "arqonbus-balance state").splitlines() == [f"{name} 2 0" for name in BUS]


def test_a_rollback_goes_to_the_release_before(deployment: Hosts, releases: Releases) -> None:
    """On every host, one after the other, and the front door was verified."""
    deployment.follow("rollback")
    for name in BUS:
        assert deployment.sh(name, CURRENT).strip() == f"releases/{releases.version}"
        assert running(deployment, name) == [*UNITS]


async def test_rotation_keeps_an_authenticated_client(deployment: Hosts, releases: Releases) -> None:
    """A client with a token of the old secret goes on, messages and all; new tokens are good afterwards."""
    before = {file.name: file.read_text() for file in deployment.secrets.iterdir()}
    serial = certificate(deployment, BUS[0])
    async with under_load(deployment, "rotation") as books:
        await asyncio.to_thread(deployment.follow, "secret-rotation")
        acked = len(books.acked)
    assert books.lost() == []
    assert books.refusals == []
    assert len(books.acked) >= acked > 100
    for name, old in before.items():
        assert (deployment.secrets / name).read_text() != old
    assert certificate(deployment, BUS[0]) != serial
    async with Client(deployment.url, deployment.token("new"), tls=deployment.tls()) as client:
        await client.publish("rotation", {"n": 1})
    valkey = f"valkey-cli --tls --cacert /etc/valkey/tls/ca.pem -h {VALKEY} --user arqonbus"
    said = deployment.sh(
        DATA, f"REDISCLI_AUTH={before['valkey_password'].strip()} {valkey} PING 2>&1 || true"
    )
    assert "WRONGPASS" in said


def certificate(hosts: Hosts, name: str) -> str:
    """The serial number of what the bus serves."""
    connect = (
        f"openssl s_client -connect {hosts.address(name)}:9100 -servername {PUBLIC} </dev/null 2>/dev/null"
    )
    return hosts.sh(name, f"{connect} | openssl x509 -noout -serial")


async def test_a_certificate_that_ends_soon_is_renewed(deployment: Hosts) -> None:
    """By the next rollout, with no client refused meanwhile; those of the other hosts stay."""
    other = certificate(deployment, BUS[1])
    file, soon = "/etc/arqonbus/tls/server.pem", datetime.now(UTC) + timedelta(days=5)
    shortened = signed_anew(deployment.sh(BUS[0], f"cat {file}"), deployment.authority / "ca.key", soon)
    deployment.sh(BUS[0], f"cat >{file} <<'END'\n{shortened}END")
    async with under_load(deployment, "renewal") as books:
        await asyncio.to_thread(deployment.follow, "certificate-renewal")
    assert books.lost() == []
    assert books.refusals == []
    assert certificate(deployment, BUS[1]) == other


async def test_a_drained_host_sends_its_clients_elsewhere(deployment: Hosts) -> None:
    """They go on at the other one, and the load balancer sends nobody new. All at once is refused."""
    played = await asyncio.to_thread(deployment.play, "drain", fails=True, step="refused: drain of all")
    assert "This would take the bus away as a whole" in played.sentences
    async with under_load(deployment, "drain") as books:
        await asyncio.to_thread(deployment.follow, "drain", HOST=BUS[1])
    assert books.lost() == []
    assert books.refusals == []
    assert running(deployment, BUS[1]) == []
    assert deployment.sh(DATA, "arqonbus-balance state").splitlines()[0] == f"{BUS[0]} 2 0"
    log = deployment.sh(BUS[1], "journalctl -u arqonbus@1 -o cat --since -5min | grep draining | tail -n 1")
    assert json.loads(log)["seconds"] == deployment.profile().settings.server.drain_seconds


def test_a_deploy_brings_it_back(deployment: Hosts) -> None:
    """After a drain, and after a run that was interrupted while it installed the release."""
    deployment.sh(BUS[1], "cd -P /opt/arqonbus/current && rm -r lib .complete")
    deployment.follow("rollout-smoke")
    for name in BUS:
        assert running(deployment, name) == [*UNITS]
        assert all(deployment.host(name).service(unit).is_enabled for unit in UNITS)
    assert deployment.sh(DATA, "arqonbus-balance state").splitlines() == [f"{name} 2 0" for name in BUS]


# -- loss


async def test_a_backup_brings_everything_back(deployment: Hosts) -> None:
    """What was acked before it is there after a restore, what came later is not, and the bus works."""
    token = deployment.token("alice")
    async with Client(deployment.url, token, tls=deployment.tls()) as alice:
        for n in range(5):
            epoch = (await alice.publish("restored", {"n": n})).epoch
        await asyncio.to_thread(deployment.play, "backup")
        await alice.publish("restored", {"n": 5})
    drill = json.loads(deployment.sh(BUS[0], "cat /var/backups/arqonbus/drill.json"))
    assert drill["passed"] is True
    assert drill["counts"]["keys"] > 0
    assert drill["counts"]["episodes"] > 0
    papers = deployment.sh(
        BUS[0], "cd /var/backups/arqonbus; tar --list --file $(ls -d logical-* | tail -n 1)/profile.tar.gz"
    )
    assert "receipt.json" in papers.split()
    assert f"etc/arqonbus/profiles/{ENVIRONMENT}/profile.yaml" in papers.split()
    await asyncio.to_thread(deployment.play, "restore")
    async with Client(deployment.url, token, tls=deployment.tls(), timeout=30) as alice:
        history = await alice.command("op.history.get", {"room": "restored", "limit": 100})
        assert payloads(history) == [{"n": n} for n in range(5)]
        ack = await alice.publish("restored", {"n": 6})
    assert (ack.durability, ack.epoch == epoch) == ("durable", False)


def test_a_backup_that_was_changed_is_refused(deployment: Hosts) -> None:
    """Before the bus is stopped."""
    name = (
        deployment.sh(BUS[0], "ls -d /var/backups/arqonbus/logical-* | tail -n 1").strip().rpartition("/")[2]
    )
    deployment.sh(BUS[0], f"printf x >>/var/backups/arqonbus/{name}/valkey.rdb")
    played = deployment.play("restore", "-e", f"arqonbus_backup={name}", fails=True, step="refused: restore")
    assert (
        f"has no backup {name} that is as it was taken, with both parts; nothing was changed"
        in played.sentences
    )
    assert running(deployment, BUS[0]) == [*UNITS]


def test_decommission_has_to_be_meant_and_leaves_nothing(deployment: Hosts) -> None:
    """Refused until each host is named; then no process, no file, no rule of it is left."""
    played = deployment.play("decommission", fails=True, step="refused: decommission")
    assert "nothing was changed yet" in played.sentences
    deployment.play("decommission", "-e", f"arqonbus_decommission={','.join(ADDRESSES)}")
    for name in ADDRESSES:
        left = deployment.sh(
            name,
            "ls -d /etc/arqonbus /opt/arqonbus /var/lib/arqonbus /var/lib/valkey /var/lib/postgresql "
            "/etc/systemd/system/arqonbus* 2>/dev/null || true; nft list tables | grep arqonbus || true",
        )
        assert left == ""
        listening = deployment.sh(name, "ss --no-header --listening --tcp --numeric | awk '{ print $4 }'")
        ports = {line.rpartition(":")[2] for line in listening.split() if not line.startswith("127.0.0.11:")}
        assert ports == {"22"}
