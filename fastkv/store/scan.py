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
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from fastkv.store.cursors import Cursors, Place
from fastkv.store.layout import (
    BUCKET_WORDS,
    SEG_COVERS,
    SH_VERSION,
    TAG_MASK,
    TAG_SHIFT,
    WORD,
)
from fastkv.store.records import (
    CALLER_FLAGS,
    DEADLINE,
    FRAGMENT,
    LARGE,
    head_bytes,
    parse_pieces,
    split_metadata,
    unpack_deadline,
    unpack_head,
    whole_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from fastkv.glob import Glob
    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard

T = TypeVar("T")

Scanned: TypeAlias = tuple[bytes, bytes, int, int, int, bytes]
"""What scan returns: key, value, the caller's flags, version, deadline in ms (0 for none), and the caller's
metadata (empty for none)."""

Stamp: TypeAlias = tuple[int, int]
"""A shard's last version and its sequence."""

ENTRY_OVERHEAD: Final = 16
"""What an entry counts for besides its key, value and metadata, in bytes."""

# Slots that are looked at, and if need be read under the lock, in one step. A page that holds nothing is one
# comparison; 8,192 of its slots count as a step, because their memory may have to be mapped first. After so
# many steps a call begins no further page; the page that it has begun it
# finishes. After `_MOST_LOOKS` entries, 2.5 µs each, it ends in the page: all may be past their deadlines.
_CHUNK_WORDS: Final = 1024
_BLANK_SHIFT: Final = 13
_CHUNKS: Final = 32
_MOST_LOOKS: Final = 1024
_TRIES: Final = 4
_ANY_SIZE: Final = 1 << 62


class Holder(Protocol):
    """What is wanted of a ``Guard``."""

    def holding(self, shard: Shard) -> AbstractContextManager[None]:
        """Hold a shard's lock."""


class Stretch(NamedTuple, Generic[T]):
    """What a few slots of a page hold.

    Attributes:
        found: what was made of their entries; of a ``KeyScanner`` those that match.
        end: the number of the word at which it stopped.
        full: whether a bound was met there.
        looked: how many slots held something.
        met: how many entries there were, whether or not they match.
        size: what these count for, in bytes.
    """

    found: list[T]
    end: int
    full: bool
    looked: int
    met: int
    size: int


class Page(NamedTuple, Generic[T]):
    """What one call finds.

    Attributes:
        found: as in ``Stretch``.
        cursor: where to go on; 0 if there is nothing left.
        met: as in ``Stretch``.
        settled: how many of ``found`` are of shards that the walk has left behind; -1 if it has left none
            since the call began. What was found in a shard may be found there again, but in no other.
        begun: the stamp of the shard in which the call began, from before it was read.
        ended: the stamp of the shard in which it ended, likewise; None if one of those that it has read was
            given another stamp meanwhile. As long as a shard's stamp is the same, no entry was put into it
            and none has moved: then nothing is found there twice.
    """

    found: list[T]
    cursor: int
    met: int
    settled: int
    begun: Stamp
    ended: Stamp | None


class Slots(Protocol[T]):
    """What goes through slots: a ``Walker`` itself, or its compiled part."""

    def slots(
        self,
        base: int,
        start: int,
        end: int,
        room: int,
        most: int,
        now_ms: int,
        first: bool,
        glob: Glob | None,
    ) -> Stretch[T]:
        """Read the entries of a few slots."""


class Walker(Generic[T]):
    """Walks through the entries of a store, and makes something of each.

    Attributes:
        compiled: goes through slots as this one does; None where there is no compiled core.
    """

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
        "compiled",
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
        self.compiled: Slots[T] | None = None

    def page(
        self,
        cursor: int,
        clock: Callable[[], int],
        limit_bytes: int,
        limit_entries: int,
        glob: Glob | None = None,
    ) -> Page[T]:
        """Read some entries; they do not count as accessed.

        Args:
            cursor: 0, or what the call before returned.
            clock: milliseconds now; an entry whose deadline has passed is left out.
            limit_bytes: the most to meet, ``ENTRY_OVERHEAD`` for each entry included. An entry that is
                larger than that comes alone.
            limit_entries: the most entries to meet, at least 1.
            glob: the pattern that keys have to match; None: any.

        Returns:
            The entries, perhaps none, for one call looks at 1,920 entries and 65,536 slots at most, besides
            the slots of pages that hold nothing; and the next cursor, 0 if there is nothing left.
            An entry may come twice if its page was split meanwhile: the later is the newer.

        Raises:
            WrongCursor: if the cursor is none of this store's.
            StoreBusy: if a lock was needed and not free within the bound.
        """
        place = self._cursors.decode(cursor)
        begun = stamp = self._stamp(place.shard)
        calm = True
        now_ms = clock()
        found: list[T] = []
        room, met, settled = limit_bytes, 0, -1
        page, before = place, 0
        steps, looks, full = 0, 0, False
        while not full and looks < _MOST_LOOKS and (place.word or steps < _CHUNKS):
            if not place.word:
                page, before = place, met
            some, after = self._step(place, room, limit_entries - met, now_ms, not met, glob)
            found += some.found
            room -= some.size
            met += some.met
            if after is None or after.shard != place.shard:
                settled = len(found)
                calm = calm and self._stamp(place.shard) == stamp
                if after is None:
                    return Page(found, 0, met, settled, begun, stamp if calm else None)
                stamp = self._stamp(after.shard)
            steps += max(1, (after.word or self._geometry.segment_words) - place.word >> _BLANK_SHIFT)
            place = after
            looks += some.looked
            full = some.full
        if full and met == before:
            place = page  # nothing came of this page yet, and its beginning is a smaller cursor
        calm = calm and self._stamp(place.shard) == stamp
        return Page(found, self._cursors.encode(place), met, settled, begun, stamp if calm else None)

    def _stamp(self, number: int) -> Stamp:
        """The stamp of a shard."""
        return self._words[self._shards[number].header + SH_VERSION], self._arena.sequence_of(number)

    def _step(
        self, place: Place, room: int, most: int, now_ms: int, first: bool, glob: Glob | None
    ) -> tuple[Stretch[T], Place | None]:
        """Read the entries of a few slots; under the shard's lock only if they do not hold still.

        Args:
            place: the first of the slots.
            room: bytes that may be met.
            most: how many entries may be met.
            now_ms: milliseconds now.
            first: whether the first entry may be of any size: else a large one could never be passed.
            glob: the pattern, None for any.

        Returns:
            What they hold; and the place behind them, None behind the last of all.
        """
        number = place[0]
        sequence = self._arena.sequence_of(number)
        if not sequence & 1 and not self._locks:
            try:
                done = self._walk(place, room, most, now_ms, first, glob)
            except (_Disturbed, struct.error, ValueError, IndexError):
                pass  # it followed what was overwritten meanwhile
            else:
                if self._arena.sequence_of(number) == sequence:
                    return done
        with self._guard.holding(self._shards[number]):
            return self._walk(place, room, most, now_ms, first, glob)

    def _walk(
        self, place: Place, room: int, most: int, now_ms: int, first: bool, glob: Glob | None
    ) -> tuple[Stretch[T], Place | None]:
        """``_step``, to be believed if the sequence was even and has not changed, or under the lock."""
        number, entry, start = place
        words = self._geometry.segment_words
        base = self._directory[number << self._geometry.directory_bits | entry]
        if not start and self._mem[base << 3 : base + words << 3] == self._blank:
            return Stretch([], words, False, 0, 0, 0), self._behind_page(number, base)
        stretch = Stretch(
            *(self.compiled or self).slots(
                base, start, min(start + _CHUNK_WORDS, words), room, most, now_ms, first, glob
            )
        )
        if stretch.full or stretch.end < words:
            return stretch, Place(number, entry, stretch.end)
        return stretch, self._behind_page(number, base)

    def _behind_page(self, number: int, base: int) -> Place | None:
        """Where the next page begins: at the first directory entry that this one does not cover."""
        covers = self._words[self._segments.row(self._segments.segment_of(base)) + SEG_COVERS]
        bits = self._geometry.directory_bits
        entry = (covers + 1 << bits + 1 - covers.bit_length()) - (1 << bits)
        if entry < 1 << bits:
            return Place(number, entry, 0)
        return Place(number + 1, 0, 0) if number + 1 < len(self._shards) else None

    def slots(
        self,
        base: int,
        start: int,
        end: int,
        room: int,
        most: int,
        now_ms: int,
        first: bool,
        glob: Glob | None,
    ) -> Stretch[T]:
        """Read the entries of a few slots, as ``_step`` says.

        Args:
            base: where their page begins.
            start: the first word of the page to look at.
            end: the one behind the last.
            room: as for ``_step``.
            most: as for ``_step``.
            now_ms: as for ``_step``.
            first: as for ``_step``.
            glob: as for ``_step``.

        Raises:
            _Disturbed, struct.error, ValueError, IndexError: without the lock only.
        """
        found: list[T] = []
        looked = met = size = 0
        for at, word in enumerate(self._words[base + start : base + end].tolist(), start):
            if not word or not at % BUCKET_WORDS:  # empty, or the bucket's access counts
                continue
            looked += 1
            try:
                here = self._entry(base + at, _ANY_SIZE if first and not met else room - size, now_ms)
            except _NoRoom:
                return Stretch(found, at, True, looked, met, size)
            if here is None:
                continue
            if met == most:
                return Stretch(found, at, True, looked, met, size)
            met += 1
            size += self._size(here)
            if glob is None or glob.parts is None or glob.matches(self._key(here)):
                found.append(here)
        return Stretch(found, end, False, looked, met, size)

    def _entry(self, slot: int, room: int, now_ms: int) -> T | None:
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

    def _copy(self, word: int, room: int, now_ms: int) -> T | None:
        """Make something of the entry that a word refers to; as ``_entry``.

        Raises:
            struct.error, ValueError, IndexError: if there is none that is whole.
        """
        raise NotImplementedError

    def _size(self, item: T) -> int:
        """What an entry counts for against the bound of a call."""
        raise NotImplementedError

    def _key(self, item: T) -> bytes:
        """Its key."""
        raise NotImplementedError


class Scanner(Walker[Scanned]):
    """Walks through the entries of a store."""

    __slots__ = ()

    def scan(
        self, cursor: int, clock: Callable[[], int], limit_bytes: int, limit_entries: int
    ) -> tuple[list[Scanned], int]:
        """Read some entries, as ``page``; what is returned and the next cursor."""
        return self.page(cursor, clock, limit_bytes, limit_entries)[:2]

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

    def _size(self, item: Scanned) -> int:
        return ENTRY_OVERHEAD + len(item[0]) + len(item[1]) + len(item[5])

    def _key(self, item: Scanned) -> bytes:
        return item[0]


class KeyScanner(Walker[bytes]):
    """Walks through the keys of a store.

    No checksum is looked at, because that covers the value, which may be large and is not copied: it may be
    damaged, but the key is one that has the tag of its slot.
    """

    __slots__ = ()

    def scan_keys(
        self,
        cursor: int,
        clock: Callable[[], int],
        limit_bytes: int,
        limit_entries: int,
        glob: Glob | None = None,
    ) -> Page[bytes]:
        """Read some keys, as ``page``; those that match.

        A pattern that has no parts is matched here, when nothing is locked: that may take long.
        """
        page = self.page(cursor, clock, limit_bytes, limit_entries, glob)
        if glob is None or glob.parts is not None:
            return page
        split = max(page.settled, 0)
        before, behind = (
            list(filter(glob.matches, part)) for part in (page.found[:split], page.found[split:])
        )
        return page._replace(found=before + behind, settled=len(before) if page.settled >= 0 else -1)

    def _copy(self, word: int, room: int, now_ms: int) -> bytes | None:
        """The key of the record that a word refers to."""
        at = self._arena.location_of(word) << 3
        key_len, flags, _, version = unpack_head(self._mem, at)
        start = at + head_bytes(flags)
        deadline_ms = unpack_deadline(self._mem, start - WORD)[0] if flags & DEADLINE else 0
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
        return key

    def _size(self, item: bytes) -> int:
        return ENTRY_OVERHEAD + len(item)

    def _key(self, item: bytes) -> bytes:
        return item


class _NoRoom(Exception):
    """The entry would be more than may be returned."""


class _Disturbed(Exception):
    """A slot did not hold still."""
