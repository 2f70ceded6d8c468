"""What the store's tests share: clocks, small stores, processes that die where they are told to."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

import fastkv.pubsub
import fastkv.store
from fastkv.store import Store
from fastkv.store.layout import OPEN
from fastkv.store.lock import _STRIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

    from fastkv.store import Change, Decide

KIB = 1 << 10
MIB = 1 << 20
SEED = 7
NOW_MS = 1_000_000

_DIRECTORIES = [Path(package.__path__[0]) for package in (fastkv.store, fastkv.pubsub)]


def clock() -> int:
    """A clock that stands still."""
    return NOW_MS


class HandClock:
    """A clock that a test moves.

    Attributes:
        now_ms: what it shows.
    """

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


@contextmanager
def open_store(
    memory_bytes: int = MIB,
    *,
    shards: int | None = 1,
    segment_bytes: int | None = 4 * KIB,
    lock_wait_ms: int = 1000,
    evicts: bool = True,
    verify_reads: bool | None = None,
) -> Iterator[Store]:
    """A store with a known seed; once the test is through, every invariant must hold.

    Args:
        memory_bytes: the budget.
        shards: power of two, None for the store's own choice.
        segment_bytes: power of two, None for the store's own choice.
        lock_wait_ms: the longest wait for a lock.
        evicts: whether entries are evicted.
        verify_reads: whether reads trust no order of stores, None for what the machine needs.

    Yields:
        The store.
    """
    store = Store(
        memory_bytes,
        shards=shards,
        segment_bytes=segment_bytes,
        seed=SEED,
        lock_wait_ms=lock_wait_ms,
        evicts=evicts,
        verify_reads=verify_reads,
    )
    try:
        yield store
        assert store.check() == []
    finally:
        store.close()


def payload(tag: object, size: int) -> bytes:
    """A value that tells whose it is.

    Args:
        tag: what it is made from.
        size: its bytes.

    Returns:
        The same bytes for the same arguments.
    """
    return random.Random(f"{tag}/{size}").randbytes(size)


def fill_until_evicted(store: Store, name: str, value: Callable[[int], bytes]) -> dict[bytes, bytes]:
    """Put entries until the first eviction.

    Args:
        store: where to.
        name: what the keys begin with.
        value: the value of the i-th entry.

    Returns:
        What was put before the eviction; all of it but what that evicted is there.
    """
    model: dict[bytes, bytes] = {}
    evictions = store.stats()["evictions"]
    while store.stats()["evictions"] == evictions:
        key = f"{name}{len(model)}".encode()
        model[key] = value(len(model))
        store.put(key, model[key], clock)
    return model


def always(change: Change) -> Decide:
    """A decision that is the same for every entry."""
    return lambda _: change


def value_of(store: Store, key: bytes, now: Callable[[], int] = clock) -> bytes | None:
    """An entry's value, None if there is none."""
    entry = store.get(key, now)
    return None if entry is None else entry[0]


def entry_at_the_end(store: Store) -> tuple[int, bytes]:
    """Put entries until one lies at the end of the arena.

    Args:
        store: an empty store of one shard.

    Returns:
        Its hash and key: a head and a key of 255 bytes would not fit in its place.
    """
    segments = store._segments
    taken = list(iter(lambda: segments.take(0, OPEN, 0), 0))
    for segment in reversed(taken):  # so that the last one is the first to be used
        segments.give_back(segment)
    for number in range(1000):
        key = b"%d" % number
        store.put(key, b"v", clock)
        key_hash = xxh3_64_intdigest(key, SEED)
        place = store._arena.location_of(store._index.locate(key_hash, key)[1])
        if (place << 3) + 16 + 255 > store.geometry.memory_bytes:
            return key_hash, key
    raise AssertionError("no entry came to lie there")


# -- opcodes: a fault point between any two of them, without a hook in what is tested ---------------------


def at_opcode(
    number: int,
    act: Callable[[], object],
    operation: Callable[[], object],
    modules: str = "*",
    *,
    stride: int = 0,
) -> int:
    """Run an operation, and do something else in the middle of it.

    Args:
        number: before which opcode of the modules of store and pub/sub, from 1; 0 for none.
        act: what is done there.
        operation: the operation.
        modules: those of these modules whose opcodes count, or functions as in ``index.split``; "*" for
            all.
        stride: after how many more opcodes it is done again; 0 for never.

    Returns:
        How many opcodes the operation took.
    """
    count = 0
    due = number
    wanted = modules.split()
    counted: dict[CodeType, bool] = {}

    def counts(code: CodeType) -> bool:
        file = Path(code.co_filename)
        return file.parent in _DIRECTORIES and (
            modules == "*" or not {file.stem, f"{file.stem}.{code.co_name}"}.isdisjoint(wanted)
        )

    def on_event(frame: FrameType, event: str, arg: object) -> object:
        nonlocal count, due
        if event == "opcode":
            count += 1
            if count == due:
                due += stride
                act()
        return on_event

    def on_call(frame: FrameType, event: str, arg: object) -> object:
        code = frame.f_code
        if code not in counted:
            counted[code] = counts(code)
        if not counted[code]:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return on_event

    before = sys.gettrace()
    sys.settrace(on_call)  # type: ignore[arg-type]
    try:
        operation()
    finally:
        sys.settrace(before)
    return count


