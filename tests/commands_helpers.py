"""Commands over a small store, for the tests of what needs no Redis to compare with."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from store_helpers import NOW_MS, HandClock

from fastkv.commands.context import NOBODY, Client, Limits, Nobody
from fastkv.commands.execute import Commands
from fastkv.commands.replies import CommandError, Reply
from fastkv.commands.session import Session
from fastkv.stats import ROW_WORDS, Column
from fastkv.steps import finish

if TYPE_CHECKING:
    from fastkv.store import Store

UNIX_NOW_MS = 1_700_000_000_000

LIMITS = Limits(
    max_key=100,
    max_value=10_000,
    max_batch=20,
    batch_seconds=60.0,
    max_reply=20_000,
    max_keys=5000,
    max_transaction=1 << 20,
)


class Asked:
    """Commands over a small store, and what they counted and told."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = HandClock()
        self.counters = [0] * ROW_WORDS
        self.told: list[tuple[bytes, bytes]] = []
        self.commands = Commands(
            store,
            self.clock,
            self.counters,
            limits=LIMITS,
            notify=lambda event, key: self.told.append((event, key)),
            ahead_ms=lambda: UNIX_NOW_MS - NOW_MS,
        )
        self.client = Nobody()
        self.client.session = Session()

    def run(self, text: str) -> Reply:
        """Run a command whose words have no blanks in them."""
        return self.run_words(text.encode().split(), self.client)

    def run_words(self, words: list[bytes], client: Client = NOBODY) -> Reply:
        """Run a command to its end."""
        return run_to_end(self.commands, words, client)

    def counted(self) -> dict[str, int]:
        """What was counted, by the names of the columns."""
        return {column.name: self.counters[column] for column in Column if self.counters[column]}


def run_to_end(commands: Commands, words: list[bytes], client: Client) -> Reply:
    """Run a command, all of its steps included."""
    reply = commands.run(words, client)
    return finish(reply) if isinstance(reply, Generator) else reply


def error(reply: Reply) -> str:
    """The text of an error, which no longer holds the frames that it came through."""
    assert isinstance(reply, CommandError)
    assert reply.__traceback__ is None
    return reply.text
