"""Frames of the short way: what it reads, what it leaves to others, and the masks in C and in Python."""

import pytest
import ws_frames
from hypothesis import given
from hypothesis import strategies as st
from ws_frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame

from fastkv.ws import frames

LONGEST = 70_000
SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, LONGEST, LONGEST + 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_whole_messages_of_up_to_64k_are_read(opcode: int, size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    data = b"..." + frame(opcode, payload[:size]) + b"\x81"
    expected = (0x80 | opcode, payload[:size], len(data) - 1) if size < 1 << 16 else None
    assert frames.parse(data, 3, LONGEST) == expected
    assert frames.parse(data[:-2], 3, LONGEST) is None
    assert frames.measure(data, 3) == len(data) - 4


DECLINED = {
    "a fragment": frame(TEXT, b"a", fin=False),
    "a continuation": frame(CONT, b"a"),
    "a compressed message": frame(TEXT, b"a", rsv=4),
    "another reserved bit": frame(TEXT, b"a", rsv=1),
    "an unmasked one": frame(TEXT, b"a", mask=None),
    "an unmasked one of 126 bytes": frame(TEXT, bytes(126), mask=None),
    "ping": frame(PING, b"a"),
    "pong": frame(PONG, b"a"),
    "close": frame(CLOSE),
    "a reserved opcode": frame(3, b"a"),
    "a length that is too long by two bytes": frame(TEXT, b"a", width=2),
    "a length that is too long by eight": frame(TEXT, bytes(126), width=8),
    "a message that is too long": frame(TEXT, bytes(201)),
}


@pytest.mark.parametrize("data", DECLINED.values(), ids=DECLINED)
def test_all_others_are_left_where_they_are(data: bytes) -> None:
    assert frames.parse(data, 0, 200) is None
    assert frames.measure(data, 0) == len(data)


def test_a_header_that_is_not_all_there_has_no_size() -> None:
    for data, head in (
        (frame(TEXT, b"a"), 2),
        (frame(TEXT, bytes(126)), 4),
        (frame(TEXT, bytes(1 << 16)), 10),
    ):
        for end in range(head):
            assert frames.measure(data[:end], 0) is None
            assert frames.parse(data[:end], 0, LONGEST) is None
        assert frames.measure(data[:head], 0) == len(data)


@pytest.mark.parametrize("size", SIZES)
def test_build(size: int) -> None:
    for first in (frames.TEXT, frames.BINARY):
        assert ws_frames.read(frames.build(first, bytes(size))) == [ws_frames.Frame(first & 15, bytes(size))]
    assert ws_frames.read(frames.PING) == [ws_frames.Frame(PING, b"")]


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masks(payload: bytes, mask: bytes) -> None:
    expected = ws_frames.xor(payload, mask)
    assert frames.xor_mask(payload, mask) == expected
    assert frames.apply_mask(payload, mask) == expected
