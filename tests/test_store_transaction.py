"""Transactions: what they see, what they change, and what is left of those that do not come to their end."""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest
from store_helpers import (
    KIB,
    MIB,
    NOW_MS,
    HandClock,
    clock,
    end_of,
    fill_until_evicted,
    open_store,
    payload,
    start,
    value_of,
)

from fastkv.errors import KeyTooLong, StoreBusy, StoreError, StoreFull, ValueTooLong
from fastkv.steps import finish
from fastkv.store import DELETE, LEAVE, Change, Entry, Retime, Store, Transaction
from fastkv.store.commit import Commit
from fastkv.store.eviction import Eviction
from fastkv.store.records import join_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastkv.commands.context import Space
    from fastkv.store.commit import _Placed

pytestmark = pytest.mark.usefixtures("memory_order")

LARGE = payload("large", 9000)


def mset(store: Space, values: dict[bytes, bytes]) -> None:
    def body(transaction: Space) -> None:
        for key, value in values.items():
            transaction.put(key, value, clock)

    store.transact(list(values), body, clock)


def msetnx(store: Space, values: dict[bytes, bytes]) -> bool:
    def body(transaction: Space) -> bool:
        if any(transaction.get_many(list(values), clock)):
            return False
        for key, value in values.items():
            transaction.put(key, value, clock)
        return True

    return store.transact(list(values), body, clock)


def append(entry: Entry | None) -> Change:
    assert entry is not None
    return entry[0] + b"2", 2, 0, b""


def content(store: Store | Transaction, now: Callable[[], int] = clock) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    cursor = 0
    while True:
        entries, cursor = store.scan(cursor, now, 1 << 30, 50)
        found |= {key: value for key, value, *_ in entries}
        if not cursor:
            return found


# -- what it does --------------------------------------------------------------------------------------------


def test_all_is_there_at_its_end_and_nothing_before() -> None:
    with open_store(shards=4, lock_wait_ms=0) as store:
        store.put(b"replaced", b"old", clock, 1)
        store.put(b"deleted", LARGE, clock)
        retimed = store.put(b"retimed", LARGE, clock, 2)
        before = content(store)
        after = {b"replaced": LARGE, b"retimed": LARGE, b"made": b"new", b"made, large": LARGE}
        free = store.stats()["segments_free"]

        def body(transaction: Transaction) -> int:
            version = transaction.put(b"replaced", LARGE, clock, 3)
            assert transaction.delete(b"deleted", clock)
            transaction.update(b"retimed", lambda _: Retime(NOW_MS + 5), clock, with_value=False)
            transaction.put(b"made", b"new", clock, 4, NOW_MS + 6)
            transaction.put(b"made, large", LARGE, clock)
            assert content(transaction) == after
            assert transaction.entries() == 4
            assert {finish(transaction.random_key(clock)) for _ in range(100)} == set(after)
            assert store.stats()["entries"] == len(before)
            return version

        version = store.transact(None, body, clock)
        assert content(store) == after
        found = [store.get(key, clock) for key in (b"replaced", b"retimed", b"made")]
        assert [entry and entry[:4] for entry in found] == [
            (LARGE, 3, version, 0),
            (LARGE, 2, retimed, NOW_MS + 5),
            (b"new", 4, found[2] and found[2][2], NOW_MS + 6),
        ]
        assert store.entries() == 4
        assert store.stats()["segments_free"] >= free - 12
        assert store.get(b"deleted", clock) is None


