"""A message on its way to subscribers, and what a subscriber is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Message:
    """A message as its subscribers get it; those of a pattern get another one than those of its channel.

    Attributes:
        channel: where it was published.
        payload: what was published.
        pattern: the pattern that brought it here, None for a subscription of the channel itself.
    """

    __slots__ = ("_built", "channel", "pattern", "payload")

    def __init__(self, channel: bytes, payload: bytes, pattern: bytes | None = None) -> None:
        self.channel = channel
        self.payload = payload
        self.pattern = pattern
        self._built: dict[Callable[[Message], bytes], bytes] = {}

    def as_sent(self, build: Callable[[Message], bytes]) -> bytes:
        """The message as a wire sends it, built once for all subscribers of that wire.

        Args:
            build: builds it; a function of the module, not a new one each time.

        Returns:
            What it has built.
        """
        built = self._built.get(build)
        if built is None:
            built = self._built[build] = build(self)
        return built


class Subscriber(Protocol):
    """Who gets messages: a connection. It is told apart from others by its identity."""

    def push(self, message: Message) -> bool:
        """Send a message; one that collects replies puts it behind those that it has collected.

        Args:
            message: the message.

        Returns:
            False if more output waits for the client than may: then it is closed as too slow.
        """

    def abort(self) -> None:
        """Close at once."""
