"""One shard: what happens under its lock.

Every change keeps one order: record bytes into unpublished space → segment head → version → slot word →
counters. Readers look only at slot words, so a change is visible, whole, from the one 8-byte store on; an
owner that dies at any point leaves nothing that ``repair`` cannot count anew.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from xxhash import xxh32_digest

from fastkv.store.layout import (
    BUCKET_WORDS,
    CLOSED,
    OPEN,
    OPEN_KEPT,
    SEG_DEAD,
    SEG_GENERATION,
    SEG_HEAD,
    SEG_STATE,
    SEGMENT_ROW,
    SH_ENTRIES,
    SH_EVICTED,
    SH_MOST_DEAD,
    SH_OPEN,
    SH_OPEN_KEPT,
    SH_RELOCATED,
    SH_VERSION,
    SHARD_WORDS,
    TAG_MASK,
    TAG_SHIFT,
    Arena,
)
from fastkv.store.records import (
    CALLER_FLAGS,
    CHECKSUM_BYTES,
    DEADLINE,
    FRAGMENT,
    HEAD_BYTES,
    LARGE,
    build_pieces,
    build_record,
    pack_head,
    parse_pieces,
    parse_record,
    record_words,
    unpack_head,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastkv.store.index import Index
    from fastkv.store.lock import RobustLock
    from fastkv.store.segments import Segments


class Shard:
    """A shard's log and counters. All methods but ``segments_for`` want its lock held.

    Attributes:
        number: from 0.
        header: word offset of its header.
        lock: its lock.
    """

    __slots__ = (
        "_index",
        "_inline_words",
        "_locate",
        "_location_bits",
        "_location_mask",
        "_mem",
        "_open_at",
        "_open_base",
        "_open_head_at",
        "_opened",
        "_segment_shift",
        "_segment_words",
        "_segments",
        "_sequence",
        "_table",
        "_version_at",
        "_words",
        "header",
        "lock",
        "number",
    )

    def __init__(self, number: int, arena: Arena, lock: RobustLock, segments: Segments, index: Index) -> None:
        """Bind to an arena; nothing is written.

        Args:
            number: from 0.
            arena: the arena.
            lock: the shard's lock.
            segments: the pool.
            index: the index.
        """
        geometry = arena.geometry
        self.number = number
        self.header = geometry.shards_at + number * SHARD_WORDS
        self.lock = lock
        # The longest record that is not cut into fragments: closing a segment wastes less than an eighth.
        self._inline_words = geometry.segment_words // 8
        self._sequence = geometry.sequences_at + number
        self._mem = arena.mem
        self._words = arena.words
        self._segments = segments
        self._index = index
        self._segment_words = geometry.segment_words
        self._segment_shift = geometry.segment_words.bit_length() - 1
        self._location_bits = geometry.location_bits
        self._location_mask = index.location_mask
        self._table = geometry.table_at
        self._locate = index.locate
        # What ``put`` needs of the open segment, for as long as the header names the same one.
        self._open_at = self.header + SH_OPEN
        self._version_at = self.header + SH_VERSION
        self._opened = self._open_base = self._open_head_at = 0

    # -- the log ---------------------------------------------------------------------------------------

    def segments_for(self, key_len: int, value_len: int) -> int:
        """How many segments a write may have to take out of the pool, one for an index page included.

        Args:
            key_len: bytes.
            value_len: bytes.

        Returns:
            Segments.
        """
        if record_words(key_len, DEADLINE, value_len) <= self._inline_words:
            return 2
        return value_len // ((self._segment_words << 3) - HEAD_BYTES - CHECKSUM_BYTES) + 4

    def _append(self, record: bytes, length: int, deadline_ms: int = 0, *, kept: bool = False) -> int:
        """Write a record where no slot refers to yet.

        It counts as alive at once, lest its segment is freed before a slot refers to it: whoever does not
        publish it buries it.

        Args:
            record: its bytes.
            length: its words.
            deadline_ms: its deadline, 0 for none.
            kept: whether it is an old record that is kept, and not a new one. They lie in segments of
                their own: what was kept once will rather live on, and what is overwritten all the time
                leaves segments without a live record, which are free at once.

        Returns:
            Its slot word without the tag, 0 if the pool has no segment.
        """
        words = self._words
        field = self.header + (SH_OPEN_KEPT if kept else SH_OPEN)
        opened = words[field]
        row = self._row_of(opened)
        head = words[row + SEG_HEAD] if opened else self._segment_words
        if head + length > self._segment_words:
            if opened:
                self.close_open(field)
            segment = self._segments.take(self.number, OPEN_KEPT if kept else OPEN, reserve=kept)
            if not segment:
                return 0
            row = self._segments.row(segment)
            opened = words[row + SEG_GENERATION] << self._location_bits | self._segments.base(segment)
            words[field] = opened
            head = 0
        location = (opened & self._location_mask) + head
        at = location << 3
        self._mem[at : at + len(record)] = record
        words[row + SEG_HEAD] = head + length
        if deadline_ms:
            self._segments.note_deadline(location, deadline_ms)
        # A slot word without its tag, as ``opened``: generation and location.
        return opened + head

    def _row_of(self, place: int) -> int:
        """The row of the segment in which a slot word's record lies."""
        return self._segments.row(self._segments.segment_of(place & self._location_mask))

    def close_open(self, field: int) -> None:
        """Close an open segment.

        Args:
            field: word of the header that holds it, ``SH_OPEN`` or ``SH_OPEN_KEPT`` past the header's start.
        """
        segment = self._segments.segment_of(self._words[field] & self._location_mask)
        self._words[field] = 0
        self._segments.close(self.header, self.number, segment)

    def _append_pieces(self, key_hash: int, value: bytes, *, kept: bool = False) -> list[int]:
        """Write a value as fragments, into what is left of the open segment and then into new ones.

        Args:
            key_hash: the hash of its key, so that a fragment leads to its owner.
            value: the value, not empty.
            kept: as for ``_append``.

        Returns:
            Where the fragments lie, in order; none if the pool ran out of segments.
        """
        words = self._words
        locations: list[int] = []
        start = 0
        while start < len(value):
            opened = words[self.header + (SH_OPEN_KEPT if kept else SH_OPEN)]
            room = self._segment_words - words[self._row_of(opened) + SEG_HEAD] if opened else 0
            if room < self._inline_words:
                room = self._segment_words
            piece = value[start : start + (room << 3) - HEAD_BYTES - CHECKSUM_BYTES]
            record = build_record(b"", piece, FRAGMENT, key_hash, 0)
            place = self._append(record, record_words(0, FRAGMENT, len(piece)), kept=kept)
            if not place:
                self._bury_pieces(locations)
                return []
            locations.append(place & self._location_mask)
            start += len(piece)
        return locations

    def length(self, location: int) -> int:
        """The words that a record takes, its fragments not counted.

        Args:
            location: where it lies.

        Returns:
            Words.
        """
        key_len, flags, value_len, _ = unpack_head(self._mem, location << 3)
        return record_words(key_len, flags, value_len)

    def pieces(self, location: int) -> tuple[int, ...]:
        """The fragments of a record.

        Args:
            location: where the record lies.

        Returns:
            Their locations in order, none if the record holds its value itself.
        """
        _, value, flags, _, _ = parse_record(self._mem, location << 3)
        return parse_pieces(value)[1:] if flags & LARGE else ()

    # -- entries ---------------------------------------------------------------------------------------

    def put(self, key_hash: int, key: bytes, value: bytes, flags: int, deadline_ms: int) -> int:
        """Insert or replace an entry.

        Args:
            key_hash: the key's hash.
            key: the key.
            value: the value.
            flags: the caller's, 0 to 255.
            deadline_ms: 0 for none.

        Returns:
            The entry's version; 0 if room must be made first, and then nothing has changed.
        """
        slot, old, old_flags, old_len = self._locate(key_hash, key)
        if not slot:
            slot = self._vacancy(key_hash)
            if not slot:
                return 0
        words = self._words
        opened = words[self._open_at]
        if opened != self._opened:
            self._opened = opened
            self._open_base = opened & self._location_mask
            self._open_head_at = self._row_of(opened) + SEG_HEAD
        head = words[self._open_head_at]
        length = HEAD_BYTES + len(key) + len(value) + CHECKSUM_BYTES + 7 >> 3
        if deadline_ms or not opened or length > self._inline_words or head + length > self._segment_words:
            return self._insert(slot, old, key_hash, key, value, flags, deadline_ms)
        # From here on ``_insert`` and what it calls, written out for the ordinary case: 1.4 µs less.
        version = words[self._version_at] + 1
        body = pack_head(len(key), flags, len(value), version) + key + value
        at = self._open_base + head << 3
        self._mem[at : at + len(body) + CHECKSUM_BYTES] = body + xxh32_digest(body)
        words[self._open_head_at] = head + length
        words[self._version_at] = version
        words[slot] = (key_hash & TAG_MASK) << TAG_SHIFT | opened + head
        if not old:
            words[self.header + SH_ENTRIES] += 1
        elif old_flags > CALLER_FLAGS:
            self._bury(old)
        else:
            segment = (old & self._location_mask) >> self._segment_shift
            row = self._table + segment * SEGMENT_ROW
            dead = words[row + SEG_DEAD] + (HEAD_BYTES + len(key) + old_len + CHECKSUM_BYTES + 7 >> 3)
            words[row + SEG_DEAD] = dead
            if words[row + SEG_STATE] & 0xFF == CLOSED and (
                dead == words[row + SEG_HEAD] or dead > words[self.header + SH_MOST_DEAD]
            ):
                self._segments.free_if_dead(self.header, segment)
        return version

    def _insert(
        self, slot: int, old: int, key_hash: int, key: bytes, value: bytes, flags: int, deadline_ms: int
    ) -> int:
        """Write a record and make it the entry of a slot; the whole of what ``put`` does.

        Args:
            slot: the slot.
            old: the word that stands there, 0 if it is empty.
            key_hash: the key's hash.
            key: the key.
            value: the value.
            flags: the caller's.
            deadline_ms: 0 for none.

        Returns:
            As for ``put``.
        """
        words = self._words
        pieces: list[int] = []
        if record_words(len(key), DEADLINE, len(value)) > self._inline_words:
            pieces = self._append_pieces(key_hash, value)
            if not pieces:
                return 0
            flags |= LARGE
            value = build_pieces(len(value), pieces)
        version = words[self.header + SH_VERSION] + 1
        record = build_record(key, value, flags, version, deadline_ms)
        place = self._append(record, len(record) + 7 >> 3, deadline_ms)
        if not place:
            self._bury_pieces(pieces)
            return 0
        # Before the entry is seen: a version that a client was shown is never given again.
        words[self.header + SH_VERSION] = version
        words[slot] = (key_hash & TAG_MASK) << TAG_SHIFT | place
        if old:
            self._bury(old)
        else:
            words[self.header + SH_ENTRIES] += 1
        return version

    def _vacancy(self, key_hash: int) -> int:
        """An empty slot for a new key; splits the key's page, or evicts one entry, to get it."""
        while True:
            slot = self._index.vacancy(key_hash)
            if slot:
                self._mem[self._index.count_at(slot)] = 0
                return slot
            with self.several_steps():
                grown = self._index.split(self.header, self.number, key_hash)
            if grown is None:
                # The directory is as deep as a tag allows: the key's buckets are all the room there is.
                first, _ = self._index.buckets(key_hash)
                slots = range(first + 1, first + BUCKET_WORDS)
                slot = min(slots, key=lambda slot: self._mem[self._index.count_at(slot)])
                self.drop(slot, self._words[slot])
                self._words[self.header + SH_EVICTED] += 1
            elif not grown:
                return 0

    def _bury(self, word: int) -> None:
        """Discount a record that no slot refers to any more, and its fragments."""
        location = word & self._location_mask
        key_len, flags, value_len, _ = unpack_head(self._mem, location << 3)
        if flags & LARGE:
            self._bury_pieces(self.pieces(location))
        self._segments.bury(self.header, location, record_words(key_len, flags, value_len))

    def _bury_pieces(self, pieces: Iterable[int]) -> None:
        for piece in pieces:
            self._segments.bury(self.header, piece, self.length(piece))

    def drop(self, slot: int, word: int) -> None:
        """Remove an entry.

        Args:
            slot: its slot.
            word: the word that stands there.
        """
        self._words[slot] = 0
        self._words[self.header + SH_ENTRIES] -= 1
        self._bury(word)

    def relocate(self, slot: int, word: int) -> bool:
        """Move an entry's record, but not its fragments, to the log of what is kept.

        Args:
            slot: its slot.
            word: the word that stands there.

        Returns:
            False if there was no segment for it.
        """
        old = word & self._location_mask
        length = self.length(old)
        _, flags, _, _ = unpack_head(self._mem, old << 3)
        deadline_ms = self._words[old + 2] if flags & DEADLINE else 0
        new = self._append(self._mem[old << 3 : old + length << 3], length, deadline_ms, kept=True)
        if not new:
            return False
        self._words[slot] = word >> TAG_SHIFT << TAG_SHIFT | new
        self._segments.bury(self.header, old, length)
        self._words[self.header + SH_RELOCATED] += 1
        return True

    def relocate_piece(self, slot: int, word: int, piece: int) -> bool:
        """Move one fragment of a large entry; its record is written anew with the new list.

        Args:
            slot: the owner's slot.
            word: the word that stands there.
            piece: location of the fragment.

        Returns:
            False if there was no segment for it.
        """
        _, value, _, key_hash, _ = parse_record(self._mem, piece << 3)
        # It may have to be cut again to fill the open segment.
        moved = self._append_pieces(key_hash, value, kept=True)
        old = word & self._location_mask
        key, value, flags, version, deadline_ms = parse_record(self._mem, old << 3)
        whole, *pieces = parse_pieces(value)
        at = pieces.index(piece)
        value = build_pieces(whole, pieces[:at] + moved + pieces[at + 1 :])
        length = record_words(len(key), flags, len(value))
        record = build_record(key, value, flags & ~DEADLINE, version, deadline_ms)
        if (
            not moved
            or length > self._segment_words
            or not (new := self._append(record, length, deadline_ms, kept=True))
        ):
            self._bury_pieces(moved)
            return False
        self._words[slot] = word >> TAG_SHIFT << TAG_SHIFT | new
        self._bury_pieces((piece, old))
        self._words[self.header + SH_RELOCATED] += 1
        return True

    @contextmanager
    def several_steps(self) -> Iterator[None]:
        """Make the shard's sequence word odd for as long as readers must not trust what they find.

        If the block fails it stays odd: then the shard is repaired before anybody else gets the lock.
        """
        self._words[self._sequence] |= 1
        yield
        self._words[self._sequence] += 1
