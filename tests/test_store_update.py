"""Read-modify-write: what is decided is decided on what is there, and nobody comes in between."""

from __future__ import annotations

import mmap
import os
import random
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from store_helpers import (
    KIB,
    MIB,
    NOW_MS,
    HandClock,
    clock,
    die,
    end_of,
    fill_until_evicted,
    open_store,
    payload,
    start,
    value_of,
)

from fastkv.errors import KeyTooLong, StoreBusy, StoreFull, ValueTooLong
from fastkv.store import DELETE, LEAVE, Change, Entry, Retime, Store
from fastkv.store.eviction import Eviction
from fastkv.store.segments import Segments
from fastkv.store.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Callable

# What is there: value, flags and deadline in ms; None for nothing.
BEFORE: dict[str, tuple[bytes, int, int] | None] = {
    "nothing": None,
    "empty": (b"", 0, 0),
    "small": (b"value", 255, 0),
    "small, with a deadline": (b"value", 1, NOW_MS + 1),
    "large": (payload("large", 10_001), 2, 0),
    "large, with a deadline": (payload("large", 10_001), 3, NOW_MS + 1),
    "passed": (b"value", 4, NOW_MS),
    "large, passed": (payload("large", 10_001), 5, 1),
}
# What it becomes.
AFTER: dict[str, Change] = {
    "left": LEAVE,
    "deleted": DELETE,
    "small": (b"new", 6, 0, b""),
    "small, with a deadline": (b"new", 7, NOW_MS + 1, b""),
    "small, passed": (b"new", 8, NOW_MS, b""),
    "large": (payload("new", 9000), 9, 0, b"metadata"),
    "retimed": Retime(NOW_MS + 2),
    "retimed, as it was": Retime(NOW_MS + 1),
    "retimed, without a deadline": Retime(0),
    "retimed, passed": Retime(NOW_MS),
}


def broken() -> int:
    raise AssertionError("the clock was read")


def add(number: int, filling: int = 0) -> Callable[[Entry | None], Change]:
    """Count on; the rest of the value is there to have a length."""

    def decide(entry: Entry | None) -> Change:
        count = int(entry[0].split(b" ")[0]) if entry else 0
        return b"%d " % (count + number) + bytes(filling), 0, 0, b""

    return decide


def count_of(store: Store, key: bytes) -> int:
    value = value_of(store, key)
    return int(value.split(b" ")[0]) if value else 0


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("with_value", [True, False])
def test_an_entry_becomes_what_was_decided(before: str, after: str, with_value: bool) -> None:
    there, change = BEFORE[before], AFTER[after]
    with open_store() as store:
        store.put(b"other", payload("other", 600), clock)
        old = store.put(b"key", there[0], clock, there[1], there[2]) if there else 0
        passed = bool(there and 0 < there[2] <= NOW_MS)
        asked: list[Entry | None] = []

        def decide(entry: Entry | None) -> Change:
            asked.append(entry)
            return change

        told, version = store.update(b"key", decide, clock, with_value=with_value)
        assert asked == [told]
        if there is None or passed:
            assert told is None
        else:
            assert told is not None
            assert told[:4] == (there[0] if with_value else b"", there[1], old, there[2])
        assert store.stats()["expired"] == passed

        entry = store.get(b"key", clock)
        if isinstance(change, tuple):
            assert version > old
            lives = not 0 < change[2] <= NOW_MS
            assert (entry and entry[:4]) == ((change[0], change[1], version, change[2]) if lives else None)
        elif told is None or change is DELETE:
            assert (entry, version) == (None, 0)
            assert store.stats()["entries"] == 1
        else:
            assert version == old
            assert there is not None
            deadline_ms = change.deadline_ms if isinstance(change, Retime) else there[2]
            lives = not 0 < deadline_ms <= NOW_MS
            assert (entry and entry[:4]) == ((there[0], there[1], old, deadline_ms) if lives else None)
        assert value_of(store, b"other") == payload("other", 600)


def test_the_clock_is_read_only_for_entries_with_a_deadline() -> None:
    with open_store() as store:
        store.update(b"key", add(1), broken)
        store.update(b"key", add(1), broken)
        assert count_of(store, b"key") == 2
        store.put(b"key", b"0 ", clock, deadline_ms=NOW_MS + 1)
        with pytest.raises(AssertionError, match="the clock"):
            store.update(b"key", add(1), broken)
        assert store.check() == []


def test_an_entry_counts_as_absent_from_its_deadline_on() -> None:
    now = HandClock()

    def count_for_10_ms(entry: Entry | None) -> Change:
        count = int(entry[0]) if entry else 0
        return b"%d" % (count + 1), 0, entry[3] if entry else now() + 10, b""

    with open_store() as store:
        for wait, count in ((0, 1), (9, 2), (1, 1), (0, 2), (10, 1)):
            now.now_ms += wait
            entry, _ = store.update(b"key", count_for_10_ms, now)
            assert (entry is not None) == (count > 1)
            assert value_of(store, b"key", now) == b"%d" % count
        assert store.stats()["expired"] == 2
        assert store.stats()["entries"] == 1


