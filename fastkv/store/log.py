"""A shard's log: records in, locations out, and the count of what is dead.

Records are appended to the open segment; a full one is closed and queued. There are two logs, for the small
queue, where entries begin, and for the main queue, where those are kept that proved themselves. Everything
here runs under the shard's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.store.layout import (
    MAIN_STATES,
    OPEN,
    OPEN_MAIN,
    RESERVE,
    SEG_HEAD,
    SEG_STATE,
    SH_OPEN,
    SH_OPEN_MAIN,
    SHARD_WORDS,
    WORD,
)
from fastkv.store.records import (
    CHECKSUM_BYTES,
    COMPACT,
    DEADLINE,
    FRAGMENT,
    HEAD_BYTES,
    LARGE,
    build_fragment,
    parse_pieces,
    parse_record,
    record_words,
    split_metadata,
    trailing_bytes,
    unpack_head,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastkv.core import fragments as compiled
    from fastkv.store.arena import Arena
    from fastkv.store.segments import Segments


class Log:
    """The log of one shard.

    Attributes:
        number: the shard's, from 0.
        header: word offset of the shard's header.
        compiled: appends and buries fragments; None where there is no compiled core.
    """

    __slots__ = ("_arena", "_geometry", "_mem", "_segments", "_words", "compiled", "header", "number")

    def __init__(self, number: int, arena: Arena, segments: Segments) -> None:
        """Bind to an arena; nothing is written.

        Args:
            number: the shard's, from 0.
            arena: the arena.
            segments: the pool.
        """
        geometry = arena.geometry
        self.number = number
        self.header = geometry.shards_at + number * SHARD_WORDS
        self._arena = arena
        self._geometry = geometry
        self._mem = arena.mem
        self._words = arena.words
        self._segments = segments
        self.compiled: compiled.Fragments | None = None

    def segments_for(self, key_len: int, content_len: int) -> int:
        """How many segments a write may have to take out of the pool, but for one for an index page.

        Args:
            key_len: bytes.
            content_len: bytes of value and metadata.

        Returns:
            Segments.
        """
        if record_words(key_len, DEADLINE, content_len) <= self._geometry.inline_words:
            return 1
        return content_len // ((self._geometry.segment_words << 3) - HEAD_BYTES - CHECKSUM_BYTES) + 3

    def room_for(self, head: int, key: bytes, content: bytes, flags: int) -> tuple[int, int]:
        """What an entry takes, counted as ``append_pieces`` and ``append`` go about it.

        Args:
            head: words written in the open segment; those of a whole one if none is open.
            key: its key.
            content: value and metadata.
            flags: of its record.

        Returns:
            How many segments are opened for it, and the head afterwards.
        """
        opened = pieces = 0
        length = record_words(len(key), DEADLINE, len(content))
        trailing = trailing_bytes(content, flags)
        left = len(content) - trailing
        if left and length > self._geometry.inline_words:
            while left:
                if self._geometry.segment_words - head < self._geometry.inline_words:
                    opened, head = opened + 1, 0
                most = (self._geometry.segment_words - head << 3) - HEAD_BYTES - CHECKSUM_BYTES
                piece = min(left, most)
                head += record_words(0, FRAGMENT, piece)
                left -= piece
                pieces += 1
            length = record_words(len(key), DEADLINE, (1 + pieces) * WORD + trailing)
        elif 0 < len(key) < 1 << 8:
            length = record_words(len(key), COMPACT | DEADLINE, len(content))
        last, head = self.room_after(head, length)
        return opened + last, head

    def room_after(self, head: int, length: int) -> tuple[int, int]:
        """What one record takes.

        Args:
            head: as for ``room_for``.
            length: its words.

        Returns:
            As for ``room_for``.
        """
        return (0, head + length) if head + length <= self._geometry.segment_words else (1, length)

    def append(
        self, record: bytes, length: int, deadline_ms: int = 0, floor: int = RESERVE, *, main: bool = False
    ) -> int:
        """Write a record where no slot refers to yet.

        It counts as alive at once, lest its segment is freed before a slot refers to it: whoever does not
        publish it buries it.

        Args:
            record: its bytes.
            length: its words.
            deadline_ms: its deadline, 0 for none.
            floor: how many segments must stay in the pool.
            main: whether it belongs to the main queue. Besides, what was kept once will rather live on:
                what is overwritten all the time leaves segments without a live record behind, which are free
                at once.

        Returns:
            Its slot word without tag and version, 0 if the pool has no segment.
        """
        return self._append((record,), length, deadline_ms, floor, main=main)

    def _append(
        self, parts: Iterable[bytes | memoryview], length: int, deadline_ms: int, floor: int, *, main: bool
    ) -> int:
        """``append`` of a record in parts."""
        opened = self._words[self.header + (SH_OPEN_MAIN if main else SH_OPEN)]
        head = self.open_head(main=main)
        if head + length > self._geometry.segment_words:
            opened, head = self.open_segment(floor, main=main), 0
            if not opened:
                return 0
        location = self._arena.location_of(opened) + head
        at = location << 3
        for part in parts:
            self._mem[at : at + len(part)] = part
            at += len(part)
        self._words[self.row_of(opened) + SEG_HEAD] = head + length
        if deadline_ms:
            self._segments.note_deadline(self.header, location, deadline_ms)
        # Generation and location, as ``opened``.
        return opened + head

    def open_segment(self, floor: int = RESERVE, *, main: bool) -> int:
        """Close the open segment if there is one, and open another one.

        Args:
            floor: as for ``append``.
            main: which of the two.

        Returns:
            Where it begins, as a slot word without tag and version; 0 if the pool has none.
        """
        field = self.header + (SH_OPEN_MAIN if main else SH_OPEN)
        if self._words[field]:
            self.close_open(field)
        segment = self._segments.take(self.number, OPEN_MAIN if main else OPEN, floor)
        if not segment:
            return 0
        self._words[field] = opened = self._segments.place(segment)
        return opened

    def row_of(self, place: int) -> int:
        """The row of the segment in which a slot word's record lies."""
        return self._segments.row(self._segments.segment_named(place))

    def is_main(self, place: int) -> bool:
        """Tell whether a slot word's record belongs to the main queue."""
        return self._words[self.row_of(place) + SEG_STATE] & 0xFF in MAIN_STATES

    def open_head(self, *, main: bool) -> int:
        """How many words of an open segment are written.

        Args:
            main: which of the two.

        Returns:
            Words; those of a whole segment if none is open.
        """
        opened = self._words[self.header + (SH_OPEN_MAIN if main else SH_OPEN)]
        return self._words[self.row_of(opened) + SEG_HEAD] if opened else self._geometry.segment_words

    def close_open(self, field: int) -> None:
        """Close an open segment.

        Args:
            field: word of the header that holds it, ``SH_OPEN`` or ``SH_OPEN_MAIN`` past the header's start.
        """
        segment = self._segments.segment_named(self._words[field])
        self._words[field] = 0
        self._segments.close(self.header, self.number, segment)

    def append_pieces(
        self, key_hash: int, value: bytes | memoryview, floor: int = RESERVE, *, main: bool = False
    ) -> list[int]:
        """Write a value as fragments, into what is left of the open segment and then into new ones.

        Args:
            key_hash: the hash of its key, so that a fragment leads to its owner.
            value: the value, not empty.
            floor: as for ``append``.
            main: as for ``append``.

        Returns:
            Where the fragments lie, in order; none if the pool ran out of segments.
        """
        view = memoryview(value)
        locations, start = (
            self.compiled.append(self.number, key_hash, view, floor, main) if self.compiled else ([], 0)
        )
        while start < len(value):
            room = self._geometry.segment_words - self.open_head(main=main)
            if room < self._geometry.inline_words:
                room = self._geometry.segment_words
            piece = view[start : start + (room << 3) - HEAD_BYTES - CHECKSUM_BYTES]
            parts = build_fragment(piece, key_hash)
            place = self._append(parts, record_words(0, FRAGMENT, len(piece)), 0, floor, main=main)
            if not place:
                self.bury_pieces(locations)
                return []
            locations.append(self._arena.location_of(place))
            start += len(piece)
        return locations

    def length(self, location: int) -> int:
        """The words that a record takes, its fragments not counted.

        Args:
            location: where it lies.

        Returns:
            Words.
        """
        key_len, flags, content_len, _ = unpack_head(self._mem, location << 3)
        return record_words(key_len, flags, content_len)

    def pieces(self, location: int) -> tuple[int, ...]:
        """The fragments of a record.

        Args:
            location: where the record lies.

        Returns:
            Their locations in order, none if the record holds its value itself.
        """
        _, content, flags, _, _ = parse_record(self._mem, location << 3)
        return parse_pieces(split_metadata(content, flags)[0])[1:] if flags & LARGE else ()

    def bury(self, word: int, *, evicted: bool = False) -> None:
        """Discount a record that no slot refers to any more, and its fragments.

        Args:
            word: the slot word that referred to it.
            evicted: as for ``Segments.bury``.
        """
        location = self._arena.location_of(word)
        key_len, flags, content_len, _ = unpack_head(self._mem, location << 3)
        if flags & LARGE:
            self.bury_pieces(self.pieces(location), evicted=evicted)
        length = record_words(key_len, flags, content_len)
        self._segments.bury(self.header, location, length, evicted=evicted)

    def bury_pieces(self, pieces: Iterable[int], *, evicted: bool = False) -> None:
        """Discount records that nothing refers to any more.

        Args:
            pieces: their locations.
            evicted: as for ``Segments.bury``.
        """
        pieces = tuple(pieces)
        done = self.compiled.bury(self.number, pieces) if self.compiled and not evicted else 0
        for piece in pieces[done:]:
            self._segments.bury(self.header, piece, self.length(piece), evicted=evicted)
