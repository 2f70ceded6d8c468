"""The redo list: what a transaction does to which slots, so that a death leaves all of it or nothing.

In: for each slot its old and its new word. The list lies in the arena, in segments of the pool, because it
has to outlive every process. One word of the superblock says what becomes of it:

    IDLE → PREPARED → all slots are emptied → COMMITTED → the new words are written → IDLE

The store that makes it COMMITTED is the one from which on everything has happened. A reader without a lock
looks at slots alone, so before the first new word is seen no old one may be: whoever finds a slot emptied has
missed in a shard whose sequence is odd, and waits for its lock. To empty the whole store (FLUSHING) there is
no list: all slots of all pages are emptied.

All this is the transaction lock's. If its owner dies, whoever learns of it first, as the lock's next owner or
as that of one of the shards, resolves the whole list, back or forward, without the shards' locks: they were
the dead one's, and who has one of them since waits here before anything else. It may die, too, and the next
one begins again. After a start from a file the list may be damaged: then it is ignored.
"""

from __future__ import annotations

import errno
import os
import time
from array import array
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from xxhash import xxh3_64

from fastkv.errors import StoreBusy
from fastkv.progress import PROGRESS
from fastkv.store.layout import (
    BUCKET_WORDS,
    COMMITTED,
    FLUSHING,
    IDLE,
    PAGE,
    PREPARED,
    REDO,
    REDO_CHECKSUM,
    REDO_COUNT,
    REDO_FIRST,
    REDO_STATE,
    SEG_STATE,
    SEGMENT_ROW,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastkv.store.arena import Arena
    from fastkv.store.lock import RobustLock
    from fastkv.store.segments import Segments

SlotChange = tuple[int, int, int]
"""A slot, the word that stands there, and the word that is to stand there; 0 for none."""


class Slots(Protocol):
    """The slots that a list changes."""

    def empty(self) -> None:
        """Empty all of them."""

    def fill(self) -> None:
        """Write all the new words."""


class SlotChanges(list[SlotChange]):
    """The same in Python: each slot once."""

    __slots__ = ("_words",)

    def __init__(self, words: memoryview, changes: Iterable[SlotChange]) -> None:
        """Bind to an arena's words."""
        super().__init__(changes)
        self._words = words

    def flat(self) -> bytes:
        """Slot, old word and new word of each change, one after the other."""
        return array("Q", chain.from_iterable(self)).tobytes()

    def empty(self) -> None:
        """Empty all slots."""
        words = self._words
        for slot, _, _ in self:
            words[slot] = 0

    def fill(self) -> None:
        """Write all the new words."""
        words = self._words
        for slot, _, new in self:
            words[slot] = new


_CHANGE_WORDS: Final = 3
_EX_SOFTWARE: Final = 70
# Who resolves it takes milliseconds, unless it was stopped; then it will be killed.
_WAIT_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.001


class Redo:
    """The list, and the transaction lock."""

    __slots__ = ("_arena", "_fence_lock", "_first", "_held", "_lock", "_per_segment", "_segments", "_words")

    def __init__(self, arena: Arena, segments: Segments, lock: RobustLock, fence_lock: RobustLock) -> None:
        """Bind to an arena.

        Args:
            arena: the arena.
            segments: its pool.
            lock: the transaction lock.
            fence_lock: taken and given back to keep stores in their order, by the owner of the former only.
        """
        self._arena = arena
        self._words = arena.words
        self._segments = segments
        self._lock = lock
        self._fence_lock = fence_lock
        self._first = arena.geometry.first_segment
        # The first word of each segment names the next one.
        self._per_segment = (arena.geometry.segment_words - 1) // _CHANGE_WORDS
        self._held: list[int] = []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the transaction lock; it is taken before every other one.

        Raises:
            StoreBusy: if it was not free within its bound.
        """
        if self._lock.acquire():
            self.recover_or_die()
            self._lock.consistent()
        try:
            yield
        finally:
            # Before anybody else may take it for what a death left.
            if self._held:
                self._give_back_or_die()
            self._lock.release()

    # -- the owner of the transaction lock -------------------------------------------------------------------

    def segments_for(self, changes: int) -> int:
        """How many segments a list takes.

        Args:
            changes: its length.

        Returns:
            Segments.
        """
        return -(-changes // self._per_segment)

    def write(self, changes: bytes) -> bool:
        """Write the list; nothing is done yet. Its segments are given back together with the lock.

        Args:
            changes: slot, old word and new word of each, one after the other.

        Returns:
            False if the pool has too few segments.
        """
        words, segments = self._words, self._segments
        flat = array("Q", changes)
        count = len(flat) // _CHANGE_WORDS
        needed = self.segments_for(count)
        while len(self._held) < needed:
            segment = segments.take(0, REDO)
            if not segment:
                return False
            self._held.append(segment)
        checksum = xxh3_64(seed=count)
        most = self._per_segment * _CHANGE_WORDS
        for i, segment in enumerate(self._held):
            following = self._held[i + 1] if i + 1 < needed else 0
            content = array("Q", [following]) + flat[i * most : (i + 1) * most]
            base = segments.base(segment)
            words[base : base + len(content)] = memoryview(content)
            checksum.update(content)
        words[REDO_FIRST] = self._held[0]
        words[REDO_COUNT] = count
        words[REDO_CHECKSUM] = checksum.intdigest()
        return True

    def publish(self, slots: Slots) -> None:
        """Do what was written, all at once. The sequences of all shards concerned are odd.

        Args:
            slots: those of the list.
        """
        words = self._words
        words[REDO_STATE] = PREPARED
        slots.empty()
        self._fence()
        words[REDO_STATE] = COMMITTED
        slots.fill()
        words[REDO_STATE] = IDLE

    def publish_flush(self) -> None:
        """Empty all slots of all shards, whose locks are held, and whose sequences are odd."""
        self._words[REDO_STATE] = FLUSHING
        self.resolve()

    def _fence(self) -> None:
        """Have all stores so far seen before those that follow, on any machine: two locks do."""
        for _ in range(2):
            if self._fence_lock.acquire():
                self._fence_lock.consistent()
            self._fence_lock.release()

    def _give_back_or_die(self) -> None:
        """Give the list's segments back; if that fails the process ends, for the next owner to do it."""
        try:
            while self._held:
                self._segments.give_back(self._held.pop())
        except BaseException as error:  # noqa: BLE001 - to let go would be worse
            self._die(error)

    # -- after a death, or an error --------------------------------------------------------------------------

    def resolve(self) -> None:
        """Do the whole of what is pending, or take it back. It can be begun again at any point."""
        words = self._words
        state = words[REDO_STATE]
        if state == FLUSHING:
            page = bytes(self._arena.geometry.segment_bytes)
            for segment, found in enumerate(self._states(), self._first):
                if found & 0xFF == PAGE:
                    PROGRESS.small()
                    at = self._segments.base(segment) << 3
                    self._arena.mem[at : at + len(page)] = page
        elif state in (PREPARED, COMMITTED):
            for slot, old, new in self._read():
                words[slot] = old if state == PREPARED else new
        words[REDO_STATE] = IDLE

    def _states(self) -> list[int]:
        """The state of each segment of the pool."""
        start = self._segments.row(self._first) + SEG_STATE
        end = self._segments.row(self._arena.geometry.segments)
        return self._words[start:end:SEGMENT_ROW].tolist()

    def _read(self) -> Iterator[SlotChange]:
        """The changes of the list, none if it is damaged.

        Yields:
            Those that name the slot of an index page.
        """
        words, segments = self._words, self._segments
        left, segment = words[REDO_COUNT], words[REDO_FIRST]
        states = self._states()
        if left > len(states) * self._per_segment:
            return
        checksum = xxh3_64(seed=left)
        found: list[int] = []
        while left:
            if not 0 <= segment - self._first < len(states):
                return
            base = segments.base(segment)
            count = min(left, self._per_segment)
            part = words[base : base + 1 + count * _CHANGE_WORDS]
            checksum.update(part)
            segment, *some = part.tolist()
            found += some
            left -= count
        if checksum.intdigest() != words[REDO_CHECKSUM]:
            return
        for slot, old, new in zip(*[iter(found)] * _CHANGE_WORDS, strict=True):
            at = segments.segment_of(slot) - self._first
            if 0 <= at < len(states) and states[at] & 0xFF == PAGE and slot % BUCKET_WORDS:
                yield slot, old, new

    def recover_or_die(self) -> None:
        """``resolve`` after a death or an error, and give back every segment that holds a list.

        If that fails the process ends, and the lock's next owner tries again.
        """
        try:
            self.resolve()
            self._held = []
            for segment, state in enumerate(self._states(), self._first):
                if state & 0xFF == REDO:
                    self._segments.give_back(segment)
        except BaseException as error:  # noqa: BLE001 - to let go would be worse
            self._die(error)

    def _die(self, error: BaseException) -> None:
        os.write(2, f"fastkv: a transaction could not be resolved: {error!r}\n".encode())
        os._exit(_EX_SOFTWARE)

    def await_resolved(self) -> None:
        """Wait until nothing is pending; to be called by who has a shard's lock after a death.

        If the transaction's owner died, it is this process or another one that resolves it. Nobody who holds
        the transaction lock waits for a shard before that is done, so to wait here closes no circle.

        Raises:
            StoreBusy: if that took too long.
        """
        until = time.monotonic() + _WAIT_S
        while self._words[REDO_STATE] != IDLE:
            code = self._lock.attempt()
            if code == errno.EOWNERDEAD:
                self.recover_or_die()
                self._lock.consistent()
                self._lock.release()
            elif code == 0:
                self._lock.release()
            elif time.monotonic() > until:
                raise StoreBusy("A transaction was neither finished nor given up.")
            else:
                PROGRESS.made()
                time.sleep(_LOOK_AGAIN_S)
