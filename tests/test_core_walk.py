"""The compiled walk: the same entries in the same order with the same cursors as the readable one's."""

from __future__ import annotations

import ctypes
import random
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
from store_helpers import KIB, MIB, NOW_MS, SEED, clock, end_of, open_store, payload, start
from test_core_engine import Pair, anything, engine_between_guards, store_of

from fastkv import core
from fastkv.glob import Glob
from fastkv.steps import finish
from fastkv.store.scan import ENTRY_OVERHEAD, KeyScanner, Scanner, Walker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastkv.store import Store, Transaction

if not core.COMPILED:
    pytest.skip(core.REASON, allow_module_level=True)

SHAPES: Final = ((MIB, 1, 4 * KIB), (2 * MIB, 4, 4 * KIB), (4 * MIB, 2, 64 * KIB), (MIB, 8, 8 * KIB))
PATTERNS: Final = (
    *(b"*", b"", b"key7", b"key*", b"*7", b"*y1*", b"k*9", b"k*y*1", b"**1**", b"*\xff*", b"k\\ey1*"),
    *(b"*[7]", b"*1*2*3*", b"key?", b"key[1-4]*", b"*kkk*", b"no*", b"key1*key1", b"*ey*ey*"),
)


# -- the same as the readable one ------------------------------------------------------------------------


def change(pair: Pair, chance: random.Random, number: int) -> None:
    """Put an entry of any kind, or remove one."""
    key = b"key%d" % chance.randrange(800)
    kind = chance.random()
    if kind < 0.02:
        key = key.ljust(chance.choice([239, 240, 241, 300]), b"k")
    elif kind < 0.04:
        key += b"\xff\0"
    size = chance.choice([0, 8, 60, 200]) if chance.random() < 0.97 else chance.choice([5000, 20_000])
    deadline_ms = chance.choice([0, 0, pair.clock() + chance.randrange(1, 60)])
    metadata = chance.choice([b"", b"", b"metadata", b"m" * 255])
    value = payload(number, size)
    if chance.random() < 0.2:
        pair.do(lambda store: store.delete(key, pair.clock))
    else:
        pair.do(lambda store: store.put(key, value, pair.clock, number % 256, deadline_ms, metadata))


def walked(store: Store, *, values: bool, cursor: int = 0) -> list[tuple[bytes, ...]]:
    """All that a walk finds, from a cursor on."""
    found: list[tuple[bytes, ...]] = []
    begun = False
    while cursor or not begun:
        if values:
            some, cursor = store.scan(cursor, clock, MIB, 1000)
            found += [(key, value, metadata) for key, value, *_, metadata in some]
        else:
            page = store.scan_keys(cursor, clock, MIB, 1000)
            found += [(key,) for key in page.found]
            cursor = page.cursor
        begun = True
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", SHAPES)
def test_walks_are_equal_while_entries_come_and_go(shape: Any, seed: int) -> None:
    pair, chance = Pair(*shape), random.Random(seed)
    now_ms = NOW_MS
    cursors = [0, 0]
    for number in range(3000):
        change(pair, chance, number)
        if number % 7 == 0:
            now_ms += 1
            pair.clock.freeze(now_ms)
        if number % 3 == 0:
            limits = chance.choice([1, 100, 3000, MIB]), chance.choice([1, 2, 10, 300])
            glob = chance.choice([None, *map(Glob, PATTERNS)])
            page = pair.do(lambda store: store.scan_keys(cursors[0], pair.clock, *limits, glob))  # noqa: B023
            cursors[0] = page.cursor  # type: ignore[attr-defined]
            found = pair.do(lambda store: store.scan(cursors[1], pair.clock, *limits))  # noqa: B023
            cursors[1] = found[1]  # type: ignore[index]
        if number % 1000 == 999:
            pair.compare()
            flush = chance.choice([lambda store: store.flush(), lambda store: finish(store.flush_in_steps())])
            if chance.random() < 0.5:
                pair.do(flush)
                pair.compare()
    pair.compare()
    pair.close()


@pytest.mark.parametrize("seed", range(3))
def test_walks_are_equal_in_transactions(seed: int) -> None:
    pair, chance = Pair(MIB, 4, 4 * KIB), random.Random(seed)
    for number in range(1000):
        change(pair, chance, number)

    def body(transaction: Transaction) -> list[Any]:
        begun = random.Random(seed)
        for number in range(60):
            key = b"key%d" % begun.randrange(900)
            if number % 3:
                transaction.put(key, b"new", pair.clock)
            else:
                transaction.delete(key, pair.clock)
        found: list[Any] = []
        for pattern in (None, Glob(b"key1*"), Glob(b"key[1-4]*")):
            cursor = 0
            while cursor or not found or found[-1].cursor == 0:
                found.append(transaction.scan_keys(cursor, pair.clock, 3000, 50, pattern))
                cursor = found[-1].cursor
                if not cursor:
                    break
        found.append(transaction.scan(0, pair.clock, MIB, 1000))
        return found

    pair.do(lambda store: store.transact(None, body, pair.clock))
    pair.compare()
    pair.close()


