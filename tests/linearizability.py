"""A checker for histories of one key: is there an order in which a single register would have answered so?

The search is that of Wing and Gong (1993) with the memory of visited configurations of Lowe (2017). An
operation whose outcome is unknown, because its connection was lost, may have taken effect at any time after
its invocation, or never. It has to be tried only right before an operation that would see its effect: where
the next one does not look, the history without it is as good.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice


class Kind(Enum):
    """What an operation does."""

    PUT = "put"
    GET = "get"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a client.

    Attributes:
        kind: What it does.
        value: What a put wrote; what a get read, None where it found nothing; None for a delete.
        found: Whether a delete found something.
        start: When it was sent.
        end: When the reply was there; infinity where none came.
    """

    kind: Kind
    value: str | None
    start: float
    end: float = math.inf
    found: bool = False

    @property
    def outcome_known(self) -> bool:
        """True where a reply came."""
        return self.end < math.inf


_State = str | None
_Config = tuple[int, int, int, _State]
"""(first, done, used, state): the operations before `first` are placed, and of those after it the ones in
`done`; of those without an outcome the ones in `used` took effect; the register holds `state`."""


def violation(history: Iterable[Operation]) -> str | None:
    """Look for an order of one key's operations that a register explains; values must be written once.

    Args:
        history: The operations, in any order. The register is empty at first.

    Returns:
        None where there is such an order, else what stood where the search got furthest.
    """
    in_order = sorted(history, key=lambda operation: operation.start)
    known = [operation for operation in in_order if operation.outcome_known]
    lost = [operation for operation in in_order if not operation.outcome_known and operation.kind != Kind.GET]
    furthest: _Config = (0, 0, 0, None)
    seen = {furthest}
    stack = [_steps(furthest, known, lost)]
    while stack:
        config = next(stack[-1], None)
        if config is None:
            stack.pop()
        elif config[0] == len(known):
            return None
        elif config not in seen:
            seen.add(config)
            furthest = max(furthest, config, key=lambda reached: (reached[0], reached[1].bit_count()))
            stack.append(_steps(config, known, lost))
    if not known:
        return None
    first, _, _, state = furthest
    return f"{len(seen)} configurations tried; the furthest held {state!r} before {known[first : first + 12]}"


def violations(histories: dict[str, list[Operation]]) -> dict[str, str]:
    """Check the histories of several keys; what is wrong with those that are."""
    found = {key: violation(history) for key, history in histories.items()}
    return {key: problem for key, problem in found.items() if problem}


def by_key(operations: Iterable[tuple[str, Operation]]) -> dict[str, list[Operation]]:
    """Sort the operations of many keys into a history for each."""
    histories: dict[str, list[Operation]] = defaultdict(list)
    for key, operation in operations:
        histories[key].append(operation)
    return histories


def _steps(config: _Config, known: Sequence[Operation], lost: Sequence[Operation]) -> Iterator[_Config]:
    """Yield what a configuration can become by placing one operation with an outcome."""
    first, done, used, state = config
    candidates: list[int] = []
    bound = math.inf
    for at, operation in enumerate(islice(known, first, None), first):
        if operation.start > bound:
            break
        if not done >> at - first & 1:
            candidates.append(at)
            bound = min(bound, operation.end)
    for at in candidates:
        operation = known[at]
        for used_now, before in _states_before(operation, bound, used, state, lost):
            after = _apply(operation, before)
            if after is not _IMPOSSIBLE:
                assert after is None or isinstance(after, str)
                yield _placed(first, done, at, used_now, after)


def _placed(first: int, done: int, at: int, used: int, state: _State) -> _Config:
    """Note that an operation is placed, in the one way to write it down."""
    done |= 1 << at - first
    while done & 1:
        done >>= 1
        first += 1
    return first, done, used, state


def _states_before(
    operation: Operation, bound: float, used: int, state: _State, lost: Sequence[Operation]
) -> Iterator[tuple[int, _State]]:
    """Yield the states that an operation may meet: the present one, or what a lost one makes of it."""
    yield used, state
    if operation.kind == Kind.PUT:
        return
    empties = 0
    for at, candidate in enumerate(lost):
        if candidate.start > bound:
            return
        if used >> at & 1:
            continue
        if operation.kind == Kind.GET and operation.value != candidate.value:
            continue
        if candidate.kind == Kind.DELETE:
            # One lost delete does what every other does.
            empties += 1
            if empties > 1:
                continue
        yield used | 1 << at, candidate.value


_IMPOSSIBLE = object()


def _apply(operation: Operation, state: _State) -> object:
    """What the register holds after an operation, `_IMPOSSIBLE` where it would have answered otherwise."""
    if operation.kind == Kind.PUT:
        return operation.value
    if operation.kind == Kind.GET:
        return state if operation.value == state else _IMPOSSIBLE
    return None if operation.found == (state is not None) else _IMPOSSIBLE
