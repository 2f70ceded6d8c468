"""Death at every point of a transaction: all of it has happened, or nothing, and nobody ever sees the half.

As in test_store_repair a process is killed before its n-th opcode; then others look, in every way there is.
"""

from __future__ import annotations

import os
import signal
from contextlib import closing, suppress
from functools import partial
from itertools import count, permutations
from typing import TYPE_CHECKING

import pytest
from kept_helpers import GEOMETRY, THEN, reopen
from store_helpers import (
    KIB,
    NOW_MS,
    at_opcode,
    clock,
    deaths,
    dies_at,
    end_of,
    fill_until_evicted,
    open_store,
    payload,
    snapshot,
    start,
    value_of,
)

from fastkv.errors import StoreBusy
from fastkv.steps import finish
from fastkv.store import Retime, Store
from fastkv.store.datafile import DataDirectory
from fastkv.store.layout import (
    COMMITTED,
    FLUSHING,
    IDLE,
    PREPARED,
    REDO,
    REDO_COUNT,
    REDO_FIRST,
    REDO_STATE,
    SEG_STATE,
    SEGMENT_ROW,
)
from fastkv.store.redo import Redo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastkv.store import Entry, Transaction

State = dict[bytes, tuple[bytes, int] | None]

LARGE, OTHER = payload("large", 9000), payload("other", 5000)
SHARDS = 4

# What is there, and what a transaction makes of it: values and deadlines, None for nothing.
BEFORE: State = {
    b"replaced": (b"old", 0),
    b"lengthened": (b"old", NOW_MS + 1),
    b"shrunk": (LARGE, 0),
    b"removed": (b"old", 0),
    b"deleted, large": (LARGE, 0),
    b"retimed": (b"value", NOW_MS + 1),
    b"retimed, large": (LARGE, 0),
    b"made": None,
    b"made, large": None,
    b"left": (b"left", 0),
}
AFTER: State = BEFORE | {
    b"replaced": (b"new", 0),
    b"lengthened": (OTHER, 0),
    b"shrunk": (b"new", NOW_MS + 2),
    b"removed": None,
    b"deleted, large": None,
    b"retimed": (b"value", 0),
    b"retimed, large": (LARGE, NOW_MS + 3),
    b"made": (b"new", 0),
    b"made, large": (OTHER, NOW_MS + 4),
}
# Without large values: the compiled engine has the loops of it, where there is one.
ORDINARY: State = {**BEFORE, **{key: AFTER[key] for key in (b"replaced", b"removed", b"retimed", b"made")}}
EMPTY: State = dict.fromkeys(BEFORE)
KEYS = list(BEFORE)
CHANGED = [key for key in KEYS if BEFORE[key] != AFTER[key]]


def metadata_of(value: bytes) -> bytes:
    """What an entry has besides its value: some nothing, some much."""
    return b"" if value in (b"value", b"next") else value[:200]


def prepare(store: Store) -> None:
    for key, entry in BEFORE.items():
        if entry:
            store.put(key, entry[0], clock, 5, entry[1], metadata_of(entry[0]))
    for i in range(20):
        store.put(b"bystander %d" % i, payload(i, i * 20), clock)


def change(transaction: Transaction, to: State = AFTER) -> None:
    for key in CHANGED:
        after = to[key]
        before = BEFORE[key]
        if after == before:
            continue
        if after is None:
            assert transaction.delete(key, clock)
        elif before and before[0] == after[0]:
            transaction.update(key, lambda _, ms=after[1]: Retime(ms), clock, with_value=False)  # type: ignore[misc]
        else:
            transaction.put(key, after[0], clock, 5, after[1], metadata_of(after[0]))


def transact(store: Store) -> None:
    store.transact(CHANGED, change, clock)


def transact_ordinarily(store: Store) -> None:
    store.transact(CHANGED, lambda transaction: change(transaction, ORDINARY), clock)


