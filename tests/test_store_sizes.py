"""Entries whose size changes over time: memory that held the ones takes the others, again and again."""

from __future__ import annotations

import functools
import itertools
import random
from typing import TYPE_CHECKING

import pytest
from store_helpers import KIB, MIB, clock, open_store, value_of
from store_helpers import payload as make_payload

if TYPE_CHECKING:
    from fastkv.store import Store

SMALL = (0, 8, 64, 120)
LARGE = (100 * KIB, 250 * KIB)
# How often the memory is filled in each phase, and which share of it the newest entries have that must be
# there: a tenth of the log is the small queue, and half of that is surely not yet evicted.
TURNS = 2
NEWEST_SHARE = 20


payload = functools.cache(make_payload)


def write_phase(store: Store, phase: str, sizes: tuple[int, ...], chance: random.Random) -> None:
    """Put entries until the memory was filled several times, and look for the newest.

    Args:
        store: where to.
        phase: what the keys begin with.
        sizes: of the values, at random.
        chance: where randomness comes from.
    """
    budget = store.geometry.memory_bytes
    sizes_put: list[int] = []
    written = 0
    while written < TURNS * budget:
        size = chance.choice(sizes)
        assert store.put(f"{phase} {len(sizes_put)}".encode(), payload(phase, size), clock)
        sizes_put.append(size)
        written += size + 64
    kept = 0
    for number in reversed(range(len(sizes_put))):
        kept += sizes_put[number] + 64
        if kept > budget // NEWEST_SHARE:
            break
        value = value_of(store, f"{phase} {number}".encode())
        assert value == payload(phase, sizes_put[number]), number


@pytest.mark.parametrize(
    ("memory_bytes", "shards", "segment_bytes"),
    [(4 * MIB, 1, 4 * KIB), (8 * MIB, 4, 16 * KIB)],
)
def test_small_then_large_then_small_then_mixed_entries_are_always_stored(
    memory_bytes: int, shards: int | None, segment_bytes: int | None
) -> None:
    chance = random.Random(1)
    with open_store(memory_bytes, shards=shards, segment_bytes=segment_bytes) as store:
        for number, sizes in enumerate((SMALL, LARGE, SMALL, (*SMALL, 1000, 10_000, *LARGE))):
            write_phase(store, f"phase {number}", sizes, chance)
            assert store.check() == []
            assert store.stats()["bytes"] <= memory_bytes
        assert store.stats()["evictions"] > 0


@pytest.mark.parametrize("read", [False, True])
def test_entries_of_ever_other_sizes_are_stored_whether_the_old_ones_are_read_or_not(*, read: bool) -> None:
    """The size doubles up to that of 64 segments, and halves again; who is read stays longer."""
    sizes = [8 << exponent for exponent in range(16)]
    chance = random.Random(2)
    newest: list[bytes] = []
    with open_store(2 * MIB, shards=2) as store:
        for round_, size in enumerate((*sizes, *reversed(sizes))):
            for number in itertools.count():
                key = f"{round_} {number}".encode()
                assert store.put(key, payload(size, size), clock)
                assert value_of(store, key) == payload(size, size)
                newest = [*newest[-63:], key]
                if read:
                    for _ in range(2):
                        store.get(chance.choice(newest), clock)
                if number * (size + 64) > 2 * MIB or number >= 1000:
                    break
        assert store.check() == []
        assert store.stats()["evictions"] > 0


@pytest.mark.xfail(reason="each move cuts a fragment anew, to fill the segment that is open", strict=True)
def test_an_entry_that_is_moved_is_not_cut_into_ever_more_fragments() -> None:
    size, chance = 9_000, random.Random(3)
    with open_store(2 * MIB) as store:
        keys = [f"{number}".encode() for number in range(300)]

        def fragments() -> float:
            entries = [entry for key in keys if (entry := store.get(key, clock))]
            locations = [store._arena.location_of(entry[5]) for entry in entries]
            return sum(len(store._shards[0].pieces(location)) for location in locations) / len(entries)

        for key in keys[:100]:
            store.put(key, payload(key, size), clock)
        fresh = fragments()
        for _ in range(10_000):
            key = chance.choice(keys)
            if not store.get(key, clock):
                store.put(key, payload(key, size), clock)
        assert store.stats()["relocated"] > 5_000
        assert fragments() <= 1.5 * fresh
