"""Two writers of the compiled engine, each stepped for a while in turn: they share the pool and the ghosts.

Each is interrupted at instructions that chance chooses, and where it takes and releases a lock. They write to
shards of their own; the second that wants the pool's lock leaves its operation to the readable engine.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import stepping
from stepping import Stepped, Stop
from store_helpers import SEED, clock, open_store, payload, snapshot, value_of
from xxhash import xxh3_64_intdigest

from fastkv import core
from fastkv.store.layout import SH_OPEN, TAG_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastkv.store import Store

stepping.require_core()

# Interleavings of each kind.
_RUNS: Final = 12
# What the engine does itself takes fewer steps.
_MOST_STEPS: Final = 3000


def key_of(shard: int) -> bytes:
    """A key of one of two shards."""
    return next(
        key
        for key in (b"target %d" % i for i in range(64))
        if xxh3_64_intdigest(key, SEED) >> TAG_BITS & 1 == shard
    )


KEYS: Final = [key_of(0), key_of(1)]
OLD, NEW = payload("old", 60), payload("new", 60)


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
    for key in KEYS:
        store.put(key, OLD, clock)
    close_open(store)


def ghosts(store: Store) -> None:
    """Both keys were evicted: each begins in the main queue."""
    with store._eviction.locked():
        assert store._ghosts.fit(1000)
        store._ghosts.remember([xxh3_64_intdigest(key, SEED) for key in KEYS])


def put(store: Store, key: bytes) -> object:
    return store.put(key, NEW, clock)


def delete(store: Store, key: bytes) -> object:
    return store.delete(key, clock)


class Writers(NamedTuple):
    """What two processes do at once, each with the key of its shard."""

    prepare: Callable[[Store], None]
    operations: tuple[Callable[[Store, bytes], object], Callable[[Store, bytes], object]]


WRITERS: Final = {
    "both take a segment": Writers(nothing, (put, put)),
    "both give a segment back and take one": Writers(alone_in_closed_segments, (put, put)),
    "one takes a segment, one gives one back": Writers(alone_in_closed_segments, (put, delete)),
    "both give a segment back": Writers(alone_in_closed_segments, (delete, delete)),
    "both come back as ghosts": Writers(ghosts, (put, put)),
}


def interleave(processes: Sequence[Stepped], chance: random.Random) -> int:
    """Let processes go on in turns, each for a few steps or until a lock changes.

    One that finds the pool's lock taken has declined: the readable engine waits for it, and needs all others
    to go on.

    Returns:
        How many have declined.
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
    for process in processes:
        process.let_go()
    for process in processes:
        process.finish()
    return sum(process.steps > _MOST_STEPS for process in processes)


@pytest.mark.parametrize("name", WRITERS)
def test_two_writers_at_once_leave_what_one_after_the_other_leaves(name: str) -> None:
    writers = WRITERS[name]
    chance = random.Random(name)
    with open_store(shards=2, lock_wait_ms=60_000) as store:
        writers.prepare(store)
        restore = snapshot(store)
        locks = store._lock_table._mem
        declined = 0
        for _ in range(_RUNS):
            one, other = (
                partial(operation, store, key)
                for operation, key in zip(writers.operations, KEYS, strict=True)
            )
            with (
                Stepped(one, core.engine, (locks,)) as first,
                Stepped(other, core.engine, (locks,)) as second,
            ):
                declined += interleave((first, second), chance)
            for operation, key in zip(writers.operations, KEYS, strict=True):
                assert value_of(store, key) == (NEW if operation is put else None)
            assert store.check() == []
            restore()
        assert 0 < declined < _RUNS
