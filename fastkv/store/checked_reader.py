"""Reading where a processor may show the stores of another one out of their order.

``Reader`` rests on that order: a read of a slot word sees the record that was written before it, and a copy
with the word unchanged behind it was made before the bytes were used again. x86-64 keeps that order; aarch64
keeps it only with fences, which Python does not have. So this reader trusts no order. What it copies without
the lock must vouch for itself: each record by its checksum, the entry's by the version in the slot word, each
fragment by the hash of its owner's key. What does not, and every miss, is looked up again under the shard's
lock, which orders everything. docs/concurrency.md argues both.
"""

from __future__ import annotations

from fastkv.store.layout import MAX_SEGMENT
from fastkv.store.reading import Entry, Reader
from fastkv.store.records import (
    CALLER_FLAGS,
    CHECKSUM_BYTES,
    FRAGMENT,
    LARGE,
    head_bytes,
    parse_pieces,
    parse_record,
    record_is_whole,
    split_metadata,
    unpack_head,
)


class CheckedReader(Reader):
    """A ``Reader`` that trusts no order of stores."""

    __slots__ = ()

    def _read_unlocked(self, key_hash: int, key: bytes, *, with_value: bool = True) -> Entry | None:
        """Copy an entry that vouches for itself.

        Raises:
            struct.error, ValueError, IndexError: if there is none, which may only seem so.
        """
        entry = self._read_locked(key_hash, key, with_value=with_value)
        if entry is None:
            raise ValueError("nothing to believe without the lock")
        return entry

    def _read_locked(self, key_hash: int, key: bytes, *, with_value: bool = True) -> Entry | None:
        """Copy an entry under the shard's lock; a record that does not vouch for itself is a miss."""
        slot, word = self._index.locate(key_hash, key)
        record = self._whole(self._arena.location_of(word)) if slot else None
        if record is None:
            return None
        found, content, flags, version, deadline_ms = record
        if found != key or not self._arena.names_version(word, version):
            return None
        value, metadata = split_metadata(content, flags)
        if not with_value:
            value = b""
        elif flags & LARGE:
            whole, *pieces = parse_pieces(value)
            fragments = [self._whole(piece) for piece in pieces]
            parts = [part[1] for part in fragments if part and part[2] & FRAGMENT and part[3] == key_hash]
            value = b"".join(parts)
            if len(parts) != len(pieces) or len(value) != whole:
                return None
        return value, flags & CALLER_FLAGS, version, deadline_ms, slot, word, metadata

    def _whole(self, location: int) -> tuple[bytes, bytes, int, int, int] | None:
        """``parse_record`` of a copy whose checksum fits, None if it does not."""
        mem, at = self._arena.mem, location << 3
        key_len, flags, content_len, _ = unpack_head(mem, at)
        size = head_bytes(flags) + key_len + content_len + CHECKSUM_BYTES
        # One copy, so that what is verified is what is used.
        raw = mem[at : at + size] if content_len <= MAX_SEGMENT else b""
        return parse_record(raw, 0) if record_is_whole(raw) else None
