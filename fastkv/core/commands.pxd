"""Redis' commands as JSON: what both REST and the text frames of WebSockets carry."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastkv.core.engine cimport Clock, Engine, Found
from fastkv.core.framing cimport SharedWords
from fastkv.core.replies cimport Replies
from fastkv.core.text cimport String

cdef enum:
    MOST_COMMANDS = 1024
    MOST_WORDS = 4096
    # Keys that are read by one pipeline: all of it is done in one turn.
    MOST_READ = 256

cdef enum Verb:
    GET
    MGET
    SET
    INCR
    DEL

cdef struct Command:
    Verb verb
    # Its words behind the name stand in ``words`` from here on.
    size_t first
    size_t count
    # SET with EX or PX; 0: without.
    uint64_t ttl_ms

cdef enum Reading:
    ORDINARY
    UNUSUAL    # it is not in JSON what is answered here
    OVERHEARD  # it writes, and keyspace events are listened to

cdef enum Running:
    RAN
    REFUSED     # nothing has changed: the engine declined, or the reply would be too long
    NO_TEXT     # nothing has changed: a value is not UTF-8


@cython.final
cdef class JsonCommands:
    cdef Engine engine
    cdef Clock clock
    cdef SharedWords row, listeners
    cdef object run_readable
    cdef uint64_t *counters
    cdef const uint64_t *wanted
    cdef size_t hits, misses, puts, deletes
    cdef size_t max_key, max_value, max_batch
    cdef int64_t max_reply
    # What was read last.
    cdef String words[MOST_WORDS]
    cdef Command commands[MOST_COMMANDS]
    cdef size_t word_count, command_count, keys_read
    cdef bint writes
    cdef Found found[MOST_READ]

    # One command, or as a batch an array of them. ``scratch`` has ``n`` bytes or more and has to live until
    # they have run; what is in ``body`` as well.
    cdef Reading read(self, const uint8_t *body, size_t n, uint8_t *scratch, bint batch) noexcept
    # Run what was read, and write its reply from ``at`` on, behind the ``size`` bytes of the replies; at most
    # ``most`` bytes. ``at`` is behind it then.
    cdef Running run(self, Replies *replies, size_t *at, bint in_base64, size_t most) noexcept
    # The same for a batch; once it has begun it is declined only where there is no memory.
    cdef Running run_batch(self, Replies *replies, size_t *at, bint in_base64) noexcept

    cdef const uint8_t *read_command(
        self, const uint8_t *begin, const uint8_t *at, const uint8_t *end, uint8_t **scratch
    ) noexcept
    cdef bint judge(self, const String *name, Command *command) noexcept
    cdef bint is_key(self, const String *word) noexcept
    cdef Running run_one(
        self, const Command *command, Replies *replies, size_t *at, bint in_base64, size_t most, int64_t *room
    ) noexcept
    cdef Running get(
        self, const String *key, Replies *replies, size_t *at, bint in_base64, size_t most, int64_t *room
    ) noexcept
    cdef Running mget(
        self, const Command *command, Replies *replies, size_t *at, bint in_base64, size_t most, int64_t *room
    ) noexcept
    cdef bint look_at_all(self, const Command *command) noexcept
    cdef bint run_readably(
        self, const Command *command, Replies *replies, size_t *at, bint in_base64, int64_t *room
    ) noexcept
