"""The compiled sweep: what it leaves is what the readable one leaves, byte by byte."""

from __future__ import annotations

import ctypes
import os
import random
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from store_helpers import KIB, MIB, NOW_MS, SEED, clock, end_of, open_store, payload, start
from test_core_engine import Pair, anything, engine_between_guards, store_of

from fastkv import core
from fastkv.store.layout import SEG_HEAD, SH_OLDEST, SH_OPEN, SH_OPEN_MAIN
from fastkv.store.sweep import KEEP_ALL, KEEP_NONE, LEAVE, PROMOTE, SECOND_CHANCE, Sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastkv.store import Store
    from fastkv.store.shard import Shard

if not core.COMPILED:
    pytest.skip(core.REASON, allow_module_level=True)

RULES: Final = (LEAVE, KEEP_ALL, SECOND_CHANCE, PROMOTE, KEEP_NONE)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records the compiled sweep has left to the readable one, each time."""
    found: list[int] = []
    look = Sweep._look

    def counting(sweep: Sweep, shard: Shard, rule: int, now_ms: int, part: Any, *rest: Any) -> None:
        before = part.looks
        look(sweep, shard, rule, now_ms, part, *rest)
        if sweep.compiled is not None:
            found.append(before - part.looks)

    monkeypatch.setattr(Sweep, "_look", counting)
    return found


def close_open(store: Store) -> None:
    """Close the segments that take new records."""
    for shard in store._shards:
        with store._guard.holding(shard):
            for field in (SH_OPEN, SH_OPEN_MAIN):
                if store.words[shard.header + field]:
                    shard.close_open(shard.header + field)


def begin_ghosts(store: Store) -> None:
    with store._eviction.locked():
        assert store._ghosts.fit(500)


def fill(pair: Pair, chance: random.Random, *, large: bool, entries: int = 400) -> None:
    """Entries of all kinds; some were read, some are dead, some will have expired."""
    for number in range(entries):
        key = b"key%d" % chance.randrange(entries)
        if large and chance.random() < 0.05:
            key = key.ljust(241 + number % 60, b"k")
        size = chance.choice([0, 8, 60, 300]) if not large or chance.random() < 0.9 else 5000
        deadline_ms = chance.choice([0, 0, NOW_MS + chance.randrange(1, 100)])
        metadata = chance.choice([b"", b"metadata"])
        value = payload(number, size)
        pair.do(lambda store: store.put(key, value, pair.clock, 3, deadline_ms, metadata))  # noqa: B023
        if chance.random() < 0.1:
            pair.do(lambda store: store.delete(b"key%d" % (number // 2), pair.clock))  # noqa: B023
        for _ in range(chance.randrange(5)):
            pair.do(lambda store: store.get(b"key%d" % (number // 3), pair.clock))  # noqa: B023
    pair.do(close_open)
    pair.compare()


class Request(NamedTuple):
    """What a sweep is asked for."""

    shard: int
    segment: int
    rule: int
    location: int
    looks: int
    moves: int

    def run(self, store: Store, now_ms: int) -> object:
        shard = store._shards[self.shard]
        deadlines: list[int] = []
        with store._guard.holding(shard):
            swept = store._eviction._sweep.run(
                shard,
                self.segment,
                self.rule,
                now_ms,
                location=self.location,
                looks=self.looks,
                moves=self.moves,
                deadlines=deadlines,
            )
        return tuple(swept), deadlines, store.removals.take()


def sweep_at_random(pair: Pair, chance: random.Random, times: int) -> int:
    """Sweep parts of segments; returns how many records were looked at."""
    looked = 0
    location, request = 0, None
    for _ in range(times):
        store = pair.stores[0]
        if not location or request is None:
            number = chance.randrange(len(store._shards))
            header = store._shards[number].header
            rule = chance.choice(RULES)
            segments = list(store._segments.closed(header) if rule != LEAVE else store._segments.log(header))
            if not segments:
                continue
            request = Request(number, chance.choice(segments), rule, 0, 0, 0)
        request = request._replace(
            location=location, looks=chance.choice([1, 2, 5, 512]), moves=chance.choice([1, 3, 256])
        )
        now_ms = NOW_MS + chance.randrange(100)
        swept: Any = pair.do(lambda store: request.run(store, now_ms))  # noqa: B023 - called at once
        (location, looks, stuck), _, _ = swept
        looked += looks
        if stuck:
            location = 0
        pair.compare()
    return looked


SHAPES: Final = ((MIB, 1, 4 * KIB), (MIB, 4, 4 * KIB), (2 * MIB, 2, 64 * KIB))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("large", [False, True], ids=["ordinary", "of all kinds"])
def test_arenas_are_equal_after_sweeps(shape: Any, seed: int, large: bool, left: list[int]) -> None:
    pair = Pair(*shape)
    chance = random.Random(seed)
    if seed:
        pair.do(begin_ghosts)
    looked = 0
    for _ in range(3):
        fill(pair, chance, large=large)
        looked += sweep_at_random(pair, chance, 60)
    assert looked > 300
    if large:
        assert set(left) == {1}
    else:
        assert left == []
    assert pair.stores[0].stats()["relocated"] > 30
    assert pair.stores[0].stats()["evictions"] > 30
    assert pair.stores[0].stats()["expired"] > 30
    pair.close()


def test_what_is_listened_to_is_removed_by_the_readable_sweep(left: list[int]) -> None:
    pair = Pair(MIB, 1, 4 * KIB)
    chance = random.Random(SEED)
    wanted = memoryview(bytearray(8)).cast("Q")
    wanted[0] = 1
    for store in pair.stores:
        store.removals.wanted = wanted
    fill(pair, chance, large=True)
    sweep_at_random(pair, chance, 60)
    assert sum(left) > 100
    assert max(left) > 1
    pair.close()


def drain(store: Store, segments: int) -> None:
    """Leave so many segments in the pool."""
    with store._guard.holding(store._shards[0]):
        while store._segments.free_count() > segments:
            assert store._segments.take(0, 0xFF, 0)


@pytest.mark.parametrize("rule", [KEEP_ALL, SECOND_CHANCE, PROMOTE])
@pytest.mark.parametrize("segments", [0, 1])
def test_arenas_are_equal_where_the_pool_has_no_segment(rule: int, segments: int) -> None:
    """What cannot be moved is evicted, or stays."""
    pair = Pair(MIB, 1, 4 * KIB)
    chance = random.Random(SEED)
    fill(pair, chance, large=False)
    for key in range(400):
        for _ in range(3):
            pair.do(lambda store: store.get(b"key%d" % key, pair.clock))  # noqa: B023 - called at once
    pair.do(lambda store: drain(store, segments))
    stuck = 0
    for segment in list(pair.stores[0]._segments.closed(pair.stores[0]._shards[0].header)):
        swept: Any = pair.do(lambda store: Request(0, segment, rule, 0, 512, 256).run(store, NOW_MS))  # noqa: B023
        stuck += swept[0][2]
        pair.compare()
        pair.do(lambda store: drain(store, 0))
    assert (stuck > 0) == (rule == KEEP_ALL)
    for store in pair.stores:
        store.close()


# -- locks -------------------------------------------------------------------------------------------------


def a_closed_segment(store: Store) -> int:
    """A closed segment with six entries, which were read twice; nothing is in the main queue."""
    for number in range(6):
        store.put(b"%d" % number, payload(number, 100), clock, deadline_ms=(number & 1) * (NOW_MS + 1))
        store.get(b"%d" % number, clock)
        store.get(b"%d" % number, clock)
    close_open(store)
    return store.words[store._shards[0].header + SH_OLDEST]


def test_a_pool_whose_owner_died_is_repaired() -> None:
    with open_store() as store:
        segment = a_closed_segment(store)
        assert end_of(start(store.readable.pool_lock.attempt)) == 0
        Request(0, segment, KEEP_ALL, 0, 512, 256).run(store, NOW_MS)
        assert store.stats()["relocated"] == 6
        assert not store.readable.pool_lock.acquire()
        store.readable.pool_lock.release()


def test_a_pool_that_is_busy_is_waited_for(left: list[int]) -> None:
    with open_store() as store:
        segment = a_closed_segment(store)
        held_read, held_write = os.pipe()

        def hold() -> None:
            store.readable.pool_lock.attempt()
            os.write(held_write, b".")
            time.sleep(0.2)
            store.readable.pool_lock.release()

        pid = start(hold)
        os.read(held_read, 1)
        Request(0, segment, KEEP_ALL, 0, 512, 256).run(store, NOW_MS)
        assert end_of(pid) == 0
        assert store.stats()["relocated"] == 6
        assert left == [1]


# -- anything in the arena -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(MIB + 36 * KIB, 1, 4 * KIB), (MIB, 8, 4 * KIB), (2 * MIB, 1, 64 * KIB)])
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_arena_leads_nowhere_else(shape: tuple[int, int, int], seed: int) -> None:
    """Whatever stands there: nothing outside of the arena is touched, and the pool's lock is released."""
    store = store_of(*shape, compiled=True)
    chance = random.Random(seed)
    keys = [b"key%d" % number for number in range(600)]
    for key in keys:
        store.put(key, b"v" * chance.randrange(600), clock, 0, chance.choice([0, NOW_MS + 9]), key[:5])
    begin_ghosts(store)
    close_open(store)

    def work() -> None:
        geometry = store.geometry
        memory, words, engine, _ = engine_between_guards(store)
        sweeper = core.sweep.Sweeper(engine)
        entries = [entry for key in keys if (entry := store.readable.get(key, clock))]
        targets: list[Sequence[int]] = [
            range(geometry.digests_at),
            [at for at in range(geometry.digests_at) if store.words[at]],
            [entry[4] for entry in entries],
            [store._arena.location_of(entry[5]) for entry in entries],
            range(len(words)),
        ]
        for _ in range(60):
            ctypes.memmove(memory, bytes(store.counts), geometry.memory_bytes)
            for _ in range(chance.choice([1, 10, 100, 1000])):
                at = chance.choice(chance.choice(targets))
                words[at] = anything(chance, store, words[at])
            for _ in range(40):
                shard = store._shards[chance.randrange(len(store._shards))]
                segment = chance.choice([*store._segments.closed(shard.header), chance.randrange(1 << 40)])
                base = store._segments.base(segment)
                row = store._segments.row(segment)
                end = base + (words[row + SEG_HEAD] if row < len(words) else 9)
                rule = chance.choice(RULES)
                _, _, _, _, _, hashes = sweeper.stretch(
                    *(shard.number, segment, rule, rule == PROMOTE, NOW_MS + chance.randrange(20)),
                    *(base, end & (1 << 64) - 1, 512, 256, chance.choice([None, []])),
                )
                sweeper.remember(hashes + chance.randbytes(64))
            assert store.readable.pool_lock.attempt() == 0, "it keeps a lock"
            store.readable.pool_lock.release()

    assert end_of(start(work)) == 0
    assert store.check() == []
    store.close()
