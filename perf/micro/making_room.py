"""What a put costs in a store without room, next to one with room, in turns within one run."""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastkv.store import Store
from perf.micro.contestants import clock
from perf.report import summary
from perf.traces import zipf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from perf.rivals import Pair

MIB: Final = 1 << 20
KIB: Final = 1 << 10
_PAGE: Final = 4 * KIB
# Room is made anew when the store with room has less than this share of it left.
_LEAST_ROOM: Final = 8
_SOURCE: Final = b"v" * MIB


class Mix(NamedTuple):
    """A way to write.

    Attributes:
        name: what it is called in results.
        memory_bytes: of the store without room; that with room has eight times as much, or 1 GiB.
        pairs: what is put, made from a source of randomness; without end.
        turn_puts: puts in a turn.
        reads: whether each key is looked up first, and put only where it is missing.
    """

    name: str
    memory_bytes: int
    pairs: Callable[[random.Random], Iterator[Pair]]
    turn_puts: int
    reads: bool = False


def _inserts(size: int) -> Callable[[random.Random], Iterator[Pair]]:
    def pairs(_: random.Random) -> Iterator[Pair]:
        value = _SOURCE[:size]
        number = 0
        while True:
            yield b"%016d" % number, value
            number += 1

    return pairs


def _overwrites(chance: random.Random) -> Iterator[Pair]:
    """Every second put replaces one of the newest 50,000 entries."""
    value = _SOURCE[:64]
    number = 0
    while True:
        yield b"%016d" % number, value
        yield b"%016d" % chance.randint(max(number - 50_000, 0), number), value
        number += 1


def _mixed(chance: random.Random) -> Iterator[Pair]:
    number = 0
    while True:
        yield b"%016d" % number, _SOURCE[: int(2 ** chance.uniform(4, 12))]
        number += 1


def _zipf(chance: random.Random) -> Iterator[Pair]:
    value = _SOURCE[:64]
    for rank in zipf(chance, 2_000_000, 0.99):
        yield b"%016d" % rank, value


MIXES: Final = (
    Mix("inserts of 64 bytes", 64 * MIB, _inserts(64), 4000),
    Mix("inserts of 1,000 bytes", 64 * MIB, _inserts(1000), 2000),
    Mix("inserts of 16 to 4,096 bytes", 64 * MIB, _mixed, 2000),
    Mix("half overwrites, 64 bytes", 64 * MIB, _overwrites, 4000),
    Mix("Zipf get, put on a miss, 64 bytes", 64 * MIB, _zipf, 10_000, reads=True),
    Mix("inserts of 64 KiB", 64 * MIB, _inserts(64 * KIB), 100),
    Mix("inserts of 1 MiB", 256 * MIB, _inserts(MIB), 8),
)


def _touched(memory_bytes: int) -> Store:
    """An empty store whose memory the kernel has given already: page faults are not what is compared."""
    store = Store(memory_bytes, seed=7)
    counts = store._arena.counts
    for at in range(0, len(counts), _PAGE):
        counts[at] = counts[at]
    return store


def _put_all(store: Store, pairs: list[Pair]) -> float:
    """Nanoseconds of CPU for each put."""
    put = store.put
    begin = time.thread_time_ns()
    for key, value in pairs:
        put(key, value, clock)
    return (time.thread_time_ns() - begin) / len(pairs)


def compare(mix: Mix, turns: int) -> dict[str, Any]:
    """Put the same into a store with room and into one without, in turns.

    Args:
        mix: what to put.
        turns: how many.

    Returns:
        A row of figures: nanoseconds with room and without, the ratio of both in each turn, that of the
        means (which know of every step of eviction, however the turns fall), what was evicted and moved for
        each put.
    """
    pairs = mix.pairs(random.Random(7))
    full = _touched(mix.memory_bytes)
    while (stats := full.stats())["evictions"] <= stats["entries"]:
        for _ in range(200):
            key, value = next(pairs)
            if not (mix.reads and full.get(key, clock)):
                full.put(key, value, clock)
    room = _touched(max(8 * mix.memory_bytes, 1024 * MIB) if mix.memory_bytes > 64 * MIB else 512 * MIB)
    with_room: list[float] = []
    without: list[float] = []
    before = full.stats()
    puts = 0
    for turn in range(turns + 1):
        wanted = [next(pairs) for _ in range(mix.turn_puts)]
        if mix.reads:
            wanted = list({key: value for key, value in wanted if not full.get(key, clock)}.items())
        stats = room.stats()
        if stats["segments_free"] * _LEAST_ROOM < room.geometry.segments:
            memory_bytes = room.geometry.memory_bytes
            room.close()
            room = _touched(memory_bytes)
        figures = [_put_all(store, wanted) for store in ((room, full) if turn % 2 else (full, room))]
        if turn:  # the first one warms up
            with_room.append(figures[turn % 2 == 0])
            without.append(figures[turn % 2])
            puts += len(wanted)
    after = full.stats()
    row = {
        "mix": mix.name,
        "puts": puts,
        "room_ns": summary(with_room),
        "full_ns": summary(without),
        "ratio": summary([full_ns / room_ns for full_ns, room_ns in zip(without, with_room, strict=True)]),
        "ratio_of_means": statistics.fmean(without) / statistics.fmean(with_room),
        "evicted_per_put": (after["evictions"] - before["evictions"]) / puts,
        "moved_per_put": (after["relocated"] - before["relocated"]) / puts,
        "problems": full.check() + room.check(),
    }
    full.close()
    room.close()
    return row


def measure(turns: int) -> list[dict[str, Any]]:
    """Compare all mixes.

    Args:
        turns: of each.

    Returns:
        Their rows.
    """
    return [compare(mix, turns) for mix in MIXES]
