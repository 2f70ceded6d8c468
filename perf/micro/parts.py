"""Where the time of an operation goes: bytecodes by module, and the parts of a put and a get, each alone."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from xxhash import xxh3_64_intdigest, xxh32_digest

import fastkv.store
from fastkv.store import Store
from fastkv.store.layout import TAG_BITS
from fastkv.store.records import HEAD_BYTES, pack_head, unpack_head
from perf.micro.contestants import VALUE, add_one, clock
from perf.report import summary

if TYPE_CHECKING:
    from types import FrameType

_MIB: Final = 1 << 20
_SEED: Final = 7
_ENTRIES: Final = 100_000
_STORE: Final = Path(fastkv.store.__file__).parent

Act: TypeAlias = Callable[[Sequence[bytes]], object]


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


def _get_parts(store: Store) -> dict[str, Act]:
    """What a get does, one thing at a time, on the same keys."""
    words, mem, index = store.words, store._arena.mem, store._index
    seed, low_mask = store._seed, store._low_mask
    clock_, get = clock, store.get

    def found(keys: Sequence[bytes]) -> list[tuple[int, int]]:
        return [index.locate(xxh3_64_intdigest(key, seed), key)[:2] for key in keys]

    cached: dict[int, list[tuple[int, int]]] = {}

    def slots(keys: Sequence[bytes]) -> list[tuple[int, int]]:
        return cached.setdefault(id(keys), found(keys))

    def hashing(keys: Sequence[bytes]) -> None:
        for key in keys:
            key_hash = xxh3_64_intdigest(key, seed)
            (key_hash & low_mask) >> TAG_BITS

    def slot(keys: Sequence[bytes]) -> None:
        for at, _ in slots(keys):
            words[at]

    def record(keys: Sequence[bytes]) -> None:
        mask = index.location_mask
        for (_, word), key in zip(slots(keys), keys, strict=True):
            at = (word & mask) << 3
            key_len, _, value_len, _ = unpack_head(mem, at)
            at += HEAD_BYTES
            mem[at : at + key_len] == key  # noqa: B015
            mem[at + key_len : at + key_len + value_len]

    def whole(keys: Sequence[bytes]) -> None:
        for key in keys:
            get(key, clock_)

    return {"hashing the key": hashing, "slot": slot, "record": record, "all": whole}


def _put_parts(store: Store) -> dict[str, Act]:
    """What a put that overwrites does, one thing at a time."""
    mem, index, seed = store._arena.mem, store._index, store._seed
    lock, put = store._shards[0].lock, store.put
    spare = store.geometry.memory_bytes - store.geometry.segment_bytes

    def hashing(keys: Sequence[bytes]) -> None:
        for key in keys:
            xxh3_64_intdigest(key, seed)

    def locking(keys: Sequence[bytes]) -> None:
        for _ in keys:
            lock.attempt()
            lock.release()

    cached: dict[int, list[int]] = {}

    def locating(keys: Sequence[bytes]) -> None:
        hashes = cached.setdefault(id(keys), [xxh3_64_intdigest(key, seed) for key in keys])
        for key_hash, key in zip(hashes, keys, strict=True):
            index.locate(key_hash, key)

    def building(keys: Sequence[bytes]) -> None:
        for key in keys:
            body = pack_head(len(key), 0, len(VALUE), 1) + key + VALUE
            body + xxh32_digest(body)

    def copying(keys: Sequence[bytes]) -> None:
        # Into a segment that nobody has had: the last one, in a store with room.
        size = 104
        for number, _ in enumerate(keys):
            at = spare + number % 512 * size
            mem[at : at + size] = _RECORD

    def whole(keys: Sequence[bytes]) -> None:
        for key in keys:
            put(key, VALUE, clock)

    return {
        "hashing the key": hashing,
        "lock": locking,
        "index": locating,
        "building the record": building,
        "copying it": copying,
        "all": whole,
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
    suites = {"get hit": _get_parts(store), "put overwrite": _put_parts(store)}
    figures: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        keys = chance.choices(loaded, k=count)
        empty = _time(lambda keys: [None for _ in keys], keys)
        for operation, parts in suites.items():
            for part, act in parts.items():
                act(keys)  # what has to be prepared is not measured, and caches are as warm for all
                figures.setdefault((operation, part), []).append((_time(act, keys) - empty) / count)
    store.close()
    return [
        {"operation": operation, "part": part, "ns": summary(each)}
        for (operation, part), each in figures.items()
    ]


def _time(act: Act, keys: Sequence[bytes]) -> int:
    begin = time.thread_time_ns()
    act(keys)
    return time.thread_time_ns() - begin
