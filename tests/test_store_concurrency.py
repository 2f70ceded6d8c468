"""Several processes at once: no torn value, nobody else's, no version that goes back, also under SIGKILL."""

from __future__ import annotations

import itertools
import os
import random
import signal
import zlib
from typing import TYPE_CHECKING

import pytest
from store_helpers import MIB, clock, end_of, open_store, start, value_of

from fastkv.errors import StoreBusy

if TYPE_CHECKING:
    from fastkv.store import Store

pytestmark = pytest.mark.usefixtures("memory_order")

KEYS = [b"key%d" % i for i in range(24)]
SIZES = [0, 10, 100, 300, 600, 2000, 4500, 13_000]
PROCESSES = 4


def seal(key: bytes, number: int, size: int) -> bytes:
    """A value that describes itself: key, number, filling, checksum."""
    body = b"%b %d " % (key, number) + random.Random(number).randbytes(size)
    return body + zlib.crc32(body).to_bytes(4, "little")


def assert_sealed(key: bytes, value: bytes) -> None:
    body, checksum = value[:-4], value[-4:]
    assert zlib.crc32(body).to_bytes(4, "little") == checksum, f"torn: {value[:40]!r}"
    assert body.split(b" ", 1)[0] == key, f"{key!r} has the value of another key: {value[:40]!r}"


class Client:
    """One process's way through the keys.

    Attributes:
        store: the store.
        random: what decides.
        versions: the newest version seen of each key.
    """

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.versions: dict[bytes, int] = {}

    def work(self, operations: int) -> None:
        """Write, read and delete."""
        for _ in range(operations):
            self.step()

    def step(self) -> None:
        choice, key = self.random.random(), self.random.choice(KEYS)
        if choice < 0.4:
            value = seal(key, self.random.getrandbits(32), self.random.choice(SIZES))
            self.see(key, self.store.put(key, value, clock))
        elif choice < 0.5:
            # Others come and go: evictions and index pages.
            passing = b"passing%d" % self.random.getrandbits(12)
            self.store.put(passing, seal(passing, 1, self.random.choice(SIZES)), clock)
        elif choice < 0.53:
            self.store.delete(key, clock)
        else:
            entry = self.store.get(key, clock)
            if entry is not None:
                assert_sealed(key, entry[0])
                self.see(key, entry[2])

    def see(self, key: bytes, version: int) -> None:
        assert version >= self.versions.get(key, 0), f"{key!r} went back"
        self.versions[key] = version


def assert_all_sealed(store: Store) -> None:
    for key in KEYS:
        value = value_of(store, key)
        if value is not None:
            assert_sealed(key, value)
        assert store.put(key, seal(key, 1, 10), clock)
        assert store.delete(key, clock)


@pytest.mark.parametrize(("shards", "segment_bytes"), [(1, 4096), (4, 4096), (1, 16_384)])
def test_processes_do_not_disturb_each_other(shards: int, segment_bytes: int) -> None:
    with open_store(MIB, shards=shards, segment_bytes=segment_bytes, lock_wait_ms=20_000) as store:
        pids = [start(lambda seed=seed: Client(store, seed).work(3000)) for seed in range(1, PROCESSES)]  # type: ignore[misc]
        Client(store, 0).work(3000)
        assert [end_of(pid) for pid in pids] == [0] * len(pids)
        assert store.stats()["evictions"] > 0
        assert store.check() == []
        assert_all_sealed(store)


@pytest.mark.parametrize("shards", [1, 4])
def test_processes_are_killed_and_others_go_on(shards: int) -> None:
    with open_store(MIB, shards=shards, lock_wait_ms=20_000) as store:
        seeds = itertools.count(100)

        def another() -> int:
            seed = next(seeds)
            return start(lambda: Client(store, seed).work(1_000_000_000))

        client = Client(store, 1)
        pids = [another() for _ in range(PROCESSES - 1)]
        try:
            for _ in range(60):
                client.work(client.random.randrange(60))
                victim = client.random.randrange(len(pids))
                pid = pids.pop(victim)
                os.kill(pid, signal.SIGKILL)
                assert end_of(pid) == -signal.SIGKILL
                pids.append(another())
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            ends = [end_of(pid) for pid in pids]
        assert ends == [-signal.SIGKILL] * len(pids)
        assert store.check() == []
        assert_all_sealed(store)


def test_a_reader_misses_nobody_while_pages_are_split() -> None:
    with open_store(16 * MIB, shards=2, segment_bytes=4096, lock_wait_ms=20_000) as store:
        stay = {b"stay%d" % i: b"value%d" % i for i in range(200)}
        for key, value in stay.items():
            store.put(key, value, clock)

        def grow(name: int) -> None:
            for i in range(15_000):
                store.put(b"%d/%d" % (name, i), b"", clock)

        pages = store.stats()["index_pages"]
        pids = [start(lambda: grow(1)), start(lambda: grow(2))]
        left = set(pids)
        while left:
            for key, value in stay.items():
                assert value_of(store, key) == value
            for pid in list(left):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    assert status == 0
                    left.remove(pid)
        assert store.stats()["index_pages"] > 10 * pages
        assert store.stats()["evictions"] == 0


@pytest.mark.parametrize("size", [100, 600, 9000])
def test_a_reader_never_misses_a_key_that_is_overwritten_all_the_time(size: int) -> None:
    with open_store(MIB, shards=2, lock_wait_ms=20_000) as store:
        i = 0
        while store.stats()["segments_free"] > 40:
            store.put(b"%d" % i, bytes(400), clock)
            i += 1
        for key in KEYS[:4]:
            store.put(key, seal(key, 0, size), clock)

        def overwrite(seed: int) -> None:
            chance = random.Random(seed)
            for number in range(4000):
                key = chance.choice(KEYS[:4])
                store.put(key, seal(key, number, size + chance.randrange(60)), clock)

        pids = [start(lambda: overwrite(1)), start(lambda: overwrite(2))]
        left = set(pids)
        versions = dict.fromkeys(KEYS[:4], 0)
        while left:
            for key in KEYS[:4] * 20:
                entry = store.get(key, clock)
                assert entry is not None
                assert_sealed(key, entry[0])
                assert entry[2] >= versions[key]
                versions[key] = entry[2]
            for pid in list(left):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    assert status == 0
                    left.remove(pid)
        assert store.stats()["evictions"] == 0


def test_a_lock_that_stays_busy_is_an_answer() -> None:
    """However many there are, who does not get a lock in time is told so, and nothing is half done."""
    with open_store(MIB, shards=1, lock_wait_ms=0) as store:

        def hurry() -> None:
            for i in range(3000):
                try:
                    store.put(KEYS[i % len(KEYS)], seal(KEYS[i % len(KEYS)], i, 700), clock)
                except StoreBusy:
                    continue

        pids = [start(hurry) for _ in range(PROCESSES)]
        assert [end_of(pid) for pid in pids] == [0] * PROCESSES
        assert_all_sealed(store)
