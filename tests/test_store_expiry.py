"""What has expired gives its space back although nobody reads it, a bounded step at a time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from store_helpers import KIB, MIB, HandClock, end_of, open_store, payload, start, value_of

from fastkv.store.layout import LOG_STATES, SEG_STATE
from fastkv.store.sweep import Sweep, Swept

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store import Store
    from fastkv.store.shard import Shard


def expire(store: Store, now_ms: int) -> bool:
    """One step; whether there is more to do."""
    return store.look_after(HandClock(now_ms))


def expire_all(store: Store, now_ms: int) -> int:
    """Step until nothing is due; returns how many steps that took."""
    for steps in range(100_000):
        if not expire(store, now_ms):
            return steps
    raise AssertionError("it does not come to an end")


# name: the size of the i-th value
SIZES: dict[str, Callable[[int], int]] = {
    "small": lambda i: i % 100,
    "of half a segment": lambda i: 2000,
    "larger than a segment": lambda i: 5000 + i,
    "mixed": lambda i: (10, 300, 4500, 40, 12_000)[i % 5],
}


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("name", SIZES)
def test_all_space_comes_back_unread(name: str, shards: int) -> None:
    now = HandClock()
    with open_store(shards=shards) as store:
        total = 0
        while store.stats()["segments_free"] > 100:
            store.put(b"%d" % total, payload(total, SIZES[name](total)), now, deadline_ms=now.now_ms + 50)
            total += 1
        assert not expire(store, now.now_ms + 49)
        assert store.stats()["entries"] == total
        expire_all(store, now.now_ms + 50)
        stats = store.stats()
        assert stats["entries"] == 0
        assert stats["expired"] == total
        assert stats["evictions"] == 0
        # All but the tables, the index and the segments that are being written to.
        first = store.geometry.first_segment
        in_use = store.geometry.segments - first - stats["segments_free"] - stats["index_pages"]
        assert in_use <= shards


def test_who_lives_on_is_not_touched() -> None:
    now = HandClock()
    with open_store(shards=2) as store:
        forever = {b"forever %d" % i: payload(i, 100 + i) for i in range(400)}
        later = {b"later %d" % i: payload(-i, 100 + i) for i in range(400)}
        for i in range(400):
            for name, deadline_ms in ((b"forever", 0), (b"later", 2000), (b"soon", 1000)):
                key = b"%s %d" % (name, i)
                value = forever.get(key) or later.get(key) or b"gone"
                store.put(key, value, now, deadline_ms=deadline_ms and now.now_ms + deadline_ms)
        versions = {key: store.get(key, now) for key in (*forever, *later)}
        now.now_ms += 1000
        expire_all(store, now.now_ms)
        assert store.stats()["expired"] == 400
        assert store.stats()["entries"] == 800
        assert {key: store.get(key, now) for key in versions} == versions
        now.now_ms += 1000
        expire_all(store, now.now_ms)
        assert store.stats()["entries"] == 400
        assert {key: value_of(store, key, now) for key in forever} == forever


def test_the_newest_version_of_a_key_counts() -> None:
    """An old record's deadline is not the entry's."""
    now = HandClock()
    with open_store() as store:
        for i in range(50):
            store.put(b"kept %d" % i, b"old", now, deadline_ms=now.now_ms + 5)
            store.put(b"shortened %d" % i, b"old", now, deadline_ms=now.now_ms + 5000)
        for i in range(50):
            store.put(b"kept %d" % i, b"new", now)
            store.put(b"shortened %d" % i, b"new", now, deadline_ms=now.now_ms + 5)
        now.now_ms += 5
        expire_all(store, now.now_ms)
        assert store.stats()["entries"] == 50
        assert all(value_of(store, b"kept %d" % i, now) == b"new" for i in range(50))


def test_a_step_looks_at_a_bounded_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    run = Sweep.run

    def counting(*arguments: object, **named: object) -> Swept:
        swept = run(*arguments, **named)  # type: ignore[arg-type]
        looks.append(swept.looks)
        return swept

    monkeypatch.setattr(Sweep, "run", counting)
    now = HandClock()
    with open_store(16 * MIB, shards=None, segment_bytes=64 * KIB) as store:
        for i in range(60_000):
            store.put(b"%d" % i, b"", now, deadline_ms=now.now_ms + 1)
        now.now_ms += 1
        most = 0
        while True:
            looks.clear()
            more = expire(store, now.now_ms)
            most = max(most, sum(looks))
            if not more:
                break
        assert store.stats()["entries"] == 0
        assert 500 < most <= 512


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_looking_costs_a_bounded_number_of_looks_for_each_that_expires(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines that pass one by one do not have a segment swept for each of them."""
    looks: list[int] = []
    run = Sweep.run

    def counting(*arguments: object, **named: object) -> Swept:
        swept = run(*arguments, **named)  # type: ignore[arg-type]
        looks.append(swept.looks)
        return swept

    monkeypatch.setattr(Sweep, "run", counting)
    now = HandClock()
    with open_store(4 * MIB, shards=1, segment_bytes=64 * KIB) as store:
        count = 10_000
        for i in range(count):
            deadline_ms = now.now_ms + 1 + i * 7 % count if i < share * count else 0
            store.put(b"%d" % i, b"some value", now, deadline_ms=deadline_ms)
        for _ in range(count):
            now.now_ms += 1
            expire_all(store, now.now_ms)
        assert store.stats()["entries"] == count - share * count
        assert sum(looks) <= 20 * share * count + 4 * count


