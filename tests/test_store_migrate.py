"""Entries that are moved into an arena of other measures: all of them, with all that belongs to them."""

from __future__ import annotations

import random
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import pytest
from kept_helpers import GEOMETRY, THEN, SameFile, reopen
from old_arena import VERSIONS, read_model, unpack
from store_helpers import KIB, MIB, NOW_MS, HandClock, clock, dies_at, open_store, payload

from fastkv.errors import KeyTooLong, StoreFull, ValueTooLong
from fastkv.store import Store
from fastkv.store.layout import LAYOUT_VERSION, SB_DROPPED
from fastkv.store.migrate import Moved, migrate
from fastkv.store.persist import Keeper, Origin, find_any
from fastkv.store.records import build_record, parse_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fastkv.store.walk import Walked


class Kept(NamedTuple):
    value: bytes
    flags: int
    deadline_ms: int
    version: int
    metadata: bytes = b""


Model = dict[bytes, Kept]


def some_key(chance: random.Random) -> bytes:
    return chance.choice([b"%d", b"\x00\xff\r\n%d", b"k" * 300 + b"%d", "schlüssel%d".encode()]) % (
        chance.randrange(400)
    )


def fill_at_random(store: Store, seed: int, longest: int = 14_000) -> Model:
    """Put, retime and delete entries of all sorts; some have expired by ``NOW_MS``, which is no loss."""
    chance = random.Random(seed)
    model: Model = {}
    for serial in range(900):
        key = some_key(chance)
        if chance.random() < 0.15:
            model.pop(key, None)
            store.delete(key, clock)
            continue
        size = chance.choice([0, 1, 60, 400, longest if serial % 20 == 0 else 90])
        deadline_ms = chance.choice([0, 0, NOW_MS - 5, NOW_MS + 5000, NOW_MS + 10**7])
        value, flags = payload((key, serial), size), chance.randrange(256)
        metadata = chance.choice([b"", b"", b"text/plain", b"m" * 255])
        version = store.put(key, value, clock, flags, deadline_ms, metadata)
        model[key] = Kept(value, flags, deadline_ms, version, metadata)
        if chance.random() < 0.3:
            for _ in range(3):
                store.get(key, lambda: 0)
    return {key: kept for key, kept in model.items() if not 0 < kept.deadline_ms <= NOW_MS}


def entries_of(store: Store, now: Callable[[], int] = clock) -> Model:
    found: Model = {}
    cursor = 0
    while True:
        entries, cursor = store.scan(cursor, now, 1 << 30, 1000)
        for key, value, flags, version, deadline_ms, metadata in entries:
            assert key not in found
            found[key] = Kept(value, flags, deadline_ms, version, metadata)
        if not cursor:
            return found


def nothing(_: int) -> None: ...


OTHERS = {
    "more memory": (3 * MIB, 2, 4 * KIB),
    "a little more": (MIB + 64 * KIB, 2, 4 * KIB),
    "more shards": (2 * MIB, 16, 4 * KIB),
    "one shard": (2 * MIB, 1, 4 * KIB),
    "larger segments": (8 * MIB, 4, 64 * KIB),
    "smaller segments": (2 * MIB, 2, 4 * KIB),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OTHERS)
def test_everything_is_moved(name: str, seed: int) -> None:
    memory_bytes, shards, segment_bytes = OTHERS[name]
    with (
        open_store(2 * MIB, shards=4, segment_bytes=8 * KIB) as old,
        open_store(memory_bytes, shards=shards, segment_bytes=segment_bytes) as new,
    ):
        model = fill_at_random(old, seed)
        assert len(model) > 100
        steps: list[int] = []
        moved = migrate(old, new, clock, steps.append)
        assert entries_of(new) == model == entries_of(old)
        assert moved == Moved(len(model), 0, moved.expired, 0)
        assert steps == sorted(steps)
        assert len(steps) >= len(model) // 64
        # What is read and written goes on: no version is given twice, large values can be replaced.
        for key, kept in model.items():
            assert new.put(key, b"new", clock) > kept.version
        for key in model:
            assert new.delete(key, clock)
        assert new.stats()["entries"] == 0


def walked(store: Store) -> Iterator[Walked]:
    for entry in store.walk():
        assert entry is not None
        yield entry


def test_accesses_and_queues_are_kept() -> None:
    with open_store(MIB, shards=2) as old, open_store(2 * MIB, shards=8) as new:
        for i in range(3000):  # until entries are promoted
            old.put(b"%d" % i, payload(i, 300), clock)
            for _ in range(i % 4):
                old.get(b"%d" % (i * 7 % (i + 1)), clock)
        migrate(old, new, clock, nothing)
        before = {entry.key: entry for entry in walked(old)}
        after = {entry.key: entry for entry in walked(new)}
        assert before == after
        assert {entry.accesses for entry in after.values()} == {0, 1, 2, 3}
        assert {entry.main for entry in after.values()} == {False, True}


