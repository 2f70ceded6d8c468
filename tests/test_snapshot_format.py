"""The bytes of a snapshot: what was written is read, and nothing else is."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from fastkv.errors import SnapshotError
from fastkv.snapshot.format import (
    BLOCK_BYTES,
    BLOCK_ENTRIES,
    BLOCK_HEAD_BYTES,
    HEADER_BYTES,
    LATEST_DEADLINE_MS,
    Chain,
    Item,
    build_block,
    is_end,
    parse_block,
)

CREATED_MS = 1_790_000_000_000
ITEMS: list[Item] = [
    (b"name", b"value", 1, 0, b""),
    (b"\x00\xff\n", b"", 0, CREATED_MS + 1, b"text/html"),
    (b"k" * 300, bytes(range(256)), 255, LATEST_DEADLINE_MS, b"m" * 255),
]
A_BLOCK = build_block(ITEMS)

items = st.tuples(
    st.binary(min_size=1, max_size=40),
    st.binary(max_size=200),
    st.integers(0, 255),
    st.integers(0, LATEST_DEADLINE_MS),
    st.binary(max_size=255),
)


def sealed(count: int, body: bytes, size: int | None = None, kind: bytes = b"data") -> bytes:
    """A block whose checksum fits, whatever else is wrong with it."""
    head = struct.pack("<4sIQ", kind, count, len(body) if size is None else size)
    return head + struct.pack("<Q", xxh3_64_intdigest(head + body)) + body


def entry(key_len: int, value_len: int, rest: bytes, *, metadata_len: int = 0, deadline_ms: int = 0) -> bytes:
    return struct.pack("<HBBIQ", key_len, 0, metadata_len, value_len, deadline_ms) + rest


# -- blocks --------------------------------------------------------------------------------------------------


@given(st.lists(items, max_size=BLOCK_ENTRIES))
def test_a_block_comes_back(entries: list[Item]) -> None:
    assert parse_block(build_block(entries)) == entries


def test_the_bytes_of_a_block() -> None:
    body = b"\x01\0\x05\x03\x02\0\0\0\x07\0\0\0\0\0\0\0" + b"kvvmmm"
    head = b"data" + b"\x01\0\0\0" + b"\x16\0\0\0\0\0\0\0"
    checksum = xxh3_64_intdigest(head + body).to_bytes(8, "little")
    assert build_block([(b"k", b"vv", 5, 7, b"mmm")]) == head + checksum + body


@pytest.mark.parametrize("at", range(len(A_BLOCK)))
def test_every_bit_of_a_block_counts(at: int) -> None:
    for bit in range(8):
        damaged = bytearray(A_BLOCK)
        damaged[at] ^= 1 << bit
        with pytest.raises(SnapshotError):
            parse_block(bytes(damaged))


def test_a_block_ends_where_it_says() -> None:
    for size in range(len(A_BLOCK)):
        with pytest.raises(SnapshotError):
            parse_block(A_BLOCK[:size])
    with pytest.raises(SnapshotError):
        parse_block(A_BLOCK + b"\0")


LIES = {
    "an end": sealed(1, b"", kind=b"end\0"),
    "another kind": sealed(1, entry(1, 0, b"k"), kind=b"DATA"),
    "an entry that is not there": sealed(1, b""),
    "an entry too many": sealed(0, entry(1, 0, b"k")),
    "an entry too few": sealed(2, entry(1, 0, b"k")),
    "a huge count": sealed(0xFFFFFFFF, entry(1, 0, b"k")),
    "more entries than a block may have": sealed(BLOCK_ENTRIES + 1, entry(1, 0, b"k") * (BLOCK_ENTRIES + 1)),
    "more bytes than a block may have": sealed(
        2, entry(1, BLOCK_BYTES, bytes(BLOCK_BYTES + 1)) + entry(1, 0, b"k")
    ),
    "an empty key": sealed(1, entry(0, 1, b"v")),
    "metadata past the end": sealed(1, entry(1, 0, b"k", metadata_len=1)),
    "metadata that takes what the next entry has": sealed(
        2, entry(1, 0, b"k", metadata_len=1) + entry(1, 0, b"k")
    ),
    "a deadline too late": sealed(1, entry(1, 0, b"k", deadline_ms=LATEST_DEADLINE_MS + 1)),
    "the latest deadline of all": sealed(1, entry(1, 0, b"k", deadline_ms=(1 << 64) - 1)),
    "a key past the end": sealed(1, entry(2, 0, b"k")),
    "a value past the end": sealed(1, entry(1, 1, b"k")),
    "a huge value": sealed(1, entry(1, 0xFFFFFFFF, b"k")),
    "a byte too many": sealed(1, entry(1, 0, b"kk")),
    "an entry that is cut off": sealed(1, entry(1, 0, b"k")[:15]),
    "a second one that is cut off": sealed(2, entry(1, 0, b"k") + bytes(15)),
    "no length": sealed(1, entry(1, 0, b"k"), size=0),
    "a huge length": sealed(1, entry(1, 0, b"k"), size=(1 << 64) - 1),
}


@pytest.mark.parametrize("name", LIES)
def test_a_block_whose_numbers_lie(name: str) -> None:
    with pytest.raises(SnapshotError):
        parse_block(LIES[name])


def test_one_entry_may_be_as_large_as_it_is() -> None:
    large = [(b"k", bytes(3 * BLOCK_BYTES), 0, 0, b"m")]
    assert parse_block(build_block(large)) == large


@settings(max_examples=500)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_whatever_comes_is_read_or_refused(body: bytes, count: int) -> None:
    for block in (body, sealed(count, body)):
        try:
            entries = parse_block(block)
        except SnapshotError:
            continue
        assert build_block(entries) == block


# -- from the header to the end ------------------------------------------------------------------------------


def snapshot_of(*blocks: bytes) -> bytes:
    chain = Chain(CREATED_MS)
    raw = chain.build_header()
    for block in blocks:
        chain.add(block)
        raw += block
    return raw + chain.build_end()


def read(raw: bytes) -> list[Item]:
    """Read a snapshot as a file is read."""
    chain = Chain.parse_header(raw[:HEADER_BYTES])
    assert chain.created_ms == CREATED_MS
    at, found = HEADER_BYTES, []
    while not is_end(raw[at:]):
        size = int.from_bytes(raw[at + 8 : at + 16], "little") + BLOCK_HEAD_BYTES
        found += parse_block(raw[at : at + size])
        chain.add(raw[at : at + size])
        at += size
    chain.check_end(raw[at:])
    assert (chain.entries, chain.file_bytes) == (len(found), len(raw))
    return found


@given(st.lists(st.lists(items, max_size=5), max_size=5))
def test_a_snapshot_comes_back(blocks: list[list[Item]]) -> None:
    assert read(snapshot_of(*map(build_block, blocks))) == [item for block in blocks for item in block]


def test_no_block_may_be_missing_repeated_or_elsewhere() -> None:
    one, two, three = (build_block([(key, b"v", 0, 0, b"")]) for key in (b"1", b"2", b"3"))
    whole = snapshot_of(one, two, three)
    header, end = whole[:HEADER_BYTES], whole[-32:]
    assert read(header + one + two + three + end) == [
        (b"1", b"v", 0, 0, b""),
        (b"2", b"v", 0, 0, b""),
        (b"3", b"v", 0, 0, b""),
    ]
    for blocks in (one + two, one + three + two, one + two + two + three, one + one + three, b""):
        with pytest.raises(SnapshotError, match="does not fit"):
            read(header + blocks + end)
    other_header = Chain(CREATED_MS + 1).build_header()
    with pytest.raises(SnapshotError, match="does not fit"):
        Chain.parse_header(other_header).check_end(snapshot_of()[-32:])


def test_a_snapshot_of_the_first_version_is_read() -> None:
    """Byte for byte as it was written, where the metadata's length was a reserved byte."""
    head = b"\x89fastkv\n" + struct.pack("<IIQ", 1, 0, CREATED_MS)
    head += struct.pack("<Q", xxh3_64_intdigest(head))
    block = sealed(1, b"\x01\0\x01\0\x02\0\0\0\x07\0\0\0\0\0\0\0" + b"kvv")
    end = struct.pack("<4sIQQ", b"end\0", 1, 1, 19)
    end += struct.pack("<Q", xxh3_64_intdigest(head[24:] + block[16:24] + end))
    assert read(head + block + end) == [(b"k", b"vv", 1, 7, b"")]


def test_what_is_no_snapshot() -> None:
    header = Chain(CREATED_MS).build_header()
    other = {}
    for version in (0, 3):
        head = struct.pack("<8sIIQ", header[:8], version, 0, CREATED_MS)
        other[version] = head + struct.pack("<Q", xxh3_64_intdigest(head))
    for raw, sentence in (
        (b"", "It is no snapshot of fastkv."),
        (b"SQLite format 3\0" * 4, "It is no snapshot of fastkv."),
        (header[:20], "Its header is cut off."),
        (header[:8] + b"\x03" + header[9:], "Its header is damaged."),
        (header[:30] + b"\0\0", "Its header is damaged."),
        (other[0], "It has version 0 of the format; this fastkv reads 1 to 2."),
        (other[3], "It has version 3 of the format; this fastkv reads 1 to 2."),
    ):
        with pytest.raises(SnapshotError) as caught:
            Chain.parse_header(raw)
        assert str(caught.value) == sentence
