"""The compiled engine: equal to the readable one, byte by byte, and safe whatever stands in the arena."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_helpers import KIB, MIB, NOW_MS, SEED, HandClock, always, end_of, payload, start
from xxhash import xxh3_64_intdigest

from fastkv import core
from fastkv.errors import StoreBusy, StoreFull
from fastkv.store import DELETE, Change, Retime, Store
from fastkv.store.layout import SH_VERSION
from fastkv.store.records import MAX_METADATA_BYTES, VERSION_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastkv.store.engine import Engine

if not core.COMPILED:
    pytest.skip(core.REASON, allow_module_level=True)

# Reasons that an undisturbed process meets only where it leaves what is ordinary.
EXTRAORDINARY = {"expired", "full", "key", "large", "missing"}
KEYS = st.sampled_from([b"key%d" % number for number in range(40)])
SIZES = st.one_of(
    st.sampled_from([0, 1, 7, 8, 60, 450, 480, 481, 490, 512, 9000, 70_000]), st.integers(0, 600)
)
TTLS_MS = st.one_of(st.just(0), st.integers(1, 40))
METADATA = st.one_of(st.just(b""), st.binary(max_size=MAX_METADATA_BYTES), st.just(b"m" * 255))


def store_of(
    memory_bytes: int,
    shards: int | None,
    segment_bytes: int | None,
    *,
    compiled: bool,
    lock_wait_ms: int = 1000,
) -> Store:
    """An empty store with one of the engines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "COMPILED", compiled)
        return Store(
            memory_bytes,
            shards=shards,
            segment_bytes=segment_bytes,
            seed=SEED,
            lock_wait_ms=lock_wait_ms,
        )


def declines_of(store: Store) -> dict[str, int]:
    """What the compiled engine of a store left to the readable one, by reason."""
    assert isinstance(store.engine, core.engine.Engine)
    return {reason: count for reason, count in store.engine.declines.items() if count}


