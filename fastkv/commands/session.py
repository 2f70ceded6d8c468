"""What a connection keeps from one command to the next: a begun transaction, and watched keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastkv.commands.table import Command


class Session:
    """The state of a connection, made by the wire when it is opened.

    Attributes:
        queue: the commands since MULTI; None outside of a transaction.
        failed: whether one of them could not be queued, so that EXEC will not execute the others.
        watched: the state of each watched key when it was first watched: version and deadline, 0 and 0 for
            one that was not there.
        held_bytes: what all of that takes, about.
    """

    __slots__ = ("failed", "held_bytes", "queue", "watched")

    def __init__(self) -> None:
        self.queue: list[tuple[Command, list[bytes]]] | None = None
        self.failed = False
        self.watched: dict[bytes, tuple[int, int]] = {}
        self.held_bytes = 0

    def end(self) -> None:
        """Forget the transaction and what was watched for it."""
        self.queue = None
        self.failed = False
        self.unwatch()

    def unwatch(self) -> None:
        """Forget what is watched; outside of a transaction that is all there is."""
        self.watched = {}
        self.held_bytes = 0