def flush(store: Store) -> None:
    store.flush()


# Operations: what they leave, and whether the bystanders stay.
OPERATIONS: dict[str, tuple[Callable[[Store], None], State, bool]] = {
    "transaction": (transact, AFTER, True),
    "ordinary transaction": (transact_ordinarily, ORDINARY, True),
    "flush": (flush, EMPTY, False),
}


def told(entry: Entry | None) -> tuple[bytes, int] | None:
    assert entry is None or entry[6] == metadata_of(entry[0])
    return entry and (entry[0], entry[3])


def one_by_one(store: Store) -> State:
    return {key: told(store.get(key, clock)) for key in KEYS}


def backwards(store: Store) -> State:
    return {key: told(store.get(key, clock)) for key in reversed(KEYS)}


def together(store: Store) -> State:
    return dict(zip(KEYS, map(told, store.get_many(KEYS, clock)), strict=True))


def walking(store: Store) -> State:
    found: State = dict.fromkeys(KEYS)
    cursor = 0
    while True:
        entries, cursor = store.scan(cursor, clock, 1 << 30, 7)
        found |= {key: (value, ms) for key, value, _, _, ms, _ in entries if key in found}
        if not cursor:
            return found


def in_a_transaction(store: Store) -> State:
    return store.transact(
        None, lambda inner: {key: told(inner.get(key, clock)) for key in reversed(KEYS)}, clock
    )


def after_a_write(store: Store) -> State:
    assert store.put(b"bystander 0", payload(0, 0), clock)
    return one_by_one(store)


def after_a_check(store: Store) -> State:
    assert store.check() == []
    return backwards(store)


LOOKS = [one_by_one, together, backwards, walking, in_a_transaction, after_a_write, after_a_check]


def assert_sound(found: State, after: State, look: Callable[[Store], State]) -> None:
    """All or nothing; only of a flush, by who looks one after the other: first nothing yet, then all."""
    changed = [key for key in KEYS if BEFORE[key] != after[key]]
    if look in (backwards, after_a_check):
        changed.reverse()
    assert all(found[key] in (BEFORE[key], after[key]) for key in KEYS), look.__name__
    seen = [found[key] == after[key] for key in changed]
    if after is EMPTY and look in (one_by_one, backwards, walking):
        seen = [seen[-1]] if seen == sorted(seen) or look is walking else seen
    assert len(set(seen)) == 1, look.__name__


def assert_usable(store: Store, *, bystanders: bool) -> None:
    for i in range(20):
        value = value_of(store, b"bystander %d" % i)
        assert value in (payload(i, i * 20), b"new") if bystanders else value in (None, b"", b"new")
    store.transact(
        [*KEYS, b"bystander 1"], lambda inner: [inner.put(key, b"next", clock) for key in KEYS], clock
    )
    assert one_by_one(store) == dict.fromkeys(KEYS, (b"next", 0))
    assert store.check() == []


def raw(store: Store, words: dict[int, int]) -> set[str]:
    """What a reader sees that only compares slots with their old words, as one without a lock does."""
    return {"there" if store.words[slot] == word else "gone" for slot, word in words.items()}


def slots(store: Store, keys: list[bytes]) -> dict[int, int]:
    entries = [store.get(key, clock) for key in keys]
    return {entry[4]: entry[5] for entry in entries if entry}


