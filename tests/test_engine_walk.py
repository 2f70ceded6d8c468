"""The compiled walk, stepped: others step in at its instructions; deaths where it has changed something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import stepping
from store_helpers import clock, open_store, payload, snapshot
from test_core_walk import walked
from test_engine_disturbance import DISTURBANCES, before_a_split, found_at

from fastkv import core
from fastkv.steps import finish
from fastkv.store.cursors import Place
from fastkv.store.layout import BUCKET_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.scan import Walker

stepping.require_core()

# -- disturbed -------------------------------------------------------------------------------------------

_DISTURBING: Final = (
    *("overwrites what has a deadline", "puts another key at the very place", "evicts and reuses"),
    *("relocates and reuses", "splits its page and overwrites", "empties"),
)
# Of the instructions of a walk through a bucket, of which there are hundreds.
_STRIDE: Final = 3


class OneBucket:
    """The compiled walk for the bucket at which a read begins, and the readable walk for all others."""

    def __init__(self, walker: Walker[Any], bucket: int) -> None:
        self.readable, self.compiled = walker, walker.compiled
        self.bucket, self.used = bucket, False

    def slots(self, base: int, begin: int, end: int, *bounds: Any) -> Any:
        if self.used or self.compiled is None or begin != self.bucket:
            return self.readable.slots(base, begin, end, *bounds)
        self.used = True
        behind = self.bucket + BUCKET_WORDS
        stretches: tuple[Any, ...] = (
            self.compiled.slots(base, self.bucket, behind, *bounds),
            self.readable.slots(base, behind, end, *bounds),
        )
        found = [item for stretch in stretches for item in stretch[0]]
        return found, end, False, *(sum(stretch[at] for stretch in stretches) for at in (3, 4, 5))


@pytest.mark.parametrize("values", [False, True], ids=["keys", "entries"])
@pytest.mark.parametrize("name", _DISTURBING)
def test_a_walk_is_undisturbed_at_each_instruction(name: str, *, values: bool) -> None:
    prepare, act, _, _ = DISTURBANCES[name]
    with open_store() as store:
        prepare(store)
        scan: Any = store.scan if values else store.scan_keys
        walker = scan.__self__
        bucket = found_at(store)[0] % store.geometry.segment_words & -BUCKET_WORDS
        cursor = walker._cursors.encode(Place(0, 0, bucket)) if bucket else 0
        restore = snapshot(store)
        keys = [key for key, *_ in walked(store, values=False, cursor=cursor)]
        versions = [{key: store.get(key, clock) for key in keys}]
        allowed = set(walked(store, values=values))
        restore()
        act(store)
        versions.append({key: store.get(key, clock) for key, *_ in walked(store, values=False)})
        allowed |= set(walked(store, values=values))
        stay = {
            key
            for key, entry in versions[0].items()
            if entry and (after := versions[1].get(key)) and after[2] == entry[2] and after[3] == entry[3]
        }
        restore()
        one = OneBucket(walker, bucket)

        def read() -> list[tuple[bytes, ...]]:
            one.used = False
            return walked(store, values=values, cursor=cursor)

        walker.compiled = one
        with stepping.Reader(read, core.walk) as reader:
            passed = 0
            numbers = range(0, len(reader.path), _STRIDE)
            for number in numbers:
                if not reader.stand_before(number):
                    passed += 1
                    continue
                act(store)
                disturbed = bytes(store.counts)
                found = reader.result()
                assert set(found) <= allowed, f"instruction {number} of {len(reader.path)}"
                assert stay <= {key for key, *_ in found}, f"instruction {number} of {len(reader.path)}"
                assert bytes(store.counts) == disturbed
                restore()
            assert passed < len(numbers) // 4


# -- FLUSHALL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_steps", [False, True], ids=["at once", "in steps"])
def test_death_in_giving_back_is_survived(in_steps: bool) -> None:
    with open_store() as store:
        before_a_split(store)
        for number in range(60):
            store.put(b"%d" % number, payload(number, 400), clock)
        log = len(list(store._segments.log(store._shards[0].header)))
        flush: Callable[[], object] = (lambda: finish(store.flush_in_steps())) if in_steps else store.flush
        died = 0
        for steps in stepping.deaths(store, flush, core.walk):
            if died % 8 == 0:
                assert store.check() == [], f"step {steps}"
            assert store.put(b"key", b"value", clock), f"step {steps}"
            assert [key for (key,) in walked(store, values=False)] == [b"key"], f"step {steps}"
            assert store.check() == [], f"step {steps}"
            died += 1
        assert died >= 4 * log
        assert store.stats()["entries"] == 0
