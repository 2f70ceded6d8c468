"""A ring of bytes that many processes write and each of them reads from its first byte to its last.

In: frames, as bytes. Out: the same frames, in one order for all, to every process that keeps its cursor
within reach. Everything but a look at the words happens under one robust lock. A frame is there once the head
has passed it, so who dies while writing leaves nothing: the next one is written over it. Raised: `StoreBusy`
if the lock is not to be had, `Overrun` where a reader has come too late.
"""

from __future__ import annotations

import mmap
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from fastkv.store.lock import LockTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_WORD: Final = 8
# The shared words, each on a cache line of its own: where the next frame begins; what lies before it is gone;
# how many rows listen to keys; how many of these to keys that expire; up to where reading cannot wait. Some
# words follow for each row.
_HEAD: Final = 0
_TAIL: Final = 8
_LISTENING: Final = 16
_LISTENING_EXPIRED: Final = 24
_PRESSED: Final = 32
_ROWS: Final = 40
_ROW_WORDS: Final = 3
_STATE: Final = 0
_LISTENS: Final = 1
_NEEDS: Final = 2

# What a row listens to.
_KEYS: Final = 1
_EXPIRED: Final = 2

_LENGTH_BYTES: Final = 4

# What a row's reader does: nothing that anybody should wake it for, or it waits, or it was woken.
_IDLE: Final = 0
_WAITS: Final = 1
_WOKEN: Final = 2

# So much is copied at once, or a frame if that is longer.
_READ_BYTES: Final = 64 << 10

# Whenever so much of the ring was written everybody is woken, so that nobody is overrun asleep; and no frame
# is longer, so that the newest three are always within reach.
_PARTS: Final = 4
# Messages leave this part of the ring to the counts of subscribers, which cannot wait for room.
_SPARE_PARTS: Final = 8


class Overrun(Exception):
    """What a reader has not read yet is written over."""