@pytest.mark.parametrize(
    ("name", "modules", "stride"),
    [
        ("transaction", "redo", 1),
        ("transaction", "commit shard.begin_steps shard.end_steps", 7),
        ("transaction", "*", 97),
        ("transaction", "segments", 11),
        ("ordinary transaction", "redo commit", 5),
        ("ordinary transaction", "*", 41),
        ("flush", "redo", 11),
        ("flush", "commit index.merge", 3),
        ("flush", "*", 31),
    ],
)
def test_death_at_any_point_leaves_all_or_nothing(name: str, modules: str, stride: int) -> None:
    operation, after, bystanders = OPERATIONS[name]
    with open_store(shards=SHARDS) as store:
        prepare(store)
        old = slots(store, [key for key in CHANGED if BEFORE[key] != after[key]])
        died = 0
        seen = set()
        for at in deaths(store, lambda: operation(store), modules, stride):
            look = LOOKS[died % len(LOOKS)]
            found = look(store)
            assert_sound(found, after, look)
            # Whoever looks next, and however, sees the same.
            found = one_by_one(store)
            assert_sound(found, after, after_a_write if found == after else one_by_one)
            seen.add(found == after)
            if found == after:
                assert raw(store, old) == {"gone"}, f"opcode {at}"
            assert store.check() == [], f"opcode {at}, {look.__name__}"
            assert_usable(store, bystanders=bystanders or found == BEFORE)
            assert store.stats()["dropped"] == 0
            died += 1
        assert died > 30
        assert seen == {True, False}
        assert one_by_one(store) == after


@pytest.mark.parametrize(("modules", "stride"), [("commit index.merge transactions", 3), ("*", 31)])
def test_death_while_shards_are_flushed_one_by_one_leaves_each_entry_or_none(
    modules: str, stride: int
) -> None:
    with open_store(shards=SHARDS) as store:
        prepare(store)
        died = 0
        for at in deaths(store, lambda: finish(store.flush_in_steps()), modules, stride):
            died += 1
            found = LOOKS[died % len(LOOKS)](store)
            assert all(found[key] in (BEFORE[key], None) for key in KEYS), f"opcode {at}"
            assert store.check() == [], f"opcode {at}"
            for key in KEYS:
                store.put(key, b"next", clock)
            assert one_by_one(store) == dict.fromkeys(KEYS, (b"next", 0))
            finish(store.flush_in_steps())
            assert one_by_one(store) == EMPTY
            assert store.check() == [], f"opcode {at}"
        assert died > 20
        assert one_by_one(store) == EMPTY


@pytest.mark.parametrize("name", OPERATIONS)
def test_at_no_moment_is_anything_new_seen_before_something_old(name: str) -> None:
    """Between any two steps somebody looks: once one of the keys is as it will be, no other is as it was."""
    operation, after, _ = OPERATIONS[name]
    changed = [key for key in KEYS if BEFORE[key] != after[key]]
    pairs = list(permutations(changed, 2))
    with open_store(shards=SHARDS, lock_wait_ms=0) as store:
        prepare(store)
        old = slots(store, changed)
        turns = count()
        states: set[tuple[bool, ...]] = set()

        def look() -> None:
            seen: list[bool] = []
            for key in pairs[next(turns) % len(pairs)]:
                with suppress(StoreBusy):  # who has to wait for the lock has seen nothing yet
                    entry = told(store.get(key, clock))
                    assert entry in (BEFORE[key], after[key])
                    seen.append(entry == after[key])
            assert seen == sorted(seen), "first new, then old"
            states.add(tuple(seen))
            if any(seen):
                assert raw(store, old) == {"gone"}, "something new is seen, and something old is still there"

        at_opcode(1, look, lambda: operation(store), "redo commit", stride=1)
        assert one_by_one(store) == after
        assert {(False, False), (), (True, True)} <= states


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("where", ["publication", "elsewhere"])
def test_an_error_at_any_point_leaves_all_or_nothing(name: str, where: str) -> None:
    """As a death, but the process lives on: it has resolved and repaired everything when the error passes."""
    operation, after, bystanders = OPERATIONS[name]

    def fail() -> None:
        raise ZeroDivisionError

    modules = PUBLICATION if where == "publication" else "redo.write commit"
    with open_store(shards=SHARDS, lock_wait_ms=0) as store:
        prepare(store)
        restore = snapshot(store)
        at, failures = 1, 0
        while True:
            code = end_of(start(lambda at=at: fails_at(store, at, fail, operation, modules)))  # type: ignore[misc]
            if code == 3:
                break
            assert code in (0, 70)
            found = LOOKS[failures % len(LOOKS)](store)
            assert found in (BEFORE, after), f"opcode {at}"
            assert one_by_one(store) == found
            assert store.check() == []
            assert_usable(store, bystanders=bystanders or found == BEFORE)
            restore()
            failures += 1
            at += STRIDES.get((name, where), 7)
        assert failures > (10 if name == "ordinary transaction" else 20)


