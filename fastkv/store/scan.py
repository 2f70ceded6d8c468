"""Walking through all entries, a bounded piece at a time, while others write.

In: a cursor, 0 to begin with. Out: some entries, and the cursor to go on with, 0 once all were looked at. A
cursor is the whole state of a walk: no process keeps one or has to end one, and any process continues it.

An entry that exists from the first call to the last is returned at least once, as with Redis' SCAN. A
cursor is a place in the order of shard, tag and slot (``cursors``). As long as an entry exists its slot keeps
its place in the page, even when its record moves; only a split moves the slot, into a page that covers higher
tags than what is left of the old one. So no entry moves behind a cursor: one that stood in a page when that
was split in the middle of a walk through it is met in the new page, again or for the first time.

Slots are read as ``Reader`` reads them, without a lock: word → copy of the record → word unchanged; and the
shard's sequence even and unchanged over each few slots, because a split that is under way, or whose owner
died in it, is no state to walk through. (While it goes on, the order of its stores would do: what a page
covers is written before a slot is blanked, and read after the slots.)
A record is verified by its checksum, since what is copied out of here may be kept for long.
Where stores may be seen out of their order (``CheckedReader``) each few slots are read under the lock.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Protocol

from fastkv.store.cursors import Cursors, Place
from fastkv.store.layout import (
    BUCKET_WORDS,
    SEG_COVERS,
    TAG_MASK,
    TAG_SHIFT,
    WORD,
)
from fastkv.store.records import (
    CALLER_FLAGS,
    DEADLINE,
    FRAGMENT,
    HEAD_BYTES,
    LARGE,
    parse_pieces,
    split_metadata,
    unpack_deadline,
    unpack_head,
    whole_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard

Scanned = tuple[bytes, bytes, int, int, int, bytes]
"""What scan returns: key, value, the caller's flags, version, deadline in ms (0 for none), and the caller's
metadata (empty for none)."""

ENTRY_OVERHEAD: Final = 16
"""What an entry counts for besides its key, value and metadata, in bytes."""

# Slots that are looked at, and if need be read under the lock, in one step. A page that holds nothing is one
# comparison; 2,048 of its slots count as a step, because their memory may have to be mapped first. After so
# many steps a call begins no further page; the page that it has begun it
# finishes. After `_MOST_LOOKS` entries, 2.5 µs each, it ends in the page: all may be past their deadlines.
_CHUNK_WORDS: Final = 256
_BLANK_SHIFT: Final = 11
_CHUNKS: Final = 128
_MOST_LOOKS: Final = 1024
_TRIES: Final = 4
_ANY_SIZE: Final = 1 << 62


class Holder(Protocol):
    """What is wanted of a ``Guard``."""

    def holding(self, shard: Shard) -> AbstractContextManager[None]:
        """Hold a shard's lock."""


