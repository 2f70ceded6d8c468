"""Death of the compiled engine behind each of its stores: the next owner finds what was acknowledged.

Each operation is one that the engine does itself. At each machine instruction behind which a shared byte is
another one it is taken for dead, and now and then it is killed.
"""

from __future__ import annotations

import ctypes
import time
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import stepping
from fake import Worker
from stepping import Stepped, Stop, address_of, deaths, in_libc
from store_helpers import (
    NOW_MS,
    SEED,
    WAITERS,
    clock,
    end_of,
    open_store,
    payload,
    snapshot,
    start,
    value_of,
)
from test_store_repair import (
    METADATA,
    NEW,
    a_few,
    a_few_and_target,
    a_few_and_target_with_metadata,
    a_full_segment,
    metadata_of,
)
from xxhash import xxh3_64_intdigest

from fastkv import core
from fastkv.store.layout import SH_OPEN, TAG_BITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.core.commands import JsonCommands
    from fastkv.store import Store

stepping.require_core()

# What the engine does itself takes fewer instructions; one step of the readable one takes more.
_MOST_STEPS = 5_000


class Death(NamedTuple):
    """An operation on the key ``target``, in which a process dies.

    Attributes:
        prepare: brings the store to where the operation starts; returns what is in it.
        operation: what the process does.
        after: the target's value once it is done, None if it is deleted.
        before: its metadata before, and
        metadata: after it.
    """

    prepare: Callable[[Store], dict[bytes, bytes]]
    operation: Callable[[Store], object]
    after: bytes | None
    metadata: bytes = b""
    module: str = "engine"


_counting: dict[str, JsonCommands] = {}


def incr(store: Store) -> object:
    return _counting["commands"].answer(b'["INCR","target"]')


def with_commands(store: Store) -> None:
    """Make what `incr` asks; before it is stepped through."""
    worker = Worker(store, readable=False)
    worker.now_ms = NOW_MS
    assert worker.service.http is not None
    _counting["commands"] = worker.service.http.commands


def no_number(store: Store) -> dict[bytes, bytes]:
    with_commands(store)
    return a_few(store)


def a_number(store: Store) -> dict[bytes, bytes]:
    """The target is a number with everything."""
    with_commands(store)
    store.put(b"target", b"41", clock, 0, NOW_MS + 1000, METADATA)
    return a_few(store) | {b"target": b"41"}


def an_expired_number(store: Store) -> dict[bytes, bytes]:
    with_commands(store)
    store.put(b"target", b"41", clock, deadline_ms=NOW_MS)
    return a_few(store)


def put(store: Store) -> object:
    return store.put(b"target", NEW, clock)


def put_with_all(store: Store) -> object:
    return store.put(b"target", NEW, clock, 3, NOW_MS + 1, METADATA)


def delete(store: Store) -> object:
    return store.delete(b"target", clock)


def close_open(store: Store) -> None:
    """Close the segments that take new records."""
    for shard in store._shards:
        with store._guard.holding(shard):
            if store.words[shard.header + SH_OPEN]:
                shard.close_open(shard.header + SH_OPEN)


def nothing(store: Store) -> dict[bytes, bytes]:
    return {}


def alone_in_a_closed_segment(store: Store) -> dict[bytes, bytes]:
    """Once the target's record is dead, its segment is free."""
    model = a_few(store)
    close_open(store)
    store.put(b"target", b"old", clock)
    close_open(store)
    store.put(b"last", b"", clock)
    return model | {b"target": b"old", b"last": b""}


def most_of_a_closed_segment(store: Store) -> dict[bytes, bytes]:
    """Once the target's record is dead, no segment has more dead space."""
    store.put(b"target", payload("old", 400), clock)
    store.put(b"besides", b"", clock, metadata=metadata_of(b"besides"))
    close_open(store)
    return a_few(store) | {b"target": payload("old", 400), b"besides": b""}


