"""Death at every point: whoever comes next finds what was acknowledged, and can go on.

A forked process begins an operation and ends before its n-th opcode, for every n of a short operation and a
dense row of them in a long one. The test's own process shares the arena and is the one that comes next.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from store_helpers import (
    KIB,
    at_opcode,
    clock,
    deaths,
    dies_at,
    end_of,
    open_store,
    payload,
    snapshot,
    start,
    value_of,
)

from fastkv.errors import StoreBusy
from fastkv.store import DELETE, Retime, new_value
from fastkv.store.layout import PAGE, SEG_COVERS, SEG_STATE, SEGMENT_ROW
from fastkv.store.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.store import Change, Entry, Store

NEW = payload("new", 60)
BLOCK = payload("block", 2000)
LARGE = payload("large", 9000)
POOL = "segments"
METADATA = b"text/html"


class Death(NamedTuple):
    """An operation on the key ``target``, and where in it a process is killed.

    Attributes:
        prepare: brings the store to where the operation starts; returns what is in it.
        operation: what the process does.
        after: the target's value once it is done, None if it is deleted.
        modules: where the opcodes count.
        stride: before each how manyeth of them a process is killed.
        metadata: the target's, before and after.
    """

    prepare: Callable[[Store], dict[bytes, bytes]]
    operation: Callable[[Store], object]
    after: bytes | None
    modules: str = "*"
    stride: int = 1
    metadata: bytes = b""


def metadata_of(key: bytes) -> bytes:
    """What each entry but the target has besides its value: some nothing, some little, some much."""
    return b"" if key == b"target" else (key * 99)[: key[-1] % 4 * 50]


def put(store: Store, model: dict[bytes, bytes]) -> dict[bytes, bytes]:
    for key, value in model.items():
        store.put(key, value, clock, metadata=metadata_of(key))
    return model


def a_few(store: Store) -> dict[bytes, bytes]:
    return put(store, {b"%d" % i: payload(i, i * 37 % 500) for i in range(12)})


def a_few_and_target(store: Store) -> dict[bytes, bytes]:
    return a_few(store) | put(store, {b"target": b"old"})


def a_few_and_large_target(store: Store) -> dict[bytes, bytes]:
    return a_few(store) | put(store, {b"target": payload("old", 10_000)})


def a_few_and_target_with_metadata(store: Store) -> dict[bytes, bytes]:
    store.put(b"target", b"old", clock, metadata=METADATA)
    return a_few(store) | {b"target": b"old"}


def a_few_and_large_target_with_metadata(store: Store) -> dict[bytes, bytes]:
    old = payload("old", 10_000)
    store.put(b"target", old, clock, metadata=METADATA)
    return a_few(store) | {b"target": old}


def a_few_and_an_expired_target(store: Store) -> dict[bytes, bytes]:
    store.put(b"target", payload("old", 10_000), clock, deadline_ms=clock())
    return a_few(store)


def append_to(entry: Entry | None) -> Change:
    assert entry is not None
    return new_value(entry, entry[0] + NEW)


def a_full_segment(store: Store) -> dict[bytes, bytes]:
    """The segment of new records has no room left, and all but the target in it is dead."""
    model = a_few(store) | put(store, {b"target": b"old"})
    free = store.stats()["segments_free"]
    restore = snapshot(store)
    while store.stats()["segments_free"] == free:
        restore = snapshot(store)
        store.put(b"target", NEW, clock)
    restore()
    return model | {b"target": NEW}


def a_full_page(store: Store) -> dict[bytes, bytes]:
    """Putting the target splits a page."""
    pages = store.stats()["index_pages"]
    model: dict[bytes, bytes] = {}
    while True:
        restore = snapshot(store)
        store.put(b"target", NEW, clock)
        grown = store.stats()["index_pages"] > pages
        restore()
        if grown:
            return model
        model |= put(store, {b"%d" % len(model): b""})


def a_full_store(store: Store) -> dict[bytes, bytes]:
    """Putting the target, which is no smaller than the others, evicts."""
    model = put(store, {b"large %d" % i: payload(i, 9000) for i in range(20)})
    return model | until_the_target_makes(store, "evictions")


def a_full_store_that_was_read(store: Store) -> dict[bytes, bytes]:
    """Putting the target gives others, small and large, a second chance."""
    model = a_full_store(store)
    for key in model:
        store.get(key, clock)
    return model


def a_full_store_with_dead_space(store: Store) -> dict[bytes, bytes]:
    """Putting the target cleans."""
    model = a_full_store(store)
    for key in list(model)[20:200:3]:
        store.delete(key, clock)
        del model[key]
    return model | until_the_target_makes(store, "relocated")


def a_full_store_of_small_values(store: Store) -> dict[bytes, bytes]:
    """Putting the target evicts others, promotes some, and begins the ghost table."""
    model = until_the_target_makes(store, "evictions")
    for key in list(model)[:40:3]:
        store.get(key, clock)
        store.get(key, clock)
    return model


def a_few_and_much_that_expires(store: Store) -> dict[bytes, bytes]:
    """A second later, the target and others, small and large, have expired."""
    old = payload("old", 10_000)
    store.put(b"target", old, clock, deadline_ms=clock() + 1000)
    for i in range(30):
        store.put(b"expires %d" % i, payload(i, i * 97 % 600), clock, deadline_ms=clock() + 1 + i)
    return a_few(store) | {b"target": old}


def large_and_small_that_expire(store: Store) -> dict[bytes, bytes]:
    """A second later all have expired; who drops a large entry by its fragment frees a segment further on."""
    chance = random.Random(3)
    for i in range(60):
        size = chance.choice([10, 300, 900, 4500, 9000])
        store.put(b"expires %d" % i, payload(i, size), clock, deadline_ms=clock() + 10)
        if chance.random() < 0.4:
            store.delete(b"expires %d" % chance.randrange(60), clock)
    return a_few(store)


def expire(store: Store) -> None:
    """A second later: give back what has expired."""
    while store.look_after(lambda: clock() + 1000):
        pass


def until_the_target_makes(store: Store, counter: str) -> dict[bytes, bytes]:
    """Fill the store until putting the target would count something; returns what it was filled with."""
    model: dict[bytes, bytes] = {}
    before = store.stats()[counter]
    while True:
        restore = snapshot(store)
        store.put(b"target", BLOCK, clock)
        counted = store.stats()[counter] > before
        restore()
        if counted:
            return model
        key = b"%s %d" % (counter.encode(), len(model))
        # Its metadata included it is not longer than what the target will be.
        model |= put(store, {key: payload(key, len(BLOCK) - len(metadata_of(key)) - 1)})


DEATHS: dict[str, Death] = {
    "put of a new key": Death(a_few, lambda store: store.put(b"target", NEW, clock), NEW),
    "put over a key": Death(a_few_and_target, lambda store: store.put(b"target", NEW, clock), NEW),
    "put with a deadline": Death(
        a_few_and_target, lambda store: store.put(b"target", NEW, clock, 3, clock() + 1), NEW, stride=4
    ),
    "put that closes a segment": Death(
        a_full_segment, lambda store: store.put(b"target", b"x" * 99, clock), b"x" * 99, stride=3
    ),
    "put of a large value": Death(a_few, lambda store: store.put(b"target", LARGE, clock), LARGE, stride=13),
    "put of a large value, in the pool": Death(
        a_few, lambda store: store.put(b"target", LARGE, clock), LARGE, POOL, stride=2
    ),
    "put of a large value over one": Death(
        a_few_and_large_target, lambda store: store.put(b"target", LARGE, clock), LARGE, stride=17
    ),
    "put over a large value, in the pool": Death(
        a_few_and_large_target, lambda store: store.put(b"target", NEW, clock), NEW, POOL
    ),
    "delete": Death(a_few_and_target, lambda store: store.delete(b"target", clock), None),
    "delete of a large value": Death(
        a_few_and_large_target, lambda store: store.delete(b"target", clock), None, stride=7
    ),
    "put that splits a page": Death(
        a_full_page, lambda store: store.put(b"target", NEW, clock), NEW, stride=79
    ),
    "put that splits a page, where the new page is made known": Death(
        a_full_page,
        lambda store: store.put(b"target", NEW, clock),
        NEW,
        "index.split index.name index.clear",
        stride=53,  # of a loop over slots each opcode is met in one round or another
    ),
    "put that splits a page, in the pool": Death(
        a_full_page, lambda store: store.put(b"target", NEW, clock), NEW, POOL
    ),
    "update of a new key": Death(
        a_few, lambda store: store.update(b"target", lambda _: (NEW, 0, 0, b""), clock), NEW, stride=3
    ),
    "update of a key": Death(
        a_few_and_target, lambda store: store.update(b"target", append_to, clock), b"old" + NEW, stride=3
    ),
    "update of a large value": Death(
        a_few_and_large_target,
        lambda store: store.update(b"target", append_to, clock),
        payload("old", 10_000) + NEW,
        stride=23,
    ),
    "update that deletes": Death(
        a_few_and_large_target,
        lambda store: store.update(b"target", lambda _: DELETE, clock, with_value=False),
        None,
        stride=7,
    ),
    "update of a deadline": Death(
        a_few_and_target, lambda store: store.update(b"target", lambda _: Retime(clock() + 1), clock), b"old"
    ),
    "update of a large value's deadline": Death(
        a_few_and_large_target,
        lambda store: store.update(b"target", lambda _: Retime(clock() + 1), clock, with_value=False),
        payload("old", 10_000),
        stride=3,
    ),
    "update of an expired entry": Death(
        a_few_and_an_expired_target,
        lambda store: store.update(b"target", lambda _: (NEW, 0, 0, b""), clock),
        NEW,
        stride=5,
    ),
    "update that evicts": Death(
        a_full_store,
        lambda store: store.update(b"target", lambda _: (BLOCK, 0, 0, b""), clock),
        BLOCK,
        stride=127,
    ),
    "put that evicts": Death(
        a_full_store, lambda store: store.put(b"target", BLOCK, clock), BLOCK, stride=97
    ),
    "put that evicts, in the pool": Death(
        a_full_store, lambda store: store.put(b"target", BLOCK, clock), BLOCK, POOL, stride=37
    ),
    "put of a large value that evicts": Death(
        a_full_store, lambda store: store.put(b"target", LARGE, clock), LARGE, stride=307
    ),
    "put that evicts with second chances": Death(
        a_full_store_that_was_read, lambda store: store.put(b"target", BLOCK, clock), BLOCK, stride=101
    ),
    "put that evicts small values": Death(
        a_full_store_of_small_values, lambda store: store.put(b"target", BLOCK, clock), BLOCK, stride=97
    ),
    "put that evicts small values, in the pool and among ghosts": Death(
        a_full_store_of_small_values,
        lambda store: store.put(b"target", BLOCK, clock),
        BLOCK,
        "segments ghosts",
        stride=31,
    ),
    "put of a new key with metadata": Death(
        a_few,
        lambda store: store.put(b"target", NEW, clock, metadata=METADATA),
        NEW,
        metadata=METADATA,
    ),
    "put with metadata over a key with metadata": Death(
        a_few_and_target_with_metadata,
        lambda store: store.put(b"target", NEW, clock, 0, clock() + 1, METADATA),
        NEW,
        metadata=METADATA,
    ),
    "put of a large value with metadata over one": Death(
        a_few_and_large_target_with_metadata,
        lambda store: store.put(b"target", LARGE, clock, metadata=METADATA),
        LARGE,
        stride=17,
        metadata=METADATA,
    ),
    "update in place of a key with metadata": Death(
        a_few_and_target_with_metadata,
        lambda store: store.update(b"target", append_to, clock),
        b"old" + NEW,
        metadata=METADATA,
    ),
    "update in place of a large value with metadata": Death(
        a_few_and_large_target_with_metadata,
        lambda store: store.update(b"target", append_to, clock),
        payload("old", 10_000) + NEW,
        stride=23,
        metadata=METADATA,
    ),
    "update of the deadline of a key with metadata": Death(
        a_few_and_target_with_metadata,
        lambda store: store.update(b"target", lambda _: Retime(clock() + 1), clock),
        b"old",
        metadata=METADATA,
    ),
    "update of the deadline of a large value with metadata": Death(
        a_few_and_large_target_with_metadata,
        lambda store: store.update(b"target", lambda _: Retime(clock() + 1), clock, with_value=False),
        payload("old", 10_000),
        stride=3,
        metadata=METADATA,
    ),
    "delete of a key with metadata": Death(
        a_few_and_target_with_metadata,
        lambda store: store.delete(b"target", clock),
        None,
        metadata=METADATA,
    ),
    "expiry": Death(a_few_and_much_that_expires, expire, None, stride=29),
    "expiry of large and small entries": Death(
        large_and_small_that_expire, expire, None, "sweep.run expiry", stride=97
    ),
    "expiry, in the pool": Death(a_few_and_much_that_expires, expire, None, POOL, stride=7),
    "put that cleans": Death(
        a_full_store_with_dead_space, lambda store: store.put(b"target", BLOCK, clock), BLOCK, stride=211
    ),
}


def store_for(death: Death) -> tuple[int, int]:
    """How many shards a case has, and how large its segments are."""
    full = death.prepare.__name__.startswith("a_full_store")
    return (1, 16 * KIB) if full else (2, 4 * KIB)


def assert_whole(
    store: Store,
    model: dict[bytes, bytes],
    target: tuple[bytes | None, ...],
    uncounted: int,
    metadata: bytes = b"",
) -> None:
    """Everything that was acknowledged is there, and everything can be done.

    Args:
        store: the store, which had evicted nothing before.
        model: what was acknowledged.
        target: what the target's value may be.
        uncounted: how many entries the dead may have evicted and not have counted any more.
        metadata: what the target's metadata is.
    """
    found = {key: store.get(key, clock) for key in model}
    missed = [key for key in model if found[key] is None]
    assert {key: (entry[0], entry[6]) for key, entry in found.items() if entry} == {
        key: (model[key], metadata_of(key)) for key in model if key not in missed
    }
    assert len(missed) <= store.stats()["evictions"] + uncounted
    entry = store.get(b"target", clock)
    assert (entry and entry[0]) in target
    assert entry is None or entry[6] == metadata
    for key in (b"target", *list(model)[:2], b"never seen", b"never seen, either"):
        assert store.put(key, key + NEW, clock)
        assert value_of(store, key) == key + NEW
        assert store.delete(key, clock)
        assert store.get(key, clock) is None
        assert not store.delete(key, clock)


@pytest.mark.usefixtures("readable_engine")
@pytest.mark.parametrize("name", DEATHS)
def test_death_at_any_point_is_survived(name: str) -> None:
    death = DEATHS[name]
    shards, segment_bytes = store_for(death)
    with open_store(shards=shards, segment_bytes=segment_bytes) as store:
        model = death.prepare(store)
        old = model.pop(b"target", None)
        assert store.stats()["evictions"] == 0
        # A sweep counts once, when it is through with its part of a segment; this one holds 8 records.
        uncounted = 8 if death.prepare.__name__.startswith("a_full_store") else 0
        died = 0
        for at in deaths(store, lambda: death.operation(store), death.modules, death.stride):
            # Who comes next may be one who verifies, one who reads or one who writes, in either way.
            turn = died % 4
            target: tuple[bytes | None, ...] = old, death.after
            metadata = death.metadata
            if turn == 0:
                assert store.check() == [], f"opcode {at}"
            if turn == 1:
                target, metadata = (b"next",), b""
                assert store.put(b"target", b"next", clock), f"opcode {at}"
            if turn == 2:
                before, _ = store.update(b"target", lambda entry: (b"next", 0, 0, b""), clock)
                assert (before and before[0]) in target, f"opcode {at}"
                assert before is None or before[6] == metadata, f"opcode {at}"
                target, metadata = (b"next",), b""
            assert_whole(store, model, target, uncounted, metadata)
            assert store.check() == [], f"opcode {at}"
            died += 1
        assert died > 30
        # The process that was not killed any more has done it.
        assert value_of(store, b"target") == death.after
        assert_whole(store, model, (death.after,), uncounted, death.metadata)


# Where the first process dies, as a part of its operation.
REPAIRS: dict[str, float] = {
    "put of a large value": 0.6,
    "put of a large value over one": 0.85,
    "delete of a large value": 0.6,
    "put that closes a segment": 0.8,
    "put that splits a page": 0.5,
}


@pytest.mark.usefixtures("readable_engine")
@pytest.mark.parametrize("name", REPAIRS)
def test_death_of_who_repairs_is_survived(name: str) -> None:
    death = DEATHS[name]
    with open_store(shards=1) as store:
        model = death.prepare(store)
        old = model.pop(b"target", None)
        restore = snapshot(store)
        whole = at_opcode(0, clock, lambda: death.operation(store))
        restore()
        assert dies_at(int(whole * REPAIRS[name]), lambda: death.operation(store))
        left = snapshot(store)
        died = 0
        for modules, stride in (("repair segments", 17), ("*", 601)) if len(model) < 100 else (("*", 1999),):
            left()
            # Deleting what is not there does nothing but take the lock and repair.
            for at in deaths(store, lambda: store.delete(b"absent", clock), modules, stride):
                died += 1
                if died % 2:
                    assert store.check() == [], f"opcode {at} of {modules}"
                assert_whole(store, model, (old, death.after), 0)
                assert store.check() == [], f"opcode {at} of {modules}"
            assert_whole(store, model, (old, death.after), 0)
        assert died > 20


@pytest.mark.usefixtures("readable_engine")
def test_versions_go_on_after_a_death() -> None:
    with open_store() as store:
        last = store.put(b"target", b"", clock)
        at = 1
        while dies_at(at, lambda: store.put(b"target", NEW, clock)):
            entry = store.get(b"target", clock)
            assert entry is not None
            assert entry[2] >= last
            version = store.put(b"target", b"", clock)
            assert version > entry[2]
            last = version
            at += 5


@pytest.mark.usefixtures("readable_engine")
def test_repairs_are_counted() -> None:
    with open_store() as store:
        store.put(b"target", NEW, clock)
        assert end_of(start(lambda: store.put(b"target", NEW, clock))) == 0
        assert store.stats()["repairs"] == 0
        whole = at_opcode(0, clock, lambda: store.put(b"target", NEW, clock))
        assert dies_at(whole // 2, lambda: store.put(b"target", NEW, clock))
        store.put(b"target", NEW, clock)
        assert store.stats()["repairs"] == 1


def overlap_pages(store: Store) -> None:
    """Two pages say that they cover the same tags."""
    geometry = store.geometry
    rows = range(geometry.table_at, geometry.table_at + geometry.segments * SEGMENT_ROW, SEGMENT_ROW)
    pages = [row for row in rows if store.words[row + SEG_STATE] & 0xFF == PAGE]
    assert len(pages) > 1
    store.words[pages[0] + SEG_COVERS] = store.words[pages[1] + SEG_COVERS]


def overlap_records(store: Store) -> None:
    """Two slots lead to the same record."""
    entry = store.get(b"7", clock)
    assert entry is not None
    bucket = entry[4] & -8
    twin = next(bucket + i for i in range(1, 8) if not store.words[bucket + i])
    store.words[twin] = entry[5]


@pytest.mark.usefixtures("readable_engine")
@pytest.mark.parametrize("damage", [overlap_pages, overlap_records])
def test_a_shard_that_makes_no_sense_is_emptied(
    damage: Callable[[Store], None], capfd: pytest.CaptureFixture[str]
) -> None:
    with open_store() as store:
        model = put(store, {b"%d" % i: b"" for i in range(600)} | {b"large": LARGE})
        damage(store)
        assert dies_at(1, lambda: store.put(b"target", NEW, clock), "shard.put")  # with the lock
        assert not store.delete(b"absent", clock)
        assert "fastkv: shard 0 is damaged, and emptied: " in capfd.readouterr().err
        assert [key for key in model if value_of(store, key) is not None] == []
        assert (store.stats()["entries"], store.stats()["dropped"]) == (0, len(model))
        assert store.check() == []
        put(store, model)
        assert {key: value_of(store, key) for key in model} == model


@pytest.mark.usefixtures("readable_engine")
def test_a_shard_is_not_emptied_because_the_pool_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot repair it now ends, and whoever comes next repairs it."""
    with open_store() as store:
        model = a_few(store)
        whole = at_opcode(0, clock, lambda: store.put(b"target", LARGE, clock))
        store.delete(b"target", clock)
        assert dies_at(int(whole * 0.6), lambda: store.put(b"target", LARGE, clock))
        locked, times = Segments.locked, []

        @contextmanager
        def busy_at_first(segments: Segments) -> Iterator[None]:
            times.append(1)
            if len(times) == 1:
                raise StoreBusy("busy")
            with locked(segments):
                yield

        monkeypatch.setattr(Segments, "locked", busy_at_first)
        assert end_of(start(lambda: store.delete(b"absent", clock))) == 70
        monkeypatch.undo()
        assert {key: value_of(store, key) for key in model} == model
        assert not store.delete(b"absent", clock)
        assert {key: value_of(store, key) for key in model} == model
        assert store.stats()["repairs"] == 1
