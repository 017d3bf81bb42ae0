"""The telemetry port: /livez, /readyz (?verbose), /metrics, /version. Separate from the bus's port."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arqonbus import __version__
from arqonbus.bus.node import Node
from arqonbus.preflight.report.plain import plain_result
from arqonbus.preflight.runner import Report
from arqonbus.telemetry.guard import Guard
from arqonbus.telemetry.health import Health
from arqonbus.telemetry.metrics import CONTENT_TYPE, Metrics

OnlineChecks = Callable[[], Awaitable[Report]]

KEEP_SECONDS = 5.0  # a burst of verbose questions asks the servers once


def app(
    node: Node,
    metrics: Metrics,
    online_checks: OnlineChecks | None = None,
    bridge: Callable[[], Mapping[str, Any]] | None = None,
) -> Starlette:
    """The endpoints of one node. `online_checks`: what /readyz?verbose asks of the servers behind it.

    `bridge`: what it says of the bridge. A node whose bridge is not connected is ready all the same.
    """
    health = Health(node)

    async def livez(request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(request: Request) -> Response:
        readiness = await health.readiness()
        body = {
            "ready": readiness.ready,
            "reasons": readiness.reasons,
            "node": node.name,
            "storage": {
                "backend": node.event_log.name,
                "mode": node.settings.storage.mode,
                "durability": node.event_log.durability.name.lower(),
                "degraded": node.degraded,
                "probe_ms": readiness.probe_ms,
            },
        }
        ready = readiness.ready
        if "verbose" in request.query_params and bridge is not None:
            body["bridge"] = bridge()
        if "verbose" in request.query_params and online_checks is not None:
            report = await judge()
            body["checks"] = [plain_result(result) for result in report.results]
            body["ready"] = ready = ready and not report.failures
        return JSONResponse(body, 200 if ready else 503)

    judged: tuple[float, Report] | None = None
    judging = asyncio.Lock()

    async def judge() -> Report:
        nonlocal judged
        assert online_checks is not None
        async with judging:
            if judged is None or time.monotonic() - judged[0] > KEEP_SECONDS:
                judged = (time.monotonic(), await online_checks())
            return judged[1]

    async def scrape(request: Request) -> Response:
        metrics.ready = (await health.readiness()).ready
        return Response(metrics.scrape(), media_type=CONTENT_TYPE)

    async def version(request: Request) -> Response:
        return JSONResponse({"version": __version__, "node": node.name})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(metrics.watch())
        yield
        watch.cancel()

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", scrape),
            Route("/version", version),
        ],
        lifespan=lifespan,
    )


class TelemetryServer:
    """The endpoints on a socket that listens, on the bus's own event loop."""

    def __init__(
        self, endpoints: Starlette, bound: socket.socket, token: Callable[[], SecretStr | None]
    ) -> None:
        """`token`: what has to be shown for more than whether the bus is up; see Guard."""
        config = uvicorn.Config(
            Guard(endpoints, token),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._bound = bound
        self._server = _Embedded(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Answer from now on. Raises what uvicorn cannot start for."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._bound]))
        answering = asyncio.create_task(self._server.answering.wait())
        await asyncio.wait({self._task, answering}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            answering.cancel()
            await self._task

    async def stop(self) -> None:
        """Stop answering."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Embedded(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to the bus."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answering = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answering.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


__all__ = ["TelemetryServer", "app"]
