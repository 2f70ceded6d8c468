r"""The bytes of a snapshot: a header, blocks of entries, an end. All numbers are little-endian.

    header  magic (8 bytes) | format version (32 bits) | 0 (32) | created, Unix ms (64) | checksum (64)
    block   "data" | entries (32 bits) | bytes of what follows the checksum (64) | checksum (64) | entries
    entry   key length (16 bits) | flags (8) | metadata length (8) | value length (32) | deadline (64)
            | key | value | metadata
    end     "end\0" | blocks (32 bits) | entries (64) | bytes of all entries (64) | checksum (64)

A checksum is xxh3_64 of all of its part that is not the checksum; that of the end goes over the checksums
that came before it first, so that no block can be missing, come twice or stand elsewhere. A block is also
what is sent to and from a server, so it is small, unless one entry is not. A deadline is Unix time in ms, 0
for none: time that passes in a file counts. Version 1 had no metadata: its length is 0 in all entries.

In: entries, or bytes that anybody may have made. Out: bytes, or entries. Raised: ``SnapshotError``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

from xxhash import xxh3_64, xxh3_64_intdigest

from fastkv.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Iterable

Item: TypeAlias = tuple[bytes, bytes, int, int, bytes]
"""Key, value, flags (0 to 255), deadline as Unix time in ms (0 for none), metadata (at most 255 bytes)."""

MAGIC: Final = b"\x89fastkv\n"
VERSION: Final = 2
OLDEST_VERSION: Final = 1
"""The oldest version that is read."""

BLOCK_ENTRIES: Final = 256
"""The most entries of a block: writing them takes a server some 2 ms, in which it does nothing else."""
BLOCK_BYTES: Final = 512 << 10
"""The most bytes of a block's entries, if they are several."""
LATEST_DEADLINE_MS: Final = (1 << 53) - 1
"""The latest deadline: every program can count to it."""

_HEADER: Final = Struct("<8sIIQ")
_BLOCK: Final = Struct("<4sIQ")
_ENTRY: Final = Struct("<HBBIQ")
_END: Final = Struct("<4sIQQ")
_CHECKSUM: Final = Struct("<Q")
_DATA_KIND: Final = b"data"
_END_KIND: Final = b"end\0"

HEADER_BYTES: Final = _HEADER.size + _CHECKSUM.size
BLOCK_HEAD_BYTES: Final = _BLOCK.size + _CHECKSUM.size
END_BYTES: Final = _END.size + _CHECKSUM.size
ENTRY_HEAD_BYTES: Final = _ENTRY.size


