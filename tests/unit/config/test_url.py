"""URLs in settings: parts, and what is refused."""

from __future__ import annotations

import pytest

from arqonbus.config.url import Url


@pytest.mark.parametrize(
    ("text", "host", "port", "user", "password", "path"),
    [
        ("valkey://valkey:6379", "valkey", 6379, "", "", ""),
        ("redis://127.0.0.1:6379/0", "127.0.0.1", 6379, "", "", "/0"),
        ("valkeys://[2001:DB8::1]", "2001:db8::1", None, "", "", ""),
        ("POSTGRESQL://bus@DB.acme.io/bus", "db.acme.io", None, "bus", "", "/bus"),
        ("postgresql://a%40b:p%2F%23%3F%5B%25@db:5432/bus", "db", 5432, "a@b", "p/#?[%", "/bus"),
        ("postgresql://db/b%C3%BCs?sslmode=require", "db", None, "", "", "/büs"),
        ("unix:///run/valkey@1.sock", "", None, "", "", "/run/valkey@1.sock"),
        ("postgresql:///bus?host=%2Frun%2Fpostgresql", "", None, "", "", "/bus"),
        ("nats://token@nats:4222", "nats", 4222, "token", "", ""),
    ],
)
def test_parts(text: str, host: str, port: int | None, user: str, password: str, path: str) -> None:
    """Parts are decoded, and the text stays as it was written."""
    url = Url(text)
    assert url == text
    assert (url.host, url.port, url.user, url.password, url.path) == (host, port, user, password, path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("postgresql://bus:SECRET/x@db/bus", "%2F"),
        ("postgresql://bus:SECRET#x@db/bus", "%23"),
        ("postgresql://bus:SECRET?x@db/bus", "%3F"),
        ("postgresql://bus:12?SECRET@db/bus", "%3F"),
        ("postgresql://bus:SECRET[x@db/bus", "%5B"),
        ("postgresql://bus:SECRET@x@db/bus", "%40"),
        ("postgresql://bus:SECRET%2@db/bus", "%25"),
        ("postgresql://bus:SECRET x@db/bus", "blank"),
        ("postgresql://bus:SECRET\n@db/bus", "blank"),
        ("postgresql://bus:SECRET@db:port/bus", "65535"),
        ("postgresql://bus:SECRET@db:0/bus", "65535"),
        ("postgresql://bus:SECRET@db:65536/bus", "65535"),
        ("postgresql://bus:SECRET@db:²/bus", "65535"),
        ("postgresql://bus:SECRET@2001:db8::1/bus", "brackets"),
        ("postgresql://bus:SECRET@[2001:db8::1/bus", "brackets"),
        ("postgresql://bus:SECRET@[2001:db8::1]5432/bus", "brackets"),
        ("postgresql://bus:SECRET@[db]/bus", "IPv6"),
        ("postgresql://bus:SECRET@db1,db2/bus", "several hosts"),
        ("postgresql://bus:SECRET@/bus", "no host"),
        ("valkey://", "no host"),
        ("valkey:6379", "not a URL"),
        ("://SECRET@db", "not a URL"),
    ],
)
def test_refusals(text: str, reason: str) -> None:
    """The sentence says what to write, and shows no part of the URL."""
    with pytest.raises(ValueError, match=reason) as refusal:
        Url(text)
    assert "SECRET" not in str(refusal.value)
    assert "db" not in str(refusal.value).replace("2001:db8::1", "")
