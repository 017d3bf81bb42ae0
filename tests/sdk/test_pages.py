"""Pages in real browsers: the chat of the tutorial, and the SDK when something happens to its page."""

from __future__ import annotations

import asyncio
import re
import shutil
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Bus, StartBus
from tests.integration.conftest import start_bus as start_bus  # a fixture
from tests.sdk.network import Network
from tests.servers.arqonbus import REPOSITORY
from tests.servers.browser import RemotePage, remote_page
from tests.servers.bus import BusProcess

BROWSERS = ["chromium", "firefox"]
CHAT = REPOSITORY / "examples/chat/chat.html"
TUTORIAL = REPOSITORY / "docs/tutorial/2-chat.md"

OPEN = """\
const frame = document.createElement("iframe");
frame.id = "{name}";
frame.src = "/examples/chat/chat.html?bus={bus}";
document.body.append(frame);
await new Promise((resolve) => (frame.onload = resolve));
const {{ join }} = frame.contentDocument.forms;
join.elements.name.value = "{name}";
join.elements.token.value = "{token}";
join.requestSubmit();
"""
SAY = """\
const {{ say }} = document.getElementById("{name}").contentDocument.forms;
say.elements.text.value = "{text}";
say.requestSubmit();
"""
LINES = """\
const {{ contentDocument: page }} = document.getElementById("{name}");
return [...page.querySelectorAll("#messages li")].map((line) => line.textContent);
"""
JOINED = """return !document.getElementById("{name}").contentDocument.forms.say.hidden;"""

CONNECT = """\
const {{ Client }} = await import("/clients/js/src/index.js");
globalThis.client = new Client("{url}", "{token}");
await client.connect();
globalThis.room = client.subscribe("orders");
await room.ready;
"""


@pytest.fixture(params=BROWSERS)
async def page(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RemotePage]:
    """A page that can load the SDK and the chat."""
    root = tmp_path / "root"
    shutil.copytree(REPOSITORY / "clients/js/src", root / "clients/js/src")
    shutil.copytree(CHAT.parent, root / "examples/chat")
    async with remote_page(request.param, root) as opened:
        yield opened


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[BusProcess]:
    process = BusProcess(tmp_path / "bus")
    yield process.start()
    process.kill()


async def until(wanted: object, ask: Callable[[], Awaitable[object]]) -> None:
    """Ask until the answer is what is wanted."""
    found = None
    try:
        async with asyncio.timeout(40):
            while (found := await ask()) != wanted:  # noqa: ASYNC110  (a page gives no event)
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{found!r} instead of {wanted!r}")


def test_the_tutorial_shows_what_is_in_the_file() -> None:
    """Each excerpt of the page is in the chat, line by line."""
    lines = "\n".join(line.strip() for line in CHAT.read_text().splitlines())
    excerpts = re.findall(r"```js\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    assert len(excerpts) == 5
    for excerpt in excerpts:
        assert "\n".join(line.strip() for line in textwrap.dedent(excerpt).splitlines()) in lines


async def test_the_chat_of_the_tutorial(page: RemotePage, bus: BusProcess) -> None:
    """Two windows hear each other, also after the bus was away; a third one sees what was said before."""

    async def opens(name: str) -> None:
        await page.run(OPEN.format(name=name, bus=bus.url, token=bus.token(name)))
        await until(True, lambda: page.run(JOINED.format(name=name)))

    async def shows(name: str, *lines: str) -> None:
        await until(list(lines), lambda: page.run(LINES.format(name=name)))

    await opens("alice")
    await opens("bob")
    await page.run(SAY.format(name="alice", text="hello <b>Bob</b>"))
    await shows("alice", "alice: hello <b>Bob</b>")
    await shows("bob", "alice: hello <b>Bob</b>")

    await asyncio.to_thread(bus.kill)
    await page.run(SAY.format(name="bob", text="still here?"))
    await asyncio.to_thread(bus.start)
    said = ("alice: hello <b>Bob</b>", "bob: still here?")
    await shows("alice", *said)
    await shows("bob", *said)

    await opens("carol")
    await shows("carol", *said)


async def test_a_page_that_is_put_aside(page: RemotePage, start_bus: StartBus) -> None:
    """In the back/forward cache it has no connection and makes none; shown again it gets what it missed."""
    bus: Bus = await start_bus()
    other = await bus.client("other")
    await page.run(CONNECT.format(url=bus.url, token=bus.token()))
    await page.run('dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));')
    lost = "the connection was lost: the page was put aside (1006)"
    await until(lost, lambda: page.run("return client.state.reason;"))
    await until([], lambda: other.presence("orders"))
    await other.publish("orders", 1)
    assert await page.run("return client.state.reason;") == lost
    await page.run('dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));')
    assert await page.run("return (await room.next()).value.json();") == 1
    assert await page.run("return client.reconnects;") == 1


async def test_a_network_that_changed(page: RemotePage, start_bus: StartBus) -> None:
    """A connection that became half-open is found out when the page hears of it, and not at the next ping."""
    bus: Bus = await start_bus("limits.ping_interval=600")
    network = Network(bus.settings.server.port)
    await network.start()
    try:
        url = f"ws://127.0.0.1:{network.port}/v1/ws"
        await page.run(CONNECT.format(url=url, token=bus.token()))
        events = ("globalThis", "online"), ("globalThis", "offline"), ("document", "visibilitychange")
        for count, (target, event) in enumerate(events, 1):
            network.hold()
            await page.run(f'{target}.dispatchEvent(new Event("{event}"));')
            await until(
                f"online {count}", lambda: page.run("return `${client.state.name} ${client.reconnects}`;")
            )
    finally:
        await network.stop()
