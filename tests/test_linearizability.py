"""The checker itself: good histories pass, bad ones do not, and it agrees with trying every order."""

import itertools
import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linearizability import Kind, Operation, by_key, violation, violations

from fastkv.store import Store


def put(value: str, start: float, end: float = math.inf) -> Operation:
    return Operation(Kind.PUT, value, start, end)


def get(value: str | None, start: float, end: float) -> Operation:
    return Operation(Kind.GET, value, start, end)


def delete(found: bool, start: float, end: float = math.inf) -> Operation:
    return Operation(Kind.DELETE, None, start, end, found)


GOOD = {
    "nothing": [],
    "nothing is there at first": [get(None, 0, 1), delete(False, 2, 3)],
    "one after the other": [put("a", 0, 1), get("a", 2, 3), delete(True, 4, 5), get(None, 6, 7)],
    "a get during a put may see it": [put("a", 0, 9), get("a", 1, 2), get("a", 3, 4)],
    "a get during a put may miss it": [put("a", 0, 9), get(None, 1, 2), get("a", 3, 4)],
    "puts at once, in either order": [put("a", 0, 9), put("b", 0, 9), get("a", 10, 11)],
    "puts at once, seen one after the other": [
        put("a", 0, 9),
        put("b", 0, 9),
        get("b", 1, 2),
        get("a", 3, 4),
    ],
    "of two deletes at once one finds it": [put("a", 0, 1), delete(True, 2, 5), delete(False, 2, 5)],
    "a lost put that took effect": [put("a", 0), get("a", 1, 2)],
    "a lost put that did not": [put("a", 0), get(None, 1, 2)],
    "a lost put that took effect late": [put("a", 0), get(None, 1, 2), put("b", 3, 4), get("a", 5, 6)],
    "a lost put that only a delete saw": [put("a", 0), delete(True, 1, 2), get(None, 3, 4)],
    "a lost delete that took effect": [put("a", 0, 1), delete(False, 2), get("a", 3, 4), get(None, 5, 6)],
    "a lost delete that did not": [put("a", 0, 1), delete(False, 2), get("a", 3, 4)],
    "two lost deletes": [
        put("a", 0, 1),
        delete(False, 2),
        delete(False, 2),
        get(None, 3, 4),
        put("b", 5, 6),
        get(None, 7, 8),
    ],
}

BAD = {
    "read before it was written": [get("a", 0, 1), put("a", 2, 3)],
    "a value that nobody wrote": [put("a", 0, 1), get("b", 2, 3)],
    "a stale read": [put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)],
    "a read that goes back": [put("a", 0, 1), put("b", 2, 9), get("b", 3, 4), get("a", 5, 6)],
    "an acknowledged put is lost": [put("a", 0, 1), get(None, 2, 3)],
    "a deleted entry comes back": [put("a", 0, 1), delete(True, 2, 3), get("a", 4, 5)],
    "two deletes find one put": [put("a", 0, 1), delete(True, 2, 5), delete(True, 2, 5)],
    "a delete misses what is there": [put("a", 0, 1), delete(False, 2, 3)],
    "two readers disagree about the order": [
        put("a", 0, 1),
        put("b", 0, 1),
        get("a", 2, 3),
        get("b", 4, 5),
        get("a", 6, 7),
    ],
    "a lost put that is seen before it was sent": [get("a", 0, 1), put("a", 2)],
    "a lost put takes effect once": [
        put("a", 0),
        get("a", 1, 2),
        put("b", 3, 4),
        get("a", 5, 6),
    ],
    "a lost delete takes effect once": [
        put("a", 0, 1),
        delete(False, 2),
        get(None, 3, 4),
        put("b", 5, 6),
        get(None, 7, 8),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories_pass(name: str) -> None:
    assert violation(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_do_not(name: str) -> None:
    assert violation(BAD[name]) is not None


def _by_trying(history: list[Operation]) -> bool:
    """The definition, word by word: any subset of the lost ones, any order that respects time."""
    known = [operation for operation in history if operation.outcome_known]
    lost = [operation for operation in history if not operation.outcome_known]
    chosen = itertools.chain.from_iterable(itertools.combinations(lost, n) for n in range(len(lost) + 1))
    return any(_explains(order) for some in chosen for order in itertools.permutations([*known, *some]))


def _explains(order: tuple[Operation, ...]) -> bool:
    if any(later.end < earlier.start for earlier, later in itertools.combinations(order, 2)):
        return False
    state: str | None = None
    for operation in order:
        if operation.kind == Kind.PUT:
            state = operation.value
        elif operation.kind == Kind.GET:
            if operation.value != state:
                return False
        else:
            if operation.outcome_known and operation.found != (state is not None):
                return False
            state = None
    return True


@st.composite
def _histories(draw: st.DrawFn) -> list[Operation]:
    history = []
    for number in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, 8))
        end = start + draw(st.integers(0, 4)) + 0.5
        kind = draw(st.sampled_from(Kind))
        if kind == Kind.GET:
            value = draw(st.sampled_from([None, "0", "1", "2", "3", "4", "5"]))
            history.append(get(value, start, end))
            continue
        end = draw(st.sampled_from([end, math.inf]))
        found = draw(st.booleans())
        history.append(put(str(number), start, end) if kind == Kind.PUT else delete(found, start, end))
    return history