class Pair:
    """Two stores to which the same is done, by the compiled and by the readable engine."""

    def __init__(self, memory_bytes: int, shards: int | None, segment_bytes: int | None) -> None:
        self.clock = core.engine.Clock()
        self.clock.freeze(NOW_MS)
        self.stores = [
            store_of(memory_bytes, shards, segment_bytes, compiled=compiled) for compiled in (True, False)
        ]

    def do(self, operation: Callable[[Store], object]) -> object:
        """Do something with both.

        Returns:
            What it returned, or the name of what it raised, of either of them.
        """
        outcomes = []
        for store in self.stores:
            random.seed(SEED)  # expiry looks at shards by chance
            try:
                outcomes.append(operation(store))
            except (StoreFull, StoreBusy, ValueError) as error:
                outcomes.append(type(error).__name__)
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    def compare(self) -> None:
        """Their arenas are equal, byte by byte."""
        ours, theirs = (bytes(store.counts) for store in self.stores)
        if ours != theirs:
            at = next(at for at, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
            raise AssertionError(f"the arenas differ at byte {at}, word {at >> 3}")

    def close(self) -> None:
        """Every invariant holds."""
        for store in self.stores:
            assert store.check() == []
            store.close()


class Equality(RuleBasedStateMachine):
    """Whatever is done, the arenas of both engines are equal."""

    pair: Pair
    attempts = 0

    @initialize(
        shape=st.sampled_from(
            [(MIB, 1, 4 * KIB), (MIB, 8, 4 * KIB), (2 * MIB, 2, 64 * KIB), (MIB, 4, 8 * KIB)]
        ),
        crowd=st.sampled_from([0, 300, 1500]),
    )
    def begin(self, shape: tuple[int, int, int], crowd: int) -> None:
        self.pair = Pair(*shape)
        self.clock = self.pair.clock
        self.put_many(crowd, 100, 0)

    @rule(key=KEYS, size=SIZES, flags=st.integers(0, 255), ttl_ms=TTLS_MS, metadata=METADATA)
    def put(self, key: bytes, size: int, flags: int, ttl_ms: int, metadata: bytes) -> None:
        deadline_ms = ttl_ms and self.clock() + ttl_ms
        value = payload(key, size)
        self.pair.do(lambda store: store.put(key, value, self.clock, flags, deadline_ms, metadata))

    @rule(
        key=st.one_of(KEYS, st.integers(1, 1024).map(lambda size: b"k" * size)), value=st.binary(max_size=40)
    )
    def put_plainly(self, key: bytes, value: bytes) -> None:
        self.pair.do(lambda store: store.put(key, value, self.clock))

    @rule(count=st.integers(1, 300), size=st.sampled_from([0, 20, 200, 400]), begin=st.integers(0, 1500))
    def put_many(self, count: int, size: int, begin: int) -> None:
        for number in range(begin, begin + count):
            key, value = b"crowd%d" % number, payload(number, size)
            self.pair.do(lambda store: store.put(key, value, self.clock))  # noqa: B023 - called at once

    @rule(key=KEYS, count=st.integers(1, 60), size=st.integers(0, 470))
    def put_again_and_again(self, key: bytes, count: int, size: int) -> None:
        for number in range(count):
            value = payload(number, size)
            self.pair.do(lambda store: store.put(key, value, self.clock))  # noqa: B023 - called at once

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        self.pair.do(lambda store: store.get(key, self.clock))

    @rule(keys=st.lists(KEYS, max_size=5))
    def get_many(self, keys: list[bytes]) -> None:
        self.pair.do(lambda store: store.get_many(keys, self.clock))

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.pair.do(lambda store: store.delete(key, self.clock))

    @rule(begin=st.integers(0, 1500), count=st.integers(1, 300))
    def delete_many(self, begin: int, count: int) -> None:
        for number in range(begin, begin + count):
            key = b"crowd%d" % number
            self.pair.do(lambda store: store.delete(key, self.clock))  # noqa: B023 - called at once

    @rule(key=KEYS, ttl_ms=TTLS_MS, what=st.sampled_from(["put", "retime", "delete"]))
    def update(self, key: bytes, ttl_ms: int, what: str) -> None:
        deadline_ms = ttl_ms and self.clock() + ttl_ms
        changes: dict[str, Change] = {
            "put": (b"new", 0, deadline_ms, b""),
            "retime": Retime(deadline_ms),
            "delete": DELETE,
        }
        self.pair.do(lambda store: store.update(key, always(changes[what]), self.clock))

    @rule(keys=st.lists(KEYS, max_size=4), value=st.binary(max_size=100))
    def transact(self, keys: list[bytes], value: bytes) -> None:
        def body(transaction: Any) -> None:
            for key in keys:
                transaction.put(key, value, self.clock)

        self.pair.do(lambda store: store.transact(None, body, self.clock))

    @rule(ms=st.integers(1, 30))
    def wait(self, ms: int) -> None:
        self.clock.freeze(self.clock() + ms)

    @rule()
    def look_after(self) -> None:
        self.pair.do(lambda store: store.look_after(self.clock))

    @rule()
    def flush(self) -> None:
        self.pair.do(lambda store: store.flush())

    @invariant()
    @precondition(lambda self: hasattr(self, "pair"))
    def arenas_are_equal(self) -> None:
        self.pair.compare()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            assert declines_of(self.pair.stores[0]).keys() <= EXTRAORDINARY | {"split"}
            self.pair.close()


TestEquality = Equality.TestCase
TestEquality.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_ordinary_operations_are_hardly_ever_declined() -> None:
    """Values of up to 8 KiB in segments of 64 KiB, with deadlines and metadata, where all have room."""
    pair = Pair(48 * MIB, None, 64 * KIB)
    chance = random.Random(SEED)
    operations = 0
    for _ in range(20_000):
        key = b"key%d" % chance.randrange(1000)
        size = chance.choice([0, 64, 500, 3000, chance.randrange(7900)])
        deadline_ms = chance.choice([0, 0, NOW_MS + chance.randrange(1, 10**6)])
        metadata = chance.choice([b"", b"", b"metadata"])
        value = chance.randbytes(size)
        action = chance.random()
        if action < 0.6:
            pair.do(lambda store: store.put(key, value, pair.clock, 1, deadline_ms, metadata))  # noqa: B023
        elif action < 0.7:
            pair.do(lambda store: store.delete(key, pair.clock))  # noqa: B023 - called at once
        else:
            pair.do(lambda store: store.get(key, pair.clock))  # noqa: B023 - called at once
        operations += 1
    pair.compare()
    assert sum(declines_of(pair.stores[0]).values()) <= operations * 0.005
    pair.close()


@pytest.mark.parametrize(
    ("version", "declined"),
    [(0x12_3456_789A_BCDE, set()), ((1 << VERSION_BITS - 1) - 9, set()), (1 << VERSION_BITS, {"damaged"})],
)
def test_all_bits_of_a_version_are_kept(version: int, declined: set[str]) -> None:
    """One that no compact record has room for, because it was damaged, is left to the readable engine."""
    pair = Pair(MIB, 1, 4 * KIB)
    pair.do(lambda store: store.put(b"a", b"before", pair.clock))
    for store in pair.stores:
        store.words[store.geometry.shards_at + SH_VERSION] = version
    pair.do(lambda store: store.put(b"a", b"after", pair.clock))
    pair.do(lambda store: store.get(b"a", pair.clock))
    pair.do(lambda store: store.put_many([b"a", b"b"], [b"many", b"more"], pair.clock))
    pair.compare()
    entry = pair.stores[0].get(b"b", pair.clock)
    assert entry is not None
    assert entry[2] == version + 3
    assert declines_of(pair.stores[0]).keys() == declined
    pair.close()


def test_evicting_stores_stay_equal_and_remember_evicted_keys() -> None:
    pair = Pair(MIB, 2, 4 * KIB)
    chance = random.Random(SEED)
    recalls = pair.stores[1]._ghosts.recalls
    recalled = 0
    for step in range(15_000):
        key = b"%d" % int(100_000 ** chance.random())
        value = b"v" * chance.randrange(480)
        if pair.do(lambda store: store.get(key, pair.clock)) is None:  # noqa: B023 - called at once
            recalled += pair.stores[1].stats()["evictions"] > 0 and recalls(xxh3_64_intdigest(key, SEED))
            pair.do(lambda store: store.put(key, value, pair.clock))  # noqa: B023 - called at once
        if not chance.randrange(50):
            pair.do(lambda store: store.look_after(pair.clock))
        if not step % 500:
            pair.compare()
    assert pair.stores[0].stats()["evictions"] > 1000
    assert recalled > 50
    pair.compare()
    pair.close()


# -- one arena, both engines -------------------------------------------------------------------------------


def test_engines_in_turns_leave_what_the_readable_one_leaves() -> None:
    """What one writes the other one reads at once, in full buckets, while entries are evicted and expire."""
    pair = Pair(MIB, 2, 4 * KIB)
    shared, alone = pair.stores
    chance, clock = random.Random(SEED), pair.clock

    def step(flags: int, writer: Any, reader: Any) -> None:
        key = b"key%d" % int(100_000 ** chance.random())
        value = chance.randbytes(chance.choice([0, 50, 450, 450, 2000] if flags else [9000]))
        metadata, lives_ms = chance.choice([b"", b"metadata"]), chance.choice([0, 0, 0, 1000])
        deadline_ms = lives_ms and clock() + lives_ms

        def do(engine: Any, operation: Callable[[Any], object]) -> None:
            pair.do(lambda store: operation(store.readable if store is alone else engine))

        if chance.random() < 0.1:
            do(writer, lambda engine: engine.delete(key, clock))
        else:
            # Often enough, now and then, for a segment that is dead before the next one is opened.
            for _ in range(chance.choices((1, 20), (50, 1))[0]):
                do(writer, lambda engine: engine.put(key, value, clock, flags, deadline_ms, metadata))
        # Not always, or all access counts would be at their highest.
        for each in (reader, writer)[: chance.randrange(3)]:
            do(each, lambda engine: engine.get(key, clock))
        if chance.random() < 0.2:
            pair.do(lambda store: store.get_many([key, b"key1", b"key2"], clock))
        clock.freeze(clock() + 1)

    for number in range(5000):
        step(number & 255, *chance.sample((shared.engine, shared.readable), 2))
        if not number % 50:
            pair.do(lambda store: store.look_after(clock))
        if not number % 500:
            pair.compare()
    pair.compare()
    assert shared.stats()["evictions"] > 200
    assert shared.stats()["expired"] > 50
    pair.close()


def test_processes_with_either_engine_share_an_arena() -> None:
    """Their segments are small, so that they take them from the pool and give them back all the time."""
    store = store_of(2 * MIB, 4, 4 * KIB, compiled=True, lock_wait_ms=60_000)
    clock = HandClock()

    def work(engine: Any, number: int) -> None:
        versions = dict[bytes, int]()
        for step in range(3000):
            own, shared = b"%d/%d" % (number, step % 200), b"shared%d" % (step % 20)
            versions[own] = engine.put(own, payload(own, step % 450), clock)
            entry = engine.get(own, clock)
            assert entry is not None
            assert (entry[0], entry[2]) == (payload(own, step % 450), versions[own])
            version = engine.put(shared, shared * (step % 30 + 1), clock)
            assert version > versions.get(shared, 0)
            versions[shared] = version
            entry = engine.get(shared, clock)
            assert entry is None or entry[0] == shared * (len(entry[0]) // len(shared))
            if step % 7 == 0:
                engine.delete(shared, clock)

    engines = [store.engine, store.readable] * 2
    pids = [start(lambda: work(engine, number)) for number, engine in enumerate(engines)]  # noqa: B023
    assert [end_of(pid) for pid in pids] == [0] * 4
    assert store.stats()["evictions"] == 0
    assert store.check() == []
    store.close()


# -- locks -------------------------------------------------------------------------------------------------


def test_a_busy_lock_is_left_to_the_readable_engine_with_nothing_changed() -> None:
    """Whether it is the shard's, or the pool's where a segment is to be opened or freed."""
    store = store_of(MIB, 1, 4 * KIB, compiled=True)
    clock = HandClock()
    store.put(b"a", b"v" * 400, clock)
    readable = store.readable
    declined: list[tuple[str, bool]] = []
    engine = core.engine.Engine(spy(readable, declined, lambda: bytes(store.counts)))
    with held_by_another_process(readable.locks[0]):
        before = bytes(store.counts)
        engine.put(b"a", b"new", clock)
        engine.delete(b"a", clock)
        assert bytes(store.counts) == before
    assert [name for name, _ in declined] == ["put", "delete"]
    assert engine.declines["busy"] == 2
    declined.clear()
    with held_by_another_process(readable.pool_lock):
        while not declined:  # until the open segment is full
            before = bytes(store.counts)
            engine.put(b"a", b"v" * 400, clock)
        assert bytes(store.counts) == before
    assert engine.declines["busy"] == 3
    engine.close()
    assert store.check() == []
    store.close()


def test_a_shard_whose_owner_died_is_repaired_and_left_to_the_readable_engine() -> None:
    store = store_of(MIB, 1, 4 * KIB, compiled=True)
    clock = HandClock()
    operations: list[Callable[[], object]] = [
        lambda: store.put(b"a", b"1", clock),
        lambda: store.put(b"a", b"2", clock),
        lambda: store.delete(b"a", clock),
    ]
    for number, operation in enumerate(operations):
        assert end_of(start(store.readable.locks[0].attempt)) == 0
        operation()
        assert store.stats()["repairs"] == number + 1
        assert declines_of(store)["busy"] == number + 1
    assert store.get(b"a", clock) is None
    assert store.check() == []
    store.close()


def test_a_pool_whose_owner_died_is_repaired_without_the_lock_of_a_shard() -> None:
    store = store_of(MIB, 1, 4 * KIB, compiled=True)
    clock = HandClock()
    assert end_of(start(store.readable.pool_lock.attempt)) == 0
    while not declines_of(store):
        store.put(b"a", b"v" * 400, clock)
    assert declines_of(store) == {"busy": 1}
    assert not store.readable.pool_lock.acquire()
    store.readable.pool_lock.release()
    assert store.check() == []
    store.close()


@contextmanager
def held_by_another_process(lock: Any) -> Iterator[None]:
    """A lock that is not to be had meanwhile."""
    taken_read, taken_write = os.pipe()
    done_read, done_write = os.pipe()

    def hold() -> None:
        os.close(done_write)
        lock.attempt()
        os.write(taken_write, b".")
        os.read(done_read, 1)
        lock.release()

    pid = start(hold)
    os.read(taken_read, 1)
    try:
        yield
    finally:
        os.close(done_write)
        assert end_of(pid) == 0
        for end in (taken_read, taken_write, done_read):
            os.close(end)


def spy(readable: Engine, declined: list[Any], look: Callable[[], object] = lambda: None) -> Any:
    """An engine that only notes what is left to it."""

    def note(name: str, returned: object) -> Callable[..., object]:
        def called(*arguments: object) -> object:
            declined.append((name, look()))
            return returned

        return called

    return SimpleNamespace(
        arena=readable.arena,
        locks=readable.locks,
        pool_lock=readable.pool_lock,
        recover=readable.recover,
        recover_pool=readable.recover_pool,
        get=note("get", None),
        put=note("put", 0),
        delete=note("delete", False),
    )


# -- its end -----------------------------------------------------------------------------------------------


def test_a_closed_engine_declines_everything_and_the_arena_can_be_unmapped() -> None:
    store = store_of(MIB, 1, None, compiled=True)
    clock = HandClock()
    store.put(b"a", b"1", clock)
    declined: list[Any] = []
    engine = core.engine.Engine(spy(store.readable, declined))
    assert engine.get(b"a", clock) is not None
    with pytest.raises(BufferError):
        store.close()
    engine.close()
    engine.close()
    assert engine.get(b"a", clock) is None
    assert engine.put(b"a", b"2", clock) == 0
    assert engine.delete(b"a", clock) is False
    assert [name for name, _ in declined] == ["get", "put", "delete"]
    assert engine.declines["closed"] == 3
    store._arena.mem.close()


# -- anything in the arena -----------------------------------------------------------------------------------


def between_guards(size: int) -> ctypes.Array[ctypes.c_char]:
    """Zeros between pages that nothing may touch, for as long as the process lives."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 1, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    guard = 64 * MIB
    at = libc.mmap(None, size + 2 * guard, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, -1, 0)
    assert libc.mprotect(at + guard, size, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    return (ctypes.c_char * size).from_address(at + guard)


def engine_between_guards(
    store: Store,
) -> tuple[ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_uint64], Any, Any]:
    """A compiled engine whose arena lies between such pages, with the locks of a store.

    Returns:
        The arena, its words, the engine, and the readable one that it leaves things to, which does nothing.
    """
    geometry = store.geometry
    memory = between_guards(geometry.memory_bytes)
    words = (ctypes.c_uint64 * (geometry.memory_bytes // 8)).from_buffer(memory)
    stand_in = spy(store.readable, [])
    stand_in.arena = SimpleNamespace(geometry=geometry, mem=memory, seed=SEED)
    return memory, words, core.engine.Engine(stand_in), stand_in


def anything(chance: random.Random, store: Store, word: int) -> int:
    """What may stand in a damaged word: near what was there, or near what leads somewhere."""
    geometry = store.geometry
    return (
        chance.choice(
            [
                0,
                word ^ 1 << chance.randrange(64),
                word + chance.randrange(-8, 9),
                chance.randrange(1 << 64),
                (1 << 64) - 1,
                chance.randrange(geometry.segments + 2),
                (word & ~0xFFFF_FFFF) | chance.randrange(1 << 32),
                geometry.memory_bytes // 8 - chance.randrange(4),
                chance.randrange(geometry.segments) * geometry.segment_words,
                chance.randrange(1 << 32) << 32 | word & 0xFFFF_FFFF,
            ]
        )
        & (1 << 64) - 1
    )


@pytest.mark.parametrize("shape", [(MIB + 36 * KIB, 1, 4 * KIB), (MIB, 8, 4 * KIB), (2 * MIB, 1, 64 * KIB)])
@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_arena_leads_nowhere_else(shape: tuple[int, int, int], seed: int) -> None:
    """Whatever stands there: nothing outside of the arena is touched, and all locks are released."""
    store = store_of(*shape, compiled=True)
    clock, chance = HandClock(), random.Random(seed)
    keys = [b"key%d" % number for number in range(600)]
    for key in keys:
        store.put(key, b"v" * chance.randrange(600), clock, 0, chance.choice([0, NOW_MS + 9]), key[:5])
    while store.look_after(clock):
        pass

    def work() -> None:
        geometry = store.geometry
        memory, words, engine, stand_in = engine_between_guards(store)
        stand_in.recover = stand_in.recover_pool = None
        entries = [entry for key in keys if (entry := store.readable.get(key, clock))]
        # Tables, slots, heads of records, from where damage leads farthest; and anything.
        targets: list[Sequence[int]] = [
            range(geometry.digests_at),
            [at for at in range(geometry.digests_at) if store.words[at]],
            [entry[4] for entry in entries],
            [store._arena.location_of(entry[5]) for entry in entries],
            range(len(words)),
        ]
        for _ in range(30):
            ctypes.memmove(memory, bytes(store.counts), geometry.memory_bytes)
            for _ in range(chance.choice([1, 10, 100, 1000])):
                at = chance.choice(chance.choice(targets))
                words[at] = anything(chance, store, words[at])
            for key in chance.sample(keys, 40) + [b"new%d" % number for number in range(40)]:
                size = chance.randrange(470)
                engine.get(key, clock)
                engine.put(key, b"v" * size, clock, 0, chance.choice([0, NOW_MS + 9]), b"m" * (size & 7))
                if size & 1:
                    engine.delete(key, clock)
            for lock in (*store.readable.locks, store.readable.pool_lock):
                assert lock.attempt() == 0, "it keeps a lock"
                lock.release()

    assert end_of(start(work)) == 0
    assert store.check() == []
    store.close()
