# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""Redis' commands as JSON → their replies as JSON, as ``fastkv.commands`` and ``fastkv.jsonwire`` have them.

GET, MGET, SET, SET with EX or PX, INCR, and DEL of one key, as an array of strings and whole numbers. It is
read and judged whole first, and **declined with nothing changed** unless it is ordinary: the readable
path executes all else, and all that gets an error. A pipeline is an array of such commands. Once it runs it
runs to its end: what the engine declines of it the readable command does, in its place. So that it takes one
step, what it reads is looked at before.

Counters are those of the readable commands. Where somebody listens to keyspace events writes are declined.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, SIZE_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastkv.core cimport engine as store
from fastkv.core.engine cimport (
    WHY_CLOSED, WHY_DAMAGED, WHY_KEY, WHY_LARGE, WHY_NUMBER, Clock, Engine, Found, Target, Written, fits,
)
from fastkv.core.framing cimport SharedWords, add_to
from fastkv.core.hashing cimport LONGEST_HASHED, hash_short
from fastkv.core.layout cimport MAX_METADATA_BYTES, Arena, shard_of
from fastkv.core.memory cimport put_bytes, read_32
from fastkv.core.native cimport STORES_ARE_ORDERED, likely, load_relaxed, unlikely
from fastkv.core.records cimport NewEntry, Record, parse_record, trailing_bytes
from fastkv.core.replies cimport PLAIN, Outcome, CHANGED, UNWRITABLE, WRITTEN, Replies, put_base64, reserve
from fastkv.core.scan cimport behind_space
from fastkv.core.text cimport String, escape, is_plain, parse_ttl, put_decimal, read_string

include "sources.pxi"

cdef enum:
    TRIES = 4  # reads of an entry that is replaced meanwhile, before the lock has to be taken
    # Room for all of a reply but its strings; behind each reply there is enough for its head to grow into.
    FIXED = 64
    MOST_READ_BYTES = 2 << 20  # by one pipeline
    LONGEST_INTEGER = 20  # of 64 bits, its sign included
    # Bytes that ``size_of`` of ``fastkv.commands.replies`` gives to what is no string.
    NUMBER_BYTES = 16
    # Names in small letters, the first byte lowest.
    CASE_BITS = 0x20202020
    THREE_LETTERS = 0xFFFFFF
    GET_NAME = 0x746567
    SET_NAME = 0x746573
    DEL_NAME = 0x6C6564
    MGET_NAME = 0x7465676D
    INCR_NAME = 0x72636E69


# -- reading -----------------------------------------------------------------------------------------------


cdef inline const uint8_t *behind_item(const uint8_t *at, const uint8_t *end, bint *is_last) noexcept:
    """What is behind the comma or the bracket that follows an item of an array; NULL: neither does."""
    at = behind_space(at, end)
    if at == end or (at[0] != c"," and at[0] != c"]"):
        return NULL
    is_last[0] = at[0] == c"]"
    return at + 1


cdef inline const uint8_t *read_integer(const uint8_t *at, const uint8_t *end, String *word) noexcept:
    """Read a whole number as it is written (RFC 8259, 6), of any length; NULL for any other one."""
    word.at = at
    if at[0] == c"-":
        at += 1
    if at == end or not c"0" <= at[0] <= c"9":
        return NULL
    if at[0] == c"0":
        at += 1
    else:
        while at < end and c"0" <= at[0] <= c"9":
            at += 1
    word.len = at - word.at
    return at


cdef inline bint parse_integer(const uint8_t *text, size_t n, int64_t *number) noexcept:
    """Read an integer of 64 bits as ``fastkv.commands.arguments`` does; False for what is none."""
    cdef const uint8_t *end = text + n
    cdef bint negative = n > 1 and text[0] == c"-"
    cdef uint64_t found = 0, digit
    cdef const uint8_t *at = text + 1 if negative else text
    if at >= end or n > LONGEST_INTEGER or (at[0] == c"0" and n > 1):
        return False
    while at < end:
        if not c"0" <= at[0] <= c"9":
            return False
        digit = at[0] - c"0"
        if found > (<uint64_t>INT64_MAX + negative - digit) // 10:
            return False
        found = 10 * found + digit
        at += 1
    number[0] = <int64_t>(-found if negative else found)
    return True


