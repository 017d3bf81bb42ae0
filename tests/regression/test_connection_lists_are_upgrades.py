"""A browser that sends `Connection: keep-alive, Upgrade`, as RFC 6455 allows, is refused with 400 by the
server library, and the bus neither counts nor logs it."""

from __future__ import annotations

from tests.integration.conftest import Bus
from tests.integration.raw import Raw

REQUEST = """\
GET /v1/ws HTTP/1.1
Host: 127.0.0.1
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:102.0) Gecko/20100101 Firefox/102.0
Sec-WebSocket-Version: 13
Sec-WebSocket-Protocol: arqonbus.v1.json, bearer.{token}
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Connection: {connection}
Upgrade: websocket

""".replace("\n", "\r\n")


async def test_a_list_with_upgrade_in_it_connects(bus: Bus) -> None:
    """And one without it is refused by the bus: answered in the documented form, and counted."""
    for connection, status in (("keep-alive, Upgrade", 101), ("keep-alive", 426)):
        raw = await Raw.open(bus.settings.server.port)
        response = await raw.request(REQUEST.format(token=bus.token(), connection=connection))
        assert response.status == status
    assert set(response.json()) == {"code", "message", "docs"}
    counters = bus.node.counters
    assert (counters.connections_accepted, counters.connections_refused) == (1, {"VALIDATION_ERROR": 1})
