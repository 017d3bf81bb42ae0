"""The telemetry port: /livez, /readyz, /metrics, /version. Separate from the bus's port by design."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arqonbus import __version__
from arqonbus.bus.node import Node
from arqonbus.telemetry.health import Health
from arqonbus.telemetry.metrics import CONTENT_TYPE, Metrics


def app(node: Node) -> Starlette:
    """The endpoints of one node."""
    health, metrics = Health(node), Metrics(node)

    async def livez(request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(request: Request) -> Response:
        readiness = await health.readiness()
        body = {
            "ready": readiness.ready,
            "reasons": readiness.reasons,
            "node": node.name,
            "storage": {
                "backend": node.log.name,
                "mode": node.settings.storage.mode,
                "durability": node.log.durability.name.lower(),
                "probe_ms": readiness.probe_ms,
            },
        }
        return JSONResponse(body, 200 if readiness.ready else 503)

    async def scrape(request: Request) -> Response:
        return Response(metrics.scrape(), media_type=CONTENT_TYPE)

    async def version(request: Request) -> Response:
        return JSONResponse({"version": __version__, "node": node.name})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(metrics.watch_loop())
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
    """The endpoints on a bound socket, on the bus's own event loop."""

    def __init__(self, node: Node, bound: socket.socket) -> None:
        config = uvicorn.Config(
            app(node),
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
        """Answer from now on."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._bound]))
        await self._server.answering.wait()

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