def test_what_is_read_stays_where_it_becomes_smaller() -> None:
    with open_store(4 * MIB, shards=4) as old, open_store(MIB, shards=2) as new:
        for i in range(6000):
            old.put(b"%d" % i, payload(i, 300), clock)
        hot = [b"%d" % i for i in range(0, 6000, 12)]
        for _ in range(3):
            for key in hot:
                assert old.get(key, clock)
        moved = migrate(old, new, clock, nothing)
        assert moved.entries + moved.evicted == old.stats()["entries"] == 6000
        assert moved.evicted > 1000
        assert moved.entries == new.stats()["entries"]
        assert sum(new.get(key, clock) is not None for key in hot) > len(hot) * 0.95


def test_without_eviction_what_does_not_fit_ends_it() -> None:
    with open_store(4 * MIB, shards=4) as old, open_store(MIB, shards=2, evicts=False) as new:
        for i in range(6000):
            old.put(b"%d" % i, payload(i, 300), clock)
        with pytest.raises(StoreFull):
            migrate(old, new, clock, nothing)
        assert old.stats()["entries"] == 6000


def test_too_long_for_the_new_measures() -> None:
    with open_store(8 * MIB, segment_bytes=64 * KIB) as old:
        old.put(b"large", payload(1, 2 * MIB), clock)
        with open_store(4 * MIB) as new, pytest.raises(ValueTooLong, match=f"has {2 * MIB} bytes; at most"):
            migrate(old, new, clock, nothing)
        old.delete(b"large", clock)
        old.put(b"k" * 2000, b"", clock)
        with open_store(8 * MIB, segment_bytes=4 * KIB) as new, pytest.raises(KeyTooLong, match="2000 bytes"):
            migrate(old, new, clock, nothing)


def test_what_expires_meanwhile_is_left_out() -> None:
    at = HandClock()
    with open_store() as old, open_store(2 * MIB) as new:
        for i in range(200):
            old.put(b"%d" % i, b"", at, deadline_ms=NOW_MS + 1000)

        def step(_: int) -> None:
            at.now_ms += 600

        moved = migrate(old, new, at, step)
        assert moved.expired == 200 - moved.entries > 0


def test_the_newer_one_counts_where_an_arena_has_a_key_twice() -> None:
    with open_store(shards=1) as old, open_store(2 * MIB) as new:
        old.put(b"key", b"one", clock)
        (first,) = walked(old)
        old.put(b"key", b"two", clock)
        (second,) = walked(old)
        for order in ((first, second), (second, first)):
            for entry in order:
                new.restore(entry, clock)
            assert entries_of(new) == {b"key": Kept(b"two", 0, 0, second.version)}


# -- arenas in files, left in order or not ------------------------------------------------------------------


def copied(directory: SameFile) -> Store:
    return Store(0, kept=Keeper.copy(directory, find_any(directory, THEN)))


def walk_once(store: Store) -> Model:
    return {
        entry.key: Kept(entry.value, entry.flags, entry.deadline_ms, entry.version, entry.metadata)
        for entry in walked(store)
        if not 0 < entry.deadline_ms <= NOW_MS
    }


@pytest.mark.parametrize("clean", [True, False])
def test_an_arena_that_nobody_verified_is_read_as_it_is(tmp_path: Path, clean: bool) -> None:
    with closing(SameFile(tmp_path)) as directory:
        store, keeper = reopen(directory)
        model = fill_at_random(store, 1)
        if clean:
            assert store.settle(THEN)
        keeper.save_clocks(THEN)
        store.close()
        before = directory.arena_path.read_bytes()
        with closing(copied(directory)) as old:
            assert walk_once(old) == model
            assert old.unverified() == (0 if clean else 2)  # nothing was written for it
        assert directory.arena_path.read_bytes() == before


@pytest.mark.usefixtures("readable_engine")
def test_whatever_moment_a_kill_leaves_is_read(tmp_path: Path) -> None:
    """In the midst of a put, a split of a page, an eviction: each entry is there once, as it was or is."""
    with closing(SameFile(tmp_path)) as directory:
        store, _ = reopen(directory)
        for i in range(1500):
            store.put(b"%d" % i, payload(i, 100), clock)
        began = bytes(store.counts)
        seen = 0

        def some_puts() -> None:
            for i in range(2000, 2030):
                store.put(b"%d" % i, payload(i, 9000 if i % 10 == 0 else 150), clock)

        number = 1
        while dies_at(number, some_puts):
            with closing(copied(directory)) as old:
                found = [entry for entry in old.walk() if entry is not None]
                keys = {entry.key: entry.value for entry in found}
                assert len(keys) == len(found)
                sizes = {key: len(value) for key, value in keys.items()}
                for key, value in keys.items():
                    assert value == payload(int(key), sizes[key])
                old.verify()
                assert sorted(keys) == sorted(entries_of(old))
                seen += 1
            store.counts[:] = began
            number += 5003
        assert seen > 5
        store.close()


