"""TLS between a transport and a protocol: records in, records out, and the end (RFC 8446, 6.1).

To the protocol this is a transport like that of TCP: it pauses and resumes by what has not gone out yet, and
either half of the connection can end by itself. To the transport below it is the protocol. Nothing is raised
out of a callback.

uvloop has TLS as well, and it is not used: it keeps 256 KiB for each connection from before the handshake
until the end, encrypts a reply as a whole as soon as it is written, and says of it that it is gone: 700
clients that did not read had 850 MiB with ``max_buffer_bytes`` at 64. Here a connection keeps a few records
besides the plain bytes that wait, and those are counted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from typing import Any, Final, cast

RECORD_BYTES: Final = 16 << 10
"""Plain bytes of a record at most (RFC 8446, 5.1): what is encrypted, and decrypted, at a time."""

OPENSSL_BYTES: Final = 64 << 10
"""What OpenSSL keeps of a connection that has sent and received: 40 to 80 KiB were measured."""

_LOWER_BYTES: Final = 64 << 10  # of records in the transport below past which it gets no more
# 256 KiB for a system call: a reply of 900 kB takes 4 of them, not 55.
_RECORDS_AT_ONCE: Final = 16


class TlsChannel:
    """One end of TLS without a transport: OpenSSL and the two buffers that it reads from and writes to.

    Args:
        context: The certificate, and what is allowed.

    Attributes:
        incoming: Records that were received.
        outgoing: Records to be sent.
        tls: OpenSSL's connection between them.
    """

    __slots__ = ("incoming", "outgoing", "tls")

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)


class SecureTransport(asyncio.Transport, asyncio.Protocol):
    """What a protocol writes to, once a handshake is done.

    Args:
        lower: The transport below.
        channel: TLS, its handshake done.
        protocol: The protocol above.
    """

    __slots__ = (
        "_app_paused",
        "_backlog",
        "_backlog_bytes",
        "_closing",
        "_ended_tls",
        "_eof",
        "_full",
        "_high",
        "_incoming",
        "_lower",
        "_lower_written",
        "_outgoing",
        "_protocol",
        "_received_eof",
        "_sent",
        "_tls",
    )

    def __init__(self, lower: asyncio.Transport, channel: TlsChannel, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._lower = lower
        self._tls = channel.tls
        self._incoming = channel.incoming
        self._outgoing = channel.outgoing
        self._protocol = protocol
        self._backlog: deque[bytes] = deque()  # plain bytes that wait
        self._sent = 0  # of the first of them
        self._backlog_bytes = 0
        self._lower_written = 0  # with the last write to the transport below, which keeps all of it
        self._high = _LOWER_BYTES
        self._full = False  # the transport below takes no more
        self._app_paused = False
        self._eof = False  # nothing more is written
        self._ended_tls = False  # and this end has said so
        self._received_eof = False  # nothing more is read
        self._closing = False
        lower.set_write_buffer_limits(_LOWER_BYTES)

    # -- the protocol's side: a transport ----------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the transport below; ``ssl_object`` as well."""
        return self._tls if name == "ssl_object" else self._lower.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection to another protocol."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that has the connection."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it was closed, by whichever side."""
        return self._closing or self._lower.is_closing()

    def is_reading(self) -> bool:
        """Whether what arrives is read."""
        return self._lower.is_reading()

    def pause_reading(self) -> None:
        """Read nothing more; what was read before is not held back."""
        self._lower.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._lower.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:  # noqa: ARG002 - asyncio's
        """Set when the protocol is paused.

        Args:
            high: Bytes that may wait; the transport below has `_LOWER_BYTES` of them at most.
            low: Is not looked at: the protocol goes on when nothing waits above the transport below.
        """
        self._high = _LOWER_BYTES if high is None else high
        self._lower.set_write_buffer_limits(min(self._high, _LOWER_BYTES))

    def get_write_buffer_size(self) -> int:
        """Bytes that wait, plain or encrypted; of what has begun to go out all counts until its end has."""
        unsent = self._lower.get_write_buffer_size()
        return self._backlog_bytes + (unsent and max(unsent, self._lower_written))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt what the transport below takes, and keep the rest as it is."""
        if self._eof or self._closing or not data:
            return
        if self._backlog or self._full:
            self._keep(data)
        elif len(data) <= RECORD_BYTES:
            try:
                self._tls.write(data)
            except ssl.SSLError:
                self.abort()
            else:
                self._write_lower(self._outgoing.read())
        else:
            self._keep(data)
            self._send_backlog()
        if self._full and not self._app_paused and self.get_write_buffer_size() > self._high:
            self._app_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """TLS has halves as well: what was received in between is not read, that is all."""
        return True

    def write_eof(self) -> None:
        """Say that nothing more comes, once all has gone out; the other end may go on sending."""
        if not (self._eof or self._closing):
            self._eof = True
            self._end_if_sent()

    def close(self) -> None:
        """Close once all has gone out."""
        if not self._closing:
            self._closing = True
            self._lower.pause_reading()
            self._end_if_sent()

    def abort(self) -> None:
        """Close at once, and keep nothing."""
        self._closing = True
        self._drop()
        self._lower.abort()

    # -- the other side: a protocol ----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Decrypt what has arrived, record by record, and pass it on in one piece."""
        if self._closing or self._ended_tls or self._received_eof:
            return
        plain, ended = self._decrypt(data)
        if plain:
            self._protocol.data_received(plain)
        if ended:
            self._end_input()

    def eof_received(self) -> bool:
        """The other end has said all, in TLS or, as many clients do, without a word.

        Returns:
            True: the transport below is closed from here, after what is due.
        """
        if self._ended_tls:
            self.close()
        else:
            self._end_input()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on, and let go of everything, so that no cycle is left."""
        protocol = self._protocol
        self._closing = True
        self._protocol = asyncio.Protocol()
        self._drop()
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The transport below takes no more."""
        self._full = True

    def resume_writing(self) -> None:
        """The transport below takes more: first what waits, then what the protocol still has to say."""
        self._full = False
        self._send_backlog()
        if self._full or self._backlog:
            return
        if self._app_paused:
            self._app_paused = False
            if not self._closing:
                self._protocol.resume_writing()
        self._end_if_sent()

    # -- within ------------------------------------------------------------------------------------------

    def _keep(self, data: bytes | bytearray | memoryview) -> None:
        self._backlog.append(data if isinstance(data, bytes) else bytes(data))
        self._backlog_bytes += len(data)

    def _send_backlog(self) -> None:
        """Encrypt as much of what waits as the transport below takes, some records for each of its writes."""
        backlog = self._backlog
        while backlog and not self._full:
            records: list[bytes] = []
            while backlog and len(records) < _RECORDS_AT_ONCE:
                data = backlog[0]
                piece = memoryview(data)[self._sent : self._sent + RECORD_BYTES]
                self._sent += RECORD_BYTES
                if self._sent >= len(data):  # until then all of it is in memory, and counts
                    backlog.popleft()
                    self._backlog_bytes -= len(data)
                    self._sent = 0
                try:
                    self._tls.write(piece)
                except ssl.SSLError:  # the other end has broken the protocol; what it reads is of no use
                    self.abort()
                    return
                records.append(self._outgoing.read())
            self._write_lower(b"".join(records))

    def _write_lower(self, records: bytes) -> None:
        self._lower_written = len(records)
        self._lower.write(records)

    def _decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """Return plain bytes, and whether they were the last; what is no TLS ends everything."""
        incoming, tls = self._incoming, self._tls
        parts: list[bytes] = []
        ended = False
        # By records, so that OpenSSL's buffers stay small: what they have grown to they keep.
        # Once at least: records may be there that came with the handshake.
        for at in range(0, len(data) or 1, RECORD_BYTES):
            incoming.write(data if len(data) <= RECORD_BYTES else data[at : at + RECORD_BYTES])
            try:
                while incoming.pending or tls.pending():
                    plain = tls.read(RECORD_BYTES)
                    if not plain:
                        ended = True
                        break
                    parts.append(plain)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self._flush()
                self.abort()
                break
            if ended:
                break
        if self._outgoing.pending and not self._closing:  # new keys were asked for (RFC 8446, 4.6.3)
            self._flush()
            if self._full:  # over and over, and none of them read
                self.abort()
        return parts[0] if len(parts) == 1 else b"".join(parts), ended

    def _flush(self) -> None:
        """Send what OpenSSL has to say by itself."""
        if self._outgoing.pending:
            self._lower.write(self._outgoing.read())

    def _end_input(self) -> None:
        """The other end has said all: it may still read, unless the protocol has nothing for it."""
        if self._received_eof or self._closing:
            return
        self._received_eof = True
        if not self._protocol.eof_received():
            self.close()

    def _end_if_sent(self) -> None:
        """End TLS, and what is below it, as far as that was asked for and all has gone out."""
        if self._backlog or not (self._eof or self._closing) or self._lower.is_closing():
            return
        if not self._ended_tls:
            self._ended_tls = True
            with suppress(ssl.SSLError):  # the other end's close_notify is not waited for
                self._tls.unwrap()
            self._flush()
        if self._closing:
            self._lower.close()
        else:
            self._lower.write_eof()

    def _drop(self) -> None:
        self._backlog.clear()
        self._backlog_bytes = self._sent = 0
