"""Everything at once in tiny arenas: eviction, cleaning, expiry, promotion, splits, large values, deaths.

Several processes put what describes itself, with and without deadlines, of all lengths up to the longest,
under keys up to the longest; they update, delete, read, walk and look after the store. Nothing torn or of
another key is seen, nobody is refused for no reason, and in the end every invariant holds and all comes back.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest
from store_helpers import KIB, MIB, end_of, open_store, start
from test_store_concurrency import assert_sealed, seal

from fastkv.errors import StoreFull
from fastkv.store import DELETE, LEAVE, Change, Entry

if TYPE_CHECKING:
    from fastkv.store import Store

PROCESSES = 3
OPERATIONS = 20_000
DEATHS = 40
# Length of a value and how often; the longest that the store takes comes besides.
SIZES = {0: 90, 10: 180, 60: 120, 100: 60, 300: 20, 600: 10, 2000: 3, 4500: 1, 13_000: 0.5, 40_000: 0.2}


def now_ms() -> int:
    """A clock that goes."""
    return time.monotonic_ns() // 1_000_000 + 1


class Shape(NamedTuple):
    """A store.

    Attributes:
        memory_bytes: of it.
        shards: of it.
        segment_bytes: of it.
        keys: how many keys there are in turns; nine of ten times one of the first hundredth of them.
    """

    memory_bytes: int
    shards: int
    segment_bytes: int
    keys: int


SHAPES = {
    "one shard": Shape(MIB, 1, 4 * KIB, 40_000),
    "many shards, few segments": Shape(MIB, 32, 4 * KIB, 40_000),
    "more shards than one looks at": Shape(3 * MIB, 128, 4 * KIB, 90_000),
    "few large segments": Shape(MIB, 1, 64 * KIB, 40_000),
}


class Client:
    """One process's way.

    Attributes:
        store: the store.
        evicts: whether it may evict; else it may be full.
    """

    def __init__(self, store: Store, seed: int, keys: int, *, evicts: bool) -> None:
        self.store = store
        self.evicts = evicts
        self._random = random.Random(seed)
        self._keys = keys

    def work(self, operations: int) -> None:
        """Do so much."""
        for _ in range(operations):
            try:
                self.step()
            except StoreFull:
                assert not self.evicts

    def key(self) -> bytes:
        chance = self._random
        key = b"%d" % chance.randrange(self._keys if chance.random() < 0.6 else self._keys // 100)
        long = self.evicts and chance.random() < 0.005
        return key.ljust(self.store.max_key_bytes, b"-") if long else key

    def step(self) -> None:
        chance, store, key = self._random, self.store, self.key()
        choice = chance.random()
        if choice < 0.5:
            (size,) = chance.choices(list(SIZES), list(SIZES.values()))
            if not self.evicts:
                size %= 301  # a full store that cleans would spend minutes on moving fragments to and fro
            elif chance.random() < 0.001:
                size = store.max_value_bytes - len(key) - 30
            ttl_ms = chance.choice([1, 20, 200, 5000]) if chance.random() < 0.4 else 0
            value = seal(key, chance.getrandbits(32), size)
            store.put(key, value, now_ms, 0, now_ms() + ttl_ms if ttl_ms else 0)
        elif choice < 0.58:
            store.update(key, self.decide, now_ms)
        elif choice < 0.62:
            store.delete(key, now_ms)
        elif choice < 0.66:
            store.look_after(now_ms)
        elif choice < 0.662:
            for found, value, *_ in store.scan(0, now_ms, 100_000, 100)[0]:
                assert_sealed(found, value)
        else:
            before_ms = now_ms()
            for _ in range(2):
                entry = store.get(key, now_ms)
                if entry is not None:
                    assert_sealed(key, entry[0])
                    assert not entry[3] or entry[3] > before_ms

    def decide(self, entry: Entry | None) -> Change:
        """Another deadline, none at all, half of the value, or nothing."""
        choice = self._random.randrange(5)
        if entry is None or choice == 0:
            return LEAVE
        if choice == 1:
            return DELETE
        value, flags, _, deadline_ms, _, _, metadata = entry
        key = value.split(b" ", 1)[0]
        return [
            (value, flags, now_ms() + 100, metadata),
            (value, flags, 0, b"m"),
            (seal(key, 1, len(value) // 2), 1, deadline_ms, metadata),
        ][choice - 2]


def assert_all_comes_back(store: Store, *, evicts: bool) -> None:
    """What expires and is deleted leaves room for the largest value."""
    cursor = 0
    while True:
        found, cursor = store.scan(cursor, now_ms, MIB, 1000)
        for key, value, *_ in found:
            assert_sealed(key, value)
            store.delete(key, now_ms)
        if not cursor:
            break
    later_ms = now_ms() + 10_000
    for _ in range(10_000):
        if not store.look_after(lambda: later_ms):
            break
    assert store.stats()["entries"] == 0
    segments = store.geometry.segments - store.geometry.first_segment
    in_use = segments - store.stats()["segments_free"] - store.stats()["index_pages"]
    # At most the open segments, the ghosts among whom nobody was freed, and what a death closed half full.
    assert in_use <= 2 * store.geometry.shards + store.geometry.most_ghosts
    assert store.put(b"large", bytes(store.max_value_bytes // 2), now_ms)


@pytest.mark.parametrize("evicts", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_processes_do_everything_at_once(name: str, evicts: bool) -> None:
    memory_bytes, shards, segment_bytes, keys = SHAPES[name]
    with open_store(
        memory_bytes, shards=shards, segment_bytes=segment_bytes, lock_wait_ms=20_000, evicts=evicts
    ) as store:
        clients = [Client(store, seed, keys, evicts=evicts) for seed in range(PROCESSES)]
        pids = [start(lambda client=client: client.work(OPERATIONS)) for client in clients]  # type: ignore[misc]
        assert [end_of(pid) for pid in pids] == [0] * PROCESSES
        assert store.check() == []
        assert store.stats()["repairs"] == 0
        assert store.stats()["relocated"] > 0 or not evicts
        assert (store.stats()["evictions"] > 0) is evicts
        assert_all_comes_back(store, evicts=evicts)


@pytest.mark.parametrize("evicts", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_processes_die_doing_everything_at_once(name: str, evicts: bool) -> None:
    memory_bytes, shards, segment_bytes, keys = SHAPES[name]
    chance = random.Random(name)
    with open_store(
        memory_bytes, shards=shards, segment_bytes=segment_bytes, lock_wait_ms=20_000, evicts=evicts
    ) as store:
        # So that there is something to make room from, from the beginning.
        Client(store, 99, keys, evicts=evicts).work(OPERATIONS // 2)
        seeds = itertools.count()

        def another() -> int:
            client = Client(store, next(seeds), keys, evicts=evicts)
            return start(lambda: client.work(1_000_000_000))

        pids = [another() for _ in range(PROCESSES)]
        own = Client(store, 100, keys, evicts=evicts)
        ends = []
        try:
            for _ in range(DEATHS):
                own.work(chance.randrange(80))
                pid = pids.pop(chance.randrange(PROCESSES))
                os.kill(pid, signal.SIGKILL)
                ends.append(end_of(pid))
                pids.append(another())
                if chance.random() < 0.2:
                    assert store.check() == []
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                ends.append(end_of(pid))
        assert set(ends) == {-signal.SIGKILL}
        assert store.check() == []
        assert_all_comes_back(store, evicts=evicts)
