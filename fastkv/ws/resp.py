"""What messages of bytes say: commands in RESP2 in, their replies in RESP2 out.

In: a message of whole commands, each an array of bulk strings. Out: their replies, in order, as one message.
`ProtocolError` is raised for anything else; what stood before it was executed, as Redis does it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from hiredis import HiredisError, Reader

from fastkv.commands.replies import CommandError, Several, Status
from fastkv.ws import frames
from fastkv.ws.asker import is_subscribing

if TYPE_CHECKING:
    from fastkv.commands.execute import Commands
    from fastkv.commands.replies import Reply
    from fastkv.pubsub.messages import Message
    from fastkv.ws.asker import Asker

_GETS: Final = frozenset((b"GET", b"get"))
_NO_ARRAY: Final = "expected an array of bulk strings"
_NOTHING: Final = False  # what hiredis returns where nothing whole is left; no command is that
# hiredis makes room for as many parts as a header says, before they come; a message has fewer than bytes.
_find_long_headers: Final = re.compile(rb"[*%~>|]\+?([0-9]{4,})").finditer


class ProtocolError(Exception):
    """A message is not RESP2.

    Attributes:
        replies: to what stood before, and what is wrong.
    """

    def __init__(self, message: str, replies: bytes) -> None:
        super().__init__(message)
        self.replies = replies + b"-ERR Protocol error: %b\r\n" % message.encode()


def reply_to(payload: bytes, commands: Commands, asker: Asker) -> bytes:
    """Execute what a message says.

    Args:
        payload: the message.
        commands: the commands.
        asker: who asks.

    Returns:
        The replies; b"" for a message without commands.

    Raises:
        ProtocolError: see there.
    """
    found, problem = _parse(payload)
    if len(found) == 1 and found[0] and payload == _build_command(found[0]):
        # By far the most.
        words: list[bytes] = found[0]
        if is_subscribing(words):
            asker.pushes = frames.BINARY
        reply = commands.run(words, asker)
        if reply.__class__ is bytes and words[0] in _GETS:
            asker.read = words[1], reply
        return build_reply(reply)
    asked: list[list[bytes]] = []
    at = 0
    for command in found:
        looks = _build_command(command)
        if not payload.startswith(looks, at):
            problem = _NO_ARRAY
            break
        at += len(looks)
        if command:
            asked.append(command)
    if any(map(is_subscribing, asked)):
        asker.pushes = frames.BINARY
    replies = commands.run_in_turn(asked, asker)
    told = build_reply(replies) if isinstance(replies, CommandError) else b"".join(map(build_reply, replies))
    if problem or at != len(payload):
        raise ProtocolError(problem or "the last command is not complete", told)
    return told


def push(message: Message) -> bytes:
    """What a subscriber is sent.

    Args:
        message: the message.

    Returns:
        An array, as Redis sends it: ``message``, channel and payload, or ``pmessage`` and the pattern before.
    """
    kind: list[Reply] = [b"message"] if message.pattern is None else [b"pmessage", message.pattern]
    return build_reply([*kind, message.channel, message.payload])


def build_reply(reply: Reply) -> bytes:
    """Build a reply in RESP2.

    Args:
        reply: the reply.
    """
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Status):
        return b"+%b\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, CommandError):
        # A line is a line, whatever a client has had quoted in it.
        return b"-%b\r\n" % " ".join(reply.text.splitlines()).encode("utf-8", "surrogateescape")
    parts = b"".join(map(build_reply, reply))
    return parts if isinstance(reply, Several) else b"*%d\r\n%b" % (len(reply), parts)


def _parse(payload: bytes) -> tuple[list[Any], str]:
    """Return what hiredis finds in a message, which need not be commands, and what keeps it from going on."""
    size = len(payload)
    if any(int(header[1][:20]) > size for header in _find_long_headers(payload)) and not _is_sane(payload):
        return [], "invalid multibulk length"
    reader = Reader(notEnoughData=_NOTHING)
    reader.feed(payload)
    found: list[Any] = []
    try:
        while (command := reader.gets()) is not _NOTHING:
            found.append(command)
    except (HiredisError, TypeError, ValueError, OverflowError, MemoryError):
        return found, _NO_ARRAY
    return found, ""


def _is_sane(payload: bytes) -> bool:
    """Whether every header of an array is true; only where one seems not to be, which a value may hold."""
    at = 0
    for _ in range(len(payload)):
        if payload[at : at + 1] != b"*":
            return at == len(payload)
        end = payload.find(b"\r\n", at)
        parts = payload[at + 1 : end]
        if end < 0 or not parts.isdigit() or int(parts[:20]) > len(payload):
            return False
        at = end + 2
        for _ in range(int(parts)):
            end = payload.find(b"\r\n", at)
            length = payload[at + 1 : end]
            if payload[at : at + 1] != b"$" or not length.isdigit() or int(length[:20]) > len(payload):
                return False
            at = end + 2 + int(length) + 2
    return at == len(payload)


def _build_command(words: Any) -> bytes:
    """Return what a command has to look like, to the byte; what no message has for what is none."""
    if words.__class__ is not list or not all(word.__class__ is bytes for word in words):
        return b"**"
    return b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]))
