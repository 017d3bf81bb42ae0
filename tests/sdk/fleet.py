"""Many scenarios at the same time, in processes of Node or in workers of one browser."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from tests.sdk.driver import LineDriver, RemoteDriver
from tests.sdk.runner import Scenario, prepared
from tests.servers.browser import Site, browser

AT_ONCE = 6
START_SECONDS = 60.0
SCENARIO_SECONDS = 90.0

NewDriver = Callable[[], LineDriver | RemoteDriver]


class PageDriver(RemoteDriver):
    """A driver in a worker of a browser's page."""

    def __init__(self, page: Page, name: str) -> None:
        super().__init__()
        self._page = page
        self._name = name
        self._socket: ServerConnection | None = None

    async def start(self) -> None:
        """Start the worker."""
        await self._page.tell({"start": self._name})
        await self.ready()

    async def stop(self) -> None:
        """End the worker, whatever it does."""
        await self._page.tell({"stop": self._name})

    async def serve(self, socket: ServerConnection) -> None:
        """Speak with the worker until it ends."""
        self._socket = socket
        with contextlib.suppress(ConnectionClosed):
            async for line in socket:
                self._heard(line)
        self._ended()

    def failed(self, reason: str) -> None:
        """The worker had an error that nothing caught."""
        self._ended(f"the worker failed: {reason}")

    async def _write(self, line: str) -> None:
        assert self._socket is not None
        await self._socket.send(line)


class Page:
    """A page that starts and ends workers."""

    def __init__(self) -> None:
        self._drivers: dict[str, PageDriver] = {}
        self._control: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()

    def driver(self) -> PageDriver:
        """A new driver."""
        name = f"worker-{len(self._drivers)}"
        made = self._drivers[name] = PageDriver(self, name)
        return made

    async def tell(self, wish: dict[str, str]) -> None:
        """Send a wish to the page."""
        async with asyncio.timeout(START_SECONDS):
            control = await self._control
        with contextlib.suppress(ConnectionClosed):
            await control.send(json.dumps(wish))

    async def on_socket(self, socket: ServerConnection) -> None:
        """The page or a worker has connected."""
        assert socket.request is not None
        worker = self._drivers.get(socket.request.path.rpartition("/")[2])
        if worker is not None:
            await worker.serve(socket)
        else:
            self._control.set_result(socket)
            async for said in socket:
                failed = json.loads(said)
                self._drivers[failed["worker"]].failed(failed["error"])


@contextlib.asynccontextmanager
async def drivers(sdk: str, root: Path) -> AsyncIterator[NewDriver]:
    """What makes drivers of an SDK. `root` has the drivers and the SDK."""
    if sdk == "node":
        command = ["node", str(root / "tests/sdk/drivers/node.js")]
        yield lambda: LineDriver(command, dict(os.environ), root)
        return
    page = Page()
    async with (
        Site(root, page.on_socket).running() as site,
        browser(sdk, f"{site.origin}/tests/sdk/drivers/page.html"),
    ):
        yield page.driver


async def run_all(
    sdk: str, some: Sequence[Scenario], root: Path, folder: Path
) -> dict[str, BaseException | None]:
    """Run scenarios at the same time; what each raised.

    One that fails beside the others is tried once more alone: many have deadlines of a second, and the load
    that the others make is not their situation.
    """
    slots, heavy = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(1)
    hosts = itertools.count(2)

    async def run(scenario: Scenario, new_driver: NewDriver) -> BaseException | None:
        number = next(hosts)
        # Firefox opens one connection to an address at a time, so each scenario has its own address.
        host = f"127.0.{1 + number // 250}.{1 + number % 250}" if sdk == "firefox" else "127.0.0.1"
        directory = folder / f"{scenario.name}-{number}"
        directory.mkdir()
        return await outcome_of(scenario, new_driver(), directory, host)

    async def beside_others(scenario: Scenario, new_driver: NewDriver) -> BaseException | None:
        async with heavy if is_heavy(scenario) else contextlib.nullcontext(), slots:
            return await run(scenario, new_driver)

    async with drivers(sdk, root) as new_driver:
        outcomes = await asyncio.gather(*(beside_others(scenario, new_driver) for scenario in some))
        return {
            scenario.name: outcome and await run(scenario, new_driver)
            for scenario, outcome in zip(some, outcomes, strict=True)
        }


def is_heavy(scenario: Scenario) -> bool:
    """Whether it takes a processor for itself."""
    return scenario.process or any(step.get("count", 0) >= 500 for step in scenario.steps)


async def outcome_of(
    scenario: Scenario, driver: LineDriver | RemoteDriver, directory: Path, host: str
) -> BaseException | None:
    """What a scenario raised, if anything."""
    try:
        async with asyncio.timeout(SCENARIO_SECONDS):
            await driver.start()
            async with prepared(scenario, driver, directory, host) as run:
                await run.run("json")
    except (AssertionError, TimeoutError, RuntimeError, OSError) as error:
        return error
    return None


__all__ = ["run_all"]
