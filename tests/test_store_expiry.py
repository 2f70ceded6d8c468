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


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The looks of each sweep."""
    made: list[int] = []
    run = Sweep.run

    def counting(*arguments: object, **named: object) -> Swept:
        swept = run(*arguments, **named)  # type: ignore[arg-type]
        made.append(swept.looks)
        return swept

    monkeypatch.setattr(Sweep, "run", counting)
    return made


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


def test_a_step_looks_at_a_bounded_number_of_records(looks: list[int]) -> None:
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
    share: float, looks: list[int]
) -> None:
    """Deadlines that pass one by one do not have a segment swept for each of them."""
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


# -- while `expired` events are waited for -------------------------------------------------------------------


def want_expired(store: Store, *, wanted: bool = True) -> None:
    word = memoryview(bytearray(8)).cast("Q")
    word[0] = wanted
    store.removals.wanted = store.removals.expired_wanted = word


def noted_until(store: Store, now: HandClock, end_ms: int) -> dict[bytes, int]:
    """Step as a worker does, each step a millisecond after one with more to do; when each key was noted."""
    noted: dict[bytes, int] = {}
    while now.now_ms < end_ms:
        more = store.look_after(now)
        noted |= {key: now.now_ms for _, key in store.removals.take()[0]}
        now.now_ms += 1 if more else 50
    return noted


# name: the deadline of the i-th of 3,000 entries in ms, 0 for none
DEADLINES: dict[str, Callable[[int], int]] = {
    "spread": lambda i: 1 + i * 7919 % 6000,
    "at once": lambda i: 3000,
    "a few among many without": lambda i: 0 if i % 300 else 1 + i,
    "a few among many later ones": lambda i: 86_400_000 if i % 300 else 1 + i,
    "one after a long time": lambda i: 5500 if i == 7 else 86_400_000,
}


@pytest.mark.parametrize("most_remembered", [None, 100])
@pytest.mark.parametrize("shards", [1, 16])
@pytest.mark.parametrize("name", DEADLINES)
def test_what_expires_is_noted_within_a_second_if_that_is_waited_for(
    name: str,
    shards: int,
    most_remembered: int | None,
    looks: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if most_remembered is not None:
        monkeypatch.setattr("fastkv.store.agenda._MOST_DEADLINES", most_remembered)
    now = HandClock()
    begin = now.now_ms
    with open_store(8 * MIB, shards=shards, segment_bytes=64 * KIB) as store:
        want_expired(store)
        deadlines = {b"%d" % i: DEADLINES[name](i) for i in range(3000)}
        for key, deadline_ms in deadlines.items():
            store.put(key, b"", now, deadline_ms=deadline_ms and begin + deadline_ms)
        noted = noted_until(store, now, begin + 7000)
        assert noted.keys() == {key for key, deadline_ms in deadlines.items() if 0 < deadline_ms <= 6000}
        assert max(at - begin - deadlines[key] for key, at in noted.items()) < 1000
        if most_remembered is None:
            # Each is looked at once, and once more when it has expired.
            assert sum(looks) <= 3000 + len(noted)


def test_what_is_remembered_of_a_record_that_is_dead_by_then_hurts_nobody() -> None:
    now, chance = HandClock(), random.Random(6)
    begin = now.now_ms
    with open_store(8 * MIB, shards=4, segment_bytes=64 * KIB) as store:
        want_expired(store)
        deadlines: dict[bytes, int] = {}
        noted: dict[bytes, int] = {}
        for _ in range(60):
            for _ in range(100):
                key = b"%d" % chance.randrange(500)
                size = chance.choice([0, 10, 300, 20_000])
                if chance.random() < 0.3:
                    store.delete(key, now)
                    deadlines.pop(key, None)
                else:
                    deadlines[key] = now.now_ms + chance.choice([300, 1000, 5000])
                    store.put(key, payload(1, size), now, deadline_ms=deadlines[key])
                store.removals.take()  # what the calls themselves have found expired
            for key, at in noted_until(store, now, now.now_ms + 200).items():
                assert 0 <= at - deadlines.pop(key) < 1000
                noted[key] = at
            for key in [key for key, deadline_ms in deadlines.items() if deadline_ms + 1000 < now.now_ms]:
                assert store.get(key, now) is None
        assert len(noted) > 300
        assert now.now_ms > begin


@pytest.mark.parametrize("shards", [1, 16])
def test_who_begins_to_wait_for_it_waits_for_no_look_that_was_put_off(shards: int) -> None:
    now = HandClock()
    begin = now.now_ms
    with open_store(8 * MIB, shards=shards, segment_bytes=64 * KIB) as store:
        for i in range(3000):
            store.put(b"first %d" % i, b"", now, deadline_ms=begin + 10)
            store.put(b"%d" % i, b"", now, deadline_ms=begin + (86_400_000 if i % 500 else 20 + i))
        assert noted_until(store, now, begin + 8000) == {}
        assert store.stats()["entries"] > 3000 - 6  # some of the six wait for a look that is worth it
        for _ in range(2):  # and a second time as well
            put_off = store.stats()["entries"] - (3000 - 6)
            want_expired(store)
            assert len(noted_until(store, now, now.now_ms + 1000)) == put_off
            assert store.stats()["entries"] == 3000 - 6
            want_expired(store, wanted=False)
            for i in range(6):
                store.put(b"%d" % (500 * i), b"", now, deadline_ms=now.now_ms + 20 + i)
            noted_until(store, now, now.now_ms + 8000)


@pytest.mark.parametrize("looks_per_ms", [1, 10])
def test_looking_for_what_expires_has_a_bound_however_many_there_are(
    looks_per_ms: int, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastkv.store.expiry._PROMPT_LOOKS_PER_MS", looks_per_ms)
    now = HandClock()
    begin, seconds = now.now_ms, 20
    with open_store(8 * MIB, shards=4, segment_bytes=64 * KIB) as store:
        want_expired(store)
        for i in range(20_000):
            # One a second expires, and each segment has several.
            deadline_ms = 1000 * (i // 200) if i % 200 == 0 else 86_400_000
            store.put(b"%d" % i, b"some value", now, deadline_ms=begin + 1 + deadline_ms)
        noted = noted_until(store, now, begin + seconds * 1000)
        # Each was looked at once to begin with.
        assert sum(looks) <= 2 * 20_000 + looks_per_ms * 1000 * seconds
        assert len(noted) >= seconds / 2 * min(1, looks_per_ms / 10)


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
