"""The index: pages fill up well, a split loses nobody, and keys whose tags are equal are told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_helpers import MIB, SEED, clock, open_store, payload, value_of
from xxhash import xxh3_64_intdigest

from fastkv.store.index import Index
from fastkv.store.layout import BUCKET_BYTES, BUCKET_SLOTS, TAG_BITS, TAG_MASK, TAG_SHIFT

if TYPE_CHECKING:
    from fastkv.store import Store


def tag_of(key: bytes) -> int:
    return xxh3_64_intdigest(key, SEED) & TAG_MASK


def keys_with_tag(tag: int, count: int) -> list[bytes]:
    """Keys whose tag, and so whose page, is the same."""
    found: list[bytes] = []
    i = 0
    while len(found) < count:
        key = b"%d" % i
        if tag_of(key) == tag:
            found.append(key)
        i += 1
    return found


def page_slots(store: Store) -> int:
    return store.geometry.segment_bytes // BUCKET_BYTES * BUCKET_SLOTS


@pytest.mark.parametrize(("segment_bytes", "load"), [(4096, 0.6), (16_384, 0.65), (65_536, 0.65)])
def test_a_page_is_well_filled_before_it_is_split(segment_bytes: int, load: float) -> None:
    with open_store(16 * MIB, segment_bytes=segment_bytes) as store:
        count = 0
        while store.stats()["index_pages"] == 1:
            store.put(b"%d" % count, b"", clock)
            count += 1
        assert (count - 1) / page_slots(store) >= load


@pytest.mark.parametrize("segment_bytes", [4096, 256 << 10])
def test_a_split_moves_the_words_that_have_the_next_bit_and_no_others(
    segment_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stays in its place, and both pages keep the access counts."""
    depths: list[int] = []
    split = Index.split

    def checked(index: Index, header: int, shard: int, key_hash: int) -> bool | None:
        def page(base: int) -> list[int]:
            return store.words[base : base + store.geometry.segment_words].tolist()

        base = index.directory[index.entry_of(key_hash)]
        before, others = page(base), set(index.directory)
        done = split(index, header, shard, key_hash)
        (new_base,) = set(index.directory) - others
        shared = sum(entry in (base, new_base) for entry in index.directory)
        depth = store.geometry.directory_bits + 1 - shared.bit_length()
        depths.append(depth)
        moves = [at % 8 and word >> 63 - depth & 1 for at, word in enumerate(before)]
        kept = [at % 8 and not word >> 63 - depth & 1 for at, word in enumerate(before)]
        assert page(base) == [0 if gone else word for word, gone in zip(before, moves, strict=True)]
        assert page(new_base) == [0 if stayed else word for word, stayed in zip(before, kept, strict=True)]
        return done

    monkeypatch.setattr(Index, "split", checked)
    with open_store(16 * MIB, shards=1, segment_bytes=segment_bytes) as store:
        number = 0
        while len(depths) < 3:
            store.put(b"%d" % number, b"", clock)
            store.get(b"%d" % (number // 3), clock)
            number += 1
        assert set(depths) == {0, 1}


@pytest.mark.parametrize("shards", [1, 4])
def test_splits_keep_every_key(shards: int) -> None:
    with open_store(8 * MIB, shards=shards) as store:
        model: dict[bytes, bytes] = {}
        pages = store.stats()["index_pages"]
        while pages < 20 * shards:
            key = b"%d" % len(model)
            model[key] = payload(key, len(model) % 9)
            store.put(key, model[key], clock)
            if store.stats()["index_pages"] > pages:
                pages = store.stats()["index_pages"]
                assert [key for key in model if value_of(store, key) != model[key]] == []
        assert store.stats()["entries"] == len(model)
        assert store.stats()["evictions"] == 0
        assert len(model) / (pages * page_slots(store)) > 0.35


def test_churn_leaves_nothing_behind_in_the_index() -> None:
    with open_store(2 * MIB) as store:
        for i in range(1000):
            store.put(b"%d" % i, b"", clock)
        pages = store.stats()["index_pages"]
        for i in range(1000, 20_000):
            store.put(b"%d" % i, b"", clock)
            assert store.delete(b"%d" % (i - 1000), clock)
        assert store.stats()["entries"] == 1000
        assert store.stats()["index_pages"] <= pages + 1


@pytest.mark.parametrize("tag", [0, 1, TAG_MASK, tag_of(b"key")])
def test_keys_with_equal_tags_are_told_apart(tag: int) -> None:
    keys = keys_with_tag(tag, 6)
    with open_store() as store:
        for i, key in enumerate(keys):
            store.put(
                key, payload(key, (10, 300, 9000)[i % 3]), clock, deadline_ms=0 if i % 2 else clock() + 1
            )
        slots = set()
        for i, key in enumerate(keys):
            entry = store.get(key, clock)
            assert entry is not None
            assert entry[0] == payload(key, (10, 300, 9000)[i % 3])
            assert store.words[entry[4]] >> TAG_SHIFT == tag
            slots.add(entry[4])
        assert len(slots) == len(keys)
        for i, key in enumerate(keys):
            assert store.delete(key, clock)
            assert [value_of(store, other) is not None for other in keys] == [j > i for j in range(len(keys))]


def test_keys_that_share_a_bucket_and_a_tag_are_told_apart() -> None:
    """Two keys in one bucket whose tags are equal: the search for the tag finds the wrong one first."""
    with open_store() as store:
        places: dict[tuple[int, int], bytes] = {}
        store.put(b"place", b"", clock)
        pairs = 0
        for i in range(100_000):
            key = b"%d" % i
            # Where an empty index puts a key, whatever the hash's bits mean.
            if tag_of(key) >> TAG_BITS - 9:
                continue
            store.put(key, b"", clock)
            entry = store.get(key, clock)
            assert entry is not None
            store.delete(key, clock)
            place = (entry[4] & -8, tag_of(key))
            other = places.setdefault(place, key)
            if other != key:
                for one in (key, other):
                    store.put(one, one, clock)
                for one in (key, other):
                    assert value_of(store, one) == one
                store.delete(other, clock)
                assert value_of(store, other) is None
                assert value_of(store, key) == key
                store.delete(key, clock)
                pairs += 1
        assert pairs > 0


def test_a_directory_at_its_deepest_evicts_rather_than_fails() -> None:
    with open_store(MIB) as store:
        # More keys than a page holds, and the directory has not the bits to tell their tags apart.
        shift = TAG_BITS - store.geometry.directory_bits
        crowd = [key for key in (b"%d" % i for i in range(500_000)) if tag_of(key) >> shift == 5]
        assert len(crowd) > 1.5 * page_slots(store)
        others = {key: key for key in (b"other %d" % i for i in range(200)) if tag_of(key) >> shift != 5}
        for key, value in others.items():
            store.put(key, value, clock)
        for key in crowd:
            assert store.put(key, key, clock)
            assert value_of(store, key) == key
        assert store.stats()["segments_free"] > 100
        assert all(value_of(store, key) in (None, key) for key in crowd)
        present = sum(value_of(store, key) is not None for key in crowd)
        assert present > 0.7 * page_slots(store)
        assert present + store.stats()["evictions"] == len(crowd)
        assert [key for key in others if value_of(store, key) != others[key]] == []
