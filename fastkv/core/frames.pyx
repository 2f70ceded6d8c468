# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""Ordinary frames of a WebSocket → replies (RFC 6455, 5.2), as ``fastkv.ws`` has them.

Ordinary is: one whole message of text in one frame, masked, without extensions, its length in the fewest
bytes, that says one command which `commands` takes. The reply is a frame of text, unmasked. **Any other frame
is declined with nothing changed and no byte of it taken**: fragments, control frames, bytes, what is
compressed, long or malformed, and one that has not all arrived.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from fastkv.core.commands cimport ORDINARY, OVERHEARD, RAN, JsonCommands, Reading
from fastkv.core.framing cimport KEPT_BYTES, Framing, SharedWords, add_to
from fastkv.core.memory cimport read_32
from fastkv.core.native cimport likely, unlikely
from fastkv.core.replies cimport reserve

include "sources.pxi"

cdef extern from "endian.h" nogil:
    uint64_t htobe64(uint64_t)

cdef enum:
    TEXT = 0x81  # the first byte of a message of text in one frame, without extensions
    MASKED = 0x80
    LENGTH_16 = 126
    LENGTH_64 = 127
    MOST_SHORT_BYTES = 125  # the longest payload whose length fits the second byte
    MASK_BYTES = 4
    SHORTEST_HEAD = 2 + MASK_BYTES
    LONGEST_GROWTH = 8  # of a reply's head, beyond two bytes

_REASONS = ("frame", "incomplete", "command", "listened", "engine")


cdef inline void unmask(uint8_t *out, const uint8_t *masked, size_t n, uint32_t mask) noexcept:
    """Unmask a payload (RFC 6455, 5.3)."""
    cdef uint64_t both = <uint64_t>mask << 32 | mask
    cdef uint64_t word
    cdef size_t i = 0
    while i + 8 <= n:
        memcpy(&word, masked + i, 8)
        word ^= both
        memcpy(out + i, &word, 8)
        i += 8
    while i < n:
        # Of each eight bytes the mask's order in memory is the same on every machine.
        out[i] = masked[i] ^ (<const uint8_t *>&both)[i & 7]
        i += 1


@cython.final
cdef class TextFrames(Framing):
    """Answers the ordinary frames of one worker.

    Args:
        commands: runs what they say.
        row: this worker's counters.
        column: where in the row messages are counted.
        max_message_bytes: longer messages are declined.
        max_reply_bytes: messages with a longer reply are declined.
        max_output_bytes: once the replies of one call are longer, the next message has to wait.
        large_bytes: replies of one call that are longer in all leave by the ``write_any`` of the connection.

    Attributes:
        served: how many messages the newest call to `serve` has answered.

    Raises:
        MemoryError: there is no memory for the buffers.
        ValueError: the column lies outside of the row.
    """

    def __init__(
        self, JsonCommands commands not None, row not None, size_t column, *, size_t max_message_bytes,
        size_t max_reply_bytes, size_t max_output_bytes, size_t large_bytes,
    ):
        self.commands = commands
        self.row = SharedWords(row, True)
        if column >= self.row.count:
            raise ValueError("The row has no such column.")
        self.messages = self.row.at + column
        self.max_message = max_message_bytes
        self.max_reply = max_reply_bytes
        self.max_output = max_output_bytes
        self.large = large_bytes
        if not self.reserve_all(KEPT_BYTES):
            raise MemoryError

    @property
    def declines(self):
        """How many frames were declined, by reason; "incomplete": they had not all arrived."""
        return {reason: self.refused[place] for place, reason in enumerate(_REASONS)}

    cdef inline Py_ssize_t decline(self, Reason reason) noexcept:
        """Say why a frame is declined."""
        self.reason = reason
        return 0

    cdef void count_decline(self, const uint8_t *message, const uint8_t *end) noexcept:
        self.refused[<int>self.reason] += 1

    cdef Py_ssize_t answer_one(self, const uint8_t *frame, const uint8_t *end) noexcept:
        cdef const uint8_t *at = frame + 2
        cdef size_t n, body, behind, head
        cdef uint64_t length
        cdef uint8_t *out
        cdef Reading reading
        if unlikely(end - frame < SHORTEST_HEAD):
            return self.decline(INCOMPLETE)
        n = frame[1] ^ MASKED
        if unlikely(frame[0] != TEXT or n > LENGTH_16):
            return self.decline(FRAME)
        if n == LENGTH_16:
            n = frame[2] << 8 | frame[3]
            at += 2
            if unlikely(n <= MOST_SHORT_BYTES):
                return self.decline(FRAME)
        if unlikely(n > self.max_message):
            return self.decline(FRAME)
        if unlikely(end - at < MASK_BYTES or <size_t>(end - at) - MASK_BYTES < n):
            return self.decline(INCOMPLETE)
        # Strings with escapes are decoded behind the message.
        if unlikely(not (self.reserve_scratch(2 * n) and reserve(&self.replies, LONGEST_GROWTH))):
            return self.decline(ENGINE)
        unmask(self.scratch, at + MASK_BYTES, n, read_32(at))
        reading = self.commands.read(self.scratch, n, self.scratch + n, False)
        if unlikely(reading != ORDINARY):
            return self.decline(LISTENED if reading == OVERHEARD else COMMAND)
        body = behind = self.replies.size + 2
        if unlikely(self.commands.run(&self.replies, &behind, False, self.max_reply) != RAN):
            return self.decline(ENGINE)
        add_to(self.messages, 1)
        at += MASK_BYTES + n
        # Most replies are short, and stand where they belong at once.
        n = behind - body
        head = 2 if likely(n <= MOST_SHORT_BYTES) else 4 if n < 1 << 16 else 10
        out = self.replies.out + self.replies.size
        if head > 2:
            memmove(out + head, out + 2, n)
        out[0] = TEXT
        if head == 2:
            out[1] = <uint8_t>n
        elif head == 4:
            out[1] = LENGTH_16
            out[2] = <uint8_t>(n >> 8)
            out[3] = <uint8_t>n
        else:
            out[1] = LENGTH_64
            length = htobe64(n)
            memcpy(out + 2, &length, 8)
        self.replies.size += head + n
        return at - frame
