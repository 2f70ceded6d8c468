"""Values that count: INCR, DECR, INCRBY, DECRBY, and INCRBYFLOAT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.commands.arguments import LARGEST, SMALLEST, integer
from fastkv.commands.floats import ZERO, add, parse_float
from fastkv.commands.replies import CommandError
from fastkv.commands.table import command
from fastkv.stats import Column
from fastkv.store import new_value

if TYPE_CHECKING:
    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply
    from fastkv.store import Change, Entry

_PUTS: Final = int(Column.PUTS)


def _count(context: Context, key: bytes, amount: int) -> Reply:
    """Add to a value, 0 if there is none; its deadline stays."""
    context.check(key)
    total = 0

    def decide(entry: Entry | None) -> Change:
        nonlocal total
        total = amount + (integer(entry[0]) if entry else 0)
        if not SMALLEST <= total <= LARGEST:
            raise CommandError("ERR increment or decrement would overflow")
        return new_value(entry, b"%d" % total)

    context.space.update(key, decide, context.clock)
    context.counters[_PUTS] += 1
    context.notify(b"incrby", key)
    return total


@command("INCR", 2, (1, 1, 1), writes=True)
def incr(context: Context, words: list[bytes]) -> Reply:
    """Count up by one."""
    return _count(context, words[1], 1)


@command("DECR", 2, (1, 1, 1), writes=True)
def decr(context: Context, words: list[bytes]) -> Reply:
    """Count down by one."""
    return _count(context, words[1], -1)


@command("INCRBY", 3, (1, 1, 1), writes=True)
def incrby(context: Context, words: list[bytes]) -> Reply:
    """Count up."""
    return _count(context, words[1], integer(words[2]))


@command("DECRBY", 3, (1, 1, 1), writes=True)
def decrby(context: Context, words: list[bytes]) -> Reply:
    """Count down."""
    amount = integer(words[2])
    if amount == SMALLEST:
        raise CommandError("ERR decrement would overflow")
    return _count(context, words[1], -amount)


@command("INCRBYFLOAT", 3, (1, 1, 1), writes=True)
def incrbyfloat(context: Context, words: list[bytes]) -> Reply:
    """Add a number with a fraction; its deadline stays."""
    key = words[1]
    context.check(key)
    total = b""

    def decide(entry: Entry | None) -> Change:
        nonlocal total
        # First what is there and then what is added: the order in which Redis complains, in the same words.
        total = add(parse_float(entry[0]) if entry else ZERO, parse_float(words[2]))
        context.check(key, len(total))
        return new_value(entry, total)

    context.space.update(key, decide, context.clock)
    context.counters[_PUTS] += 1
    context.notify(b"incrbyfloat", key)
    return total
