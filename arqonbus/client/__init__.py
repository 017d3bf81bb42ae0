"""The asyncio SDK: one client that connects, publishes, subscribes, commands and comes back by itself."""

from arqonbus.client.client import Client, Token
from arqonbus.client.clock import Order, VectorClock, order
from arqonbus.client.errors import (
    ClientError,
    Closed,
    ConnectionRefused,
    Disconnected,
    MessagesLost,
    Rejected,
)
from arqonbus.client.group import Group, Job
from arqonbus.client.message import Ack, Message
from arqonbus.client.subscription import Subscription
from arqonbus.protocol.clocks import Position

__all__ = [
    "Ack",
    "Client",
    "ClientError",
    "Closed",
    "ConnectionRefused",
    "Disconnected",
    "Group",
    "Job",
    "Message",
    "MessagesLost",
    "Order",
    "Position",
    "Rejected",
    "Subscription",
    "Token",
    "VectorClock",
    "order",
]
