"""Picking an entry at random, each about as likely as any other.

A shard by its number of entries, a page of it by the tags that it covers, which are hashes, and a slot of
that page: the first that is occupied. After some looks in vain the pages are not that full, so all slots of a
page are looked at, and pages of several shards; and if nothing was found even so, the first entry of a walk
through all will do. Nothing is locked, and a record is verified by its checksum. A step is a page at most.
"""

from __future__ import annotations

import struct
from itertools import accumulate
from random import choices, randrange, shuffle
from typing import TYPE_CHECKING, Final

from fastkv.store.layout import BUCKET_WORDS, SH_ENTRIES, SHARD_WORDS
from fastkv.store.records import FRAGMENT, whole_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.core.walk import Walk
    from fastkv.steps import Steps
    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.scan import Scanner

# A page is between a third and three quarters full, unless many of its entries went: 7 looks in 8 find
# something by then.
_LOOKS: Final = 16
# Of so many shards all pages are looked through.
_SHARDS: Final = 4


class Picker:
    """Picks entries.

    Attributes:
        compiled: reads the keys of slots; None where there is no compiled core.
    """

    __slots__ = (
        "_arena",
        "_entries_at",
        "_entries_end",
        "_index",
        "_scanner",
        "_words",
        "compiled",
    )

    def __init__(self, arena: Arena, index: Index, scanner: Scanner) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            index: its index.
            scanner: walks through it.
        """
        geometry = arena.geometry
        self._arena = arena
        self._words = arena.words
        self._index = index
        self._scanner = scanner
        self.compiled: Walk | None = None
        self._entries_at = geometry.shards_at + SH_ENTRIES
        self._entries_end = geometry.shards_at + geometry.shards * SHARD_WORDS

    def entries(self) -> int:
        """How many entries there are, those included that have expired and were not given back yet."""
        return sum(self._counts())

    def _counts(self) -> list[int]:
        return self._words[self._entries_at : self._entries_end : SHARD_WORDS].tolist()

    def key(self, clock: Callable[[], int]) -> Steps[bytes | None]:
        """Pick an entry.

        Args:
            clock: milliseconds now: who is past its deadline is not picked.

        Returns:
            Its key, None if there is none.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
        """
        counts = self._counts()
        if not any(counts):
            return None
        shards = range(len(counts))
        page_words = self._arena.geometry.segment_words
        now_ms = clock()
        bits = self._arena.geometry.directory_bits
        weights = list(accumulate(counts))
        for _ in range(_LOOKS):
            (shard,) = choices(shards, cum_weights=weights)
            page = self._index.directory[shard << bits | randrange(1 << bits)]
            at = randrange(page_words)
            key = (self.compiled or self).key_at(page + at, now_ms) if at % BUCKET_WORDS else None
            if key is not None:
                return key
        for shard in choices(shards, cum_weights=weights, k=_SHARDS):
            pages = list(dict.fromkeys(self._pages(shard)))
            shuffle(pages)
            for page in pages:
                slots = [
                    page + at
                    for at, word in enumerate(self._words[page : page + page_words].tolist())
                    if word and at % BUCKET_WORDS
                ]
                shuffle(slots)
                for slot in slots:
                    key = (self.compiled or self).key_at(slot, now_ms)
                    if key is not None:
                        return key
                yield None
        return (yield from self._first(clock))

    def _pages(self, shard: int) -> list[int]:
        """Where the pages of a shard begin, each as often as the directory names it."""
        bits = self._arena.geometry.directory_bits
        return self._index.directory[shard << bits : shard + 1 << bits].tolist()

    def key_at(self, slot: int, now_ms: int) -> bytes | None:
        """The key of the entry in a slot, None if there is none that is whole and not past its deadline."""
        word = self._words[slot]
        if not word:
            return None
        at, size = self._arena.location_of(word) << 3, self._arena.geometry.segment_bytes
        try:
            record = whole_record(self._arena.mem, at, (at // size + 1) * size)
        except (struct.error, ValueError):
            record = None
        if record is None or self._words[slot] != word:
            return None
        key, _, flags, version, deadline_ms = record
        if flags & FRAGMENT or not self._arena.names_version(word, version):
            return None
        return None if 0 < deadline_ms <= now_ms else key

    def _first(self, clock: Callable[[], int]) -> Steps[bytes | None]:
        """The first entry of a walk, None if there is none."""
        cursor = 0
        while True:
            found, cursor = self._scanner.scan(cursor, clock, 1, 1)
            if found:
                return found[0][0]
            if not cursor:
                return None
            yield None
