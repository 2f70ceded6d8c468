"""Large values that are copied in steps: what a copy returns, and what comes in between."""

from __future__ import annotations

import random
from itertools import combinations_with_replacement, pairwise
from typing import TYPE_CHECKING, Final

import pytest
from store_helpers import (
    KIB,
    MIB,
    NOW_MS,
    HandClock,
    at_opcode,
    clock,
    fill_until_evicted,
    open_store,
    payload,
    snapshot,
)

from fastkv.steps import finish
from fastkv.store import Retime
from fastkv.store.layout import UNVERIFIED, count_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.store import Store
    from fastkv.store.large import LargeReader, LargeValue

VALUE: Final = payload("large", 14_000)
OVER: Final = payload("over", 13_000)


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step ends behind each fragment."""
    monkeypatch.setattr("fastkv.store.large.STEP_BYTES", 1)


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store() as made:
        made.put(b"before", b"v" * 400, clock)
        made.put(b"key", VALUE, clock, 5, NOW_MS + 1000, b"metadata")
        yield made


def reader_of(store: Store) -> LargeReader:
    assert store.large is not None
    return store.large


def found_in(store: Store, key: bytes = b"key") -> LargeValue:
    value = reader_of(store).find(key, clock)
    assert value is not None
    return value


def copied(store: Store, value: LargeValue, start: int, length: int) -> tuple[bool, bytes]:
    target = bytearray(length)
    return finish(reader_of(store).copy(value, start, memoryview(target))), bytes(target)


# -- what is found -----------------------------------------------------------------------------------------


def test_a_large_value_is_found_as_get_finds_it(store: Store) -> None:
    entry = store.get(b"key", clock)
    value = found_in(store)
    assert entry is not None
    assert entry[0] == VALUE
    assert value.entry == (b"", *entry[1:])
    assert value.size == len(VALUE)
    assert len(value.pieces) == 4


def test_an_access_is_counted(store: Store) -> None:
    place = count_at(found_in(store).entry[4])
    store.counts[place] = 0
    found_in(store)
    assert store.counts[place] == 1
    assert reader_of(store).find(b"none", clock) is None
    assert reader_of(store).find(b"key", lambda: NOW_MS + 1000) is None
    assert store.counts[place] == 1


def test_what_is_no_large_value_is_not_found(store: Store) -> None:
    find, hand = reader_of(store).find, HandClock()
    assert find(b"none", clock) is None
    assert find(b"before", clock) is None
    hand.now_ms = NOW_MS + 999
    assert find(b"key", hand) is not None
    hand.now_ms += 1
    assert find(b"key", hand) is None
    store.put(b"key", b"small", clock)
    assert find(b"key", clock) is None
    store.put(b"key", VALUE, clock)
    store.delete(b"key", clock)
    assert find(b"key", clock) is None


@pytest.mark.parametrize("sequence", [UNVERIFIED, 7])
def test_nothing_is_found_while_a_shard_changes_or_is_unverified(store: Store, sequence: int) -> None:
    at = store.geometry.sequences_at
    before = store.words[at]
    store.words[at] = sequence
    assert reader_of(store).find(b"key", clock) is None
    store.words[at] = before
    assert reader_of(store).find(b"key", clock) is not None


def test_stores_whose_order_is_not_to_be_trusted_have_no_such_reader() -> None:
    with open_store(verify_reads=True) as store:
        assert store.large is None
    with open_store(verify_reads=False) as store:
        assert store.large is not None


# -- what is copied ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(MIB, 1, 4 * KIB), (MIB, 4, 4 * KIB), (2 * MIB, 2, 64 * KIB)])
def test_any_part_is_as_get_returns_it(shape: tuple[int, int, int]) -> None:
    memory_bytes, shards, segment_bytes = shape
    chance = random.Random(segment_bytes)
    with open_store(memory_bytes, shards=shards, segment_bytes=segment_bytes) as store:
        for key, size in ((b"a", segment_bytes // 4), (b"b", segment_bytes), (b"c", 4 * segment_bytes - 333)):
            store.put(key, payload(key, size), clock, 0, 0, b"metadata")
            entry, value = store.get(key, clock), found_in(store, key)
            assert entry is not None
            ends, at = {0, size}, 0
            for piece in value.pieces:
                at += store.words[piece] >> 32
                ends.add(at)
            near = sorted({min(max(end + by, 0), size) for end in ends for by in (-1, 0, 1)})
            near += [chance.randrange(size) for _ in range(8)]
            for start, end in combinations_with_replacement(sorted(near), 2):
                assert copied(store, value, start, end - start) == (True, entry[0][start:end])


def test_steps_end_behind_a_mebibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with open_store(64 * MIB, segment_bytes=None) as store:
        value, segment_bytes = payload("steps", 5 * MIB + 77), store.geometry.segment_words << 3
        store.put(b"key", value, clock)
        target = bytearray(len(value))
        steps = reader_of(store).copy(found_in(store), 0, memoryview(target))
        ends = [0, *(len(target.rstrip(b"\0")) for _ in steps)]  # or less, where the value has a zero
        assert target == value
        assert len(ends) in (5, 6)
        assert all(MIB - 9 <= after - before <= MIB + 9 + segment_bytes for before, after in pairwise(ends))


# -- what comes in between ---------------------------------------------------------------------------------


def overwrite(store: Store) -> None:
    store.put(b"key", OVER, clock)


def overwrite_with_as_long_a_one(store: Store) -> None:
    store.put(b"key", payload("other", len(VALUE)), clock)


def overwrite_and_reuse(store: Store) -> None:
    overwrite(store)
    fill_until_evicted(store, "more", lambda number: payload(number, 3000))


def delete(store: Store) -> None:
    store.delete(b"key", clock)


def retime(store: Store) -> None:
    store.update(b"key", lambda _: Retime(NOW_MS + 5), clock)


def evict(store: Store) -> None:
    """Evict it, and write as much again where it lay."""
    _, _, _, _, slot, word, _ = found_in(store).entry
    number = 0
    while store.words[slot] == word:  # no look at it that would count as an access
        store.put(b"crowd%d" % number, payload(number, 3000), clock)
        number += 1
    for more in range(number):
        store.put(b"again%d" % more, payload(more, 3000), clock)


def flush(store: Store) -> None:
    store.flush()


CHANGES: Final[list[Callable[[Store], None]]] = [
    overwrite,
    overwrite_with_as_long_a_one,
    overwrite_and_reuse,
    delete,
    retime,
    evict,
    flush,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("steps", range(5))
def test_a_change_between_two_steps_is_seen(
    store: Store, change: Callable[[Store], None], steps: int
) -> None:
    """Before the first one, behind each, and behind the last one."""
    target = bytearray(len(VALUE))
    work = reader_of(store).copy(found_in(store), 0, memoryview(target))
    for _ in range(steps):
        next(work)
    change(store)
    assert finish(work) is False


def test_an_undisturbed_copy_notices_other_keys_changes_not_at_all(store: Store) -> None:
    target = bytearray(len(VALUE))
    work = reader_of(store).copy(found_in(store), 0, memoryview(target))
    for number in range(4):
        next(work)
        store.put(b"before", payload(number, 5000), clock)
    assert finish(work) is True
    assert target == VALUE


@pytest.mark.readable
@pytest.mark.parametrize("change", [overwrite, overwrite_and_reuse, delete, flush])
def test_no_change_at_any_opcode_makes_wrong_bytes_count(
    store: Store, change: Callable[[Store], None]
) -> None:
    restore = snapshot(store)
    results: list[object] = []

    def read() -> None:
        value = reader_of(store).find(b"key", clock)
        results.append(value and (copied(store, value, 0, value.size)))

    opcodes = at_opcode(0, lambda: None, read, "large")
    assert results.pop() == (True, VALUE)
    assert opcodes > 100
    for number in range(1, opcodes + 1, 1 if change is overwrite else 3):
        restore()
        at_opcode(number, lambda: change(store), read, "large")
        found = results.pop()
        if found is not None:
            assert isinstance(found, tuple)
            whole, value = found
            assert not whole or value in (VALUE, OVER), number


# -- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_not_raised_out(store: Store, seed: int) -> None:
    """In the list, in the heads of fragments, in the slot: a copy returns what it returns, and ends."""
    chance = random.Random(seed)
    value = found_in(store)
    record = store._arena.location_of(value.entry[5])
    restore = snapshot(store)
    accepted = 0
    for _ in range(2000):
        restore()
        at = chance.choice([*range(record, record + 12), *value.pieces, value.entry[4]])
        word = store.words[at]
        store.words[at] = chance.choice(
            [
                0,
                word ^ 1 << chance.randrange(64),
                chance.randrange(1 << 64),
                (1 << 64) - 1,
                store.geometry.memory_bytes // 8 - chance.randrange(4),
                1 << chance.randrange(64),
            ]
        )
        found = reader_of(store).find(b"key", clock)
        for each in (found, value):
            if each is not None:
                whole, _ = copied(store, each, 0, min(each.size, MIB))
                accepted += whole
    assert accepted
    restore()
