"""Records: what is built is parsed again, has the size that was foretold, and shows each flipped bit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh32_digest

from fastkv.store.layout import MAX_SEGMENT, WORD
from fastkv.store.records import (
    CALLER_FLAGS,
    COMPACT,
    DEADLINE,
    FRAGMENT,
    HEAD,
    LARGE,
    MAX_METADATA_BYTES,
    METADATA,
    VERSION_BITS,
    build_pieces,
    build_record,
    join_metadata,
    parse_pieces,
    parse_record,
    record_is_whole,
    record_words,
    split_metadata,
    trailing_bytes,
)

U64 = 2**64 - 1
# What a record is built from: key, value, flags, version and deadline in ms.
CASES: dict[str, tuple[bytes, bytes, int, int, int]] = {
    "nothing but a key": (b"k", b"", 0, 1, 0),
    "a small entry": (b"key", b"value", 0, 2, 0),
    "the caller's flags": (b"key", b"value", CALLER_FLAGS, 3, 0),
    "a deadline": (b"key", b"value", 0, 4, 1),
    "the largest version and deadline": (b"key", b"value", 1, U64, U64),
    "a long key": (b"k" * 65_535, b"v", 0, 5, 0),
    "a fragment": (b"", b"piece", FRAGMENT, U64, 0),
    "a large entry's list": (b"key", build_pieces(9000, [512, 1024, 1536]), LARGE, 6, 0),
    "a large entry's list with a deadline": (b"key", build_pieces(9000, [512]), LARGE, 7, 77),
    "metadata": (b"key", *join_metadata(b"value", b"text/html", CALLER_FLAGS), 8, 9),
    "bytes that look like a head": (b"\0" * 16, b"\xff" * 16, 0, 0, 0),
    "the most that is compact": (b"k" * 255, b"v" * 65_535, CALLER_FLAGS, (1 << VERSION_BITS) - 1, U64),
    "each byte of a version": (b"key", b"value", 0, 0x12_3456_789A_BCDE, 0),
    "no key": (b"", b"value", 0, 10, 0),
    "a key of 256 bytes": (b"k" * 256, b"value", 0, 11, 0),
    "a content of 64 KiB": (b"key", b"v" * 65_536, 0, 12, 0),
    "a version of 57 bits": (b"key", b"value", 0, 1 << VERSION_BITS, 0),
}
WIDE = {
    "the largest version and deadline",
    "a long key",
    "a fragment",
    "a large entry's list",
    "a large entry's list with a deadline",
    "no key",
    "a key of 256 bytes",
    "a content of 64 KiB",
    "a version of 57 bits",
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("at", [0, 8, 24])
def test_a_record_is_parsed_as_it_was_built(name: str, at: int) -> None:
    key, value, flags, version, deadline_ms = CASES[name]
    raw = build_record(key, value, flags, version, deadline_ms)
    flags |= (DEADLINE if deadline_ms else 0) | (0 if name in WIDE else COMPACT)
    assert len(raw) == (16 if name in WIDE else 12) + (8 if deadline_ms else 0) + len(key) + len(value) + 4
    assert parse_record(b"\xaa" * at + raw + b"\xaa" * 9, at) == (key, value, flags, version, deadline_ms)
    assert record_is_whole(raw)
    assert record_words(len(key), flags, len(value)) == -(-len(raw) // WORD)


@given(
    st.binary(max_size=40),
    st.binary(max_size=80),
    st.integers(0, 255),
    st.integers(0, U64),
    st.integers(0, U64),
)
def test_any_record_is_parsed_as_it_was_built(
    key: bytes, value: bytes, flags: int, version: int, deadline: int
) -> None:
    raw = build_record(key, value, flags, version, deadline)
    parsed = parse_record(raw, 0)
    assert parsed[2] & ~COMPACT == flags | (DEADLINE if deadline else 0)
    assert parsed == (key, value, parsed[2], version, deadline)
    assert record_words(len(key), parsed[2], len(value)) == -(-len(raw) // WORD)


@pytest.mark.parametrize("name", CASES)
def test_a_record_that_is_built_again_is_the_same(name: str) -> None:
    key, value, flags, version, deadline_ms = CASES[name]
    raw = build_record(key, value, flags, version, deadline_ms)
    parsed = parse_record(raw, 0)
    assert build_record(*parsed[:2], parsed[2], *parsed[3:]) == raw
    assert build_record(*parsed[:2], parsed[2] ^ COMPACT, *parsed[3:]) == raw


@pytest.mark.parametrize("deadline_ms", [0, 77])
def test_a_record_of_an_older_layout_is_parsed(deadline_ms: int) -> None:
    flags = 9 | (DEADLINE if deadline_ms else 0)
    raw = HEAD.pack(3, flags, 5, 1 << 50) + (deadline_ms.to_bytes(8, "little") if deadline_ms else b"")
    raw += b"keyvalue"
    raw += xxh32_digest(raw)
    assert record_is_whole(raw)
    assert parse_record(raw, 0) == (b"key", b"value", flags, 1 << 50, deadline_ms)
    assert record_words(3, flags, 5) == -(-len(raw) // WORD)


@given(
    st.binary(max_size=600), st.binary(max_size=MAX_METADATA_BYTES), st.sampled_from([0, 1, LARGE, METADATA])
)
def test_value_and_metadata_are_parted_as_they_were_joined(value: bytes, metadata: bytes, flags: int) -> None:
    content, joined = join_metadata(value, metadata, flags)
    assert joined == flags & ~METADATA | (METADATA if metadata else 0)
    assert split_metadata(content, joined) == (value, metadata)
    assert trailing_bytes(content, joined) == len(content) - len(value)
    if not metadata:
        assert content == value


def test_metadata_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="metadata of 256 bytes"):
        join_metadata(b"", bytes(MAX_METADATA_BYTES + 1), 0)


@given(st.binary(max_size=300))
def test_whatever_a_torn_read_has_it_is_parted(content: bytes) -> None:
    value, metadata = split_metadata(content, METADATA)
    assert len(value) + len(metadata) <= len(content)


@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name][1]) < 1000 > len(CASES[name][0])])
def test_each_flipped_bit_breaks_the_checksum(name: str) -> None:
    raw = build_record(*CASES[name])
    for bit in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        assert not record_is_whole(bytes(damaged)), f"bit {bit}"


@pytest.mark.parametrize("name", CASES)
def test_a_record_of_another_length_is_not_whole(name: str) -> None:
    raw = build_record(*CASES[name])
    assert not record_is_whole(raw[:-1])
    assert not record_is_whole(raw + b"\0")
    assert not record_is_whole(b"")


def test_what_is_longer_than_a_record_can_be_is_none() -> None:
    with pytest.raises(ValueError, match="no record at byte 8"):
        parse_record(b"\0" * 8 + HEAD.pack(1, 0, MAX_SEGMENT + 1, 1), 8)


@pytest.mark.parametrize("locations", [[], [1], list(range(0, 4096, 7)), [U64]])
def test_the_list_of_fragments_is_parsed_as_it_was_built(locations: list[int]) -> None:
    raw = build_pieces(123_456, locations)
    assert parse_pieces(raw) == (123_456, *locations)
    assert parse_pieces(raw + b"torn") == (123_456, *locations)
