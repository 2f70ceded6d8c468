"""Frames (RFC 6455, 5.2): reading those of the short way, and building the server's.

In: bytes from a frame boundary on, and payloads. Out: messages, and frames. Nothing is raised and nothing is
judged: what is unusual or wrong is left where it is, for the sans-I/O protocol to read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT: Final = 0x81
"""The first byte of a message of text in one frame, without extensions."""
BINARY: Final = 0x82
"""The first byte of a message of bytes in one frame, without extensions."""
PING: Final = b"\x89\x00"
"""A ping of the server's."""

MAX_CONTROL_BYTES: Final = 125
"""The longest payload of a control frame, and the longest whose length fits the second byte."""

_MASKED: Final = 0x80
_LENGTH_16: Final = _MASKED | 126


def xor_mask(data: bytes, mask: bytes) -> bytes:
    """Mask, or unmask, a payload (RFC 6455, 5.3): the readable twin of ``apply_mask``.

    Args:
        data: the payload.
        mask: four bytes.
    """
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


def _choose_mask() -> Callable[[bytes, bytes], bytes]:
    try:
        from websockets.speedups import apply_mask
    except ImportError:  # there is no wheel for this machine
        return xor_mask
    return apply_mask


apply_mask: Final = _choose_mask()
"""Mask or unmask: 50 ns for 16 bytes in C, 330 ns without."""


def parse(data: bytes, at: int, longest: int) -> tuple[int, bytes, int] | None:
    """Read a frame of the short way: one whole masked message, its length in the fewest bytes.

    Args:
        data: what was received.
        at: where a frame begins.
        longest: how many bytes of payload are allowed.

    Returns:
        (`TEXT` or `BINARY`, the payload, where the next frame begins), or None for any other frame, and for
        one that is not all there.
    """
    if len(data) < at + 6:
        return None
    first, length = data[at], data[at + 1]
    if first != TEXT and first != BINARY:
        return None
    at += 2
    if _MASKED <= length < _LENGTH_16:
        length -= _MASKED
    elif length == _LENGTH_16:
        length = data[at] << 8 | data[at + 1]
        if length <= MAX_CONTROL_BYTES:
            return None
        at += 2
    else:
        return None
    start = at + 4
    end = start + length
    if end > len(data) or length > longest:
        return None
    return first, apply_mask(data[start:end], data[at:start]), end


def measure(data: bytes, at: int) -> int | None:
    """Tell how long a frame of any kind is, by its header.

    Args:
        data: what was received.
        at: where the frame begins.

    Returns:
        Bytes, its header among them; None where that is not all there.
    """
    if len(data) < at + 2:
        return None
    length = data[at + 1] & 0x7F
    head = 2 + (4 if data[at + 1] & _MASKED else 0)
    if length > MAX_CONTROL_BYTES:
        width = 2 if length == 126 else 8
        if len(data) < at + 2 + width:
            return None
        length = int.from_bytes(data[at + 2 : at + 2 + width], "big")
        head += width
    return head + length


def is_padded(data: bytes, at: int) -> bool:
    """Whether the length of a frame takes more bytes than it needs (RFC 6455, 5.2).

    Args:
        data: what was received, the frame's header whole.
        at: where the frame begins.
    """
    kind = data[at + 1] & 0x7F
    if kind == 126:
        return data[at + 2 : at + 4] <= b"\x00\x7d"
    return kind == 127 and data[at + 2 : at + 8] == bytes(6)


def build(first: int, payload: bytes) -> bytes:
    """Build a frame of the server: unmasked, whole.

    Args:
        first: its first byte, such as `TEXT`.
        payload: what it carries.
    """
    size = len(payload)
    if size <= MAX_CONTROL_BYTES:
        return _SHORT_HEADS[first, size] + payload
    if size < 1 << 16:
        return b"%c%c%b%b" % (first, 126, size.to_bytes(2, "big"), payload)
    return b"%c%c%b%b" % (first, 127, size.to_bytes(8, "big"), payload)


_SHORT_HEADS: Final = {
    (first, size): bytes((first, size)) for first in (TEXT, BINARY) for size in range(MAX_CONTROL_BYTES + 1)
}