def a_ghost(store: Store) -> dict[bytes, bytes]:
    """The target was evicted not long ago: it begins in the main queue, which has no open segment."""
    model = a_few(store)
    with store._eviction.locked():
        assert store._ghosts.fit(1000)
        store._ghosts.remember([xxh3_64_intdigest(b"target", SEED)])
    return model


def a_ghost_and_a_full_segment(store: Store) -> dict[bytes, bytes]:
    """The same; the open segment of the main queue has no room left, and all in it is dead."""
    model = a_ghost(store)
    free = 0
    while store.stats()["segments_free"] != free - 1:
        free = store.stats()["segments_free"]
        restore = snapshot(store)
        store.put(b"target", NEW, clock)
        store.delete(b"target", clock)
    restore()
    return model


def an_expired_target(store: Store) -> dict[bytes, bytes]:
    store.put(b"target", b"old", clock, deadline_ms=NOW_MS)
    return a_few(store)


DEATHS: Final = {
    "put of a new key": Death(a_few, put, NEW),
    "put of a new key with everything": Death(a_few, put_with_all, NEW, METADATA),
    "put of the first key": Death(nothing, put, NEW),
    "put over a key": Death(a_few_and_target, put, NEW),
    "put with everything over a key": Death(a_few_and_target_with_metadata, put_with_all, NEW, METADATA),
    "put over an expired key": Death(an_expired_target, put, NEW),
    "put that closes a segment": Death(a_full_segment, put, NEW),
    "put that frees a segment": Death(alone_in_a_closed_segment, put, NEW),
    "put that leaves the deadest segment": Death(most_of_a_closed_segment, put, NEW),
    "put of a ghost": Death(a_ghost, put, NEW),
    "put of a ghost that closes a segment": Death(a_ghost_and_a_full_segment, put, NEW),
    "INCR of a new key": Death(no_number, incr, b"1", module="commands"),
    "INCR": Death(a_number, incr, b"42", METADATA, module="commands"),
    "INCR of an expired key": Death(an_expired_number, incr, b"1", module="commands"),
    "delete": Death(a_few_and_target, delete, None),
    "delete of a key with metadata": Death(a_few_and_target_with_metadata, delete, None, METADATA),
    "delete that frees a segment": Death(alone_in_a_closed_segment, delete, None),
    "delete that leaves the deadest segment": Death(most_of_a_closed_segment, delete, None),
}


@pytest.mark.parametrize("name", DEATHS)
def test_death_behind_each_store_is_survived(name: str) -> None:
    death = DEATHS[name]
    with open_store() as store:
        model = death.prepare(store)
        old = model.pop(b"target", None)
        died = 0
        for steps in deaths(store, lambda: death.operation(store), getattr(core, death.module)):
            assert steps < _MOST_STEPS, "the engine has declined"
            target: tuple[bytes | None, ...] = old, death.after
            turn = died % 4
            if turn == 0:
                assert store.check() == [], f"step {steps}"
            if turn == 1:
                assert store.put(b"target", b"next", clock), f"step {steps}"
                target = (b"next",)
            if turn == 2:
                before, _ = store.update(b"target", lambda _: (b"next", 0, 0, b""), clock)
                assert (before and before[0]) in target, f"step {steps}"
                target = (b"next",)
            if turn == 3:
                assert store.delete(b"target", clock) or None in target, f"step {steps}"
                target = (None,)
            assert_whole(store, model, target, death.metadata)
            assert store.check() == [], f"step {steps}"
            died += 1
        assert died > 10
        # The process that was not killed any more has done it.
        assert value_of(store, b"target") == death.after


