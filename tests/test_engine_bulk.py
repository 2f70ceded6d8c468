"""Deaths in the core's bulk work, behind each store: the next owner finds what was acknowledged."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
import stepping
from store_helpers import NOW_MS, SEED, clock, open_store, payload, snapshot, value_of
from test_core_sweep import Request, a_closed_segment, begin_ghosts
from test_core_verify import repair
from xxhash import xxh3_64_intdigest

from fastkv import core
from fastkv.store.layout import PAGE, SEG_COVERS
from fastkv.store.sweep import KEEP_ALL, KEEP_NONE, LEAVE, PROMOTE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store import Store

stepping.require_core()


# -- sweeps ----------------------------------------------------------------------------------------------


class Death(NamedTuple):
    """A sweep in which a process dies.

    Attributes:
        prepare: fills a store; returns the segment to sweep.
        rule: for whom.
        now_ms: when.
        gone: whether entries may be gone after it, each.
    """

    prepare: Callable[[Store], int]
    rule: int
    now_ms: int
    gone: bool


def with_ghosts(store: Store) -> int:
    begin_ghosts(store)
    return a_closed_segment(store)


DEATHS: Final = {
    "evicting": Death(with_ghosts, KEEP_NONE, NOW_MS, gone=True),
    "moving": Death(a_closed_segment, PROMOTE, NOW_MS, gone=False),
    "cleaning": Death(a_closed_segment, KEEP_ALL, NOW_MS, gone=False),
    "expiring": Death(a_closed_segment, LEAVE, NOW_MS + 1, gone=True),
}


@pytest.mark.parametrize("name", DEATHS)
def test_death_in_a_sweep_is_survived(name: str) -> None:
    death = DEATHS[name]
    with open_store() as store:
        segment = death.prepare(store)
        request = Request(0, segment, death.rule, 0, 512, 256)
        model = {b"%d" % number: payload(number, 100) for number in range(6)}
        died = 0
        for steps in stepping.deaths(store, lambda: request.run(store, death.now_ms), core.sweep):
            if died % 3 == 0:
                assert store.check() == [], f"step {steps}"
            if died % 3 == 1:
                assert store.put(b"target", b"next", clock), f"step {steps}"
            for key, value in model.items():
                assert value_of(store, key) == value or (death.gone and store.get(key, clock) is None), key
            assert store.put(b"0", b"next", clock)
            assert value_of(store, b"0") == b"next"
            assert store.check() == [], f"step {steps}"
            died += 1
        assert died >= (18 if not death.gone else 3)
        gone = [key for key in model if store.get(key, clock) is None]
        assert len(gone) == (0 if not death.gone else 6 if death.rule == KEEP_NONE else 3)


# -- splits ----------------------------------------------------------------------------------------------


def before_a_split(store: Store) -> dict[bytes, bytes]:
    """Putting the target splits a page."""
    pages = store.stats()["index_pages"]
    model: dict[bytes, bytes] = {}
    while True:
        restore = snapshot(store)
        store.put(b"target", b"new", clock)
        grown = store.stats()["index_pages"] > pages
        restore()
        if grown:
            return model
        key = b"%d" % len(model)
        model[key] = payload(key, len(model) % 9)
        store.put(key, model[key], clock)


def split(store: Store) -> None:
    """Split the page, without the put that wants it: what comes before a stepped call has to be short."""
    (shard,) = store._shards
    with store._guard.holding(shard):
        assert shard.make_vacancy(xxh3_64_intdigest(b"target", SEED))


@pytest.mark.parametrize("step", ["copy", "name", "clear"])
def test_death_in_a_split_is_survived(step: str) -> None:
    """In each part of a split; those before it are done by copies of what they would leave."""
    with open_store() as store:
        model = before_a_split(store)
        index, words, size = store._index, store.words, store.geometry.segment_words
        restore, before = snapshot(store), index.pages(0)
        split(store)
        directory = array("Q", index.directory)
        (new,) = set(index.pages(0)) - set(before)
        new_base = store._segments.base(new)
        page = array("Q", words[new_base : new_base + size])
        restore()

        def copy(base: int, new_base: int, depth: int) -> None:
            words[new_base : new_base + size] = memoryview(page)

        def name(first: int, entries: int, base: int) -> None:
            index.directory[:] = memoryview(directory)

        def split_in_parts() -> None:
            """In a process of its own: the test's repairs as ever."""
            parts: Any = SimpleNamespace(copy=copy, name=name, clear=index.clear)
            setattr(parts, step, getattr(index.compiled, step))
            index.compiled = parts
            split(store)

        died = 0
        for steps in stepping.deaths(store, split_in_parts, core.pages):
            if died % 16 == 0:
                assert store.check() == [], f"step {steps}"
            if died % 16 == 1:
                assert store.put(b"target", b"next", clock)
                assert store.check() == [], f"step {steps}"
            assert [key for key in model if value_of(store, key) != model[key]] == [], f"step {steps}"
            died += 1
        assert died >= 64
        assert store.stats()["index_pages"] == len(before) + 1
        assert [key for key in model if value_of(store, key) != model[key]] == []


# -- repairs ---------------------------------------------------------------------------------------------


def damaged(store: Store) -> tuple[Any, int, int, dict[bytes, bytes]]:
    """A survey that has not begun; a page, what it covers, and what is whole: every third entry is not."""
    model = {}
    for number in range(24):
        key = b"%d" % number
        store.put(key, payload(number, 60), clock)
        if number % 3:
            model[key] = payload(number, 60)
        else:
            entry = store.get(key, clock)
            assert entry is not None
            store.counts[8 * store._arena.location_of(entry[5]) + 20] ^= 1
    log = [segment for segment, state in store._segments.owned(0) if state != PAGE]
    (page,) = store._index.pages(0)
    covers = store.words[store._segments.row(page) + SEG_COVERS]
    surveyor = core.verify.Surveyor(store.engine, 0, log)  # type: ignore[arg-type]
    return surveyor, store._segments.base(page), covers, model


@pytest.mark.parametrize("part", ["pages", "segments"])
def test_death_in_a_repair_is_survived(part: str) -> None:
    with open_store() as store:
        surveyor, base, covers, model = damaged(store)
        (shard,) = store._shards
        if part == "segments":
            surveyor.look_through(base, covers, lambda slot, word: None)

        def survey() -> None:
            shard.lock.acquire()
            shard.begin_steps()
            if part == "pages":
                surveyor.look_through(base, covers, lambda slot, word: None)
            surveyor.recount(shard.header)
            shard.end_steps()
            shard.lock.release()

        died = 0
        for steps in stepping.deaths(store, survey, core.verify):
            assert not store.delete(b"absent", clock)  # repairs
            assert {key: value_of(store, key) for key in model} == model, f"step {steps}"
            assert store.stats()["entries"] == len(model)
            assert store.check() == [], f"step {steps}"
            died += 1
        assert died >= 3
        assert repair(store)[0] == len(model)
