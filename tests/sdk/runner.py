"""Run a scenario.

That takes a real bus, optionally a scripted one before it, a faulty network, and a program behind a driver.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from arqonbus.client import Client
from arqonbus.config import Settings
from arqonbus.service.bus import BusService
from arqonbus.shield.grants import parse_grant
from arqonbus.shield.tokens import Claims, mint
from tests.integration.conftest import settings_of
from tests.sdk.driver import Driver, Event, ProgramError
from tests.sdk.network import Network
from tests.sdk.scripted_bus import ScriptedBus
from tests.servers.bus import BusProcess
from tests.servers.certificates import Authority

SCENARIOS = Path(__file__).parent / "scenarios"
PATIENCE = 15.0  # seconds for a step that waits, unless it says `within`
_EXPECTATIONS = ("as", "within", "expect", "error", "code", "text", "cause", "at_least")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table.

    `bus`: overrides of the dev profile; `process`: the bus can be killed and paused.
    """

    name: str
    situation: str
    steps: list[dict[str, Any]]
    bus: dict[str, Any] = field(default_factory=dict)
    process: bool = False
    token: dict[str, Any] = field(default_factory=dict)
    program: dict[str, Any] = field(default_factory=dict)
    wires: tuple[str, ...] = ("protobuf",)
    needs: tuple[str, ...] = ()  # of the platform; see sdks.yaml
    tls: bool = False  # the bus ends TLS with a certificate of an authority that nobody knows

    @property
    def scripted(self) -> bool:
        """Whether a step scripts the bus."""
        return any("script" in step for step in self.steps)


@dataclass(frozen=True, slots=True)
class Sdk:
    """An SDK on a platform. `lacks`: what the platform cannot have, with the reason."""

    name: str
    wires: tuple[str, ...]
    lacks: dict[str, str]

    def scenarios(self) -> list[Scenario]:
        """Those that it can be asked to pass."""
        return [scenario for scenario in scenarios() if not self.lacks.keys() & set(scenario.needs)]


def sdks() -> dict[str, Sdk]:
    """All SDKs, by name."""
    rows = yaml.safe_load((SCENARIOS.parent / "sdks.yaml").read_text())
    return {name: Sdk(name, tuple(row["wires"]), row["lacks"]) for name, row in rows.items()}


@functools.cache
def scenarios() -> tuple[Scenario, ...]:
    """All rows of all files."""
    found = []
    for path in sorted(SCENARIOS.glob("*.yaml")):
        for row in yaml.safe_load(path.read_text()):
            lists = {"wires": tuple(row.get("wires", ("protobuf",))), "needs": tuple(row.get("needs", ()))}
            found.append(Scenario(**{**row, **lists}))
    return tuple(found)


