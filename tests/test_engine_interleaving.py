"""Two writers of the compiled engine and a reader, each stepped for a while in turn.

Each is interrupted at instructions that chance chooses, and where a lock is taken or released. Writers to
shards of their own share the pool and the ghosts. One that wants a lock that another has leaves its operation
to the readable engine. At each moment everything has to be as after some of the operations, in some order.
"""

from __future__ import annotations

import random
from itertools import permutations
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import pytest
import stepping
from stepping import Stepped, Stop
from store_helpers import SEED, clock, open_store, payload, snapshot
from xxhash import xxh3_64_intdigest

from fastkv import core
from fastkv.store.layout import SH_OPEN, TAG_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastkv.store import Store

stepping.require_core()

# Interleavings of each kind.
_RUNS: Final = 10
# What the engine does itself takes fewer steps.
_MOST_STEPS: Final = 2500


def keys_of(shard: int) -> list[bytes]:
    """Keys of one of two shards."""
    keys = [b"target %d" % i for i in range(64)]
    return [key for key in keys if xxh3_64_intdigest(key, SEED) >> TAG_BITS & 1 == shard]


KEY, NEIGHBOUR = keys_of(0)[:2]
FAR = keys_of(1)[0]
KEYS: Final = (KEY, NEIGHBOUR, FAR)
OLD, NEW, NEWER = payload("old", 60), payload("new", 60), payload("newer", 50)

# By a store or one of its engines.
Operation: TypeAlias = "Callable[[Any], object]"
# The value and the version of each key.
State: TypeAlias = tuple[tuple[bytes, int] | None, ...]


def close_open(store: Store) -> None:
    """Close the segments that take new records."""
    for shard in store._shards:
        with store._guard.holding(shard):
            if store.words[shard.header + SH_OPEN]:
                shard.close_open(shard.header + SH_OPEN)


def nothing(store: Store) -> None:
    """Each shard takes its first segment."""


def alone_in_closed_segments(store: Store) -> None:
    """Each shard gives a segment back."""
    for key in (KEY, FAR):
        store.put(key, OLD, clock)
    close_open(store)


def in_one_open_segment(store: Store) -> None:
    """The pool is not needed."""
    for key in KEYS:
        store.put(key, OLD, clock)


def ghosts(store: Store) -> None:
    """The keys were evicted: each begins in the main queue."""
    with store._eviction.locked():
        assert store._ghosts.fit(1000)
        store._ghosts.remember([xxh3_64_intdigest(key, SEED) for key in KEYS])


def put(key: bytes, value: bytes = NEW) -> Operation:
    return lambda engine: engine.put(key, value, clock)


def delete(key: bytes) -> Operation:
    return lambda engine: engine.delete(key, clock)


class Writers(NamedTuple):
    """What two processes do at once."""

    prepare: Callable[[Store], None]
    first: Operation
    second: Operation


WRITERS: Final = {
    "both take a segment": Writers(nothing, put(KEY), put(FAR)),
    "both give a segment back and take one": Writers(alone_in_closed_segments, put(KEY), put(FAR)),
    "one takes a segment, one gives one back": Writers(alone_in_closed_segments, put(KEY), delete(FAR)),
    "both give a segment back": Writers(alone_in_closed_segments, delete(KEY), delete(FAR)),
    "both come back as ghosts": Writers(ghosts, put(KEY), put(FAR)),
    "both put a new key": Writers(nothing, put(KEY), put(KEY, NEWER)),
    "both replace a key": Writers(in_one_open_segment, put(KEY), put(KEY, NEWER)),
    "one replaces a key, one deletes it": Writers(in_one_open_segment, put(KEY), delete(KEY)),
    "both write to a shard": Writers(in_one_open_segment, put(KEY), put(NEIGHBOUR)),
    "one deletes a shard's key, one puts another": Writers(
        alone_in_closed_segments, delete(KEY), put(NEIGHBOUR)
    ),
}


def state_of(store: Store) -> State:
    """Each key's value and version."""
    return tuple(entry and (entry[0], entry[2]) for entry in (store.get(key, clock) for key in KEYS))


def moments(store: Store, operations: Sequence[Operation]) -> tuple[set[State], set[State]]:
    """All states on the way, and those in the end, if one operation follows the other in the readable engine.

    The store is as before then.
    """
    restore = snapshot(store)
    on_the_way, in_the_end = {state_of(store)}, set[State]()
    for order in permutations(operations):
        for operation in order:
            operation(store.readable)
            on_the_way.add(state_of(store))
        in_the_end.add(state_of(store))
        restore()
    return on_the_way, in_the_end


def interleave(processes: Sequence[Stepped], chance: random.Random, look: Callable[[], None]) -> None:
    """Let processes go on in turns, each for a few steps or until a lock changes.

    One that finds a lock taken has declined: the readable engine waits for it, and needs all others to go on.

    Args:
        processes: the processes.
        chance: chooses.
        look: looks at the store after each turn.
    """
    working = list(processes)
    while working:
        process = chance.choice(working)
        process.look()
        if chance.random() < 0.3:
            process.go(_MOST_STEPS, until_changed=True)
        else:
            process.go(chance.choice((1, 10, 100, 500)))
        if process.stop is Stop.LEFT or process.steps > _MOST_STEPS:
            working.remove(process)
        look()
    for process in processes:
        process.let_go()
    for process in processes:
        process.finish()


@pytest.mark.parametrize("name", WRITERS)
def test_two_writers_at_once_do_what_one_after_the_other_does(name: str) -> None:
    prepare, *operations = WRITERS[name]
    chance = random.Random(name)
    with open_store(shards=2, lock_wait_ms=60_000) as store:
        prepare(store)
        restore = snapshot(store)
        on_the_way, in_the_end = moments(store, operations)
        locks = (store._lock_table._mem,)

        def read() -> None:
            """What is read twice in one call is of one moment, too."""
            entry, again = (found and (found[0], found[2]) for found in store.get_many([KEY, KEY], clock))
            assert entry == again
            assert entry in {state[0] for state in on_the_way}

        def look() -> None:
            assert state_of(store) in on_the_way

        entries = [0] * 3
        runs = declined = 0
        # Some with a lock that is taken, and some without; which ones is the compiler's doing, too.
        while runs < _RUNS or not 0 < declined < runs:
            assert runs < 10 * _RUNS
            with (
                Stepped(lambda: operations[0](store), core.engine, locks, entries[0]) as first,
                Stepped(lambda: operations[1](store), core.engine, locks, entries[1]) as second,
                Stepped(read, core.many, locks, entries[2]) as reader,
            ):
                entries = [process.entry for process in (first, second, reader)]
                interleave((first, second, reader), chance, look)
                declined += max(first.steps, second.steps) > _MOST_STEPS
            assert state_of(store) in in_the_end
            assert store.check() == []
            restore()
            runs += 1