cdef inline bint is_option(const String *word, uint8_t first) noexcept:
    """Whether a word is EX, or PX, in letters of any case."""
    return word.len == 2 and word.at[0] | 0x20 == first and word.at[1] | 0x20 == c"x"


# -- writing -----------------------------------------------------------------------------------------------


cdef inline bint put_text(Replies *replies, size_t *at, const char *text, size_t n) noexcept:
    """Write a text; False: there is no memory."""
    if unlikely(not reserve(replies, at[0] - replies.size + n + FIXED)):
        return False
    memcpy(replies.out + at[0], text, n)
    at[0] += n
    return True


cdef inline bint put_number(Replies *replies, size_t *at, int64_t number) noexcept:
    """Write the reply that a number is, for which there is room of ``FIXED`` bytes."""
    cdef uint8_t *out = replies.out + at[0]
    cdef uint64_t size = <uint64_t>number
    out = put_bytes(out, <const uint8_t *>b'{"result":', 10)
    if number < 0:
        out[0] = c"-"
        out += 1
        size = -size
    out += put_decimal(out, size)
    out[0] = c"}"
    at[0] = out + 1 - replies.out
    return True


cdef inline Outcome put_value(Replies *replies, size_t *at, const Found *found, bint in_base64) noexcept:
    """Write an entry's value as a JSON string; it counts if ``Engine.holds`` it then."""
    cdef size_t n = found.value_len
    cdef size_t before = at[0] - replies.size
    cdef Py_ssize_t escaped = n
    cdef uint8_t *out
    if unlikely(not reserve(replies, before + (2 * n if in_base64 else n) + FIXED)):
        return CHANGED
    out = replies.out + at[0]
    out[0] = c'"'
    out += 1
    if in_base64:
        escaped = put_base64(out, found.value, n)
    else:
        put_bytes(out, found.value, n)
        if found.flags != PLAIN and not is_plain(out, n):
            # Behind all that it may become, because each look at the arena may show another thing.
            if unlikely(not reserve(replies, before + 7 * n + FIXED)):
                return CHANGED
            out = replies.out + at[0] + 1
            memcpy(out + 6 * n, out, n)
            escaped = escape(out + 6 * n, n, out)
            if escaped < 0:
                return UNWRITABLE
    out[escaped] = c'"'
    at[0] += escaped + 2
    return WRITTEN


# -- counting ----------------------------------------------------------------------------------------------


cdef int add_to_entry(
    Engine engine, Clock clock, const uint8_t *key, size_t key_len, int64_t amount, int64_t *total
) noexcept:
    """Add to the integer that an entry is, 0 if there is none; its deadline and its metadata stay.

    As ``fastkv.commands.counters`` has it updated under the shard's lock. What has expired is removed first.

    Returns:
        DONE; DECLINED: nothing has changed, also where the value is no integer or the sum has more than 64
        bits.
    """
    cdef const Arena *arena = &engine.arena
    cdef uint64_t trailing, size
    cdef Target target
    cdef Record record
    cdef NewEntry entry
    cdef Written written
    cdef uint8_t[LONGEST_INTEGER + 1] text
    cdef uint8_t[MAX_METADATA_BYTES] metadata
    cdef int64_t number = 0
    cdef int outcome
    if unlikely(arena.words == NULL):
        return engine.decline(WHY_CLOSED)
    if unlikely(not 0 < key_len <= LONGEST_HASHED):
        return engine.decline(WHY_KEY)
    target.key_hash = hash_short(key, key_len, engine.seed)
    target.shard = shard_of(arena, target.key_hash)
    if unlikely(not engine.lock_shard(target.shard)):
        return store.DECLINED
    outcome = engine.locate(target.shard, target.key_hash, key, key_len, &target.buckets, &target.place)
    if unlikely(outcome == store.DECLINED):
        return store.DECLINED
    entry = NewEntry(key, key_len, &text[0], 0, NULL, 0, 0, 0)
    target.present = outcome == store.DONE
    target.has_expired = (
        target.present and target.place.deadline_ms != 0 and target.place.deadline_ms <= clock.now_ms()
    )
    if target.present and not target.has_expired:
        if unlikely(not parse_record(arena, target.place.word & arena.location_mask, &record)):
            return engine.give_up(target.shard, False, WHY_DAMAGED)
        trailing = trailing_bytes(&record)
        if unlikely(trailing > record.content_len):
            return engine.give_up(target.shard, False, WHY_DAMAGED)
        if not parse_integer(record.content, record.content_len - trailing, &number):
            return engine.give_up(target.shard, False, WHY_NUMBER)
        entry.deadline_ms = target.place.deadline_ms
        if trailing:
            # A copy, because the old record is given up before its place is seen to be free.
            entry.metadata_len = trailing - 1
            memcpy(metadata, record.content + record.content_len - trailing, entry.metadata_len)
            entry.metadata = metadata
    if unlikely(number > INT64_MAX - amount if amount > 0 else number < -INT64_MAX - 1 - amount):
        return engine.give_up(target.shard, False, WHY_NUMBER)
    number += amount
    size = <uint64_t>number
    if number < 0:
        text[0] = c"-"
        entry.value_len = 1
        size = -size
    entry.value_len += put_decimal(text + entry.value_len, size)
    if unlikely(not fits(arena, &entry)):
        return engine.give_up(target.shard, False, WHY_LARGE)
    total[0] = number
    return engine.write_at(&entry, &target, &written)


