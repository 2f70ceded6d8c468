"""Where the time of an operation goes: bytecodes by module, and the parts of a put and a get, each alone."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import fastkv.store
from fastkv.store import Store
from fastkv.store.records import build_record, parse_record
from perf.micro.contestants import VALUE, add_one, clock
from perf.report import summary

if TYPE_CHECKING:
    from types import FrameType

_MIB: Final = 1 << 20
_SEED: Final = 7
_ENTRIES: Final = 100_000
_STORE: Final = Path(fastkv.store.__file__).parent

Act: TypeAlias = Callable[[], object]


# -- bytecodes --------------------------------------------------------------------------------------------


def count_opcodes(operation: Callable[[], object]) -> Counter[str]:
    """Count the bytecodes that an operation runs.

    Args:
        operation: it.

    Returns:
        By module of the store.
    """
    counts: Counter[str] = Counter()

    def on_event(frame: FrameType, event: str, _: object) -> object:
        if event == "opcode":
            counts[Path(frame.f_code.co_filename).stem] += 1
        return on_event

    def on_call(frame: FrameType, _: str, __: object) -> object:
        if Path(frame.f_code.co_filename).parent != _STORE:
            return None
        frame.f_trace_opcodes = True
        return on_event

    sys.settrace(on_call)  # type: ignore[arg-type]
    try:
        operation()
    finally:
        sys.settrace(None)
    return counts


def opcodes(count: int = 5000) -> list[dict[str, Any]]:
    """Count bytecodes for each operation, the mean of many.

    Args:
        count: of how many.

    Returns:
        A row for each operation, with bytecodes by module.
    """
    chance = random.Random(_SEED)
    room = Store(64 * _MIB, seed=_SEED)
    full = Store(4 * _MIB, seed=_SEED)
    loaded = [b"k%015d" % i for i in range(_ENTRIES)]
    for key in loaded:
        room.put(key, VALUE, clock)
        full.put(key, VALUE, clock)
    fresh = [b"f%015d" % i for i in range(count)]
    missing = [b"m%015d" % i for i in range(count)]
    known = chance.choices(loaded, k=count)
    counters = [b"n%015d" % (i % 1000) for i in range(count)]
    for key in set(counters):
        room.update(key, add_one, clock)
    operations: dict[str, Callable[[], object]] = {
        "get hit": lambda: [room.get(key, clock) for key in known],
        "get miss": lambda: [room.get(key, clock) for key in missing],
        "put new": lambda: [room.put(key, VALUE, clock) for key in fresh],
        "put overwrite": lambda: [room.put(key, VALUE, clock) for key in known],
        "evicting put": lambda: [full.put(key, VALUE, clock) for key in fresh],
        "incr": lambda: [room.update(key, add_one, clock) for key in counters],
    }
    rows = []
    for name, operation in operations.items():
        counts = {module: total / count for module, total in count_opcodes(operation).most_common()}
        rows.append({"operation": name, "total": sum(counts.values()), "modules": counts})
    room.close()
    full.close()
    return rows


# -- parts, each alone ------------------------------------------------------------------------------------


def _get_parts(store: Store, keys: Sequence[bytes]) -> dict[str, Act]:
    """What a get does, one thing at a time, on the same keys."""
    arena, locate, get, now = store._arena, store._index.locate, store.get, clock
    hashes = [(arena.hash_of(key), key) for key in keys]
    places = [arena.location_of(locate(key_hash, key)[1]) << 3 for key_hash, key in hashes]

    def hashing() -> None:
        for key in keys:
            arena.shard_of(arena.hash_of(key))

    def slot() -> None:
        for key_hash, key in hashes:
            locate(key_hash, key)

    def record() -> None:
        for at in places:
            parse_record(arena.mem, at)

    def whole() -> None:
        for key in keys:
            get(key, now)

    return {"hashing the key": hashing, "the slot": slot, "the record": record, "all of it": whole}


def _put_parts(store: Store, keys: Sequence[bytes]) -> dict[str, Act]:
    """What a put that overwrites does, one thing at a time."""
    arena, mem, index = store._arena, store._arena.mem, store._index
    lock, put, now = store._shards[0].lock, store.put, clock
    hashes = [(arena.hash_of(key), key) for key in keys]
    # Nobody has had the last segment of a store with room.
    spare = store.geometry.memory_bytes - store.geometry.segment_bytes

    def hashing() -> None:
        for key in keys:
            arena.hash_of(key)

    def locking() -> None:
        for _ in keys:
            lock.attempt()
            lock.release()

    def locating() -> None:
        for key_hash, key in hashes:
            index.locate(key_hash, key)

    def building() -> None:
        for key in keys:
            build_record(key, VALUE, 0, 1, 0)

    def copying() -> None:
        for number in range(len(keys)):
            at = spare + number % 512 * len(_RECORD)
            mem[at : at + len(_RECORD)] = _RECORD

    def whole() -> None:
        for key in keys:
            put(key, VALUE, now)

    return {
        "hashing the key": hashing,
        "the lock": locking,
        "finding the key": locating,
        "building the record": building,
        "copying it": copying,
        "all of it": whole,
    }


_RECORD: Final = bytes(104)


def times(rounds: int, count: int = 4000) -> list[dict[str, Any]]:
    """Time the parts, in turns.

    Args:
        rounds: how often each.
        count: operations in a turn.

    Returns:
        A row for each operation and part: nanoseconds, those of an empty loop taken off.
    """
    chance = random.Random(_SEED)
    store = Store(64 * _MIB, seed=_SEED)
    loaded = [b"k%015d" % i for i in range(_ENTRIES)]
    for key in loaded:
        store.put(key, VALUE, clock)
    figures: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        keys = chance.choices(loaded, k=count)
        empty = _time(partial(_loop, keys))
        for operation, parts in (("get hit", _get_parts), ("put overwrite", _put_parts)):
            for part, act in parts(store, keys).items():
                act()  # caches are as warm for all
                figures.setdefault((operation, part), []).append((_time(act) - empty) / count)
    store.close()
    return [
        {"operation": operation, "part": part, "ns": summary(each)}
        for (operation, part), each in figures.items()
    ]


def _loop(keys: Sequence[bytes]) -> None:
    for _ in keys:
        pass


def _time(act: Act) -> int:
    begin = time.thread_time_ns()
    act()
    return time.thread_time_ns() - begin
