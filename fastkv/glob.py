"""Patterns as Redis has them for KEYS, SCAN and PSUBSCRIBE, matched without backtracking.

``*`` any bytes, ``?`` one byte, ``[ab]``, ``[a-z]``, ``[^a]`` one of some bytes; a backslash takes the next
byte as it is. What is not closed ends with the pattern. As in Redis, the empty text matches the empty pattern
only.

All ways to match are followed at once: bit i of an integer says that so far the pattern may have matched i
bytes. A step for one byte of the pattern is an AND and a shift; a star sets all bits above the lowest. So the
time is at most the text's length times itself, divided by 64: no pattern takes long.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeAlias

_STAR: Final = b""
# For ``bytes.translate``: "1" for the bytes that match, "0" for all others.
_Table: TypeAlias = bytes
_ANY: Final = b"1" * 256
_NONE: Final = b"0" * 256
_MOST_STARS: Final = 2


class Glob:
    """A pattern that is compiled.

    Attributes:
        pattern: as it was given.
        prefix: what every text begins with that matches.
        parts: what stands before, between and behind its stars, if these are two at most and all else is
            bytes that match themselves; None for all other patterns.
        matches_all: whether it is ``*``, which matches the empty text, too.
    """

    __slots__ = ("_has_star", "_least", "_steps", "matches_all", "parts", "pattern", "prefix")

    def __init__(self, pattern: bytes) -> None:
        """Compile a pattern.

        Args:
            pattern: any bytes; what is compiled takes 300 times as many.
        """
        self.pattern = pattern
        self.matches_all = pattern == b"*"
        steps = _steps(pattern)
        # What stands before the first step that could be any of several bytes is compared in one go.
        size = next((i for i, step in enumerate(steps) if step.count(b"1") != 1), len(steps))
        self.prefix = bytes([step.index(b"1") for step in steps[:size]])
        self._steps = steps[size:]
        self._has_star = _STAR in self._steps
        # So many bytes at least follow the prefix.
        self._least = sum(step is not _STAR for step in self._steps)
        self.parts = self._parts()

    @property
    def is_literal(self) -> bool:
        """Whether only one text matches: the prefix."""
        return not self._steps

    def _parts(self) -> tuple[bytes, ...] | None:
        if self._steps.count(_STAR) > _MOST_STARS:
            return None
        parts = [bytearray(self.prefix)]
        for step in self._steps:
            if step is _STAR:
                parts.append(bytearray())
            elif step.count(b"1") == 1:
                parts[-1].append(step.index(b"1"))
            else:
                return None
        return tuple(map(bytes, parts))

    def matches(self, text: bytes) -> bool:
        """Whether a text matches as a whole."""
        if not text:
            return not self.pattern
        if self.parts is not None:
            return self._matches_parts(*self.parts, text=text)
        size = len(self.prefix)
        if not text.startswith(self.prefix):
            return False
        left = len(text) - size
        if left < self._least or (left > self._least and not self._has_star):
            return False
        rest = text[: size - 1 if size else None : -1]  # backwards, so that its first byte has the lowest bit
        end = 1 << left
        state = 1
        places = {_ANY: end - 1}  # by step, where it fits: to find that takes most of the time
        for step in self._steps:
            if step is _STAR:
                state = (end << 1) - (state & -state)
            else:
                fits = places.get(step)
                if fits is None:
                    fits = places[step] = int(rest.translate(step), 2)
                state = (state & fits) << 1
            if not state:
                return False
        return state & end != 0

    def _matches_parts(self, prefix: bytes, *others: bytes, text: bytes) -> bool:
        """``matches`` for a pattern in parts, in a time that is about the text's length."""
        if not others:
            return text == prefix
        *infix, suffix = others
        begin, end = len(prefix), len(text) - len(suffix)
        return (
            begin <= end
            and text.startswith(prefix)
            and text.endswith(suffix)
            and (not infix or text.find(infix[0], begin, end) >= 0)
        )


def _steps(pattern: bytes) -> list[_Table]:
    """The steps of a pattern: a table for each byte of a text, and ``_STAR``."""
    steps: list[_Table] = []
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        at += 1
        if byte == b"*":
            if not steps or steps[-1] is not _STAR:
                steps.append(_STAR)
        elif byte == b"?":
            steps.append(_ANY)
        elif byte == b"[":
            step, at = _class(pattern, at)
            steps.append(step)
        else:
            if byte == b"\\" and at < len(pattern):
                byte = pattern[at : at + 1]
                at += 1
            steps.append(_one(byte[0]))
    return steps


def _class(pattern: bytes, at: int) -> tuple[_Table, int]:
    """The step of a class that begins behind its bracket, and where it ends."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        left = len(pattern) - at
        if left >= 2 and pattern[at : at + 1] == b"\\":
            members.add(pattern[at + 1])
            at += 2
        elif left >= 3 and pattern[at + 1 : at + 2] == b"-":
            # As the characters of C, which are signed.
            low, high = sorted((byte ^ 0x80) - 0x80 for byte in (pattern[at], pattern[at + 2]))
            members.update(byte & 0xFF for byte in range(low, high + 1))
            at += 3
        else:
            members.add(pattern[at])
            at += 1
    return _any_of(frozenset(members), negated), at + 1


# A pattern may have thousands of classes, and patterns come by the thousand: most classes are among few.
@lru_cache(1024)
def _any_of(members: frozenset[int], negated: bool) -> _Table:
    """The step that some bytes match, or all others."""
    table = bytearray(_ANY if negated else _NONE)
    for byte in members:
        table[byte] = 48 if negated else 49
    return bytes(table)


@lru_cache(256)
def _one(byte: int) -> _Table:
    """The step that one byte matches."""
    return bytes([49 if other == byte else 48 for other in range(256)])