def test_each_step_sees_what_those_before_it_have_done() -> None:
    with open_store(shards=4) as store:
        store.put(b"key", b"0", clock, 7, NOW_MS + 9)
        told: list[Entry | None] = []

        def body(transaction: Transaction) -> None:
            def look() -> tuple[bytes, int, int] | None:
                entry = transaction.get(b"key", clock)
                assert transaction.get_many([b"key", b"key"], clock)[1] == entry
                told.append(transaction.update(b"key", lambda _: LEAVE, clock)[0])
                assert told[-1] == entry
                return entry and (entry[0], entry[1], entry[3])

            assert look() == (b"0", 7, NOW_MS + 9)
            transaction.update(b"key", lambda _: Retime(0), clock, with_value=False)
            assert look() == (b"0", 7, 0)
            transaction.update(b"key", lambda _: Retime(NOW_MS), clock)
            assert look() is None
            assert not transaction.delete(b"key", clock)
            assert transaction.update(b"key", lambda _: DELETE, clock) == (None, 0)
            version = transaction.put(b"key", b"1", clock, 1)
            assert look() == (b"1", 1, 0)
            before, after = transaction.update(b"key", append, clock)
            assert before is not None
            assert (before[0], before[2]) == (b"1", version)
            assert after > version
            assert transaction.update(b"key", lambda _: Retime(NOW_MS + 1), clock)[1] == after
            assert look() == (b"12", 2, NOW_MS + 1)
            assert transaction.update(b"key", lambda _: LEAVE, clock, with_value=False)[0] == (
                b"",
                2,
                after,
                NOW_MS + 1,
                0,
                0,
                b"",
            )
            assert transaction.delete(b"key", clock)
            assert look() is None
            assert transaction.update(b"key", lambda _: Retime(5), clock) == (None, 0)
            assert look() is None
            transaction.put(b"key", b"last", clock)

        store.transact([b"key"], body, clock)
        assert value_of(store, b"key") == b"last"
        assert store.entries() == 1


def test_versions_rise_with_what_is_put_and_with_nothing_else() -> None:
    with open_store(shards=1) as store:
        first = store.put(b"one", b"", clock)
        seen: list[int] = []

        def body(transaction: Transaction) -> None:
            seen.append(transaction.update(b"one", lambda _: Retime(NOW_MS + 1), clock)[1])
            seen.append(transaction.put(b"two", b"", clock))
            seen.append(transaction.put(b"two", b"x", clock))
            seen.append(transaction.put(b"three", b"", clock))

        store.transact(None, body, clock)
        assert seen[0] == first
        assert seen == sorted(set(seen))
        entries = store.get_many([b"one", b"two", b"three"], clock)
        assert [entry and entry[2] for entry in entries] == [first, seen[2], seen[3]]
        assert store.put(b"two", b"", clock) > seen[3]


def test_the_version_of_what_was_put_and_deleted_again_is_not_given_again() -> None:
    with open_store() as store:
        store.put(b"other", b"", clock)

        def body(transaction: Transaction) -> int:
            version = transaction.put(b"key", b"1", clock)
            assert transaction.delete(b"key", clock)
            return version

        version = store.transact(None, body, clock)
        assert store.put(b"key", b"2", clock) > version


def test_who_raises_has_changed_nothing() -> None:
    with open_store(shards=4, lock_wait_ms=0) as store:
        store.put(b"key", b"old", clock)
        arena = bytes(store.counts)

        def body(transaction: Transaction) -> None:
            transaction.put(b"key", LARGE, clock)
            transaction.put(b"new", LARGE, clock)
            raise ZeroDivisionError

        for keys in (None, [b"key", b"new"]):
            with pytest.raises(ZeroDivisionError):
                store.transact(keys, body, clock)
        assert bytes(store.counts) == arena
        assert store.put(b"key", b"", clock)
        assert store.stats()["repairs"] == 0


def test_what_is_a_part_of_another_one_is_all_or_none_too() -> None:
    with open_store(shards=4) as store:
        keys = [b"one", b"two", b"three"]

        def part(transaction: Transaction) -> None:
            transaction.put(b"two", b"part", clock)
            transaction.delete(b"one", clock)
            raise ZeroDivisionError

        def body(transaction: Transaction) -> None:
            transaction.put(b"one", b"1", clock)
            with pytest.raises(ZeroDivisionError):
                transaction.transact([b"one", b"two"], part, clock)
            assert transaction.get(b"two", clock) is None
            mset(transaction, {b"three": b"3"})
            assert not msetnx(transaction, {b"three": b"4", b"two": b"4"})
            with pytest.raises(StoreError, match="emptied"):
                transaction.flush()

        store.transact(keys, body, clock)
        assert content(store) == {b"one": b"1", b"three": b"3"}


