"""Several commands at one moment: MULTI, EXEC, DISCARD, WATCH, UNWATCH, and what executes them together.

A transaction's changes are counted and told of once it is committed: until then its commands may be run
again, and what they did before is forgotten.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

from fastkv.commands.failures import OWN_FAULT, failure
from fastkv.commands.replies import OK, QUEUED, CommandError, size_of
from fastkv.commands.strings import set_
from fastkv.commands.table import command
from fastkv.errors import BatchTooLong, StoreBusy
from fastkv.stats import ROW_WORDS, Column
from fastkv.steps import finish

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastkv.commands.context import Context, Space
    from fastkv.commands.replies import Reply
    from fastkv.commands.session import Session
    from fastkv.commands.table import Command
    from fastkv.steps import Steps

ABORTED: Final = "EXECABORT Transaction discarded because of previous errors."

State: TypeAlias = tuple[int, int]

# What a word takes besides its bytes: bytes object, place in a list or a dict.
_WORD_OVERHEAD: Final = 64


def together(
    context: Context,
    commands: list[tuple[Command, list[bytes]]],
    watched: Mapping[bytes, State] | None = None,
) -> list[Reply] | None:
    """Execute commands at one moment, all or none.

    Args:
        context: where the entries are, and who asks.
        commands: each with as many words as it takes.
        watched: the states in which keys must be.

    Returns:
        The replies, an error among them where a command could not be done; None if a watched key is in
        another state, and nothing was done.

    Raises:
        BatchTooLong: if they name too many keys; nothing was done.
        ReplyTooLong: if the replies are longer together than a reply may be; nothing was done.
        BatchTooLong: if they take longer than they may; nothing was done.
        StoreFull, StoreBusy: as of the store; nothing was done.
    """
    if not watched and (replies := _set_together(context, commands)) is not None:
        return replies
    watched = watched or {}
    counts = [0] * ROW_WORDS
    told: list[tuple[bytes, bytes]] = []
    published: list[tuple[bytes, bytes]] = []

    def publish(channel: bytes, payload: bytes) -> int:
        count = context.hub.receivers(channel, payload) if context.hub else 0
        published.append((channel, payload))
        return count

    def body(space: Space) -> list[Reply] | None:
        counts[:] = [0] * ROW_WORDS
        told.clear()
        published.clear()
        if any(state_of(space, context, key) != state for key, state in watched.items()):
            return None
        inner = context.within(space, counts, lambda event, key: told.append((event, key)), publish)
        replies: list[Reply] = []
        size = 0
        end = monotonic() + context.limits.batch_seconds
        for asked, words in commands:
            if monotonic() > end:
                most = context.limits.batch_seconds
                raise BatchTooLong(f"the transaction takes longer than {most:g} s; see --batch-seconds")
            replies.append(_attempt(inner, asked, words))
            size += size_of(replies[-1])
            if len(replies) > 1:  # one alone is as long as it is
                context.check_reply(size)
        return replies

    keys = {*watched, *[key for asked, words in commands for key in asked.keys(words)]}
    context.check_keys(len(keys))
    every = any(asked.all_keys for asked, _ in commands)
    replies = context.space.transact(None if every else sorted(keys), body, context.clock)
    for column, count in enumerate(counts):
        if count:
            context.counters[column] += count
    for event, key in told:
        context.notify(event, key)
    for channel, payload in published:
        with suppress(StoreBusy):  # the transaction is committed, and is answered as it was
            if context.publish(channel, payload) is None and context.hub:
                context.hub.post(channel, payload)
    return replies


def _set_together(context: Context, commands: list[tuple[Command, list[bytes]]]) -> list[Reply] | None:
    """``together`` for nothing but SET without options, in one call of the store.

    Returns:
        The replies; None if one of the commands is another one, or cannot be done.
    """
    if not commands or not all(asked.handler is set_ and len(words) == 3 for asked, words in commands):
        return None
    keys = [words[1] for _, words in commands]
    values = [words[2] for _, words in commands]
    try:
        context.check_all(keys, values)
    except OWN_FAULT:  # it fails alone, and the others are done
        return None
    context.check_keys(len(set(keys)))
    context.space.put_many(keys, values, context.clock)
    context.counters[Column.PUTS] += len(keys)
    context.notify_all(b"set", keys)
    return [OK] * len(keys)


def enqueue(context: Context, session: Session, asked: Command, words: list[bytes]) -> Reply:
    """Let a command wait for EXEC.

    Args:
        context: knows how many may wait.
        session: the asker's, in which a transaction was begun.
        asked: the command.
        words: its words.

    Returns:
        What says so.

    Raises:
        BatchTooLong: if too many wait already, or they are too long; the transaction will not be executed
            then.
    """
    queue = session.queue
    assert queue is not None
    try:
        context.check_batch(len(queue) + 1)
        _hold(context, session, words)
    except BatchTooLong:
        session.failed = True
        queue.clear()
        raise
    queue.append((asked, words))
    return QUEUED


def _hold(context: Context, session: Session, words: list[bytes]) -> None:
    """Count words that a session keeps.

    Args:
        context: knows the bound.
        session: the session.
        words: which.

    Raises:
        BatchTooLong: if there is no room for them.
    """
    held_bytes = session.held_bytes + sum(map(len, words)) + _WORD_OVERHEAD * len(words)
    most = context.limits.max_transaction
    if held_bytes > most:
        raise BatchTooLong(
            f"the transaction would take {held_bytes} bytes; --max-message-bytes allows {most}"
        )
    session.held_bytes = held_bytes


def _attempt(context: Context, asked: Command, words: list[bytes]) -> Reply:
    """Execute one command of a transaction; what is its own fault is its reply."""
    try:
        if not asked.queued:
            raise CommandError(f"ERR {asked.name} inside MULTI is not allowed")
        reply = asked.handler(context, words)
        return finish(reply) if isinstance(reply, Generator) else reply
    except OWN_FAULT as error:
        return failure(error, context.counters)


def state_of(space: Space, context: Context, key: bytes) -> State:
    """The version and the deadline of a key's entry, 0 and 0 if there is none.

    Another deadline leaves the version as it is.
    """
    entry = space.get(key, context.clock)
    return (entry[2], entry[3]) if entry else (0, 0)


def _session(context: Context, name: str) -> Session:
    """The asker's session.

    Raises:
        CommandError: if it has none.
    """
    session = context.client.session
    if session is None:
        raise CommandError(
            f"ERR {name} is for connections that keep a transaction; send the commands together"
        )
    return session


@command("MULTI", 1, queued=False)
def multi(context: Context, words: list[bytes]) -> Reply:
    """Begin a transaction."""
    session = _session(context, "MULTI")
    if session.queue is not None:
        raise CommandError("ERR MULTI calls can not be nested")
    session.queue = []
    return OK


def refused(session: Session | None, name: str, error: CommandError) -> CommandError:
    """Note that a command was not understood, and will not be executed by EXEC.

    Args:
        session: that of the asker.
        name: of the command, in capitals, as far as there is one.
        error: what is wrong with it.

    Returns:
        What the client is told. EXEC with too many words ends the transaction.
    """
    if name == "EXEC":
        if session is not None:
            session.end()
        return CommandError(f"EXECABORT Transaction discarded because of: {error.text.removeprefix('ERR ')}")
    if session is not None and session.queue is not None:
        session.failed = True
    return error


@command("EXEC", 1, queued=False)
def exec_(context: Context, words: list[bytes]) -> Reply:
    """Execute the transaction."""
    session = _session(context, "EXEC")
    queue, failed, watched = session.queue, session.failed, session.watched
    if queue is None:
        raise CommandError("ERR EXEC without MULTI")
    session.end()
    if failed:
        raise CommandError(ABORTED)
    return together(context, queue, watched)


@command("DISCARD", 1, queued=False)
def discard(context: Context, words: list[bytes]) -> Reply:
    """Forget the transaction."""
    session = _session(context, "DISCARD")
    if session.queue is None:
        raise CommandError("ERR DISCARD without MULTI")
    session.end()
    return OK


@command("WATCH", -2, (1, -1, 1), queued=False)
def watch(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Let the next EXEC do nothing if one of these keys is changed before."""
    session = _session(context, "WATCH")
    if session.queue is not None:
        raise CommandError("ERR WATCH inside MULTI is not allowed")
    context.check_batch(len(session.watched) + len(words) - 1)
    for key in words[1:]:
        if key not in session.watched:
            _hold(context, session, [key])
            session.watched[key] = state_of(context.space, context, key)
            yield None
    return OK


@command("UNWATCH", 1)
def unwatch(context: Context, words: list[bytes]) -> Reply:
    """Watch no key any more."""
    _session(context, "UNWATCH").unwatch()
    return OK
