"""The asyncio SDK: one client that connects, publishes, subscribes, runs commands and reconnects by itself.

The names in `__all__` are the public API. `arqonbus.client.sync` offers the same without asyncio.
"""

from arqonbus.client.client import Client, Token
from arqonbus.client.clock import Order, VectorClock, order
from arqonbus.client.errors import (
    ClientError,
    Closed,
    ConnectionRefused,
    DeadlineExceeded,
    Disconnected,
    GroupLost,
    MessagesLost,
    NotConnected,
    PublishFailed,
    Rejected,
    RequestFailed,
)
from arqonbus.client.group import Group, Job, Retry
from arqonbus.client.message import Ack, Member, Message
from arqonbus.client.rpc import Service
from arqonbus.client.state import State
from arqonbus.client.subscription import Subscription
from arqonbus.protocol.clocks import Position
from arqonbus.protocol.envelope import Envelope

__all__ = [
    "Ack",
    "Client",
    "ClientError",
    "Closed",
    "ConnectionRefused",
    "DeadlineExceeded",
    "Disconnected",
    "Envelope",
    "Group",
    "GroupLost",
    "Job",
    "Member",
    "Message",
    "MessagesLost",
    "NotConnected",
    "Order",
    "Position",
    "PublishFailed",
    "Rejected",
    "RequestFailed",
    "Retry",
    "Service",
    "State",
    "Subscription",
    "Token",
    "VectorClock",
    "order",
]
