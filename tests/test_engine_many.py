"""Deaths in the core's changes of several keys, behind each store: all of them or none are done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import stepping
from stepping import Stepped, deaths
from store_helpers import NOW_MS, clock, open_store, payload, snapshot

from fastkv import core
from fastkv.store import Retime

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store import Store
    from fastkv.store.transaction import Transaction

stepping.require_core()

BEFORE: Final = {b"replaced": b"old" * 9, b"removed": b"old", b"retimed": b"value", b"alone": b"a" * 400}
OPERATIONS: Final[dict[str, tuple[Callable[[Store], object], dict[bytes, bytes | None]]]] = {
    "puts": (
        lambda store: store.put_many([b"replaced", b"made", b"alone"], [b"new", b"2", b"3"], clock),
        {b"replaced": b"new", b"made": b"2", b"alone": b"3"},
    ),
    "removals": (
        lambda store: store.delete_many([b"removed", b"none", b"alone"], clock),
        {b"removed": None, b"alone": None},
    ),
    "a transaction": (
        lambda store: store.transact([*BEFORE, b"made"], change, clock),
        {b"replaced": b"new", b"made": b"made", b"removed": None},
    ),
}


def change(transaction: Transaction) -> None:
    transaction.put(b"replaced", b"new", clock, 1, NOW_MS + 9, b"metadata")
    transaction.delete(b"removed", clock)
    transaction.update(b"retimed", lambda _: Retime(NOW_MS + 5), clock)
    transaction.put(b"made", b"made", clock)


def close_open(store: Store) -> None:
    for shard in store._shards:
        with store._guard.holding(shard):
            for field in (3, 4):
                if store.words[shard.header + field]:
                    shard.close_open(shard.header + field)


OTHERS: Final = {b"%d" % number: payload(number, number * 20) for number in range(12)}


def prepare(store: Store) -> None:
    store.put_many(list(OTHERS), list(OTHERS.values()), clock)
    close_open(store)
    for key, value in BEFORE.items():
        store.put(key, value, clock)
        if key == b"alone":  # once it is dead its segment is free
            close_open(store)


@pytest.mark.parametrize("name", OPERATIONS)
def test_behind_no_store_is_a_new_word_beside_an_old_one(name: str) -> None:
    """A reader that has begun before looks at slots alone: old words are gone before it sees a new one."""
    operation, after = OPERATIONS[name]
    with open_store(shards=2) as store:
        prepare(store)
        restore = snapshot(store)
        slots = {entry[4]: entry[5] for key in after if (entry := store.get(key, clock))}
        operation(store)
        slots |= {entry[4]: 0 for key in after if (entry := store.get(key, clock)) and entry[4] not in slots}
        states = set()
        restore()
        with Stepped(lambda: operation(store), core.changes, stepping.shared(store)) as process:
            while process.at:
                for _ in process.changes():
                    now = {slot: store.words[slot] for slot in slots}
                    old = any(word and now[slot] == word for slot, word in slots.items())
                    new = any(now[slot] not in (0, word) for slot, word in slots.items())
                    assert not (old and new)
                    states.add((old, new))
                process.enter()
                process.look()
            process.pid = 0  # it has ended
        assert (True, False) in states
        assert (False, False) in states
        assert ((False, True) in states) == any(after.values())


@pytest.mark.parametrize("name", OPERATIONS)
def test_death_behind_each_store_leaves_all_or_nothing(name: str) -> None:
    operation, after = OPERATIONS[name]
    died = 0
    with open_store(shards=2) as store:
        prepare(store)
        keys = [*BEFORE, b"made"]
        old = [BEFORE.get(key) for key in keys]
        new = [(BEFORE | after).get(key) for key in keys]
        assert old != new
        restore = snapshot(store)
        found = stepping.calls(lambda: operation(store), core.changes)
        assert len(found) > 10
        for call in found:
            restore()
            for steps in deaths(store, lambda: operation(store), core.changes, call):
                where = f"call {call}, step {steps}"
                left = snapshot(store)
                for turn in range(4):
                    left()
                    if turn == 0:
                        assert store.check() == [], where
                    if turn == 1:
                        operation(store)
                    if turn == 2:
                        store.put(b"replaced", b"next", clock)
                        assert store.get_values(keys[1:], clock) in (old[1:], new[1:]), where
                    else:
                        assert store.get_values(keys, clock) in ((old, new) if turn != 1 else (new,)), where
                    assert store.get_values(list(OTHERS), clock) == list(OTHERS.values()), where
                    assert store.check() == [], where
                died += 1
            assert store.get_values(keys, clock) == new
    assert died > 10