def test_versions_rise_with_what_is_put_and_with_nothing_else() -> None:
    with open_store() as store:
        versions = []
        for i in range(30):
            _, version = store.update(b"key", add(1, i * 300), clock)
            versions.append(version)
            assert store.update(b"key", lambda _: LEAVE, clock)[1] == version
            if i % 3 == 0:
                assert store.update(b"key", lambda _: DELETE, clock)[1] == 0
        assert versions == sorted(set(versions))


# -- another deadline ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 10_000])
def test_a_deadline_that_was_changed_is_the_one_that_counts(size: int) -> None:
    now = HandClock()
    with open_store() as store:
        store.put(b"key", payload("key", size), now, deadline_ms=NOW_MS + 10)
        store.update(b"key", lambda _: Retime(NOW_MS + 20), now)
        now.now_ms += 10
        while store.look_after(now):
            pass
        assert value_of(store, b"key", now) == payload("key", size)
        store.update(b"key", lambda _: Retime(0), now)
        now.now_ms += 10
        while store.look_after(now):
            pass
        assert value_of(store, b"key", now) == payload("key", size)
        store.update(b"key", lambda _: Retime(now() + 1), now)
        now.now_ms += 1
        while store.look_after(now):
            pass
        assert (store.stats()["entries"], store.stats()["expired"]) == (0, 1)


def test_fragments_are_not_copied_for_another_deadline() -> None:
    with open_store(2 * MIB) as store:
        store.put(b"key", payload("key", 500_000), clock)
        free = store.stats()["segments_free"]
        for i in range(100):
            store.update(b"key", lambda _, i=i: Retime(NOW_MS + 1 + i), clock, with_value=False)  # type: ignore[misc]
        assert store.stats()["segments_free"] > free - 10
        assert value_of(store, b"key") == payload("key", 500_000)


@pytest.mark.parametrize("evicts", [True, False])
def test_another_deadline_is_had_in_a_full_store_too(evicts: bool) -> None:
    with open_store(evicts=evicts) as store:
        with suppress(StoreFull):
            fill_until_evicted(store, "key", lambda i: payload(i, 700))
        for i in range(0, 3000, 20):  # where nobody may be evicted, what is dead is all the room there is
            store.delete(b"key%d" % i, clock)
        keys = [key for i in range(3000) if value_of(store, key := b"key%d" % i) is not None]
        for i, key in enumerate(keys * 2):
            entry, version = store.update(key, lambda _, i=i: Retime(NOW_MS + 1 + i), clock)  # type: ignore[misc]
            assert evicts or entry
            assert not entry or entry[2] == version
        assert evicts or {key: value_of(store, key) for key in keys} == {
            key: payload(int(key[3:]), 700) for key in keys
        }


@pytest.mark.parametrize(("spare", "words"), [(0, 511), (8, 510)])
def test_a_list_of_fragments_that_fills_a_segment_has_room_for_a_deadline(
    monkeypatch: pytest.MonkeyPatch, spare: int, words: int
) -> None:
    """Moving fragments may cut them, but not until the record with their list could not be written anew.

    The list grows by two words a time: to where a deadline is the last word of the segment, or, with a
    shorter key, to where the next two would fill the segment and leave no room for a deadline.
    """
    append_pieces = Shard.append_pieces

    def append_halves(shard: Shard, key_hash: int, value: bytes, floor: int, *, main: bool) -> list[int]:
        """Cut what is moved at least once."""
        half = len(value) // 2
        pieces = append_pieces(shard, key_hash, value[:half], floor, main=main)
        return pieces + append_pieces(shard, key_hash, value[half:], floor, main=main)

    with open_store(4 * MIB) as store:
        key, value = bytes(store.max_key_bytes - spare), payload("value", 900_000)
        version = store.put(key, value, clock)
        shard = store._shards[0]
        monkeypatch.setattr(Shard, "append_pieces", append_halves)
        for _ in range(1000):
            entry = store.get(key, clock)
            assert entry is not None
            pieces = shard.pieces(store._arena.location_of(entry[5]))
            longest = max(pieces, key=shard.length)
            with store._guard.holding(shard):
                if not shard.relocate_piece(entry[4], entry[5], longest):
                    break
        else:
            pytest.fail("a list of fragments grows for ever")
        monkeypatch.undo()
        assert store.stats()["segments_free"] > 10
        assert shard.length(store._arena.location_of(entry[5])) == words
        for deadline_ms in (NOW_MS + 1, 0, NOW_MS + 2):
            store.update(key, lambda _, ms=deadline_ms: Retime(ms), clock)  # type: ignore[misc]
            entry = store.get(key, clock)
            assert entry is not None
            assert entry[:4] == (value, 0, version, deadline_ms)


