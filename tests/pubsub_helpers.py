"""What the tests of pub/sub share: workers' hubs on one ring, and subscribers that remember what they got."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fake import Worker

from fastkv.http.responses import Preludes
from fastkv.http.routes import Routes
from fastkv.pubsub.events import Events
from fastkv.pubsub.hub import Hub
from fastkv.pubsub.ring import Ring
from fastkv.service import Service
from fastkv.settings import Settings
from fastkv.stats import Board, Column, State
from fastkv.wires import open_wires

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.pubsub.messages import Message


class Listener:
    """A subscriber.

    Attributes:
        got: (pattern or None, channel, payload) of each message.
        room: How many messages its output holds until `read` is called.
        unread: How many it holds.
        taken_bytes: How many bytes were read.
        reason: Why it was closed, None while it is open.
        aborted: Whether it was closed for a failure.
    """

    def __init__(self, room: int = 1 << 30) -> None:
        self.got: list[tuple[bytes | None, bytes, bytes]] = []
        self.room = room
        self.unread = self.taken_bytes = 0
        self.reason: str | None = None
        self.aborted = False

    def takes(self, message_bytes: int) -> bool:
        return self.unread < self.room

    def push(self, message: Message) -> None:
        assert self.takes(0)
        assert self.reason is None
        self.got.append((message.pattern, message.channel, message.payload))
        self.unread += 1

    def read(self, hub: Hub) -> int:
        """Read all that its output holds, as a client does; how many messages that were."""
        read, self.unread = self.unread, 0
        self.taken_bytes += sum(len(payload) for _, _, payload in self.got[-read:]) if read else 0
        hub.resumed(self)
        return read

    def give_up(self, reason: str) -> None:
        assert self.reason is None
        self.reason = reason

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
        now: Seconds on their clock.
    """

    def __init__(self, rows: int = 3, memory_bytes: int = 1 << 20, **settings: Any) -> None:
        self.ring = Ring(memory_bytes, rows, 1000)
        self.board = Board(rows)
        self.settings = Settings(
            workers=1, memory_bytes=4 << 20, pubsub_memory_bytes=memory_bytes, **settings
        )
        self.now = 1000.0

    def hub(self, row: int) -> Hub:
        """A worker's hub, started on the running loop; another one in its row succeeds it."""
        self.board.rows[row][Column.STATE] = State.READY
        self.beat(row)
        hub = Hub(self.ring, self.board, row, self.settings, now=lambda: self.now)
        hub.start(asyncio.get_running_loop())
        return hub

    def beat(self, *rows: int) -> None:
        """Workers give a sign of life."""
        for row in rows:
            self.board.rows[row][Column.HEARTBEAT] = int(self.now * 1000)

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


class HubWorker(Worker):
    """A worker with a hub, on the running loop.

    Attributes:
        seconds: What the hub's clock shows.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, **settings: Any) -> None:
        super().__init__()
        chosen = Settings(workers=1, memory_bytes=4 << 20, **settings)
        board = Board(1)
        self.counters = row = board.rows[0]
        row[Column.STATE] = State.READY
        self.ring = Ring(1 << 20, 1, 1000)
        self.seconds = 0.0
        self.hub = Hub(self.ring, board, 0, chosen, now=lambda: self.seconds)
        self.hub.start(loop)
        events = Events(self.hub, self.store.removals, "AKE", row)
        self.routes = Routes(self.store, chosen, board, row, lambda: self.now_ms, self.hub, events)
        open_wires(self.routes, chosen)
        self.service = Service(self.store, chosen, self.routes, board, row, Preludes(0))


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
