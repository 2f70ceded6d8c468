"""Robust locks: they pass on from the dead, and nobody waits for the living for ever."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from store_helpers import NOW_MS, at_opcode, clock, die, end_of, open_store, payload, start, value_of

from fastkv.errors import StoreBusy
from fastkv.store.lock import LockTable, RobustLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.store import Store

LONG_MS = 60_000
SHORT_MS = 30


@contextmanager
def elsewhere(work: Callable[[Callable[[], int]], object]) -> Iterator[int]:
    """A process that stands still in the middle of some work; it is killed at the end.

    Args:
        work: what it does; it is handed a clock that says so and never returns.

    Yields:
        Its pid, once it stands there.
    """
    there, here = os.pipe()

    def stand_still() -> int:
        os.write(here, b"!")
        while True:
            signal.pause()

    pid = start(lambda: work(stand_still))
    try:
        assert os.read(there, 1) == b"!"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        end_of(pid)
        os.close(there)
        os.close(here)


def hold(lock: RobustLock) -> Callable[[Callable[[], int]], object]:
    def work(stand_still: Callable[[], int]) -> None:
        lock.acquire()
        stand_still()

    return work


def take_and_die(lock: RobustLock) -> None:
    lock.acquire()
    die()


def test_a_lock_is_taken_and_given_back() -> None:
    table = LockTable([SHORT_MS, SHORT_MS])
    first, second = table.locks
    for _ in range(3):
        assert not first.acquire()
        assert not second.acquire()
        first.release()
        second.release()


def test_a_lock_passes_on_from_the_dead() -> None:
    table = LockTable([LONG_MS])
    (lock,) = table.locks
    assert end_of(start(lambda: take_and_die(lock))) == -signal.SIGKILL
    assert lock.acquire()
    lock.consistent()
    lock.release()
    assert not lock.acquire()
    lock.release()


def test_a_lock_passes_on_from_who_died_repairing() -> None:
    table = LockTable([LONG_MS])
    (lock,) = table.locks
    for _ in range(3):
        assert end_of(start(lambda: take_and_die(lock))) == -signal.SIGKILL
    assert lock.acquire()
    lock.consistent()
    lock.release()


def test_a_lock_passes_on_to_who_waits_for_it() -> None:
    table = LockTable([LONG_MS])
    (lock,) = table.locks

    def wait() -> None:
        os._exit(10 + lock.acquire())

    with elsewhere(hold(lock)):
        waiting = start(wait)
    assert end_of(waiting) == 11


def test_a_lock_that_the_living_hold_is_busy() -> None:
    table = LockTable([SHORT_MS])
    (lock,) = table.locks
    with elsewhere(hold(lock)), pytest.raises(StoreBusy, match=f"not free within {SHORT_MS} ms"):
        lock.acquire()
    assert lock.acquire()
    lock.consistent()
    lock.release()


def test_what_was_given_back_unrepaired_is_never_had_again() -> None:
    table = LockTable([SHORT_MS])
    (lock,) = table.locks
    assert end_of(start(lambda: take_and_die(lock))) == -signal.SIGKILL
    assert lock.acquire()
    lock.release()
    for _ in range(2):
        with pytest.raises(StoreBusy):
            lock.acquire()


# -- the store's locks -------------------------------------------------------------------------------------


def expiring(store: Store) -> Callable[[Callable[[], int]], object]:
    """Work that stands still under a shard's lock: who deletes an entry with a deadline reads the clock."""
    store.put(b"expiring", b"x", clock, deadline_ms=NOW_MS + 1)
    return lambda stand_still: store.delete(b"expiring", stand_still)


def test_a_busy_shard_is_read_but_not_written() -> None:
    with open_store(lock_wait_ms=SHORT_MS) as store:
        store.put(b"key", b"value", clock)
        with elsewhere(expiring(store)):
            assert value_of(store, b"key") == b"value"
            assert value_of(store, b"absent") is None
            with pytest.raises(StoreBusy):
                store.put(b"key", b"other", clock)
            with pytest.raises(StoreBusy):
                store.delete(b"key", clock)
            with pytest.raises(StoreBusy):
                store.check()
            assert value_of(store, b"key") == b"value"
        assert store.put(b"key", b"other", clock)
        assert store.stats()["repairs"] == 1
        assert value_of(store, b"key") == b"other"


