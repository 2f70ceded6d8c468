"""Sequences of requests: read from files, or made.

A trace is a list of object ids, numbered from 0 by their first request.
"""

from __future__ import annotations

import gzip
import itertools
import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


def read_trace(path: Path) -> list[int]:
    """Read a trace from a file.

    Args:
        path: a text file, gzipped or not, with one object id a line.

    Returns:
        The trace.

    Raises:
        OSError: if the file cannot be read.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return _numbered(line.strip() for line in lines)


def _numbered(ids: Iterable[object]) -> list[int]:
    """Number objects by their first request."""
    numbers: dict[object, int] = {}
    return [numbers.setdefault(each, len(numbers)) for each in ids]


# -- made traces -------------------------------------------------------------------------------------------


def zipf(chance: random.Random, objects: int, skew: float) -> Iterator[int]:
    """Requests for objects whose popularity follows Zipf's law.

    Args:
        chance: where randomness comes from.
        objects: how many there are.
        skew: the law's exponent.

    Yields:
        Ranks, 0 for the most popular object.
    """
    weights = list(itertools.accumulate((rank + 1) ** -skew for rank in range(objects)))
    while True:
        yield from chance.choices(range(objects), cum_weights=weights, k=1000)


def drifting(chance: random.Random, size: int) -> Iterator[object]:
    """Zipf, but what is popular changes: every fiftieth request another rank gets an object never seen."""
    ranks = zipf(chance, 10 * size, 0.9)
    objects = list(range(10 * size))
    for number in itertools.count():
        if number % 50 == 0:
            objects[next(ranks)] = 10 * size + number
        yield objects[next(ranks)]


def scanned(chance: random.Random, size: int) -> Iterator[object]:
    """Zipf, and now and then a scan over more objects than the cache holds."""
    ranks = zipf(chance, 10 * size, 1.0)
    for scan in itertools.count():
        yield from itertools.islice(ranks, 8 * size)
        yield from (("scan", scan % 3, i) for i in range(2 * size))


def looping(chance: random.Random, size: int) -> Iterator[object]:
    """Zipf, and beside it a loop over a few more objects than the cache holds."""
    ranks = zipf(chance, 10 * size, 1.0)
    for number in itertools.count():
        yield next(ranks) if chance.random() < 0.7 else ("loop", number % (size * 5 // 4))


def one_hit(chance: random.Random, size: int) -> Iterator[object]:
    """Zipf, and every second request is for an object that nobody asks for again."""
    ranks = zipf(chance, 6 * size, 0.9)
    for number in itertools.count():
        yield next(ranks) if chance.random() < 0.5 else ("once", number)


MADE: Final[dict[str, Callable[[random.Random, int], Iterator[object]]]] = {
    "drift": drifting,
    "scans": scanned,
    "loops": looping,
    "one-hit wonders": one_hit,
}
"""Made traces by name: from a source of randomness and the number of objects that the cache holds."""


def make_trace(name: str, size: int, requests: int, seed: int) -> list[int]:
    """Make a trace, the same one for the same arguments.

    Args:
        name: one of ``MADE``.
        size: objects that the cache will hold; the trace asks for several times as many.
        requests: its length.
        seed: of its randomness.

    Returns:
        The trace.
    """
    # Lists of objects are numbered, so that keys look alike whatever they were made by.
    return _numbered(itertools.islice(MADE[name](random.Random(f"{name}/{seed}"), size), requests))
