"""Reads that trust no order of stores: what does not vouch for itself is looked up again under the lock.

No test on x86-64 can show what a weaker machine does. These put into the arena, by hand, what a reader there
might see: a slot word before the bytes of its record, and bytes that are used again under an old word.
"""

from __future__ import annotations

import platform
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from store_helpers import MIB, NOW_MS, SEED, clock, open_store, payload
from test_store_lock import elsewhere, hold
from xxhash import xxh3_64_intdigest

from fastkv.errors import StoreBusy
from fastkv.store import Store
from fastkv.store.checked_reader import CheckedReader
from fastkv.store.reading import VERIFY_READS, may_reorder
from fastkv.store.records import DEADLINE, FRAGMENT, build_record
from fastkv.store.repair import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.store.shard import Shard

KEYS = {
    b"small": (payload("small", 100), 0),
    b"empty": (b"", 0),
    b"ends": (payload("ends", 100), NOW_MS + 1),
    b"large": (payload("large", 9000), 0),
    b"large, ends": (payload("large, ends", 9000), NOW_MS + 1),
}


class Place(NamedTuple):
    """Where an entry stands.

    Attributes:
        store: its store.
        slot: word offset of its slot.
        record: byte offset of its record.
        size: the record's bytes, padding included.
        fragment: byte offset of its second fragment, 0 if it has none.
    """

    store: Store
    slot: int
    record: int
    size: int
    fragment: int

    def flip(self, at: int) -> None:
        """Change a bit."""
        self.store.counts[at] ^= 1

    def write(self, at: int, raw: bytes) -> None:
        """Replace bytes."""
        self.store.counts[at : at + len(raw)] = raw


def place_of(store: Store, key: bytes) -> Place:
    entry = store.get(key, clock)
    assert entry is not None
    shard = store._shards[0]
    location = entry[5] & (1 << store.geometry.location_bits) - 1
    pieces = shard.pieces(location)
    return Place(store, entry[4], location << 3, shard.length(location) << 3, pieces[1] << 3 if pieces else 0)


def an_older_one(place: Place, key: bytes, value: bytes, deadline_ms: int) -> None:
    """The record that lay there before: whole, the key's, but not the word's."""
    place.write(place.record, build_record(key, value, 0, 5, deadline_ms))


def another_fragment(place: Place, flags: int, owner: int) -> None:
    """A whole record that is as long as the fragment."""
    size = int.from_bytes(place.store.counts[place.fragment + 4 : place.fragment + 8], "little")
    place.write(place.fragment, build_record(b"", payload("other", size), flags, owner, 0))