def fails_at(
    store: Store, at: int, fail: Callable[[], None], operation: Callable[[Store], None], modules: str
) -> None:
    """Fail at an opcode; ends the process with 3 if there are fewer."""
    try:
        at_opcode(at, fail, lambda: operation(store), modules)
    except ZeroDivisionError:
        assert store.words[REDO_STATE] == IDLE
        return
    os._exit(3)


# So many opcodes from one error to the next.
STRIDES = {
    ("transaction", "publication"): 5,
    ("transaction", "elsewhere"): 17,
    ("ordinary transaction", "publication"): 2,
}

# At which opcodes of an operation which state is pending: the same ones for each store with the same seed.
REACHED: dict[str, list[int]] = {}
PUBLICATION = "redo.publish redo.empty redo.fill redo.publish_flush redo.resolve"


def pending(store: Store, name: str, state: int, progress: float) -> None:
    """Leave a transaction pending: its process dies after so much of the time that it is in this state."""
    operation, _, _ = OPERATIONS[name]
    if name not in REACHED:
        restore = snapshot(store)
        states = [IDLE]
        at_opcode(
            1,
            lambda: states.append(store.words[REDO_STATE]),
            lambda: operation(store),
            PUBLICATION,
            stride=1,
        )
        restore()
        REACHED[name] = states
    reached = [at for at, found in enumerate(REACHED[name]) if found == state]
    assert dies_at(reached[int(progress * (len(reached) - 1))], lambda: operation(store), PUBLICATION)
    assert store.words[REDO_STATE] == state


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "state"), [("transaction", PREPARED), ("transaction", COMMITTED), ("flush", FLUSHING)]
)
def test_death_of_who_resolves_is_survived(name: str, state: int, progress: float) -> None:
    _, after, bystanders = OPERATIONS[name]
    expected = BEFORE if state == PREPARED else after
    with open_store(shards=SHARDS) as store:
        prepare(store)
        pending(store, name, state, progress)
        left = snapshot(store)
        ways: list[Callable[[], object]] = [
            lambda: [store.get(key, clock) for key in (b"replaced", b"retimed, large")],
            lambda: store.delete(b"absent", clock),
            lambda: store.transact([b"absent"], lambda _: None, clock),
        ]
        died = 0
        for way in ways:
            for modules, stride in (("redo", 31 if name == "transaction" else 499), ("*", 2999)):
                left()
                for at in deaths(store, way, modules, stride):
                    look = LOOKS[died % len(LOOKS)]
                    if expected is EMPTY:  # nobody may have learned yet that it is pending
                        assert_sound(look(store), expected, look)
                        assert together(store) in (BEFORE, expected)
                    else:
                        assert look(store) == expected, f"opcode {at} of {modules}"
                        assert one_by_one(store) == expected
                    assert store.check() == []
                    assert_usable(store, bystanders=bystanders or expected is BEFORE)
                    died += 1
        assert died > 20


def test_several_that_repair_at_once_do_not_wait_for_each_other() -> None:
    """Each takes another shard of the dead first; one resolves, and none waits for what another one has."""
    with open_store(shards=SHARDS, lock_wait_ms=20_000) as store:
        prepare(store)
        pending(store, "transaction", COMMITTED, 0.5)
        left = snapshot(store)
        for turn in range(20):
            pids = [
                start(lambda shard=shard: store._guard.holding(store._shards[shard]).__enter__())  # type: ignore[misc]
                if turn % 2
                else start(lambda shard=shard: LOOKS[shard](store))  # type: ignore[misc]
                for shard in range(SHARDS)
            ]
            assert one_by_one(store) == AFTER
            assert [end_of(pid) for pid in pids] == [0] * SHARDS
            assert one_by_one(store) == AFTER
            assert store.check() == []
            left()
        assert one_by_one(store) == AFTER


