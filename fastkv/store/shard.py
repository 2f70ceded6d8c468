"""One shard: what happens under its lock.

Every change keeps one order: record bytes into unpublished space → segment head → version → slot word →
counters. Readers look only at slot words, so a change is visible, whole, from the one 8-byte store on; an
owner that dies at any point leaves nothing that ``repair`` cannot count anew.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastkv.store.layout import (
    BUCKET_WORDS,
    POOL_GHOST_WORDS,
    RESERVE,
    RESERVE_OVERWRITING,
    SH_ENTRIES,
    SH_EVICTED,
    SH_EXPIRED,
    SH_RELOCATED,
    SH_VERSION,
    count_at,
)
from fastkv.store.log import Log
from fastkv.store.records import (
    DEADLINE,
    LARGE,
    build_pieces,
    build_record,
    join_metadata,
    parse_pieces,
    parse_record,
    record_words,
    split_metadata,
    trailing_bytes,
)
from fastkv.store.removals import EVICTED, EXPIRED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastkv.store.arena import Arena
    from fastkv.store.ghosts import Ghosts
    from fastkv.store.index import Index
    from fastkv.store.lock import RobustLock
    from fastkv.store.segments import Segments
    from fastkv.store.walk import Walked


class Shard(Log):
    """A shard's entries over its log. All methods but ``segments_for`` want its lock held.

    Attributes:
        lock: its lock.
    """

    __slots__ = (
        "_eviction_lock",
        "_evicts",
        "_ghosts",
        "_index",
        "_removals",
        "_sequence",
        "lock",
    )

    def __init__(
        self,
        number: int,
        arena: Arena,
        lock: RobustLock,
        eviction_lock: RobustLock,
        segments: Segments,
        index: Index,
        ghosts: Ghosts,
        *,
        evicts: bool = True,
    ) -> None:
        """Bind to an arena; nothing is written.

        Args:
            number: from 0.
            arena: the arena.
            lock: the shard's lock.
            eviction_lock: held by whoever makes room; here it is only looked at.
            segments: the pool.
            index: the index.
            ghosts: who was evicted not long ago.
            evicts: whether entries may be evicted.
        """
        super().__init__(number, arena, segments)
        self._removals = arena.removals
        self.lock = lock
        self._eviction_lock = eviction_lock
        self._index = index
        self._ghosts = ghosts
        self._evicts = evicts
        self._sequence = arena.geometry.sequences_at + number

    def put(self, key_hash: int, key: bytes, content: bytes, flags: int, deadline_ms: int) -> int:
        """Insert or replace an entry.

        Args:
            key_hash: the key's hash.
            key: the key.
            content: value and metadata, by ``join_metadata``.
            flags: those of the record.
            deadline_ms: 0 for none.

        Returns:
            The entry's version; 0 if room must be made first, and then nothing has changed.
        """
        slot, old = self._index.locate(key_hash, key)
        if not slot:
            slot = self.vacancy(key_hash)
            if not slot:
                return 0
            if self._words[POOL_GHOST_WORDS] and self._ghosts.recalls(key_hash):
                return self._write(slot, 0, key_hash, key, content, flags, deadline_ms, RESERVE, main=True)
        return self.write(slot, old, key_hash, key, content, flags, deadline_ms)

    def write(
        self, slot: int, old: int, key_hash: int, key: bytes, content: bytes, flags: int, deadline_ms: int
    ) -> int:
        """Write a record and make it the entry of a slot that was found.

        Args:
            slot: the slot.
            old: the word that stands there, 0 if it is empty.
            key_hash: the key's hash.
            key: the key.
            content: as for ``put``.
            flags: as for ``put``.
            deadline_ms: 0 for none.

        Returns:
            As for ``put``.
        """
        version = self._write(slot, old, key_hash, key, content, flags, deadline_ms, RESERVE)
        if not version and old and not self._eviction_lock.is_held(self._ghosts.repair):
            # Its own dead versions will soon give back what it takes; where others evict already, it waits.
            version = self._write(slot, old, key_hash, key, content, flags, deadline_ms, RESERVE_OVERWRITING)
        return version

    def _write(
        self,
        slot: int,
        old: int,
        key_hash: int,
        key: bytes,
        content: bytes,
        flags: int,
        deadline_ms: int,
        floor: int,
        *,
        main: bool = False,
    ) -> int:
        """``write`` with a bound on what it may take, ``floor`` segments stay in the pool, and a queue."""
        words = self._words
        version = words[self.header + SH_VERSION] + 1
        place = self.append_entry(key_hash, key, content, flags, version, deadline_ms, floor, main=main)
        if not place:
            return 0
        # Before the entry is seen: a version that a client was shown is never given again.
        words[self.header + SH_VERSION] = version
        words[slot] = self._arena.word_of(key_hash, version, place)
        if old:
            self.bury(old)
        else:
            words[self.header + SH_ENTRIES] += 1
        return version

    def restore(self, slot: int, old: int, key_hash: int, entry: Walked) -> bool:
        """Write an entry of another arena, with the version that it had there.

        Args:
            slot: its slot.
            old: the word that stands there, 0 if it is empty.
            key_hash: the key's hash.
            entry: the entry.

        Returns:
            False if room must be made first, and then nothing has changed.
        """
        key, value, flags, version, deadline_ms, _, main, metadata = entry
        content, flags = join_metadata(value, metadata, flags)
        place = self.append_entry(key_hash, key, content, flags, version, deadline_ms, RESERVE, main=main)
        if not place:
            return False
        words = self._words
        words[self.header + SH_VERSION] = max(words[self.header + SH_VERSION], version)
        words[slot] = self._arena.word_of(key_hash, version, place)
        if old:
            self.bury(old)
        else:
            words[self.header + SH_ENTRIES] += 1
        return True

    def append_entry(
        self,
        key_hash: int,
        key: bytes,
        content: bytes,
        flags: int,
        version: int,
        deadline_ms: int,
        floor: int,
        *,
        main: bool,
    ) -> int:
        """Append an entry's record, and its fragments if it is large; as ``append``."""
        pieces: list[int] = []
        if record_words(len(key), DEADLINE, len(content)) > self._geometry.inline_words:
            trailing = trailing_bytes(content, flags)
            value = memoryview(content)[: len(content) - trailing]
            if value:
                if self._segments.free_count() < floor + self.segments_for(len(key), len(content)):
                    return 0  # before anything is written in vain
                pieces = self.append_pieces(key_hash, value, floor, main=main)
                if not pieces:
                    return 0
                content = build_pieces(len(value), pieces) + content[len(value) :]
                flags |= LARGE
        record = build_record(key, content, flags, version, deadline_ms)
        place = self.append(record, len(record) + 7 >> 3, deadline_ms, floor, main=main)
        if not place:
            self.bury_pieces(pieces)
        return place

    def retime(self, slot: int, word: int, deadline_ms: int) -> bool:
        """Give an entry another deadline; its version stays, and so do its fragments.

        Args:
            slot: its slot.
            word: the word that stands there.
            deadline_ms: 0 for none.

        Returns:
            False if a segment must be made free first, and then nothing has changed.
        """
        old = self._arena.location_of(word)
        if parse_record(self._mem, old << 3)[4] == deadline_ms:
            return True
        new = self.append_retimed(old, deadline_ms, RESERVE)
        if not new and not self._eviction_lock.is_held(self._ghosts.repair):  # as ``write``
            new = self.append_retimed(old, deadline_ms, RESERVE_OVERWRITING)
        if not new:
            return False
        self._words[slot] = self._arena.moved(word, new)
        self._segments.bury(self.header, old, self.length(old))
        return True

    def append_retimed(self, location: int, deadline_ms: int, floor: int) -> int:
        """Append a record once more, with another deadline, to the queue that it is in."""
        key, content, flags, version, _ = parse_record(self._mem, location << 3)
        record = build_record(key, content, flags & ~DEADLINE, version, deadline_ms)
        return self.append(record, len(record) + 7 >> 3, deadline_ms, floor, main=self.is_main(location))

    def vacancy(self, key_hash: int) -> int:
        """An empty slot for a new key; splits the key's page, or evicts one entry, to get it."""
        while True:
            slot = self._index.vacancy(key_hash)
            if slot:
                self._mem[count_at(slot)] = 0
                return slot
            if not self.make_vacancy(key_hash):
                return 0

    def make_vacancy(self, key_hash: int) -> bool:
        """Split the page of a key that finds no empty slot, or evict one entry. Slots may have moved then.

        Args:
            key_hash: the key's hash.

        Returns:
            False if a segment must be made free first.
        """
        with self.several_steps():
            grown = self._index.split(self.header, self.number, key_hash)
        if grown is None and self._evicts:
            # The directory is as deep as a tag allows: the key's buckets are all the room there is.
            first, _ = self._index.buckets(key_hash)
            slots = range(first + 1, first + BUCKET_WORDS)
            slot = min(slots, key=lambda slot: self._mem[count_at(slot)])
            if self._removals.wanted[0]:
                place = self._arena.location_of(self._words[slot]) << 3
                self._removals.note(EVICTED, parse_record(self._mem, place)[0])
            self.drop(slot, self._words[slot])
            self._words[self.header + SH_EVICTED] += 1
            return True
        return bool(grown)

    def drop(self, slot: int, word: int, *, evicted: bool = False) -> None:
        """Remove an entry.

        Args:
            slot: its slot.
            word: the word that stands there.
            evicted: as for ``Segments.bury``.
        """
        self._words[slot] = 0
        self._words[self.header + SH_ENTRIES] -= 1
        self.bury(word, evicted=evicted)

    def expire(self, slot: int, word: int, key: bytes) -> None:
        """Remove an entry whose deadline has passed.

        Args:
            slot: its slot.
            word: the word that stands there.
            key: its key, for those who watch what expires.
        """
        self.drop(slot, word)
        self._words[self.header + SH_EXPIRED] += 1
        if self._removals.wanted[0]:
            self._removals.note(EXPIRED, key)

    def relocate(self, slot: int, word: int, location: int, length: int, deadline_ms: int) -> bool:
        """Move an entry's record, but not its fragments, to the main queue. Its old place is not buried.

        Args:
            slot: its slot.
            word: the word that stands there.
            location: where the record lies.
            length: its words.
            deadline_ms: its deadline, 0 for none.

        Returns:
            False if there was no segment for it.
        """
        record = self._mem[location << 3 : location + length << 3]
        new = self.append(record, length, deadline_ms, 0, main=True)
        if not new:
            return False
        self._words[slot] = self._arena.moved(word, new)
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
        _, part, _, key_hash, _ = parse_record(self._mem, piece << 3)
        # It may have to be cut again to fill the open segment.
        moved = self.append_pieces(key_hash, part, 0, main=True)
        old = self._arena.location_of(word)
        key, content, flags, version, deadline_ms = parse_record(self._mem, old << 3)
        listed, metadata = split_metadata(content, flags)
        whole, *pieces = parse_pieces(listed)
        at = pieces.index(piece)
        listed = build_pieces(whole, pieces[:at] + moved + pieces[at + 1 :])
        content, flags = join_metadata(listed, metadata, flags)
        # Room for a deadline is left in any case: the entry may be given one.
        length = record_words(len(key), flags | DEADLINE, len(content))
        record = build_record(key, content, flags & ~DEADLINE, version, deadline_ms)
        if (
            not moved
            or length > self._geometry.segment_words
            or not (new := self.append(record, len(record) + 7 >> 3, deadline_ms, 0, main=True))
        ):
            self.bury_pieces(moved)
            return False
        self._words[slot] = self._arena.moved(word, new)
        self.bury_pieces((piece, old), evicted=True)
        self._words[self.header + SH_RELOCATED] += 1
        return True

    def begin_steps(self) -> None:
        """Make the shard's sequence word odd: from here on readers do not trust a miss."""
        self._words[self._sequence] |= 1

    def end_steps(self) -> None:
        """Make it even."""
        self._words[self._sequence] += 1

    @contextmanager
    def several_steps(self) -> Iterator[None]:
        """Make the shard's sequence word odd for as long as readers must not trust what they find.

        If the block fails it stays odd: then the shard is repaired before anybody else gets the lock.
        """
        self.begin_steps()
        yield
        self.end_steps()
