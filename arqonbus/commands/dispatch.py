"""Runs a command: finds it, checks who calls and with what, and turns every outcome into one reply."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec

from arqonbus.bus.command_queue import Later, Reply
from arqonbus.bus.node import Node
from arqonbus.bus.peer import Peer
from arqonbus.commands import audit, auth, groups, history, node_status, policy, projector, rooms
from arqonbus.commands.table import Answer, Caller, Command, Frame, Waiting, table
from arqonbus.protocol import replies, wire_json
from arqonbus.protocol.envelope import Envelope, is_json
from arqonbus.protocol.errors import BusError, Code, DecodeError, Invalid
from arqonbus.protocol.ids import new_ulid

logger = logging.getLogger(__name__)

COMMANDS: Mapping[str, Command] = table(
    node_status.COMMANDS,
    auth.COMMANDS,
    rooms.COMMANDS,
    history.COMMANDS,
    groups.COMMANDS,
    projector.COMMANDS,
    audit.COMMANDS,
    policy.COMMANDS,
)


async def run_command(node: Node, peer: Peer, envelope: Envelope) -> Reply | Later:
    """Exactly one reply for a valid COMMAND envelope, whatever happens."""
    return await _settled(node, envelope, _started(node, peer, envelope))


async def _started(node: Node, peer: Peer, envelope: Envelope) -> Any:
    command = _find(envelope.name)
    if command.who == "admin" and peer.session.identity.role != "admin":
        raise BusError(Code.AUTHORIZATION_ERROR, f"{command.name} is for admins of the tenant")
    return await command.handler(Caller(node, peer, COMMANDS), _arguments(command, envelope))


async def _waited(node: Node, envelope: Envelope, work: Callable[[], Coroutine[Any, Any, Any]]) -> Reply:
    reply = await _settled(node, envelope, work())
    assert isinstance(reply, Reply)
    return reply


async def _settled(node: Node, envelope: Envelope, work: Coroutine[Any, Any, Any]) -> Reply | Later:
    """The reply that says how the work ended."""
    operation = envelope.name if envelope.name in COMMANDS else "unknown"
    code = Code.OK
    then = None
    try:
        result = await work
        if isinstance(result, Waiting):
            return Later(partial(_waited, node, envelope, result.result))
        if isinstance(result, Answer):
            result, then = result
        if isinstance(result, Frame):
            answer = replies.frame_reply(envelope.id, *result)
        else:
            answer = replies.reply(envelope.id, result)
    except BusError as error:
        code = error.code
        node.counters.rejected[code] += 1
        answer = replies.refusal(error, envelope.id)
    except Exception:
        # The caller receives an id, the log the reason: exception text never leaves the node.
        code = Code.INTERNAL_ERROR
        incident = new_ulid()
        logger.exception("a command failed", extra={"incident": incident, "operation": operation})
        failure = BusError(code, "the command failed; the log has the reason", details={"incident": incident})
        node.counters.rejected[code] += 1
        answer = replies.refusal(failure, envelope.id)
    node.counters.commands[operation, code] += 1
    return Reply(answer, then)


def _find(name: str) -> Command:
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name[:64], COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; op.help lists all"
        raise BusError(Code.NOT_FOUND, f"there is no such operation{hint}", details={"field": "name"})
    return command


def _arguments(command: Command, envelope: Envelope) -> msgspec.Struct:
    payload = envelope.payload
    if payload and envelope.content_type and not is_json(envelope.content_type):
        raise Invalid("content_type", "arguments of a command are JSON")
    try:
        members: dict[str, Any] = wire_json.read_object(payload.decode()) if payload else {}
        return msgspec.convert(members, command.arguments, strict=True)
    except UnicodeDecodeError:
        raise Invalid("payload", "the arguments are not UTF-8") from None
    except DecodeError as error:
        raise Invalid("payload", f"the arguments are no JSON object: {error.message}") from None
    except msgspec.ValidationError as error:
        raise _invalid_argument(str(error)) from None


def _invalid_argument(text: str) -> Invalid:
    """msgspec says what it expected and where; name the argument first."""
    reason, _, path = text.partition(" - at ")
    named = re.search(r"(?:field|required field) `(\w+)`", reason)
    argument = re.sub(r"^\$\.?", "", path.strip("`")) or (named[1] if named else "arguments")
    sentence = reason.replace("`", "")
    return Invalid(argument, f"{argument}: {sentence[0].lower()}{sentence[1:]}")


__all__ = ["COMMANDS", "run_command"]
