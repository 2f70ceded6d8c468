"""Writing where room has to be made first.

In: a try that found none. It let go of all its locks before; room is made, and it is tried again, until
nobody else has taken the room that was made, or nothing is left to be freed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from fastkv.errors import StoreBusy, StoreFull
from fastkv.progress import PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.eviction import Eviction
    from fastkv.store.segments import Segments

    T = TypeVar("T")

# A writer whose room was taken by others again and again gives up: 512 MiB are 8,192 segments, half of this.
_TRIES: Final = 4096
_STEPS: Final = 4
# After so many looks in vain nobody is kept for having been read: a writer does not wait for much longer than
# 5 ms, even where everything was read. (4,096 of them took up to 30 ms. Where no worker makes room ahead the
# hit ratio of a Zipf load is 0.001 lower for it.)
_MERCIFUL_LOOKS: Final = 512
# Where nobody may be evicted, cleaning gains a segment for each 16 that it empties, or it goes in circles: to
# move a fragment leaves a dead list of fragments elsewhere. So many rounds without a gain are enough.
_FUTILE_ROUNDS: Final = 32


class Room:
    """Makes room for those who found none."""

    __slots__ = ("_eviction", "_segments")

    def __init__(self, eviction: Eviction, segments: Segments) -> None:
        """Bind to a store.

        Args:
            eviction: frees segments.
            segments: the pool.
        """
        self._eviction = eviction
        self._segments = segments

    def until(self, segments: int, attempt: Callable[[], tuple[T, int]], clock: Callable[[], int]) -> T:
        """Make room until a try succeeds.

        Args:
            segments: how many have to be free for it.
            attempt: returns its result and 0; or how many segments have to be free first, and then it has
                changed nothing and holds no lock.
            clock: milliseconds now.

        Returns:
            Its result.

        Raises:
            StoreFull: if no room could be made.
            StoreBusy: if a lock was not free within the bound, or others took the room again and again.
        """
        looks = most = futile = 0
        for _ in range(_TRIES):
            PROGRESS.made()
            made, looked = self._make(segments, _MERCIFUL_LOOKS - looks, clock)
            looks += looked
            if made is None:
                free = self._segments.free_count()
                most, futile = (free, 0) if free > most else (most, futile + 1)
                if futile < _FUTILE_ROUNDS or self._eviction.evicts:
                    continue  # to write in vain would earn credit for cleaning
                made = False
            result, segments = attempt()
            if not segments:
                return result
            if not made:
                raise StoreFull("No room for the value could be made.")
        raise StoreBusy("Other writers took the room that was made; try again.")

    def _make(self, segments: int, patience: int, clock: Callable[[], int]) -> tuple[bool | None, int]:
        """Free segments until the pool has as many as a write may take.

        Args:
            segments: how many.
            patience: after so many looks those who were read are not kept any more.
            clock: milliseconds now.

        Returns:
            True once there is room, None after a few steps without, False if nothing is left to free; and how
            many records were looked at.
        """
        looks = 0
        with self._eviction.locked():
            # Not longer than a few steps, so that other writers have their turn.
            for _ in range(_STEPS):
                if self._segments.room(segments):
                    return True, looks
                looked = self._eviction.step(looks < patience, clock)
                if not looked:
                    return False, looks
                looks += looked
            return None, looks
