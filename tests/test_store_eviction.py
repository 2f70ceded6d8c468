"""Making room: only when there is none, without growing, never because one key is written a lot."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from store_helpers import (
    KIB,
    MIB,
    SEED,
    HandClock,
    clock,
    fill_until_evicted,
    open_store,
    payload,
    value_of,
)
from xxhash import xxh3_64_intdigest

from fastkv.errors import StoreFull
from fastkv.store import eviction, room
from fastkv.store.layout import TAG_BITS, WORD
from fastkv.store.records import COMPACT, record_words
from fastkv.store.sweep import Sweep, Swept

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store import Store


@pytest.mark.parametrize("size", [120, 4 * KIB, 64 * KIB, MIB])
def test_nothing_is_evicted_while_there_is_room(size: int) -> None:
    memory_bytes = 256 * MIB if size >= 4 * KIB else 32 * MIB
    with open_store(memory_bytes, shards=None, segment_bytes=None) as store:
        value = bytes(size)
        step = 512 if size < 4 * KIB else 1
        count = -step
        while store.stats()["evictions"] == 0:
            count += step
            for i in range(count, count + step):
                store.put(b"key%013d" % i, value, clock)
        # All that was put, and the index that leads to it, filled the arena.
        filled = count * WORD * record_words(16, COMPACT if size < 64 * KIB else 0, size)
        filled += store.stats()["index_pages"] * store.geometry.segment_bytes
        assert 0.9 <= filled / memory_bytes <= 1


def resident_bytes() -> int:
    """The memory that this process has, shared memory that it has touched included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 * KIB


@pytest.mark.parametrize(("memory_bytes", "shards"), [(4 * MIB, 1), (16 * MIB, None)])
def test_ten_times_the_budget_stays_within_it(memory_bytes: int, shards: int | None) -> None:
    sizes = [0, 10, 100, 1000, 5000, 70_000, 300_000]
    values = [payload("value", size) for size in sizes]
    with open_store(memory_bytes, shards=shards, segment_bytes=None) as store:
        before = resident_bytes()
        written = 0
        for i in itertools.count():
            value = values[i % len(values)]
            assert store.put(b"key%d" % i, value, clock)
            assert value_of(store, b"key%d" % i) == value
            written += len(value)
            if i % 500 == 0:
                assert store.check() == []
            if written > 10 * memory_bytes:
                break
        assert len(store.counts) == memory_bytes
        assert store.stats()["bytes"] <= memory_bytes
        assert store.stats()["evictions"] > 0
        assert resident_bytes() - before < memory_bytes + 8 * MIB


class Hot(NamedTuple):
    """Keys that are overwritten all the time beside others that are not.

    Attributes:
        shards: of the store.
        size: of every value.
        keys: how many keys are hot.
        rounds: how often each is overwritten.
        segments_left: how many segments are free when it begins.
    """

    shards: int
    size: int
    keys: int
    rounds: int
    segments_left: int


HOT: dict[str, Hot] = {
    "a million times": Hot(1, 8, 1, 1_000_000, 5),
    "nearly full": Hot(4, 100, 1, 100_000, 12),
    "nearly full, one shard": Hot(1, 100, 1, 100_000, 5),
    "nearly full, values of the size of a segment": Hot(1, 4000, 1, 20_000, 12),
    "nearly full, values larger than a segment": Hot(2, 10_000, 1, 10_000, 16),
    "several keys": Hot(4, 300, 16, 5_000, 12),
    "several large keys": Hot(1, 6_000, 4, 3_000, 16),
}


@pytest.mark.parametrize("name", HOT)
def test_hot_keys_evict_nobody_else(name: str) -> None:
    shards, size, keys, rounds, segments_left = HOT[name]
    with open_store(shards=shards) as store:
        hot = [b"hot %d" % i for i in range(keys)]
        for key in hot:
            store.put(key, bytes(size), clock)
        others: dict[bytes, bytes] = {}
        while store.stats()["segments_free"] > segments_left:
            key = b"%d" % len(others)
            others[key] = payload(key, size)
            store.put(key, others[key], clock)
        assert store.stats()["evictions"] == 0
        put = store.put
        for i in range(rounds):
            value = (b"%d." % i).ljust(size, b".")[: max(size, 8)]
            for key in hot:
                put(key, value, clock)
        assert store.stats()["evictions"] == 0
        assert [key for key in others if value_of(store, key) != others[key]] == []
        assert {value_of(store, key) for key in hot} == {value}


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("size", [8, 100, 400])
def test_a_hot_key_evicts_nobody_in_a_store_without_any_room(shards: int, size: int) -> None:
    with open_store(shards=shards) as store:
        store.put(b"hot", bytes(size), clock)
        count = 0
        while store.stats()["evictions"] == 0:
            store.put(b"%d" % count, payload(count, size), clock)
            count += 1
        store.put(b"hot", bytes(size), clock)  # it may have been the one that had to go
        before = store.stats()["evictions"]
        present = [key for key in (b"%d" % i for i in range(count)) if value_of(store, key) is not None]
        for i in range(100_000):
            store.put(b"hot", (b"%d" % i).ljust(size), clock)
        assert store.stats()["evictions"] == before
        assert [key for key in present if value_of(store, key) is None] == []


