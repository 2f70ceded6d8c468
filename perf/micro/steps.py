"""The longest single step of eviction, cleaning, growth and expiry: how long a worker may be held by one.

Each step is a method that is wrapped for as long as it is measured; what is taken is CPU time of the thread,
so that who shares the machine does not count.
"""

from __future__ import annotations

import gc
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastkv.store import Store
from fastkv.store.eviction import Eviction
from fastkv.store.expiry import Expiry
from fastkv.store.ghosts import Ghosts
from fastkv.store.index import Index
from perf.micro.contestants import clock
from perf.report import pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB: Final = 1 << 20
KIB: Final = 1 << 10
_SOURCE: Final = b"v" * MIB
# Entries that are read or overwritten are among the newest so many.
_RECENT: Final = 20_000
_DEADLINE_MS: Final = 1_000

STEPS: Final[dict[str, tuple[type, str]]] = {
    "eviction": (Eviction, "_evict"),
    "of it, resizing the ghost table": (Ghosts, "fit"),
    "cleaning": (Eviction, "_clean"),
    "page split": (Index, "split"),
    "expiry": (Expiry, "step"),
}
"""Steps by name, with the method that is one."""

WHOLE_PUT: Final = "a whole put"


class Load(NamedTuple):
    """What a store is filled with.

    Attributes:
        name: what it is called in results.
        value_bytes: of the next value.
        puts: how many follow on those that fill the store.
        segment_bytes: of the store.
    """

    name: str
    value_bytes: Callable[[random.Random], int]
    puts: int
    segment_bytes: int


def _small(_: random.Random) -> int:
    return 64


def _mixed(chance: random.Random) -> int:
    return int(2 ** chance.uniform(4, 20))


LOADS: Final = (
    Load("64 bytes", _small, 600_000, 64 * KIB),
    Load("16 bytes to 1 MiB", _mixed, 8_000, 64 * KIB),
    Load("64 bytes", _small, 600_000, 256 * KIB),
    Load("16 bytes to 1 MiB", _mixed, 8_000, 256 * KIB),
)


def _wrapped(original: Callable[..., Any], times: list[int]) -> Callable[..., Any]:
    """A function that notes how long it takes in nanoseconds."""

    def step(*args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time_ns()
        result = original(*args, **kwargs)
        times.append(time.thread_time_ns() - begin)
        return result

    return step


@contextmanager
def _timed(times: dict[str, list[int]]) -> Iterator[None]:
    """Wrap the steps, and note how long each takes in nanoseconds."""
    originals = {name: getattr(owner, method) for name, (owner, method) in STEPS.items()}
    for name, (owner, method) in STEPS.items():
        setattr(owner, method, _wrapped(originals[name], times.setdefault(name, [])))
    try:
        yield
    finally:
        for name, (owner, method) in STEPS.items():
            setattr(owner, method, originals[name])


def measure_load(load: Load, memory_bytes: int) -> list[dict[str, Any]]:
    """Fill a store, keep writing, reading and overwriting, then let everything expire.

    Args:
        load: with what.
        memory_bytes: of the store.

    Returns:
        A row of figures for each kind of step.
    """
    chance = random.Random(7)
    times: dict[str, list[int]] = {}
    with _timed(times):
        store = Store(memory_bytes, segment_bytes=load.segment_bytes, seed=7)
        put, get = _wrapped(store.put, times.setdefault(WHOLE_PUT, [])), store.get
        number = 0
        # Every second entry has a deadline, at which only ``look_after`` looks in the end.
        deadline_ms = clock() + _DEADLINE_MS
        left, evicting = load.puts, False
        while left:
            evicting = evicting or (number % 256 == 0 and store.stats()["evictions"] > 0)
            left -= evicting
            size = load.value_bytes(chance)
            put(b"%016d" % number, _SOURCE[:size], clock, 0, deadline_ms if number % 2 else 0)
            number += 1
            if number % 4 == 0:
                old = b"%016d" % chance.randint(max(number - _RECENT, 0), number)
                get(old, clock)
                get(old, clock)
            elif number % 4 == 1:
                old = b"%016d" % chance.randint(max(number - _RECENT, 0), number)
                put(old, _SOURCE[: load.value_bytes(chance)], clock)
        while store.look_after(lambda: deadline_ms + 1):
            pass
    problems = store.check()
    store.close()
    return [
        {
            "load": load.name,
            "segment_bytes": load.segment_bytes,
            "memory_bytes": memory_bytes,
            "step": name,
            **pauses(each),
            "problems": problems,
        }
        for name, each in times.items()
        if each
    ]


def measure(memory_bytes: int = 256 * MIB) -> list[dict[str, Any]]:
    """Measure all loads.

    Args:
        memory_bytes: of the stores.

    Returns:
        The rows of steps.
    """
    gc.collect()
    gc.disable()  # as workers do
    try:
        return [row for load in LOADS for row in measure_load(load, memory_bytes)]
    finally:
        gc.enable()