class RealBus:
    """The bus at the end: in this process, or in one of its own."""

    def __init__(self, scenario: Scenario, directory: Path) -> None:
        overrides = [f"{key}={value}" for key, value in scenario.bus.items()]
        self._service: BusService | None = None
        self._process: BusProcess | None = None
        self.authority = ""
        if scenario.process:
            self._process = BusProcess(directory / "bus", *overrides)
            self.settings: Settings = self._process.settings
            self.url = self._process.url
        else:
            if scenario.tls:
                authority = Authority(directory / "tls")
                certificate, key = authority.server("bus")
                overrides += [f"server.tls.cert_file={certificate}", f"server.tls.key_file={key}"]
                self.authority = str(authority.file)
            self.settings = settings_of(directory / "state", *overrides)
            self.url = f"ws://127.0.0.1:{self.settings.server.port}/v1/ws"

    async def start(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(self._process.start)
        else:
            self._service = BusService(self.settings)
            await self._service.start()

    async def stop(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(self._process.kill)
        elif self._service is not None:
            service, self._service = self._service, None
            await service.stop()

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.signal(number)

    async def drain(self) -> None:
        assert self._service is not None
        await self._service.node.drain()

    def token(self, subject: str, ttl: float, grants: list[str] | None, role: str) -> str:
        parsed = None if grants is None else [parse_grant(text) for text in grants]
        return mint(self.settings, Claims("demo", subject, ttl, "human", role, parsed))  # type: ignore[arg-type]


class Run:
    """One scenario under way."""

    def __init__(
        self, scenario: Scenario, driver: Driver, bus: RealBus, network: Network, script: ScriptedBus | None
    ) -> None:
        self._scenario = scenario
        self._driver = driver
        self._bus = bus
        self._network = network
        self._script = script
        self._calls: dict[str, asyncio.Task[Any]] = {}
        self._other: Client | None = None
        self._wire = "protobuf"

    async def run(self, wire: str) -> None:
        """All steps, each with a deadline. Raises AssertionError with the step that failed."""
        self._wire = wire
        for number, step in enumerate(copy.deepcopy(self._scenario.steps), 1):
            verb = next(iter(step))
            try:
                async with asyncio.timeout(step.get("within", PATIENCE)):
                    await getattr(self, f"do_{verb}")(step)
            except (AssertionError, TimeoutError, ProgramError) as error:
                kind = "took too long" if isinstance(error, TimeoutError) else str(error)
                events = "\n".join(map(str, self._driver.events[-12:]))
                raise AssertionError(f"step {number} {step}: {kind}\nlast events:\n{events}") from error

    async def end(self) -> None:
        """Stop everything that the steps started."""
        for call in self._calls.values():
            call.cancel()
        await asyncio.gather(*self._calls.values(), return_exceptions=True)
        await self._driver.stop()
        if self._other is not None:
            await self._other.close()

    # -- the program

    async def do_program(self, step: dict[str, Any]) -> None:
        arguments = {k: v for k, v in step.items() if k not in ("program", *_EXPECTATIONS)}
        if step["program"] == "connect":
            arguments = self._connecting(arguments)
        label = step.get("as", "")
        work = self._driver.call(step["program"], label, **arguments)
        if label:
            self._calls[label] = asyncio.create_task(work)
            await asyncio.sleep(0)
        else:
            await self._judge(work, step)

    def _connecting(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `connect`. `{network}` in its environment is where the faulty network listens."""
        place = f"{self._network.host}:{self._network.port}"
        scheme = "wss" if arguments.pop("tls", False) else "ws"
        if arguments.pop("trusts", False):
            arguments["authority"] = self._bus.authority
        environ = {k: v.replace("{network}", place) for k, v in arguments.pop("environ", {}).items()}
        given = {"url": f"{scheme}://{place}/v1/ws", "token": self._token(), "wire": self._wire}
        return {**given, "environ": environ, **self._scenario.program, **arguments}

    def _token(self) -> dict[str, Any]:
        wanted = self._scenario.token
        if "function" in wanted:
            return {"function": [self._minted(o) if self._is_token(o) else o for o in wanted["function"]]}
        return {"fixed": wanted["value"] if "value" in wanted else self._minted(wanted)}

    @staticmethod
    def _is_token(outcome: Any) -> bool:
        return outcome == "good" or (isinstance(outcome, dict) and "ttl" in outcome)

    def _minted(self, wanted: Any) -> str:
        facts = wanted if isinstance(wanted, dict) else {}
        return self._bus.token(
            facts.get("subject", "alice"),
            facts.get("ttl", 600),
            facts.get("grants"),
            facts.get("role", "user"),
        )

    async def do_finish(self, step: dict[str, Any]) -> None:
        call = self._calls.pop(step["finish"])
        try:
            await self._judge(call, step)
        finally:
            if not call.done():
                call.cancel()

    async def _judge(self, work: Any, step: dict[str, Any]) -> None:
        failure: ProgramError | None = None
        result = None
        try:
            result = await work
        except ProgramError as error:
            failure = error
        if failure is None:
            assert "error" not in step, f"returned {result!r} instead of raising"
        elif "error" not in step:
            raise failure
        else:
            assert step["error"] == failure.type, f"raised {failure}"
            assert str(step.get("code", failure.code)) == failure.code, f"code {failure.code}"
            assert step.get("text", "") in failure.text, f"text {failure.text!r}"
            assert step.get("cause", failure.cause) == failure.cause, f"cause {failure.cause!r}"
            return
        if "expect" in step:
            assert _matches(step["expect"], result), f"returned {result!r}"
        if "at_least" in step:
            assert _at_least(step["at_least"], result), f"returned {result!r}"

    async def do_observe(self, step: dict[str, Any]) -> None:
        wanted, count = step["observe"], step.get("count", 1)
        await _until(lambda: len(self._seen(wanted)) >= count)

    async def do_never(self, step: dict[str, Any]) -> None:
        seen = self._seen(step["never"])
        assert not seen, f"observed {seen}"

    def _seen(self, wanted: Event) -> list[Event]:
        return [event for event in self._driver.events if _matches(wanted, event)]

    # -- the world

    async def do_network(self, step: dict[str, Any]) -> None:
        fault = step["network"]
        name, arguments = (fault, {}) if isinstance(fault, str) else next(iter(fault.items()))
        done = getattr(self._network, name)(**arguments)
        if asyncio.iscoroutine(done):
            await done

    async def do_script(self, step: dict[str, Any]) -> None:
        assert self._script is not None
        wanted = step["script"]
        name, value = (wanted, {}) if isinstance(wanted, str) else next(iter(wanted.items()))
        target = getattr(self._script, name)
        if callable(target):
            await target(**value)
        else:
            setattr(self._script, name, set(value) if isinstance(target, set) else value)

    async def do_bus(self, step: dict[str, Any]) -> None:
        action = step["bus"]
        if action == "drain":
            self._calls["drain"] = asyncio.create_task(self._bus.drain())
        elif action in ("stop", "start"):
            await getattr(self._bus, action)()
        elif action == "restart":
            await self._bus.stop()
            await self._bus.start()
        else:
            self._bus.send_signal({"pause": signal.SIGSTOP, "resume": signal.SIGCONT}[action])

    async def _other_client(self) -> Client:
        if self._other is None:
            token = self._bus.token("other", 600, None, "admin")
            self._other = Client(self._bus.url, token)
            await self._other.connect()
        return self._other

    async def do_other(self, step: dict[str, Any]) -> None:
        """Somebody else, who is not behind the faulty network."""
        client = await self._other_client()
        if step["other"] == "publish":
            first, size = step.get("start", 0), step.get("size", 0)
            numbers = range(first, first + step.get("count", 1))
            payloads = [str(n).rjust(size) if size else n for n in numbers]
            await client.publish_many(step["room"], payloads, channel=step.get("channel", ""))
        elif step["other"] == "send":
            clients = await client.presence(step["room"])
            await client.send(next(c.client for c in clients if c.subject == "alice"), step["payload"])
        else:
            result = await client.command(step["other"], step.get("arguments", {}))
            if "expect" in step:
                assert _matches(step["expect"], result), f"returned {result!r}"

    async def do_members(self, step: dict[str, Any]) -> None:
        client = await self._other_client()

        async def counted() -> bool:
            return len(await client.presence(step["members"])) == step["expect"]

        await _until(counted)

    async def do_holds(self, step: dict[str, Any]) -> None:
        client = await self._other_client()
        messages = [message.json() async for message in client.history(step["holds"])]
        assert messages == step["expect"], f"the room holds {messages}"

    async def do_accepted(self, step: dict[str, Any]) -> None:
        count = self._network.accepted
        assert step["accepted"] <= count <= step.get("at_most", count), f"{count} connections were made"

    async def do_commands(self, step: dict[str, Any]) -> None:
        """How often the program sent an operation."""
        assert self._script is not None
        count = self._script.commands.count(step["commands"])
        assert count == step["expect"], f"{count} times"

    async def do_wait(self, step: dict[str, Any]) -> None:
        """Let time pass that the situation is made of: a token that runs out, a silence."""
        await asyncio.sleep(step["wait"])


@contextlib.asynccontextmanager
async def prepared(
    scenario: Scenario, driver: Driver, directory: Path, host: str = "127.0.0.1"
) -> AsyncIterator[Run]:
    """The world of a scenario, taken down at the end. `host`: the loopback address that the program sees."""
    async with contextlib.AsyncExitStack() as stack:
        bus = RealBus(scenario, directory)
        await bus.start()
        stack.push_async_callback(bus.stop)
        script = None
        port = bus.settings.server.port
        if scenario.scripted:
            script = ScriptedBus(bus.url)
            await script.start()
            stack.push_async_callback(script.stop)
            port = script.port
        network = Network(port, host)
        await network.start()
        stack.push_async_callback(network.stop)
        run = Run(scenario, driver, bus, network, script)
        stack.push_async_callback(run.end)
        yield run


def _matches(wanted: Any, found: Any) -> bool:
    """Whether found has what is wanted. Of a mapping only the named keys count; `~text` is contained."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(key in found and _matches(value, found[key]) for key, value in wanted.items())
    if isinstance(wanted, dict) and set(wanted) == {"range"}:
        return bool(found == list(range(*wanted["range"])))
    if isinstance(wanted, str) and wanted.startswith("~") and isinstance(found, str):
        return wanted[1:] in found
    return bool(wanted == found)


def _at_least(wanted: dict[str, Any], found: Any) -> bool:
    return all(found[key] >= value for key, value in wanted.items())


async def _until(condition: Callable[[], Any]) -> None:
    while True:
        held = condition()
        if await held if asyncio.iscoroutine(held) else held:
            return
        await asyncio.sleep(0.01)


__all__ = ["Run", "Scenario", "Sdk", "prepared", "scenarios", "sdks"]