def test_a_check_that_finds_a_shard_busy_leaves_the_others_as_they_are() -> None:
    with open_store(shards=4, lock_wait_ms=SHORT_MS) as store:
        for i in range(40):
            store.put(b"%d" % i, b"value", clock)
        before = bytes(store.counts)
        with elsewhere(hold(store._shards[3].lock)):
            with pytest.raises(StoreBusy):
                store.check()
            assert store.stats()["repairs"] == 0
            assert bytes(store.counts) == before


def test_a_writer_waits_for_a_shard_until_its_owner_dies() -> None:
    with open_store(lock_wait_ms=LONG_MS) as store:
        with elsewhere(expiring(store)):
            waiting = start(lambda: store.put(b"key", b"value", clock))
        assert end_of(waiting) == 0
        assert value_of(store, b"key") == b"value"


def test_another_shard_is_not_concerned() -> None:
    with open_store(shards=4, lock_wait_ms=SHORT_MS) as store:
        keys = [b"%d" % i for i in range(40)]
        busy = 0
        with elsewhere(expiring(store)):
            for key in keys:
                try:
                    store.put(key, b"value", clock)
                except StoreBusy:
                    busy += 1
                    assert value_of(store, key) is None
                else:
                    assert value_of(store, key) == b"value"
        assert 0 < busy < len(keys) // 2


class OddError(Exception):
    """What nobody expects."""


def fail() -> int:
    raise OddError


def test_an_exception_under_a_shards_lock_repairs_and_lets_go() -> None:
    with open_store(lock_wait_ms=SHORT_MS) as store:
        store.put(b"key", b"value", clock)
        store.put(b"expiring", b"x", clock, deadline_ms=NOW_MS + 1)
        with pytest.raises(OddError):
            store.delete(b"expiring", fail)
        assert store.stats()["repairs"] == 1
        assert store.put(b"expiring", b"again", clock)
        assert value_of(store, b"key") == b"value"


def test_an_exception_while_room_is_made_repairs_and_lets_go() -> None:
    with open_store(lock_wait_ms=SHORT_MS) as store:
        for i in range(2000):
            try:
                store.put(b"%d" % i, payload(i, 2000), fail)
            except OddError:
                break
        else:
            pytest.fail("the clock was never read")
        assert store.check() == []
        assert store.stats()["repairs"] == 1
        assert all(value_of(store, b"%d" % j) == payload(j, 2000) for j in range(i))
        for j in range(i, i + 500):
            assert store.put(b"%d" % j, payload(j, 2000), clock)


@pytest.mark.usefixtures("readable_engine")
@pytest.mark.parametrize("size", [30, 9000])
def test_an_exception_anywhere_in_a_write_repairs_and_lets_go(size: int) -> None:
    with open_store(lock_wait_ms=SHORT_MS) as store:
        model = {b"%d" % i: payload(i, 60 * i) for i in range(20)}
        for key, value in model.items():
            store.put(key, value, clock)
        new = payload("new", size)
        count = 0
        for i in range(1, 5000, 1 if size < 100 else 7):
            old = value_of(store, b"7")
            try:
                count = at_opcode(i, fail, lambda: store.put(b"7", new, clock), "shard index")
            except OddError:
                assert value_of(store, b"7") in (old, new)
                assert store.check() == [], f"opcode {i}"
            if 0 < count < i:
                break
            store.put(b"7", payload(i, 500), clock)
        assert 0 < count < i
        del model[b"7"]
        assert {key: value_of(store, key) for key in model} == model


@pytest.mark.parametrize(
    ("wait_ms", "free_at", "waits"),
    [(250, None, [100, 100, 50]), (100, None, [100]), (30, None, [30]), (250, 2, [100, 100])],
)
def test_a_long_wait_looks_again_now_and_then(
    monkeypatch: pytest.MonkeyPatch, wait_ms: int, free_at: int | None, waits: list[int]
) -> None:
    """A wake-up may be lost with whoever was woken and killed."""
    seen: list[int] = []

    def wait(mutex: object, slice_ms: int) -> int:
        seen.append(slice_ms)
        return 0 if len(seen) == free_at else errno.ETIMEDOUT

    monkeypatch.setattr("fastkv.store.lock._lock_until", wait)
    (lock,) = LockTable([wait_ms]).locks
    assert lock._wait_in_slices() == (errno.ETIMEDOUT if free_at is None else 0)
    assert seen == waits
