"""WebSockets: whole masked text frames with one command each."""

from libc.stdint cimport uint8_t, uint64_t

from fastkv.core.commands cimport JsonCommands
from fastkv.core.framing cimport Framing, SharedWords

cdef enum Reason:
    FRAME       # another kind of frame, or one that is too long
    INCOMPLETE  # it has not all arrived
    COMMAND     # it says what is not answered here
    LISTENED    # keyspace events are listened to
    ENGINE      # the engine declined, or the reply is compressed or no text
    REASONS     # how many there are

cdef class TextFrames(Framing):
    cdef JsonCommands commands
    cdef SharedWords row
    cdef uint64_t *messages
    cdef size_t max_message, max_reply
    # Why the newest frame was declined, and how many were, by reason.
    cdef Reason reason
    cdef uint64_t[5] refused

    cdef Py_ssize_t decline(self, Reason reason) noexcept
