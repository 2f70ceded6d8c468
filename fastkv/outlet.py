"""Where a connection's replies go out, and how much of them the client has yet to take.

Enters: what a connection cannot send at once. Leaves: bytes to the transport; `pause_writing` and
`resume_writing` of the protocol, when a client does not read and when it reads again; and the figures that
deadlines and the memory's bound need. Nothing is raised.

What can be known depends on what is below: of TCP, with TLS on it or not, the kernel tells what has arrived;
of a Unix socket only the transport tells what has left it.

A transport keeps all of an object until the last byte of it has gone out, and says how much of it has not:
of 900 kB that may be 1 kB. So large replies are written with `Outlet.write_large`: the protocol is paused as
soon as anything of one waits, until nothing does, and all of it counts meanwhile.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

from fastkv.tls import OPENSSL_BYTES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from fastkv.receiver import Data, Output

LARGE_BYTES: Final = 16 << 10
"""What is longer is a large reply; of others counts what has not gone out."""

_TCP_INFO_BYTES_ACKED: Final = struct.Struct("120xQ")  # linux/tcp.h: tcpi_bytes_acked, since Linux 4.1


class Outlet:
    """The way out by TCP: the transport pauses and resumes, the kernel counts."""

    __slots__ = ("_largest", "_limit_bytes", "_together", "_transport")

    fixed_bytes = 0
    """What TLS takes of memory besides, for each connection."""

    def __init__(self, transport: asyncio.Transport, limit_bytes: int) -> None:
        """Set when the transport pauses its protocol.

        Args:
            transport: where replies go.
            limit_bytes: how much of them may wait there.
        """
        self._transport = transport
        # Of large replies since nothing waited: all together, and the longest.
        self._together = self._largest = 0
        self._limit_bytes = limit_bytes
        transport.set_write_buffer_limits(limit_bytes)

    @property
    def sink(self) -> Output:
        """What takes the bytes of a `Receiver`: the transport, where nothing has to be counted."""
        return cast("Output", self._transport)

    @property
    def fd(self) -> int:
        """The file descriptor that may be sent to while nothing waits in the transport; -1 where none may."""
        connection = self._socket
        return -1 if connection is None else connection.fileno()

    def write(self, data: Data) -> None:
        """Write.

        Args:
            data: replies.
        """
        self._transport.write(data)

    @property
    def pending(self) -> bool:
        """Whether the client has yet to take something, as far as can be told."""
        return self._transport.get_write_buffer_size() > 0

    @property
    def held_bytes(self) -> int:
        """Bytes of replies that are in this process's memory, at most."""
        unsent = self._transport.get_write_buffer_size()
        return unsent and min(max(unsent, self._together), unsent + self._largest)

    @property
    def taken_bytes(self) -> int:
        """Bytes that the client has taken, counted from no matter where."""
        return bytes_acked(self._socket) or -self._transport.get_write_buffer_size()

    def write_large(self, data: Data, write: Callable[[Data], None]) -> None:
        """Write a reply of more than `LARGE_BYTES`; the protocol is paused unless all of it goes out at once.

        Args:
            data: the reply.
            write: the connection's own, which all that it writes goes by, so that it stays in order.
        """
        transport = self._transport
        if not transport.get_write_buffer_size():
            self._together = self._largest = 0
        self._together += len(data)
        self._largest = max(self._largest, len(data))
        transport.set_write_buffer_limits(0)
        write(data)
        if not transport.get_write_buffer_size():
            self.resumed()

    def resumed(self) -> None:
        """Note that no large reply is left: the transport has resumed the protocol, or did not pause it."""
        self._together = self._largest = 0
        if not self._transport.is_closing():
            self._transport.set_write_buffer_limits(self._limit_bytes)

    def acknowledge(self) -> None:
        """Acknowledge now what has arrived, see `send_ack`; a reply would do it by itself."""
        send_ack(self._socket)

    def drop(self) -> None:
        """Let go of everything: the connection has ended."""

    @property
    def _socket(self) -> socket.socket | None:
        # Asked anew each time: it may be gone before the protocol hears of the end, and its number another's.
        found: socket.socket | None = self._transport.get_extra_info("socket")
        return found


