"""Single bits of values: SETBIT, GETBIT, BITCOUNT. Bit 0 is the highest of the first byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.commands.arguments import LONGEST_STRING, integer, syntax_error
from fastkv.commands.replies import CommandError
from fastkv.commands.table import command
from fastkv.stats import Column
from fastkv.store import LEAVE, new_value

if TYPE_CHECKING:
    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply
    from fastkv.store import Change, Entry

_HITS: Final = int(Column.HITS)
_MISSES: Final = int(Column.MISSES)
_PUTS: Final = int(Column.PUTS)


def _place(word: bytes) -> tuple[int, int]:
    """Where a bit is: its byte, and how far it is from the lowest bit of that."""
    complaint = "ERR bit offset is not an integer or out of range"
    offset = integer(word, complaint)
    if not 0 <= offset < 8 * LONGEST_STRING:
        raise CommandError(complaint)
    return offset >> 3, 7 - (offset & 7)


@command("SETBIT", 4, (1, 1, 1), writes=True)
def setbit(context: Context, words: list[bytes]) -> Reply:
    """Set or clear a bit; what it was."""
    key = words[1]
    byte, shift = _place(words[2])
    complaint = "ERR bit is not an integer or out of range"
    bit = integer(words[3], complaint)
    if bit not in (0, 1):
        raise CommandError(complaint)
    old = 0

    def decide(entry: Entry | None) -> Change:
        nonlocal old
        value = entry[0] if entry else b""
        context.check(key, max(len(value), byte + 1))
        new = bytearray(value.ljust(byte + 1, b"\0"))
        old = new[byte] >> shift & 1
        if old == bit and byte < len(value):
            return LEAVE  # who watches the key is not to learn of it
        new[byte] = new[byte] & ~(1 << shift) | bit << shift
        return new_value(entry, bytes(new))

    before, _ = context.space.update(key, decide, context.clock)
    context.counters[_PUTS] += 1
    if old != bit or before is None or len(before[0]) <= byte:
        context.notify(b"setbit", key)
    return old


@command("GETBIT", 3, (1, 1, 1))
def getbit(context: Context, words: list[bytes]) -> Reply:
    """A bit; beyond the value they are 0."""
    byte, shift = _place(words[2])
    entry = context.space.get(words[1], context.clock)
    context.counters[_HITS if entry else _MISSES] += 1
    return entry[0][byte] >> shift & 1 if entry and byte < len(entry[0]) else 0


@command("BITCOUNT", -2, (1, 1, 1))
def bitcount(context: Context, words: list[bytes]) -> Reply:
    """How many bits are set, in all of a value or in a part of it."""
    entry = context.space.get(words[1], context.clock)
    context.counters[_HITS if entry else _MISSES] += 1
    if entry is None:
        return 0  # before the other words are looked at, as in Redis
    value = entry[0]
    if len(words) == 2:
        return int.from_bytes(value).bit_count()
    if len(words) not in (4, 5):
        raise syntax_error()
    first, last = integer(words[2]), integer(words[3])
    if first < 0 and last < 0 and first > last:
        return 0  # before the unit is looked at, as in Redis
    unit = words[4].upper() if len(words) == 5 else b"BYTE"
    if unit not in (b"BYTE", b"BIT"):
        raise syntax_error()
    width = 8 if unit == b"BYTE" else 1
    size = len(value) * 8 // width
    first = max(0, first + size if first < 0 else first)
    last = min(size - 1, max(0, last + size if last < 0 else last))
    if first > last:
        return 0
    part = int.from_bytes(value) >> (size - 1 - last) * width
    return (part & (1 << (last - first + 1) * width) - 1).bit_count()
