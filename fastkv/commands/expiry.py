"""How long entries live: EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT, TTL, PTTL, EXPIRETIME, PEXPIRETIME, PERSIST.

Clients give and are told lengths of time, or Unix time; deadlines are on the clock of the arena. The two are
``Context.ahead_ms`` apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.commands.arguments import LARGEST, SMALLEST, expire_error, integer, printable
from fastkv.commands.replies import CommandError
from fastkv.commands.table import command
from fastkv.stats import Column
from fastkv.store import DELETE, LEAVE, Retime

if TYPE_CHECKING:
    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply
    from fastkv.store import Change, Entry

_HITS: Final = int(Column.HITS)
_MISSES: Final = int(Column.MISSES)
_DELETES: Final = int(Column.DELETES)

_NOT_THERE: Final = -2
_FOR_EVER: Final = -1


def new_deadline_ms(context: Context, name: bytes, word: bytes, unit_ms: int, *, absolute: bool) -> int:
    """When an entry that is written now is to be gone.

    Args:
        context: for the clocks.
        name: of the command.
        word: a number above 0.
        unit_ms: milliseconds in one of it.
        absolute: whether it is Unix time, not a length of time.

    Returns:
        Milliseconds on the arena's clock; perhaps not after now if it is absolute.

    Raises:
        CommandError: if it is no such number.
    """
    number = integer(word)
    if number <= 0:
        raise expire_error(name)
    return _deadline_ms(context, name, number * unit_ms, absolute=absolute)


def _deadline_ms(context: Context, name: bytes, time_ms: int, *, absolute: bool) -> int:
    """A moment on the arena's clock, from Unix time or from now; an error if 64 bits end before that."""
    deadline_ms = time_ms - context.ahead_ms() if absolute else time_ms + context.clock()
    # Nobody asks what Unix time it is for a length of time that is an ordinary one.
    if abs(time_ms) > LARGEST // 2:
        last_ms = LARGEST if absolute else LARGEST - context.clock() - context.ahead_ms()
        if not SMALLEST <= time_ms <= last_ms:
            raise expire_error(name)
    return deadline_ms


def _expire(context: Context, words: list[bytes], unit_ms: int, *, absolute: bool) -> int:
    """Give an entry a deadline; 0 if there is none, or an option forbids it."""
    options = _options(words[3:])
    deadline_ms = _deadline_ms(context, words[0], integer(words[2]) * unit_ms, absolute=absolute)
    past = deadline_ms <= context.clock()
    change: Change = LEAVE

    def decide(entry: Entry | None) -> Change:
        nonlocal change
        if entry is None or not _allowed(options, entry[3], deadline_ms):
            change = LEAVE
        else:
            change = DELETE if past else Retime(deadline_ms)
        return change

    context.space.update(words[1], decide, context.clock, with_value=False)
    if change is LEAVE:
        return 0
    if change is DELETE:
        context.counters[_DELETES] += 1
        context.notify(b"del", words[1])
    else:
        context.notify(b"expire", words[1])
    return 1


def _options(words: list[bytes]) -> set[bytes]:
    """The options of EXPIRE."""
    options = {word.upper() for word in words}
    for word in words:
        if word.upper() not in (b"NX", b"XX", b"GT", b"LT"):
            raise CommandError(f"ERR Unsupported option {printable(word)}")
    if b"NX" in options and len(options) > 1:
        raise CommandError("ERR NX and XX, GT or LT options at the same time are not compatible")
    if b"GT" in options and b"LT" in options:
        raise CommandError("ERR GT and LT options at the same time are not compatible")
    return options


def _allowed(options: set[bytes], old_ms: int, new_ms: int) -> bool:
    """Whether an entry may get another deadline; an old one of 0 is later than all others."""
    return not (
        (b"NX" in options and old_ms)
        or (b"XX" in options and not old_ms)
        or (b"GT" in options and (not old_ms or new_ms <= old_ms))
        or (b"LT" in options and old_ms and new_ms >= old_ms)
    )


@command("EXPIRE", -3, (1, 1, 1), writes=True)
def expire(context: Context, words: list[bytes]) -> Reply:
    """Let an entry go after so many seconds."""
    return _expire(context, words, 1000, absolute=False)


@command("PEXPIRE", -3, (1, 1, 1), writes=True)
def pexpire(context: Context, words: list[bytes]) -> Reply:
    """Let an entry go after so many milliseconds."""
    return _expire(context, words, 1, absolute=False)


@command("EXPIREAT", -3, (1, 1, 1), writes=True)
def expireat(context: Context, words: list[bytes]) -> Reply:
    """Let an entry go at a second of Unix time."""
    return _expire(context, words, 1000, absolute=True)


@command("PEXPIREAT", -3, (1, 1, 1), writes=True)
def pexpireat(context: Context, words: list[bytes]) -> Reply:
    """Let an entry go at a millisecond of Unix time."""
    return _expire(context, words, 1, absolute=True)


def _deadline_of(context: Context, key: bytes) -> int | None:
    """An entry's deadline, 0 for none; None without an entry."""
    entry = context.space.get(key, context.clock)
    context.counters[_HITS if entry else _MISSES] += 1
    return entry[3] if entry else None


def _left_ms(context: Context, key: bytes) -> int:
    """How long an entry lives yet."""
    deadline_ms = _deadline_of(context, key)
    if not deadline_ms:
        return _NOT_THERE if deadline_ms is None else _FOR_EVER
    return max(0, deadline_ms - context.clock())


def _end_ms(context: Context, key: bytes) -> int:
    """When an entry is gone, as Unix time."""
    deadline_ms = _deadline_of(context, key)
    if not deadline_ms:
        return _NOT_THERE if deadline_ms is None else _FOR_EVER
    return deadline_ms + context.ahead_ms()


def _in_seconds(time_ms: int) -> int:
    """Milliseconds as the nearest second, what is negative as it is."""
    return time_ms if time_ms < 0 else (time_ms + 500) // 1000


@command("TTL", 2, (1, 1, 1))
def ttl(context: Context, words: list[bytes]) -> Reply:
    """How many seconds an entry lives yet; -1: for ever, -2: there is none."""
    return _in_seconds(_left_ms(context, words[1]))


@command("PTTL", 2, (1, 1, 1))
def pttl(context: Context, words: list[bytes]) -> Reply:
    """How many milliseconds an entry lives yet; -1: for ever, -2: there is none."""
    return _left_ms(context, words[1])


@command("EXPIRETIME", 2, (1, 1, 1))
def expiretime(context: Context, words: list[bytes]) -> Reply:
    """At which second of Unix time an entry is gone; -1: never, -2: there is none."""
    return _in_seconds(_end_ms(context, words[1]))


@command("PEXPIRETIME", 2, (1, 1, 1))
def pexpiretime(context: Context, words: list[bytes]) -> Reply:
    """At which millisecond of Unix time an entry is gone; -1: never, -2: there is none."""
    return _end_ms(context, words[1])


@command("PERSIST", 2, (1, 1, 1), writes=True)
def persist(context: Context, words: list[bytes]) -> Reply:
    """Let an entry live for ever."""
    done = False

    def decide(entry: Entry | None) -> Change:
        nonlocal done
        done = entry is not None and entry[3] != 0
        return Retime(0) if done else LEAVE

    context.space.update(words[1], decide, context.clock, with_value=False)
    if done:
        context.notify(b"persist", words[1])
    return int(done)
