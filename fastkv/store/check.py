"""Every invariant of the store, verified. Each store test ends with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.store.layout import (
    CLOSED,
    CLOSED_MAIN,
    FREE,
    FREE_PAGE,
    GHOSTS,
    IDLE,
    LAYOUT_VERSION,
    LOG_STATES,
    MAIN_STATES,
    OLDEST_LAYOUT,
    OPEN,
    OPEN_MAIN,
    PAGE,
    POOL_FREE_COUNT,
    POOL_MAIN,
    POOL_SMALL,
    REDO_STATE,
    SB_LAYOUT,
    SB_MAGIC,
    SEG_COVERS,
    SEG_DUE,
    SEG_HEAD,
    SEG_STATE,
    SH_DUE,
    SH_ENTRIES,
    SH_MAIN_OLDEST,
    SH_OLDEST,
    SH_OPEN,
    SH_OPEN_MAIN,
    SH_PAGES,
    SH_VERSION,
    layout_of,
)
from fastkv.store.records import (
    FRAGMENT,
    LARGE,
    METADATA,
    head_bytes,
    parse_pieces,
    parse_record,
    record_is_whole,
    split_metadata,
    trailing_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastkv.store.arena import Arena
    from fastkv.store.ghosts import Ghosts
    from fastkv.store.index import Index
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard


class Check:
    """Looks for what must not be. The caller holds the lock of every shard, and that of transactions."""

    def __init__(
        self,
        arena: Arena,
        shards: list[Shard],
        segments: Segments,
        index: Index,
        ghosts: Ghosts,
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            segments: its pool.
            index: its index.
            ghosts: its ghost table.
        """
        self._arena = arena
        self._words = arena.words
        self._shards = shards
        self._segments = segments
        self._index = index
        self._ghosts = ghosts

    def problems(self) -> list[str]:
        """Verify everything.

        Returns:
            A sentence for each violated invariant, none if all is well.
        """
        found = list(self._superblock())
        with self._segments.locked():
            found += self._pool()
        for shard in self._shards:
            found += self._directory(shard)
            found += self._queue(shard)
            found += self._entries(shard)
        return found

    def _superblock(self) -> Iterator[str]:
        layout = layout_of(self._words[SB_MAGIC])
        if layout != self._words[SB_LAYOUT] or not OLDEST_LAYOUT <= layout <= LAYOUT_VERSION:
            yield "the superblock is damaged"
        if self._words[REDO_STATE] != IDLE:
            yield f"a transaction is pending, in the state {self._words[REDO_STATE]}"

    def _state(self, segment: int) -> int:
        return self._words[self._segments.row(segment) + SEG_STATE] & 0xFF

    def _pool(self) -> Iterator[str]:
        pages = [segment for segment in self._segments.used() if self._state(segment) == FREE_PAGE]
        if sorted(self._segments.free_pages()) != pages:
            yield f"the list of free pages does not hold the {len(pages)} that there are, each once"
        listed = list(self._segments.free_list())
        free = [segment for segment in self._segments.used() if self._state(segment) == FREE]
        if sorted(listed) != free:
            yield f"the free list has {len(listed)} segments, the table {len(free)} free ones, not the same"
        if self._words[POOL_FREE_COUNT] != len(free):
            yield f"the pool counts {self._words[POOL_FREE_COUNT]} free segments of {len(free)}"
        states = [self._state(segment) for segment in self._segments.used()]
        for what, field, owned in (("small", POOL_SMALL, (OPEN, CLOSED)), ("main", POOL_MAIN, MAIN_STATES)):
            found = sum(states.count(state) for state in owned)
            if self._words[field] != found:
                yield f"the pool counts {self._words[field]} segments in {what} queues of {found}"
        ghosts = [segment for segment in self._segments.used() if self._state(segment) == GHOSTS]
        if sorted(self._ghosts.named()) != ghosts:
            yield "the ghost table does not name its segments, each once"
        shards = len(self._shards)
        for segment in self._segments.used():
            state = self._words[self._segments.row(segment) + SEG_STATE]
            if state & 0xFF not in (FREE, FREE_PAGE, PAGE, *LOG_STATES, GHOSTS) or state >> 8 >= shards:
                yield f"segment {segment} has the state {state:#x}"
            if self._words[self._segments.row(segment) + SEG_HEAD] > self._arena.geometry.segment_words:
                yield f"segment {segment} is written past its end"

    def _directory(self, shard: Shard) -> Iterator[str]:
        """Each entry names the one committed page that covers it, and no page is left out."""
        name = f"shard {shard.number}"
        if self._words[self._arena.geometry.sequences_at + shard.number] & 1:
            yield f"{name}: the sequence is odd though nobody is at work"
        pages = [segment for segment, state in self._segments.owned(shard.number) if state == PAGE]
        if sorted(self._index.pages(shard.number)) != pages or self._words[shard.header + SH_PAGES] != len(
            pages
        ):
            yield f"{name}: the directory does not name the shard's {len(pages)} pages, each once"
        bits = self._arena.geometry.directory_bits
        start = shard.number << bits
        for entry in range(1 << bits):
            page = self._segments.segment_of(self._index.directory[start + entry])
            covers = self._words[self._segments.row(page) + SEG_COVERS]
            depth = covers.bit_length() - 1
            if (1 << bits | entry) >> bits - depth != covers:
                yield f"{name}: directory entry {entry} names page {page}, which does not cover it"

    def _queue(self, shard: Shard) -> Iterator[str]:
        name = f"shard {shard.number}"
        owned = dict(self._segments.owned(shard.number))
        for which, oldest, closed in (("small", SH_OLDEST, CLOSED), ("main", SH_MAIN_OLDEST, CLOSED_MAIN)):
            queue = sorted(self._segments.queue(shard.header + oldest))
            if queue != [segment for segment, state in owned.items() if state == closed]:
                yield f"{name}: the {which} queue does not hold the shard's closed segments, each once"
        for field, state in ((SH_OPEN, OPEN), (SH_OPEN_MAIN, OPEN_MAIN)):
            opened = self._words[shard.header + field]
            named = [self._segments.segment_named(opened)] if opened else []
            if [segment for segment, found in owned.items() if found == state] != named:
                yield f"{name}: its open segment is not the one that the table calls open"
        for segment in self._segments.closed(shard.header):
            if not self._segments.live_words(segment):
                yield f"{name}: closed segment {segment} holds nothing alive but is not free"

        due = [due for segment in owned if (due := self._due(segment))]
        if due and not 0 < self._words[shard.header + SH_DUE] <= min(due):
            yield f"{name}: it looks for what has expired later than its segments want"

    def _due(self, segment: int) -> int:
        """When expiry has to look at a segment, 0 for never."""
        if self._state(segment) not in LOG_STATES:
            return 0
        return self._words[self._segments.row(segment) + SEG_DUE]

    def _entries(self, shard: Shard) -> Iterator[str]:
        """Each slot refers to a whole record of its own key; what is alive is counted once."""
        name = f"shard {shard.number}"
        owned = dict(self._segments.owned(shard.number))
        live = dict.fromkeys(owned, 0)
        keys: set[bytes] = set()
        newest = 0
        for page in self._index.pages(shard.number):
            for slot, word in self._index.slots(page):
                location = self._arena.location_of(word)
                problem = self._record_problem(shard, slot, word, owned)
                if problem:
                    yield f"{name}: slot {slot}: {problem}"
                    continue
                key, _, _, version, deadline_ms = parse_record(self._arena.mem, location << 3)
                if deadline_ms and not self._due(self._segments.segment_of(location)):
                    yield f"{name}: nobody looks whether {key!r} has expired"
                if key in keys:
                    yield f"{name}: the key {key!r} stands in two slots"
                keys.add(key)
                newest = max(newest, version)
                for at in (location, *shard.pieces(location)):
                    live[self._segments.segment_of(at)] += shard.length(at)
        if self._words[shard.header + SH_ENTRIES] != len(keys):
            yield f"{name}: {self._words[shard.header + SH_ENTRIES]} entries are counted of {len(keys)}"
        # Different keys may have the same one: entries of several shards of another arena may be in one here.
        if newest > self._words[shard.header + SH_VERSION]:
            yield f"{name}: a version runs ahead of the shard's counter"
        for segment, words in live.items():
            counted = self._segments.live_words(segment)
            if counted != words:
                yield f"{name}: segment {segment} counts {counted} live words of {words}"

    def _record_problem(self, shard: Shard, slot: int, word: int, owned: dict[int, int]) -> str | None:
        mem, location = self._arena.mem, self._arena.location_of(word)
        segment = self._segments.segment_of(location)
        row = self._segments.row(segment)
        if owned.get(segment) not in LOG_STATES:
            return f"refers to segment {segment}, which is not in the shard's log"
        if not self._segments.is_current(word):
            return f"has an old generation of segment {segment}"
        if location + shard.length(location) > self._segments.base(segment) + self._words[row + SEG_HEAD]:
            return "refers to a record past the segment's head"
        key, content, flags, version, _ = parse_record(mem, location << 3)
        size = head_bytes(flags) + len(key) + len(content) + 4
        if not record_is_whole(mem[location << 3 : (location << 3) + size]):
            return f"the record of {key!r} is damaged"
        if not self._arena.names_version(word, version):
            return f"has another version than the record of {key!r}"
        key_hash = self._arena.hash_of(key)
        if (slot, word) not in list(self._index.candidates(key_hash)):
            return f"the key {key!r} does not belong here"
        if self._arena.shard_of(key_hash) != shard.number:
            return f"the key {key!r} belongs to another shard"
        if flags & METADATA and not 1 < trailing_bytes(content, flags) <= len(content):
            return f"the metadata of {key!r} is none"
        if flags & LARGE:
            return self._pieces_problem(key_hash, split_metadata(content, flags)[0], owned)
        return None

    def _pieces_problem(self, key_hash: int, listed: bytes, owned: dict[int, int]) -> str | None:
        whole, *pieces = parse_pieces(listed)
        for piece in pieces:
            if owned.get(self._segments.segment_of(piece)) not in LOG_STATES:
                return f"a fragment at {piece} is not in the shard's log"
            _, value, flags, owner, _ = parse_record(self._arena.mem, piece << 3)
            if not flags & FRAGMENT or owner != key_hash:
                return f"what stands at {piece} is no fragment of this key"
            size = head_bytes(flags) + len(value) + 4
            if not record_is_whole(self._arena.mem[piece << 3 : (piece << 3) + size]):
                return f"the fragment at {piece} is damaged"
            whole -= len(value)
        return f"its fragments miss the value's length by {whole} bytes" if whole else None