def test_a_single_one_among_many_that_live_on_is_gone_a_minute_later() -> None:
    now = HandClock()
    with open_store(4 * MIB, shards=1, segment_bytes=64 * KIB) as store:
        store.put(b"first", b"", now, deadline_ms=now.now_ms + 10)
        for i in range(300):
            store.put(b"%d" % i, b"", now, deadline_ms=now.now_ms + 86_400_000)
        store.put(b"second", b"", now, deadline_ms=now.now_ms + 20)
        now.now_ms += 10
        expire_all(store, now.now_ms)
        assert store.stats()["entries"] == 301
        now.now_ms += 60_000
        expire_all(store, now.now_ms)
        assert store.stats()["entries"] == 300


def test_two_processes_give_back_what_has_expired() -> None:
    now = HandClock()
    with open_store(4 * MIB, shards=4) as store:
        for i in range(9000):
            store.put(b"%d" % i, payload(i, 100), now, deadline_ms=now.now_ms + 1 + i % 3)
        pids = [start(lambda: expire_all(store, now.now_ms + 3)) for _ in range(2)]
        assert [end_of(pid) for pid in pids] == [0, 0]
        assert store.stats()["entries"] == 0
        assert store.stats()["expired"] == 9000


def test_what_is_written_while_a_segment_is_swept_is_seen_as_well() -> None:
    """A sweep of the open segment goes on where records have come in the meantime."""
    now = HandClock()
    with open_store(4 * MIB, shards=1, segment_bytes=256 * KIB) as store:
        for i in range(3000):
            store.put(b"%d" % i, b"", now, deadline_ms=now.now_ms + 1)
        now.now_ms += 1
        assert expire(store, now.now_ms)
        left = store.stats()["entries"]
        assert 0 < left < 3000
        for i in range(500):
            store.put(b"later %d" % i, b"", now, deadline_ms=now.now_ms + 7)
        expire_all(store, now.now_ms)
        assert store.stats()["entries"] == 500
        expire_all(store, now.now_ms + 7)
        assert store.stats()["entries"] == 0


def test_a_segment_that_was_given_back_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fragment drops its entry, and so frees a later segment, which may be another shard's by then."""
    swept: list[int] = []
    run = Sweep.run

    def watching(sweep: Sweep, shard: Shard, segment: int, *arguments: object, **named: object) -> Swept:
        state = sweep._arena.words[sweep._segments.row(segment) + SEG_STATE]
        assert state >> 8 == shard.number
        assert state & 0xFF in LOG_STATES
        swept.append(segment)
        return run(sweep, shard, segment, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Sweep, "run", watching)
    chance = random.Random(3)
    now = HandClock()
    with open_store(shards=2) as store:
        for _ in range(20):
            for i in range(60):
                deadline_ms = now.now_ms + chance.choice([10, 10, 20])
                size = chance.choice([10, 300, 900, 4500, 9000])
                store.put(b"%d" % i, payload(i, size), now, deadline_ms=deadline_ms)
                if chance.random() < 0.4:
                    store.delete(b"%d" % chance.randrange(60), now)
            for _ in range(2):
                now.now_ms += 10
                expire_all(store, now.now_ms)
            assert store.stats()["entries"] == 0
    assert len(swept) > 400
