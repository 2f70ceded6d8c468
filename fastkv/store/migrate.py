"""Moving all entries of one arena into another one, of other measures or of a newer layout.

In: a store without users, over an arena that stays as it is, and an empty one. Out: how many entries were
moved, and what became of the others. Entries keep their versions, deadlines, access counts and queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.store import Store

_STEP_ENTRIES: Final = 64
_STEP_BYTES: Final = 1 << 20


class Moved(NamedTuple):
    """What became of the entries.

    Attributes:
        entries: how many are in the new arena.
        evicted: how many were evicted to make room for others.
        expired: how many had expired.
        damaged: how many were damaged, and left out.
    """

    entries: int
    evicted: int
    expired: int
    damaged: int


def migrate(source: Store, target: Store, clock: Callable[[], int], step: Callable[[int], object]) -> Moved:
    """Move all entries.

    Args:
        source: the old store; it does not change meanwhile.
        target: to where: an empty store whose versions begin after those of the source.
        clock: milliseconds now, on the clock of both.
        step: told every 64 entries, and every MiB, how many were read; what it raises ends the move.

    Returns:
        What became of them.

    Raises:
        KeyTooLong, ValueTooLong: if an entry does not fit into an arena of the target's measures.
        StoreFull: if the target is full and evicts nothing.
    """
    damaged = expired = size = 0
    due = _STEP_ENTRIES
    for read, entry in enumerate(source.walk(), 1):
        if entry is None:
            damaged += 1
        elif entry.deadline_ms and entry.deadline_ms <= clock():
            expired += 1
        else:
            target.restore(entry, clock)
            size += len(entry.value)
        if read >= due or size > _STEP_BYTES:
            step(read)
            due, size = read + _STEP_ENTRIES, 0
    stats = target.stats()
    return Moved(stats["entries"], stats["evictions"], expired + stats["expired"], damaged)