# name: what is seen in the place of an entry, and of which keys
TORN: dict[str, tuple[Callable[[Place, bytes], object], str]] = {
    "nothing yet": (lambda place, key: place.write(place.record, bytes(place.size)), ""),
    "nothing of its second half yet": (
        lambda place, key: place.write(place.record + place.size // 2, bytes(place.size // 2)),
        "small",
    ),
    "an older record of the key": (
        lambda place, key: an_older_one(place, key, *KEYS[key]),
        "small empty ends",
    ),
    "another key": (lambda place, key: place.flip(place.record + (24 if b"ends" in key else 16)), ""),
    "another length of the key": (lambda place, key: place.flip(place.record), ""),
    "another length of the value": (lambda place, key: place.flip(place.record + 4), ""),
    "a length that no value has": (lambda place, key: place.flip(place.record + 7), ""),
    "other flags": (lambda place, key: place.flip(place.record + 2), ""),
    "a deadline, or none": (
        lambda place, key: place.write(
            place.record + 3, bytes([place.store.counts[place.record + 3] ^ DEADLINE >> 8])
        ),
        "",
    ),
    "a fragment": (
        lambda place, key: place.write(
            place.record + 3, bytes([place.store.counts[place.record + 3] | FRAGMENT >> 8])
        ),
        "",
    ),
    "another version": (lambda place, key: place.flip(place.record + 8), ""),
    "another value": (lambda place, key: place.flip(place.record + 40), "small ends large"),
    "another fragment": (lambda place, key: place.flip(place.fragment + 300), "large"),
    "a fragment of nothing": (lambda place, key: place.write(place.fragment, bytes(64)), "large"),
    "the fragment of another key": (lambda place, key: another_fragment(place, FRAGMENT, 5), "large"),
    "no fragment": (
        lambda place, key: another_fragment(place, 0, xxh3_64_intdigest(key, SEED)),
        "large",
    ),
    "a word of another version": (
        lambda place, key: place.flip(place.slot * 8 + place.store.geometry.location_bits // 8 + 1),
        "",
    ),
}
CASES = [(name, key) for name, (_, of) in TORN.items() for key in KEYS if not of or key.decode() in of]


@contextmanager
def arena() -> Iterator[Store]:
    """A store that verifies, with something in it."""
    store = Store(MIB, shards=1, segment_bytes=4096, seed=SEED, first_version=1 << 50, verify_reads=True)
    for key, (value, deadline_ms) in KEYS.items():
        store.put(key, value, clock, 0, deadline_ms)
    yield store
    assert store.check() == []
    store.close()


@pytest.mark.parametrize(("name", "key"), CASES)
def test_a_torn_record_is_looked_up_again_under_the_lock_and_never_served(
    name: str, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tear, _ = TORN[name]
    with arena() as store:
        whole = bytes(store.counts)
        holding = Guard.holding
        locked = []

        @contextmanager
        def seen_in_order(guard: Guard, shard: Shard) -> Iterator[None]:
            """Who has the lock sees all that was written before it was released."""
            with holding(guard, shard):
                locked.append(shard.number)
                store.counts[:] = whole
                yield

        tear(place_of(store, key), key)
        monkeypatch.setattr(Guard, "holding", seen_in_order)
        entry = store.get(key, clock)
        assert entry is not None
        assert (entry[0], entry[3]) == KEYS[key]
        assert locked == [0]
        monkeypatch.undo()
        store.counts[:] = whole


@pytest.mark.parametrize(("name", "key"), CASES)
def test_a_damaged_record_is_a_miss(name: str, key: bytes) -> None:
    """What is still torn under the lock is damage."""
    tear, _ = TORN[name]
    with arena() as store:
        whole = bytes(store.counts)
        tear(place_of(store, key), key)
        assert store.get(key, clock) is None
        store.counts[:] = whole


def test_the_key_is_compared_in_the_copy_that_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between finding a key and copying its record, another key's may come to lie there, with its version."""
    with arena() as store:
        whole = bytes(store.counts)
        place = place_of(store, b"small")
        entry = store.get(b"small", clock)
        assert entry is not None
        copy = CheckedReader._whole

        def late(reader: CheckedReader, location: int) -> tuple[bytes, bytes, int, int, int] | None:
            place.write(place.record, build_record(b"other", entry[0], 0, entry[2], 0))
            return copy(reader, location)

        monkeypatch.setattr(CheckedReader, "_whole", late)
        assert store.get(b"small", clock) is None
        store.counts[:] = whole


def test_a_whole_record_is_served_without_the_lock_and_a_miss_is_not_believed() -> None:
    with open_store(lock_wait_ms=1, verify_reads=True) as store:
        for key, (value, deadline_ms) in KEYS.items():
            store.put(key, value, clock, 0, deadline_ms)
        with elsewhere(hold(store._shards[0].lock)):
            for key, (value, _) in KEYS.items():
                entry = store.get(key, clock)
                assert entry is not None
                assert entry[0] == value
            with pytest.raises(StoreBusy):
                store.get(b"absent", clock)
        assert store.get(b"absent", clock) is None


def test_a_walk_holds_the_lock() -> None:
    with open_store(lock_wait_ms=1, verify_reads=True) as store:
        store.put(b"key", b"value", clock)
        with elsewhere(hold(store._shards[0].lock)), pytest.raises(StoreBusy):
            store.scan(0, clock, 1000, 10)
        assert [key for key, *_ in store.scan(0, clock, 1000, 10)[0]] == [b"key"]


@pytest.mark.parametrize(
    ("machine", "may"),
    [("x86_64", False), ("AMD64", False), ("aarch64", True), ("arm64", True), ("riscv64", True), ("", True)],
)
def test_only_known_machines_are_trusted(machine: str, may: bool) -> None:
    assert may_reorder(machine) is may


def test_this_machine_decides_unless_the_caller_does() -> None:
    assert may_reorder(platform.machine()) is VERIFY_READS
    for verify_reads, name in ((None, VERIFY_READS), (True, True), (False, False)):
        store = Store(MIB, seed=SEED, verify_reads=verify_reads)
        assert (type(store.readable._reader).__name__ == "CheckedReader") is name
        store.close()