def assert_whole(
    store: Store, model: dict[bytes, bytes], target: tuple[bytes | None, ...], metadata: bytes
) -> None:
    """What was acknowledged is there, and everything can be done."""
    for key, value in model.items():
        entry = store.get(key, clock)
        assert entry is not None
        assert (entry[0], entry[6]) == (value, metadata_of(key)), key
    entry = store.get(b"target", clock)
    assert (entry and entry[0]) in target
    assert entry is None or entry[6] in (metadata, b"")
    for key in (b"target", *list(model)[:1], b"never seen"):
        assert store.put(key, key + NEW, clock)
        assert value_of(store, key) == key + NEW
        assert store.delete(key, clock)
        assert store.get(key, clock) is None


# -- inside of lock and unlock -------------------------------------------------------------------------------


class Call(NamedTuple):
    """A call of a lock's function within an operation.

    Attributes:
        death: the operation, by its name.
        function: the function.
        number: which of its calls in the operation, from 1.
        lock: which lock it is about.
    """

    death: str
    function: str
    number: int
    lock: str


CALLS: Final = {
    "locking the shard": Call("put over a key", "pthread_mutex_trylock", 1, "shard"),
    "locking the pool": Call("put that frees a segment", "pthread_mutex_trylock", 2, "pool"),
    "unlocking the pool": Call("put that frees a segment", "pthread_mutex_unlock", 1, "pool"),
    "unlocking the shard": Call("put that frees a segment", "pthread_mutex_unlock", 2, "shard"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_waiter_goes_on_wherever_the_owner_is_killed(name: str) -> None:
    """The owner is killed at each step of locking or unlocking, and another process waits for the lock.

    The one that waits for the pool is of another shard, which takes its first segment.
    """
    call = CALLS[name]
    death = DEATHS[call.death]
    address, locks_at = address_of(call.function), address_of("pthread_mutex_trylock")
    with open_store(lock_wait_ms=60_000, shards=2) as store:
        model = death.prepare(store)
        old = model.pop(b"target", None)
        words = memoryview(store._lock_table._mem).cast("I")
        number = number_of(store, b"target")
        keys = [b"waits %d" % i for i in range(64)]
        key = next(key for key in keys if (number_of(store, key) == number) == (call.lock == "shard"))
        shard_lock, pool_lock = store._shards[number].lock, store._segments.lock
        lock = shard_lock if call.lock == "shard" else pool_lock
        word = lock.address - ctypes.addressof(ctypes.c_char.from_buffer(store._lock_table._mem)) >> 2
        begin = snapshot(store)
        entry = waited = 0
        for step in count():
            with Stepped(lambda: death.operation(store), core.engine, entry=entry) as owner:
                entry = owner.entry
                if call.function != "pthread_mutex_trylock":
                    for _ in range(1 + (call.lock == "pool")):
                        owner.run_to(locks_at)
                    while not words[word]:
                        owner.go()
                    waiter = start_waiting(store, key, word)
                for _ in range(call.number):
                    owner.run_to(address)
                if not all(owner.go() is Stop.STEPPED and in_libc(owner.at) for _ in range(step)):
                    owner.finish()
                    break
                if call.function == "pthread_mutex_trylock":
                    waiter = start_waiting(store, key, word)
                waited += words[word] & WAITERS != 0
                owner.kill()
            assert end_of(waiter) == 0, f"step {step}"
            assert value_of(store, key) == b"waited", f"step {step}"
            assert_whole(store, model, (old, death.after), death.metadata)
            assert store.check() == [], f"step {step}"
            begin()
        assert step > 20
        assert waited > 5


def number_of(store: Store, key: bytes) -> int:
    """The number of a key's shard."""
    return xxh3_64_intdigest(key, SEED) >> TAG_BITS & len(store._shards) - 1


def start_waiting(store: Store, key: bytes, word: int) -> int:
    """Start a process that puts a key; it sleeps by now if another process has the lock."""
    words = memoryview(store._lock_table._mem).cast("I")
    is_held = words[word] != 0
    waiter = start(lambda: store.put(key, b"waited", clock))
    while is_held and not words[word] & WAITERS:
        time.sleep(0.001)
    return waiter
