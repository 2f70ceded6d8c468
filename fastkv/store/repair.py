"""After a death: bring a shard back to a state in which every invariant holds.

The owner may have died between any two stores. What it had published is kept, what it had not is dropped,
and everything that can be derived is derived anew from the two things that cannot: the segment table and
the slot words. The repair may die as well: it can always be begun again.

After a start from a file anything may stand in the arena, so the repair trusts nothing: it verifies every
record. Where it fails all the same, the shard is emptied.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from fastkv.errors import StoreBusy, StoreError
from fastkv.store import tiling
from fastkv.store.layout import (
    GHOSTS,
    LOG_STATES,
    PAGE,
    PAGE_NEW,
    REDO,
    SB_DROPPED,
    SEG_COVERS,
    SEG_STAMP,
    SEG_STATE,
    SH_DEADEST,
    SH_ENTRIES,
    SH_MAIN_NEWEST,
    SH_MAIN_OLDEST,
    SH_MOST_DEAD,
    SH_NEWEST,
    SH_OLDEST,
    SH_OPEN,
    SH_OPEN_MAIN,
    SH_PAGES,
    SH_REPAIRS,
    UNVERIFIED,
)
from fastkv.store.lock import MOST_HELD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fastkv.store.arena import Arena
    from fastkv.store.index import Index
    from fastkv.store.redo import Redo
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard
    from fastkv.store.verify import Verifier

_EX_SOFTWARE: Final = 70


class Guard:
    """Holds the locks of shards, and repairs a shard before anybody uses it after a death or a failure."""

    __slots__ = ("_arena", "_index", "_redo", "_segments", "_verifier")

    def __init__(
        self, arena: Arena, segments: Segments, index: Index, verifier: Verifier, redo: Redo
    ) -> None:
        """Bind to an arena.

        Args:
            arena: the arena.
            segments: its pool.
            index: its index.
            verifier: tells which entries are whole.
            redo: what a transaction left half done.
        """
        self._redo = redo
        self._verifier = verifier
        self._arena = arena
        self._segments = segments
        self._index = index

    @contextmanager
    def holding(self, shard: Shard) -> Iterator[None]:
        """Hold a shard's lock; repair the shard if its last owner died, or if the block fails.

        Args:
            shard: the shard.

        Raises:
            StoreBusy: if the lock was not free within its bound.
        """
        if shard.lock.acquire():
            self.after_death(shard)
        try:
            yield
        except BaseException:
            self.after_failure(shard)
            raise
        shard.lock.release()

    @contextmanager
    def holding_all(
        self, numbers: Iterable[int], shards: Sequence[Shard], at_most: int = MOST_HELD
    ) -> Iterator[None]:
        """Hold the locks of several shards; those whose last owner died are repaired.

        Args:
            numbers: of the shards; they are locked in ascending order, whatever theirs is.
            shards: all shards.
            at_most: how many may be held; the kernel gives back no more than some if this process dies.

        The locks are given back whatever the block does: who changes something repairs it himself.

        Raises:
            StoreBusy: if one of them was not free within its bound.
            StoreError: if they are more than may be held.
        """
        wanted = sorted(set(numbers))
        if len(wanted) > at_most:
            raise StoreError(f"That would take {len(wanted)} shards at once; at most {at_most} are possible.")
        held: list[Shard] = []
        try:
            for number in wanted:
                shard = shards[number]
                if shard.lock.acquire():
                    self.after_death(shard)
                held.append(shard)
            yield
        finally:
            for shard in held:
                shard.lock.release()

    def after_death(self, shard: Shard) -> None:
        """Repair a shard whose owner died, then call its lock consistent.

        Args:
            shard: the shard, with the lock just taken.
        """
        self.repair(shard)
        shard.lock.consistent()

    def after_failure(self, shard: Shard) -> None:
        """Repair a shard in which an error left something half done, then let go of it.

        Args:
            shard: the shard, with the lock held.
        """
        self.repair(shard)
        shard.lock.release()

    def repair(self, shard: Shard) -> None:
        """Repair a shard. If that is not possible the process ends, and the next owner tries again.

        Args:
            shard: the shard, with the lock held.
        """
        try:
            # Not before its slots say what counts.
            self._redo.await_resolved()
            try:
                self._repair(shard)
            except StoreBusy:  # the pool's owner stands still: that says nothing about the shard
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, what stands there makes no sense
                os.write(2, f"fastkv: shard {shard.number} is damaged, and emptied: {error!r}\n".encode())
                self._empty(shard)
        except BaseException as error:  # noqa: BLE001 - going on would be worse
            os.write(2, f"fastkv: shard {shard.number} could not be repaired: {error!r}\n".encode())
            os._exit(_EX_SOFTWARE)

    def _repair(self, shard: Shard) -> None:
        words = self._arena.words
        died = not self._is_unverified(shard)
        with shard.several_steps():
            pages, log = self._finish_split(shard)
            survey = self._verifier.survey(shard.number, pages, log)
            survey.recount(shard.header)
            # Not before all is verified: from here on reads without the lock look at these pages.
            for page in pages:
                self._index.map_page(shard.number, page)
            self.rebuild_queue(shard, log)
            words[shard.header + SH_REPAIRS] += died
            if survey.dropped:
                self._count_dropped(survey.dropped)

    def _is_unverified(self, shard: Shard) -> bool:
        return self._arena.sequence_of(shard.number) == UNVERIFIED

    def _finish_split(self, shard: Shard) -> tuple[list[int], list[int]]:
        """Finish a split whose new page was committed, drop one whose page was not.

        Args:
            shard: the shard.

        Returns:
            The shard's pages, and those of its segments that are none.

        Raises:
            ValueError: if the pages do not cover each tag once.
        """
        words, segments = self._arena.words, self._segments
        pages, log = [], []
        for segment, state in list(segments.owned(shard.number)):
            if state == PAGE:
                pages.append(segment)
            elif state == PAGE_NEW:
                segments.give_back(segment)
            elif state in LOG_STATES:
                log.append(segment)
        covered = {words[segments.row(page) + SEG_COVERS] for page in pages}
        for page in pages:
            at = segments.row(page) + SEG_COVERS
            # Its upper half has moved out; its lower half may be still to say so.
            words[at] = tiling.deepened(words[at], covered)
        covered = {words[segments.row(page) + SEG_COVERS] for page in pages}
        bits = self._arena.geometry.directory_bits
        if len(tiling.clear(covered, bits)) != len(pages) or not tiling.is_whole(covered, bits):
            raise ValueError("its pages overlap or leave something out")
        words[shard.header + SH_PAGES] = len(pages)
        return pages, log

    def rebuild_queue(self, shard: Shard, log: list[int]) -> None:
        """Close what was open and queue everything by age; what holds nothing alive becomes free.

        Args:
            shard: the shard.
            log: its segments that are no pages.
        """
        words, segments = self._arena.words, self._segments
        for field in (
            SH_OPEN,
            SH_OPEN_MAIN,
            SH_OLDEST,
            SH_NEWEST,
            SH_MAIN_OLDEST,
            SH_MAIN_NEWEST,
            SH_DEADEST,
            SH_MOST_DEAD,
        ):
            words[shard.header + field] = 0
        for segment in sorted(log, key=lambda segment: words[segments.row(segment) + SEG_STAMP]):
            segments.close(shard.header, shard.number, segment)

    def _empty(self, shard: Shard) -> None:
        """Drop all that a shard holds.

        Args:
            shard: the shard.
        """
        words, segments, index = self._arena.words, self._segments, self._index
        owned = {
            segment: state for segment, state in segments.owned(shard.number) if state not in (GHOSTS, REDO)
        }
        page = next((segment for segment, state in owned.items() if state == PAGE), 0) or next(iter(owned))
        lost = words[shard.header + SH_ENTRIES]
        with shard.several_steps():
            for segment in owned:
                if segment != page:
                    segments.give_back(segment)
            index.make_blank(page)
            row = segments.row(page)
            words[row + SEG_COVERS] = 1
            words[row + SEG_STATE] = shard.number << 8 | PAGE
            index.map_page(shard.number, page)
            self.rebuild_queue(shard, [])
            words[shard.header + SH_ENTRIES] = 0
            words[shard.header + SH_PAGES] = 1
            words[shard.header + SH_REPAIRS] += 1
            self._count_dropped(lost)

    def _count_dropped(self, entries: int) -> None:
        with self._segments.locked():
            self._arena.words[SB_DROPPED] += entries
