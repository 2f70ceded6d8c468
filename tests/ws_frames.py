"""Frames as a client builds and reads them, straight from RFC 6455, 5.2, and by no code of the server's."""

from typing import NamedTuple

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x11\x22\x33\x44"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n"
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


class Frame(NamedTuple):
    """A frame that the server has sent."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0


def xor(data: bytes, mask: bytes = MASK) -> bytes:
    """Mask byte by byte, as the standard says it."""
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    width: int | None = None,
) -> bytes:
    """A frame of the client.

    Args:
        opcode: What it is.
        payload: What it carries.
        fin: Whether it is the last of its message.
        rsv: The reserved bits, 0 to 7.
        mask: None for one that is not masked.
        width: Bytes of the length: 0, 2 or 8; None for as few as may be.
    """
    size = len(payload)
    if width is None:
        width = 0 if size < 126 else 2 if size < 1 << 16 else 8
    length = (
        bytes([size]) if width == 0 else bytes([126 if width == 2 else 127]) + size.to_bytes(width, "big")
    )
    length = bytes([length[0] | (0x80 if mask is not None else 0)]) + length[1:]
    head = bytes([0x80 * fin | rsv << 4 | opcode]) + length
    return head + (mask + xor(payload, mask) if mask is not None else payload)


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    """A close frame of the client."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def read(data: bytes) -> list[Frame]:
    """Read whole frames of the server, which are not masked and have lengths in the fewest bytes."""
    found, at = [], 0
    while at < len(data):
        first, size = data[at], data[at + 1]
        at += 2
        assert size < 128
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width], "big")
            assert size > (125 if width == 2 else 65535)
            at += width
        assert len(data) >= at + size
        found.append(Frame(first & 15, data[at : at + size], first > 127, first >> 4 & 7))
        at += size
    return found
