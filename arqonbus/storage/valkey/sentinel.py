"""Discovery of the primary through Valkey Sentinel, with notification of failovers.

All sentinels are asked at once, and the newest configuration among their answers counts, because a
partitioned sentinel still names the former primary. Source: https://valkey.io/topics/sentinel-clients/
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from ssl import SSLContext
from typing import Any, NamedTuple

from arqonbus.config.stores import Sentinel
from arqonbus.storage.ports import StorageError
from arqonbus.storage.valkey.link import Access, Endpoint, LinkLost, ReplyError, ValkeyLink

_OTHERS_SECONDS = 0.2  # wait for the other sentinels after the first answer
_ASK_SECONDS = 1.0
_EVENTS = ("+switch-master", "+sdown", "-sdown", "+slave", "+try-failover", "+failover-end")
_UNREACHABLE = 1_000_000  # more replicas than exist: nothing is durable during a failover

logger = logging.getLogger(__name__)


class _Said(NamedTuple):
    """Answer of a sentinel; a greater `config_epoch` is a later election."""

    config_epoch: int
    replicas: int  # that must have a write before it survives a failover
    primary: Endpoint


class Sentinels:
    """Implements `Finder`. Listens to the sentinels while listeners are registered."""

    def __init__(self, service: str, nodes: Sequence[Endpoint], access: Access) -> None:
        """`access`: credentials for the sentinels, with TLS as for Valkey."""
        self._service = service
        self._nodes = tuple(nodes)
        self._access = access
        self._said: dict[Endpoint, _Said] = {}
        self._listeners: list[Callable[[Endpoint], None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def of(cls, settings: Sentinel, tls: SSLContext | None) -> Sentinels:
        """Create from the settings of a profile; `tls` is that of Valkey."""
        password = settings.password.get_secret_value() if settings.password else ""
        nodes = [endpoint_of_node(node) for node in settings.nodes]
        return cls(settings.service or "", nodes, Access(password=password, tls=tls))

    def __str__(self) -> str:
        return f"{self._service} of the sentinels {', '.join(map(str, self._nodes))}"

    def replicas(self) -> int:
        """Number of replicas that must have a write before it is sure to survive a failover: all that are up.

        Fewer are not enough: the engine counts acknowledging replicas without naming them, and any replica
        may be elected. At least one, because a primary without replicas may be partitioned.
        """
        newest = max((said.config_epoch for said in self._said.values()), default=0)
        return max((s.replicas for s in self._said.values() if s.config_epoch == newest), default=1) or 1

    async def primary(self) -> Endpoint:
        """Address of the primary. Raises StorageError, with each sentinel's answer, if none knows it."""
        asking = [asyncio.create_task(self._ask(node)) for node in self._nodes]
        said: list[_Said] = []
        problems: list[str] = []
        try:
            waiting = set(asking)
            while waiting:
                patience = _OTHERS_SECONDS if said else None
                done, waiting = await asyncio.wait(
                    waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                answers = [task.result() for task in done]
                said += [answer for answer in answers if isinstance(answer, _Said)]
                problems += [answer for answer in answers if isinstance(answer, str)]
        finally:
            for task in asking:
                task.cancel()
        if not said:
            raise StorageError(f"no sentinel names the primary of {self._service}: {'; '.join(problems)}")
        return max(said).primary

    def add(self, listener: Callable[[Endpoint], None]) -> None:
        """Call `listener` with every new primary."""
        self._listeners.append(listener)
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._listen(node), name=f"valkey sentinel {node}")
                for node in self._nodes
            ]

    def remove(self, listener: Callable[[Endpoint], None]) -> None:
        """Stop calling `listener`."""
        self._listeners.remove(listener)
        if not self._listeners:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                task.cancel()

    async def _ask(self, node: Endpoint) -> _Said | str:
        link = None
        try:
            async with asyncio.timeout(self._access.connect_timeout):
                link = await ValkeyLink.connect(node, self._access)
                self._said[node] = said = await self._question(link)
        except ReplyError as error:
            unknown = "No such master" in str(error)
            return f"{node} knows no {self._service}" if unknown else f"{node} refused: {error}"
        except (OSError, TimeoutError, LinkLost) as error:
            return f"{node} cannot be reached ({str(error).rstrip('.') or 'no answer in time'})"
        finally:
            if link is not None:
                link.abort("the query is done")
        return said

    async def _question(self, link: ValkeyLink) -> _Said:
        primary, replicas = await link.pipeline(
            [("SENTINEL", "MASTER", self._service), ("SENTINEL", "REPLICAS", self._service)]
        )
        facts = facts_of(primary)
        endpoint = Endpoint(facts[b"ip"].decode(), int(facts[b"port"]))
        up = sum(_is_up(facts_of(replica)) for replica in replicas)
        changing = b"failover_in_progress" in facts[b"flags"].split(b",")
        return _Said(int(facts[b"config-epoch"]), _UNREACHABLE if changing else up, endpoint)

    async def _listen(self, node: Endpoint) -> None:
        """Ask the sentinel regularly, and at once after each of its events."""
        event = asyncio.Event()
        while True:
            try:
                link = await ValkeyLink.connect(node, self._access, lambda link, push: event.set())
                try:
                    link.push("SUBSCRIBE", *_EVENTS)
                    while True:
                        self._heard(node, await self._question(link))
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(_ASK_SECONDS):
                                await event.wait()
                        event.clear()
                finally:
                    link.abort("the log was closed")
            except (OSError, TimeoutError, LinkLost, ReplyError) as error:
                logger.info("No answer from sentinel %s: %s", node, error)
            self._said.pop(node, None)
            await asyncio.sleep(_ASK_SECONDS)

    def _heard(self, node: Endpoint, said: _Said) -> None:
        self._said[node] = said
        newest = max(self._said.values())
        for listener in list(self._listeners):
            listener(newest.primary)


def endpoint_of_node(node: str) -> Endpoint:
    """Parse the address of a sentinel in a profile: host:port."""
    host, _, port = node.rpartition(":")
    return Endpoint(host.strip("[]"), int(port))


def facts_of(answer: Any) -> dict[bytes, bytes]:
    """Convert a reply to a map; RESP2 sends maps as flat lists."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


def _is_up(replica: dict[bytes, bytes]) -> bool:
    """True if the sentinel can reach it.

    A replica during its first sync counts: it may acknowledge any time.
    """
    return not {b"s_down", b"o_down", b"disconnected"} & set(replica[b"flags"].split(b","))


__all__ = ["Sentinels", "endpoint_of_node", "facts_of"]
