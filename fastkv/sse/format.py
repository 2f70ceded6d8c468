"""Messages and confirmations as events.

In: messages. Out: their bytes. An event is one line of data, ``kind,channel,payload``, as Upstash has it: its
client takes each line for a message of its own, so there is never a second one. What is not UTF-8 is in
base64, in an event of another kind, ``message_base64``: a client that does not know that kind does not take
it for text. Nothing is raised.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.pubsub.messages import Message

    Build = Callable[[Message], bytes]

LAST_CHUNK: Final = b"0\r\n\r\n"
PING: Final = b":\n\n"
"""A comment: no event, but a sign of life."""


def as_text(part: bytes) -> bytes:
    """A part of an event: as it stands, if it can.

    Args:
        part: any bytes.

    Returns:
        UTF-8 on one line: what has line ends is a JSON string.

    Raises:
        UnicodeDecodeError: if it is not UTF-8.
    """
    text = part.decode()
    return orjson.dumps(text) if "\n" in text or "\r" in text else part


def chunk(data: bytes) -> bytes:
    """A chunk of a body (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(kind: bytes, *parts: bytes, encode: Callable[[bytes], bytes] = as_text) -> bytes:
    """An event.

    Args:
        kind: ``subscribe``, ``message`` or such.
        parts: what it is about.
        encode: brings them on one line.

    Returns:
        The event; where a part cannot be text, all are in base64, which the kind says.
    """
    try:
        told = b",".join((kind, *map(encode, parts)))
    except UnicodeDecodeError:
        told = b",".join((kind + b"_base64", *map(b64encode, parts)))
    return b"data: %b\n\n" % told


def _event_of(message: Message, encode: Callable[[bytes], bytes] = as_text) -> bytes:
    if message.pattern is None:
        return event(b"message", message.channel, message.payload, encode=encode)
    return event(b"pmessage", message.pattern, message.channel, message.payload, encode=encode)


def _text(message: Message) -> bytes:
    return _event_of(message)


def _text_chunk(message: Message) -> bytes:
    return chunk(_event_of(message))


def _base64(message: Message) -> bytes:
    return _event_of(message, b64encode)


def _base64_chunk(message: Message) -> bytes:
    return chunk(_event_of(message, b64encode))


BUILDERS: Final[dict[tuple[bool, bool], Build]] = {
    (False, False): _text,
    (False, True): _text_chunk,
    (True, False): _base64,
    (True, True): _base64_chunk,
}
"""What builds the bytes of a message, by whether its parts are in base64 and the body is in chunks."""
