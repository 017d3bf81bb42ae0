"""A real browser without a window, and the web server for its pages. Loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from tests.servers.arqonbus import REPOSITORY
from tests.servers.processes import binary, free_port

PAGE_SECONDS = 60.0
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}

# A fresh profile asks and reports; none of that here. Firefox also delays a connection after a failed one.
FIREFOX_PREFERENCES = {
    "app.normandy.enabled": "false",
    "app.update.enabled": "false",
    "browser.aboutwelcome.enabled": "false",
    "browser.newtabpage.enabled": "false",
    "browser.safebrowsing.downloads.enabled": "false",
    "browser.safebrowsing.malware.enabled": "false",
    "browser.safebrowsing.phishing.enabled": "false",
    "browser.search.update": "false",
    "browser.shell.checkDefaultBrowser": "false",
    "browser.startup.homepage_override.mstone": '"ignore"',
    "datareporting.policy.dataSubmissionEnabled": "false",
    "datareporting.policy.firstRunURL": '""',
    "dom.min_background_timeout_value": "4",
    "extensions.getAddons.cache.enabled": "false",
    "extensions.update.enabled": "false",
    "media.gmp-manager.updateEnabled": "false",
    "network.captive-portal-service.enabled": "false",
    "network.connectivity-service.enabled": "false",
    "network.dns.disablePrefetch": "true",
    "network.proxy.type": "0",
    "network.websocket.delay-failed-reconnects": "false",
    "services.settings.server": '"http://127.0.0.1:1"',
    "toolkit.telemetry.enabled": "false",
    "toolkit.telemetry.server": '""',
}

OnSocket = Callable[[ServerConnection], Awaitable[None]]


class Site:
    """Serves the files below a folder, and hands WebSocket connections to `on_socket`."""

    def __init__(self, folder: Path, on_socket: OnSocket) -> None:
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self._folder = folder.resolve()
        self._on_socket = on_socket

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Site]:
        """Serve within the block."""
        async with serve(
            self._on_socket,
            "127.0.0.1",
            self.port,
            process_request=self._file,
            compression=None,
            max_size=None,
            ping_interval=None,
        ):
            yield self

    def _file(self, _: ServerConnection, request: Request) -> Response | None:
        """The file that was asked for; None for a WebSocket."""
        if "Upgrade" in request.headers and request.headers["Upgrade"].lower() == "websocket":
            return None
        path = (self._folder / request.path.partition("?")[0].lstrip("/")).resolve()
        if not path.is_relative_to(self._folder) or path.suffix not in TYPES or not path.is_file():
            return Response(HTTPStatus.NOT_FOUND, "Not Found", Headers({"Content-Length": "0"}))
        body = path.read_bytes()
        headers = Headers({"Content-Type": TYPES[path.suffix], "Content-Length": str(len(body))})
        headers["Cache-Control"] = "max-age=3600"  # a port is used once
        return Response(HTTPStatus.OK, "OK", headers, body)


def command_of(name: str, profile: Path, url: str) -> list[str]:
    """What starts a browser with a profile of its own at a page."""
    if name == "chromium":
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        sandbox = ["--no-sandbox", "--disable-dev-shm-usage"]  # root and small containers have none
        return [
            binary("chromium", "chromium"),
            "--headless=new",
            "--disable-gpu",
            *sandbox,
            *quiet,
            "--no-proxy-server",
            f"--user-data-dir={profile}",
            url,
        ]
    preferences = [f'user_pref("{key}", {value});' for key, value in FIREFOX_PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(preferences))
    return [binary("firefox-esr", "firefox-esr"), "--headless", "--no-remote", "--profile", str(profile), url]


@contextlib.asynccontextmanager
async def browser(name: str, url: str) -> AsyncIterator[None]:
    """A browser that shows a page, within the block. `name`: chromium or firefox."""
    # Not pytest's own folders: the path of a Unix socket in it has to be short.
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as folder:
        profile = Path(folder) / "profile"
        profile.mkdir()
        process = await asyncio.create_subprocess_exec(
            *command_of(name, profile, url),
            env={**os.environ, "HOME": folder, "TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()


class RemotePage:
    """A page that runs what a test sends; see tests/sdk/drivers/remote.html."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket

    async def run(self, code: str) -> Any:
        """What the code, the body of an asynchronous function, returns. Fails with what it throws."""
        async with asyncio.timeout(PAGE_SECONDS):
            await self._socket.send(code)
            answer = json.loads(await self._socket.recv())
        assert "error" not in answer, answer["error"]
        return answer["value"]


@contextlib.asynccontextmanager
async def remote_page(name: str, root: Path) -> AsyncIterator[RemotePage]:
    """A page of a browser, within the block. `root` has what it can load, laid out as in the repository."""
    shutil.copytree(REPOSITORY / "tests/sdk/drivers", root / "tests/sdk/drivers", dirs_exist_ok=True)
    connected: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()

    async def on_socket(socket: ServerConnection) -> None:
        connected.set_result(socket)
        await socket.wait_closed()

    async with (
        Site(root, on_socket).running() as site,
        browser(name, f"{site.origin}/tests/sdk/drivers/remote.html"),
    ):
        async with asyncio.timeout(PAGE_SECONDS):
            socket = await connected
        yield RemotePage(socket)


__all__ = ["RemotePage", "Site", "browser", "remote_page"]
