"""Random keys: each about as likely as any other, and none that is not there."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from kept_helpers import kept_store, leave
from store_helpers import KIB, MIB, NOW_MS, clock, open_store, payload

from fastkv.steps import finish
from fastkv.store.datafile import DataDirectory

if TYPE_CHECKING:
    from pathlib import Path


def test_nothing_is_picked_from_an_empty_store() -> None:
    with open_store(shards=4) as store:
        assert (store.entries(), finish(store.random_key(clock))) == (0, None)
        store.put(b"key", b"", clock)
        assert (store.entries(), finish(store.random_key(clock))) == (1, b"key")
        store.delete(b"key", clock)
        assert (store.entries(), finish(store.random_key(clock))) == (0, None)


@pytest.mark.parametrize("count", [3, 500, 3000])
def test_each_is_about_as_likely(count: int) -> None:
    with open_store(2 * MIB, shards=8) as store:
        keys = {b"%d" % i for i in range(count)}
        for key in keys:
            store.put(key, b"", clock)
        assert store.entries() == count
        picked = Counter(finish(store.random_key(clock)) for _ in range(40 * count))
        assert picked.keys() == keys
        # 40 times each on average; a page that covers as much as another may have a third more entries.
        assert min(picked.values()) > 5
        assert max(picked.values()) < 120


def test_who_is_past_the_deadline_is_not_picked() -> None:
    with open_store(shards=4) as store:
        for i in range(300):
            store.put(b"%d" % i, b"", clock, deadline_ms=NOW_MS)
        assert finish(store.random_key(clock)) is None
        store.put(b"key", payload("large", 9000), clock, deadline_ms=NOW_MS + 1)
        assert [finish(store.random_key(clock)) for _ in range(5)] == [b"key"] * 5


def test_one_that_is_left_in_large_pages_is_found() -> None:
    with open_store(4 * MIB, shards=2, segment_bytes=16 * KIB) as store:
        for i in range(20_000):
            store.put(b"%d" % i, b"", clock)
        for i in range(20_000):
            if i != 77:
                store.delete(b"%d" % i, clock)
        assert [finish(store.random_key(clock)) for _ in range(5)] == [b"77"] * 5


def test_entries_that_nobody_verified_yet_are_picked(tmp_path: Path) -> None:
    model = leave(tmp_path, clean=False)
    with closing(DataDirectory(tmp_path)) as directory, kept_store(directory) as (store, _):
        assert finish(store.random_key(clock)) in model
