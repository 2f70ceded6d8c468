"""Values as a whole, and parts of them: GET, SET and the like, MGET, MSET, APPEND, GETRANGE, SETRANGE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.commands.arguments import LONGEST_STRING, integer, syntax_error
from fastkv.commands.expiry import new_deadline_ms
from fastkv.commands.replies import OK, CommandError
from fastkv.commands.table import command, wrong_number
from fastkv.stats import Column
from fastkv.store import DELETE, LEAVE, Retime, new_value

if TYPE_CHECKING:
    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply
    from fastkv.store import Change, Entry

_HITS: Final = int(Column.HITS)
_MISSES: Final = int(Column.MISSES)
_PUTS: Final = int(Column.PUTS)
_DELETES: Final = int(Column.DELETES)

# By option: milliseconds in one of its unit, and whether it is Unix time.
_EXPIRY: Final = {b"EX": (1000, False), b"PX": (1, False), b"EXAT": (1000, True), b"PXAT": (1, True)}


@command("GET", 2, (1, 1, 1))
def get(context: Context, words: list[bytes]) -> Reply:
    """The value of a key."""
    entry = context.space.get(words[1], context.clock)
    if entry is None:
        context.counters[_MISSES] += 1
        return None
    context.counters[_HITS] += 1
    return entry[0]


@command("SET", -3, (1, 1, 1), writes=True)
def set_(context: Context, words: list[bytes]) -> Reply:
    """Give a key a value."""
    key, value = words[1], words[2]
    context.check(key, len(value))
    if len(words) == 3:
        context.space.put(key, value, context.clock)
        context.counters[_PUTS] += 1
        context.notify(b"set", key)
        return OK
    flags, expiry = _options(words, b"NX XX GET KEEPTTL".split())
    deadline_ms = _deadline_ms(context, words[0], expiry)
    return _set_if(context, key, value, flags, deadline_ms)


def _set_if(context: Context, key: bytes, value: bytes, flags: set[bytes], deadline_ms: int | None) -> Reply:
    """SET with options."""
    past = deadline_ms is not None and deadline_ms <= context.clock()
    gets = b"GET" in flags
    before: Entry | None = None
    done = True

    def decide(entry: Entry | None) -> Change:
        nonlocal done
        done = not (b"NX" in flags and entry is not None) and not (b"XX" in flags and entry is None)
        if not done:
            return LEAVE
        if past:
            return DELETE
        if b"KEEPTTL" in flags and entry is not None:
            return value, 0, entry[3], b""
        return value, 0, deadline_ms or 0, b""

    if flags or past:
        before, _ = context.space.update(key, decide, context.clock, with_value=gets)
    else:
        context.space.put(key, value, context.clock, 0, deadline_ms or 0)
    if gets:
        context.counters[_HITS if before else _MISSES] += 1
    if done:
        context.counters[_PUTS] += 1
        context.notify(b"set", key)
        if deadline_ms is not None:
            context.notify(b"expire", key)
    if gets:
        return before[0] if before else None
    return OK if done else None


def _options(words: list[bytes], allowed: list[bytes]) -> tuple[set[bytes], tuple[bytes, bytes] | None]:
    """The options of SET and GETEX.

    Args:
        words: of the command.
        allowed: those besides the ones of expiry that it takes.

    Returns:
        Those that stand alone; and the one of expiry with its number.

    Raises:
        CommandError: for all else, and for what excludes one another.
    """
    flags: set[bytes] = set()
    expiry: tuple[bytes, bytes] | None = None
    rest = iter(words[3:] if b"NX" in allowed else words[2:])
    for word in rest:
        option = word.upper()
        if option in _EXPIRY:
            number = next(rest, None)
            if number is None or (expiry and expiry[0] != option):
                raise syntax_error()
            expiry = option, number
        elif option in allowed:
            flags.add(option)
        else:
            raise syntax_error()
    if {b"NX", b"XX"} <= flags or (expiry and not flags.isdisjoint((b"KEEPTTL", b"PERSIST"))):
        raise syntax_error()
    return flags, expiry


def _deadline_ms(context: Context, name: bytes, expiry: tuple[bytes, bytes] | None) -> int | None:
    """The deadline that an option asks for, None without one."""
    if expiry is None:
        return None
    unit_ms, absolute = _EXPIRY[expiry[0]]
    return new_deadline_ms(context, name, expiry[1], unit_ms, absolute=absolute)


def _set_for(context: Context, words: list[bytes], unit_ms: int) -> Reply:
    """SETEX and PSETEX."""
    context.check(words[1], len(words[3]))
    deadline_ms = new_deadline_ms(context, words[0], words[2], unit_ms, absolute=False)
    return _set_if(context, words[1], words[3], set(), deadline_ms)


@command("SETEX", 4, (1, 1, 1), writes=True)
def setex(context: Context, words: list[bytes]) -> Reply:
    """Give a key a value for so many seconds."""
    return _set_for(context, words, 1000)


@command("PSETEX", 4, (1, 1, 1), writes=True)
def psetex(context: Context, words: list[bytes]) -> Reply:
    """Give a key a value for so many milliseconds."""
    return _set_for(context, words, 1)


@command("SETNX", 3, (1, 1, 1), writes=True)
def setnx(context: Context, words: list[bytes]) -> Reply:
    """Give a key a value if it has none."""
    context.check(words[1], len(words[2]))
    return int(_set_if(context, words[1], words[2], {b"NX"}, None) is OK)


@command("GETSET", 3, (1, 1, 1), writes=True)
def getset(context: Context, words: list[bytes]) -> Reply:
    """Give a key a value, and tell the one that it had."""
    context.check(words[1], len(words[2]))
    return _set_if(context, words[1], words[2], {b"GET"}, None)


@command("GETDEL", 2, (1, 1, 1), writes=True)
def getdel(context: Context, words: list[bytes]) -> Reply:
    """The value of a key, which is removed."""
    before, _ = context.space.update(words[1], lambda _: DELETE, context.clock)
    if before is None:
        context.counters[_MISSES] += 1
        return None
    context.counters[_HITS] += 1
    context.counters[_DELETES] += 1
    context.notify(b"del", words[1])
    return before[0]


@command("GETEX", -2, (1, 1, 1), writes=True)
def getex(context: Context, words: list[bytes]) -> Reply:
    """The value of a key, which gets another deadline."""
    if len(words) == 2:
        return get(context, words)
    flags, expiry = _options(words, [b"PERSIST"])
    if expiry and context.space.get(words[1], context.clock) is None:
        context.counters[_MISSES] += 1
        return None  # before the number is looked at, as in Redis
    deadline_ms = _deadline_ms(context, words[0], expiry)
    past = deadline_ms is not None and deadline_ms <= context.clock()
    change: Change = LEAVE

    def decide(entry: Entry | None) -> Change:
        nonlocal change
        change = LEAVE
        if entry is not None and past:
            change = DELETE
        elif entry is not None and deadline_ms is not None:
            change = Retime(deadline_ms)
        elif entry is not None and flags and entry[3]:
            change = Retime(0)
        return change

    before, _ = context.space.update(words[1], decide, context.clock)
    if before is None:
        context.counters[_MISSES] += 1
        return None
    context.counters[_HITS] += 1
    if change is DELETE:
        context.counters[_DELETES] += 1
        context.notify(b"del", words[1])
    elif change is not LEAVE:
        context.notify(b"persist" if deadline_ms is None else b"expire", words[1])
    return before[0]


@command("MGET", -2, (1, -1, 1))
def mget(context: Context, words: list[bytes]) -> Reply:
    """The values of several keys, at one moment."""
    context.check_keys(len(words) - 1)
    values = context.space.get_values(words[1:], context.clock)
    misses = values.count(None)
    context.counters[_MISSES] += misses
    context.counters[_HITS] += len(values) - misses
    context.check_reply(sum(map(len, filter(None, values))))
    return [*values]


def _put_all(context: Context, words: list[bytes], *, only_new: bool) -> bool:
    """Put several values at one moment.

    Args:
        context: where to.
        words: of the command: behind its name keys and values.
        only_new: whether nothing is done if one of the keys is there.

    Returns:
        Whether it was done.
    """
    if not len(words) % 2:
        raise wrong_number(words[0].decode())
    context.check_keys(len(words) // 2)
    keys, values = words[1::2], words[2::2]
    context.check_all(keys, values)
    done = context.space.put_many(keys, values, context.clock, only_new=only_new)
    if done:
        context.counters[_PUTS] += len(keys)
        context.notify_all(b"set", keys)
    return done


@command("MSET", -3, (1, -1, 2), writes=True)
def mset(context: Context, words: list[bytes]) -> Reply:
    """Give several keys their values, at one moment."""
    _put_all(context, words, only_new=False)
    return OK


@command("MSETNX", -3, (1, -1, 2), writes=True)
def msetnx(context: Context, words: list[bytes]) -> Reply:
    """Give several keys their values, at one moment, if none of them has one."""
    return int(_put_all(context, words, only_new=True))


@command("APPEND", 3, (1, 1, 1), writes=True)
def append(context: Context, words: list[bytes]) -> Reply:
    """Put bytes behind a value; how long it is then."""
    key, tail = words[1], words[2]

    def decide(entry: Entry | None) -> Change:
        context.check(key, len(tail) + (len(entry[0]) if entry else 0))
        return new_value(entry, entry[0] + tail if entry else tail)

    before, _ = context.space.update(key, decide, context.clock)
    context.counters[_PUTS] += 1
    context.notify(b"append", key)
    return len(tail) + (len(before[0]) if before else 0)


@command("STRLEN", 2, (1, 1, 1))
def strlen(context: Context, words: list[bytes]) -> Reply:
    """How many bytes a value has."""
    entry = context.space.get(words[1], context.clock)
    context.counters[_HITS if entry else _MISSES] += 1
    return len(entry[0]) if entry else 0


def _range(context: Context, words: list[bytes]) -> Reply:
    """A part of a value, from one place to another, both included; negative ones count from the end."""
    first, last = integer(words[2]), integer(words[3])
    entry = context.space.get(words[1], context.clock)
    context.counters[_HITS if entry else _MISSES] += 1
    if entry is None or (first < 0 and last < 0 and first > last):
        return b""
    value = entry[0]
    first = max(0, first + len(value) if first < 0 else first)
    last = max(0, last + len(value) if last < 0 else last)
    return value[first : last + 1]


@command("GETRANGE", 4, (1, 1, 1))
def getrange(context: Context, words: list[bytes]) -> Reply:
    """A part of a value."""
    return _range(context, words)


@command("SUBSTR", 4, (1, 1, 1))
def substr(context: Context, words: list[bytes]) -> Reply:
    """A part of a value; the older name."""
    return _range(context, words)


@command("SETRANGE", 4, (1, 1, 1), writes=True)
def setrange(context: Context, words: list[bytes]) -> Reply:
    """Overwrite a part of a value, with zeros between its end and that part; how long it is then."""
    key, offset, part = words[1], integer(words[2]), words[3]
    if offset < 0:
        raise CommandError("ERR offset is out of range")
    size = 0

    def decide(entry: Entry | None) -> Change:
        nonlocal size
        old = entry[0] if entry else b""
        if not part:
            size = len(old)
            return LEAVE
        if offset + len(part) > LONGEST_STRING:
            raise CommandError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
        size = max(len(old), offset + len(part))
        context.check(key, size)
        new = old[:offset].ljust(offset, b"\0") + part + old[offset + len(part) :]
        return new_value(entry, new)

    context.space.update(key, decide, context.clock)
    if part:
        context.counters[_PUTS] += 1
        context.notify(b"setrange", key)
    return size
