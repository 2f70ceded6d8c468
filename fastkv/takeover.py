"""How a connection ends as HTTP and goes on as something else: a WebSocket, a stream of events.

A handler raises `Takeover` in place of returning a reply. Its reply is written like any other, after those
that were due before it; no further request is read. Then the transport gets a new protocol, the `Successor`,
which has in the service the place that the connection had, and gets in `HandedOver` what the connection knew:
the transport, the outlet, and the bytes behind the request, as they came.

A request that goes the usual way pays nothing for this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fastkv.flow import Client

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from fastkv.http.responses import Reply
    from fastkv.outlet import Outlet
    from fastkv.service import Service


class Drainable(Client, Protocol):
    """What a service asks of its connections, and of those that took one over."""

    @property
    def idle(self) -> bool:
        """Whether nothing has begun and nothing is due."""

    def disable_fast_path(self) -> None:
        """Take note that the worker drains: whatever is answered from now on is the last."""

    def close(self) -> None:
        """Close after what is due has gone out."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What a connection leaves to its successor.

    Attributes:
        transport: open, and being read, unless ``eof``.
        outlet: where bytes go out; from now on it pauses and resumes the successor.
        unread: what came behind the request. Complete where the request asked for an upgrade; elsewhere the
            parser may have read on, and what it has read is gone.
        paused: the outlet takes no more output; it will call ``resume_writing``.
        eof: the client has said all.
    """

    transport: asyncio.Transport
    outlet: Outlet
    unread: bytes
    paused: bool
    eof: bool


class Successor(Drainable, Protocol):
    """The protocol that a transport gets; besides these it has the methods of `asyncio.Protocol`."""

    def take_over(self, handed: HandedOver) -> None:
        """Begin; called once, in place of ``connection_made``, when the transport has its new protocol.

        Args:
            handed: what the connection leaves.
        """

    def pause_writing(self) -> None:
        """The client does not read."""

    def resume_writing(self) -> None:
        """The client has read."""


class Takeover(Exception):
    """Raised by a handler: the reply is the connection's last as HTTP.

    Attributes:
        reply: what is written first. One of 101 says nothing of Connection, which its tail has to name;
            any other gets ``Connection: close``, so that its body lasts until the end (RFC 9112, 6.3).
        make_successor: makes the protocol that follows, of the service.
    """

    def __init__(self, reply: Reply, make_successor: Callable[[Service], Successor]) -> None:
        super().__init__(reply[0])
        self.reply = reply
        self.make_successor = make_successor
