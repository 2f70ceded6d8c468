"""A connection from its accept until TLS begins: it has its place, its deadline, and next to no memory.

Enters: a transport. Leaves: the transport with TLS on it, to the protocol that was waited for; or the end.
OpenSSL's part of a connection, 30 KiB and more, is made when the first byte of a handshake has arrived, and
there are never more than ``max_handshakes`` of them under way: past that the oldest ends. So a client that
says nothing costs what a plain one costs. Nothing is raised out of a callback.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

from fastkv.flow import Phase
from fastkv.http.request import CLOSE
from fastkv.http.responses import error_reply
from fastkv.stats import Column
from fastkv.tls import RECORD_BYTES, SecureTransport, TlsChannel

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.connection import Connection
    from fastkv.service import Service

_HANDSHAKE: Final = 0x16
"""What a handshake's record begins with (RFC 8446, 5.1)."""

_PLAIN: Final = error_reply(400, "This port speaks TLS: the address begins with https://.")


class Handshake(asyncio.Protocol):
    """What a connection is until its handshake is done; a `Drainable` of the service.

    Args:
        service: What the worker's connections share.
        context: The certificate, and what is allowed.
        connect: Makes the protocol that follows.

    Attributes:
        heard: A byte has arrived.
        since: When the connection was made.
    """

    __slots__ = ("_channel", "_connect", "_context", "_ending", "_service", "_transport", "heard", "since")

    progress = 0
    held_bytes = 0
    missing_bytes = 0

    def __init__(self, service: Service, context: ssl.SSLContext, connect: Callable[[], Connection]) -> None:
        self._service = service
        self._context = context
        self._connect = connect
        self._transport: asyncio.Transport | None = None
        self._channel: TlsChannel | None = None
        self._ending = False
        self.heard = False
        self.since = 0.0

    # -- callbacks of the event loop ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place. Without one the handshake is done all the same, so that the client can read 503."""
        self._transport = cast("asyncio.Transport", transport)
        self.since = self._service.flow.now
        self._service.admit(self)
        if self._service.crowded:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End before TLS has begun."""
        self._service.handshakes.pop(self, None)
        self._service.forget(self)
        self._ending = True
        self._transport = self._channel = None

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake; what is behind it is the protocol's."""
        if self._ending or self._transport is None:
            return
        try:
            if self._channel is None:
                if data[0] != _HANDSHAKE:
                    self._refuse(data)
                    return
                self._begin()
            self._shake(data)
        except Exception as error:  # noqa: BLE001 - one connection's mistake must not reach the others
            self._service.failure(error)
            self.abort()

    # -- called by the worker ----------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        return Phase.CLOSING if self._ending or self._transport is None else Phase.HANDSHAKE

    @property
    def idle(self) -> bool:
        """Whether the client has said nothing yet."""
        return self._channel is None

    def expire(self, phase: Phase) -> None:
        """Its time is up: there is nothing to be said without TLS."""
        self.abort()

    def disable_fast_path(self) -> None:
        """What follows asks the service whether it drains."""

    def close(self) -> None:
        """Close; nothing is due."""
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._ending = True
        self._channel = None
        self._service.handshakes.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def cut(self) -> bool:
        """End it to make room."""
        self.abort()
        return True

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # -- within ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Make OpenSSL's part, and end the oldest handshake if there are too many under way."""
        handshakes = self._service.handshakes
        self._channel = TlsChannel(self._context)
        handshakes[self] = None
        if len(handshakes) > self._service.handshakes_limit:
            self._service.counters[Column.HANDSHAKES_CUT] += 1
            next(iter(handshakes)).abort()

    def _shake(self, data: bytes) -> None:
        """Let OpenSSL read on, a record at a time.

        Args:
            data: what was received.
        """
        transport, channel = cast("asyncio.Transport", self._transport), cast("TlsChannel", self._channel)
        for at in range(0, len(data), RECORD_BYTES):
            channel.incoming.write(data[at : at + RECORD_BYTES])
            done = failed = False
            try:
                channel.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLError, ssl.CertificateError):
                failed = True
            if channel.outgoing.pending:
                transport.write(channel.outgoing.read())
            if failed:
                self._service.counters[Column.HANDSHAKES_FAILED] += 1
                self._end(transport)
                return
            if done:
                self._hand_over(transport, channel, data[at + RECORD_BYTES :])
                return

    def _hand_over(self, transport: asyncio.Transport, channel: TlsChannel, unread: bytes) -> None:
        """Give place and transport to the protocol that follows.

        Args:
            transport: the transport below.
            channel: TLS, its handshake done.
            unread: records that came behind the handshake.
        """
        service = self._service
        connection = self._connect()
        secure = SecureTransport(transport, channel, connection)
        service.handshakes.pop(self, None)
        self._transport = self._channel = None
        transport.set_protocol(secure)
        service.replace(self, connection)
        connection.take_place(secure)
        secure.data_received(unread)

    def _refuse(self, data: bytes) -> None:
        """Say to a client of plain HTTP what is wrong; to what else came there is nothing to say."""
        transport = cast("asyncio.Transport", self._transport)
        self._service.counters[Column.HANDSHAKES_FAILED] += 1
        if data[:1].isupper():
            status, tail = _PLAIN
            transport.write(self._service.preludes.kinds[CLOSE][status] + tail)
            self._end(transport)
        else:
            self.abort()

    def _end(self, transport: asyncio.Transport) -> None:
        """Close once the client has read why (RFC 9112, 9.6)."""
        self._ending = True
        self._channel = None
        self._service.handshakes.pop(self, None)
        self.since = self._service.flow.now
        with suppress(OSError):
            transport.write_eof()
