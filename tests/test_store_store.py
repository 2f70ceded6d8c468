"""Reading and writing: the fast way agrees with the readable one, and no writer can come in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from store_helpers import (
    KIB,
    MIB,
    NOW_MS,
    SEED,
    HandClock,
    at_opcode,
    clock,
    open_store,
    payload,
    snapshot,
    value_of,
)

from fastkv.errors import KeyTooLong, StoreBusy, StoreError, ValueTooLong
from fastkv.store import Entry, Store
from fastkv.store.layout import BUCKET_BYTES, BUCKET_WORDS, COUNT_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("memory_order")


# What is put: value, flags and deadline in ms.
ENTRIES: dict[str, tuple[bytes, int, int]] = {
    "empty": (b"", 0, 0),
    "small": (b"value", 0, 0),
    "flags": (b"value", 255, 0),
    "deadline ahead": (b"value", 0, NOW_MS + 1),
    "deadline now": (b"value", 0, NOW_MS),
    "deadline passed": (b"value", 9, 1),
    "as long as a record may be": (payload("inline", 512 - 3), 1, 0),
    "one byte longer": (payload("longer", 512 - 2), 2, 0),
    "a segment": (payload("segment", 4 * KIB), 3, 0),
    "larger than a segment": (payload("larger", 10_001), 255, 0),
    "larger, with a deadline": (payload("deadline", 10_001), 4, NOW_MS + 1),
    "larger, with a passed deadline": (payload("deadline", 10_001), 4, NOW_MS),
    "the largest": (payload("largest", MIB // 4), 5, 0),
}


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_found_as_it_was_put(name: str, shards: int) -> None:
    value, flags, deadline_ms = ENTRIES[name]
    with open_store(shards=shards) as store:
        version = store.put(b"key", value, clock, flags, deadline_ms)
        entry = store.get(b"key", clock)
        if 0 < deadline_ms <= NOW_MS:
            assert entry is None
            assert not store.delete(b"key", clock)
        else:
            assert entry is not None
            assert entry[:4] == (value, flags, version, deadline_ms)
            assert store.words[entry[4]] == entry[5]
            assert store.delete(b"key", clock)
            assert store.words[entry[4]] != entry[5]
        assert store.get(b"key", clock) is None
        assert store.stats()["entries"] == 0


def test_an_entry_is_gone_from_its_deadline_on() -> None:
    now = HandClock()
    with open_store() as store:
        store.put(b"key", b"value", now, deadline_ms=NOW_MS + 2)
        for now.now_ms, there in ((NOW_MS + 1, True), (NOW_MS + 2, False), (NOW_MS + 3, False)):
            assert (store.get(b"key", now) is not None) == there
            assert (store.get(b"key", now) is not None) == there
        store.put(b"key", b"again", now)
        assert value_of(store, b"key", now) == b"again"


def test_the_clock_is_read_only_for_entries_with_a_deadline() -> None:
    def broken() -> int:
        raise AssertionError

    with open_store() as store:
        store.put(b"key", b"value", broken)
        assert value_of(store, b"key", broken) == b"value"
        assert store.get(b"absent", broken) is None
        assert store.delete(b"key", broken)
        store.put(b"key", b"value", clock, deadline_ms=NOW_MS + 1)
        with pytest.raises(AssertionError):
            store.get(b"key", broken)


def test_versions_of_a_key_rise_also_over_its_absence() -> None:
    with open_store() as store:
        versions = []
        for i in range(30):
            versions.append(store.put(b"key", payload(i, i * 300), clock))
            if i % 3 == 0:
                store.delete(b"key", clock)
        assert versions == sorted(set(versions))


def test_versions_begin_after_the_first() -> None:
    first = 1_700_000_000_000_000
    store = Store(MIB, first_version=first, seed=SEED)
    assert store.put(b"key", b"", clock) == first + 1
    assert store.check() == []
    store.close()


@pytest.mark.parametrize("over", [1, MIB])
def test_a_value_that_no_store_of_this_size_takes_is_refused(over: int) -> None:
    with open_store() as store:
        store.put(b"key", b"old", clock)
        with pytest.raises(ValueTooLong, match=str(store.max_value_bytes)):
            store.put(b"key", bytes(store.max_value_bytes + over), clock)
        assert value_of(store, b"key") == b"old"


@pytest.mark.parametrize("key_len", [1, 512, 513, 3000, 4095, 4096, 20_000, 65_535, 65_536])
@pytest.mark.parametrize("value_len", [0, 1, 5000])
def test_a_key_of_any_length_is_stored_or_refused(key_len: int, value_len: int) -> None:
    with open_store() as store:
        others = {b"%d" % i: payload(i, 200) for i in range(50)}
        for key, value in others.items():
            store.put(key, value, clock)
        key, value = payload("key", key_len), payload("value", value_len)
        try:
            store.put(key, value, clock)
        except StoreError:
            assert store.get(key, clock) is None
            assert key_len > store.geometry.segment_bytes // 8
        else:
            assert value_of(store, key) == value
        assert {key: value_of(store, key) for key in others} == others
        assert store.stats()["evictions"] == 0


def test_accesses_are_counted_up_to_a_bound() -> None:
    with open_store() as store:
        store.put(b"key", b"value", clock)
        store.put(b"large", payload("large", 9000), clock)
        for key in (b"key", b"large"):
            entry = store.get(key, clock)
            assert entry is not None
            # A bucket's first word has a byte for each of its slots.
            bucket, place = divmod(entry[4], BUCKET_WORDS)
            counts = [store.counts[bucket * BUCKET_BYTES + place]]
            for _ in range(COUNT_MAX):
                store.get(key, clock)
                counts.append(store.counts[bucket * BUCKET_BYTES + place])
            assert counts == [*range(1, COUNT_MAX + 1), COUNT_MAX]


# -- whatever happens in the middle of a read ---------------------------------------------------------------


class Disturbance(NamedTuple):
    """What another process does while a key is read.

    Attributes:
        prepare: brings the store to where it starts; returns the key.
        disturb: what is done to the key.
        allowed: what the reader may find; None for a miss.
    """

    prepare: Callable[[Store], bytes]
    disturb: Callable[[Store, bytes], object]
    allowed: set[bytes | None]


def turned_over(size: int) -> list[bytes]:
    """Values that differ in length, so that no record lies where one of the same key lay before."""
    return [(b"%d." % i * size)[: size + i % 7 * 11] for i in range(max(4, 20_000 // (size + 50)))]


def overwrite(size: int) -> Callable[[Store, bytes], object]:
    def act(store: Store, key: bytes) -> None:
        for value in turned_over(size):
            store.put(key, value, clock)
            store.put(b"other", value[::-1], clock)

    return act


def hardest_to_find(store: Store) -> bytes:
    """A key that does not stand where it is looked for first: to read it takes the most steps."""
    steps: dict[bytes, int] = {}
    for i in range(40):
        key = b"key%d" % i
        store.put(key, b"old", clock)
        steps[key] = at_opcode(0, clock, lambda key=key: store.get(key, clock))  # type: ignore[misc]
        store.delete(key, clock)
    assert len(set(steps.values())) > 1
    return max(steps, key=lambda key: steps[key])


def nearly_full(size: int, *, hard: bool) -> Callable[[Store], bytes]:
    """Little is free, so segments come back soon, and the key lies in one that holds nothing else."""

    def act(store: Store) -> bytes:
        i = 0
        while store.stats()["segments_free"] > 6 + size // 1000:
            store.put(b"%d" % i, payload(i, 3000), clock)
            i += 1
        key = hardest_to_find(store) if hard else b"key"
        overwrite(size)(store, key)
        store.delete(b"other", clock)
        return key

    return act


def put_old(store: Store, key: bytes = b"key") -> bytes:
    store.put(key, b"old", clock)
    return key


def about_to_split(store: Store) -> bytes:
    put_old(store)
    pages, i = store.stats()["index_pages"], 0
    while store.stats()["index_pages"] == pages:
        restore = snapshot(store)
        store.put(b"%d" % i, b"", clock)
        i += 1
    restore()
    return b"key"


def split(store: Store, key: bytes) -> None:
    for i in range(100):
        store.put(b"new %d" % i, b"", clock)


def full(store: Store) -> bytes:
    """Who is evicted first is the key."""
    put_old(store)
    i = 0
    while True:
        restore = snapshot(store)
        store.put(b"%d" % i, payload(i, 3000), clock)
        i += 1
        if store.stats()["evictions"]:
            restore()
            return b"key"


def evict(store: Store, key: bytes) -> None:
    for i in range(12):
        store.put(b"new %d" % i, payload(i, 3000), clock)


DISTURBANCES: dict[str, Disturbance] = {
    "overwritten once": Disturbance(
        put_old, lambda store, key: store.put(key, b"new", clock), {b"old", b"new"}
    ),
    "deleted": Disturbance(put_old, lambda store, key: store.delete(key, clock), {b"old", None}),
    "put": Disturbance(lambda store: b"key", put_old, {b"old", None}),
    "small, its segment used again": Disturbance(
        nearly_full(57, hard=False), overwrite(57), {*turned_over(57)}
    ),
    "medium, its segment used again": Disturbance(
        nearly_full(420, hard=False), overwrite(420), {*turned_over(420)}
    ),
    "medium, elsewhere, its segment used again": Disturbance(
        nearly_full(420, hard=True), overwrite(420), {*turned_over(420)}
    ),
    "large, its segments used again": Disturbance(
        nearly_full(7000, hard=False), overwrite(7000), {*turned_over(7000)}
    ),
    "large, elsewhere, its segments used again": Disturbance(
        nearly_full(7000, hard=True), overwrite(7000), {*turned_over(7000)}
    ),
    "its page split": Disturbance(about_to_split, split, {b"old"}),
    "evicted": Disturbance(full, evict, {b"old", None}),
}


@pytest.mark.usefixtures("readable_engine")
@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_reader_that_is_disturbed_at_any_point_finds_the_truth(name: str) -> None:
    prepare, disturb, allowed = DISTURBANCES[name]
    with open_store(lock_wait_ms=1) as store:
        key = prepare(store)
        restore = snapshot(store)
        found: list[Entry | None] = []
        busy = 0

        def disturb_or_wait() -> None:
            nonlocal busy
            try:
                disturb(store, key)
            except StoreBusy:  # the reader itself holds the lock
                busy += 1

        at = count = 1
        while at <= count:
            count = at_opcode(at, disturb_or_wait, lambda: found.append(store.get(key, clock)))
            assert (found[-1] and found[-1][0]) in allowed, f"opcode {at} of {count}"
            if at % 32 == 0:
                assert store.check() == []
            restore()
            at += 1
        assert at > 50
        assert busy <= at // 2


@pytest.mark.parametrize("segment_bytes", [4 * KIB, 64 * KIB, 256 * KIB])
def test_the_longest_key_is_taken(segment_bytes: int) -> None:
    with open_store(4 * MIB, segment_bytes=segment_bytes) as store:
        key = bytes(store.max_key_bytes)
        for value in (b"", b"value", payload("large", 300_000)):
            for deadline_ms in (0, NOW_MS + 1):
                assert store.put(key, value, clock, 7, deadline_ms)
                assert value_of(store, key) == value
        with pytest.raises(KeyTooLong):
            store.put(key + b"x", b"", clock)
        assert store.stats()["repairs"] == 0
        assert store.delete(key, clock)
