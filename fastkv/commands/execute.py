"""The way of a command: its words → the table → what does it → the reply.

In: words and who asks. Out: a reply, or the steps that it takes; an error is a reply, too. Nothing is raised.
"""

from __future__ import annotations

from collections.abc import Generator
from types import GeneratorType
from typing import TYPE_CHECKING, Final

from fastkv.clock import unix_ahead_ms
from fastkv.commands import bits, counters, expiry, keys, keyspace, pubsub, server, strings, transactions
from fastkv.commands.context import ALWAYS, NOBODY, Context
from fastkv.commands.failures import failure
from fastkv.commands.replies import CommandError, size_in_steps, size_of
from fastkv.commands.table import SPELLINGS, checked, find
from fastkv.errors import BatchTooLong, ReplyTooLong
from fastkv.steps import END_OF_TURN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastkv.commands.context import Client, Counters, Limits, Notify
    from fastkv.commands.replies import Reply
    from fastkv.commands.table import Command
    from fastkv.pubsub.hub import Hub
    from fastkv.steps import Steps
    from fastkv.store import Store

FAMILIES: Final = (bits, counters, expiry, keys, keyspace, pubsub, server, strings, transactions)
"""The modules that have put their commands into the table."""

# To read so many words out of a message takes 0.2 ms.
_MANY_WORDS: Final = 1024

_NO_ROOM: Final = "not executed: the replies before this one are as long as they may be together"


class Commands:
    """The commands of one worker."""

    __slots__ = ("_context",)

    def __init__(
        self,
        space: Store,
        clock: Callable[[], int],
        counters: Counters,
        *,
        limits: Limits,
        notify: Notify | None = None,
        wanted: Sequence[int] = ALWAYS,
        hub: Hub | None = None,
        ahead_ms: Callable[[], int] | None = None,
        stats: Callable[[], Mapping[str, int | str]] | None = None,
    ) -> None:
        """Bind to a store.

        Args:
            space: the store.
            clock: milliseconds now, on the clock of the entries' deadlines.
            counters: this worker's row of the board.
            limits: the bounds.
            notify: is told of each change, once it is done: the event's name as Redis has it, and the key;
                None where nobody listens. It may not use the commands.
            wanted: a view of a word; as long as it is 0 ``notify`` does nothing.
            hub: who passes messages on; None where there is nobody.
            ahead_ms: what Unix time is ahead of ``clock``; None: what the machine's clocks say of this store.
            stats: what ``INFO`` tells; None: what the store tells.
        """
        self._context = Context(
            space,
            clock,
            ahead_ms or (lambda: unix_ahead_ms(space.offset_ms)),
            counters,
            notify or (lambda _event, _key: None),
            client=NOBODY,
            limits=limits,
            hub=hub,
            wanted=wanted,
            stats=stats or space.stats,
        )

    def run(self, words: list[bytes], client: Client) -> Reply | Steps[Reply]:
        """Execute a command, or put it into the client's transaction.

        Args:
            words: its name and what it is given.
            client: who asks.

        Returns:
            The reply; a CommandError where it could not be done. Or a generator, the steps with that as their
            result, which has begun nothing yet.
        """
        # The way of most commands has one look into the table and no call but the handler's.
        try:
            command = SPELLINGS.get(words[0]) if words else None
            if command is None or not command.least <= len(words) <= command.most:
                command = self._checked(words, client)
            session = client.session
            if session is not None and session.queue is not None and command.queued:
                return transactions.enqueue(self._context, session, command, words)
            context = self._context
            context.client = client
            if len(words) > _MANY_WORDS:
                return self._in_steps(self._later(command, words, client), client)
            reply = command.handler(context, words)
            return self._in_steps(reply, client) if reply.__class__ is GeneratorType else reply
        except Exception as error:  # noqa: BLE001 - no client ends a worker
            return failure(error, self._context.counters)

    def _later(self, command: Command, words: list[bytes], client: Client) -> Steps[Reply]:
        """Run a command of many words in a turn of its own, and have its reply written in another."""
        yield END_OF_TURN
        self._context.client = client
        reply = command.handler(self._context, words)
        if isinstance(reply, Generator):
            return (yield from reply)
        yield END_OF_TURN
        return reply

    def _in_steps(self, steps: Steps[Reply], client: Client) -> Steps[Reply]:
        """Steps of a command whose result is an error where it could not be done."""
        self._context.client = client  # another one's command may have come between
        try:
            return (yield from steps)
        except Exception as error:  # noqa: BLE001 - no client ends a worker
            return failure(error, self._context.counters)

    def run_together(self, commands: list[list[bytes]], client: Client) -> list[Reply] | CommandError:
        """Execute several commands at one moment, all or none.

        Args:
            commands: the words of each.
            client: who asks.

        Returns:
            Their replies in order, a CommandError for each that could not be done; or one CommandError, and
            nothing was executed: its ``__cause__`` is the first error if it is the words of a command that
            were wrong.
        """
        context = self._context
        context.client = client
        try:
            context.check_batch(len(commands))
            asked = [(checked(words), words) for words in commands]
        except BatchTooLong as error:
            return failure(error, context.counters)
        except CommandError as error:
            aborted = CommandError(transactions.ABORTED)
            aborted.__cause__ = error.with_traceback(None)
            return aborted
        try:
            return transactions.together(context, asked) or []
        except Exception as error:  # noqa: BLE001 - no client ends a worker
            return failure(error, context.counters)

    def run_in_turn(self, commands: list[list[bytes]], client: Client) -> Steps[list[Reply] | CommandError]:
        """Execute several commands one after the other; others may come in between, and have turns.

        Args:
            commands: the words of each.
            client: who asks.

        Returns:
            Their replies in order; once they are longer together than they may be, an error for each of those
            that are left, which are not executed. Or one CommandError if the commands are too many.
        """
        context = self._context
        try:
            context.check_batch(len(commands))
        except BatchTooLong as error:
            return failure(error, context.counters)
        replies: list[Reply] = []
        room = context.limits.max_reply
        for words in commands:
            reply = self.run_within(words, client, room)
            if isinstance(reply, Generator):
                reply = yield from reply
            room -= (yield from size_in_steps(reply)) if reply.__class__ is list else size_of(reply)
            replies.append(reply)
            yield None
        return replies

    def run_within(self, words: list[bytes], client: Client, room: int) -> Reply | Steps[Reply]:
        """``run`` as one of several commands whose replies have a bound together.

        Args:
            words: as for ``run``.
            client: as for ``run``.
            room: bytes that are left of the bound; below 0 it is not executed, and the reply is an error.
        """
        if room < 0:
            return failure(ReplyTooLong(_NO_ROOM), self._context.counters)
        return self.run(words, client)

    @property
    def limits(self) -> Limits:
        """The bounds."""
        return self._context.limits

    @staticmethod
    def find(name: bytes) -> Command | None:
        """Find a command by its name, however that is spelt."""
        return find(name)

    @staticmethod
    def _checked(words: list[bytes], client: Client) -> Command:
        """``checked``; if it raises, EXEC will not execute the client's transaction."""
        try:
            return checked(words)
        except CommandError as error:
            found = find(words[0]) if words else None
            raise transactions.refused(client.session, found.name if found else "", error) from None
