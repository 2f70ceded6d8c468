"""What a command is given besides its words: where the entries are, the time, and who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastkv.store import Decide, Entry

    T = TypeVar("T")


class Space(Protocol):
    """Where the entries are: the store, or a transaction on it. The methods are those of the store."""

    def get(self, key: bytes, clock: Callable[[], int]) -> Entry | None:
        """Look a key up."""

    def get_together(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[Entry | None]:
        """Look several keys up, as they were at one moment."""

    def put(
        self, key: bytes, value: bytes, clock: Callable[[], int], flags: int = 0, deadline_ms: int = 0
    ) -> int:
        """Insert or replace an entry."""

    def delete(self, key: bytes, clock: Callable[[], int]) -> bool:
        """Remove an entry."""

    def update(
        self, key: bytes, decide: Decide, clock: Callable[[], int], *, with_value: bool = True
    ) -> tuple[Entry | None, int]:
        """Read an entry and change it, with nobody in between."""

    def transact(
        self, keys: Sequence[bytes] | None, body: Callable[[Space], T], clock: Callable[[], int]
    ) -> T:
        """Do several things with some keys, or all, at one moment, all or none."""


class Client(Protocol):
    """Who asks: a connection, as far as commands are concerned."""
