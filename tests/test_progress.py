"""Work that keeps a worker from its event loop reports that it goes on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from store_helpers import KIB, MIB, clock, open_store

from fastkv.errors import StoreBusy
from fastkv.progress import PROGRESS
from fastkv.store.lock import LockTable

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often progress was reported since it was asked last."""
    count = 0

    def made() -> None:
        nonlocal count
        count += 1

    def take() -> int:
        nonlocal count
        taken, count = count, 0
        return taken

    monkeypatch.setattr(PROGRESS, "made", made)
    return take


def test_small_steps_are_reported_64_at_a_time(reports: Callable[[], int]) -> None:
    for _ in range(640):
        PROGRESS.small()
    assert reports() == 10


def test_a_wait_for_a_lock_is_reported_by_the_slice(reports: Callable[[], int]) -> None:
    lock = LockTable([350]).locks[0]
    ready, tell = os.pipe()
    holder = os.fork()
    if not holder:
        lock.acquire()
        os.write(tell, b"!")
        signal.pause()
    try:
        os.read(ready, 1)
        with pytest.raises(StoreBusy, match="350 ms"):
            lock.acquire()
        assert reports() == 4
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.close(ready)
        os.close(tell)


def test_a_transaction_is_reported(reports: Callable[[], int]) -> None:
    with open_store(4 * MIB, shards=4) as store:
        keys = [b"%d" % i for i in range(640)]

        store.transact(keys, lambda space: [space.put(key, b"", clock) for key in keys], clock)
        assert reports() == 10
        store.transact(keys, lambda space: [space.get(key, clock) for key in keys], clock)
        assert reports() == 10
        store.transact(None, lambda space: space.scan_keys(0, clock, MIB, 1000), clock)
        assert reports() > 0


def test_making_room_repairing_and_flushing_are_reported(reports: Callable[[], int]) -> None:
    with open_store(2 * MIB, shards=2, segment_bytes=4 * KIB) as store:
        for i in range(3000):
            store.put(b"%d" % i, b"x" * 1000, clock)
        assert store.stats()["evictions"] > 0
        assert reports() > 0
        shard = store._shards[0]
        shard.lock.acquire()
        store._guard.after_failure(shard)
        assert reports() == len(store._index.pages(0))
        store.flush()
        assert reports() >= 2
