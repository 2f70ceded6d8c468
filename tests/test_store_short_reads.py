"""The short ways of a read find what ``find`` does, or ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from store_helpers import MIB, SEED, clock, entry_at_the_end, open_store, payload
from xxhash import xxh3_64_intdigest

from fastkv.store import short_reads
from fastkv.store.layout import UNVERIFIED
from fastkv.store.records import LONGEST_SHORT_KEY

if TYPE_CHECKING:
    from fastkv.store import Entry, Store
    from fastkv.store.short_reads import Get, GetSmall


def find(store: Store, key: bytes) -> Entry | None:
    """What the readable twin finds."""
    return store.find(xxh3_64_intdigest(key, SEED), key, clock)


def ways(store: Store, asked: list[bytes]) -> tuple[Get, GetSmall]:
    """The short ways of a store, with a ``find`` that notes what it is asked for."""

    def noted(key_hash: int, key: bytes, now: object) -> Entry | None:
        asked.append(key)
        return store.find(key_hash, key, clock)

    sequences = store._reader._sequences
    return short_reads.short_reads(store._arena, store._index, SEED, sequences, noted)


def test_keys_of_every_length_are_found_and_none_is_taken_for_another() -> None:
    with open_store(4 * MIB, shards=2) as store:
        lengths = [*range(1, 40), *range(LONGEST_SHORT_KEY - 2, LONGEST_SHORT_KEY + 3), 900]
        for length in lengths:
            store.put(b"k" * length, payload(length, 50), clock, length & 255)
        asked: list[bytes] = []
        get, get_small = ways(store, asked)
        keys = [letter * length for length in range(1, 1000) for letter in (b"k", b"x")]
        found = [get(key, clock) for key in keys]
        assert found == get_small(keys, clock) == [find(store, key) for key in keys]
        assert [entry[0] for entry in found if entry] == [payload(length, 50) for length in lengths]
        # What is asked for is what is long; what is not there is known without.
        assert set(asked) <= {key for key in keys if len(key) > LONGEST_SHORT_KEY}


def test_what_is_ordinary_and_what_is_not_there_is_told_without_asking() -> None:
    with open_store(16 * MIB, shards=4, segment_bytes=None) as store:
        keys = [b"%d" % number for number in range(30_000)]
        for key in keys[::2]:
            store.put(key, payload(key[-1:], 20), clock)
        asked: list[bytes] = []
        get, get_small = ways(store, asked)
        found = [get(key, clock) for key in keys]
        assert found == get_small(keys, clock)
        assert [entry and entry[0] for entry in found] == [
            None if number % 2 else payload(key[-1:], 20) for number, key in enumerate(keys)
        ]
        # A tag of 16 bits is another key's now and then.
        assert len(asked) < len(keys) // 100


@pytest.mark.parametrize("sequence", [UNVERIFIED, 3])
def test_a_miss_is_not_believed_while_the_sequence_is_odd(sequence: int) -> None:
    with open_store() as store:
        store.put(b"there", b"value", clock)
        asked: list[bytes] = []
        get, get_small = ways(store, asked)
        sequences = store._reader._sequences
        before, sequences[0] = sequences[0], sequence
        looked_up = []
        for read in (lambda: get(b"absent", clock), lambda: get_small([b"absent"], clock)):
            asked.clear()
            read()
            looked_up.append(list(asked))
        sequences[0] = before
        assert looked_up == [[b"absent"], [b"absent"]]
        assert get(b"absent", clock) is None


def test_a_miss_is_not_believed_if_the_sequence_changes_meanwhile() -> None:
    with open_store() as store:
        asked: list[bytes] = []

        class Changing:
            """Sequence words that are another each time."""

            looks = 0

            def __getitem__(self, _: int) -> int:
                self.looks += 2
                return self.looks

        def noted(key_hash: int, key: bytes, now: object) -> None:
            asked.append(key)

        changing: Any = Changing()
        get, get_small = short_reads.short_reads(store._arena, store._index, SEED, changing, noted)
        assert get(b"absent", clock) is None
        assert get_small([b"absent"], clock) == [None]
        assert asked == [b"absent", b"absent"]


def test_a_record_of_the_same_tag_is_not_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store() as store:
        key_hash, key = entry_at_the_end(store)
        monkeypatch.setattr(short_reads, "xxh3_64_intdigest", lambda *_: key_hash)
        get, get_small = ways(store, [])
        others = [key[:-1], key + b"x", bytes(LONGEST_SHORT_KEY), bytes(LONGEST_SHORT_KEY + 1)]
        assert [get(each, clock) for each in others] == get_small(others, clock) == [None] * 4
        assert [entry and entry[0] for entry in (get(key, clock), *(get_small([key], clock) or []))] == [
            b"v",
            b"v",
        ]
