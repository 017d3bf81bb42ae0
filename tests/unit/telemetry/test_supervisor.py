"""Notifications to systemd about readiness, watchdog and stopping."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from arqonbus.telemetry.supervisor import Supervisor


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    """The supervisor's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        yield end


async def take(end: socket.socket) -> str:
    async with asyncio.timeout(5):
        return (await asyncio.get_running_loop().sock_recv(end, 100)).decode()


async def test_it_says_that_the_bus_is_up_and_that_it_stops(heard: socket.socket) -> None:
    """Once each, in this order."""
    async with Supervisor({"NOTIFY_SOCKET": heard.getsockname()}) as supervisor:
        assert await take(heard) == "READY=1"
        supervisor.stopping()
        assert await take(heard) == "STOPPING=1"
    with pytest.raises(BlockingIOError):
        heard.recv(100)


async def test_it_shows_that_the_loop_turns(heard: socket.socket) -> None:
    """Three times in the span that is waited for, as long as the bus lives."""
    environ = {
        "NOTIFY_SOCKET": heard.getsockname(),
        "WATCHDOG_USEC": "30000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    began = asyncio.get_running_loop().time()
    async with Supervisor(environ):
        assert [await take(heard) for _ in range(4)] == ["READY=1", *["WATCHDOG=1"] * 3]
    assert asyncio.get_running_loop().time() - began >= 0.02


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "@arqonbus-nobody-listens", "WATCHDOG_USEC": "1e3", "WATCHDOG_PID": "1"},
    ],
)
async def test_nobody_who_listens_is_no_fault(environ: dict[str, str]) -> None:
    """A bus that nobody supervises runs all the same."""
    async with Supervisor(environ) as supervisor:
        supervisor.stopping()
        await asyncio.sleep(0)
    assert not asyncio.all_tasks() - {asyncio.current_task()}
