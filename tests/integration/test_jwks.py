"""Public keys of a real issuer over HTTPS: fetched in the background, and kept when it is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from arqonbus.service import jwks
from tests.integration.conftest import Bus, StartBus
from tests.integration.raw import Raw
from tests.servers.certificates import Authority
from tests.servers.issuer import Issuer


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def issuer(authority: Authority) -> Iterator[Issuer]:
    running = Issuer(*authority.server("issuer"))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between fetches are tuned for years, not for tests."""
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(jwks, "EARLY_SECONDS", 0.2)
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 1.0)


def settings(issuer: Issuer, authority: Authority) -> list[str]:
    return [
        f"auth.jwt.jwks_url={issuer.url}",
        f"auth.jwt.jwks_ca_file={authority.file}",
        "auth.jwt.algorithms=[ES256]",
    ]


async def status(bus: Bus, token: str) -> int:
    return (await (await Raw.open(bus.settings.server.port)).upgrade(token)).status


async def accepted(bus: Bus, token: str) -> None:
    """Wait until the bus takes the token."""
    async with asyncio.timeout(10):
        while await status(bus, token) != 101:  # noqa: ASYNC110 - it is the bus that is asked
            await asyncio.sleep(0.05)


async def failures(bus: Bus) -> float:
    async with httpx.AsyncClient() as http:
        text = (await http.get(bus.http("/metrics"))).text
    return next(
        float(line.split()[1])
        for line in text.splitlines()
        if line.startswith("arqonbus_jwks_failures_total")
    )


async def test_tokens_of_the_issuer_are_accepted_and_rotation_is_followed(
    start_bus: StartBus, issuer: Issuer, authority: Authority
) -> None:
    """A kid that is not known makes the bus ask again soon; a key that was withdrawn ends its connections."""
    bus = await start_bus(*settings(issuer, authority))
    old = issuer.token()
    raw = await Raw.open(bus.settings.server.port)
    assert (await raw.upgrade(old, "arqonbus.v1.json")).status == 101
    await raw.frame()
    issuer.rotate(keep=True)
    assert await status(bus, issuer.token()) == 401
    await accepted(bus, issuer.token())
    assert await status(bus, old) == 101
    issuer.keys = issuer.keys[:1]
    issuer.rotate(keep=True)
    await accepted_after_refusal(bus, issuer)
    assert (await raw.frame()).close_code == 4102
    assert await status(bus, old) == 401


async def accepted_after_refusal(bus: Bus, issuer: Issuer) -> None:
    assert await status(bus, issuer.token()) == 401
    await accepted(bus, issuer.token())


@pytest.mark.parametrize("mode", ["garbage", "huge", "hang", "redirect", "error", "down"])
async def test_an_issuer_that_fails_changes_nothing(
    start_bus: StartBus, issuer: Issuer, authority: Authority, mode: str
) -> None:
    """The last good keys stay in use, failures are counted, and the bus answers meanwhile."""
    bus = await start_bus(*settings(issuer, authority))
    token = issuer.token()
    await accepted(bus, token)
    if mode == "down":
        issuer.stop()
    issuer.mode = mode
    good = issuer.keys
    issuer.rotate()
    unknown = issuer.token()
    async with asyncio.timeout(15):
        while not await failures(bus):
            assert await status(bus, unknown) == 401
            assert await status(bus, token) == 101
            await asyncio.sleep(0.1)
    assert await status(bus, token) == 101
    issuer.keys = good


async def test_a_restart_while_the_issuer_is_down_works(
    start_bus: StartBus, issuer: Issuer, authority: Authority, tmp_path: Path
) -> None:
    """The keys are kept in state_dir, for this address only, and for no longer than the profile says."""
    first = await start_bus(*settings(issuer, authority))
    await accepted(first, issuer.token())
    issuer.stop()
    second = await start_bus(*settings(issuer, authority))
    assert await status(second, issuer.token()) == 101
    kept = tmp_path / "state" / jwks.FILE_NAME
    assert kept.stat().st_mode & 0o777 == 0o600
    document = json.loads(kept.read_text())
    document["fetched_at"] -= 90_000
    kept.write_text(json.dumps(document))
    third = await start_bus(*settings(issuer, authority))
    assert await status(third, issuer.token()) == 401
    issuer.start()
    await accepted(third, issuer.token())


async def test_another_authority_is_not_believed(start_bus: StartBus, issuer: Issuer, tmp_path: Path) -> None:
    """Whoever holds a certificate of somebody else gives no keys."""
    bus = await start_bus(*settings(issuer, Authority(tmp_path / "other")))
    assert await failures(bus) >= 1
    assert await status(bus, issuer.token()) == 401


async def test_many_unknown_keys_make_few_fetches(
    start_bus: StartBus, issuer: Issuer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends tokens of made-up keys does not make the bus ask the issuer each time."""
    monkeypatch.setattr(jwks, "EARLY_SECONDS", 30.0)
    bus = await start_bus(*settings(issuer, authority))
    await accepted(bus, issuer.token())
    asked = issuer.asked
    for _ in range(20):
        issuer.rotate()
        assert await status(bus, issuer.token()) == 401
    assert issuer.asked == asked


async def test_nothing_but_https_outside_dev() -> None:
    """And no user or password in the address, in any environment."""
    with pytest.raises(ValueError, match="not https"):
        jwks.check_address("http://id.example.org/jwks.json", https_only=True)
    for url in ("ftp://id.example.org/", "https://u:p@id.example.org/", "https:///x"):
        with pytest.raises(ValueError, match="is not an address"):
            jwks.check_address(url, https_only=False)