def die() -> None:
    """End this process as an operator's kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


# -- processes ---------------------------------------------------------------------------------------------


def start(work: Callable[[], object]) -> int:
    """Fork a process that does some work and ends.

    Args:
        work: what it does.

    Returns:
        Its pid; it exits with 0 when the work is done, with 1 after an exception.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001 - nothing of the test runner may run in here
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def end_of(pid: int) -> int:
    """Wait for a process.

    Args:
        pid: one that ``start`` gave.

    Returns:
        Its exit code, or the negative number of the signal that killed it.
    """
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dies_at(number: int, operation: Callable[[], object], modules: str = "*") -> bool:
    """Let another process be killed in the middle of an operation.

    Args:
        number: before which opcode.
        operation: the operation.
        modules: as for ``at_opcode``.

    Returns:
        True if it died there, False if the operation has fewer opcodes and was completed.

    Raises:
        AssertionError: if it ended otherwise.
    """
    code = end_of(start(lambda: at_opcode(number, die, operation, modules)))
    assert code in (0, -signal.SIGKILL), f"the process ended with {code} at opcode {number}"
    return code != 0


def snapshot(store: Store) -> Callable[[], None]:
    """Remember an arena and its locks, so that many operations can start from the same state.

    Args:
        store: the store; nobody who lives holds one of its locks.

    Returns:
        What brings both back; who had died with a lock then has died with it again.
    """
    saved = bytes(store.counts), bytes(store._lock_table._mem)

    def restore() -> None:
        store.counts[:], store._lock_table._mem[:] = saved

    return restore


# -- many deaths in one operation --------------------------------------------------------------------------

# What the kernel makes of the word of a robust mutex whose owner ends: futex(2), FUTEX_OWNER_DIED.
WAITERS = 1 << 31
_OWNER_DIED = 1 << 30
_TID_MASK = _OWNER_DIED - 1
_WORDS_OF_LOCK = _STRIDE // 4
# Every thirty-second death is brought about by a real kill.
_REAL = 32


def deaths(
    store: Store, operation: Callable[[], object], modules: str = "*", stride: int = 1
) -> Iterator[int]:
    """Bring a store into the state in which the death of another process leaves it, for many deaths.

    To fork and kill a process for each costs more than to look at what it leaves. So one process does the
    operation once, and stands still where it would be killed: with the arena as it is there, and with its
    locks as the kernel would leave them. When it goes on it has both again as they were. Before that, each
    thirty-second death from the first one on is brought about by a real kill, and has to leave the same.

    Args:
        store: the store; it may be changed in any way after each death.
        operation: what is done with it.
        modules: as for ``at_opcode``.
        stride: before each how manyeth opcode a process dies.

    Yields:
        Before which opcode. After the last one the operation is done.
    """

    def same_every_time() -> None:
        random.seed(SEED)  # each process would begin with another one
        operation()

    begin = snapshot(store)
    real: dict[int, object] = {}
    number = 1
    while dies_at(number, same_every_time, modules):
        real[number] = left(store)
        begin()
        number += stride * _REAL
    begin()
    ours, theirs = socket.socketpair()

    def stand_still() -> None:
        go_on = snapshot(store)
        mark_dead(store, threading.get_native_id())
        theirs.sendall(b".")
        if not theirs.recv(1):  # nobody looks any more
            os._exit(0)
        go_on()

    def work() -> None:
        ours.close()
        at_opcode(1, stand_still, same_every_time, modules, stride=stride)

    pid = start(work)
    theirs.close()
    number = 1
    try:
        with ours:
            while ours.recv(1):
                assert real.pop(number, None) in (None, left(store)), f"opcode {number} of {modules}"
                yield number
                ours.sendall(b".")
                number += stride
    finally:
        code = end_of(pid)
    assert code == 0
    assert not real


def mark_dead(store: Store, tid: int) -> None:
    """Make of a store's locks what the kernel makes of them when a thread ends.

    Args:
        store: the store.
        tid: the thread, which still lives.
    """
    words = memoryview(store._lock_table._mem).cast("I")
    for at in range(0, len(words), _WORDS_OF_LOCK):
        if words[at] & _TID_MASK == tid:
            words[at] = words[at] & WAITERS | _OWNER_DIED


def left(store: Store) -> tuple[int, list[int]]:
    """What a death has left: the arena, as its digest, and the locks whose owner has died."""
    words = list(memoryview(store._lock_table._mem).cast("I")[::_WORDS_OF_LOCK])
    assert not any(word & _TID_MASK for word in words), "somebody has a lock"
    return xxh3_64_intdigest(store.counts), words
