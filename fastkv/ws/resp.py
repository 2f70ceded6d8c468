"""What messages of bytes say: commands in RESP2 in, their replies in RESP2 out.

In: a message of whole commands, each an array of bulk strings. Out: their replies, in order, as one message.
`ProtocolError` is raised for anything else; what stood before it was executed, as Redis does it.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from hiredis import HiredisError, Reader

from fastkv import core
from fastkv.commands.replies import CommandError, Several, Status, empty_in_steps
from fastkv.steps import Unfinished
from fastkv.ws import frames
from fastkv.ws.asker import is_subscribing

if TYPE_CHECKING:
    from fastkv.commands.execute import Commands
    from fastkv.commands.replies import Reply
    from fastkv.pubsub.messages import Message
    from fastkv.steps import Steps
    from fastkv.ws.asker import Asker

_NO_ARRAY: Final = "expected an array of bulk strings"
_NOTHING: Final = False  # what hiredis returns where nothing whole is left; no command is that
# hiredis makes room for as many parts as a header says, before they come; a message has fewer than bytes.
_find_long_headers: Final = re.compile(rb"[*%~>|]\+?([0-9]{4,})").finditer


# Parts of a reply that a step of `_build_in_steps` builds, 0.4 µs each.
_PARTS: Final = 4096
_LONGEST_SPLIT: Final = 16 << 10
_COUNTS: Final = {b"*%d" % count: count for count in range(1, 65)}
_LENGTHS: Final = tuple(b"$%d" % length for length in range(1024))


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
        Unfinished: for several commands, and those that may take long; the steps may raise ProtocolError.
    """
    asked, problem = _split(payload), ""
    if asked is None:
        asked, problem = _commands_of(payload)
    if len(asked) == 1 and not problem:
        # By far the most.
        words = asked[0]
        if is_subscribing(words):
            asker.pushes = frames.BINARY
        reply = commands.run(words, asker)
        if isinstance(reply, Generator):
            raise Unfinished(_reply_in_steps(reply))
        return build_reply(reply)
    if any(map(is_subscribing, asked)):
        asker.pushes = frames.BINARY
    raise Unfinished(_reply_to_several(asked, problem, commands, asker))


def _reply_to_several(
    asked: list[list[bytes]], problem: str, commands: Commands, asker: Asker
) -> Steps[bytes]:
    """Execute several commands.

    Args:
        asked: their words.
        problem: what is wrong behind them, "" for nothing.
        commands: the commands.
        asker: who asks.

    Raises:
        ProtocolError: if something is wrong.
    """
    replies = yield from commands.run_in_turn(asked, asker)
    told = b"".join((yield from _build_in_steps([replies] if isinstance(replies, CommandError) else replies)))
    if problem:
        raise ProtocolError(problem, told)
    return told


def _reply_in_steps(steps: Steps[Reply]) -> Steps[bytes]:
    return b"".join((yield from _build_in_steps([(yield from steps)])))


def _build_in_steps(replies: list[Reply]) -> Steps[list[bytes]]:
    """Build replies, some parts of a long array at a time."""
    built: list[bytes] = []
    for reply in replies:
        if reply.__class__ is list and len(reply) > _PARTS:
            built.append(b"*%d\r\n" % len(reply))
            for at in range(0, len(reply), _PARTS):
                built.append(_parts_of(reply[at : at + _PARTS]))
                yield None
            yield from empty_in_steps(reply)
        else:
            built.append(build_reply(reply))
            yield None
    return built


def _parts_of(parts: list[Reply]) -> bytes:
    """Build some parts of an array, one behind the other."""
    built = core.arrays.bulk_strings(parts) if core.COMPILED else None
    return b"".join(map(build_reply, parts)) if built is None else built


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
    if reply.__class__ is bytes:
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Status):
        return b"+%b\r\n" % reply
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, CommandError):
        # A line is a line, whatever a client has had quoted in it.
        return b"-%b\r\n" % " ".join(reply.text.splitlines()).encode("utf-8", "surrogateescape")
    parts = b"".join(map(build_reply, reply))
    return parts if isinstance(reply, Several) else b"*%d\r\n%b" % (len(reply), parts)


def _split(payload: bytes) -> list[list[bytes]] | None:
    """Return the commands of a short message that is as it has to be, with no line break in any word.

    The same by ``_commands_of`` takes three times as long. What is taken for a line has the length that the
    line before says, so no line break was within a word.
    """
    if len(payload) > _LONGEST_SPLIT:
        return None
    lines = payload.split(b"\r\n")
    if lines.pop():
        return None
    asked: list[list[bytes]] = []
    at, end = 0, len(lines)
    try:
        while at < end:
            following = at + 1 + 2 * _COUNTS[lines[at]]
            words = lines[at + 2 : following : 2]
            if following > end or lines[at + 1 : following : 2] != [_LENGTHS[len(word)] for word in words]:
                return None
            asked.append(words)
            at = following
    except LookupError:
        return None
    return asked


def _commands_of(payload: bytes) -> tuple[list[list[bytes]], str]:
    """Return the commands of a message, and what is wrong behind them, "" for nothing."""
    found, problem = _parse(payload)
    asked: list[list[bytes]] = []
    at = 0
    for command in found:
        looks = _build_command(command)
        if not payload.startswith(looks, at):
            return asked, _NO_ARRAY
        at += len(looks)
        if command:
            asked.append(command)
    if not problem and at != len(payload):
        problem = "the last command is not complete"
    return asked, problem


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