def build_block(items: Iterable[Item]) -> bytes:
    """Build a block.

    Args:
        items: at most ``BLOCK_ENTRIES``, with at most ``BLOCK_BYTES`` and heads if they are several.

    Returns:
        Its bytes.
    """
    parts: list[bytes] = []
    for key, value, flags, deadline_ms, metadata in items:
        parts += (
            _ENTRY.pack(len(key), flags, len(metadata), len(value), deadline_ms),
            key,
            value,
            metadata,
        )
    body = b"".join(parts)
    head = _BLOCK.pack(_DATA_KIND, len(parts) // 4, len(body))
    return b"".join((head, _CHECKSUM.pack(_digest(head, body)), body))


def parse_block(block: bytes) -> list[Item]:
    """Read a block back, all of it or nothing.

    Args:
        block: its bytes, from its head to its last entry.

    Returns:
        The entries in order.

    Raises:
        SnapshotError: if it is not, byte for byte, what ``build_block`` makes.
    """
    count, size = parse_block_head(block[:BLOCK_HEAD_BYTES], len(block) - BLOCK_HEAD_BYTES)
    if size != len(block) - BLOCK_HEAD_BYTES:
        raise _malformed()
    (checksum,) = _CHECKSUM.unpack_from(block, _BLOCK.size)
    view = memoryview(block)
    if checksum != _digest(view[: _BLOCK.size], view[BLOCK_HEAD_BYTES:]):
        raise SnapshotError("The checksum of a block does not fit.")
    items: list[Item] = []
    at, end = BLOCK_HEAD_BYTES, len(block)
    for _ in range(count):
        if at + ENTRY_HEAD_BYTES > end:
            raise _malformed()
        key_len, flags, metadata_len, value_len, deadline_ms = _ENTRY.unpack_from(block, at)
        value_at = at + ENTRY_HEAD_BYTES + key_len
        metadata_at = value_at + value_len
        at = metadata_at + metadata_len
        if not key_len or at > end or deadline_ms > LATEST_DEADLINE_MS:
            raise _malformed()
        items.append(
            (
                block[value_at - key_len : value_at],
                block[value_at:metadata_at],
                flags,
                deadline_ms,
                block[metadata_at:at],
            )
        )
    if at != end:
        raise _malformed()
    return items


def parse_block_head(head: bytes, available: int) -> tuple[int, int]:
    """Read what a block says of itself, before the rest is read.

    Args:
        head: its first ``BLOCK_HEAD_BYTES``.
        available: how many bytes follow.

    Returns:
        How many entries it has, and how many bytes they take, at most ``available``.

    Raises:
        SnapshotError: if it is no block, is cut off, or is larger than one may be.
    """
    if len(head) < BLOCK_HEAD_BYTES:
        raise SnapshotError("A block is cut off.")
    kind, count, size = _BLOCK.unpack_from(head)
    if kind != _DATA_KIND:
        raise _malformed()
    if count > BLOCK_ENTRIES or (size > BLOCK_BYTES and count != 1):
        raise SnapshotError(f"A block has more than {BLOCK_ENTRIES} entries or {BLOCK_BYTES} bytes.")
    if size > available:
        raise SnapshotError("A block is cut off.")
    return count, size


def is_end(head: bytes) -> bool:
    """Tell whether what begins so is an end, and no block."""
    return head[: len(_END_KIND)] == _END_KIND


@dataclass(slots=True)
class Chain:
    """A snapshot from its header to its end: what was counted, and whether the end fits.

    Attributes:
        created_ms: Unix time in ms.
        version: of the format.
        blocks: how many there were.
        entries: how many they have.
        entry_bytes: how many bytes those take.
    """

    created_ms: int
    version: int = VERSION
    blocks: int = 0
    entries: int = 0
    entry_bytes: int = 0
    _digest: xxh3_64 = field(default_factory=xxh3_64)

    def build_header(self) -> bytes:
        """The bytes that a snapshot begins with."""
        head = _HEADER.pack(MAGIC, self.version, 0, self.created_ms)
        checksum = _CHECKSUM.pack(xxh3_64_intdigest(head))
        self._digest.update(checksum)
        return head + checksum

    @classmethod
    def parse_header(cls, header: bytes) -> Chain:
        """Begin to read.

        Args:
            header: the first ``HEADER_BYTES`` of a file.

        Returns:
            The chain.

        Raises:
            SnapshotError: if that begins no snapshot that can be read here.
        """
        if header[: len(MAGIC)] != MAGIC:
            raise SnapshotError("It is no snapshot of fastkv.")
        if len(header) < HEADER_BYTES:
            raise SnapshotError("Its header is cut off.")
        _, version, _, created_ms = _HEADER.unpack_from(header)
        chain = cls(created_ms, version)
        if chain.build_header() != header:
            raise SnapshotError("Its header is damaged.")
        if not OLDEST_VERSION <= version <= VERSION:
            raise SnapshotError(
                f"It has version {version} of the format; this fastkv reads {OLDEST_VERSION} to {VERSION}."
            )
        return chain

    def add(self, block: bytes) -> int:
        """Count a block.

        Args:
            block: a block, verified before or after.

        Returns:
            How many entries it has.
        """
        _, count, size = _BLOCK.unpack_from(block)
        self.blocks += 1
        self.entries += count
        self.entry_bytes += size
        self._digest.update(block[_BLOCK.size : BLOCK_HEAD_BYTES])
        return int(count)

    @property
    def file_bytes(self) -> int:
        """How many bytes the file has, once it has its end."""
        return HEADER_BYTES + self.blocks * BLOCK_HEAD_BYTES + self.entry_bytes + END_BYTES

    def build_end(self) -> bytes:
        """The bytes that a snapshot ends with."""
        end = _END.pack(_END_KIND, self.blocks & 0xFFFFFFFF, self.entries, self.entry_bytes)
        digest = self._digest.copy()
        digest.update(end)
        return end + _CHECKSUM.pack(digest.intdigest())

    def check_end(self, end: bytes) -> None:
        """Compare the end of a file with what came before it.

        Args:
            end: what follows the last block.

        Raises:
            SnapshotError: if it is another one than it has to be.
        """
        if end != self.build_end():
            raise SnapshotError("Its end does not fit what came before it.")


def _digest(head: bytes | memoryview, body: bytes | memoryview) -> int:
    digest = xxh3_64(head)
    digest.update(body)
    return digest.intdigest()


def _malformed() -> SnapshotError:
    return SnapshotError("A block is malformed.")