@pytest.mark.parametrize("size", [100, 500, 3000])
def test_who_is_read_gets_a_second_chance(size: int) -> None:
    with open_store(shards=4) as store:
        old = [b"old %d" % i for i in range(160)]
        for key in old:
            store.put(key, payload(key, size), clock)
        i = 0
        while store.stats()["evictions"] < 200:
            store.put(b"%d" % i, payload(i, size), clock)
            if i % 40 == 0:
                for key in old[::4]:
                    store.get(key, clock)
            i += 1
        assert sum(value_of(store, key) is not None for key in old[::4]) >= 30
        assert sum(value_of(store, key) is not None for key in old[1::4]) <= 10


def test_what_has_expired_goes_first_and_is_counted() -> None:
    now = HandClock()
    with open_store() as store:
        for i in range(150):
            store.put(b"short %d" % i, payload(i, 3000), now, deadline_ms=now.now_ms + 10)
        now.now_ms += 10
        for i in range(200):
            store.put(b"%d" % i, payload(i, 3000), now)
        assert store.stats()["evictions"] == 0
        assert store.stats()["expired"] > 0
        assert all(value_of(store, b"%d" % i, now) == payload(i, 3000) for i in range(200))


@pytest.mark.parametrize("shards", [1, 4])
def test_random_overwrites_of_a_store_with_some_room_evict_nobody(shards: int) -> None:
    with open_store(shards=shards) as store:
        keys = [b"%d" % i for i in range(1100)]
        for key in keys:
            store.put(key, payload(key, 400), clock)
        chance = random.Random(1)
        for _ in range(30_000):
            store.put(chance.choice(keys), bytes(400), clock)
        assert store.stats()["relocated"] > 0
        assert store.stats()["evictions"] == 0
        assert store.stats()["entries"] == len(keys)


def test_a_large_value_finds_room_again_and_again() -> None:
    """A write that fails and tries again must not earn the credit that lets cleaning go round in circles."""
    for round_ in range(6):
        with open_store(shards=32) as store:
            for number in range(12):
                store.put(b"large %d %d" % (round_, number % 3), bytes(110_000), clock)
                store.put(b"medium %d %d" % (round_, number), bytes(40_000), clock)


def put(store: Store, key: bytes, value: bytes, now: HandClock, deadline_ms: int = 0) -> int:
    """Put an entry; its version, or 0 if the store is full."""
    try:
        return store.put(key, value, now, deadline_ms=deadline_ms)
    except StoreFull:
        return 0


