"""The engine's contract, for each implementation of it; and the order of stores that it promises."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_helpers import (
    MIB,
    NOW_MS,
    SEED,
    HandClock,
    always,
    at_opcode,
    clock,
    end_of,
    entry_at_the_end,
    open_store,
    payload,
    snapshot,
    start,
    value_of,
)
from test_store_lock import elsewhere, hold
from xxhash import xxh3_64_intdigest

from fastkv import core
from fastkv.errors import KeyTooLong, StoreBusy, StoreFull, ValueTooLong
from fastkv.store.layout import (
    COUNT_MAX,
    SEG_DEAD,
    SEG_HEAD,
    SH_ENTRIES,
    SH_OPEN,
    SH_VERSION,
    TAG_MASK,
    count_at,
)
from fastkv.store.records import MAX_METADATA_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store import Store


def readable_engine_of(store: Store) -> Any:
    """The operations in Python."""
    many: Any = store.get_many.__self__  # type: ignore[attr-defined]
    return operations(store.readable, getattr(many, "readable", many))


def compiled_engine_of(store: Store) -> Any:
    """The compiled operations."""
    return operations(store.engine, store)


def operations(engine: Any, many: Any) -> Any:
    """Those of an engine, and the reading of several keys."""
    return SimpleNamespace(get=engine.get, put=engine.put, delete=engine.delete, get_many=many.get_many)


# From a store to the engine that is tested.
IMPLEMENTATIONS: dict[str, Callable[[Store], Any]] = {"readable": readable_engine_of}
if core.COMPILED:
    IMPLEMENTATIONS["compiled"] = compiled_engine_of

# Lengths around what a record holds itself, and around what a hash or a comparison treats in one piece.
KEY_LENGTHS = [*range(1, 70), 127, 128, 129, 239, 240, 241, 254, 255, 256, 257, 900, 1024]
VALUE_LENGTHS = [*range(20), 63, 64, 480, 481, 490, 500, 511, 512, 513, 3000, 4096, 9000]


@pytest.fixture(params=IMPLEMENTATIONS)
def engine_of(request: pytest.FixtureRequest) -> Callable[[Store], Any]:
    """From a store to the engine over its arena that is tested."""
    return IMPLEMENTATIONS[request.param]


def values(engine: Any, keys: list[bytes]) -> list[bytes | None]:
    """What ``get`` finds, which must be what ``get_many`` finds."""
    found = [engine.get(key, clock) for key in keys]
    assert engine.get_many(keys, clock) == found
    return [entry and entry[0] for entry in found]


def dies_with_the_lock(store: Store) -> None:
    """A process that ends while it has the lock of the first shard."""
    assert end_of(start(store.readable.locks[0].attempt)) == 0


class TestEngine:
    """What every engine does."""

    def test_keys_of_every_length_are_found_and_none_is_taken_for_another(
        self, engine_of: Callable[[Store], Any]
    ) -> None:
        with open_store(4 * MIB, shards=2) as store:
            engine = engine_of(store)
            for length in KEY_LENGTHS:
                assert engine.put(b"k" * length, payload(length, 50), clock, length & 255)
            keys = [letter * length for length in range(1, 1025) for letter in (b"k", b"x")]
            assert values(engine, keys) == [
                payload(len(key), 50) if key[:1] == b"k" and len(key) in KEY_LENGTHS else None for key in keys
            ]

    def test_an_entry_is_missing_only_where_it_had_expired_when_its_word_was_seen_last(
        self, engine_of: Callable[[Store], Any]
    ) -> None:
        with open_store() as store:
            engine = engine_of(store)
            engine.put(b"key", b"old", clock, 0, NOW_MS)

            def late() -> int:
                """Another process replaces the entry while the clock is read."""
                store.readable.put(b"key", b"new", clock)
                return NOW_MS

            entry = engine.get(b"key", late)
            assert entry is not None
            assert entry[0] == b"new"

    @pytest.mark.parametrize("metadata", [b"", b"m", b"m" * MAX_METADATA_BYTES])
    @pytest.mark.parametrize("deadline_ms", [0, NOW_MS + 1])
    def test_values_of_every_length_come_back_with_all_that_belongs_to_them(
        self, engine_of: Callable[[Store], Any], deadline_ms: int, metadata: bytes
    ) -> None:
        with open_store(4 * MIB) as store:
            engine = engine_of(store)
            for length in VALUE_LENGTHS:
                key, value = b"%d" % length, payload(length, length)
                version = engine.put(key, value, clock, length & 255, deadline_ms, metadata)
                entry = engine.get(key, clock)
                assert entry is not None
                assert entry[:4] == (value, length & 255, version, deadline_ms)
                assert (store.words[entry[4]], metadata) == entry[5:]
                assert engine.get_many([key, b"absent", key], clock) == [entry, None, entry]

    @pytest.mark.parametrize("metadata", [b"", b"m", b"m" * 255])
    @pytest.mark.parametrize("deadline_ms", [0, NOW_MS + 1, NOW_MS - 1])
    @pytest.mark.parametrize("size", [0, 60, 480, 9000])
    def test_whatever_it_replaces_is_discounted(
        self, engine_of: Callable[[Store], Any], size: int, deadline_ms: int, metadata: bytes
    ) -> None:
        with open_store() as store:
            engine = engine_of(store)
            for number in range(3):
                first = engine.put(b"key", payload(number, size), clock, 7, deadline_ms, metadata)
                assert store.check() == []
                assert engine.put(b"key", b"value", clock) == first + 1
                assert store.check() == []
            assert values(engine, [b"key"]) == [b"value"]
            assert store.stats()["entries"] == 1

    def test_an_access_is_counted_up_to_the_most(self, engine_of: Callable[[Store], Any]) -> None:
        with open_store() as store:
            engine = engine_of(store)
            engine.put(b"key", b"value", clock)
            entry = engine.get(b"key", clock)
            assert entry is not None
            counted = [store.counts[count_at(entry[4])]]
            for _ in range(4):
                engine.get_many([b"key"], clock)
                counted.append(store.counts[count_at(entry[4])])
            assert counted == [1, 2, 3, COUNT_MAX, COUNT_MAX]

    def test_a_record_of_the_same_tag_is_not_the_keys(self, engine_of: Callable[[Store], Any]) -> None:
        """Where it lies, at the end of the arena, there are fewer bytes than the key has."""
        with open_store() as store:
            engine = engine_of(store)
            key_hash, key = entry_at_the_end(store)
            entry = engine.get(key, clock)
            assert entry is not None
            other = next(
                name
                for name in (b"%0200d" % number for number in range(50_000_000))
                if not (key_hash ^ xxh3_64_intdigest(name, SEED)) & TAG_MASK
                and entry[4] & -8 in store._index.buckets(xxh3_64_intdigest(name, SEED))
            )
            assert values(engine, [other, key]) == [None, b"v"]
            assert not engine.delete(other, clock)
            assert engine.put(other, b"other", clock)
            assert values(engine, [other, key]) == [b"other", b"v"]
            assert store.stats()["repairs"] == 0

    @pytest.mark.parametrize(
        ("keys", "value_bytes", "evicts"),
        [(500, 8, False), (500, 400, False), (20_000, 8, False), (20_000, 64, True), (20_000, 400, True)],
    )
    def test_puts_split_clean_and_evict(
        self, engine_of: Callable[[Store], Any], keys: int, value_bytes: int, evicts: bool
    ) -> None:
        with open_store(shards=4) as store:
            engine = engine_of(store)
            model: dict[bytes, bytes] = {}
            for number in range(12_000):
                key = b"%d" % (number * 7919 % keys)
                model[key] = payload(number % 50, value_bytes)
                assert engine.put(key, model[key], clock, number % 3)
            stats = store.stats()
            assert (stats["evictions"] > 0) == evicts
            found = values(engine, list(model))
            assert all(value in (None, model[key]) for key, value in zip(model, found, strict=True))
            assert sum(value is not None for value in found) == stats["entries"]
            assert stats["entries"] == len(model) - stats["evictions"]

    def test_a_full_store_that_may_not_evict_takes_only_what_it_has(
        self, engine_of: Callable[[Store], Any]
    ) -> None:
        with open_store(evicts=False) as store:
            engine, number = engine_of(store), 0
            with suppress(StoreFull):
                while engine.put(b"%d" % number, b"value", clock):
                    number += 1
            refused = b"%d" % number  # another key's shard may still have room
            with pytest.raises(StoreFull):
                engine.put(refused, b"value", clock)
            assert engine.put(b"1", b"other", clock)
            assert values(engine, [b"1", b"2", refused]) == [b"other", b"value", None]

    def test_what_is_too_long_is_refused_and_nothing_changes(self, engine_of: Callable[[Store], Any]) -> None:
        with open_store() as store:
            engine, before = engine_of(store), bytes(store.counts)
            with pytest.raises(KeyTooLong):
                engine.put(bytes(store.max_key_bytes + 1), b"", clock)
            with pytest.raises(ValueTooLong):
                engine.put(b"k", bytes(store.max_value_bytes + 1), clock)
            with pytest.raises(ValueError, match="metadata of 256 bytes"):
                engine.put(b"k", b"v", clock, metadata=bytes(MAX_METADATA_BYTES + 1))
            assert bytes(store.counts) == before

    def test_what_has_expired_is_a_miss_and_deleting_it_counts_it(
        self, engine_of: Callable[[Store], Any]
    ) -> None:
        now = HandClock()
        with open_store() as store:
            engine = engine_of(store)
            for key in (b"get", b"delete", b"put"):
                engine.put(key, b"value", now, deadline_ms=NOW_MS + 1)
            assert [entry and entry[0] for entry in engine.get_many([b"get"], now)] == [b"value"]
            now.now_ms += 1
            assert engine.get(b"get", now) is None
            assert engine.get_many([b"get", b"put"], now) == [None, None]
            assert not engine.delete(b"delete", now)
            assert (store.stats()["expired"], store.stats()["entries"]) == (1, 2)
            assert engine.put(b"put", b"new", now)
            assert value_of(store, b"put", now) == b"new"
            assert not engine.delete(b"absent", now)

    def test_nothing_is_believed_without_the_lock_while_the_sequence_is_odd(
        self, engine_of: Callable[[Store], Any]
    ) -> None:
        with open_store(lock_wait_ms=1) as store:
            engine = engine_of(store)
            engine.put(b"there", b"value", clock)
            at = store.geometry.sequences_at
            even, store.words[at] = store.words[at], 3
            with elsewhere(hold(store.readable.locks[0])):
                for read in (engine.get, lambda key, now: engine.get_many([key], now)):
                    with pytest.raises(StoreBusy):
                        read(b"absent", clock)
            assert values(engine, [b"absent", b"there"]) == [None, b"value"]
            store.words[at] = even
            with elsewhere(hold(store.readable.locks[0])):
                assert engine.get(b"absent", clock) is None

    def test_a_busy_shard_is_said_by_what_writes(self, engine_of: Callable[[Store], Any]) -> None:
        with open_store(lock_wait_ms=1) as store:
            engine = engine_of(store)
            engine.put(b"key", b"value", clock)
            before = bytes(store.counts)
            with elsewhere(hold(store.readable.locks[0])):
                with pytest.raises(StoreBusy):
                    engine.put(b"key", b"other", clock)
                with pytest.raises(StoreBusy):
                    engine.delete(b"key", clock)
                assert bytes(store.counts) == before
                assert value_of(store, b"key") == b"value"

    @pytest.mark.parametrize("write", ["put", "delete"])
    def test_a_shard_whose_owner_died_is_repaired_first(
        self, engine_of: Callable[[Store], Any], write: str
    ) -> None:
        with open_store() as store:
            engine = engine_of(store)
            engine.put(b"key", b"value", clock)
            dies_with_the_lock(store)
            if write == "put":
                engine.put(b"key", b"new", clock)
            else:
                assert engine.delete(b"key", clock)
            assert store.stats()["repairs"] == 1
            assert values(engine, [b"key"]) == [b"new" if write == "put" else None]


def test_recover_repairs_a_shard_whose_lock_the_caller_has_and_lets_go_of_it() -> None:
    with open_store(lock_wait_ms=1) as store:
        store.put(b"key", b"value", clock)
        at = store._shards[0].header + SH_ENTRIES
        store.words[at] += 5
        dies_with_the_lock(store)
        assert store.readable.locks[0].acquire()
        store.readable.recover(0)
        assert (store.words[at], store.stats()["repairs"]) == (1, 1)
        assert end_of(start(lambda: store.delete(b"key", clock))) == 0
        assert not store.readable.locks[0].acquire()  # its last owner is alive
        store.readable.locks[0].release()


KEYS = st.one_of(st.sampled_from([b"a", b"b", b"ab", b"abc", b"k" * 255]), st.binary(min_size=1, max_size=3))
SIZES = st.one_of(st.integers(0, 200), st.sampled_from([480, 490, 512, 3000, 9000]))
PUTS = st.tuples(KEYS, SIZES, st.sampled_from([0, 1, 255]), st.sampled_from([0, 0, 0, NOW_MS + 1]))
REMOVALS = st.tuples(KEYS, st.none(), st.just(0), st.just(0))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=st.lists(st.one_of(PUTS, PUTS, PUTS, REMOVALS), max_size=60))
def test_put_and_update_leave_the_same_arena(
    operations: list[tuple[bytes, int | None, int, int]],
) -> None:
    with open_store(shards=2) as put, open_store(shards=2) as update:
        for number, (key, size, flags, deadline_ms) in enumerate(operations):
            if size is None:
                assert put.delete(key, clock) == update.delete(key, clock)
                continue
            change = payload(number, size), flags, deadline_ms, b"m" * (number % 3 * 100)
            version = put.put(key, change[0], clock, *change[1:])
            assert version == update.update(key, always(change), clock)[1]
        assert bytes(put.counts) == bytes(update.counts)


# -- the order of stores -----------------------------------------------------------------------------------


def order_of_changes(
    store: Store, watched: dict[str, Callable[[], object]], operation: Callable[[], object]
) -> list[str]:
    """In which order an operation changes what is watched, by a look at each of its opcodes."""
    seen = {name: look() for name, look in watched.items()}
    order: list[str] = []

    def look_at_all() -> None:
        for name, look in watched.items():
            if (now := look()) != seen[name]:
                seen[name] = now
                order.append(name)

    at_opcode(1, look_at_all, operation, stride=1)
    look_at_all()
    assert store.check() == []
    return order


@pytest.mark.usefixtures("readable_engine")
@pytest.mark.parametrize("overwrites", [False, True])
def test_a_put_keeps_the_order_of_stores_and_a_delete_its_own(overwrites: bool) -> None:
    with open_store() as store:
        words, header = store.words, store._shards[0].header
        for name in (b"other", b"key"):
            store.put(name, b"value", clock)
        begin = snapshot(store)
        entry = store.get(b"key", clock)
        assert entry is not None
        slot, key = entry[4], b"key" if overwrites else b"new"
        if not overwrites:
            store.put(key, b"value", clock)
            made = store.get(key, clock)
            assert made is not None
            slot = made[4]
        begin()
        store.counts[count_at(slot)] = 2
        row = store._shards[0].row_of(words[header + SH_OPEN])
        place = words[header + SH_OPEN] + words[row + SEG_HEAD]
        at = store._arena.location_of(place) << 3
        watched: dict[str, Callable[[], object]] = {
            "access count": lambda: store.counts[count_at(slot)],
            "record": lambda: bytes(store.counts[at : at + 32]),
            "head": lambda: words[row + SEG_HEAD],
            "version": lambda: words[header + SH_VERSION],
            "slot": lambda: words[slot],
            "entries": lambda: words[header + SH_ENTRIES],
            "dead words": lambda: words[row + SEG_DEAD],
        }
        order = order_of_changes(store, watched, lambda: store.put(key, b"other value", clock))
        cleared, counted = ([], ["dead words"]) if overwrites else (["access count"], ["entries"])
        assert order == [*cleared, "record", "head", "version", "slot", *counted]
        order = order_of_changes(store, watched, lambda: store.delete(key, clock))
        assert order == ["slot", "entries", "dead words"]
