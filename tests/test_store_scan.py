"""Walking through all entries: whoever is there all the time is met, whatever the others do meanwhile."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_helpers import (
    KIB,
    MIB,
    NOW_MS,
    SEED,
    HandClock,
    at_opcode,
    clock,
    dies_at,
    fill_until_evicted,
    open_store,
    payload,
    snapshot,
    start,
)

from fastkv.errors import WrongCursor
from fastkv.store import Scanned, Store, records
from fastkv.store.layout import count_at
from fastkv.store.scan import ENTRY_OVERHEAD, Scanner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = [0, 1, 100, 500, 513, 4096, 70_000]
PAGE_BYTES, PAGE_ENTRIES = 64 * KIB, 100


def pages(
    store: Store,
    limit_bytes: int = PAGE_BYTES,
    limit_entries: int = PAGE_ENTRIES,
    now: Callable[[], int] = clock,
) -> Iterator[list[Scanned]]:
    """Every page of a walk by a client that keeps the cursor in a double, and writes it as Lua does."""
    cursor = 0
    while True:
        entries, cursor = store.scan(cursor, now, limit_bytes, limit_entries)
        yield entries
        if not cursor:
            return
        cursor = int(f"{float(cursor):.14g}")


def walk(store: Store, now: Callable[[], int] = clock) -> list[Scanned]:
    """All that a walk finds."""
    return [entry for page in pages(store, now=now) for entry in page]


def fill(store: Store, count: int, name: bytes = b"key") -> dict[bytes, bytes]:
    """Put small entries with names of their own."""
    model = {b"%b%d" % (name, i): b"value of %b%d" % (name, i) for i in range(count)}
    for key, value in model.items():
        store.put(key, value, clock)
    return model


# -- nobody else there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shards", "segment_bytes"), [(1, 4 * KIB), (8, 4 * KIB), (2, 64 * KIB)])
@pytest.mark.parametrize(("limit_bytes", "limit_entries"), [(MIB, 1000), (2000, 1000), (MIB, 7), (1, 1)])
def test_everything_is_found_once(
    shards: int, segment_bytes: int, limit_bytes: int, limit_entries: int
) -> None:
    with open_store(4 * MIB, shards=shards, segment_bytes=segment_bytes) as store:
        model: dict[bytes, Scanned] = {}
        for i in range(1500):
            size = SIZES[i % len(SIZES)] if i < 70 else i % 50
            key, value, deadline_ms = b"%d\xff\x00" % i, payload(i, size), i % 3 and NOW_MS + i
            metadata = b"m" * (i % 7 * 42)
            version = store.put(key, value, clock, i % 256, deadline_ms, metadata)
            model[key] = key, value, i % 256, version, deadline_ms, metadata
        assert store.stats()["evictions"] == 0
        found = []
        for page in pages(store, limit_bytes, limit_entries):
            assert len(page) <= limit_entries
            total = sum(
                ENTRY_OVERHEAD + sum(map(len, (key, value, metadata))) for key, value, *_, metadata in page
            )
            assert total <= limit_bytes or len(page) == 1
            found += page
        assert sorted(found) == sorted(model.values())


@pytest.mark.parametrize("limit_entries", [1, 7, 1000])
def test_keys_are_found_as_entries_are(limit_entries: int) -> None:
    with open_store(4 * MIB, shards=2) as store:
        for i in range(300):
            store.put(
                b"%d\xff\x00" % i, payload(i, SIZES[i % len(SIZES)]), clock, i % 256, i % 3 and NOW_MS + i
            )
        entries, found, cursor = walk(store), list[bytes](), 0
        while cursor or not found:
            page = store.scan_keys(cursor, clock, PAGE_BYTES, limit_entries)
            assert page.met == len(page.found) <= limit_entries
            found += page.found
            cursor = page.cursor
        assert found == [key for key, *_ in entries]


@pytest.mark.usefixtures("readable_engine")
def test_a_key_is_moved_or_replaced_at_each_moment() -> None:
    """No key is found that never was one, whatever becomes of the bytes that it is copied from."""
    with open_store() as store:
        keys = [b"%d" % i * 20 for i in range(1, 6)]
        for key in keys:
            store.put(key, payload(key, 600), clock)
        restore = snapshot(store)

        def disturb() -> None:
            for key in keys[::2]:
                store.delete(key, clock)
            fill_until_evicted(store, "crowd", lambda _: bytes(300))

        found: list[bytes] = []

        def look() -> None:
            found[:] = store.scan_keys(0, clock, MIB, 10_000).found

        opcodes = at_opcode(0, disturb, look, "scan")
        for number in range(1, opcodes + 1, opcodes // 15):
            restore()
            at_opcode(number, disturb, look, "scan")
            assert {key for key in found if not key.startswith(b"crowd")} <= set(keys), number


def test_what_is_no_key_of_its_slot_is_left_out() -> None:
    with open_store() as store:
        store.put(b"a key", b"value", clock)
        store.put(b"other", b"value", clock)
        store.counts[store._arena.mem.find(b"a key")] ^= 1
        assert store.scan_keys(0, clock, MIB, 10).found == [b"other"]
        store.counts[store._arena.mem.find(b"` key")] ^= 1


def test_an_empty_store_is_looked_through_in_bounded_steps() -> None:
    with open_store(64 * MIB, shards=32, segment_bytes=64 * KIB) as store:
        for shard in range(32):  # as an entry leaves it that was read and removed: no entry, and not blank
            store.counts[(store._index.directory[shard << store.geometry.directory_bits] << 3) + 1] = 1
        looked = list(pages(store))
        assert looked == [[]] * (32 * 8192 // 32_768)


def test_pages_that_hold_nothing_are_passed_at_once() -> None:
    with open_store(128 * MIB, shards=256, segment_bytes=64 * KIB) as store:
        store.put(b"key", b"value", clock)
        steps = 255 * 8192 // 2048 + 8192 // 256
        assert sorted(map(len, pages(store))) == [0] * (steps // 128) + [1]


@pytest.mark.parametrize("limit_entries", [1, 3, 10])
def test_cursors_of_a_small_store_are_small(limit_entries: int) -> None:
    with open_store(64 * MIB, shards=1024, segment_bytes=4 * KIB) as store:
        model = fill(store, 20)
        found, cursor, largest = set[bytes](), 0, 0
        while cursor or not found:
            entries, cursor = store.scan(cursor, clock, MIB, limit_entries)
            found |= {key for key, *_ in entries}
            largest = max(largest, cursor)
        assert found == model.keys()
        assert largest < 1024 << 11


def test_who_is_past_the_deadline_is_left_out() -> None:
    with open_store() as store:
        now = HandClock()
        for i in range(20):
            store.put(b"%d" % i, payload(i, SIZES[i % 7]), now, 0, NOW_MS + i)
        now.now_ms += 10
        assert {key for key, *_ in walk(store, now)} == {b"%d" % i for i in range(11, 20)}
        assert store.stats()["entries"] == 20


def test_a_walk_is_no_access() -> None:
    with open_store() as store:
        fill(store, 50)
        walk(store)
        for i in range(50):
            entry = store.get(b"key%d" % i, clock)
            assert entry is not None
            assert store.counts[count_at(entry[4])] == 1  # of ``find``


@pytest.mark.parametrize("cursor", [-1, 1, 2047, 1 << 53, 1 << 63, 1 << 200])
def test_a_cursor_that_is_none(cursor: int) -> None:
    with open_store() as store, pytest.raises(WrongCursor, match="none of this store's"):
        store.scan(cursor, clock, MIB, 10)


def test_every_bit_of_a_cursor_may_be_wrong() -> None:
    with open_store(2 * MIB, shards=2) as store:
        model = fill(store, 3000)
        _, cursor = store.scan(0, clock, MIB, 2000)
        for bit in range(70):
            with suppress(WrongCursor):
                entries, _ = store.scan(cursor ^ 1 << bit, clock, MIB, 10)
                assert all(model[key] == value for key, value, *_ in entries)


def test_the_cursor_of_another_store_is_refused() -> None:
    with open_store() as one:
        fill(one, 100)
        _, cursor = one.scan(0, clock, MIB, 10)
        for other in (Store(MIB, shards=1, segment_bytes=4 * KIB), Store(MIB, shards=2, seed=SEED)):
            with pytest.raises(WrongCursor, match="none of this store's"):
                other.scan(cursor, clock, MIB, 10)
            other.close()


# -- others write --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("readable_engine")
def test_a_page_is_split_at_each_moment_of_a_walk() -> None:
    """The whole of a walk, and before each of its opcodes, some between others, the pages split in two."""
    with open_store(4 * MIB) as store:
        stay = fill(store, 700)
        restore = snapshot(store)

        def grow() -> None:
            depth = store.stats()["index_pages"]
            for i in range(100_000):
                if store.stats()["index_pages"] > 2 * depth:
                    return
                store.put(b"other%d" % i, b"", clock)

        found: list[Scanned] = []

        def look() -> None:
            found[:] = [entry for page in pages(store, limit_entries=150) for entry in page]

        opcodes = at_opcode(0, grow, look, "scan")
        for number in [*range(1, 700, 29), *range(700, opcodes, opcodes // 30)]:
            restore()
            before = store.stats()["index_pages"]
            at_opcode(number, grow, look, "scan")
            assert store.stats()["index_pages"] > 2 * before
            assert store.stats()["evictions"] == 0
            assert stay.items() <= {key: value for key, value, *_ in found}.items(), number


@pytest.mark.usefixtures("readable_engine")
@pytest.mark.parametrize("crowded", [True, False])
def test_an_entry_is_moved_or_replaced_at_each_moment(crowded: bool) -> None:
    """What is returned is what was there, at one time, even if it is large and its fragments are reused."""
    with open_store() as store:
        model = {b"small": [b"0" * 50], b"large": [payload(0, 40_000)], b"other": [b"0" * 600]}
        for key, values in model.items():
            store.put(key, values[0], clock)
        restore = snapshot(store)

        def disturb() -> None:
            for i in range(4):
                for key, values in model.items():
                    values.append(payload(f"{key!r}{i}", len(values[0]) - i))
                    store.put(key, values[-1], clock)
            if crowded:
                fill_until_evicted(store, "crowd", lambda _: bytes(300))

        found: list[Scanned] = []

        def look() -> None:
            found[:] = walk(store)

        opcodes = at_opcode(0, disturb, look, "scan records")
        for number in range(1, opcodes + 1, opcodes // (20 if crowded else 300)):
            restore()
            for values in model.values():
                del values[1:]
            at_opcode(number, disturb, look, "scan records")
            assert crowded or {key for key, *_ in found} == model.keys()
            for key, value, *_ in found:
                assert not key.startswith(b"key")
                assert key not in model or value in model[key], (number, key)


@pytest.mark.usefixtures("readable_engine")
def test_a_slot_that_never_holds_still_is_read_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store() as store:
        store.put(b"busy", b"0", clock)
        versions: list[int] = []
        copy = Scanner._whole_record

        def overwrite(scanner: Scanner, at: int) -> tuple[bytes, bytes, int, int, int]:
            record = copy(scanner, at)
            lock = store._shards[0].lock
            if not lock.attempt():
                lock.release()
                versions.append(store.put(b"busy", b"%d" % len(versions), clock))
            return record

        monkeypatch.setattr(Scanner, "_whole_record", overwrite)
        assert [entry[3] for entry in walk(store)] == versions[-1:]
        assert len(versions) > 1


@pytest.mark.usefixtures("readable_engine")
@pytest.mark.parametrize("number", [1, 50, 200, 400, 800])
def test_a_split_is_finished_for_a_process_that_died_in_it(number: int) -> None:
    with open_store(2 * MIB) as store:
        stay = fill(store, 200)

        def grow() -> None:
            for i in range(2000):
                store.put(b"other%d" % i, b"", clock)

        assert dies_at(number, grow, "index.split")
        assert stay.items() <= {key: value for key, value, *_ in walk(store)}.items()
        assert store.stats()["repairs"] == 1


def test_a_damaged_record_is_left_out() -> None:
    with open_store() as store:
        keys = {b"a": 10, b"b": 1000, b"c": 30_000}
        for key, size in keys.items():
            store.put(key, payload(key, size), clock)
        for victim, size in keys.items():
            at = store._arena.mem.find(payload(victim, size)[:10])
            store.counts[at + 5] ^= 1
            assert {key for key, *_ in walk(store)} == keys.keys() - {victim}
            store.counts[at + 5] ^= 1
        assert {key for key, *_ in walk(store)} == keys.keys()
        assert store.stats()["repairs"] == 0


def test_a_word_that_leads_elsewhere_is_left_out() -> None:
    with open_store() as store:
        for key in (b"a", b"b"):
            store.put(key, key * 20, clock)
        one, other = (store.get(key, clock) for key in (b"a", b"b"))
        assert one is not None
        assert other is not None
        location = (1 << store.geometry.location_bits) - 1
        for wrong in (one[5] & ~location | other[5] & location, one[5] | location):
            store.words[one[4]] = wrong
            assert {key for key, *_ in walk(store)} == {b"b"}
        store.words[one[4]] = one[5]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3000), st.sampled_from(SIZES[:6])),
        st.tuples(st.just("delete"), st.integers(0, 3000), st.just(0)),
        st.tuples(st.just("crowd"), st.integers(1, 1000), st.sampled_from([0, 0, 20, 400, 3000])),
        st.tuples(st.just("scan"), st.integers(1, 300), st.sampled_from([1, 3000, 40_000, 40_000])),
        st.tuples(st.just("scan"), st.integers(100, 300), st.just(40_000)),
    ),
    max_size=40,
)


@pytest.mark.parametrize(("shards", "segment_bytes"), [(1, 4 * KIB), (4, 4 * KIB), (1, 16 * KIB)])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2500), OPERATIONS)
def test_whoever_is_there_all_the_time_is_found(
    shards: int, segment_bytes: int, many: int, operations: list[tuple[str, int, int]]
) -> None:
    store = Store(MIB, shards=shards, segment_bytes=segment_bytes, seed=SEED)
    written = {key: {value} for key, value in fill(store, many, b"").items()}
    before = {key: store.get(key, clock) for key in written}
    found: dict[bytes, bytes] = {}
    cursor, crowd, over = 0, 0, False

    def look(limit_bytes: int, limit_entries: int) -> None:
        nonlocal cursor, over
        if over:
            return
        entries, cursor = store.scan(cursor, clock, limit_bytes, limit_entries)
        over = not cursor
        for key, value, *_ in entries:
            assert value in written[key]
            found[key] = value

    for name, number, size in operations:
        if name == "put":
            written.setdefault(b"%d" % number, set()).add(payload(number, size))
            store.put(b"%d" % number, payload(number, size), clock)
        elif name == "delete":
            store.delete(b"%d" % number, clock)
        elif name == "crowd":
            for _ in range(min(number, 200_000 // (size + 1))):
                crowd += 1
                written[b"crowd%d" % crowd] = {bytes(size)}
                store.put(b"crowd%d" % crowd, bytes(size), clock)
        else:
            look(size, number)
    while not over:
        look(40_000, 300)
    for key, entry in before.items():
        after = store.get(key, clock)
        if entry and after and entry[2] == after[2]:  # neither evicted nor touched
            assert found[key] == entry[0]
    assert store.check() == []
    store.close()


@pytest.mark.usefixtures("memory_order")
@pytest.mark.parametrize("shards", [1, 4])
def test_other_processes_write_split_and_evict(shards: int) -> None:
    with open_store(4 * MIB, shards=shards, lock_wait_ms=20_000) as store:
        stay = fill(store, 300, b"stay")
        large = payload("large", 100_000)
        store.put(b"large", large, clock)

        def write(seed: int) -> None:
            chance = random.Random(seed)
            for i in range(12_000):
                key = b"%d/%d" % (seed, i)
                store.put(key, key * chance.choice([1, 1, 3, 200]), clock)
                store.delete(b"%d/%d" % (seed, i // 2), clock)
                if i % 50 == 0:  # who is read is not evicted
                    store.put(b"large", large, clock)
                    for name in stay:
                        store.get(name, clock)

        left = {start(lambda: write(1)), start(lambda: write(2))}
        kept = walks = 0
        while left:
            before = {key: store.get(key, clock) for key in stay}
            found: dict[bytes, bytes] = {}
            for key, value, *_ in walk(store):
                assert stay.get(key, value) == value
                assert value == large if key == b"large" else not value.replace(key, b"") or key in stay
                found[key] = value
            walks += 1
            for key, entry in before.items():
                after = store.get(key, clock)
                if entry and after and entry[2] == after[2]:
                    kept += 1
                    assert key in found
            for pid in list(left):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    assert status == 0
                    left.remove(pid)
        assert kept > 100 * walks
        assert store.stats()["index_pages"] > 2 * shards
        assert store.stats()["evictions"] > 0
        assert {key for key, *_ in walk(store)} > {b"large"}


@pytest.mark.usefixtures("readable_engine")
def test_a_call_looks_at_a_bounded_number_of_entries_whose_deadlines_have_passed() -> None:
    with open_store(4 * MIB, shards=1) as store:
        for i in range(10_000):
            store.put(b"gone %d" % i, b"", clock, deadline_ms=clock() + 1)
        for i in range(10):
            store.put(b"%d" % i, b"", clock)
        looks, cursor, calls = 0, 0, 0
        found: set[bytes] = set()
        unpack = records.unpack_head

        def later() -> int:
            return clock() + 1

        def counting(mem: Any, at: int) -> Any:
            nonlocal looks
            looks += 1
            return unpack(mem, at)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("fastkv.store.scan.unpack_head", counting)
            while calls == 0 or cursor:
                looks, calls = 0, calls + 1
                page = store.scan_keys(cursor, later, 1 << 20, 256)
                found.update(page.found)
                cursor = page.cursor
                assert looks <= 1024 + 896
        assert found == {b"%d" % i for i in range(10)}
        assert calls > 5