class CountingOutlet(Outlet):
    """The way out by a Unix socket: what was written, less what waits, has been taken.

    What a `Receiver` sends by itself is taken at once, and not written here.
    """

    __slots__ = ("_written",)

    def __init__(self, transport: asyncio.Transport, limit_bytes: int) -> None:
        """As `Outlet`."""
        super().__init__(transport, limit_bytes)
        self._written = 0

    @property
    def sink(self) -> Output:
        """The outlet itself: it counts."""
        return self

    @property
    def taken_bytes(self) -> int:
        """Bytes that have left the transport."""
        return self._written - self._transport.get_write_buffer_size()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait."""
        return self._transport.get_write_buffer_size()

    def write(self, data: Data) -> None:
        """Write, and count."""
        self._written += len(data)
        self._transport.write(data)


class SecureOutlet(Outlet):
    """The way out by TLS: the transport itself counts whole what it keeps of a reply."""

    __slots__ = ()

    fixed_bytes = OPENSSL_BYTES
    fd = -1

    @property
    def held_bytes(self) -> int:
        """As `Outlet`."""
        return self._transport.get_write_buffer_size()


class ClosedOutlet:
    """Stands in for one where there is no connection."""

    __slots__ = ()

    pending = False
    fixed_bytes = 0
    held_bytes = 0
    taken_bytes = 0

    def write(self, data: Data) -> None:
        """Write nowhere."""

    def write_large(self, data: Data, write: Callable[[Data], None]) -> None:
        """As `write`."""

    def resumed(self) -> None:
        """Nothing was paused."""

    def acknowledge(self) -> None:
        """Nothing has arrived."""

    def drop(self) -> None:
        """There is nothing to let go of."""


CLOSED: Final = ClosedOutlet()


def open_outlet(transport: asyncio.Transport, limit_bytes: int) -> Outlet:
    """Make the outlet that suits a transport.

    Args:
        transport: a new connection's.
        limit_bytes: how much may wait before the protocol is paused.

    Returns:
        The outlet.
    """
    if transport.get_extra_info("ssl_object") is not None:
        return SecureOutlet(transport, limit_bytes)
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family == socket.AF_UNIX:
        return CountingOutlet(transport, limit_bytes)
    return Outlet(transport, limit_bytes)


def bytes_acked(connection: socket.socket | None) -> int:
    """Ask the kernel how much of what was sent the other end has received.

    Args:
        connection: a TCP socket, or None.

    Returns:
        Bytes; 0 for any other socket and for kernels that do not tell.
    """
    if connection is None:
        return 0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES_ACKED.size)
    except OSError:
        return 0
    return int(_TCP_INFO_BYTES_ACKED.unpack(info)[0]) if len(info) == _TCP_INFO_BYTES_ACKED.size else 0


def send_ack(connection: socket.socket | None) -> None:
    """Have the kernel acknowledge at once what has arrived, in place of after 40 ms (RFC 9293, 3.8.6.3).

    The kernel waits so that the acknowledgement can travel with a reply. While a request is incomplete none
    comes, and a client that sends its head and its body in two writes and leaves Nagle's algorithm on (RFC
    9293, 3.7.4) keeps the second one back until the first is acknowledged. The option holds until the next
    reply is sent; so it is set each time.

    Args:
        connection: a TCP socket; for a Unix socket, or None, nothing is to be done.
    """
    if connection is None or connection.family == socket.AF_UNIX:
        return
    with suppress(OSError):  # the connection may have ended
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def has_hung_up(connection: socket.socket | None) -> bool:
    """Ask the kernel whether a connection was reset, or closed in both directions.

    Args:
        connection: a socket, or None. A client that has only said all is still there.
    """
    if connection is None or connection.fileno() < 0:
        return False
    asked = select.poll()
    asked.register(connection.fileno(), 0)  # the kernel tells of errors and ends without being asked to
    return bool(asked.poll(0))
