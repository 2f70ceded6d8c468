"""All keys there are: KEYS, SCAN, RANDOMKEY, DBSIZE, FLUSHALL, FLUSHDB.

What goes through many entries does so in steps, between which other connections are served.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, Final, cast

from fastkv.commands.arguments import glob_of, integer, syntax_error
from fastkv.commands.replies import OK, CommandError
from fastkv.commands.table import command
from fastkv.errors import StoreBusy, StoreError, WalkTooLong, WrongCursor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply
    from fastkv.glob import Glob
    from fastkv.steps import Steps
    from fastkv.store import Page

# Entries that a step looks at, 0.2 µs each or 2.5 in readable Python, and bytes that it returns, at most.
_STEP_ENTRIES: Final = 1024
_STEP_BYTES: Final = 1 << 20
# SCAN looks at no more entries, whatever COUNT says, and takes no more steps.
_MOST_SCANNED: Final = 4096
_MOST_STEPS: Final = 64
# Further clients wait for one of these: what they collect is not counted as memory of their connections.
_MOST_WALKS: Final = 4
_WAIT_SECONDS: Final = 0.005
_SET_WORDS: Final = 1 << 15
_DEFAULT_COUNT: Final = 10
_match_cursor = re.compile(rb"[0-9]{0,20}").fullmatch


def _some_keys(context: Context, cursor: int, most: int, glob: Glob | None) -> Page[bytes]:
    """Some of the keys, those that match a pattern; None: any."""
    if glob is not None and glob.matches_all:
        glob = None
    return context.space.scan_keys(cursor, context.clock, _STEP_BYTES, most, glob)


class Distinct:
    """Different words, in small sets: one of a million takes 40 ms when it grows."""

    __slots__ = ("_full", "_open")

    def __init__(self) -> None:
        """Begin with none."""
        self._full: list[set[bytes]] = []
        self._open: set[bytes] = set()

    def add(self, words: list[bytes]) -> None:
        """Add those that are not there yet."""
        self._open.update(set(words).difference(*self._full) if self._full else words)
        if len(self._open) > _SET_WORDS:
            self._full.append(self._open)
            self._open = set()

    def __iter__(self) -> Iterator[bytes]:
        return chain(*self._full, self._open)


@command("KEYS", 2, all_keys=True)
def keys(context: Context, words: list[bytes]) -> Steps[Reply]:
    """All keys that match a pattern."""
    glob = glob_of(words[1])
    there = context.space.entries()
    if there > context.limits.max_keys:
        raise WalkTooLong(
            f"there are {there} entries; --max-keys allows KEYS {context.limits.max_keys}; use SCAN"
        )
    while context.walks >= _MOST_WALKS:
        yield _WAIT_SECONDS
    context.walks += 1
    try:
        return (yield from _matching_keys(context, glob))
    finally:
        context.walks -= 1


def _matching_keys(context: Context, glob: Glob) -> Steps[Reply]:
    """All keys that match a pattern, each once; with 60 to 100 bytes for each while they are collected."""
    found: list[bytes] = []
    cursor = size = begin = 0  # the keys of the shard that the walk is in begin there
    calm, stamp = True, None
    while True:
        some, cursor, _, settled, begun, ended = _some_keys(context, cursor, _STEP_ENTRIES, glob)
        size += sum(map(len, some))
        context.check_reply(size)
        # A key may be met twice in its shard if that grows meanwhile, or if it is put anew.
        calm = calm and ended is not None and begun == (stamp or begun)
        stamp = ended
        end = len(found) + settled
        found += some
        if settled >= 0:
            if not calm:
                end -= yield from _drop_repeated(found, begin, end)
            begin, calm = end, ended is not None
        yield None
        if not cursor:
            return cast("list[Reply]", found)


def _drop_repeated(found: list[bytes], begin: int, end: int) -> Steps[int]:
    """Keep each of the keys from ``begin`` to ``end`` once; how many are dropped."""
    shard = Distinct()
    for at in range(begin, end, _STEP_ENTRIES):
        shard.add(found[at : min(at + _STEP_ENTRIES, end)])
        yield None
    before = len(found)
    found[begin:end] = shard
    return before - len(found)


@command("SCAN", -2, all_keys=True)
def scan(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Some of the keys, and the cursor to go on with."""
    if not _match_cursor(words[1]):
        raise CommandError("ERR invalid cursor")
    glob, count, wanted = _scan_options(words)
    left = min(count, _MOST_SCANNED)
    cursor = int(words[1] or b"0")
    matching: list[Reply] = []
    for _ in range(_MOST_STEPS):
        try:
            page = _some_keys(context, cursor, min(left, _STEP_ENTRIES), glob)
        except WrongCursor:
            raise CommandError("ERR invalid cursor") from None
        cursor = page.cursor
        if wanted:
            matching += page.found
        left -= page.met
        if not cursor or left <= 0:
            break
        yield None
    return [b"%d" % cursor, matching]


def _scan_options(words: list[bytes]) -> tuple[Glob | None, int, bool]:
    """The options of SCAN: the pattern, how many keys, and whether strings are wanted."""
    glob, count, wanted = None, _DEFAULT_COUNT, True
    rest = iter(words[2:])
    for word in rest:
        option, argument = word.upper(), next(rest, None)
        if argument is None or option not in (b"MATCH", b"COUNT", b"TYPE"):
            raise syntax_error()
        if option == b"MATCH":
            glob = glob_of(argument)
        elif option == b"TYPE":
            wanted = argument.lower() == b"string"
        else:
            count = integer(argument)
            if count < 1:
                raise syntax_error()
    return glob, count, wanted


@command("RANDOMKEY", 1, all_keys=True)
def randomkey(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Any key."""
    return (yield from context.space.random_key(context.clock))


@command("DBSIZE", 1, all_keys=True)
def dbsize(context: Context, words: list[bytes]) -> Reply:
    """How many entries there are, perhaps with some whose deadline has passed."""
    return context.space.entries()


def _flush(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Remove all entries: at one moment, or with ASYNC shard by shard, while other connections are served."""
    mode = words[1].upper() if len(words) == 2 else b"SYNC"
    if len(words) > 2 or mode not in (b"SYNC", b"ASYNC"):
        raise syntax_error()
    try:
        if mode == b"ASYNC":
            yield from context.space.flush_in_steps()
        else:
            context.space.flush()
    except StoreBusy:
        raise
    except StoreError as error:  # in a transaction, which changes single keys
        raise CommandError(f"ERR {error}") from None
    return OK


@command("FLUSHALL", -1, writes=True, all_keys=True)
def flushall(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Remove all entries."""
    return _flush(context, words)


@command("FLUSHDB", -1, writes=True, all_keys=True)
def flushdb(context: Context, words: list[bytes]) -> Steps[Reply]:
    """Remove all entries; here it is FLUSHALL."""
    return _flush(context, words)
