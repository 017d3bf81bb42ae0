"""The certificates of docker-compose.yml: made once, renewed in time, otherwise untouched."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

REPOSITORY = Path(__file__).resolve().parents[3]
PROGRAM = REPOSITORY / "images" / "arqonbus" / "make-certificates"
NAMES = ("server:bus.example.org", "valkey:valkey.example.org")


class Place:
    """Two directories, and the program that fills them."""

    def __init__(self, root: Path) -> None:
        self.authority, self.directory = root / "authority", root / "tls"
        self.authority.mkdir()
        self.directory.mkdir()

    def make(self, *names: str) -> list[str]:
        """Run it; what it said."""
        done = subprocess.run(
            [PROGRAM, self.authority, self.directory, *names], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def files(self) -> dict[str, bytes]:
        """All that there is, by name."""
        return {
            str(file): file.read_bytes()
            for directory in (self.authority, self.directory)
            for file in directory.iterdir()
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_holds_is_left_alone(place: Place) -> None:
    """A second run changes no byte."""
    assert place.make(*NAMES)[0].endswith("the authority was made")
    made = place.files()
    assert place.make(*NAMES) == [f"make-certificates: {name}.pem holds" for name in ("server", "valkey")]
    assert place.files() == made


def test_a_client_verifies_what_was_made(place: Place) -> None:
    """With the strictness of Python's own default, the name included."""
    place.make(*NAMES)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(place.directory / "server.pem", place.directory / "server.key")
    client = ssl.create_default_context(cafile=str(place.directory / "ca.pem"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert _shake_hands(client, server, "bus.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _shake_hands(client, server, "valkey.example.org")


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> bool:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(back, there, server_hostname=name)
    other = server.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return one.version() is not None


@pytest.mark.parametrize("fault", ["ends soon", "another name", "another key", "another authority"])
def test_what_does_not_hold_is_made_anew(place: Place, fault: str) -> None:
    """And nothing else with it."""
    place.make(*NAMES)
    before, names = place.files(), list(NAMES)
    certificate, key = place.directory / "server.pem", place.directory / "server.key"
    if fault == "another name":
        names[0] = "server:other.example.org"
    elif fault == "another key":
        key.write_bytes((place.directory / "valkey.key").read_bytes())
    else:
        ca, ca_key = place.authority / "ca.pem", place.authority / "ca.key"
        if fault == "another authority":
            ca, ca_key = place.directory / "valkey.pem", place.directory / "valkey.key"
        _sign(certificate, key, ca, ca_key, days=29 if fault == "ends soon" else 300)
    said = place.make(*names)
    assert said == [
        f"make-certificates: server.pem was made for {names[0].partition(':')[2]}",
        "make-certificates: valkey.pem holds",
    ]
    changed = {Path(name).name for name, content in place.files().items() if before[name] != content}
    assert changed == {"server.pem", "server.key"}


def _sign(certificate: Path, key: Path, ca: Path, ca_key: Path, *, days: int) -> None:
    request = ["openssl", "req", "-new", "-key", key, "-subj", "/CN=bus.example.org"]
    request += ["-addext", "subjectAltName=DNS:bus.example.org"]
    csr = subprocess.run(request, check=True, capture_output=True, timeout=30).stdout
    sign = ["openssl", "x509", "-req", "-days", str(days), "-CA", ca, "-CAkey", ca_key, "-set_serial", "7"]
    sign += ["-copy_extensions", "copy", "-out", certificate]
    subprocess.run(sign, input=csr, check=True, capture_output=True, timeout=30)


def test_an_authority_that_ends_is_renewed_with_its_key(place: Place) -> None:
    """What it signed holds, and who trusts the one of before trusts what the new one signs."""
    place.make(*NAMES)
    old = place.directory / "old.pem"
    short = ["openssl", "req", "-x509", "-new", "-key", place.authority / "ca.key", "-days", "300"]
    short += ["-subj", "/CN=ArqonBus compose", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    subprocess.run([*short, "-out", place.authority / "ca.pem"], check=True, capture_output=True, timeout=30)
    old.write_bytes((place.authority / "ca.pem").read_bytes())
    said = place.make(*NAMES, "postgres:postgres.example.org")
    assert said == [
        "make-certificates: the authority was made",
        "make-certificates: server.pem holds",
        "make-certificates: valkey.pem holds",
        "make-certificates: postgres.pem was made for postgres.example.org",
    ]
    for name in ("ca.pem", "clients-ca.pem"):
        assert (place.directory / name).read_bytes() == (place.authority / "ca.pem").read_bytes()
    verify = ["openssl", "verify", "-CAfile", old, place.directory / "postgres.pem"]
    subprocess.run(verify, check=True, capture_output=True, timeout=30)


def test_keys_are_for_owner_and_group_and_the_authority_for_nobody(place: Place) -> None:
    """By their modes, whatever the umask was."""
    groups = sorted({os.getgid(), *os.getgroups()})
    place.make(f"server:bus.example.org:{groups[-1]}")
    modes = {file.name: file.stat().st_mode & 0o777 for file in place.directory.iterdir()}
    assert modes == {"ca.pem": 0o644, "clients-ca.pem": 0o644, "server.pem": 0o644, "server.key": 0o640}
    assert (place.directory / "server.key").stat().st_gid == groups[-1]
    assert (place.authority / "ca.key").stat().st_mode & 0o777 == 0o600
    certificate = x509.load_pem_x509_certificate((place.directory / "server.pem").read_bytes())
    assert not certificate.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value.ca
