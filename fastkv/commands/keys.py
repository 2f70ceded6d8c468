"""Keys as such: DEL, UNLINK, EXISTS, TOUCH, TYPE, RENAME, RENAMENX, COPY."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.commands.arguments import integer, syntax_error
from fastkv.commands.replies import OK, CommandError, Status
from fastkv.commands.table import command
from fastkv.stats import Column

if TYPE_CHECKING:
    from fastkv.commands.context import Context, Space
    from fastkv.commands.replies import Reply
    from fastkv.store import Entry

_HITS: Final = int(Column.HITS)
_MISSES: Final = int(Column.MISSES)
_PUTS: Final = int(Column.PUTS)
_DELETES: Final = int(Column.DELETES)

_STRING: Final = Status(b"string")
_NONE: Final = Status(b"none")


def _delete(context: Context, words: list[bytes]) -> Reply:
    """Remove entries, at one moment; how many there were."""
    keys = words[1:]
    context.check_keys(len(keys))
    if len(keys) == 1:
        gone = keys if context.space.delete(keys[0], context.clock) else []
    else:
        gone = context.space.delete_many(keys, context.clock)
    context.counters[_DELETES] += len(gone)
    context.notify_all(b"del", gone)
    return len(gone)


@command("DEL", -2, (1, -1, 1), writes=True)
def del_(context: Context, words: list[bytes]) -> Reply:
    """Remove entries."""
    return _delete(context, words)


@command("UNLINK", -2, (1, -1, 1), writes=True)
def unlink(context: Context, words: list[bytes]) -> Reply:
    """Remove entries; here it is DEL."""
    return _delete(context, words)


def _there(context: Context, words: list[bytes]) -> Reply:
    """How many of some keys are there, at one moment; one that is named twice counts twice."""
    context.check_keys(len(words) - 1)
    found = context.space.count_many(words[1:], context.clock)
    context.counters[_HITS] += found
    context.counters[_MISSES] += len(words) - 1 - found
    return found


@command("EXISTS", -2, (1, -1, 1))
def exists(context: Context, words: list[bytes]) -> Reply:
    """How many of some keys are there."""
    return _there(context, words)


@command("TOUCH", -2, (1, -1, 1))
def touch(context: Context, words: list[bytes]) -> Reply:
    """Count an access to each of some keys."""
    return _there(context, words)


@command("TYPE", 2, (1, 1, 1))
def type_(context: Context, words: list[bytes]) -> Reply:
    """Of what type a value is: all are strings."""
    return _STRING if context.space.get(words[1], context.clock) else _NONE


def _move(context: Context, old: bytes, new: bytes, *, only_new: bool) -> bool:
    """Give an entry another key, at one moment.

    Args:
        context: where it is.
        old: its key.
        new: the other one.
        only_new: whether nothing is done if there is an entry of that key.

    Returns:
        Whether it was done.

    Raises:
        CommandError: if there is no such entry.
    """

    def body(space: Space) -> bool:
        entry = space.get(old, context.clock)
        if entry is None:
            raise CommandError("ERR no such key")
        if only_new and (old == new or space.get(new, context.clock)):
            return False
        if old != new:
            _put_copy(context, space, new, entry)
            space.delete(old, context.clock)
        return True

    if not context.space.transact([old, new], body, context.clock):
        return False
    if old != new:
        context.notify(b"rename_from", old)
        context.notify(b"rename_to", new)
    return True


def _put_copy(context: Context, space: Space, key: bytes, entry: Entry) -> None:
    """Put an entry under another key: value, deadline, and what is known of the value."""
    value, flags, _, deadline_ms, _, _, metadata = entry
    context.check(key, len(value))
    space.put(key, value, context.clock, flags, deadline_ms, metadata)


@command("RENAME", 3, (1, 2, 1), writes=True)
def rename(context: Context, words: list[bytes]) -> Reply:
    """Give an entry another key, in place of the entry that has it."""
    _move(context, words[1], words[2], only_new=False)
    return OK


@command("RENAMENX", 3, (1, 2, 1), writes=True)
def renamenx(context: Context, words: list[bytes]) -> Reply:
    """Give an entry another key that no entry has."""
    return int(_move(context, words[1], words[2], only_new=True))


@command("COPY", -3, (1, 2, 1), writes=True)
def copy(context: Context, words: list[bytes]) -> Reply:
    """Put a copy of an entry, with its deadline, under another key."""
    old, new = words[1], words[2]
    replace = False
    rest = iter(words[3:])
    for word in rest:
        option = word.upper()
        if option == b"REPLACE":
            replace = True
        elif option == b"DB" and (number := next(rest, None)) is not None:
            check_database(number)
        else:
            raise syntax_error()
    if old == new:
        raise CommandError("ERR source and destination objects are the same")

    def body(space: Space) -> bool:
        entry = space.get(old, context.clock)
        if entry is None or (not replace and space.get(new, context.clock)):
            return False
        _put_copy(context, space, new, entry)
        return True

    done = context.space.transact([old, new], body, context.clock)
    if done:
        context.counters[_PUTS] += 1
        context.notify(b"copy_to", new)
    return int(done)


def check_database(word: bytes) -> None:
    """Find out whether a number is that of a database: there is one, 0.

    Args:
        word: the number.

    Raises:
        CommandError: if it is not.
    """
    number = integer(word)
    if not -(1 << 31) <= number < 1 << 31:
        raise CommandError("ERR value is out of range, value must between -2147483648 and 2147483647")
    if number:
        raise CommandError("ERR DB index is out of range")