def test_where_another_deadline_finds_no_room_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store() as store:
        version = store.put(b"0", b"value", clock)
        monkeypatch.setattr(Eviction, "step", lambda *_: 0)
        monkeypatch.setattr(Segments, "room", lambda *_: False)
        monkeypatch.setattr(Segments, "take", lambda *_: 0)
        with pytest.raises(StoreFull):  # noqa: PT012 - whichever of them it is
            for i in range(200):
                last = i
                store.update(b"0", lambda _, i=i: Retime(NOW_MS + 1 + i), clock)  # type: ignore[misc]
        entry = store.get(b"0", clock)
        assert entry is not None
        assert entry[:4] == (b"value", 0, version, NOW_MS + last)
        assert store.stats()["repairs"] == 0


# -- what goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [name for name in BEFORE if "passed" not in name])
def test_who_fails_to_decide_changes_nothing(before: str) -> None:
    there = BEFORE[before]
    with open_store(lock_wait_ms=0) as store:
        if there:
            store.put(b"key", there[0], clock, there[1], there[2])
        arena = bytes(store.counts)

        def fail(entry: Entry | None) -> Change:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.update(b"key", fail, clock)
        with pytest.raises(ValueTooLong, match=str(store.max_value_bytes)):
            store.update(b"key", lambda _: (bytes(store.max_value_bytes + 1), 0, 0, b""), clock)
        with pytest.raises(KeyTooLong):
            store.update(bytes(store.max_key_bytes + 1), lambda _: DELETE, clock)
        assert bytes(store.counts) == arena
        # The lock is free, and nobody had to repair.
        assert store.put(b"key", b"next", clock)
        assert store.stats()["repairs"] == 0


def test_who_cannot_decide_on_an_expired_entry_has_only_dropped_it() -> None:
    with open_store(lock_wait_ms=0) as store:
        store.put(b"key", payload("large", 9000), clock, deadline_ms=NOW_MS)
        with pytest.raises(TypeError):
            store.update(b"key", lambda entry: (entry[0], 0, 0, b""), clock)  # type: ignore[index]
        assert store.stats() | {"entries": 0, "expired": 1, "repairs": 0} == store.stats()


def test_who_dies_while_deciding_changes_nothing() -> None:
    with open_store() as store:
        store.put(b"key", b"value", clock)

        def die_first(entry: Entry | None) -> Change:
            die()
            return DELETE

        assert end_of(start(lambda: store.update(b"key", die_first, clock))) == -signal.SIGKILL
        assert store.update(b"key", lambda _: LEAVE, clock)[0] is not None
        assert store.stats()["repairs"] == 1
        assert value_of(store, b"key") == b"value"


# -- room ----------------------------------------------------------------------------------------------------


def test_nobody_goes_while_there_is_room() -> None:
    """A counter in an arena that is nearly full lives on its own dead versions."""
    with open_store() as store:
        others: dict[bytes, bytes] = {}
        while store.stats()["segments_free"] > 6:
            key = b"%d" % len(others)
            others[key] = payload(key, 400)
            store.put(key, others[key], clock)
        for _ in range(5000):
            store.update(b"counter", add(1, 40), clock)
        assert count_of(store, b"counter") == 5000
        assert store.stats()["evictions"] == 0
        assert {key: value_of(store, key) for key in others} == others


