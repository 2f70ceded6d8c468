"""A connection that reads no more than its client reads: what HTTP and WebSockets have in common.

In: what the transport says of its output, by way of an outlet, and replies that take steps (`fastkv.steps`).
Out: a stop of reading, and ``receive`` again once there is room and the connection has its next turn.
Nothing is raised out of a callback.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, cast

from fastkv.outlet import CLOSED, LARGE_BYTES, has_hung_up
from fastkv.receiver import DECLINED, Receiver
from fastkv.stats import Column

if TYPE_CHECKING:
    import asyncio

    from fastkv.outlet import ClosedOutlet, Outlet
    from fastkv.receiver import Data
    from fastkv.service import Service
    from fastkv.steps import Steps
    from fastkv.takeover import Drainable


class Stalling(Receiver):
    """The part of a connection that pauses and resumes; what has it as a base is a `Client` of flow control.

    Attributes:
        since: when its phase began.
    """

    __slots__ = (
        "_counters",
        "_eof",
        "_flow",
        "_outlet",
        "_paused",
        "_service",
        "_stalled",
        "_transport",
        "_wait_seconds",
        "_work",
        "since",
    )

    def __init__(self, service: Service) -> None:
        """Begin without a transport.

        Args:
            service: what all connections of the worker share.
        """
        super().__init__()
        # Process.
        self._service = service
        self._flow = service.flow
        self._counters = service.counters
        # Connection.
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | ClosedOutlet = CLOSED
        self._eof = False  # the client has said all
        self._paused = False  # the outlet takes no more output
        self._stalled = False  # there is something to answer that waits for output to go out
        self._work: Steps[Data] | None = None  # what the next reply comes from, if it takes several turns
        self._wait_seconds = 0.0  # before the next turn
        self.since = 0.0

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps."""
        raise NotImplementedError

    @property
    def _input_closed(self) -> bool:
        """Whether nothing that arrives is read any more."""
        raise NotImplementedError

    @property
    def _client(self) -> Drainable:
        """``self``, typed as `Drainable`."""
        return cast("Drainable", self)

    # -- callbacks of the event loop ---------------------------------------------------------------------

    def eof_received(self) -> bool:
        """The client will send no more, but may still read what it asked for.

        Returns:
            True while replies are due, or if the connection is closed in a later turn.
        """
        self._eof = True
        if self._stalled or self._transport is None:
            return self._stalled
        self.fast_path_ok = False
        return self._service.departures.defer(self._transport)

    def pause_writing(self) -> None:
        """The client does not read: leave what it asks for where it is."""
        self._counters[Column.OUTPUT_PAUSES] += 1
        self._paused = True
        self._stall()
        self._flow.hold(self._client, self.held_bytes)

    def resume_writing(self) -> None:
        """The client has read: go on."""
        self._paused = False
        self._outlet.resumed()
        self._flow.release(self._client)
        self._go_on()

    # -- called by the worker ----------------------------------------------------------------------------

    @property
    def missing_bytes(self) -> int:
        """Bytes of a body that are still to come: none that would wait for room."""
        return 0

    def cut(self) -> bool:
        """End it to make room; what the transport has is in memory until the event loop has closed it."""
        self._client.abort()
        return False

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on, unless something is to be answered first."""
        transport = self._transport
        if not (self._stalled or self._eof or transport is None or transport.is_closing()):
            transport.resume_reading()

    # -- for the class that has this one as a base -------------------------------------------------------

    @property
    def _owes_output(self) -> bool:
        """Whether the client has yet to take what was written."""
        return self._paused or self._outlet.pending

    def _let_go(self) -> None:
        """The connection has ended: let go of the transport, so that no cycle is left."""
        self._service.forget(self._client)
        self.detach()
        if self._work is not None:
            self._work.close()
            self._work = None
        self._transport = None
        self._outlet.drop()
        self._outlet = CLOSED

    def write_any(self, data: Data) -> None:
        """Write what may be large.

        Args:
            data: replies.
        """
        if len(data) > LARGE_BYTES:
            self._outlet.write_large(data, self.write)
        else:
            self.write(data)

    def _linger(self, transport: asyncio.Transport) -> None:
        """Close after the last output, in a way that lets the client read it.

        Closing with unread input would reset the connection under it (RFC 9112, 9.6): so what the client
        still sends is read and thrown away for a while, unless it has said all.

        Args:
            transport: its transport, open.
        """
        if self._eof:
            transport.close()
            return
        self.since = self._flow.now
        transport.write_eof()
        if self._stalled:
            self._stalled = False
            transport.resume_reading()

    def _stall(self) -> None:
        """Read and answer no more until output has gone out."""
        transport = self._transport
        self.fast_path_ok = False
        if self._stalled or self._input_closed or transport is None or transport.is_closing():
            return
        self._stalled = True
        transport.pause_reading()
        # The other connections have a turn before this one goes on.
        self._service.turns.later(self._go_on, self._wait_seconds)

    def _begin_work(self, work: Steps[Data]) -> Data:
        """Begin what a reply comes from, and take the first turn.

        Args:
            work: the steps, with the reply as their result; they raise nothing.

        Returns:
            The reply; b"" where further turns are needed: the connection is stalled then, and ``receive``
            goes on with the work.
        """
        self._work = work
        reply = self._take_turn()
        if reply is not None:
            return reply
        self._stall()
        return b""

    def _resume_work(self, out: list[Data]) -> int:
        """Go on with the work, if there is any; if it takes yet more turns the connection is stalled again.

        Args:
            out: where the reply goes.

        Returns:
            How long it is in bytes, 0 if there is none yet.
        """
        if self._work is None or self._transport is None:
            return 0
        # Nothing is read meanwhile, so the event loop does not hear of a reset.
        if has_hung_up(self._transport.get_extra_info("socket")):
            self._client.abort()
            return 0
        reply = self._take_turn()
        if reply is None:
            self._stall()
        elif reply:
            out.append(reply)
        return len(reply or b"")

    def _take_turn(self) -> Data | None:
        """Run steps of the work, which is there, for a turn.

        Returns:
            The reply; None if there is more to do.
        """
        work = self._work
        assert work is not None
        end = monotonic() + self._service.turn_seconds
        self._wait_seconds = 0.0
        try:
            while not self._wait_seconds:
                self._wait_seconds = next(work) or 0.0
                if monotonic() > end:
                    break
        except StopIteration as done:
            self._work = None
            reply: Data = done.value
            return reply
        self.since = self._flow.now  # the client is not to blame for this time
        return None

    def _go_on(self) -> None:
        """Go on with what had to wait, if the transport takes output again."""
        transport = self._transport
        if self._paused or not self._stalled or transport is None or transport.is_closing():
            return
        self._stalled = False
        self.fast_path_ok = False
        self.receive(b"", 0, DECLINED)
        if self._stalled or self._transport is None or transport.is_closing():
            return
        transport.resume_reading()  # after the last reply too: what the client still sends is thrown away
        if self._eof:
            transport.close()
