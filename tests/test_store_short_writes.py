"""The short way of a put leaves what its readable twin leaves, to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_helpers import clock, entry_at_the_end, open_store, payload, value_of

from fastkv.errors import KeyTooLong, StoreFull, ValueTooLong
from fastkv.store import short_writes
from fastkv.store.layout import SB_SEED
from fastkv.store.records import LONGEST_SHORT_KEY, MAX_METADATA_BYTES

if TYPE_CHECKING:
    from fastkv.store import Store

KEYS = st.one_of(
    st.sampled_from([b"a", b"b", b"ab", b"abc", b"k" * LONGEST_SHORT_KEY, b"k" * (LONGEST_SHORT_KEY + 1)]),
    st.binary(min_size=1, max_size=3),
)
SIZES = st.one_of(st.integers(0, 200), st.sampled_from([480, 490, 512, 3000, 9000]))
PUTS = st.tuples(
    KEYS, SIZES, st.sampled_from([0, 1, 255]), st.sampled_from([0, 0, 0, clock() + 1, clock() - 1])
)
REMOVALS = st.tuples(KEYS, st.none(), st.just(0), st.just(0))


def put_long(
    store: Store, key: bytes, value: bytes, flags: int = 0, deadline_ms: int = 0, metadata: bytes = b""
) -> int:
    """Put in the way that is written to be read."""
    return store._updater.put(key, value, clock, flags, deadline_ms, metadata)


def image(store: Store) -> bytes:
    """All bytes of a store."""
    return bytes(store.counts)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(PUTS, PUTS, PUTS, REMOVALS), max_size=60))
def test_both_ways_leave_the_same_arena(operations: list[tuple[bytes, int | None, int, int]]) -> None:
    with open_store(shards=2) as short, open_store(shards=2) as long:
        for number, (key, size, flags, deadline_ms) in enumerate(operations):
            if size is None:
                assert short.delete(key, clock) == long.delete(key, clock)
                continue
            value = payload(number, size)
            metadata = b"m" * (number % 3 * 100)
            version = short.put(key, value, clock, flags, deadline_ms, metadata)
            assert version == put_long(long, key, value, flags, deadline_ms, metadata)
        assert image(short) == image(long)


@pytest.mark.parametrize("metadata", [b"", b"m", b"m" * 255])
@pytest.mark.parametrize("deadline_ms", [0, clock() + 1, clock() - 1])
@pytest.mark.parametrize("size", [0, 60, 480, 9000])
def test_whatever_it_replaces_is_discounted(size: int, deadline_ms: int, metadata: bytes) -> None:
    with open_store() as short, open_store() as long:
        for number in range(3):
            value = payload(number, size)
            assert short.put(b"key", value, clock, 7, deadline_ms, metadata) == put_long(
                long, b"key", value, 7, deadline_ms, metadata
            )
            assert short.put(b"key", b"value", clock) == put_long(long, b"key", b"value")
        assert image(short) == image(long)


@pytest.mark.parametrize(
    ("keys", "value_bytes", "evicts"),
    [(500, 8, False), (500, 400, False), (20_000, 8, False), (20_000, 64, True), (20_000, 400, True)],
)
def test_both_ways_split_clean_and_evict_alike(keys: int, value_bytes: int, evicts: bool) -> None:
    with open_store(shards=4) as short, open_store(shards=4) as long:
        for number in range(12_000):
            key = b"%d" % (number * 7919 % keys)
            value = payload(number % 50, value_bytes)
            assert short.put(key, value, clock, number % 3) == put_long(long, key, value, number % 3)
        assert short.stats() == long.stats()
        assert image(short) == image(long)
        assert (short.stats()["evictions"] > 0) == evicts


def test_a_full_store_that_may_not_evict_refuses() -> None:
    with open_store(evicts=False) as store:
        fill(store, b"value")
        with pytest.raises(StoreFull):
            store.put(b"new", b"value", clock)
        assert value_of(store, b"1") == b"value"
        assert store.put(b"1", b"other", clock)
        assert value_of(store, b"1") == b"other"


def test_what_is_too_long_is_refused() -> None:
    with open_store() as store:
        with pytest.raises(KeyTooLong):
            store.put(bytes(store.max_key_bytes + 1), b"", clock)
        with pytest.raises(ValueTooLong):
            store.put(b"k", bytes(store.max_value_bytes + 1), clock)
        with pytest.raises(ValueError, match="metadata of 256 bytes"):
            store.put(b"k", b"v", clock, metadata=bytes(MAX_METADATA_BYTES + 1))
        assert store.stats()["entries"] == 0


def test_a_record_of_the_same_tag_is_not_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store() as store:
        key_hash, key = entry_at_the_end(store)
        monkeypatch.setattr(short_writes, "xxh3_64_intdigest", lambda *_: key_hash)
        put = short_writes.short_put(
            store._arena,
            store._shards,
            store._segments,
            store._index,
            store._ghosts,
            store.words[SB_SEED],
            store._guard,
            store._updater,
        )
        for other in (key[:-1], key + b"x", bytes(LONGEST_SHORT_KEY)):
            assert put(other, b"value", clock)
            store._shards[0].drop(*store._index.locate(key_hash, other)[:2])  # it is under another hash
        assert store.stats()["repairs"] == 0
        assert value_of(store, key) == b"v"


def fill(store: Store, value: bytes) -> list[bytes]:
    """Fill a store that may not evict.

    Args:
        store: the store.
        value: of all entries.

    Returns:
        Their keys.
    """
    keys: list[bytes] = []
    try:
        while True:
            store.put(b"%d" % len(keys), value, clock)
            keys.append(b"%d" % len(keys))
    except StoreFull:
        return keys
