"""Entries that go by themselves are noted, each with its key, if somebody wants to know; else nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_helpers import KIB, NOW_MS, HandClock, open_store, payload

from fastkv.store import LEAVE
from fastkv.store.removals import EVICTED, EXPIRED, Removals

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store import Store


def want(store: Store) -> Removals:
    store.removals.wanted = memoryview(bytes([1] + [0] * 7)).cast("Q")
    return store.removals


def look_after(store: Store, clock: HandClock) -> None:
    while store.look_after(clock):
        pass


EXPIRERS: dict[str, Callable[[Store, HandClock], object]] = {
    "the sweep": look_after,
    "who deletes it": lambda store, clock: [store.delete(b"k%d" % i, clock) for i in range(4)],
    "who updates it": lambda store, clock: [
        store.update(b"k%d" % i, lambda _: LEAVE, clock) for i in range(4)
    ],
}


@pytest.mark.parametrize("name", EXPIRERS)
@pytest.mark.parametrize("size", [10, 30 * KIB])
def test_who_expires_is_noted_once(name: str, size: int) -> None:
    clock = HandClock()
    with open_store() as store:
        removals = want(store)
        for i in range(4):
            store.put(b"k%d" % i, payload(i, size), clock, 0, NOW_MS + 100)
        store.put(b"stays", b"v", clock)
        clock.now_ms += 200_000
        EXPIRERS[name](store, clock)
        look_after(store, clock)
        assert sorted(removals.noted) == [(EXPIRED, b"k%d" % i) for i in range(4)]
        assert store.check() == []


@pytest.mark.parametrize("size", [20, 400, 30 * KIB])
def test_who_is_evicted_is_noted_once(size: int) -> None:
    clock = HandClock()
    with open_store() as store:
        removals = want(store)
        count = 0
        while store.stats()["evictions"] < 50:
            store.put(b"%d" % count, payload(count, size), clock)
            count += 1
        noted, lost = removals.take()
        assert {event for event, _ in noted} == {EVICTED}
        assert len(noted) + lost == store.stats()["evictions"]
        gone = {b"%d" % i for i in range(count) if store.get(b"%d" % i, clock) is None}
        assert {key for _, key in noted} == gone
        assert store.check() == []


def test_as_long_as_nobody_wants_to_know_nothing_is_noted() -> None:
    clock = HandClock()
    with open_store() as store:
        for i in range(50_000):
            store.put(b"%d" % i, payload(i, 20), clock, 0, NOW_MS + i)
        clock.now_ms += 25_000
        look_after(store, clock)
        assert store.stats()["evictions"] > 0
        assert store.stats()["expired"] > 0
        assert store.removals.take() == ([], 0)
        assert store.check() == []


def test_what_does_not_fit_is_counted() -> None:
    removals = Removals()
    for i in range(20_000):
        removals.note(EXPIRED, b"%d" % i)
    noted, lost = removals.take()
    assert len(noted) + lost == 20_000
    assert noted == [(EXPIRED, b"%d" % i) for i in range(16_384)]
    assert removals.take() == ([], 0)
