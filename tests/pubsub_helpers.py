"""What the tests of pub/sub share: workers' hubs on one ring, and subscribers that remember what they got."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastkv.pubsub.hub import Hub
from fastkv.pubsub.ring import Ring
from fastkv.settings import Settings
from fastkv.stats import Board, Column, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.pubsub.messages import Message


class Listener:
    """A subscriber.

    Attributes:
        got: (pattern or None, channel, payload) of each message.
        room: How many messages it takes before it is too slow.
        aborted: Whether it was closed.
    """

    def __init__(self, room: int = 1 << 30) -> None:
        self.got: list[tuple[bytes | None, bytes, bytes]] = []
        self.room = room
        self.aborted = False

    def push(self, message: Message) -> bool:
        assert not self.aborted
        self.got.append((message.pattern, message.channel, message.payload))
        return len(self.got) <= self.room

    def abort(self) -> None:
        self.aborted = True

    @property
    def payloads(self) -> list[bytes]:
        """What was in the messages."""
        return [payload for _, _, payload in self.got]


class House:
    """Several workers in one process, each with a hub; those without a loop move when `turn` is called.

    Attributes:
        ring: Their ring.
        board: Their rows.
        settings: Their settings.
    """

    def __init__(self, rows: int = 3, memory_bytes: int = 1 << 20, **settings: Any) -> None:
        self.ring = Ring(memory_bytes, rows, 1000)
        self.board = Board(rows)
        self.settings = Settings(workers=1, memory_bytes=4 << 20, **settings)

    def hub(self, row: int) -> Hub:
        """A worker's hub, started on the running loop; another one in its row succeeds it."""
        self.board.rows[row][Column.STATE] = State.READY
        hub = Hub(self.ring, self.board, row, self.settings)
        hub.start(asyncio.get_running_loop())
        return hub

    def count(self, column: Column) -> int:
        """A counter, over all rows."""
        return sum(row[column] for row in self.board.rows)

    def lose(self, row: int, hub: Hub) -> None:
        """A worker is killed: it says nothing more, and its row is free."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.ring.wakeups[row])
        hub._loop = None
        self.board.rows[row][Column.STATE] = State.NONE


@contextmanager
def house(rows: int = 3, memory_bytes: int = 1 << 20, **settings: Any) -> Iterator[House]:
    """Make a house, and pull it down."""
    made = House(rows, memory_bytes, **settings)
    yield made
    made.ring.close()


async def until(condition: Callable[[], object], what: str) -> None:
    """Let the loop run until something is true.

    Raises:
        AssertionError: It does not become true in many turns.
    """
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"This did not come true: {what}.")


async def settled(turns: int = 50) -> None:
    """Let the loop run for some turns, in which nothing more is expected."""
    for _ in range(turns):
        await asyncio.sleep(0)
