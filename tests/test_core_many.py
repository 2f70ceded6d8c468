"""Several keys in the compiled core: arenas as readable Python leaves them."""

from __future__ import annotations

import ctypes
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_helpers import KIB, MIB, NOW_MS, clock, end_of, payload, start
from test_core_engine import (
    Pair,
    anything,
    declines_of,
    engine_between_guards,
    held_by_another_process,
    store_of,
)

from fastkv import core
from fastkv.errors import StoreBusy
from fastkv.store import DELETE, Retime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastkv.store.transaction import Transaction

if not core.COMPILED:
    pytest.skip(core.REASON, allow_module_level=True)

KEYS = st.sampled_from([b"key%d" % number for number in range(40)])
SIZES = st.sampled_from([0, 1, 7, 60, 300, 450, 480, 490, 9000])
TTLS_MS = st.one_of(st.just(0), st.integers(1, 40))


class Equality(RuleBasedStateMachine):
    """Whatever is done with several keys, the arenas of both implementations are equal."""

    pair: Pair

    @initialize(
        shape=st.sampled_from([(MIB, 1, 4 * KIB), (MIB, 8, 4 * KIB), (2 * MIB, 2, 64 * KIB)]),
        crowd=st.sampled_from([0, 300, 1500]),
    )
    def begin(self, shape: tuple[int, int, int], crowd: int) -> None:
        self.pair = Pair(*shape)
        self.clock = self.pair.clock
        self.put_crowd(0, crowd, 100)

    @rule(begin=st.integers(0, 1500), number=st.integers(1, 400), size=st.sampled_from([0, 20, 200, 400]))
    def put_crowd(self, begin: int, number: int, size: int) -> None:
        keys = [b"crowd%d" % each for each in range(begin, begin + number)]
        values = [payload(each, size) for each in range(begin, begin + number)]
        self.pair.do(lambda store: store.put_many(keys, values, self.clock))

    @rule(begin=st.integers(0, 1500), number=st.integers(1, 400))
    def delete_crowd(self, begin: int, number: int) -> None:
        keys = [b"crowd%d" % each for each in range(begin, begin + number)]
        self.pair.do(lambda store: store.delete_many(keys, self.clock))

    @rule(key=KEYS, size=SIZES, ttl_ms=TTLS_MS, metadata=st.binary(max_size=20))
    def put(self, key: bytes, size: int, ttl_ms: int, metadata: bytes) -> None:
        deadline_ms = ttl_ms and self.clock() + ttl_ms
        self.pair.do(lambda store: store.put(key, payload(key, size), self.clock, 3, deadline_ms, metadata))

    @rule(keys=st.lists(KEYS, max_size=12), size=SIZES, only_new=st.booleans())
    def put_many(self, keys: list[bytes], size: int, only_new: bool) -> None:
        values = [payload(key, size) for key in keys]
        self.pair.do(lambda store: store.put_many(keys, values, self.clock, only_new=only_new))

    @rule(keys=st.lists(KEYS, max_size=12))
    def delete_many(self, keys: list[bytes]) -> None:
        self.pair.do(lambda store: store.delete_many(keys, self.clock))

    @rule(keys=st.lists(KEYS, max_size=12))
    def look(self, keys: list[bytes]) -> None:
        self.pair.do(lambda store: store.get_many(keys, self.clock))
        self.pair.do(lambda store: store.get_values(keys, self.clock))
        self.pair.do(lambda store: store.count_many(keys, self.clock))

    @rule(
        changes=st.lists(
            st.tuples(KEYS, st.sampled_from(["put", "retime", "delete"]), SIZES, TTLS_MS), max_size=12
        )
    )
    def transact(self, changes: list[tuple[bytes, str, int, int]]) -> None:
        def body(transaction: Transaction) -> None:
            for key, what, size, ttl_ms in changes:
                deadline_ms = ttl_ms and self.clock() + ttl_ms
                if what == "put":
                    transaction.put(key, payload(key, size), self.clock, 5, deadline_ms, key * (size % 3))
                elif what == "retime":
                    transaction.update(key, lambda _, at=deadline_ms: Retime(at), self.clock)  # type: ignore[misc]
                else:
                    transaction.update(key, lambda _: DELETE, self.clock)

        self.pair.do(lambda store: store.transact([key for key, *_ in changes], body, self.clock))

    @rule(ms=st.integers(1, 30))
    def wait(self, ms: int) -> None:
        self.clock.freeze(self.clock() + ms)

    @rule()
    def look_after(self) -> None:
        self.pair.do(lambda store: store.look_after(self.clock))

    @invariant()
    @precondition(lambda self: hasattr(self, "pair"))
    def arenas_are_equal(self) -> None:
        self.pair.compare()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.close()


