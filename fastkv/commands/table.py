"""The table of commands: name → what it takes, what it may do, and what does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from fastkv.commands.context import Context
    from fastkv.commands.replies import Reply

Handler: TypeAlias = "Callable[[Context, list[bytes]], Reply]"
"""From a command's words, its name among them, to the reply; raises CommandError and the store's errors."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the table.

    Attributes:
        name: in capitals.
        handler: what does it.
        arity: how many words it has, its name among them; if negative, at least so many.
        writes: whether it may change entries.
        first_key, last_key, key_step: where its keys stand among the words, a negative last one being
            counted from the end; 0, 0, 0 for none (as Redis' COMMAND tells them).
        all_keys: whether it looks at entries that it does not name.
    """

    name: str
    handler: Handler
    arity: int
    writes: bool
    first_key: int
    last_key: int
    key_step: int
    all_keys: bool

    def keys(self, words: list[bytes]) -> list[bytes]:
        """The keys that a command names.

        Args:
            words: of the command, as many as it takes.
        """
        if not self.first_key:
            return []
        last = self.last_key if self.last_key > 0 else len(words) + self.last_key
        return words[self.first_key : last + 1 : self.key_step]

    def takes(self, words: list[bytes]) -> bool:
        """Whether it has as many words as it takes."""
        return len(words) == self.arity or len(words) >= -self.arity > 0


COMMANDS: Final[dict[bytes, Command]] = {}
"""By name, in capitals."""


def command(
    name: str,
    arity: int,
    keys: tuple[int, int, int] = (0, 0, 0),
    *,
    writes: bool = False,
    all_keys: bool = False,
) -> Callable[[Handler], Handler]:
    """Put the function that follows into the table; see ``Command``."""

    def register(handler: Handler) -> Handler:
        COMMANDS[name.encode()] = Command(name, handler, arity, writes, *keys, all_keys)
        return handler

    return register
