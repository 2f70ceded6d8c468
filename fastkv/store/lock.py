"""Mutexes that survive the death of their owner.

Robust process-shared pthread mutexes in an anonymous mapping of their own, made anew at each start and
inherited by fork: in a file, a stale or damaged mutex would hang for ever. A lock and unlock cost 0.22 µs
through ``ctypes.PyDLL`` (which keeps the interpreter lock, and a worker has one thread). Rejected: a
multiprocessing semaphore (32 ns, but it dies with its owner) and ``fcntl.lockf`` (1.2 µs).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from fastkv.errors import StoreBusy
from fastkv.progress import PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ROBUST = 1
_SHARED = 1
_CLOCK_MONOTONIC = 1
# A mutex takes 40 bytes with glibc on x86-64, 48 on aarch64; a cache line each avoids false sharing.
_STRIDE = 64
_SPINS = 20
_SLICE_MS = 100
# The kernel looks at 2,048 locks of a process that ends (ROBUST_LIST_LIMIT), and leaves the others alone.
MOST_HELD = 1024

_libc = ctypes.PyDLL(None)
_trylock = _libc.pthread_mutex_trylock
_unlock = _libc.pthread_mutex_unlock
_unlock.restype = None  # who has the lock can give it back; not to convert the result saves 20 ns
_consistent = _libc.pthread_mutex_consistent


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _lock_until(mutex: Any, wait_ms: int) -> int:
    """Wait for a mutex, but not for ever.

    Args:
        mutex: a reference to it.
        wait_ms: the longest wait in milliseconds.

    Returns:
        0 or an errno value.
    """
    # glibc before 2.30 and musl lack pthread_mutex_clocklock; timedlock counts on the wall clock.
    clocklock = getattr(_libc, "pthread_mutex_clocklock", None)
    clock = time.CLOCK_MONOTONIC if clocklock else time.CLOCK_REALTIME
    until = time.clock_gettime_ns(clock) + wait_ms * 1_000_000
    limit = ctypes.byref(_Timespec(until // 1_000_000_000, until % 1_000_000_000))
    if clocklock:
        return int(clocklock(mutex, _CLOCK_MONOTONIC, limit))
    return int(_libc.pthread_mutex_timedlock(mutex, limit))


class RobustLock:
    """One mutex of a LockTable.

    Attributes:
        attempt: takes the lock if nobody has it and returns 0, else an errno value for ``wait``.
        release: gives the lock back. Both are the C calls themselves, being on the way of every write.
    """

    __slots__ = ("_mutex", "_wait_ms", "attempt", "release")

    def __init__(self, mutex: Any, wait_ms: int) -> None:
        self._mutex = mutex
        self._wait_ms = wait_ms
        self.attempt: Callable[[], int] = partial(_trylock, mutex)
        self.release: Callable[[], None] = partial(_unlock, mutex)

    @property
    def address(self) -> int:
        """Where the mutex lies in this process and in those that it forks."""
        return ctypes.addressof(self._mutex._obj)

    def acquire(self) -> bool:
        """Take the lock.

        Returns:
            True if the owner died with it: the caller repairs what it guards, then calls ``consistent``.

        Raises:
            StoreBusy: if it was not free within the bound, or can never be had again.
        """
        code = self.attempt()
        return self.wait(code) if code else False

    def wait(self, code: int) -> bool:
        """Go on where ``attempt`` failed.

        Args:
            code: what it returned.

        Returns:
            As for ``acquire``.

        Raises:
            StoreBusy: as for ``acquire``.
        """
        if code == errno.EBUSY:
            # A critical section is a few microseconds, unless its owner was scheduled out: let it run.
            for _ in range(_SPINS):
                os.sched_yield()
                code = _trylock(self._mutex)
                if code != errno.EBUSY:
                    break
            else:
                code = self._wait_in_slices()
        if code == errno.EOWNERDEAD:
            return True
        if code:
            raise StoreBusy(f"A lock was not free within {self._wait_ms} ms ({os.strerror(code)}).")
        return False

    def _wait_in_slices(self) -> int:
        """Wait up to the bound, looking again now and then.

        A waiter that is woken and killed before it has the mutex takes the wake-up with it; the next one
        would sleep to the end of its bound beside a free mutex.

        Returns:
            0 or an errno value.
        """
        left_ms = self._wait_ms
        while (code := _lock_until(self._mutex, min(left_ms, _SLICE_MS))) == errno.ETIMEDOUT:
            PROGRESS.made()
            left_ms -= _SLICE_MS
            if left_ms <= 0:
                break
        return code

    def is_held(self, repair: Callable[[], None]) -> bool:
        """Tell whether a living process has the lock.

        Args:
            repair: what is done first if its owner died, because nobody else will learn of it.

        Returns:
            True if it is not to be had at this moment.
        """
        code = self.attempt()
        if code == errno.EOWNERDEAD:
            repair()
            self.consistent()
        if code in (0, errno.EOWNERDEAD):
            self.release()
        return code == errno.EBUSY

    def consistent(self) -> None:
        """Declare what the lock guards repaired, after ``acquire`` returned True."""
        _consistent(self._mutex)


def abandon(locks: Sequence[RobustLock]) -> None:
    """Have locks as if their owner had died: whoever takes one first repairs what it guards.

    Args:
        locks: of a table that nobody uses yet.
    """
    for start in range(0, len(locks), MOST_HELD):
        child = os.fork()
        if not child:
            for lock in locks[start : start + MOST_HELD]:
                lock.attempt()
            os._exit(0)
        os.waitpid(child, 0)


class LockTable:
    """A row of robust mutexes in shared memory.

    Attributes:
        locks: the mutexes, usable by this process and all that it forks, as long as the table lives.
    """

    def __init__(self, waits_ms: Sequence[int]) -> None:
        """Make the mutexes.

        Args:
            waits_ms: for each the longest wait for it in milliseconds.
        """
        self._mem = mmap.mmap(-1, len(waits_ms) * _STRIDE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        attributes = ctypes.create_string_buffer(64)
        _libc.pthread_mutexattr_init(attributes)
        for call, value in (
            ("pthread_mutexattr_setpshared", _SHARED),
            ("pthread_mutexattr_setrobust", _ROBUST),
        ):
            code = getattr(_libc, call)(attributes, value)
            if code:
                raise OSError(code, f"{call}: {os.strerror(code)}")
        self.locks = []
        for i, wait_ms in enumerate(waits_ms):
            # A reference goes through a call in 0.04 µs less than a ``c_void_p``.
            mutex = ctypes.byref(ctypes.c_char.from_buffer(self._mem, i * _STRIDE))
            code = _libc.pthread_mutex_init(mutex, attributes)
            if code:
                raise OSError(code, f"pthread_mutex_init: {os.strerror(code)}")
            self.locks.append(RobustLock(mutex, wait_ms))
