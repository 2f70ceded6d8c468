# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""A connection's way in and out: what arrives goes to a `Framing` first, and its replies are sent at once.

In: what the event loop has read. Out: the same, from where the readable path has to go on, to ``receive`` of
the connection; and replies, to the socket or the transport. Only the connection's own methods may raise.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from fastkv.core.framing cimport Framing
from fastkv.core.native cimport likely, unlikely

cdef extern from "sys/socket.h" nogil:
    enum: MSG_DONTWAIT
    enum: MSG_NOSIGNAL
    ssize_t send_now "send"(int fd, const void *data, size_t n, int flags)

include "sources.pxi"

DECLINED = -1


cdef class Receiver:
    """The root of a connection: a `Framing` answers what arrives, and ``receive`` of the subclass the rest.

    On plain TCP and Unix sockets replies are sent at once, past the transport, unless output waits in it. All
    other output uses `write`, so the transport's queue is looked at only after a `write`.

    Attributes:
        heard: something has arrived since this was set to False.
        fast_path_ok: the connection is between two messages, open, and nothing of it waits.
    """

    def attach(self, Framing framing, output not None, int fd, size_t most):
        """Begin to answer.

        Args:
            framing: the worker's, of this protocol; None: all is left to ``receive``.
            output: takes what is not sent at once by ``write(data)``, and says how much waits in it by
                ``get_write_buffer_size()``.
            fd: the socket; -1 where replies may not be sent at once, as with TLS. It has to stay open until
                `detach`.
            most: how many messages are answered before others have a turn.
        """
        self.framing = framing
        self.output = output
        self.fd = fd
        self.most = most
        self.queued = True  # output of another protocol may wait in the transport

    def detach(self):
        """Answer and send nothing any more: from here on the socket may be closed, or another protocol's."""
        self.fast_path_ok = False
        self.fd = -1
        self.framing = self.output = None

    def data_received(self, data):
        """Answer what is ordinary at the beginning; leave the rest to ``receive(data, at, more)``.

        Args:
            data: what was received.
        """
        cdef Framing framing = self.framing
        cdef Py_ssize_t more
        cdef size_t used
        self.heard = True
        if unlikely(not self.fast_path_ok or framing is None or not PyBytes_CheckExact(data)):
            self.receive(data, 0, DECLINED)
            return
        used = framing.answer(
            <const uint8_t *>PyBytes_AS_STRING(data), 0, PyBytes_GET_SIZE(data), self.most, &more
        )
        if framing.replies.size:
            self.send(framing)
        if unlikely(used < <size_t>PyBytes_GET_SIZE(data)):
            self.receive(data, used, more)

    def receive(self, data, at, more):
        """Answer what is left; the connection knows how.

        Args:
            data: what was received.
            at: where the first message begins that was not answered.
            more: what `Framing.serve` says about it.
        """
        raise NotImplementedError

    def write_any(self, data):
        """Write replies of any length; the connection knows how.

        Args:
            data: the replies.
        """
        raise NotImplementedError

    def write(self, data not None):
        """Hand replies to the transport; after `detach` they are dropped.

        Args:
            data: the replies.
        """
        if self.output is not None:
            self.queued = True
            self.output.write(data)

    cdef send(self, Framing framing):
        """Send what ``framing`` has written, as much as the socket takes; the rest is the transport's."""
        cdef ssize_t sent = 0
        if framing.replies.size > framing.large:
            self.queued = True
            self.write_any(framing.take())
            return
        if self.fd >= 0:
            if self.queued and not self.output.get_write_buffer_size():
                self.queued = False
            if not self.queued:
                sent = send_now(
                    self.fd, framing.replies.out, framing.replies.size, MSG_DONTWAIT | MSG_NOSIGNAL
                )
                if likely(sent == <ssize_t>framing.replies.size):
                    framing.clear()
                    return
                # An error is left to the transport as well: it meets it when it writes.
                sent = max(sent, 0)
        rest = PyBytes_FromStringAndSize(
            <const char *>framing.replies.out + sent, framing.replies.size - sent
        )
        framing.clear()
        self.write(rest)