@pytest.mark.usefixtures("readable_engine")
def test_a_split_that_a_kill_has_left_half_done_is_read(tmp_path: Path) -> None:
    """Entries that stand in the old page and in the new one are there once."""
    with closing(SameFile(tmp_path)) as directory:
        store, _ = reopen(directory)
        pages, number = store.stats()["index_pages"], 0
        before = bytes(store.counts)
        while store.stats()["index_pages"] == pages:
            before = bytes(store.counts)
            number += 1
            store.put(b"%d" % number, b"", clock)
        expected = {b"%d" % i for i in range(1, number)}
        store.counts[:] = before
        seen = set()
        opcode = 1
        while dies_at(opcode, lambda: store.put(b"%d" % number, b"", clock), "index segments"):
            with closing(copied(directory)) as old:
                keys = [entry.key for entry in walked(old)]
                assert len(keys) == len(set(keys))
                assert set(keys) in (expected, expected | {b"%d" % number})
                seen.add(sum(slot != 0 for slot in old.words[old.geometry.first_segment * 512 :].tolist()))
            store.counts[:] = before
            opcode += 61
        assert len(seen) > 3
        store.close()


def test_fragments_of_another_key_are_no_value() -> None:
    with open_store() as store:
        for key in (b"one", b"two"):
            store.put(key, payload(key, 1500), clock)
        places = []
        for key in (b"one", b"two"):
            _, word = store._index.locate(store._arena.hash_of(key), key)
            places.append(store._arena.location_of(word) << 3)
        one, two = (parse_record(store._arena.mem, place) for place in places)
        before = bytes(store.counts)
        record = build_record(one[0], two[1], one[2], one[3], one[4])
        store.counts[places[0] : places[0] + len(record)] = record
        assert [entry and entry.key for entry in store.walk()].count(None) == 1
        assert [entry.key for entry in store.walk() if entry] == [b"two"]
        store.counts[:] = before
        assert {entry.key for entry in walked(store)} == {b"one", b"two"}


def test_damaged_entries_are_counted_and_left_out(tmp_path: Path) -> None:
    with closing(SameFile(tmp_path)) as directory:
        store, keeper = reopen(directory)
        model = fill_at_random(store, 2)
        keeper.save_clocks(THEN)
        store.close()
        content = bytearray(directory.arena_path.read_bytes())
        chance = random.Random(3)
        victims = [key for key in model if len(model[key].value) in (60, 14_000)][:9]
        for key in victims:
            at = content.rindex(model[key].value[-16:])
            content[at + chance.randrange(16)] ^= 1
        directory.arena_path.write_bytes(content)
        with closing(copied(directory)) as old, open_store(3 * MIB) as new:
            moved = migrate(old, new, clock, nothing)
            assert moved.damaged == len(victims)
            assert entries_of(new) == {key: kept for key, kept in model.items() if key not in victims}
            assert old.words[SB_DROPPED] == 0


def test_no_damage_makes_a_wrong_entry(tmp_path: Path) -> None:
    with closing(SameFile(tmp_path)) as directory:
        store, keeper = reopen(directory)
        model = fill_at_random(store, 4)
        keeper.save_clocks(THEN)
        store.close()
        content = directory.arena_path.read_bytes()
        chance = random.Random(5)
        tables = GEOMETRY.first_segment * GEOMETRY.segment_bytes
        found = 0
        for _ in range(60):
            damaged = bytearray(content)
            for _ in range(chance.choice([1, 4, 64])):
                damaged[chance.randrange(512, chance.choice([tables, len(content)]))] ^= chance.randrange(256)
            directory.arena_path.write_bytes(damaged)
            with closing(copied(directory)) as old, open_store(3 * MIB) as new:
                migrate(old, new, clock, nothing)
                for key, kept in entries_of(new).items():
                    if key in model:  # else deleted or expired ones that a damaged word has brought back
                        assert kept.value == model[key].value or kept.version < model[key].version
                        found += kept == model[key]
        assert found > 30 * len(model)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_version_before_has_left(tmp_path: Path, version: int, clean: bool) -> None:
    model = read_model(version)
    with closing(SameFile(tmp_path)) as directory:
        unpack(tmp_path, version, clean=clean)
        found = find_any(directory, THEN)
        assert (found.layout, found.geometry) == (version, GEOMETRY)
        assert found.outdated == (version != LAYOUT_VERSION)
        assert found.origin is (Origin.CLEAN if clean else Origin.UNVERIFIED)
        with closing(copied(directory)) as old, open_store(2 * MIB, shards=4) as new:
            assert old.check() == []
            moved = migrate(old, new, clock, nothing)
            alive = {key: kept for key, kept in model.items() if not 0 < kept.deadline_ms <= NOW_MS}
            assert moved == Moved(len(alive), 0, len(model) - len(alive), 0)
            assert {
                key: (k.value, k.flags, k.version, k.deadline_ms) for key, k in entries_of(new).items()
            } == alive
