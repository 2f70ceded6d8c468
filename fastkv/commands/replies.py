"""What commands answer with, before any wire has put it in its own words."""

from __future__ import annotations

from typing import Final, TypeAlias, Union


class Status(bytes):
    """A word of the server's own, such as ``OK``: a simple string in RESP, a string like any other in JSON."""

    __slots__ = ()


class CommandError(Exception):
    """A command cannot be done as it was given; nothing of it was.

    As an exception inside of the commands, as a value in replies. The text is Redis': a word in capitals, a
    space, a sentence.
    """

    @property
    def text(self) -> str:
        """What the client is told."""
        return str(self.args[0])


Reply: TypeAlias = Union[None, int, bytes, CommandError, list["Reply"]]  # noqa: UP007 - it names itself
"""Nothing, a number of 64 bits, a string, an error, or several of these."""

OK: Final = Status(b"OK")