# -- commands ----------------------------------------------------------------------------------------------


cdef bint is_one_step(JsonCommands batch) noexcept:
    """Whether all that a pipeline reads is ordinary, and can be copied in one turn; writes are bounded."""
    cdef const Command *command
    cdef const String *word
    cdef Found found
    cdef size_t i, j, size = 0
    cdef int outcome
    for i in range(batch.command_count):
        command = batch.commands + i
        if command.verb != GET and command.verb != MGET:
            continue
        for j in range(command.count):
            word = batch.words + command.first + j
            outcome = batch.engine.find(word.at, word.len, &found)
            if outcome == store.DONE:
                size += found.value_len
            if unlikely(outcome == store.DECLINED or size > MOST_READ_BYTES):
                return False
    return True


@cython.final
cdef class JsonCommands:
    """The ordinary commands of one worker.

    Args:
        engine: the store's.
        clock: the arena's.
        row: this worker's counters.
        columns: where in the row hits, misses, puts and deletes are counted.
        wanted: a word that is not 0 while a client waits for keyspace events; writes are declined then.
        run_readable: executes one command of a pipeline: from its words, the bytes that all further replies
            may have, and whether strings are to be in base64, to its reply as JSON and how long that is.
        max_key_bytes: longer keys are declined.
        max_value_bytes: longer values are declined.
        max_batch: pipelines of more commands, and commands with more keys, are declined.
        max_reply_bytes: so long the values of a pipeline, or of one command with several, may be together.

    Raises:
        ValueError: a column lies outside of the row, or ``wanted`` has no word.
    """

    def __init__(
        self, Engine engine not None, Clock clock not None, row not None, columns not None, wanted not None,
        run_readable not None, *,
        size_t max_key_bytes, size_t max_value_bytes, size_t max_batch, int64_t max_reply_bytes,
    ):
        self.engine = engine
        self.clock = clock
        self.row = SharedWords(row, True)
        self.listeners = SharedWords(wanted, False)
        self.hits, self.misses, self.puts, self.deletes = columns
        if max(columns) >= self.row.count or not self.listeners.count:
            raise ValueError("The row has no such column, or there is no word of the listeners.")
        self.counters, self.wanted = self.row.at, self.listeners.at
        self.run_readable = run_readable
        self.max_key = max_key_bytes
        self.max_value = max_value_bytes
        self.max_batch = max_batch
        self.max_reply = max_reply_bytes

    # -- reading -------------------------------------------------------------------------------------------

    cdef Reading read(self, const uint8_t *body, size_t n, uint8_t *scratch, bint batch) noexcept:
        cdef const uint8_t *end = body + n
        cdef const uint8_t *at = behind_space(body, end)
        cdef bint is_last = False
        self.word_count = self.command_count = self.keys_read = 0
        self.writes = False
        if at == end or at[0] != c"[":
            return UNUSUAL
        at += 1
        if not batch:
            at = self.read_command(body, at, end, &scratch)
        else:
            while True:
                at = behind_space(at, end)
                if at == end or at[0] != c"[":
                    return UNUSUAL
                at = self.read_command(body, at + 1, end, &scratch)
                if at == NULL:
                    return UNUSUAL
                at = behind_item(at, end, &is_last)
                if at == NULL:
                    return UNUSUAL
                if is_last:
                    break
        if at == NULL or behind_space(at, end) != end or self.command_count > self.max_batch:
            return UNUSUAL
        if self.writes and load_relaxed(self.wanted):
            return OVERHEARD
        return ORDINARY

    cdef const uint8_t *read_command(
        self, const uint8_t *begin, const uint8_t *at, const uint8_t *end, uint8_t **scratch
    ) noexcept:
        """Read one command from behind its opening bracket on: what is behind it; NULL if it is unusual."""
        cdef Command *command = self.commands + self.command_count
        cdef size_t first = self.word_count
        cdef bint is_last = False
        if unlikely(self.command_count == MOST_COMMANDS):
            return NULL
        while True:
            at = behind_space(at, end)
            if unlikely(at == end or self.word_count == MOST_WORDS):
                return NULL
            if likely(at[0] == c'"'):
                at = read_string(begin, at + 1, end, scratch, self.words + self.word_count)
            else:
                at = read_integer(at, end, self.words + self.word_count)
            if at == NULL:
                return NULL
            self.word_count += 1
            at = behind_item(at, end, &is_last)
            if at == NULL:
                return NULL
            if is_last:
                break
        command.first = first + 1
        command.count = self.word_count - command.first
        if not self.judge(self.words + first, command):
            return NULL
        self.command_count += 1
        return at

    cdef bint judge(self, const String *name, Command *command) noexcept:
        """Find out which command it is; False for any other, and for one that may get an error."""
        cdef const String *words = self.words + command.first
        cdef const uint8_t *end
        cdef uint32_t letters
        cdef size_t i
        cdef uint64_t ttl = 0
        cdef bint in_seconds
        command.ttl_ms = 0
        if name.len == 3:
            letters = (name.at[0] | name.at[1] << 8 | name.at[2] << 16) | CASE_BITS & THREE_LETTERS
        elif name.len == 4:
            letters = read_32(name.at) | CASE_BITS
        else:
            return False
        if command.count == 0 or not self.is_key(words):
            return False
        if letters == GET_NAME:
            command.verb = GET
            self.keys_read += 1
            return command.count == 1 and self.keys_read <= MOST_READ
        if letters == MGET_NAME:
            command.verb = MGET
            self.keys_read += command.count
            if self.keys_read > MOST_READ or command.count > self.max_batch:
                return False
            for i in range(1, command.count):
                if not self.is_key(words + i):
                    return False
            return True
        self.writes = True
        if letters == SET_NAME:
            command.verb = SET
            if command.count < 2 or words[1].len > self.max_value:
                return False
            if command.count == 2:
                return True
            if command.count != 4:
                return False
            end = words[3].at + words[3].len
            if parse_ttl(words[3].at, end, &ttl) != end:
                return False
            in_seconds = is_option(words + 2, c"e")
            command.ttl_ms = 1000 * ttl if in_seconds else ttl
            return in_seconds or is_option(words + 2, c"p")
        command.verb = INCR if letters == INCR_NAME else DEL
        return command.count == 1 and (letters == INCR_NAME or letters == DEL_NAME)

    cdef inline bint is_key(self, const String *word) noexcept:
        return 0 < word.len <= self.max_key

    # -- running -------------------------------------------------------------------------------------------

    cdef Running run(self, Replies *replies, size_t *at, bint in_base64, size_t most) noexcept:
        cdef int64_t room = self.max_reply
        return self.run_one(self.commands, replies, at, in_base64, most, &room)

    cdef Running run_batch(self, Replies *replies, size_t *at, bint in_base64) noexcept:
        cdef int64_t room = self.max_reply
        cdef Running outcome
        cdef size_t i
        if not is_one_step(self):
            return REFUSED
        for i in range(self.command_count):
            if not put_text(replies, at, b"," if i else b"[", 1):
                return REFUSED
            outcome = REFUSED
            if likely(room >= 0):
                outcome = self.run_one(self.commands + i, replies, at, in_base64, SIZE_MAX, &room)
            if unlikely(outcome != RAN):
                if not self.run_readably(self.commands + i, replies, at, in_base64, &room):
                    return REFUSED
        return RAN if put_text(replies, at, b"]", 1) else REFUSED

    cdef Running run_one(
        self, const Command *command, Replies *replies, size_t *at, bint in_base64, size_t most, int64_t *room
    ) noexcept:
        """Run one command.

        Args:
            command: which.
            replies: where its reply goes.
            at: where in it, and then what is behind it.
            in_base64: whether strings are to be in base64.
            most: bytes that the reply may have.
            room: bytes that values may have, less those of this one then.
        """
        cdef const String *words = self.words + command.first
        cdef NewEntry entry
        cdef Written written
        cdef int64_t number = 0
        cdef int outcome
        if command.verb == GET:
            return self.get(words, replies, at, in_base64, most, room)
        if command.verb == MGET:
            return self.mget(command, replies, at, in_base64, most, room)
        # Once the entry has changed nothing may fail any more.
        if unlikely(not reserve(replies, at[0] - replies.size + FIXED)):
            return REFUSED
        if command.verb == SET:
            entry = NewEntry(
                words[0].at, words[0].len, words[1].at, words[1].len, NULL, 0, 0,
                self.clock.now_ms() + command.ttl_ms if command.ttl_ms else 0,
            )
            if unlikely(self.engine.write(&entry, None, &written) != store.DONE):
                return REFUSED
            add_to(self.counters + self.puts, 1)
            room[0] -= 2
            put_text(replies, at, b'{"result":"OK"}', 15)
            return RAN
        if command.verb == INCR:
            outcome = add_to_entry(self.engine, self.clock, words.at, words.len, 1, &number)
            if unlikely(outcome != store.DONE):
                return REFUSED
            add_to(self.counters + self.puts, 1)
        else:
            outcome = self.engine.erase(words.at, words.len, self.clock, True)
            if unlikely(outcome == store.DECLINED):
                return REFUSED
            if outcome == store.DONE:
                add_to(self.counters + self.deletes, 1)
                number = 1
        room[0] -= NUMBER_BYTES
        put_number(replies, at, number)
        return RAN

    cdef Running get(
        self, const String *key, Replies *replies, size_t *at, bint in_base64, size_t most, int64_t *room
    ) noexcept:
        cdef Found found
        cdef Outcome outcome
        cdef size_t behind
        cdef int looked
        for _ in range(TRIES):
            looked = self.engine.look(key.at, key.len, &found)
            if looked == store.MISS:
                if unlikely(not put_text(replies, at, b'{"result":null}', 15)):
                    return REFUSED
                add_to(self.counters + self.misses, 1)
                room[0] -= NUMBER_BYTES
                return RAN
            behind = at[0]
            if unlikely(looked != store.DONE or not put_text(replies, &behind, b'{"result":', 10)):
                return REFUSED
            outcome = put_value(replies, &behind, &found, in_base64)
            if unlikely(outcome == UNWRITABLE):
                return NO_TEXT
            replies.out[behind] = c"}"
            behind += 1
            if unlikely(outcome == CHANGED or not self.engine.is_unchanged(&found)):
                continue
            if unlikely(behind - at[0] > most):
                return REFUSED
            self.engine.count_access(found.slot)
            add_to(self.counters + self.hits, 1)
            room[0] -= found.value_len
            at[0] = behind
            return RAN
        return REFUSED

    cdef Running mget(
        self, const Command *command, Replies *replies, size_t *at, bint in_base64, size_t most, int64_t *room
    ) noexcept:
        cdef size_t behind = at[0], i, hits = 0
        cdef int64_t size = 0  # of the values
        cdef Outcome outcome
        if unlikely(not (self.look_at_all(command) and put_text(replies, &behind, b'{"result":[', 11))):
            return REFUSED
        for i in range(command.count):
            if i and unlikely(not put_text(replies, &behind, b",", 1)):
                return REFUSED
            if not self.found[i].slot:
                if unlikely(not put_text(replies, &behind, b"null", 4)):
                    return REFUSED
                continue
            outcome = put_value(replies, &behind, &self.found[i], in_base64)
            if unlikely(outcome != WRITTEN):
                return NO_TEXT if outcome == UNWRITABLE else REFUSED
            hits += 1
            size += self.found[i].value_len
        if unlikely(size > self.max_reply or not put_text(replies, &behind, b"]}", 2)):
            return REFUSED
        if unlikely(behind - at[0] > most):
            return REFUSED
        for i in range(command.count):
            if self.found[i].slot and unlikely(not self.engine.is_unchanged(&self.found[i])):
                return REFUSED
        for i in range(command.count):
            if self.found[i].slot:
                self.engine.count_access(self.found[i].slot)
        add_to(self.counters + self.hits, hits)
        add_to(self.counters + self.misses, command.count - hits)
        room[0] -= size + NUMBER_BYTES * <int64_t>(1 + command.count - hits)
        at[0] = behind
        return RAN

    cdef bint look_at_all(self, const Command *command) noexcept:
        """Look several keys up, so that they were there together if they are unchanged when all are copied.

        One may be missing: it is looked up last, and all others were there before and after that. Where more
        are, locks are needed, and ``many`` has them.
        """
        cdef const String *words = self.words + command.first
        cdef size_t i, missing = command.count
        cdef Found *found
        cdef int outcome
        if not STORES_ARE_ORDERED:
            return False
        for i in range(command.count):
            found = &self.found[i]
            outcome = self.engine.find(words[i].at, words[i].len, found)
            if outcome == store.MISS:
                if missing < command.count:
                    return False
                missing = i
                found.slot = 0
            elif outcome != store.DONE:
                return False
            elif found.deadline_ms and found.deadline_ms <= self.clock.now_ms():
                return False
        if missing + 1 < command.count:
            found = &self.found[missing]
            if self.engine.find(words[missing].at, words[missing].len, found) != store.MISS:
                return False
            found.slot = 0
        return True

    cdef bint run_readably(
        self, const Command *command, Replies *replies, size_t *at, bint in_base64, int64_t *room
    ) noexcept:
        """Have the readable path execute a command of a pipeline, and write its reply.

        Returns:
            False: there is no memory.
        """
        cdef const String *word
        cdef size_t i
        cdef bytes reply
        try:
            words = []
            for i in range(command.count + 1):
                word = self.words + command.first - 1 + i
                words.append(PyBytes_FromStringAndSize(<const char *>word.at, word.len))
            reply, size = self.run_readable(words, room[0], in_base64)
            room[0] -= size
            return put_text(replies, at, PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply))
        except Exception:
            return False

    # -- for tests and fuzzers -----------------------------------------------------------------------------

    def answer(self, bytes body not None, bint batch=False, bint in_base64=False):
        """Answer a body; over a copy of exactly as many bytes, so a sanitizer sees a look behind them.

        Args:
            body: JSON.
            batch: whether it is an array of commands.
            in_base64: whether strings of the reply are to be in base64.

        Returns:
            The reply as JSON; None where it is declined.
        """
        cdef Replies replies
        cdef size_t n = PyBytes_GET_SIZE(body), at = 0
        cdef uint8_t *copy = <uint8_t *>malloc(n or 1)
        cdef uint8_t *scratch = <uint8_t *>malloc(n or 1)
        cdef Running outcome = REFUSED
        replies.out = NULL
        replies.size = replies.room = 0
        try:
            if copy == NULL or scratch == NULL:
                raise MemoryError
            memcpy(copy, PyBytes_AS_STRING(body), n)
            if self.read(copy, n, scratch, batch) != ORDINARY:
                return None
            if batch:
                outcome = self.run_batch(&replies, &at, in_base64)
            else:
                outcome = self.run(&replies, &at, in_base64, SIZE_MAX)
            return PyBytes_FromStringAndSize(<const char *>replies.out, at) if outcome == RAN else None
        finally:
            free(copy)
            free(scratch)
            free(replies.out)
