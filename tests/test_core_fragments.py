"""Fragments in the compiled core: arenas as the readable log leaves them, and safe whatever stands there."""

from __future__ import annotations

import ctypes
import random
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
from store_helpers import KIB, MIB, NOW_MS, SEED, clock, end_of, payload, start, value_of
from test_core_engine import Pair, anything, engine_between_guards, held_by_another_process, store_of

from fastkv import core
from fastkv.errors import StoreBusy
from fastkv.store import Retime, Store
from fastkv.store.layout import RESERVE, SH_OPEN
from fastkv.store.records import CHECKSUM_BYTES, HEAD_BYTES, MAX_METADATA_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastkv.core.fragments import Fragments
    from fastkv.store.shard import Shard

if not core.COMPILED:
    pytest.skip(core.REASON, allow_module_level=True)

SHAPES: Final = ((MIB, 1, 4 * KIB), (MIB, 4, 4 * KIB), (2 * MIB, 2, 64 * KIB))
KEYS: Final = [b"key%d" % number for number in range(12)]
SMALL: Final = (MIB, 1, 4 * KIB)


def shard_of(store: Store, key: bytes) -> Shard:
    arena = store._arena
    return store._shards[arena.shard_of(arena.hash_of(key))]


def fragments_of(shard: Shard) -> Fragments:
    assert shard.compiled is not None
    return shard.compiled


def bytes_in(words: int) -> int:
    """The longest piece of a value that a fragment holds, by its length in words."""
    return (words << 3) - HEAD_BYTES - CHECKSUM_BYTES


def edges(store: Store, key: bytes) -> list[int]:
    """Sizes at which one fragment more, or one segment more, begins where a key's next value comes to lie."""
    geometry = store.geometry
    whole, least = bytes_in(geometry.segment_words), bytes_in(geometry.inline_words)
    room = geometry.segment_words - shard_of(store, key).open_head(main=False)
    rest = bytes_in(room) if room >= geometry.inline_words else 0
    return [
        *(least, least - len(key), least + 8, whole - least, whole, 2 * whole, 3 * whole + least),
        # In front of the last ones is what fills the open segment.
        *(rest, rest + 1, rest + whole, rest + whole + 1, rest + 2 * whole, rest + 2 * whole + least),
    ]


class Full(Pair):
    """Two stores that evict nothing."""

    def __init__(self, *shape: Any) -> None:
        super().__init__(*shape)
        for store in self.stores:
            store.close()
        self.stores = []
        for compiled in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(core, "COMPILED", compiled)
                memory_bytes, shards, segment_bytes = shape
                self.stores.append(
                    Store(memory_bytes, shards=shards, segment_bytes=segment_bytes, seed=SEED, evicts=False)
                )


def disturb(pair: Pair, seed: int, steps: int) -> list[object]:
    """Do anything to both stores, which are equal after each step; what the puts came to."""
    chance = random.Random(seed)
    outcomes: list[object] = []
    for step in range(steps):
        key, action = chance.choice(KEYS), chance.random()
        if action < 0.7:
            most = pair.stores[0].max_value_bytes - MAX_METADATA_BYTES
            size = chance.choice(edges(pair.stores[0], key)) + chance.choice([0, 0, chance.randrange(-9, 10)])
            value = payload(step, min(max(size, 0), most))
            deadline_ms = chance.choice([0, 0, NOW_MS + 5])
            metadata = chance.choice([b"", b"m", b"m" * MAX_METADATA_BYTES])
            outcomes.append(
                pair.do(lambda store: store.put(key, value, pair.clock, 1, deadline_ms, metadata))  # noqa: B023
            )
        elif action < 0.8:
            pair.do(lambda store: store.delete(key, pair.clock))  # noqa: B023 - called at once
        elif action < 0.9:
            pair.do(lambda store: store.put_many(KEYS[:4], [b"v" * step] * 4, pair.clock))  # noqa: B023
        else:
            pair.do(lambda store: store.update(key, lambda _: Retime(NOW_MS + 7), pair.clock))  # noqa: B023
        pair.do(lambda store: store.get(key, pair.clock))  # noqa: B023 - called at once
        if step % 40 == 39:
            pair.do(lambda store: store.look_after(pair.clock))
        pair.compare()
    return outcomes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(2))
