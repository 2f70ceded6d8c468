"""Exact simulators of eviction policies, for entries of one size: what a store is compared with.

In: a sequence of requests, each the id of an object, and how many objects the cache holds. An object that is
asked for and not there is put. Out: the share of requests that found their object.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_SMALL_SHARE: Final = 0.1
_GHOST_SHARE: Final = 0.9
_PROMOTED_FROM: Final = 2
_MOST_CHANCES: Final = 3


def fifo(trace: Sequence[int], size: int) -> float:
    """First in, first out.

    Args:
        trace: object ids.
        size: objects that the cache holds, at least 1.

    Returns:
        Hits per request, 0 to 1.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in cache:
            hits += 1
            continue
        if len(cache) >= size:
            cache.popitem(last=False)
        cache[key] = None
    return hits / len(trace)


def lru(trace: Sequence[int], size: int) -> float:
    """The least recently used goes first.

    Args:
        trace: as for ``fifo``; so is the other one.
        size: objects.

    Returns:
        Hits per request, 0 to 1.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in cache:
            hits += 1
            cache.move_to_end(key)
            continue
        if len(cache) >= size:
            cache.popitem(last=False)
        cache[key] = None
    return hits / len(trace)


def s3fifo(trace: Sequence[int], size: int, *, main_fills_first: bool = False) -> float:
    """S3-FIFO (Yang et al., SOSP 2023): small queue 0.1, ghosts 0.9, into the main queue at two accesses.

    Args:
        trace: as for ``fifo``.
        size: objects, at least 10.
        main_fills_first: as libCacheSim does it since 2024, where the paper does not: until the first
            eviction, who comes while the small queue has its full length begins in the main queue.

    Returns:
        Hits per request, 0 to 1.
    """
    small: OrderedDict[int, int] = OrderedDict()
    main: OrderedDict[int, int] = OrderedDict()
    ghosts: OrderedDict[int, None] = OrderedDict()
    small_size = int(size * _SMALL_SHARE)
    main_size = size - small_size
    ghost_size = int(size * _GHOST_SHARE)
    hits = 0
    filling = main_fills_first
    for key in trace:
        queue = small if key in small else main
        if key in queue:
            queue[key] += 1
            hits += 1
            continue
        recalled = key in ghosts
        if recalled:
            del ghosts[key]
        while len(small) + len(main) >= size:
            filling = False
            if len(main) > main_size or not small:
                _evict_from_main(main)
                continue
            evicted = _evict_from_small(small, main)
            if evicted is not None:
                if len(ghosts) >= ghost_size:
                    ghosts.popitem(last=False)
                ghosts[evicted] = None
        (main if recalled or (filling and len(small) >= small_size) else small)[key] = 0
    return hits / len(trace)


def _evict_from_small(small: OrderedDict[int, int], main: OrderedDict[int, int]) -> int | None:
    """Promote from the small queue until one goes; None if all were promoted."""
    while small:
        key, accesses = small.popitem(last=False)
        if accesses < _PROMOTED_FROM:
            return key
        main[key] = 0
    return None


def _evict_from_main(main: OrderedDict[int, int]) -> None:
    """Give second chances in the main queue until one goes."""
    while main:
        key, accesses = main.popitem(last=False)
        if not accesses:
            return
        main[key] = min(accesses, _MOST_CHANCES) - 1