@pytest.mark.parametrize("size", [0, 100, 3000, 20_000])
@pytest.mark.parametrize("shards", [1, 4])
def test_a_store_that_may_not_evict_says_that_it_is_full_and_loses_nobody(shards: int, size: int) -> None:
    now = HandClock()
    with open_store(shards=shards, evicts=False) as store:
        model: dict[bytes, bytes] = {}
        while put(store, key := b"%d" % len(model), value := payload(key, size), now):
            model[key] = value
        assert {key: value_of(store, key) for key in model} == model
        assert store.stats()["evictions"] == 0
        # What is deleted makes room for as much again, wherever it was.
        chance = random.Random(size)
        gone = chance.sample(sorted(model), len(model) // 2)
        for key in gone:
            assert store.delete(key, now)
            del model[key]
        for i in range(int(len(gone) * 0.8)):
            key = b"~%d" % i  # not longer than those that are gone
            model[key] = payload(key, size)
            store.put(key, model[key], now)
        assert {key: value_of(store, key) for key in model} == model
        assert store.stats()["evictions"] == 0


def test_a_store_that_may_not_evict_takes_the_room_of_what_has_expired() -> None:
    now = HandClock()
    with open_store(shards=2, evicts=False) as store:
        entries = 0
        while put(
            store, b"%d" % entries, payload(entries, 200), now, now.now_ms + 1000 if entries % 2 else 0
        ):
            entries += 1
        now.now_ms += 1000
        for i in range(int(entries * 0.4)):
            store.put(b"more %d" % i, payload(i, 200), now)
        assert store.stats()["evictions"] == 0


@pytest.mark.parametrize("shards", [64, 128])
def test_a_segment_is_emptied_to_its_end_before_other_shards_have_their_turn(
    shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the second step would look at what the first one left dead, and never get past it."""
    monkeypatch.setattr(eviction, "_LOOKS", 32)
    with open_store(3 * MIB, shards=shards) as store:
        for i in itertools.count():
            store.put(b"%d" % i, b"", clock)
            if store.stats()["evictions"] > 1000:
                break


@pytest.mark.parametrize("size", [200_000, 900_000])
def test_room_is_made_whichever_shards_hold_the_others(size: int) -> None:
    """Of many shards a few have segments that can be freed; who looks for them does not miss them."""
    with open_store(18 * MIB, shards=1024) as store:
        for i in range(3 * 18 * MIB // size):
            assert store.put(b"%d" % i, bytes(size), clock)
        for i in range(5):
            assert store.put(b"largest %d" % i, bytes(store.max_value_bytes), clock)


@pytest.mark.parametrize("half", [0, 1])
def test_a_store_that_may_not_evict_cleans_whichever_shards_have_dead_space(half: int) -> None:
    now = HandClock()
    with open_store(3 * MIB, shards=128, evicts=False) as store:
        count = 0
        while put(store, b"%d" % count, payload(count, 300), now):
            count += 1
        keys = [b"%d" % i for i in range(count)]
        keys = [key for key in keys if xxh3_64_intdigest(key, SEED) >> TAG_BITS + 6 & 1 == half]
        for key in keys[::2]:
            assert store.delete(key, now)
        for i in range(len(keys) // 3):
            store.put(b"again %d" % i, payload(i, 300), now)


@pytest.mark.parametrize("shards", [1, 32])
def test_a_store_that_may_not_evict_does_not_clean_in_circles(shards: int) -> None:
    """To move a fragment leaves a dead list of fragments elsewhere; a put ends nevertheless."""
    now = HandClock()
    chance = random.Random(1)
    with open_store(shards=shards, evicts=False) as store:
        sizes = [60, 300, 2000, 13_000, 40_000]
        full = 0
        for _ in range(700):
            full += not put(store, b"%d" % chance.randrange(380), bytes(chance.choice(sizes)), now)
            if chance.random() < 0.3:
                store.delete(b"%d" % chance.randrange(380), now)
        assert 0 < full < 600


@pytest.mark.parametrize("size", [100, 3000, 20_000])
def test_nobody_waits_for_many_second_chances(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything was read, a turn of the main queue frees nothing, be its records many or few."""
    swept: list[int] = []
    run = Sweep.run

    def counting(*arguments: object, **named: object) -> Swept:
        swept.append(1)
        return run(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Sweep, "run", counting)
    with open_store(4 * MIB) as store:
        keys = list(fill_until_evicted(store, "", lambda i: bytes(size)))
        most = 0
        for i in range(100):
            for key in keys * 3 if i % 10 == 0 else []:
                store.get(key, clock)
            swept.clear()
            store.put(b"new %d" % i, bytes(size), clock)
            most = max(most, len(swept))
        assert 4 < most <= 50


def test_a_writer_has_patience_for_a_bounded_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything was read, and has to be moved before anything is evicted: not all of it by one writer."""
    merciful: list[int] = []
    total: list[int] = []
    step, until = eviction.Eviction.step, room.Room.until

    def counted(self: eviction.Eviction, mercy: bool, told: Callable[[], int]) -> int:
        looks = step(self, mercy, told)
        total[-1] += looks
        merciful[-1] += mercy * looks
        return looks

    def noted(self: room.Room, *arguments: Any) -> Any:
        merciful.append(0)
        total.append(0)
        return until(self, *arguments)

    monkeypatch.setattr(eviction.Eviction, "step", counted)
    monkeypatch.setattr(room.Room, "until", noted)
    with open_store(8 * MIB, segment_bytes=64 * KIB) as store:
        for number in range(110_000):
            store.put(b"%d" % number, b"v" * 64, clock)
            for _ in range(2):
                store.get(b"%d" % number, clock)
        assert len(total) > 10
        assert 512 <= max(merciful) < 512 + 512
        assert max(total) < 8192


@pytest.mark.parametrize("evicts", [True, False])
def test_room_is_made_ahead_of_writers_and_nobody_is_the_first_to_go(evicts: bool) -> None:
    with open_store(4 * MIB, segment_bytes=16 * KIB, evicts=evicts) as store:

        def is_short() -> bool:
            return not store._segments.room(4)

        number = 0
        while not is_short():  # half of what is written is soon dead
            for key in (number, number // 2):
                store.put(b"%d" % key, b"v" * 100, clock)
            number += 1
        while store.look_after(clock):
            pass
        assert not is_short()
        assert store.stats()["evictions"] == 0


def test_nobody_is_the_first_to_go_before_somebody_needs_the_room() -> None:
    with open_store(4 * MIB, segment_bytes=16 * KIB) as store:
        number = 0
        while store._segments.room(1):
            store.put(b"%d" % number, b"v" * 100, clock)
            number += 1
        for _ in range(100):
            assert not store.look_after(clock)
        assert store.stats()["evictions"] == 0
        for more in range(number, number + 1000):
            store.put(b"%d" % more, b"v" * 100, clock)
        # From now on room is made ahead.
        assert store.stats()["evictions"] > 0
        while store.look_after(clock):
            pass
        assert store._segments.room(4)