def test_what_is_ordinary_is_never_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    left = Counter[str]()
    slots = Walker.slots

    def counting(walker: Walker[Any], *arguments: Any) -> Any:
        left[type(walker).__name__] += 1
        return slots(walker, *arguments)

    monkeypatch.setattr(Walker, "slots", counting)
    with open_store(4 * MIB, shards=2) as store:
        for number in range(5000):
            deadline_ms = (number & 1) and NOW_MS + number
            store.put(b"%d" % number, b"v" * (number % 200), clock, 0, deadline_ms, b"m" * (number & 3))
        met = 0
        for cursor_of in (store.scan_keys, store.scan):
            cursor, begun = 0, False
            while cursor or not begun:
                found, cursor, *_ = cursor_of(cursor, clock, MIB, 1000)
                met += len(found)
                begun = True
        assert (met, left) == (10_000, {})
        store.put(b"large", b"v" * 9000, clock)
        store.put(b"k" * 241, b"", clock)
        assert len(walked(store, values=False)) == len(walked(store, values=True)) == 5002
        assert left == {"Scanner": 1, "KeyScanner": 1}


def test_patterns_match_as_the_readable_matcher_says() -> None:
    chance = random.Random(SEED)
    with open_store(4 * MIB, shards=2) as store:
        keys = {bytes(chance.choices(b"ab*", k=chance.randrange(1, 9))) for _ in range(2000)}
        keys |= {b"ab" * 120, b"a" * 239 + b"b", b"b" * 300}
        for key in keys:
            store.put(key, b"", clock)
        for _ in range(150):
            pattern = bytes(chance.choices(b"aab*", k=chance.randrange(8)))
            glob, anything_like = Glob(pattern), Glob(pattern)
            anything_like.parts = None
            found: list[bytes] = []
            cursor, begun = 0, False
            while cursor or not begun:
                page = store.scan_keys(cursor, clock, MIB, 300, glob)
                found += page.found
                cursor, begun = page.cursor, True
            assert sorted(found) == sorted(filter(anything_like.matches, keys)), pattern


def test_each_key_comes_once_from_a_shard_that_is_left_behind() -> None:
    """What ``settled`` says: no key of a shard is met again once the walk is in another one."""
    with open_store(4 * MIB, shards=8) as store:
        for number in range(2000):
            store.put(b"%d" % number, b"", clock)
        shards, current, cursor, begun = list[set[bytes]](), set[bytes](), 0, False
        while cursor or not begun:
            page = store.scan_keys(cursor, clock, MIB, 70)
            if page.settled >= 0:
                shards.append(current | set(page.found[: page.settled]))
                current = set(page.found[page.settled :])
            else:
                current |= set(page.found)
            cursor, begun = page.cursor, True
        of = [{store._arena.shard_of(store._arena.hash_of(key)) for key in shard} for shard in shards]
        assert sum(map(len, shards)) == 2000
        assert len(of) > 1
        assert sum(map(len, of)) == 8


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_what_stays_is_seen_while_pages_are_split_and_entries_evicted(seed: int, compiled: bool) -> None:
    chance = random.Random(seed)
    store = store_of(MIB, chance.choice([1, 4]), 4 * KIB, compiled=compiled)
    for number in range(700):
        store.put(b"stays %d" % number, b"", clock)
    before = {key: store.get(key, clock) for key, *_ in store.scan(0, clock, MIB, 10_000)[0]}
    seen: list[set[bytes]] = []
    splits = store.stats()["index_pages"]
    for values in (False, True):
        found, cursor, begun = set[bytes](), 0, False
        while cursor or not begun:
            if values:
                some, cursor = store.scan(cursor, clock, MIB, 40)
                found |= {key for key, *_ in some}
            else:
                page = store.scan_keys(cursor, clock, MIB, 40)
                found |= set(page.found)
                cursor = page.cursor
            begun = True
            for _ in range(chance.randrange(150)):
                size = chance.choice([0, 0, 200, 2000])
                store.put(b"other %d" % chance.randrange(1 << 30), bytes(size), clock)
        seen.append(found)
    assert store.stats()["index_pages"] > splits
    assert store.stats()["evictions"] > 0
    for key, entry in before.items():
        after = store.get(key, clock)
        if entry and after and entry[2] == after[2]:
            assert all(key in found for found in seen), key
    assert store.check() == []
    store.close()


# -- FLUSHALL --------------------------------------------------------------------------------------------


def test_the_pool_is_recovered_where_its_owner_has_died() -> None:
    with open_store(shards=2) as store:
        for number in range(400):
            store.put(b"%d" % number, payload(number, 300), clock)

        def die() -> None:
            store._segments.lock.acquire()

        assert end_of(start(die)) == 0
        assert store.flush() == 400
        assert store.check() == []