class Scanner:
    """Walks through the entries of a store."""

    __slots__ = (
        "_arena",
        "_blank",
        "_cursors",
        "_directory",
        "_geometry",
        "_guard",
        "_index",
        "_locks",
        "_mem",
        "_segments",
        "_shards",
        "_words",
    )

    def __init__(
        self,
        arena: Arena,
        shards: list[Shard],
        segments: Segments,
        index: Index,
        guard: Holder,
        *,
        locks: bool = False,
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            segments: its pool.
            index: its index.
            guard: holds a shard's lock.
            locks: whether it always holds the lock while it reads.
        """
        geometry = arena.geometry
        self._arena = arena
        self._geometry = geometry
        self._locks = locks
        self._mem = arena.mem
        self._words = arena.words
        self._shards = shards
        self._segments = segments
        self._index = index
        self._guard = guard
        self._directory = index.directory
        self._cursors = Cursors(geometry, arena.seed)
        self._blank = bytes(geometry.segment_bytes)

    def scan(
        self, cursor: int, clock: Callable[[], int], limit_bytes: int, limit_entries: int
    ) -> tuple[list[Scanned], int]:
        """Read some entries; they do not count as accessed.

        Args:
            cursor: 0, or what the call before returned.
            clock: milliseconds now; an entry whose deadline has passed is left out.
            limit_bytes: the most to return, ``ENTRY_OVERHEAD`` for each entry included. An entry that is
                larger than that comes alone.
            limit_entries: the most entries to return, at least 1.

        Returns:
            The entries, perhaps none, for one call looks at 1,248 entries and 65,536 slots at most, besides
            the slots of pages that hold nothing; and the next cursor, 0 if there is nothing left.
            An entry may come twice if its page was split meanwhile: the later is the newer.

        Raises:
            WrongCursor: if the cursor is none of this store's.
            StoreBusy: if a lock was needed and not free within the bound.
        """
        place = self._cursors.decode(cursor)
        now_ms = clock()
        entries: list[Scanned] = []
        room = limit_bytes
        page, before = place, 0
        steps, looks, full = 0, 0, False
        while not full and looks < _MOST_LOOKS and (place.word or steps < _CHUNKS):
            if not place.word:
                page, before = place, len(entries)
            found, after, full, looked = self._step(
                place, room, limit_entries - len(entries), now_ms, not entries
            )
            entries += found
            room -= sum(map(_counted_bytes, found))
            if after is None:
                return entries, 0
            steps += max(1, (after.word or self._geometry.segment_words) - place.word >> _BLANK_SHIFT)
            place = after
            looks += looked
        if full and len(entries) == before:
            place = page  # nothing came of this page yet, and its beginning is a smaller cursor
        return entries, self._cursors.encode(place)

    def _step(
        self, place: Place, room: int, most: int, now_ms: int, first: bool
    ) -> tuple[list[Scanned], Place | None, bool, int]:
        """Read the entries of a few slots; under the shard's lock only if they do not hold still.

        Args:
            place: the first of the slots.
            room: bytes that may be returned.
            most: how many entries may be returned.
            now_ms: milliseconds now.
            first: whether the first entry may be of any size: else a large one could never be passed.

        Returns:
            The entries; the place behind them, None behind the last of all; whether a bound was met; and how
            many slots held something.
        """
        number = place[0]
        sequence = self._arena.sequence_of(number)
        if not sequence & 1 and not self._locks:
            try:
                done = self._walk(place, room, most, now_ms, first)
            except (_Disturbed, struct.error, ValueError, IndexError):
                pass  # it followed what was overwritten meanwhile
            else:
                if self._arena.sequence_of(number) == sequence:
                    return done
        with self._guard.holding(self._shards[number]):
            return self._walk(place, room, most, now_ms, first)

    def _walk(
        self, place: Place, room: int, most: int, now_ms: int, first: bool
    ) -> tuple[list[Scanned], Place | None, bool, int]:
        """``_step``, to be believed if the sequence was even and has not changed, or under the lock."""
        number, entry, start = place
        base = self._directory[number << self._geometry.directory_bits | entry]
        if not start and self._mem[base << 3 : base + self._geometry.segment_words << 3] == self._blank:
            return [], self._behind_page(number, base), False, 0
        end = min(start + _CHUNK_WORDS, self._geometry.segment_words)
        found: list[Scanned] = []
        looked = 0
        for at, word in enumerate(self._words[base + start : base + end].tolist(), start):
            if not word or not at % BUCKET_WORDS:  # empty, or the bucket's access counts
                continue
            looked += 1
            try:
                here = self._entry(base + at, _ANY_SIZE if first and not found else room, now_ms)
            except _NoRoom:
                return found, Place(number, entry, at), True, looked
            if here is None:
                continue
            if len(found) == most:
                return found, Place(number, entry, at), True, looked
            found.append(here)
            room -= _counted_bytes(here)
        if end < self._geometry.segment_words:
            return found, Place(number, entry, end), False, looked
        return found, self._behind_page(number, base), False, looked

    def _behind_page(self, number: int, base: int) -> Place | None:
        """Where the next page begins: at the first directory entry that this one does not cover."""
        covers = self._words[self._segments.row(self._segments.segment_of(base)) + SEG_COVERS]
        bits = self._geometry.directory_bits
        entry = (covers + 1 << bits + 1 - covers.bit_length()) - (1 << bits)
        if entry < 1 << bits:
            return Place(number, entry, 0)
        return Place(number + 1, 0, 0) if number + 1 < len(self._shards) else None

    def _entry(self, slot: int, room: int, now_ms: int) -> Scanned | None:
        """The entry of a slot, None if there is none that is whole and not past its deadline.

        Raises:
            _NoRoom: if it is larger than what is left.
            _Disturbed: if it was overwritten again and again; never under the lock.
        """
        for _ in range(_TRIES):
            word = self._words[slot]
            try:
                entry = self._copy(word, room, now_ms) if word else None
            except (struct.error, ValueError, IndexError):
                entry = None  # damaged, if the word still stands there
            if self._words[slot] == word:
                return entry
        raise _Disturbed

    def _copy(self, word: int, room: int, now_ms: int) -> Scanned | None:
        """Copy and verify the record that a word refers to, and its fragments."""
        at = self._arena.location_of(word) << 3
        key, content, flags, version, deadline_ms = self._whole_record(at)
        if not self._arena.names_version(word, version) or flags & FRAGMENT:
            raise ValueError("not the word's record")
        if deadline_ms and deadline_ms <= now_ms:
            return None
        value, metadata = split_metadata(content, flags)
        value_len, *pieces = parse_pieces(value) if flags & LARGE else (len(value),)
        if ENTRY_OVERHEAD + len(key) + value_len + len(metadata) > room:
            raise _NoRoom
        if flags & LARGE:
            value = b"".join([self._whole_record(piece << 3)[1] for piece in pieces])
            if len(value) != value_len:
                raise ValueError("fragments that are not the value's")
        return key, value, flags & CALLER_FLAGS, version, deadline_ms, metadata

    def _whole_record(self, at: int) -> tuple[bytes, bytes, int, int, int]:
        """``whole_record``, which raises ValueError where there is none."""
        size = self._geometry.segment_bytes
        record = whole_record(self._mem, at, (at // size + 1) * size)
        if record is None:
            raise ValueError(f"the record at byte {at} is damaged")
        return record


class KeyScanner(Scanner):
    """Walks through the entries of a store without their values and metadata.

    No checksum is looked at, because that covers the value, which may be large and is not copied: it may be
    damaged, but the key is one that has the tag of its slot.
    """

    __slots__ = ()

    def _copy(self, word: int, room: int, now_ms: int) -> Scanned | None:
        """``Scanner._copy``, value and metadata empty."""
        at = self._arena.location_of(word) << 3
        key_len, flags, _, version = unpack_head(self._mem, at)
        start = at + HEAD_BYTES
        deadline_ms = 0
        if flags & DEADLINE:
            (deadline_ms,) = unpack_deadline(self._mem, start)
            start += WORD
        key = self._mem[start : start + key_len]
        if (
            not self._arena.names_version(word, version)
            or flags & FRAGMENT
            or (self._arena.hash_of(key) ^ word >> TAG_SHIFT) & TAG_MASK
        ):
            raise ValueError("not the word's record")
        if deadline_ms and deadline_ms <= now_ms:
            return None
        if ENTRY_OVERHEAD + key_len > room:
            raise _NoRoom
        return key, b"", flags & CALLER_FLAGS, version, deadline_ms, b""


def _counted_bytes(entry: Scanned) -> int:
    """What an entry counts for against the bound of a call."""
    return ENTRY_OVERHEAD + len(entry[0]) + len(entry[1]) + len(entry[5])


class _NoRoom(Exception):
    """The entry would be more than may be returned."""


class _Disturbed(Exception):
    """A slot did not hold still."""
