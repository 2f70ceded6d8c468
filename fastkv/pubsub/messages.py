"""A message on its way to subscribers, and what a subscriber is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

# The objects that a message consists of, besides the bytes in them.
_OVERHEAD_BYTES: Final = 512


class Message:
    """A message as its subscribers get it; those of a pattern get another one than those of its channel.

    Attributes:
        channel: where it was published.
        payload: what was published.
        pattern: the pattern that brought it here, None for a subscription of the channel itself.
        size: the memory that it takes, in bytes, with what was built of it.
        queues, counted_bytes: kept by the `fastkv.pubsub.backlog` that it waits in: how many subscribers it
            waits for, and with which size it was counted.
    """

    __slots__ = ("_built", "channel", "counted_bytes", "pattern", "payload", "queues", "size")

    def __init__(self, channel: bytes, payload: bytes, pattern: bytes | None = None) -> None:
        self.channel = channel
        self.payload = payload
        self.pattern = pattern
        self.size = _OVERHEAD_BYTES + len(channel) + len(payload)
        self.queues = self.counted_bytes = 0
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
            self.size += len(built)
        return built


class Subscriber(Protocol):
    """A connection that gets messages. Subscribers compare by identity."""

    def takes(self, message_bytes: int) -> bool:
        """Whether a message may be pushed now.

        The connection calls ``Hub.resumed`` once its own output has room again; the hub asks now and then
        where the memory of all connections had none.

        Args:
            message_bytes: how long it is.
        """

    @property
    def taken_bytes(self) -> int:
        """Bytes of output that the client has taken."""

    def push(self, message: Message) -> None:
        """Send a message; a connection that collects replies puts it behind those that it has collected.

        Args:
            message: the message.
        """

    def give_up(self, reason: str) -> None:
        """Close, and say why where the wire can.

        Args:
            reason: a sentence.
        """

    def abort(self) -> None:
        """Close at once."""