# -- over restarts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "modules", "stride"),
    [("transaction", "redo", 5), ("transaction", "*", 487), ("flush", "redo", 37), ("flush", "*", 211)],
)
def test_after_a_kill_of_all_a_restart_finds_all_or_nothing(
    tmp_path: Path, name: str, modules: str, stride: int
) -> None:
    operation, after, bystanders = OPERATIONS[name]
    with closing(DataDirectory(tmp_path)) as directory:
        store, keeper = reopen(directory)
        prepare(store)
        keeper.save_clock(THEN)
        saved = bytes(store.counts)
        at, seen, died = 1, [], True
        while died:
            died = dies_at(at, partial(operation, store), modules)
            store.close()
            store, _ = reopen(directory)
            for look in (one_by_one, together) if at % 2 else (together, backwards):
                found = look(store)
                assert found in (BEFORE, after), f"opcode {at}, {look.__name__}"
            seen.append(found)
            store.verify()
            assert one_by_one(store) == found
            assert store.check() == [], f"opcode {at}"
            assert_usable(store, bystanders=bystanders or found == BEFORE)
            assert store.stats()["dropped"] == 0
            store.counts[:] = saved
            at += stride
        assert len(seen) > 20
        assert seen[0] == BEFORE
        assert seen[-1] == after
        store.close()


def damage_list(words: memoryview[int]) -> None:
    at = words[REDO_FIRST] * GEOMETRY.segment_words + 3
    words[at] ^= 1 << 40


def damage_count(words: memoryview[int]) -> None:
    words[REDO_COUNT] = 1 << 60


def damage_first(words: memoryview[int]) -> None:
    words[REDO_FIRST] = (1 << 64) - 1


def damage_pages(words: memoryview[int]) -> None:
    """No page is one any more: nothing may be written there."""
    rows = range(GEOMETRY.table_at, GEOMETRY.table_at + GEOMETRY.segments * SEGMENT_ROW, SEGMENT_ROW)
    for row in rows:
        if words[row + SEG_STATE] & 0xFF != REDO:
            words[row + SEG_STATE] = 0


def damage_state(words: memoryview[int]) -> None:
    words[REDO_STATE] = 77


