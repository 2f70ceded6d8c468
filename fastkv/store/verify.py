"""Telling what is whole in an arena that may be damaged, or half written.

A slot word and the record that it leads to vouch for each other: by the tag and the place of the slot, which
are the key's, by the segment's generation, by the record's version and by its checksum. Nothing here trusts
a length or a location, and nothing raises, whatever stands there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from fastkv import core
from fastkv.progress import PROGRESS
from fastkv.store.layout import (
    BUCKET_WORDS,
    HIGH_SHIFT,
    LOG_STATES,
    SECOND_BUCKET_SHIFT,
    SEG_COVERS,
    SEG_DEAD,
    SEG_DUE,
    SEG_GENERATION,
    SEG_HEAD,
    SEG_STATE,
    SH_DUE,
    SH_ENTRIES,
    SH_VERSION,
    TAG_BITS,
    TAG_SHIFT,
)
from fastkv.store.records import (
    CALLER_FLAGS,
    FRAGMENT,
    HEAD_BYTES,
    LARGE,
    LEAST_RECORD_WORDS,
    build_filler,
    parse_pieces,
    record_words,
    split_metadata,
    whole_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastkv.core import engine
    from fastkv.core import verify as compiled
    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.reading import Entry
    from fastkv.store.segments import Segments

# A bucket's first word: of each slot's count the two bits that a count can have.
_COUNTS = 0x0303030303030300
# Where a record lies and how long it is, in one number that sorts by the place.
LENGTH_BITS = 16
LENGTH_MASK = (1 << LENGTH_BITS) - 1

# Version, deadline in ms, and the places of its records.
Found: TypeAlias = tuple[int, int, list[int]]


class Survey:
    """What the slots of a shard lead to; those that lead to no whole entry of their own are emptied.

    ``fastkv.core.verify`` has the same in C.

    Attributes:
        entries: how many entries are whole.
        dropped: how many were not, and are not in their slots any more.
    """

    __slots__ = (
        "_arena",
        "_deadlines",
        "_live",
        "_newest",
        "_segments",
        "dropped",
        "entries",
    )

    def __init__(self, arena: Arena, segments: Segments, log: list[int]) -> None:
        """Begin with none.

        Args:
            arena: the arena.
            segments: its pool.
            log: the segments of the shard that are no pages.
        """
        self._arena = arena
        self._segments = segments
        # For each segment what is alive in it: location << LENGTH_BITS | words.
        self._live: dict[int, list[int]] = {segment: [] for segment in log}
        # Segment and deadline of those that have one.
        self._deadlines: list[tuple[int, int]] = []
        self._newest = self.entries = self.dropped = 0

    def look_through(self, base: int, covers: int, entry_at: Callable[[int, int], Found | None]) -> None:
        """Go through a page, and empty every slot that leads to no whole entry of its own.

        Args:
            base: where the page begins.
            covers: the tags that it covers, as the segment table has them.
            entry_at: called with a slot and its word; returns version, deadline and the places of the
                entry's records, its own first (location << LENGTH_BITS | words), or None if it is not whole.
        """
        words = self._arena.words
        depth = covers.bit_length() - 1
        foreign_shift, prefix = 64 - depth, covers ^ 1 << depth
        end = base + self._arena.geometry.segment_words
        for slot, word in enumerate(words[base:end].tolist(), base):
            if not word:
                continue
            if not slot & BUCKET_WORDS - 1:
                if word & ~_COUNTS:
                    words[slot] = word & _COUNTS
            elif word >> foreign_shift != prefix:
                words[slot] = 0  # a split has moved it to a deeper page
            elif found := entry_at(slot, word):
                self._count(*found)
            else:
                words[slot] = 0
                self.dropped += 1

    def _count(self, version: int, deadline_ms: int, places: list[int]) -> None:
        for place in places:
            self._live[self._segments.segment_of(place >> LENGTH_BITS)].append(place)
        if deadline_ms:
            self._deadlines.append((places[0] >> LENGTH_BITS, deadline_ms))
        self._newest = max(self._newest, version)
        self.entries += 1

    def recount(self, header: int) -> None:
        """Count entries and live words, and lay one dead record over each stretch of dead ones.

        What goes through a segment goes from record to record: dead ones have not been verified to be any.

        Args:
            header: word offset of the shard's header.

        Raises:
            struct.error: if records overlap.
        """
        words, mem, segments = self._arena.words, self._arena.mem, self._segments
        for segment, places in self._live.items():
            row = segments.row(segment)
            base = at = segments.base(segment)
            alive = 0
            places.sort()
            for place in places:
                location, length = place >> LENGTH_BITS, place & LENGTH_MASK
                if location != at:
                    mem[at << 3 : (at << 3) + HEAD_BYTES] = build_filler(location - at)
                at = location + length
                alive += length
            head = min(words[row + SEG_HEAD], self._arena.geometry.segment_words)
            if head - (at - base) < LEAST_RECORD_WORDS:
                head = at - base  # but for damage it is so already
            else:
                mem[at << 3 : (at << 3) + HEAD_BYTES] = build_filler(head - at + base)
            words[row + SEG_HEAD] = head
            words[row + SEG_DEAD] = head - alive
            words[row + SEG_DUE] = 0
        words[header + SH_DUE] = 0
        for location, deadline_ms in self._deadlines:
            segments.note_deadline(header, location, deadline_ms)
        words[header + SH_ENTRIES] = self.entries
        words[header + SH_VERSION] = max(words[header + SH_VERSION], self._newest)


class Verifier:
    """Looks entries up, and goes through the pages of a shard.

    Attributes:
        engine: the compiled engine of the store; None where there is none.
    """

    __slots__ = (
        "_arena",
        "_index",
        "_segments",
        "_shift",
        "engine",
    )

    def __init__(self, arena: Arena, segments: Segments, index: Index) -> None:
        """Bind to an arena.

        Args:
            arena: the arena.
            segments: its pool.
            index: where ``entry`` looks.
        """
        self._arena = arena
        self._segments = segments
        self._index = index
        self._shift = arena.geometry.segment_shift
        self.engine: engine.Engine | None = None

    def entry(self, key_hash: int, key: bytes) -> Entry | None:
        """Look a key up.

        Args:
            key_hash: its hash.
            key: the key.

        Returns:
            The entry, whatever its deadline; None if there is none that is whole. Its slot and word are
            those of no entry: it must not be recognised by them.
        """
        shard = self._arena.shard_of(key_hash)
        for _, word in self._index.candidates(key_hash):
            location = self._arena.location_of(word)
            found = self._record(shard, location)
            if found is None or found[0] != key or found[2] & FRAGMENT or not self._segments.is_current(word):
                continue
            _, content, flags, version, deadline_ms = found
            if not self._arena.names_version(word, version):
                continue
            value, metadata = split_metadata(content, flags)
            if flags & LARGE:
                pieces = self._pieces(key_hash, value)
                if pieces is None:
                    continue
                value = b"".join([piece for _, piece in pieces])
            return value, flags & CALLER_FLAGS, version, deadline_ms, 0, 0, metadata
        return None

    def _record(self, shard: int, location: int) -> tuple[bytes, bytes, int, int, int] | None:
        """The record at a location of a shard's log, if there is a whole one."""
        segment = location >> self._shift
        if not self._arena.geometry.first_segment <= segment < self._arena.geometry.segments:
            return None
        state = self._arena.words[self._segments.row(segment) + SEG_STATE]
        if state >> 8 != shard or state & 0xFF not in LOG_STATES:
            return None
        return whole_record(self._arena.mem, location << 3, segment + 1 << self._shift + 3)

    def _pieces(self, key_hash: int, listed: bytes) -> list[tuple[int, bytes]] | None:
        """The fragments of a large value.

        Args:
            key_hash: the hash of its key.
            listed: what stands in the place of the value.

        Returns:
            Location and piece of the value for each; None if one is not whole or not this key's.
        """
        shard = self._arena.shard_of(key_hash)
        whole, *locations = parse_pieces(listed) or (0,)
        pieces = []
        for location in locations:
            found = self._record(shard, location)
            if found is None or not found[2] & FRAGMENT or found[3] != key_hash:
                return None
            pieces.append((location, found[1]))
            whole -= len(found[1])
        return None if whole else pieces

    def survey(self, shard: int, pages: Iterable[int], log: list[int]) -> Survey | compiled.Surveyor:
        """Go through a shard's pages, and empty every slot that leads to no whole entry of its own.

        Args:
            shard: its number; its lock is held.
            pages: its pages, no tag covered by two of them.
            log: its segments that are no pages.

        Returns:
            What is left.
        """
        words, segments = self._arena.words, self._segments
        survey: Survey | compiled.Surveyor
        if self.engine is None:
            survey = Survey(self._arena, segments, log)
        else:
            survey = core.verify.Surveyor(self.engine, shard, log)
        generations = {segment: words[segments.row(segment) + SEG_GENERATION] for segment in log}

        def entry_at(slot: int, word: int) -> Found | None:
            return self._entry_at(shard, generations, slot, word)

        for page in pages:
            PROGRESS.made()
            survey.look_through(segments.base(page), words[segments.row(page) + SEG_COVERS], entry_at)
        return survey

    def _entry_at(self, shard: int, generations: dict[int, int], slot: int, word: int) -> Found | None:
        """The entry that a slot leads to, if it is whole and stands where its key may stand.

        Args:
            shard: the number of its shard.
            generations: those of the segments of the shard's log.
            slot: the slot.
            word: the word that stands there.

        Returns:
            As for ``Survey.look_through``.
        """
        arena, geometry = self._arena, self._arena.geometry
        location = arena.location_of(word)
        segment = location >> self._shift
        if generations.get(segment) != word >> geometry.generation_shift & geometry.generation_mask:
            return None
        found = whole_record(arena.mem, location << 3, segment + 1 << self._shift + 3)
        if found is None:
            return None
        key, content, flags, version, deadline_ms = found
        key_hash = arena.hash_of(key)
        high, bucket = key_hash >> HIGH_SHIFT, slot & geometry.bucket_mask
        if (
            flags & FRAGMENT
            or not arena.names_version(word, version)
            or key_hash & geometry.entry_mask != shard << TAG_BITS | word >> TAG_SHIFT
            or bucket not in (high & geometry.bucket_mask, high >> SECOND_BUCKET_SHIFT & geometry.bucket_mask)
        ):
            return None
        places = [location << LENGTH_BITS | record_words(len(key), flags, len(content))]
        if flags & LARGE:
            pieces = self._pieces(key_hash, split_metadata(content, flags)[0])
            if pieces is None:
                return None
            places += [
                piece << LENGTH_BITS | record_words(0, FRAGMENT, len(value)) for piece, value in pieces
            ]
        return version, deadline_ms, places