@pytest.mark.parametrize("size", [300, 600, 20_000, 200_000])
def test_who_finds_a_full_store_makes_room(size: int) -> None:
    with open_store() as store:
        fill_until_evicted(store, "old", lambda i: payload(i, 700))
        for i in range(3 * MIB // size):
            value = payload(i, size)
            before, version = store.update(b"new%d" % i, lambda _, value=value: (value, 3, 0, b""), clock)  # type: ignore[misc]
            assert before is None
            entry = store.get(b"new%d" % i, clock)
            assert entry is not None
            assert entry[:3] == (value, 3, version)
            assert i % 1000 or store.check() == []


def test_a_decision_on_what_was_evicted_meanwhile_does_not_count() -> None:
    with open_store() as store:
        store.put(b"oldest", payload("oldest", 400), clock)
        fill_until_evicted(store, "old", lambda i: payload(i, 9000))
        asked: list[Entry | None] = []

        def append(entry: Entry | None) -> Change:
            asked.append(entry)
            return (entry[0] if entry else b"") + payload("more", 100_000), 0, 0, b""

        # The first eviction took what was older than the rest; put one there that will be the next.
        oldest = next(key for i in range(999) if value_of(store, key := b"old%d" % i))
        before, _ = store.update(oldest, append, clock)
        assert asked[0] is not None
        assert len(asked) > 1
        assert asked[-1] is before is None
        assert value_of(store, oldest) == payload("more", 100_000)


def test_a_decision_on_what_was_changed_meanwhile_does_not_count() -> None:
    with open_store(shards=2, lock_wait_ms=0) as store:
        fill_until_evicted(store, "old", lambda i: payload(i, 2000))
        changed = 0
        for i in range(400):
            key = b"key%d" % i
            store.update(key, add(1), clock)
            gone: list[Entry | None] = []

            def read_clock(key: bytes = key, gone: list[Entry | None] = gone) -> int:
                """Read while room is made: another one deletes, unless this very shard is being emptied."""
                with suppress(StoreBusy):
                    gone.append(store.update(key, lambda _: DELETE, clock)[0])
                return clock()

            store.update(key, add(1, 2000), read_clock)
            if gone and gone[0]:
                changed += 1
                assert count_of(store, key) == 1
        assert changed > 20


def test_no_room_at_all_is_said_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Eviction, "step", lambda *_: 0)
    with open_store() as store:
        model = {}
        with pytest.raises(StoreFull):  # noqa: PT012 - whichever of them it is
            for i in range(2000):
                store.update(b"%d" % i, lambda _, i=i: (payload(i, 700), 0, 0, b""), clock)  # type: ignore[misc]
                model[b"%d" % i] = payload(i, 700)
        assert len(model) > 1000
        assert store.get(b"%d" % len(model), clock) is None
        assert {key: value_of(store, key) for key in model} == model
        with pytest.raises(StoreFull):
            store.update(b"0", lambda _: (bytes(100_000), 0, 0, b""), clock)
        assert value_of(store, b"0") == model[b"0"]
        assert store.stats()["repairs"] == 0


# -- others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("filling", "times"), [(0, 8000), (600, 3000), (9000, 1000)])
def test_no_update_is_lost(filling: int, times: int) -> None:
    with open_store(2 * MIB, lock_wait_ms=20_000) as store:
        keys = [b"one", b"two"]

        def count(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(times):
                for key in keys:
                    store.update(key, add(1, filling + chance.randrange(50)), clock)

        pids = [start(lambda seed=seed: count(seed)) for seed in range(3)]  # type: ignore[misc]
        count(3)
        assert [end_of(pid) for pid in pids] == [0] * 3
        assert [count_of(store, key) for key in keys] == [4 * times] * 2
        assert store.stats()["evictions"] == 0


def test_exactly_one_creates_and_exactly_one_takes() -> None:
    """SETNX and GETDEL: a lock that several processes fight for is never held by two of them."""
    with open_store(lock_wait_ms=20_000) as store:

        def work(name: bytes) -> None:
            taken = 0
            while taken < 500:
                before, _ = store.update(b"lock", lambda entry: LEAVE if entry else (name, 0, 0, b""), clock)
                if before is None:
                    store.update(b"inside", add(1), clock)
                    assert count_of(store, b"inside") == 1
                    store.update(b"inside", add(-1), clock)
                    taken += 1
                    gone, _ = store.update(b"lock", lambda _: DELETE, clock)
                    assert gone is not None
                    assert gone[0] == name

        pids = [start(lambda i=i: work(b"%d" % i)) for i in range(3)]  # type: ignore[misc]
        assert [end_of(pid) for pid in pids] == [0] * 3
        assert store.get(b"lock", clock) is None


@pytest.mark.parametrize("filling", [0, 9000])
def test_no_acknowledged_update_is_lost_to_a_kill(filling: int) -> None:
    with open_store(2 * MIB, segment_bytes=4 * KIB, lock_wait_ms=20_000) as store:
        acknowledged = memoryview(mmap.mmap(-1, 4096)).cast("Q")

        def count(row: int) -> None:
            while True:
                store.update(b"counter", add(1, filling), clock)
                acknowledged[row] += 1

        pids = [start(lambda row=row: count(row)) for row in range(3)]  # type: ignore[misc]
        chance = random.Random(filling)
        kills = 0
        try:
            for _ in range(60):
                until = acknowledged[3] + chance.randrange(1, 40)
                while acknowledged[3] < until:
                    store.update(b"counter", add(1, filling), clock)
                    acknowledged[3] += 1
                row = chance.randrange(3)
                os.kill(pids[row], signal.SIGKILL)
                assert end_of(pids[row]) == -signal.SIGKILL
                kills += 1
                pids[row] = start(lambda row=row: count(row))  # type: ignore[misc]
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                end_of(pid)
                kills += 1
        done = count_of(store, b"counter")
        assert sum(acknowledged) <= done <= sum(acknowledged) + kills
