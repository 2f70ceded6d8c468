"""What stands in the frames of the ring: messages, and what workers tell each other of their subscribers.

In: channels, payloads, counts. Out: frames, and the same again. A frame is one of three kinds:

- *message*: a channel and a payload, for every subscriber of the channel;
- *hello*: a row begins without subscribers, and every other row is asked to tell all of its own;
- *counts*: a row now has so many subscribers of these names; where all are told, the first of these frames
  replaces what was known of the row, and the last one completes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MESSAGE: Final = 0
_HELLO: Final = 1
_COUNTS: Final = 2

_FIRST: Final = 1
_LAST: Final = 2

_message_head: Final = struct.Struct("=BI")
_hello: Final = struct.Struct("=BH")
_counts_head: Final = struct.Struct("=BHB")
_count_head: Final = struct.Struct("=?II")

# A series of counts is cut into frames of about this length, so that others get the lock in between.
_CHUNK_BYTES: Final = 32 << 10

MESSAGE_HEAD_BYTES: Final = _message_head.size
"""What a message takes besides its channel and its payload."""

Count: TypeAlias = tuple[bool, bytes, int]
"""(whether it is a pattern, its name, how many subscribers it has)."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A row begins.

    Attributes:
        row: which.
    """

    row: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many subscribers a row has.

    Attributes:
        row: which.
        first: whether what was known of the row is forgotten before.
        last: whether all of the row is known after.
        counts: by name; those that are not named stay as they are.
    """

    row: int
    first: bool
    last: bool
    counts: list[Count]


Frame: TypeAlias = tuple[bytes, bytes] | Hello | Counts
"""A message (channel, payload), or news of a row."""


def build_message(channel: bytes, payload: bytes) -> bytes:
    """The frame of a message."""
    return _message_head.pack(_MESSAGE, len(channel)) + channel + payload


def build_hello(row: int) -> bytes:
    """The frame with which a row begins."""
    return _hello.pack(_HELLO, row)


def build_counts(row: int, counts: Iterable[Count], *, complete: bool = False) -> Iterator[bytes]:
    """The frames that tell counts of a row; at least one.

    Args:
        row: which.
        counts: those that have changed, or all.
        complete: whether they are all: then what was known of the row before is forgotten.
    """
    parts: list[bytes] = []
    size, flags = 0, _FIRST if complete else 0
    for is_pattern, name, count in counts:
        parts += (_count_head.pack(is_pattern, count, len(name)), name)
        size += _count_head.size + len(name)
        if size >= _CHUNK_BYTES:
            yield _counts_head.pack(_COUNTS, row, flags) + b"".join(parts)
            parts, size, flags = [], 0, 0
    yield _counts_head.pack(_COUNTS, row, flags | (_LAST if complete else 0)) + b"".join(parts)


def parse(frame: bytes) -> Frame:
    """Read a frame.

    Args:
        frame: what one of the functions above has built.

    Returns:
        What it says.
    """
    kind = frame[0]
    if kind == _MESSAGE:
        _, length = _message_head.unpack_from(frame)
        at = MESSAGE_HEAD_BYTES + length
        return frame[MESSAGE_HEAD_BYTES:at], frame[at:]
    if kind == _HELLO:
        return Hello(_hello.unpack(frame)[1])
    _, row, flags = _counts_head.unpack_from(frame)
    counts: list[Count] = []
    at = _counts_head.size
    while at < len(frame):
        is_pattern, count, length = _count_head.unpack_from(frame, at)
        at += _count_head.size
        counts.append((is_pattern, frame[at : at + length], count))
        at += length
    return Counts(row, bool(flags & _FIRST), bool(flags & _LAST), counts)
