"""The table of commands: name → what it takes, what it may do, and what does it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from fastkv.commands.arguments import printable
from fastkv.commands.replies import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply
    from fastkv.steps import Steps

Handler: TypeAlias = "Callable[[Context, list[bytes]], Reply | Steps[Reply]]"
"""From a command's words, its name among them, to the reply; raises CommandError and the store's errors. One
that may take long is a generator; it sees the context's client only before its first ``yield``."""

# How much of an unknown command is repeated to the client.
_REPEATED_BYTES: Final = 128


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the table.

    Attributes:
        name: in capitals.
        handler: what does it.
        arity: how many words it has, its name among them; if negative, at least so many.
        least, most: the same as bounds.
        writes: whether it may change entries.
        first_key, last_key, key_step: where its keys stand among the words, a negative last one being
            counted from the end; 0, 0, 0 for none (as Redis' COMMAND tells them).
        all_keys: whether it looks at entries that it does not name.
        queued: whether it waits for EXEC in a transaction.
    """

    name: str
    handler: Handler
    arity: int
    least: int
    most: int
    writes: bool
    first_key: int
    last_key: int
    key_step: int
    all_keys: bool
    queued: bool

    def keys(self, words: list[bytes]) -> list[bytes]:
        """The keys that a command names.

        Args:
            words: of the command, as many as it takes.
        """
        if not self.first_key:
            return []
        last = self.last_key if self.last_key > 0 else len(words) + self.last_key
        return words[self.first_key : last + 1 : self.key_step]


H = TypeVar("H", bound=Handler)

COMMANDS: Final[dict[bytes, Command]] = {}
"""By name, in capitals."""

SPELLINGS: Final[dict[bytes, Command]] = {}
"""By name, in capitals and in lower case: found without a conversion."""


def command(
    name: str,
    arity: int,
    keys: tuple[int, int, int] = (0, 0, 0),
    *,
    writes: bool = False,
    all_keys: bool = False,
    queued: bool = True,
) -> Callable[[H], H]:
    """Put the function that follows into the table; see ``Command``."""

    def register(handler: H) -> H:
        most = arity if arity > 0 else sys.maxsize
        made = Command(name, handler, arity, abs(arity), most, writes, *keys, all_keys, queued)
        COMMANDS[name.encode()] = SPELLINGS[name.encode()] = SPELLINGS[name.lower().encode()] = made
        return handler

    return register


def find(name: bytes) -> Command | None:
    """Find a command by its name, however that is spelt."""
    return SPELLINGS.get(name) or SPELLINGS.get(name.upper())


def checked(words: list[bytes]) -> Command:
    """Find the command of some words.

    Args:
        words: its name and what it is given.

    Returns:
        The command.

    Raises:
        CommandError: if there is none of that name, or it takes more words or fewer.
    """
    if not words:
        raise CommandError("ERR empty command")
    found = find(words[0])
    if found is None:
        raise _unknown(words)
    if not found.least <= len(words) <= found.most:
        raise wrong_number(found.name)
    return found


def wrong_number(name: str) -> CommandError:
    """What is raised for too many words, or too few.

    Args:
        name: the command's.
    """
    return CommandError(f"ERR wrong number of arguments for '{name.lower()}' command")


def _unknown(words: list[bytes]) -> CommandError:
    """What is raised for a command that is none, its words repeated as far as Redis repeats them."""
    repeated, size = "", 0
    for word in words[1:]:
        if size >= _REPEATED_BYTES:
            break
        shown = word[: _REPEATED_BYTES - size].partition(b"\0")[0]
        size += len(shown) + 3
        repeated += f"'{printable(shown)}' "
    name = printable(words[0], _REPEATED_BYTES)
    return CommandError(f"ERR unknown command '{name}', with args beginning with: {repeated}")
