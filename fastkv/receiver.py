"""Where bytes of a client arrive, and where bytes for it leave: the base of every connection.

Enters: what the event loop has read. Leaves: the same, to ``receive`` of the subclass, and what that writes,
to the transport. The compiled core has a class of the same contract, which takes this one's place: it answers
ordinary requests before ``receive`` is asked, and sends by itself while nothing is queued.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from fastkv import core

if TYPE_CHECKING:
    from fastkv.core.framing import Framing

DECLINED: Final = -1
"""``more`` of ``receive``: the message has to be read by the readable path."""
DONE: Final = 0
"""``more`` of ``receive``: the core has answered as much as it may at once."""


Data: TypeAlias = bytes | memoryview
"""What is written: it never changes after that."""


class Output(Protocol):
    """Where bytes are written that cannot be sent at once: a transport, or what counts before one."""

    def write(self, data: Data) -> None:
        """Send, or queue.

        Args:
            data: the bytes.
        """

    def get_write_buffer_size(self) -> int:
        """Bytes that are queued."""


class PythonReceiver(asyncio.Protocol):
    """The readable receiver.

    Attributes:
        heard: something has arrived since this was last set to False.
        fast_path_ok: what arrives begins a message, and nothing is in the way of answering it at once.
    """

    __slots__ = ("_output", "fast_path_ok", "heard")

    def __init__(self) -> None:
        """Begin without a transport."""
        self.heard = False
        self.fast_path_ok = False
        self._output: Output | None = None

    def attach(self, framing: Framing | None, output: Output, fd: int, most: int) -> None:  # noqa: ARG002 - as the core's
        """Begin with a transport.

        Args:
            framing: what answers ordinary messages; None where the readable path alone does.
            output: where bytes are written.
            fd: of a socket that may be sent to, -1 for none.
            most: how many messages may be answered before others have a turn.
        """
        self._output = output

    def detach(self) -> None:
        """Write nowhere from now on, and answer nothing."""
        self._output = None
        self.fast_path_ok = False

    def data_received(self, data: bytes) -> None:
        """Pass on what has arrived."""
        self.heard = True
        self.receive(data, 0, DECLINED)

    def receive(self, data: bytes, at: int, more: int) -> None:
        """Answer what has arrived; nothing is raised.

        Args:
            data: what has arrived.
            at: where in it the first byte is that was not answered.
            more: `DECLINED`, `DONE`, or how long the message at ``at`` is of which the core has judged the
                head, and whose body is still to come.
        """
        raise NotImplementedError

    def write_any(self, data: Data) -> None:
        """Write what may be a large reply.

        Args:
            data: replies.
        """
        raise NotImplementedError

    def write(self, data: Data) -> None:
        """Write.

        Args:
            data: replies, of `fastkv.outlet.LARGE_BYTES` at most.
        """
        if self._output is not None:
            self._output.write(data)


Receiver = PythonReceiver
if not TYPE_CHECKING and core.COMPILED:
    Receiver = core.receiver.Receiver