class Ring:
    """The ring, made once and inherited by fork.

    Attributes:
        wakeups: an eventfd for each row; readable when its reader was woken.
        most_bytes: the longest frame.
        listening: a view of one word: how many rows have subscriptions to what happens to keys. While it is 0
            a writer looks at nothing else.
        listening_expired: the same of subscriptions that may match `expired` events.
    """

    __slots__ = (
        "_data_at",
        "_lock",
        "_locks",
        "_mem",
        "_size",
        "_words",
        "listening",
        "listening_expired",
        "most_bytes",
        "wakeups",
    )

    def __init__(self, memory_bytes: int, rows: int, lock_wait_ms: int) -> None:
        """Map shared memory.

        Args:
            memory_bytes: of the ring; what describes it comes on top.
            rows: how many processes may read it at the same time, each by its own row.
            lock_wait_ms: the longest wait for the lock, in milliseconds.
        """
        self._size = memory_bytes
        self._data_at = (_ROWS + rows * _ROW_WORDS) * _WORD
        self._mem = mmap.mmap(-1, self._data_at + memory_bytes, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self._words = memoryview(self._mem)[: self._data_at].cast("Q")
        self._locks = LockTable([lock_wait_ms])
        (self._lock,) = self._locks.locks
        self.listening = self._words[_LISTENING : _LISTENING + 1]
        self.listening_expired = self._words[_LISTENING_EXPIRED : _LISTENING_EXPIRED + 1]
        self.most_bytes = memory_bytes // _PARTS - _LENGTH_BYTES
        self.wakeups = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(rows)]

    @property
    def head(self) -> int:
        """Where the next frame begins: so many bytes were ever written. Asked without the lock."""
        return self._words[_HEAD]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock. An exception in the block leaves the ring as it was, or with a whole frame more.

        Raises:
            StoreBusy: if it was not free within the bound.
        """
        if self._lock.acquire():
            # Head and tail are right at every moment; what follows from the rows may be half done.
            self._count_listening()
            self._lock.consistent()
        try:
            yield
        finally:
            self._lock.release()

    # -- with the lock held ------------------------------------------------------------------------------

    def append(self, frame: bytes, wake: Iterable[int] | None) -> None:
        """Write a frame and wake readers.

        Args:
            frame: up to ``most_bytes``.
            wake: the rows whose readers it is for, if they wait; None for all.
        """
        words = self._words
        head = words[_HEAD]
        after = head + _LENGTH_BYTES + len(frame)
        # What is about to be written over is gone before the first byte of it changes.
        if after - self._size > words[_TAIL]:
            words[_TAIL] = after - self._size
        self._write(head, len(frame).to_bytes(_LENGTH_BYTES, "little"))
        self._write(head + _LENGTH_BYTES, frame)
        words[_HEAD] = after
        part = self._size // _PARTS
        if wake is None or head // part != after // part:
            for row in range(len(self.wakeups)):
                if words[_ROWS + row * _ROW_WORDS + _STATE] != _WOKEN:
                    self._wake(row)
        else:
            for row in wake:
                if words[_ROWS + row * _ROW_WORDS + _STATE] == _WAITS:
                    self._wake(row)

    def behind(self, frame_bytes: int) -> list[int]:
        """Which rows still need what a message would be written over.

        Rows that were overrun already are not among them: what they have missed is gone.

        Args:
            frame_bytes: the length of its frame.
        """
        words = self._words
        reach = words[_HEAD] + _LENGTH_BYTES + frame_bytes - self._size + self._size // _SPARE_PARTS
        needs = words[_ROWS + _NEEDS :: _ROW_WORDS].tolist()
        return [row for row, need in enumerate(needs) if words[_TAIL] < need <= reach]

    def press(self) -> None:
        """Say that what comes next cannot wait: workers that have not read up to here are to make haste."""
        self._words[_PRESSED] = self._words[_HEAD]
        for row in range(len(self.wakeups)):
            if self.needs(row):
                self._wake(row)

    def is_pressed(self, cursor: int) -> bool:
        """Whether a reader that has come to ``cursor`` is to make haste. May be asked without the lock."""
        return cursor < self._words[_PRESSED]

    def need(self, row: int, cursor: int | None) -> None:
        """Say from where on a row needs what is in the ring.

        Args:
            row: the row.
            cursor: where the first frame begins that it has not read; None if it has no subscribers.
        """
        self._words[_ROWS + row * _ROW_WORDS + _NEEDS] = 0 if cursor is None else cursor + 1

    def read(self, cursor: int) -> tuple[list[bytes], int]:
        """Read some frames.

        Args:
            cursor: where the first of them begins.

        Returns:
            The frames, at least one if there is one, and where the next begins.

        Raises:
            Overrun: if they are not all there any more.
        """
        unread = self._words[_HEAD] - cursor
        if cursor < self._words[_TAIL]:
            raise Overrun
        if not unread:
            return [], cursor
        first = _LENGTH_BYTES + int.from_bytes(self._read(cursor, _LENGTH_BYTES), "little")
        data = self._read(cursor, min(unread, max(first, _READ_BYTES)))
        frames, at = [], 0
        while len(data) - at >= _LENGTH_BYTES:
            begin = at + _LENGTH_BYTES
            end = begin + int.from_bytes(data[at:begin], "little")
            if end > len(data):
                break
            frames.append(data[begin:end])
            at = end
        return frames, cursor + at

    def rest(self, row: int, *, waits: bool) -> None:
        """Say that a reader has read all; whoever appends next wakes it, if it waits.

        Args:
            row: its row.
            waits: whether it does; else it is woken only before it would be overrun.
        """
        self._words[_ROWS + row * _ROW_WORDS + _STATE] = _WAITS if waits else _IDLE

    def listen(self, row: int, *, keys: bool, expired: bool) -> None:
        """Say what a row listens to; see ``listening`` and ``listening_expired``.

        Args:
            row: the row.
            keys: whether it has subscriptions to what happens to keys.
            expired: whether some of them may match `expired` events.
        """
        self._words[_ROWS + row * _ROW_WORDS + _LISTENS] = keys * _KEYS | expired * _EXPIRED
        self._count_listening()

    def needs(self, row: int) -> bool:
        """Whether a row needs what is in the ring. May be asked without the lock."""
        return self._words[_ROWS + row * _ROW_WORDS + _NEEDS] > 0

    def listens(self, row: int) -> tuple[bool, bool]:
        """What a row listens to: keys, and those that expire. May be asked without the lock."""
        listens = self._words[_ROWS + row * _ROW_WORDS + _LISTENS]
        return bool(listens & _KEYS), bool(listens & _EXPIRED)

    # -- without it --------------------------------------------------------------------------------------

    def heard(self, row: int) -> None:
        """Take note of a wake-up.

        Args:
            row: the row of the process that calls.
        """
        with suppress(BlockingIOError):  # somebody else's descriptor was meant, or nobody's
            os.eventfd_read(self.wakeups[row])

    def close(self) -> None:
        """Unmap the memory in this process, and close the descriptors."""
        self.listening.release()
        self.listening_expired.release()
        self._words.release()
        self._mem.close()
        for wakeup in self.wakeups:
            os.close(wakeup)

    def _wake(self, row: int) -> None:
        # In this order: who dies between the two has woken the reader once more than needed.
        with suppress(BlockingIOError):  # it was woken 2^64 times, and has not looked
            os.eventfd_write(self.wakeups[row], 1)
        self._words[_ROWS + row * _ROW_WORDS + _STATE] = _WOKEN

    def _count_listening(self) -> None:
        listens = self._words[_ROWS + _LISTENS :: _ROW_WORDS].tolist()
        self._words[_LISTENING] = sum(bool(row & _KEYS) for row in listens)
        self._words[_LISTENING_EXPIRED] = sum(bool(row & _EXPIRED) for row in listens)

    def _write(self, at: int, data: bytes) -> None:
        """Write bytes at some count of all that were ever written, over the ring's end where they meet it."""
        at %= self._size
        first = data[: self._size - at]
        start = self._data_at + at
        self._mem[start : start + len(first)] = first
        if len(first) < len(data):
            self._mem[self._data_at : self._data_at + len(data) - len(first)] = data[len(first) :]

    def _read(self, at: int, size: int) -> bytes:
        """Read bytes as ``_write`` writes them."""
        at %= self._size
        start = self._data_at + at
        first = self._mem[start : start + min(size, self._size - at)]
        return first + self._mem[self._data_at : self._data_at + size - len(first)]
