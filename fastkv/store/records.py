"""What an entry looks like in the log: bytes in, bytes out.

    0   key length (16 bits) | flags (16) | content length (32)
    8   version (64); in a fragment the hash of its owner's key
    16  deadline in ms (64), only with DEADLINE
    ..  key, content, checksum: xxh32 over all that stands before it

With COMPACT, which is every record but those of large values, of keys without a byte or with more than 255,
and of versions past the year 4253, the head is 4 bytes shorter:

    0   key length (8 bits) | version, bits 48-55 | flags (16) | content length (16)
    6   version, bits 0-47
    12  deadline, key, content, checksum as above

The content is the value. With METADATA it is followed by up to 255 bytes that the caller has put beside the
value, and one byte that says how many; the content's length includes them, so only a reader of the value has
to know of them. Layout 4 had no METADATA, layout 5 no COMPACT; else their records are the same.

A record is padded to whole words, lies in one segment, and never changes once the index refers to it. A
value too large for that is cut into FRAGMENT records; its own record is marked LARGE and holds, in the
place of the value, the value's length and the fragments' locations.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from xxhash import xxh32, xxh32_digest

from fastkv.store.layout import MAX_SEGMENT, WORD

if TYPE_CHECKING:
    from mmap import mmap

HEAD: Final = Struct("<HHIQ")
HEAD_BYTES: Final = HEAD.size
COMPACT_BYTES: Final = 12
_DEADLINE: Final = Struct("<Q")
CHECKSUM_BYTES: Final = 4

# The low byte of the flags is the caller's, as with memcached's client flags.
CALLER_FLAGS: Final = 0xFF
DEADLINE: Final = 0x100
LARGE: Final = 0x200
FRAGMENT: Final = 0x400
METADATA: Final = 0x800
COMPACT: Final = 0x1000
# Of a version in a compact record: microseconds since 1970 take 51 today.
VERSION_BITS: Final = 56

MAX_METADATA_BYTES: Final = 255

# A key of one byte without a value, or a fragment of one byte.
LEAST_RECORD_WORDS: Final = 3

unpack_deadline = _DEADLINE.unpack_from


def unpack_head(mem: mmap | bytes, at: int) -> tuple[int, int, int, int]:
    """Read the head of a record.

    Args:
        mem: the arena.
        at: byte offset of the record. Without the shard's lock anything may stand there.

    Returns:
        Length of the key, flags, length of the content, and version.

    Raises:
        struct.error: if the arena ends before the head does.
    """
    key_len, flags, content_len, version = head = HEAD.unpack_from(mem, at)
    if not flags & COMPACT:
        return head
    version = key_len >> 8 << 48 | (version & 0xFFFFFFFF) << 16 | content_len >> 16
    return key_len & 0xFF, flags, content_len & 0xFFFF, version


def pack_head(key_len: int, flags: int, content_len: int, version: int) -> bytes:
    """The head of a record, without its deadline.

    Args:
        key_len: bytes of the key.
        flags: its flags; COMPACT is set where it can be, and only there.
        content_len: bytes of the content.
        version: 64 bits.
    """
    if flags & (LARGE | FRAGMENT) or not 0 < key_len < 1 << 8 or content_len >> 16 or version >> VERSION_BITS:
        return HEAD.pack(key_len, flags & ~COMPACT, content_len, version)
    first = key_len | version >> 48 << 8, flags | COMPACT, content_len | (version & 0xFFFF) << 16
    return HEAD.pack(*first, version >> 16)[:COMPACT_BYTES]


def head_bytes(flags: int) -> int:
    """How far a record's key is from its beginning, in bytes."""
    return (COMPACT_BYTES if flags & COMPACT else HEAD_BYTES) + (WORD if flags & DEADLINE else 0)


def record_words(key_len: int, flags: int, content_len: int) -> int:
    """The length of a record in words.

    Args:
        key_len: bytes of the key.
        flags: its flags.
        content_len: bytes of the content.

    Returns:
        Words, padding included.
    """
    return (head_bytes(flags) + key_len + content_len + CHECKSUM_BYTES + WORD - 1) >> 3


def join_metadata(value: bytes, metadata: bytes, flags: int) -> tuple[bytes, int]:
    """The content that holds a value and its metadata.

    Args:
        value: the value, or a LARGE record's list.
        metadata: at most ``MAX_METADATA_BYTES``; empty for none.
        flags: the record's.

    Returns:
        The content, and the flags with METADATA where there is any.

    Raises:
        ValueError: if the metadata is too long.
    """
    if not metadata:
        return value, flags & ~METADATA
    if len(metadata) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata of {len(metadata)} bytes")
    return b"%b%b%c" % (value, metadata, len(metadata)), flags | METADATA


def split_metadata(content: bytes, flags: int) -> tuple[bytes, bytes]:
    """Take a record's content apart.

    Args:
        content: the content. Without the shard's lock it may be anything, and then so is what is returned.
        flags: the record's.

    Returns:
        The value, or a LARGE record's list, and the metadata.
    """
    trailing = trailing_bytes(content, flags)
    if not trailing:
        return content, b""
    return content[:-trailing], content[-trailing:-1]


