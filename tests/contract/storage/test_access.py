"""Access to engines: TLS with a private authority, and ACL users."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from arqonbus.storage.ports import FROM_BEGIN, Batch, GroupKey, Retention, RoomKey, StorageError
from arqonbus.storage.valkey.log import ValkeyLog
from tests.servers.processes import free_port
from tests.servers.valkey import ValkeyServer, running_server

from .conftest import EVERYTHING, ROOT, Ear, append, items, outcomes, valkey_bench
from .test_live import heard

USERS = (ROOT / "images/valkey/users.acl").read_text()

pytestmark = pytest.mark.servers


def _certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test engine")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    formats = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *formats))
    return paths


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_server(tmp_path / "engine") as server:
        yield server


async def test_tls(server: ValkeyServer, tmp_path: Path) -> None:
    """Appends and the live subscription go over TLS, and an unknown authority is refused."""
    certificate, key = _certificate(tmp_path)
    server.ask("CONFIG", "SET", "tls-cert-file", str(certificate), "tls-key-file", str(key))
    server.ask("CONFIG", "SET", "tls-ca-cert-file", str(certificate), "tls-auth-clients", "no")
    port = free_port()
    server.ask("CONFIG", "SET", "tls-port", port)
    bench = valkey_bench([f"valkeys://127.0.0.1:{port}"], connect_timeout=2.0)
    trusting = ssl.create_default_context(cafile=str(certificate))
    ear = Ear()
    here, there = await bench.log(ear, tls=trusting), await bench.log(tls=trusting)
    room = bench.room()
    await here.follow(room)
    await append(there, room, "a", "b")
    await heard(lambda: len(ear.entries) == 2, "both entries")
    with pytest.raises(StorageError, match="certificate verify failed"):
        await bench.log(tls=ssl.create_default_context(), connect_timeout=0.5)
    await bench.close()


async def test_acl_user(server: ValkeyServer) -> None:
    """A named user works with its password; what it may not do is refused with a known outcome."""
    rules = ("on", ">secret", "allkeys", "allchannels", "+@all")
    server.ask("ACL", "SETUSER", "bus", *rules)
    bench = valkey_bench([server.url], username="bus", password="secret")
    log = await bench.log()
    await append(log, bench.room(), "a")
    server.ask("ACL", "SETUSER", "bus", "-fcall")
    (outcome,) = await outcomes(log, Batch(bench.room(), items("b"), EVERYTHING))
    assert isinstance(outcome, StorageError)
    assert not outcome.outcome_unknown
    assert "NOPERM" in str(outcome)
    server.ask("ACL", "SETUSER", "bus", "+fcall")
    await bench.close()


async def test_user_of_the_image(server: ValkeyServer) -> None:
    """The user that our Valkey image makes for the bus may do all that consumer groups need."""
    user = next(line for line in USERS.splitlines() if line.startswith("user arqonbus "))
    rules = user.replace("#PASSWORD_SHA256", ">secret").split()
    granted = {rule[1:] for rule in rules if rule.startswith("+")}
    server.ask("ACL", "SETUSER", *rules[1:])
    server.ask("CONFIG", "RESETSTAT")
    bench = valkey_bench([server.url], username="arqonbus", password="secret")
    log = await bench.log()
    groups, group = log.groups, GroupKey(bench.room(), "group")
    assert groups is not None
    await groups.ensure(group, FROM_BEGIN, 5)
    stored = await append(log, group.room, "a", "b", "c", retention=Retention(2, 0))
    assert (await groups.read(group, "a", 10, 60_000_000, 1 << 20)).missed == 1
    assert await groups.nack(group, stored.epoch, "a", 2, 0, "") == 1
    assert list(await groups.extend(group, stored.epoch, "a", [3], 60_000_000)) == [3]
    assert len((await groups.claim(group, stored.epoch, "b", [2, 3], 0, 60_000_000)).jobs) == 2
    assert await groups.ack(group, stored.epoch, [2]) == 1
    assert len(await groups.pending(group, (0, 0), 10)) == 1
    assert len(await groups.of_room(group.room)) == 1
    assert await groups.delete(group)
    assert await log.delete_room(group.room)
    assert server.ask("ACL", "LOG") == []
    info = server.ask("INFO", "commandstats")
    assert isinstance(info, bytes)
    used = {line.partition(":")[0].removeprefix("cmdstat_") for line in info.decode().splitlines()[1:]}
    assert used - granted == {"acl|log", "info", "config|resetstat"} - granted  # which the test itself called
    assert "zcard" in used
    await bench.close()


async def test_not_open() -> None:
    """A log that was never opened refuses with a known outcome, and can be closed."""
    log = ValkeyLog(["valkey://127.0.0.1:1"], node_id="node")
    (outcome,) = await outcomes(log, Batch(RoomKey("t", "room"), items("a"), EVERYTHING))
    assert isinstance(outcome, StorageError)
    assert not outcome.outcome_unknown
    with pytest.raises(StorageError, match="not connected"):
        await log.head(RoomKey("t", "room"))
    await log.close()
