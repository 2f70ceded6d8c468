"""Patterns of commands: those of `fastkv.glob`, no longer than a command may make the server work for."""

from __future__ import annotations

from typing import Final

from fastkv import glob
from fastkv.commands.replies import CommandError

LONGEST_PATTERN: Final = 1 << 16
"""Bytes of the longest pattern."""


class Glob(glob.Glob):
    """A pattern that is compiled."""

    __slots__ = ()

    def __init__(self, pattern: bytes) -> None:
        """Compile a pattern.

        Args:
            pattern: up to ``LONGEST_PATTERN`` bytes.

        Raises:
            CommandError: if it is longer.
        """
        if len(pattern) > LONGEST_PATTERN:
            raise CommandError(f"ERR the pattern has more than {LONGEST_PATTERN} bytes")
        super().__init__(pattern)
