"""What the words of a command say: numbers, lengths of time and patterns, as strictly as Redis reads them.

In: words. Out: what they say; CommandError with Redis' sentence where they say nothing valid.
"""

from __future__ import annotations

import re
from typing import Final

from fastkv.commands.replies import CommandError
from fastkv.glob import Glob

LARGEST: Final = (1 << 63) - 1
"""The largest integer that a command takes, or that a value may be counted up to."""
SMALLEST: Final = -(1 << 63)

LONGEST_PATTERN: Final = 1 << 16
"""Bytes of the longest pattern: a pattern that is compiled takes some hundred times as many."""

LONGEST_STRING: Final = 512 << 20
"""What Redis allows a value at most (proto-max-bulk-len); the store takes less, and says so otherwise."""

_LONGEST: Final = len(str(SMALLEST))
_match_integer = re.compile(rb"0|-?[1-9][0-9]*").fullmatch


def maybe_integer(word: bytes) -> int | None:
    """Read an integer of 64 bits.

    Args:
        word: decimal digits, perhaps behind a minus; no zero before others, no blank, no plus.

    Returns:
        The integer, or None where the word is none.
    """
    if len(word) > _LONGEST or not _match_integer(word):
        return None
    number = int(word)
    return number if SMALLEST <= number <= LARGEST else None


def integer(word: bytes, complaint: str = "ERR value is not an integer or out of range") -> int:
    """Read an integer of 64 bits.

    Args:
        word: as for ``maybe_integer``.
        complaint: the error's text.

    Returns:
        The integer.

    Raises:
        CommandError: if it is none.
    """
    number = maybe_integer(word)
    if number is None:
        raise CommandError(complaint)
    return number


def printable(word: bytes, most: int = 128) -> str:
    """A client's word, to be repeated in an error: what of it C would print, on one line, as UTF-8.

    Args:
        word: the word.
        most: how many bytes of it.

    Returns:
        The text up to a NUL, blanks in place of ends of lines, and U+FFFD in place of what is not UTF-8.
    """
    text = word[: max(0, most)].partition(b"\0")[0].decode(errors="replace")
    return text.replace("\r", " ").replace("\n", " ")


def syntax_error() -> CommandError:
    """What is raised where words stand that a command does not know."""
    return CommandError("ERR syntax error")


def expire_error(name: bytes) -> CommandError:
    """What is raised for a length of time that is none, or a moment that is too far away.

    Args:
        name: of the command, as the client wrote it.
    """
    return CommandError(f"ERR invalid expire time in '{name.decode().lower()}' command")


def glob_of(word: bytes) -> Glob:
    """Compile a pattern.

    Args:
        word: up to ``LONGEST_PATTERN`` bytes.

    Raises:
        CommandError: if it is longer.
    """
    if len(word) > LONGEST_PATTERN:
        raise CommandError(f"ERR the pattern has more than {LONGEST_PATTERN} bytes")
    return Glob(word)