def test_keys_that_were_not_told_are_a_mistake() -> None:
    with open_store(shards=64, memory_bytes=4 * MIB) as store:
        elsewhere = b"elsewhere"

        def broken(act: Callable[[Transaction], object]) -> None:
            with pytest.raises(RuntimeError, match="does not hold"):
                store.transact([b"key"], act, clock)

        broken(lambda transaction: transaction.get(elsewhere, clock))
        broken(lambda transaction: transaction.put(elsewhere, b"", clock))
        broken(lambda transaction: transaction.delete(elsewhere, clock))
        broken(lambda transaction: transaction.update(elsewhere, lambda _: LEAVE, clock))
        broken(lambda transaction: transaction.scan(0, clock, 1, 1))
        broken(lambda transaction: transaction.entries())
        broken(lambda transaction: finish(transaction.random_key(clock)))
        broken(lambda transaction: transaction.transact(None, lambda _: None, clock))
        assert store.stats()["repairs"] == 0


def test_more_than_the_store_takes_is_refused_whole() -> None:
    with open_store(shards=4) as store:
        store.put(b"key", b"old", clock)
        most = store.max_value_bytes

        def too_much(transaction: Transaction) -> None:
            for i in range(10):
                transaction.put(b"%d" % i, bytes(most // 8), clock)

        for body, error in (
            (too_much, ValueTooLong),
            (lambda transaction: transaction.put(b"key", bytes(most + 1), clock), ValueTooLong),
            (lambda transaction: transaction.put(bytes(store.max_key_bytes + 1), b"", clock), KeyTooLong),
        ):
            with pytest.raises(error, match="at most"):
                store.transact(None, body, clock)
        assert content(store) == {b"key": b"old"}

        def overwriting(transaction: Transaction) -> None:
            for i in range(10):
                transaction.put(b"key", bytes(most - i), clock)

        store.transact([b"key"], overwriting, clock)
        assert value_of(store, b"key") == bytes(most - 9)


def test_what_has_expired_is_not_there() -> None:
    now = HandClock()
    with open_store(shards=2) as store:
        store.put(b"replaced", b"old", now, deadline_ms=NOW_MS + 1)
        store.put(b"left", LARGE, now, deadline_ms=NOW_MS + 1)
        now.now_ms += 1

        def body(transaction: Transaction) -> None:
            assert transaction.get(b"left", now) is None
            assert not transaction.delete(b"left", now)
            assert transaction.update(b"replaced", lambda _: (b"new", 0, 0, b""), now)[0] is None
            assert content(transaction, now) == {b"replaced": b"new"}
            assert finish(transaction.random_key(now)) == b"replaced"

        store.transact(None, body, now)
        assert content(store, now) == {b"replaced": b"new"}
        while store.look_after(now):
            pass
        assert store.entries() == 1


def test_nothing_expires_halfway() -> None:
    now = HandClock()
    with open_store(shards=2) as store:
        store.put(b"a", b"1", now, deadline_ms=NOW_MS + 1)
        store.put(b"b", b"2", now, deadline_ms=NOW_MS + 1)

        def body(transaction: Transaction) -> None:
            assert transaction.get(b"a", now)
            now.now_ms += 1
            assert transaction.get(b"a", now)
            assert content(transaction, now) == {b"a": b"1", b"b": b"2"}
            assert transaction.delete(b"b", now)
            assert finish(transaction.random_key(now)) == b"a"
            transaction.put(b"a", b"3", now, 0, NOW_MS + 1)
            assert transaction.get(b"a", now)

        store.transact(None, body, now)
        assert content(store, now) == {}


def test_accesses_inside_count() -> None:
    with open_store() as store:
        store.put(b"key", b"", clock)
        for _ in range(2):
            store.transact([b"key"], lambda transaction: transaction.get(b"key", clock), clock)
        entry = store.get(b"key", clock)
        assert entry is not None
        assert store.counts[(entry[4] & -8) << 3 | entry[4] & 7] == 3


# -- everything ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", [lambda store: store.flush(), lambda store: finish(store.flush_in_steps())])
@pytest.mark.parametrize("count", [0, 10, 3000])
def test_a_store_that_was_emptied_has_all_its_room(count: int, flush: Callable[[Store], int]) -> None:
    with open_store(2 * MIB, shards=4) as store:
        free, pages = store.stats()["segments_free"], store.stats()["index_pages"]
        last = 0
        for _ in range(3):
            for i in range(count):
                last = max(store.put(b"%d" % i, payload(i, i % 300), clock), last)
            if count:
                store.put(b"large", LARGE, clock, deadline_ms=NOW_MS + 1)
            assert flush(store) == store.stats()["entries"] + (count + 1 if count else 0)
            assert content(store) == {}
            kept = len(list(store._segments.free_pages()))
            assert (store.stats()["segments_free"] + kept, store.stats()["index_pages"]) == (free, pages)
            assert kept <= count // 100
            assert store.check() == []
        assert store.put(b"1", b"", clock) > (last if count else 0)
        assert (store.stats()["dropped"], store.stats()["repairs"]) == (0, 0)


def test_what_is_put_between_the_steps_of_a_flush_stays_where_its_shard_is_empty() -> None:
    with open_store(2 * MIB, shards=4) as store:
        for i in range(1000):
            store.put(b"%d" % i, b"old", clock)
        steps = store.flush_in_steps()
        next(steps)
        assert 0 < store.entries() < 1000
        empty = [key for key in map(b"%d".__mod__, range(1000)) if store.get(key, clock) is None]
        store.put(empty[0], b"new", clock)
        finish(steps)
        assert content(store) == {empty[0]: b"new"}
        assert store.check() == []


# -- room ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 8])
def test_who_finds_a_full_store_makes_room_and_begins_again(shards: int) -> None:
    with open_store(2 * MIB, shards=shards) as store:
        fill_until_evicted(store, "old", lambda i: payload(i, 700))
        chance = random.Random(1)
        begun = 0
        for i in range(60):
            values = {
                b"%d" % chance.randrange(500): payload(i, chance.choice([10, 500, 9000]))
                for _ in range(chance.choice([2, 30]))
            }

            def body(transaction: Transaction, values: dict[bytes, bytes] = values) -> None:
                nonlocal begun
                begun += 1
                for key, value in values.items():
                    transaction.put(key, value, clock)

            store.transact(list(values), body, clock)
            assert {key: value_of(store, key) for key in values} == values
            assert i % 10 or store.check() == []
        assert begun > 65
        assert store.stats()["repairs"] == 0


def test_the_largest_one_finds_room() -> None:
    with open_store(4 * MIB, shards=4) as store:
        fill_until_evicted(store, "old", lambda i: payload(i, 3000))
        half = store.max_value_bytes // 2 - 100
        for i in range(6):
            values = {b"%d" % i: payload(i, half), b"%d." % i: payload(-i, half)}
            mset(store, values)
            assert {key: value_of(store, key) for key in values} == values
        values = {b"%d" % i: b"" for i in range(10_000)}
        mset(store, values)
        assert sum(value_of(store, key) is None for key in values) == 0


@pytest.mark.parametrize("size", [520, 600, 1500, 4000, 9000])
def test_room_is_made_for_what_is_written_and_not_for_a_segment_a_value(size: int) -> None:
    with open_store(shards=2) as store:
        fill_until_evicted(store, "old", lambda i: payload(i, 100))
        before = store.stats()["entries"]
        values = {b"%d" % i: payload(i, size) for i in range(100_000 // size)}
        mset(store, values)
        assert {key: value_of(store, key) for key in values} == values
        assert store.stats()["entries"] > before // 2


@pytest.mark.parametrize("size", [0, 400, 520, 3000, 9000])
def test_no_more_is_tried_than_there_is_room_for(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = 0

    def append(self: Commit, placed: Sequence[_Placed]) -> list[int]:
        nonlocal failed
        news = original(self, placed)
        failed += len(news) < len(placed)
        return news

    original = Commit._append
    monkeypatch.setattr(Commit, "_append", append)
    with open_store(shards=2) as store:
        fill_until_evicted(store, "old", lambda i: payload(i, 100))
        for i in range(min(60, 200_000 // (size + 300))):
            mset(store, {b"%d.%d" % (i, j): payload(j, size + 3 * j) for j in range(i)})
    assert failed == 0


@pytest.mark.parametrize("metadata_len", [0, 1, 255])
def test_an_entry_takes_what_is_foretold(metadata_len: int) -> None:
    """Word for word, wherever the open segment's head is, whole or in fragments."""
    with open_store(8 * MIB, shards=1) as store:
        shard = store._shards[0]
        for number in range(300):
            key, value = b"k" * (number % 190 + 1), payload(number, number * 97 % 23_000)
            content, flags = join_metadata(value, b"m" * metadata_len, 0)
            free, head = store.stats()["segments_free"], shard.open_head(main=False)
            opened, after = shard.room_for(head, key, content, flags)
            assert shard.append_entry(0, key, content, flags, 1, NOW_MS, 0, main=False)
            assert (free - store.stats()["segments_free"], shard.open_head(main=False)) == (opened, after)
        store.flush()


def test_no_room_at_all_is_said_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Eviction, "step", lambda *_: 0)
    with open_store(shards=2) as store:
        model: dict[bytes, bytes] = {}
        with pytest.raises(StoreFull):  # noqa: PT012 - whichever of them it is
            for i in range(2000):
                values = {b"%d.%d" % (i, j): payload((i, j), 700) for j in range(5)}
                mset(store, values)
                model |= values
        assert len(model) > 1000
        assert content(store) == model
        with pytest.raises(StoreFull):
            mset(store, {b"0.0": bytes(100_000), b"0.1": b""})
        assert content(store) == model
        assert store.stats()["repairs"] == 0


def test_nobody_goes_while_there_is_room() -> None:
    with open_store(shards=2) as store:
        others: dict[bytes, bytes] = {}
        while store.stats()["segments_free"] > 12:
            key = b"%d" % len(others)
            others[key] = payload(key, 400)
            store.put(key, others[key], clock)
        for i in range(3000):
            mset(store, {b"counter": b"%d" % i, b"other counter": b"%d" % i})
        assert store.stats()["evictions"] == 0
        assert {key: value_of(store, key) for key in others} == others


# -- others --------------------------------------------------------------------------------------------------


def test_of_several_exactly_one_makes_it() -> None:
    with open_store(shards=8, lock_wait_ms=20_000) as store:
        rounds = 300

        def work(me: int) -> None:
            for i in range(rounds):
                # Each names the same two keys, and one of its own between them.
                keys = [b"%d a" % i, b"%d %d" % (i, me), b"%d b" % i]
                chance.shuffle(keys)
                msetnx(store, dict.fromkeys(keys, b"%d" % me))

        chance = random.Random(1)
        pids = [start(lambda me=me: work(me)) for me in range(3)]  # type: ignore[misc]
        assert [end_of(pid) for pid in pids] == [0] * 3
        found = content(store)
        for i in range(rounds):
            winner = found[b"%d a" % i]
            assert found[b"%d b" % i] == winner
            assert [found.get(b"%d %d" % (i, me)) for me in range(3)] == [
                winner if b"%d" % me == winner else None for me in range(3)
            ]


def test_no_transfer_loses_or_makes_anything() -> None:
    """Accounts over several shards; whoever looks at all of them sees the same sum at every moment."""
    accounts = [b"account %d" % i for i in range(6)]
    with open_store(shards=4, lock_wait_ms=20_000) as store:
        mset(store, dict.fromkeys(accounts, b"100"))

        def work(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(600):
                one, other = chance.sample(accounts, 2)
                amount = chance.randrange(50)

                def body(
                    transaction: Transaction, one: bytes = one, other: bytes = other, amount: int = amount
                ) -> None:
                    for key, by in ((one, -amount), (other, amount)):
                        entry = transaction.get(key, clock)
                        assert entry is not None
                        transaction.put(key, b"%d" % (int(entry[0]) + by), clock)

                store.transact([one, other], body, clock)
                found = store.get_many(accounts, clock)
                assert sum(int(entry[0]) for entry in found if entry) == 600

        pids = [start(lambda seed=seed: work(seed)) for seed in range(3)]  # type: ignore[misc]
        assert [end_of(pid) for pid in pids] == [0] * 3


def test_pairs_are_never_seen_half_whoever_is_killed() -> None:
    """Writers set pairs over several shards; readers that look one after the other never go back in time."""
    pairs = [(b"A%d" % i, b"B%d" % i) for i in range(4)]
    with open_store(2 * MIB, shards=8, segment_bytes=4 * KIB, lock_wait_ms=20_000) as store:

        def write(seed: int) -> None:
            chance = random.Random(seed)
            while True:
                one, other = chance.choice(pairs)

                def count(transaction: Transaction, one: bytes = one, other: bytes = other) -> None:
                    entry = transaction.get(one, clock)
                    number = int(entry[0].split(b" ")[0]) + 1 if entry else 1
                    value = b"%d " % number + bytes(chance.choice([0, 300, 6000]))
                    if number % 50 == 0:
                        transaction.delete(one, clock)
                        transaction.delete(other, clock)
                        transaction.put(b"gone " + one, b"%d" % number, clock)
                    else:
                        transaction.put(one, value, clock)
                        transaction.put(other, value, clock)

                store.transact([one, other, b"gone " + one], count, clock)

        def number(entry: Entry | None) -> int:
            return int(entry[0].split(b" ")[0]) if entry else 0

        def version(entry: Entry | None) -> int:
            return entry[2] if entry else 0

        pids = [start(lambda seed=seed: write(seed)) for seed in range(3)]  # type: ignore[misc]
        chance = random.Random(99)
        together = 0
        try:
            for _ in range(60):
                for _ in range(40):
                    pair = list(chance.choice(pairs))
                    chance.shuffle(pair)
                    found = store.get_many(pair, clock)
                    assert number(found[0]) == number(found[1])
                    together += found[0] is not None
                    before = [version(store.get(key, clock)) for key in pair]
                    first, second = (store.get(key, clock) for key in pair)
                    # Nobody counts back but by beginning anew, which takes a deletion.
                    if first and second and number(second) < number(first):
                        assert version(second) > before[1]
                i = chance.randrange(len(pids))
                os.kill(pids[i], signal.SIGKILL)
                assert end_of(pids[i]) == -signal.SIGKILL
                pids[i] = start(partial(write, chance.randrange(1 << 30)))
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                assert end_of(pid) == -signal.SIGKILL
        assert together > 100
        assert store.check() == []
        assert store.stats()["dropped"] == 0


def test_a_busy_shard_is_said_and_nothing_stays_locked() -> None:
    with open_store(shards=4, lock_wait_ms=0) as store:
        keys = [b"%d" % i for i in range(20)]
        with store._guard.holding(store._shards[3]):
            with pytest.raises(StoreBusy):
                mset(store, dict.fromkeys(keys, b"value"))
            with pytest.raises(StoreBusy):
                store.flush()
        with store._redo.locked(), pytest.raises(StoreBusy):
            mset(store, {b"one": b"", b"two": b""})
        assert store.entries() == 0
        mset(store, dict.fromkeys(keys, b"value"))
        assert (store.entries(), store.stats()["repairs"]) == (20, 0)