def test_arenas_are_equal_after_values_of_any_size(shape: Any, seed: int) -> None:
    pair = Pair(*shape)
    for number in range(shape[0] // 12_000):
        pair.do(lambda store: store.put(b"%d" % number, payload(number, 12_000), pair.clock))  # noqa: B023
    assert "StoreFull" not in disturb(pair, seed, 400)
    assert pair.stores[0].stats()["evictions"]
    pair.close()


def test_arenas_are_equal_where_the_pool_is_empty_and_nothing_is_evicted() -> None:
    pair = Full(*SMALL)
    for number in range(100):
        pair.do(lambda store: store.put(b"%d" % number, payload(number, 9000), pair.clock))  # noqa: B023
    assert "StoreFull" in disturb(pair, SEED, 200)
    pair.close()


@pytest.mark.parametrize("size", [3000, 9000])
@pytest.mark.parametrize("main", [False, True])
@pytest.mark.parametrize("left", range(5))
def test_a_pool_that_runs_out_in_the_middle_leaves_nothing_alive(size: int, main: bool, left: int) -> None:
    """Another shard may have taken what there was when the write began."""
    pair = Pair(*SMALL)
    value = payload(size, size)

    def append(store: Store) -> list[int]:
        shard = shard_of(store, b"key")
        with store._guard.holding(shard):
            floor = store._segments.free_count() - left
            return shard.append_pieces(7, value, floor, main=main)

    found = pair.do(append)
    assert bool(found) == (left >= 1 + (size > 4 * KIB) * 2)
    pair.compare()
    pair.do(lambda store: store.put(b"key", b"v" * 9000, pair.clock))
    pair.compare()
    for store in pair.stores:
        store.close()  # nothing owns the fragments, which is not as it has to be


def test_what_is_ordinary_is_done_in_one_call() -> None:
    store = store_of(4 * MIB, 1, 4 * KIB, compiled=True)
    shard, value = store._shards[0], payload("ordinary", 100_000)
    with store._guard.holding(shard):
        pieces, done = fragments_of(shard).append(0, 7, memoryview(value), RESERVE, main=False)
        assert done == len(value)
        assert shard.bury_pieces([]) is None  # type: ignore[func-returns-value]
        found = b"".join(
            store._arena.mem[
                (piece << 3) + HEAD_BYTES : (piece << 3) + HEAD_BYTES + shard_bytes(store, piece)
            ]
            for piece in pieces
        )
        assert found == value
        assert fragments_of(shard).bury(0, tuple(pieces)) == len(pieces)
    assert store.check() == []
    store.close()


def shard_bytes(store: Store, piece: int) -> int:
    """How much of a value is in a fragment."""
    return store.words[piece] >> 32


# -- locks -------------------------------------------------------------------------------------------------


@contextmanager
def with_pool_held(store: Store) -> Iterator[None]:
    """The compiled log finds the pool's lock held, the readable one, which goes on, finds it free."""
    shard = store._shards[0]
    if shard.compiled is None:
        yield
        return
    compiled, lock = shard.compiled, store.readable.pool_lock
    called: list[str] = []

    def append(*arguments: Any, **named: Any) -> object:
        called.append("append")
        with held_by_another_process(lock):
            found = compiled.append(*arguments, **named)
        assert found[1] < len(arguments[2])
        return found

    def bury(*arguments: Any) -> object:
        called.append("bury")
        with held_by_another_process(lock):
            done = compiled.bury(*arguments)
        assert done < len(arguments[1])
        return done

    stand_in: Any = SimpleNamespace(append=append, bury=bury)
    shard.compiled = stand_in
    try:
        yield
    finally:
        shard.compiled = compiled
    assert called


@contextmanager
def with_dead_owner(store: Store) -> Iterator[None]:
    """The last owner of the pool's lock died with it."""
    assert end_of(start(store.readable.pool_lock.attempt)) == 0
    yield


@pytest.mark.parametrize("disturbed", [with_pool_held, with_dead_owner])
@pytest.mark.parametrize("operation", ["put", "overwrite", "delete"])
def test_the_readable_log_goes_on_where_the_pool_cannot_be_had(disturbed: Any, operation: str) -> None:
    pair = Pair(*SMALL)
    before, after = payload("before", 20_000), payload("after", 15_000)
    pair.do(lambda store: store.put(b"first", b"v" * 300, pair.clock))
    if operation != "put":
        pair.do(lambda store: store.put(b"key", before, pair.clock))

    def change(store: Store) -> object:
        with disturbed(store):
            if operation == "delete":
                return store.delete(b"key", pair.clock)
            return store.put(b"key", after, pair.clock)

    pair.do(change)
    pair.compare()
    for store in pair.stores:
        assert value_of(store, b"key", pair.clock) == (None if operation == "delete" else after)
        assert not store.readable.pool_lock.acquire()
        store.readable.pool_lock.release()
    pair.close()


def test_a_pool_that_stays_busy_leaves_the_old_value() -> None:
    store = store_of(*SMALL, compiled=True, lock_wait_ms=0)
    store.put(b"key", b"old" * 3000, clock)
    with held_by_another_process(store.readable.pool_lock), pytest.raises(StoreBusy):
        store.put(b"key", b"new" * 3000, clock)
    assert value_of(store, b"key") == b"old" * 3000
    assert store.check() == []
    store.put(b"key", b"new" * 3000, clock)
    assert value_of(store, b"key") == b"new" * 3000
    assert store.check() == []
    store.close()


# -- its end -----------------------------------------------------------------------------------------------


def test_of_a_closed_engine_nothing_is_appended_or_buried() -> None:
    store = store_of(*SMALL, compiled=True)
    fragments = fragments_of(store._shards[0])
    pieces = store._shards[0].append_pieces(7, b"v" * 9000)
    store.close()
    assert fragments.append(0, 7, memoryview(b"v" * 9000), 0, main=False) == ([], 0)
    assert fragments.bury(0, tuple(pieces)) == 0


def test_what_lies_in_no_log_of_the_shard_is_not_buried() -> None:
    store = store_of(MIB, 4, 4 * KIB, compiled=True)
    pieces = store._shards[0].append_pieces(7, b"v" * 9000)
    (page,) = store._index.pages(0)
    before = bytes(store.counts)
    fragments = fragments_of(store._shards[1])
    for asked in (*pieces, store._segments.base(page), 0, store.geometry.memory_bytes // 8, (1 << 64) - 1):
        assert fragments.bury(1, (asked,)) == 0
    assert bytes(store.counts) == before
    store.close()


def test_of_no_shard_nothing_is_appended_or_buried() -> None:
    store = store_of(*SMALL, compiled=True)
    fragments = fragments_of(store._shards[0])
    pieces = store._shards[0].append_pieces(7, b"v" * 9000)
    before = bytes(store.counts)
    for shard in (1, 1 << 40, (1 << 64) - 1):
        assert fragments.append(shard, 7, memoryview(b"v" * 9000), 0, main=False) == ([], 0)
        assert fragments.bury(shard, tuple(pieces)) == 0
    assert bytes(store.counts) == before
    store.close()


# -- anything in the arena -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_arena_leads_nowhere_else(shape: Any, seed: int) -> None:
    """Whatever stands there: nothing outside of the arena is touched, and the pool's lock is released."""
    store = store_of(*shape, compiled=True)
    chance = random.Random(seed)
    for key in KEYS:
        store.put(key, payload(key, chance.randrange(20 * KIB)), clock)

    def work() -> None:
        geometry, arena = store.geometry, store._arena
        memory, words, engine, _ = engine_between_guards(store)
        fragments = core.fragments.Fragments(engine)
        entries = [arena.location_of(entry[5]) for key in KEYS if (entry := store.readable.get(key, clock))]
        pieces = [piece for at in entries for piece in shard_of(store, KEYS[0]).pieces(at)]
        assert len(pieces) > 3
        opened = [shard.header + SH_OPEN + main for shard in store._shards for main in (0, 1)]
        rows = [store._segments.row(at >> geometry.segment_shift) for at in pieces]
        targets: list[Sequence[int]] = [
            range(geometry.digests_at),
            [at for at in range(geometry.digests_at) if store.words[at]],
            [*opened, *(row + field for row in rows for field in range(8))],
            pieces,
            range(len(words)),
        ]
        for _ in range(60):
            ctypes.memmove(memory, bytes(store.counts), geometry.memory_bytes)
            for _ in range(chance.choice([1, 10, 100, 1000])):
                at = chance.choice(chance.choice(targets))
                words[at] = anything(chance, store, words[at])
            for _ in range(10):
                shard, size = chance.randrange(geometry.shards), chance.randrange(1, 30 * KIB)
                value = memoryview(b"v" * size)
                found, done = fragments.append(
                    shard, chance.randrange(1 << 64), value, chance.randrange(4), main=chance.random() < 0.3
                )
                assert done <= size
                asked = [*found, *chance.sample(pieces, 3), anything(chance, store, chance.choice(pieces))]
                chance.shuffle(asked)
                assert fragments.bury(shard, tuple(asked)) <= len(asked)
            assert store.readable.pool_lock.attempt() == 0, "it keeps the lock"
            store.readable.pool_lock.release()

    assert end_of(start(work)) == 0
    assert store.check() == []
    store.close()
