"""What commands answer with, before any wire has put it in its own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, Union

if TYPE_CHECKING:
    from fastkv.steps import Steps


class Status(bytes):
    """A word of the server's own, such as ``OK``: a simple string in RESP, a string like others in JSON."""

    __slots__ = ()


class CommandError(Exception):
    """A command cannot be done as it was given; nothing of it was.

    As an exception inside of the commands, as a value in replies. The text is Redis': a word in capitals, a
    space, a sentence.

    Attributes:
        oversized: A value would be longer than values may be.
    """

    def __init__(self, text: str, *, oversized: bool = False) -> None:
        super().__init__(text)
        self.oversized = oversized

    @property
    def text(self) -> str:
        """What the client is told."""
        return str(self.args[0])


Reply: TypeAlias = Union[int, bytes, CommandError, list["Reply"], None]  # noqa: UP007 - it names itself
"""A number of 64 bits, a string, an error, several of these, or nothing."""


class Several(list[Reply]):
    """Several replies to one command, as SUBSCRIBE has one for each channel.

    In RESP one follows the other; in JSON they are an array.
    """

    __slots__ = ()


OK: Final = Status(b"OK")
QUEUED: Final = Status(b"QUEUED")

_NUMBER_BYTES: Final = 16
# Parts that a step counts or frees.
_PARTS: Final = 4096


def size_of(reply: Reply) -> int:
    """How long a reply is, about, in bytes.

    Args:
        reply: a reply.
    """
    if isinstance(reply, bytes):
        return len(reply)
    if isinstance(reply, list):
        return _NUMBER_BYTES + sum(map(size_of, reply))
    return len(reply.text) if isinstance(reply, CommandError) else _NUMBER_BYTES


def empty_in_steps(reply: list[Reply]) -> Steps[None]:
    """Let go of the parts of a long list: to free a million of them takes 0.1 s."""
    while reply:
        del reply[-_PARTS:]
        yield None


def size_in_steps(reply: list[Reply]) -> Steps[int]:
    """``size_of`` a long list, some parts at a time."""
    size = _NUMBER_BYTES
    for at in range(0, len(reply), _PARTS):
        size += sum(map(size_of, reply[at : at + _PARTS]))
        yield None
    return size