TestEquality = Equality.TestCase
TestEquality.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_what_is_ordinary_is_not_declined() -> None:
    """Ten thousand keys in a store of many shards: new, over others, removed, with deadlines, missing."""
    pair = Pair(48 * MIB, None, 64 * KIB)
    keys = [b"key%d" % number for number in range(10_000)]
    for size in (50, 60):
        values = [b"v" * (size + number % 100) for number in range(10_000)]
        pair.do(lambda store: store.put_many(keys, values, pair.clock))  # noqa: B023 - called at once
        pair.compare()
    for key in keys[::7]:
        pair.do(lambda store: store.update(key, lambda _: Retime(NOW_MS + 9), pair.clock))  # noqa: B023
    for _ in range(2):
        assert pair.do(lambda store: store.count_many([*keys, b"none"], pair.clock)) == 10_000
        assert pair.do(lambda store: store.get_values([*keys, b"none"], pair.clock)) == [*values, None]
        pair.compare()
    pair.clock.freeze(NOW_MS + 9)
    removed = pair.do(lambda store: store.delete_many([*keys[::3], b"none"], pair.clock))
    assert removed == [key for number, key in enumerate(keys) if number % 3 == 0 and number % 7]
    pair.compare()
    assert declines_of(pair.stores[0]) == {}
    pair.close()


# -- locks -------------------------------------------------------------------------------------------------


def test_a_busy_shard_is_waited_for_by_the_readable_way() -> None:
    store = store_of(MIB, 4, 4 * KIB, compiled=True, lock_wait_ms=0)
    keys = [b"%d" % number for number in range(20)]
    store.put_many(keys, keys, clock)
    with held_by_another_process(store.readable.locks[2]):
        assert store.get_values(keys, clock) == keys
        for look in (store.get_many, store.get_values, store.count_many):
            with pytest.raises(StoreBusy):
                look([*keys, *(b"absent%d" % number for number in range(20))], clock)
    assert declines_of(store) == {"busy": 3}
    assert store.count_many([*keys, b"absent"], clock) == 20
    assert store.check() == []
    store.close()


def test_a_shard_whose_owner_died_is_repaired_with_no_other_one_locked() -> None:
    store = store_of(MIB, 4, 4 * KIB, compiled=True)
    keys = [b"%d" % number for number in range(20)]
    store.put_many(keys, keys, clock)
    assert end_of(start(store.readable.locks[2].attempt)) == 0
    assert store.count_many([*keys, *(b"absent%d" % number for number in range(20))], clock) == 20
    assert store.stats()["repairs"] == 1
    assert declines_of(store) == {"busy": 1}
    for lock in store.readable.locks:
        assert lock.attempt() == 0
        lock.release()
    assert store.check() == []
    store.close()


# -- anything in the arena -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(MIB, 4, 4 * KIB), (2 * MIB, 1, 64 * KIB)])
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_arena_leads_nowhere_else(shape: tuple[int, int, int], seed: int) -> None:
    """Whatever stands there: nothing outside of the arena is touched, and all locks are released."""
    store = store_of(*shape, compiled=True)
    chance = random.Random(seed)
    keys = [b"key%d" % number for number in range(600)]
    for key in keys:
        store.put(key, b"v" * chance.randrange(400), clock, 0, chance.choice([0, NOW_MS + 9]), key[:5])

    def work() -> None:
        geometry = store.geometry
        memory, words, engine, _ = engine_between_guards(store)
        nothing: Any = SimpleNamespace(
            get_many=lambda *_: [], get_values=lambda *_: [], count_many=lambda *_: 0
        )
        many = core.many.Many(engine, nothing)
        targets: list[Sequence[int]] = [
            range(geometry.digests_at),
            [at for at in range(geometry.digests_at) if store.words[at]],
            [entry[4] for key in keys if (entry := store.readable.get(key, clock))],
            range(len(words)),
        ]
        for _ in range(40):
            ctypes.memmove(memory, bytes(store.counts), geometry.memory_bytes)
            for _ in range(chance.choice([1, 10, 100, 1000])):
                at = chance.choice(chance.choice(targets))
                words[at] = anything(chance, store, words[at])
            asked = chance.sample(keys, 60) + [b"new%d" % number for number in range(60)]
            for look in (many.get_many, many.get_values, many.count_many):
                look(asked, clock)
            for removes in (False, True):
                changes = core.changes.Changes(engine)
                if removes:
                    assert changes.take_removals(asked)
                else:
                    assert changes.take_puts(asked, [b"v" * chance.randrange(200) for _ in asked], 1 << 20)
                run(changes)
            for lock in (*store.readable.locks, store.readable.pool_lock):
                assert lock.attempt() == 0, "it keeps a lock"
                lock.release()

    assert end_of(start(work)) == 0
    assert store.check() == []
    store.close()


def run(changes: Any) -> None:
    """The loops of a commit, as far as they come without the readable part."""
    changes.first_there(clock)
    changes.give_versions()
    if changes.place(0, clock) != len(changes) or changes.wanted() < 0:
        return
    try:
        if changes.append(0) != len(changes):
            return
    except RuntimeError:
        return
    assert len(changes.flat()) == 24 * changes.changed
    changes.begin()
    changes.empty()
    changes.fill()
    at = 0
    while (at := changes.settle(at)) < len(changes):
        at += 1
    changes.end()
