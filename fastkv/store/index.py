"""The index of a shard: from a key's hash to the slot word that says where its record lies.

Pages of two-choice buckets under a directory (extendible hashing, Fagin et al. 1979). A key may stand in
any of the seven slots of either of its two buckets, in a page that the directory names by the leading bits
of the key's tag. A page that cannot take a key is split in two by one more bit of the tags that its slots
hold: no record is read, no key changes its bucket, and no slot changes its place except into the new page.
Removing a key is storing one zero: there are no tombstones, and churn leaves nothing behind. First
overflow at a load of 0.71 to 0.79 (1,024 buckets, simulated), so pages are between 0.36 and 0.75 full.

Rejected: one choice of eight slots (overflows at 0.15), linear probing (tombstones, or moves that need
hash bits for which a slot word has no room), a sparse table (0.5 µs a read in cache misses).

Readers hold no lock: whatever they follow may be stale, so each location is bounded by the mapping, and the
caller validates what it found.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from fastkv.store.layout import (
    BUCKET_SLOTS,
    BUCKET_WORDS,
    HIGH_SHIFT,
    PAGE,
    PAGE_NEW,
    SECOND_BUCKET_SHIFT,
    SEG_COVERS,
    SEG_STATE,
    SH_PAGES,
    TAG_MASK,
    TAG_SHIFT,
)
from fastkv.store.records import key_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from fastkv.core import pages as compiled
    from fastkv.store.arena import Arena
    from fastkv.store.segments import Segments


class Index:
    """The index of all shards; what changes it runs under the shard's lock.

    Attributes:
        directory: for each shard and the leading bits of a tag the location of a page.
        compiled: copies pages; None where there is no compiled core.
    """

    __slots__ = (
        "_arena",
        "_geometry",
        "_mem",
        "_segments",
        "_words",
        "compiled",
        "directory",
    )

    def __init__(self, arena: Arena, segments: Segments) -> None:
        """Bind to an arena.

        Args:
            arena: the arena.
            segments: its pool.
        """
        geometry = arena.geometry
        self._arena = arena
        self._geometry = geometry
        self._mem = arena.mem
        self._words = arena.words
        self._segments = segments
        start = geometry.directory_at
        self.directory = arena.words[start : start + (geometry.shards << geometry.directory_bits)]
        self.compiled: compiled.Pages | None = None

    # -- reading -------------------------------------------------------------------------------------

    def buckets(self, key_hash: int) -> tuple[int, int]:
        """Locations of the two buckets in which a key may stand.

        Args:
            key_hash: the key's 64-bit hash.

        Returns:
            Word offsets; they may be equal.
        """
        page = self.directory[self.entry_of(key_hash)]
        high, mask = key_hash >> HIGH_SHIFT, self._geometry.bucket_mask
        return page + (high & mask), page + (high >> SECOND_BUCKET_SHIFT & mask)

    def entry_of(self, key_hash: int) -> int:
        """The directory entry of a key: its shard, then the leading bits of its tag."""
        return (key_hash & self._geometry.entry_mask) >> self._geometry.entry_shift

    def candidates(self, key_hash: int) -> Iterator[tuple[int, int]]:
        """The slots that may hold a key: those whose tag is the key's.

        Args:
            key_hash: the key's hash.

        Yields:
            Slot and the word that stood there.
        """
        tag, words = key_hash & TAG_MASK, self._words
        for bucket in self.buckets(key_hash):
            first, behind = bucket + 1, bucket + BUCKET_WORDS
            for slot, word in enumerate(words[first:behind].tolist(), first):
                if word and word >> TAG_SHIFT == tag:
                    yield slot, word

    def locate(self, key_hash: int, key: bytes) -> tuple[int, int]:
        """Find a key.

        Args:
            key_hash: its hash.
            key: the key.

        Returns:
            Its slot and word, or two zeros. Without the shard's lock they may be out of date, and a key that
            a split is moving may be missed.

        Raises:
            struct.error, ValueError: without the lock only, if what it followed was overwritten meanwhile:
                then a record that is not the key's says nothing.
        """
        mem, words, location_of = self._mem, self._words, self._arena.location_of
        for slot, word in self.candidates(key_hash):
            if key_of(mem, location_of(word) << 3) == key:
                return slot, word
            if words[slot] != word:
                raise ValueError("a slot was overwritten while its record was read")
        return 0, 0

    # -- changing, under the shard's lock ---------------------------------------------------------------

    def vacancy(self, key_hash: int) -> int:
        """Find an empty slot for a new key.

        The home slot if it is empty, because readers look there first; else the first bucket while it is
        not much fuller than the second. (First-bucket share 0.78, home share 0.6 at a load of 0.5.)

        Args:
            key_hash: the key's hash.

        Returns:
            The slot, 0 if both buckets are full.
        """
        words = self._words
        first, second = self.buckets(key_hash)
        in_first = words[first + 1 : first + BUCKET_WORDS].tolist()
        empty = in_first.count(0)
        if empty < BUCKET_SLOTS - 3:
            in_second = words[second + 1 : second + BUCKET_WORDS].tolist()
            if in_second.count(0) > empty:
                return second + 1 + in_second.index(0)
        if not empty:
            return 0
        home = first + (key_hash >> HIGH_SHIFT & 7 or 7)
        return first + 1 + in_first.index(0) if words[home] else home

    def vacancy_besides(self, key_hash: int, taken: Collection[int]) -> int:
        """``vacancy`` where some empty slots are promised to others.

        Args:
            key_hash: the key's hash.
            taken: those slots.

        Returns:
            The slot, 0 if there is none.
        """
        slot = self.vacancy(key_hash)
        if slot not in taken:
            return slot
        buckets = [
            [at for at in range(bucket + 1, bucket + BUCKET_WORDS) if not self._words[at] and at not in taken]
            for bucket in self.buckets(key_hash)
        ]
        emptier = max(buckets, key=len)
        return emptier[0] if emptier else 0

    def open_page(self, header: int, shard: int) -> bool:
        """Give a shard of an arena that holds nothing but zeros its first page.

        A page of zeros is blank: the kernel gives its memory when a key comes, and not 64 MiB at the start
        of a store with 1,024 shards.

        Args:
            header: word offset of the shard's header.
            shard: its number.

        Returns:
            False if the pool has no segment.
        """
        segment = self._segments.take(shard, PAGE_NEW)
        if not segment:
            return False
        self._commit_page(segment, 1)
        self._words[header + SH_PAGES] = 1
        # ``map_page`` in one copy: nobody reads yet, and so nobody can see half a word.
        entries = array("Q", (self._segments.base(segment),)) * (1 << self._geometry.directory_bits)
        start = shard << self._geometry.directory_bits
        self.directory[start : start + len(entries)] = memoryview(entries)
        return True

    def split(self, header: int, shard: int, key_hash: int) -> bool | None:
        """Split the page of a key in two, so that about half of its slots become empty.

        The caller has made the shard's sequence odd. Steps, each leaving what ``repair`` can finish or
        drop: copy the moving words to a new page, commit it, deepen the old page, point the directory's
        upper half to the new page, blank the moved words in the old one.

        Args:
            header: word offset of the shard's header.
            shard: its number.
            key_hash: the hash of the key that found no room.

        Returns:
            True if it was split, False if the pool has no segment, None if the directory cannot tell more
            pages apart.
        """
        words = self._words
        base = self.directory[self.entry_of(key_hash)]
        old = self._segments.segment_of(base)
        row = self._segments.row(old)
        covers = words[row + SEG_COVERS]
        depth = covers.bit_length() - 1
        if depth == self._geometry.directory_bits:
            return None
        new = self._segments.take(shard, PAGE_NEW)
        if not new:
            return False
        (self.compiled or self).copy(base, self._segments.base(new), depth)
        self._commit_page(new, covers << 1 | 1)
        words[row + SEG_COVERS] = covers << 1
        words[header + SH_PAGES] += 1
        self.map_page(shard, new)
        (self.compiled or self).clear(base, depth)
        return True

    def copy(self, base: int, new_base: int, depth: int) -> None:
        """Copy to a new page the slots whose tag has the next bit, and empty all others of it.

        A bucket's first word holds access counts: both pages keep all of them, right or unused.

        Args:
            base: where the page begins.
            new_base: where the new one begins, to which nothing leads yet.
            depth: how many leading bits all tags of the page share.
        """
        bit = 1 << 63 - depth
        page = array("Q", self._mem[base << 3 : base + self._geometry.segment_words << 3])
        for at, word in enumerate(page):
            if at & BUCKET_WORDS - 1 and not word & bit:
                page[at] = 0
        self._words[new_base : new_base + self._geometry.segment_words] = memoryview(page)

    def clear(self, base: int, depth: int) -> None:
        """Empty the slots that ``copy`` has copied.

        Args:
            base: where the page begins.
            depth: as for ``copy``.
        """
        bit = 1 << 63 - depth
        page = self._words[base : base + self._geometry.segment_words].tolist()
        for slot, word in enumerate(page, base):
            if word & bit and slot & BUCKET_WORDS - 1:
                self._words[slot] = 0

    def merge(self, header: int, shard: int) -> None:
        """Leave one page of a shard whose slots are all empty; the caller has made its sequence odd.

        Each step is a split backwards, so that what is half done ``repair`` takes for a split.

        Args:
            header: word offset of the shard's header.
            shard: its number.
        """
        words = self._words
        pages = {words[self._segments.row(page) + SEG_COVERS]: page for page in self.pages(shard)}
        while len(pages) > 1:
            upper = max(pages)  # of the deepest ones; its sibling is as deep
            lower = upper ^ 1
            page = pages.pop(lower)
            pages[lower >> 1] = page
            words[self._segments.row(page) + SEG_COVERS] = lower >> 1
            self.map_page(shard, page)
            self._segments.give_back(pages.pop(upper))
            words[header + SH_PAGES] -= 1

    def make_blank(self, segment: int) -> None:
        """Fill a segment with zeros."""
        at = self._segments.base(segment) << 3
        self._mem[at : at + (self._geometry.segment_words << 3)] = bytes(self._geometry.segment_words << 3)

    def _commit_page(self, segment: int, covers: int) -> None:
        row = self._segments.row(segment)
        self._words[row + SEG_COVERS] = covers
        self._words[row + SEG_STATE] = self._words[row + SEG_STATE] & ~0xFF | PAGE

    def map_page(self, shard: int, segment: int) -> None:
        """Point all directory entries that a page covers to it.

        Args:
            shard: the owner.
            segment: the page.
        """
        covers = self._words[self._segments.row(segment) + SEG_COVERS]
        free_bits = self._geometry.directory_bits - covers.bit_length() + 1
        prefix = covers ^ 1 << covers.bit_length() - 1
        start = (shard << self._geometry.directory_bits) + (prefix << free_bits)
        (self.compiled or self).name(start, 1 << free_bits, self._segments.base(segment))

    def name(self, first: int, entries: int, base: int) -> None:
        """Have directory entries name a page.

        Args:
            first: the number of the first one, over all shards.
            entries: how many.
            base: where the page begins.
        """
        for entry in range(first, first + entries):
            self.directory[entry] = base

    def slots(self, segment: int) -> Iterator[tuple[int, int]]:
        """The occupied slots of a page.

        Args:
            segment: the page.

        Yields:
            Slot and word.
        """
        base = self._segments.base(segment)
        for i, word in enumerate(self._words[base : base + self._geometry.segment_words].tolist()):
            if word and i & BUCKET_WORDS - 1:
                yield base + i, word

    def pages(self, shard: int) -> list[int]:
        """The committed pages of a shard, by the directory's order.

        Args:
            shard: its number.

        Returns:
            Segments, each once.
        """
        start = shard << self._geometry.directory_bits
        bases = self.directory[start : start + (1 << self._geometry.directory_bits)].tolist()
        return [self._segments.segment_of(base) for base in dict.fromkeys(bases) if base]
