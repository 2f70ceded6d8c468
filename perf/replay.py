"""A trace replayed through a real store: GET, and PUT on a miss."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastkv.store import Store
from perf.unplugged import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SEED = 7
# How often entries are counted: summing the shards' counters costs as much as a few requests.
_COUNT_EVERY = 64
# Beside its key and value an entry takes a head, a checksum, padding and its share of the index.
_OVERHEAD_BYTES = 45


class Geometry(NamedTuple):
    """The measures of a store.

    Attributes:
        shards: power of two.
        segment_bytes: power of two.
        segments: how many.
    """

    shards: int
    segment_bytes: int
    segments: int

    @property
    def memory_bytes(self) -> int:
        """Size of the arena."""
        return self.segment_bytes * self.segments

    def value_bytes(self, entries: int) -> int:
        """How long values have to be for the store to hold about so many entries.

        Args:
            entries: how many.

        Returns:
            Bytes; less than 1 if that many never fit.
        """
        return self.memory_bytes * 93 // 100 // entries - _OVERHEAD_BYTES

    def open(self) -> Store:
        """Make the store, with a known seed."""
        return Store(self.memory_bytes, shards=self.shards, segment_bytes=self.segment_bytes, seed=SEED)

    def __str__(self) -> str:
        shards = "1 shard" if self.shards == 1 else f"{self.shards} shards"
        return f"{shards}, {self.segments} segments of {self.segment_bytes >> 10} KiB"


class Replay(NamedTuple):
    """What came of it.

    Attributes:
        hit_ratio: hits per request, 0 to 1.
        entries: how many were resident, the mean since the first eviction: in a cache of that size a
            simulator may have as many; 0 if nobody was evicted.
        problems: what ``Store.check`` says at the end.
    """

    hit_ratio: float
    entries: float
    problems: list[str]


def _replay(trace: Sequence[int], store: Store, is_hit: Callable[[int], bool]) -> Replay:
    hits = 0
    counted: list[int] = []
    for number, key in enumerate(trace):
        hits += is_hit(key)
        if number % _COUNT_EVERY == 0:
            stats = store.stats()
            if stats["evictions"]:
                counted.append(stats["entries"])
    entries = sum(counted) / len(counted) if counted else 0.0
    return Replay(hits / len(trace), entries, store.check())


def through_store(trace: Sequence[int], geometry: Geometry, value_bytes: int) -> Replay:
    """Replay a trace through a store of its own.

    Args:
        trace: object ids.
        geometry: the store's measures.
        value_bytes: of every entry.

    Returns:
        What came of it.
    """
    store = geometry.open()
    value = bytes(value_bytes)

    def is_hit(number: int) -> bool:
        key = b"%07d" % number
        if store.get(key, clock):
            return True
        store.put(key, value, clock)
        return False

    try:
        return _replay(trace, store, is_hit)
    finally:
        store.close()