def trailing_bytes(content: bytes, flags: int) -> int:
    """How many bytes follow the value in a record's content: the metadata and its length.

    Args:
        content: the content; without the shard's lock it may be anything.
        flags: the record's.
    """
    return content[-1] + 1 if flags & METADATA and content else 0


def build_record(key: bytes, content: bytes, flags: int, version: int, deadline_ms: int) -> bytes:
    """The bytes of a record, without padding.

    Args:
        key: at most 65,535 bytes; empty in a fragment.
        content: as ``join_metadata`` made it, or a fragment's piece of the value.
        flags: the caller's low byte, METADATA, and LARGE or FRAGMENT; DEADLINE and COMPACT are as they have
            to be.
        version: 64 bits.
        deadline_ms: 0 for none.

    Returns:
        The record.
    """
    if deadline_ms:
        head = pack_head(len(key), flags | DEADLINE, len(content), version) + _DEADLINE.pack(deadline_ms)
    else:
        head = pack_head(len(key), flags, len(content), version)
    body = head + key + content
    return body + xxh32_digest(body)


def build_fragment(piece: memoryview, key_hash: int) -> tuple[bytes, memoryview, bytes]:
    """The parts of a fragment, so that its piece of the value is copied but once.

    Args:
        piece: of the value, at least a byte.
        key_hash: the hash of its owner's key.

    Returns:
        Head, piece and checksum.
    """
    head = pack_head(0, FRAGMENT, len(piece), key_hash)
    checksum = xxh32(head)
    checksum.update(piece)
    return head, piece, checksum.digest()


def key_of(mem: mmap, at: int) -> bytes:
    """Copy a record's key out of the arena.

    Args:
        mem: the arena.
        at: byte offset of the record. Without the shard's lock anything may stand there.

    Returns:
        The key; empty for a fragment.

    Raises:
        struct.error: if the arena ends before the record's head does.
    """
    key_len, flags, _, _ = unpack_head(mem, at)
    start = at + head_bytes(flags)
    return mem[start : start + key_len]


def parse_record(mem: mmap | bytes, at: int) -> tuple[bytes, bytes, int, int, int]:
    """Copy a record out of the arena.

    Args:
        mem: the arena.
        at: byte offset of the record. Without the shard's lock anything may stand there.

    Returns:
        Key, content, flags, version and deadline in ms (0 for none).

    Raises:
        struct.error: if the arena ends before the record's head does.
        ValueError: if it is longer than any record can be, so that what stands there is none.
    """
    key_len, flags, content_len, version = unpack_head(mem, at)
    if content_len > MAX_SEGMENT:
        raise ValueError(f"no record at byte {at}")
    start = at + head_bytes(flags)
    deadline_ms = unpack_deadline(mem, start - WORD)[0] if flags & DEADLINE else 0
    middle = start + key_len
    return mem[start:middle], mem[middle : middle + content_len], flags, version, deadline_ms


def record_is_whole(raw: bytes) -> bool:
    """Tell whether a record is what was written.

    Args:
        raw: its bytes, without padding.

    Returns:
        True if the checksum fits.
    """
    return len(raw) > HEAD_BYTES and xxh32_digest(raw[:-CHECKSUM_BYTES]) == raw[-CHECKSUM_BYTES:]


def whole_record(mem: mmap | bytes, at: int, end: int) -> tuple[bytes, bytes, int, int, int] | None:
    """Copy a record out of an arena that may be damaged.

    Args:
        mem: the arena.
        at: byte offset of what may be a record.
        end: where its segment ends.

    Returns:
        As for ``parse_record``; None if no record that is what was written lies there.
    """
    if at + HEAD_BYTES > end:
        return None
    key_len, flags, content_len, _ = unpack_head(mem, at)
    size = head_bytes(flags) + key_len + content_len + CHECKSUM_BYTES
    if at + size > end:
        return None
    raw = mem[at : at + size]
    return parse_record(raw, 0) if record_is_whole(raw) else None


def build_filler(words: int) -> bytes:
    """The head of a dead record without a key.

    Args:
        words: how far it reaches, at least LEAST_RECORD_WORDS.

    Raises:
        struct.error: if that is less than a record can have.
    """
    return HEAD.pack(0, 0, (words << 3) - HEAD_BYTES - CHECKSUM_BYTES, 0)


def build_pieces(value_len: int, locations: list[int]) -> bytes:
    """What a LARGE record holds in the place of its value.

    Args:
        value_len: length of the whole value in bytes.
        locations: where its fragments lie, in order.

    Returns:
        The list as bytes.
    """
    return Struct(f"<{len(locations) + 1}Q").pack(value_len, *locations)


def parse_pieces(raw: bytes) -> tuple[int, ...]:
    """Read back what ``build_pieces`` wrote.

    Args:
        raw: the list as bytes; a torn read may have any length and content.

    Returns:
        The value's length in bytes, then the locations of its fragments.
    """
    return Struct(f"<{len(raw) // WORD}Q").unpack_from(raw)
