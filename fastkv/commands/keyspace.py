"""All keys there are: KEYS, SCAN, RANDOMKEY, DBSIZE, FLUSHALL, FLUSHDB.

What goes through many entries does so in steps, between which other connections are served.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fastkv.commands.arguments import glob_of, integer, syntax_error
from fastkv.commands.replies import OK, CommandError
from fastkv.commands.table import command
from fastkv.errors import StoreBusy, StoreError, WalkTooLong, WrongCursor

if TYPE_CHECKING:
    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply
    from fastkv.glob import Glob
    from fastkv.steps import Steps

# Entries that a step looks at, 2.5 µs each, and bytes that it returns, at most.
_STEP_ENTRIES: Final = 256
_STEP_BYTES: Final = 1 << 20
# SCAN looks at no more entries, whatever COUNT says, and takes no more steps.
_MOST_SCANNED: Final = 4096
_MOST_STEPS: Final = 64
# Further clients wait for one of these: what they collect is not counted as memory of their connections.
_MOST_WALKS: Final = 4
_WAIT_SECONDS: Final = 0.005
_SETS: Final = 64
_DEFAULT_COUNT: Final = 10
_match_cursor = re.compile(rb"[0-9]{0,20}").fullmatch


def _some_keys(context: Context, cursor: int, most: int) -> tuple[list[bytes], int]:
    """Some of the keys, and the cursor to go on with."""
    entries, cursor = context.space.scan_keys(cursor, context.clock, _STEP_BYTES, most)
    return [entry[0] for entry in entries], cursor


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
    """All keys that match a pattern; with 60 to 100 bytes for each of them while they are collected."""
    # A key may be met twice if what is walked through grows meanwhile. There are many small sets, because one
    # of a million keys takes 40 ms when it grows.
    found: list[set[bytes]] = [set() for _ in range(_SETS)]
    cursor = size = 0
    while True:
        some, cursor = _some_keys(context, cursor, _STEP_ENTRIES)
        matching = some if glob.matches_all else list(filter(glob.matches, some))
        size += sum(map(len, matching))
        context.check_reply(size)
        for key in matching:
            found[hash(key) % _SETS].add(key)
        yield None
        if not cursor:
            break
    all_found: list[Reply] = []
    while found:
        all_found += found.pop()
        yield None
    return all_found


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
            some, cursor = _some_keys(context, cursor, min(left, _STEP_ENTRIES))
        except WrongCursor:
            raise CommandError("ERR invalid cursor") from None
        matching += [key for key in some if wanted and (glob is None or glob.matches(key))]
        left -= len(some)
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
