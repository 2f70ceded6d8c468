"""The compiled survey of a shard keeps and drops what the readable one does, whatever is in the arena."""

from __future__ import annotations

import ctypes
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
from store_helpers import KIB, MIB, NOW_MS, clock, end_of, open_store, payload, start
from test_core_engine import Pair, anything, engine_between_guards, store_of

from fastkv import core
from fastkv.store.layout import SEG_GENERATION, SEG_HEAD
from fastkv.store.verify import Verifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastkv.store import Store

if not core.COMPILED:
    pytest.skip(core.REASON, allow_module_level=True)

SHAPES: Final = ((MIB, 1, 4 * KIB), (MIB, 4, 4 * KIB), (4 * MIB, 2, 64 * KIB))


def fill(pair: Pair, chance: random.Random) -> None:
    """Entries of all kinds, some of them dead."""
    for number in range(500):
        key = b"key%d" % chance.randrange(500)
        if chance.random() < 0.03:
            key = key.ljust(241 + number % 60, b"k")
        size = chance.choice([0, 8, 60, 200]) if chance.random() < 0.97 else 5000
        deadline_ms = chance.choice([0, 0, NOW_MS + chance.randrange(1, 100)])
        metadata = chance.choice([b"", b"metadata"])
        value = payload(number, size)
        pair.do(lambda store: store.put(key, value, pair.clock, 3, deadline_ms, metadata))  # noqa: B023
        pair.do(lambda store: store.get(key, pair.clock))  # noqa: B023
        if chance.random() < 0.1:
            pair.do(lambda store: store.delete(b"key%d" % (number // 2), pair.clock))  # noqa: B023


def repair(store: Store) -> list[int]:
    """As after a death in each shard."""
    for shard in store._shards:
        shard.lock.acquire()
        store._guard.repair(shard)
        shard.lock.release()
    stats = store.stats()
    return [stats["entries"], stats["dropped"]]


def flipped(store: Store, chance: random.Random) -> list[tuple[int, int]]:
    """Words to be damaged, and what will stand there: slots, records, rows of the log."""
    words, segments, index = store.words, store._segments, store._index
    slots = [
        slot for shard in store._shards for page in index.pages(shard.number) for slot, _ in index.slots(page)
    ]
    log = [segment for shard in store._shards for segment in segments.log(shard.header)]
    locations = [store._arena.location_of(words[slot]) for slot in slots]
    places: list[Sequence[int]] = [
        slots,
        [slot & -8 for slot in slots],
        locations,
        [location + 1 for location in locations],
        [location + 3 for location in locations],
        [segments.row(segment) + field for segment in log for field in (SEG_HEAD, SEG_GENERATION)],
    ]
    found = []
    for _ in range(chance.choice([0, 1, 5, 50])):
        at = chance.choice(chance.choice(places))
        found.append((at, anything(chance, store, words[at])))
    if chance.random() < 0.2:  # one record, two slots that its key may stand in
        one = chance.choice(slots)
        found += [(other, words[one]) for other in range(one & -8, (one & -8) + 8) if not words[other]][:1]
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", SHAPES)
def test_arenas_are_equal_after_repairs(shape: Any, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    pair = Pair(*shape)
    chance = random.Random(seed)
    for _ in range(4):
        fill(pair, chance)
        damage = flipped(pair.stores[0], chance)
        for store in pair.stores:
            for at, word in damage:
                store.words[at] = word
        pair.do(repair)
        pair.compare()
        for store in pair.stores:
            # The head of a segment that an emptied shard has given back is set when it is taken again.
            assert [problem for problem in store.check() if "past its end" not in problem] == []
    capfd.readouterr()
    for store in pair.stores:
        store.close()


def test_ordinary_entries_are_never_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    entry_at = Verifier._entry_at

    def counting(verifier: Verifier, shard: int, generations: Any, slot: int, word: int) -> object:
        left.append(slot)
        return entry_at(verifier, shard, generations, slot, word)

    monkeypatch.setattr(Verifier, "_entry_at", counting)
    with open_store(4 * MIB, shards=2) as store:
        for number in range(5000):
            store.put(
                b"%d" % number, b"v" * (number % 200), clock, 0, number & 1 and NOW_MS, b"m" * (number & 3)
            )
        assert repair(store) == [5000, 0]
        assert left == []
        store.put(b"large", b"v" * 9000, clock)
        store.put(b"k" * 241, b"", clock)
        assert repair(store) == [5002, 0]
        assert len(left) == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_arena_leads_nowhere_else(seed: int) -> None:
    store = store_of(MIB + 36 * KIB, 2, 4 * KIB, compiled=True)
    chance = random.Random(seed)
    for number in range(600):
        store.put(b"key%d" % number, b"v" * chance.randrange(600), clock, 0, chance.choice([0, NOW_MS + 9]))

    def work() -> None:
        geometry = store.geometry
        memory, words, engine, _ = engine_between_guards(store)
        pages = [(shard.number, page) for shard in store._shards for page in store._index.pages(shard.number)]
        slots = [slot for _, page in pages for slot, _ in store._index.slots(page)]
        targets: list[Sequence[int]] = [
            range(geometry.digests_at),
            slots,
            [store._arena.location_of(store.words[slot]) for slot in slots],
            range(len(words)),
        ]
        for _ in range(60):
            ctypes.memmove(memory, bytes(store.counts), geometry.memory_bytes)
            for _ in range(chance.choice([1, 10, 100, 1000])):
                at = chance.choice(chance.choice(targets))
                words[at] = anything(chance, store, words[at])
            for shard in store._shards:
                surveyor = core.verify.Surveyor(engine, shard.number, list(store._segments.log(shard.header)))
                for owner, page in pages:
                    if owner == shard.number:
                        covers = chance.choice([1, 2, 3, chance.randrange(1, 1 << 64)])
                        surveyor.look_through(store._segments.base(page), covers, lambda slot, word: None)
                with suppress(ValueError):
                    surveyor.recount(shard.header)

    assert end_of(start(work)) == 0
    assert store.check() == []
    store.close()
