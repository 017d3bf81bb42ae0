"""curl as a client of the front: an upgrade, and refusals as a person reads them on a terminal."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest

from tests.integration.conftest import Bus

KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ("Upgrade: websocket", "Connection: keep-alive, Upgrade", "Sec-WebSocket-Version: 13", KEY)


async def curl(*options: str) -> asyncio.subprocess.Process:
    """A running curl that writes the head of the response before its body."""
    program = shutil.which("curl")
    if program is None:
        pytest.fail("curl is needed; scripts/install-test-servers installs it")
    return await asyncio.create_subprocess_exec(
        program,
        "--silent",
        "--include",
        "--no-buffer",
        "--max-time",
        "20",
        *options,
        stdout=asyncio.subprocess.PIPE,
    )


def headers(*lines: str) -> list[str]:
    return [part for line in lines for part in ("--header", line)]


async def test_an_upgrade(bus: Bus) -> None:
    """The head of the answer, and the welcome behind it."""
    url = bus.url.replace("ws://", "http://")
    process = await curl(*headers(*UPGRADE, f"Authorization: Bearer {bus.token()}"), url)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
            await process.stdout.readuntil(b"\r\n\r\n")
            assert b'"welcome"' in await process.stdout.readuntil(b"}")
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ([], 426, "VALIDATION_ERROR"),
        (["--http1.0"], 505, "VALIDATION_ERROR"),
        (["--data", "x" * 100_000], 405, "VALIDATION_ERROR"),
        (["--header", "Transfer-Encoding: chunked", "--data", "hello"], 405, "VALIDATION_ERROR"),
        (["--header", f"Cookie: a={'x' * 20_000}"], 431, "TOO_LARGE"),
        (headers(*UPGRADE), 401, "UNAUTHENTICATED"),
        (headers(*UPGRADE, "Authorization: Bearer abc"), 401, "UNAUTHENTICATED"),
    ],
)
async def test_a_refusal(bus: Bus, options: list[str], status: int, code: str) -> None:
    """Status and body arrive whole, also where curl was still sending."""
    process = await curl("--header", "Expect:", *options, bus.url.replace("ws://", "http://"))
    output, _ = await process.communicate()
    head, _, body = output.partition(b"\r\n\r\n")
    assert process.returncode == 0
    assert int(head.split()[1]) == status
    assert json.loads(body)["code"] == code
    assert bus.node.counters.connections_refused == {code: 1}