@pytest.mark.parametrize(
    "damage", [damage_list, damage_count, damage_first, damage_pages, damage_state], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("state", [PREPARED, COMMITTED])
def test_a_damaged_list_is_ignored_and_no_value_is_wrong(
    tmp_path: Path, damage: Callable[[memoryview[int]], None], state: int
) -> None:
    with closing(DataDirectory(tmp_path)) as directory:
        store, keeper = reopen(directory)
        prepare(store)
        keeper.save_clock(THEN)
        pending(store, "transaction", state, 0.5)
        assert len(list(store._redo._read())) == len(CHANGED)
        damage(store.words)
        assert list(store._redo._read()) == [] or damage is damage_state
        store.close()
        store, _ = reopen(directory)
        for _ in range(2):
            for key, entry in one_by_one(store).items():
                assert entry in (BEFORE[key], AFTER[key], None)
            store.verify()
        assert store.check() == []
        assert_usable(store, bystanders=damage is not damage_pages)
        store.close()


def test_a_long_list_takes_several_segments() -> None:
    keys = [b"%d" % i for i in range(600)]
    with open_store(shards=SHARDS) as store:
        store.transact(keys, lambda inner: [inner.put(key, b"old", clock) for key in keys], clock)
        pages = store.stats()["index_pages"]

        def replace() -> None:
            store.transact(keys, lambda inner: [inner.put(key, b"new", clock) for key in keys], clock)

        assert store._redo.segments_for(len(keys)) > 3
        restore = snapshot(store)
        opcodes = at_opcode(0, clock, replace, "redo.publish")
        restore()
        for _ in deaths(store, replace, "redo.publish", opcodes // 12):
            values = {value_of(store, key) for key in keys}
            assert values in ({b"old"}, {b"new"})
            assert store.stats()["index_pages"] == pages
            assert store.check() == []


@pytest.mark.parametrize(
    ("full", "modules"),
    [(False, "commit._place commit._run_changes shard.make_vacancy index.split"), (False, "*"), (True, "*")],
)
def test_death_while_slots_or_room_are_made_leaves_all_or_nothing(full: bool, modules: str) -> None:
    """The new keys want pages to be split, or others to be evicted first."""
    keys = [b"new %d" % i for i in range(12 if full else 400)]
    value = payload("new", 2000 if full else 1)

    def make() -> None:
        store.transact(keys, lambda inner: [inner.put(key, value, clock) for key in keys], clock)

    with open_store(shards=2) as store:
        if full:
            fill_until_evicted(store, "old", lambda i: payload(i, 900))
        else:
            for i in range(500):
                store.put(b"old%d" % i, payload(i, 20), clock)
        before = store.stats()
        seen = []
        restore = snapshot(store)
        opcodes = at_opcode(0, clock, make, modules)
        restore()
        for at in deaths(store, make, modules, opcodes // 40):
            found = {value_of(store, key) for key in keys}
            assert found in ({None}, {value}), f"opcode {at}"
            seen.append(found)
            for i in range(500):
                old = value_of(store, b"old%d" % i)
                assert old == payload(i, 900 if full else 20) or (full and old is None)
            assert store.check() == []
            make()
            assert {value_of(store, key) for key in keys} == {value}
            assert store.stats()["dropped"] == 0
        assert len(seen) > 20
        assert seen[0] == {None}
        assert {value_of(store, key) for key in keys} == {value}
        make()
        assert (store.stats()["evictions"] > before["evictions"]) == full
        assert store.stats()["index_pages"] > before["index_pages"] or full


def test_a_clean_stop_leaves_nothing_pending(tmp_path: Path) -> None:
    with closing(DataDirectory(tmp_path)) as directory:
        store, _ = reopen(directory)
        prepare(store)
        pending(store, "transaction", COMMITTED, 0.5)
        assert store.settle(THEN)
        assert store.words[REDO_STATE] == IDLE
        store.close()
        store, keeper = reopen(directory)
        assert keeper.why == "The last stop was a clean one."
        assert one_by_one(store) == AFTER
        assert store.check() == []
        store.close()


def test_the_check_finds_what_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(shards=2, segment_bytes=4 * KIB) as store:
        store.words[REDO_STATE] = 77
        assert store.check() == ["a transaction is pending, in the state 77"]
        store.words[REDO_STATE] = IDLE
        segment = store._segments.take(0, REDO)
        assert store.check() == [f"segment {segment} has the state {REDO:#x}"]
        store._segments.give_back(segment)
        monkeypatch.setattr(Redo, "_give_back_or_die", lambda redo: redo._held.clear())
        prepare(store)
        transact(store)
        assert len(store.check()) == 1
        kill_the_owner_of_the_transaction_lock(store)


def kill_the_owner_of_the_transaction_lock(store: Store) -> None:
    def hold() -> None:
        with store._redo.locked():
            signal.raise_signal(signal.SIGKILL)

    assert end_of(start(hold)) == -signal.SIGKILL


def test_keys_of_the_test_are_in_several_shards() -> None:
    with open_store(shards=SHARDS) as store:
        numbers = {store._arena.shard_of(store._arena.hash_of(key)) for key in CHANGED}
        assert len(numbers) == SHARDS