@settings(max_examples=600, deadline=None)
@given(_histories())
def test_agrees_with_trying_every_order(history: list[Operation]) -> None:
    assert (violation(history) is None) is _by_trying(history)


def _clients(stores: list[Store], rounds: int) -> Iterator[tuple[str, Operation]]:
    """Let clients take turns with a few keys; each goes to the next store behind a round-robin."""
    now = itertools.count()
    chance = random.Random(7)
    turn = itertools.cycle(stores)
    for number in range(rounds):
        key, store, start = f"k{chance.randrange(3)}", next(turn), next(now)
        kind = chance.choice(list(Kind))
        if kind == Kind.PUT:
            store.put(key.encode(), b"%d" % number, lambda: 0)
            yield key, put(str(number), start, next(now))
        elif kind == Kind.DELETE:
            found = store.delete(key.encode(), lambda: 0)
            yield key, delete(found, start, next(now))
        else:
            entry = store.get(key.encode(), lambda: 0)
            yield key, get(entry[0].decode() if entry else None, start, next(now))


def test_a_shared_store_passes() -> None:
    store = Store(1 << 20)
    histories = by_key(_clients([store], 3000))
    assert violations(histories) == {}
    assert store.check() == []


def test_a_store_that_is_not_shared_is_rejected() -> None:
    """What four workers would record if each had a store of its own."""
    histories = by_key(_clients([Store(1 << 20) for _ in range(4)], 300))
    assert set(violations(histories)) == {"k0", "k1", "k2"}


def test_stale_reads_are_rejected() -> None:
    """What a cache in front of the store would record that does not hear of a write elsewhere."""
    now = itertools.count()
    store = Store(1 << 20)
    remembered: dict[str, str | None] = {}
    history = []
    for number in range(40):
        if number % 4 == 0:
            store.put(b"k", b"%d" % number, lambda: 0)
            history.append(put(str(number), next(now), next(now)))
            if number % 8 == 0:
                remembered.clear()
        else:
            entry = store.get(b"k", lambda: 0)
            value = remembered.setdefault("k", entry[0].decode() if entry else None)
            history.append(get(value, next(now), next(now)))
    assert violation(history) is not None
    assert violation([operation for operation in history if operation.start < 8]) is None


def test_a_long_history_under_contention_is_checked_at_once() -> None:
    """Overlapping clients and lost operations: the search must not try every order of them."""
    chance = random.Random(11)
    history: list[Operation] = []
    state: str | None = None
    free_at = [0.0] * 8
    for number in range(3000):
        client = min(range(8), key=free_at.__getitem__)
        start = free_at[client] + chance.random()
        point = start + chance.random() * 4
        free_at[client] = point + chance.random() * 4
        history.append(put(str(number), start, free_at[client]))
    # Give each the outcome that it has at a point between its start and its end.
    points = sorted(((chance.uniform(op.start, op.end), op) for op in history), key=lambda pair: pair[0])
    told: list[Operation] = []
    for _, op in points:
        lost = chance.random() < 0.02
        choice = chance.random()
        if choice < 0.4:
            state = op.value
            told.append(put(str(op.value), op.start, math.inf if lost else op.end))
        elif choice < 0.9:
            told.append(get(state, op.start, op.end))
        else:
            told.append(delete(state is not None, op.start, math.inf if lost else op.end))
            state = None
    assert violation(told) is None
    wrong = [*told, get("never written", 100, 101)]
    assert violation(wrong) is not None
