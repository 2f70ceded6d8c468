"""What the processes share besides the arena: a row of words for each worker, and how it is told.

A row has one writer, its worker, and outlives it: counters go on where a dead worker left them. The rows lie
in a mapping of their own, because they are about this run and the arena may one day outlive it.
"""

from __future__ import annotations

import mmap
from enum import IntEnum, auto
from typing import TYPE_CHECKING, Final

from fastkv import core

if TYPE_CHECKING:
    from fastkv.store import Store

ROW_WORDS: Final = 64


class Column(IntEnum):
    """The words of a row. Those from HITS on are counters; their names in ``/stats`` are in lower case."""

    PID = 0
    STATE = auto()
    HEARTBEAT = auto()
    CONNECTIONS = auto()
    SUBSCRIPTIONS = auto()
    HITS = auto()
    MISSES = auto()
    PUTS = auto()
    DELETES = auto()
    ACCEPTED = auto()
    BAD_REQUESTS = auto()
    HEAD_TOO_LONG = auto()
    BODY_TOO_LONG = auto()
    KEY_TOO_LONG = auto()
    VALUE_TOO_LONG = auto()
    BATCH_TOO_LONG = auto()
    REPLY_TOO_LONG = auto()
    WALK_TOO_LONG = auto()
    UNAUTHORIZED = auto()
    FOREIGN_ORIGINS = auto()
    WRONG_HOSTS = auto()
    OUTPUT_PAUSES = auto()
    PIPELINE_PAUSES = auto()
    CONNECTIONS_REFUSED = auto()
    FIRST_BYTE_TIMEOUTS = auto()
    HEAD_TIMEOUTS = auto()
    BODY_TIMEOUTS = auto()
    IDLE_TIMEOUTS = auto()
    OUTPUT_TIMEOUTS = auto()
    PONG_TIMEOUTS = auto()
    HANDSHAKE_TIMEOUTS = auto()
    HANDSHAKES_FAILED = auto()
    HANDSHAKES_CUT = auto()
    MESSAGES = auto()
    MESSAGE_TOO_LONG = auto()
    BAD_MESSAGES = auto()
    SLOWEST_CLOSED = auto()
    BODIES_DELAYED = auto()
    BUFFER_STOPS = auto()
    ACCESS_LOG_DROPPED = auto()
    LOCK_TIMEOUTS = auto()
    STORE_FULL = auto()
    INTERNAL_ERRORS = auto()
    MESSAGES_PUBLISHED = auto()
    MESSAGES_PUSHED = auto()
    MESSAGES_REFUSED = auto()
    SUBSCRIPTIONS_REFUSED = auto()
    PUBLISHERS_HELD = auto()
    SLOW_SUBSCRIBERS = auto()
    PUBSUB_OVERRUNS = auto()
    SUBSCRIBERS_OVERRUN = auto()
    EVENTS_LOST = auto()
    STUCK_WORKERS = auto()


class State(IntEnum):
    """What a worker is doing."""

    NONE = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


COUNTERS: Final = tuple(column for column in Column if column >= Column.HITS)


_STATE: Final = int(Column.STATE)
_CONNECTIONS: Final = int(Column.CONNECTIONS)


class Board:
    """The rows of all workers.

    Attributes:
        rows: one view of 64 words for each.
    """

    def __init__(self, rows: int) -> None:
        """Map shared memory, zeroed.

        Args:
            rows: how many workers may be alive at the same time.
        """
        self._mem = mmap.mmap(-1, rows * ROW_WORDS * 8, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        words = memoryview(self._mem).cast("Q")
        self.rows = [words[i * ROW_WORDS : (i + 1) * ROW_WORDS] for i in range(rows)]

    def number(self, row: memoryview[int]) -> int:
        """Which of the rows one is."""
        return next(i for i, other in enumerate(self.rows) if other is row)

    def connections(self) -> int:
        """How many connections all workers have now."""
        return sum(row[_CONNECTIONS] for row in self.rows if row[_STATE])

    def summary(self, store: Store) -> dict[str, int | str]:
        """What ``GET /stats`` tells.

        Args:
            store: the store.

        Returns:
            Sums over all workers that ever were and over all shards, what is there now, and which
            implementation serves.
        """
        alive = [row for row in self.rows if row[Column.STATE]]
        told = {"workers": len(alive), "connections": self.connections()}
        told["subscriptions"] = sum(row[Column.SUBSCRIPTIONS] for row in alive)
        told.update(store.stats())
        for column in COUNTERS:
            told[column.name.lower()] = sum(row[column] for row in self.rows)
        return {"core": core.IMPLEMENTATION, **told}
