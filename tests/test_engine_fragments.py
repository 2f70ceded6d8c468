"""Deaths while the core appends and buries fragments, behind each store: a value is whole, old or new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
import stepping
from stepping import deaths
from store_helpers import clock, open_store, payload, snapshot, value_of

from fastkv import core
from fastkv.store.layout import SH_OPEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store import Store

stepping.require_core()

OLD: Final = payload("old", 4600)
NEW: Final = payload("new", 1100)
OPERATIONS: Final[dict[str, tuple[Callable[[Store], object], bytes | None, int]]] = {
    "a put": (lambda store: store.put(b"key", NEW, clock), NEW, 2),
    "a removal": (lambda store: store.delete(b"key", clock), None, 1),
}
OTHERS: Final = {b"before": payload("before", 600), b"behind": payload("behind", 2700)}


@pytest.mark.parametrize("name", OPERATIONS)
def test_death_behind_each_store_leaves_a_whole_value(name: str) -> None:
    """A segment is closed and another one taken; of the old fragments one is the last one in its segment."""
    operation, new, most = OPERATIONS[name]
    died = 0
    with open_store() as store:
        store.put(b"before", OTHERS[b"before"], clock)
        (shard,) = store._shards
        with store._guard.holding(shard):
            shard.close_open(shard.header + SH_OPEN)
        store.put(b"key", OLD, clock)
        store.put(b"behind", OTHERS[b"behind"], clock)
        free = store._segments.free_count()
        restore = snapshot(store)
        found = stepping.calls(lambda: operation(store), core.fragments)
        assert len(found) == most
        # A segment that held nothing but a fragment is free; for a put another one was opened.
        assert store._segments.free_count() == free + (new is None)
        for call in found:
            restore()
            for steps in deaths(store, lambda: operation(store), core.fragments, call):
                where = f"call {call}, step {steps}"
                left = snapshot(store)
                for turn in range(3):
                    left()
                    if turn == 0:
                        assert store.check() == [], where
                        assert value_of(store, b"key") in (OLD, new), where
                    elif turn == 1:
                        operation(store)
                        assert value_of(store, b"key") == new, where
                    else:
                        store.put(b"next", b"value", clock)
                        assert value_of(store, b"key") in (OLD, new), where
                    assert {key: value_of(store, key) for key in OTHERS} == OTHERS, where
                    assert store.check() == [], where
                died += 1
            assert value_of(store, b"key") == new
    assert died > 5