def test_a_busy_pool_is_waited_for_by_the_readable_one() -> None:
    with open_store() as store:
        log = core.walk.Log(store.engine)  # type: ignore[arg-type]
        store.put(b"key", b"", clock)
        (segment,) = store._segments.log(store._shards[0].header)
        before = bytes(store.counts)
        store._segments.lock.acquire()
        assert log.give_back(0, [segment]) == 0
        store._segments.lock.release()
        for wrong in ([0], [store.geometry.segments], [(1 << 64) - 1], store._index.pages(0)):
            assert log.give_back(0, wrong) == 0
        assert log.give_back(1, [segment]) == 0
        assert bytes(store.counts) == before
        assert not store._segments.lock.is_held(lambda: None)


# -- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_damaged_walks_are_equal(seed: int) -> None:
    pair, chance = Pair(MIB, 2, 4 * KIB), random.Random(seed)
    for number in range(900):
        change(pair, chance, number)
    clean = bytes(pair.stores[0].counts)
    pair.compare()
    slots = [
        slot
        for shard in pair.stores[0]._shards
        for page in pair.stores[0]._index.pages(shard.number)
        for slot, _ in pair.stores[0]._index.slots(page)
    ]
    locations = [pair.stores[0]._arena.location_of(pair.stores[0].words[slot]) for slot in slots]
    for _ in range(40):
        for _ in range(chance.choice([1, 5, 40])):
            at = chance.choice(chance.choice([slots, locations])) + chance.choice([0, 0, 1, 2])
            word = anything(chance, pair.stores[0], pair.stores[0].words[at])
            for store in pair.stores:
                store.words[at] = word
        pair.do(lambda store: walked(store, values=False))
        pair.do(lambda store: walked(store, values=True))
        if chance.random() < 0.2:
            for store in pair.stores:
                store.counts[:] = clean
    for store in pair.stores:
        store.counts[:] = clean
    pair.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_arena_leads_nowhere_else(seed: int) -> None:
    store = store_of(MIB + 36 * KIB, 2, 4 * KIB, compiled=True)
    chance = random.Random(seed)
    for number in range(600):
        key = b"key%d" % number
        value, deadline_ms = b"v" * chance.randrange(600), chance.choice([0, NOW_MS + 9])
        store.put(key, value, clock, 0, deadline_ms, b"m" * (number & 1))

    def work() -> None:
        geometry = store.geometry
        memory, words, engine, _ = engine_between_guards(store)
        readable: Any = SimpleNamespace(slots=lambda base, start, *_: ([], start + 1, False, 1, 0, 0))
        walks = [core.walk.Walk(engine, readable, with_values) for with_values in (True, False)]
        pages = [page for shard in store._shards for page in store._index.pages(shard.number)]
        bases = list(map(store._segments.base, pages))
        slots = [slot for page in pages for slot, _ in store._index.slots(page)]
        logs = [list(store._segments.log(shard.header)) for shard in store._shards]
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
            glob = Glob(chance.choice(PATTERNS))
            for base in (*bases, 0, len(words) - geometry.segment_words, len(words), 8, (1 << 64) - 512):
                for walk in walks:
                    walk.slots(base, 0, geometry.segment_words, MIB, 1000, NOW_MS, True, glob)
                    walk.slots(base, 0, geometry.segment_words + 1, MIB, 1000, NOW_MS, True, glob)
                    walk.key_at(base + chance.randrange(geometry.segment_words) & (1 << 64) - 1, NOW_MS)
            for shard, log in enumerate(logs):
                core.walk.Log(engine).give_back(shard, log)

    assert end_of(start(work)) == 0
    assert store.check() == []
    store.close()


def test_of_a_closed_store_nothing_is_read() -> None:
    with open_store() as store:
        store.put(b"key", b"", clock)
        readable: Any = SimpleNamespace(slots=lambda *_: ("left",))
        engine: Any = store.engine
        walk, log = core.walk.Walk(engine, readable, False), core.walk.Log(engine)
    left: Any = walk.slots(0, 0, 1, 1, 1, 1, True, None)
    assert left == ("left",)
    assert walk.key_at(0, NOW_MS) is None
    assert log.give_back(0, [1]) == 0


def test_a_pattern_of_more_parts_is_a_mistake() -> None:
    with open_store() as store:
        store.put(b"key", b"", clock)
        glob: Any = SimpleNamespace(parts=(b"",) * 4)
        with pytest.raises(ValueError, match="one part to three"):
            store.scan_keys(0, clock, MIB, 1, glob)


def test_entries_count_alike() -> None:
    """The core has the overhead of an entry as a number of its own."""
    with open_store() as store:
        for number in range(9):
            store.put(b"%d" % number, b"", clock)
        for entries in range(1, 9):
            for scan in (store.scan_keys, store.scan):
                assert len(scan(0, clock, entries * (ENTRY_OVERHEAD + 1), 100)[0]) == entries
                assert len(scan(0, clock, entries * (ENTRY_OVERHEAD + 1) - 1, 100)[0]) == max(entries - 1, 1)
        assert isinstance(store.scan.__self__, Scanner)  # type: ignore[attr-defined]
        assert isinstance(store.scan_keys.__self__, KeyScanner)  # type: ignore[attr-defined]
