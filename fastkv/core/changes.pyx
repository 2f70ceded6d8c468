# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""What a transaction does to several keys: the loops of its commit in C speed.

``fastkv.store.commit`` is the specification and drives them: it holds the locks, opens and frees segments,
writes the redo list, and repairs after an error. Each loop stores the same words in the same order as its
namesake, with release. It returns where one key needs what only Python does, and goes on behind that.

    take → place → wanted → append → (redo list) → begin → empty → fill → count → end

Up to ``place`` everything may be declined, and nothing is changed. Addresses out of the arena are bounded in
``locate``; from there on the shards' locks keep what it has found.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from fastkv.core.engine cimport DECLINED, DONE, MISS, WHY_CLOSED, WHY_DAMAGED, WHY_KEY, WHY_LARGE, Engine
from fastkv.core.hashing cimport LONGEST_HASHED, hash_short
from fastkv.core.index cimport (
    ABSENT,
    DISTURBED,
    Buckets,
    Search,
    buckets_of,
    is_page,
    page_of,
    prefetch_record,
    prefetch_slots,
    search,
    vacancy,
    was_evicted,
)
from fastkv.core.layout cimport (
    BUCKET_WORDS,
    CLOSED_MAIN,
    COMPACT,
    DEADLINE,
    FRAGMENT,
    LARGE,
    OPEN_MAIN,
    SH_ENTRIES,
    SH_VERSION,
    TAG_MASK,
    Arena,
    count_at,
    header_of,
    is_pooled,
    row_of,
    segment_of,
    sequence_of,
    shard_of,
    shards_of,
    word_of,
)
from fastkv.core.log cimport Tail, append, find_tail, has_room
from fastkv.core.native cimport fence_release, likely, store_release, unlikely
from fastkv.core.records cimport NewEntry, Record, flags_of, record_words, words_of
from fastkv.core.segments cimport add, bury, is_log_of, state_at, would_free

include "sources.pxi"

cdef enum:
    # As in ``fastkv.core.many``.
    SLOTS_AHEAD = 16
    RECORD_AHEAD = 8

cdef enum Kind:
    PUT
    # Another deadline; all else stays.
    RETIME
    REMOVE

cdef struct Change:
    # Its content stands as the value, and there is no metadata besides.
    NewEntry entry
    uint64_t key_hash
    uint64_t shard
    uint64_t version
    # The slot that it changes, 0 while there is nothing to change; the words before and after it, 0 for none.
    uint64_t slot
    uint64_t old
    uint64_t new
    # Words of the record that stands there, and of the one that is appended.
    uint64_t old_words
    uint64_t new_words
    # When what stands there expires, 0 for never.
    uint64_t old_deadline_ms
    # Its place among the changes as they were given.
    uint32_t number
    Kind kind
    # Whether its record belongs to the main queue.
    bint main


@cython.final
cdef class Changes:
    """What becomes of several keys, each named once, in the order of their shards."""

    cdef Engine engine
    cdef Change *changes
    cdef Py_ssize_t count
    # How many have a slot.
    cdef Py_ssize_t placed
    # A set of words other than 0, with room for twice as many as there are changes.
    cdef uint64_t *members
    # What the changes' pointers lead to.
    cdef tuple kept

    def __cinit__(self, Engine engine not None) -> None:
        self.engine = engine

    def __dealloc__(self) -> None:
        free(self.changes)
        free(self.members)

    def __len__(self) -> int:
        """How many changes were taken."""
        return self.count

    # -- taking them ---------------------------------------------------------------------------------------

    def take_writes(self, object writes) -> bool:
        """Take what a transaction has written, as ``fastkv.store.commit.Write``.

        Returns:
            False if one is not ordinary.
        """
        cdef tuple kept = tuple(writes)
        cdef tuple write
        cdef object content, each
        cdef Change *change
        self.make(len(kept))
        self.kept = kept
        for each in kept:
            write = tuple(each)
            content = write[2]
            change = self.take(<bytes?> write[0])
            if change == NULL:
                return False
            change.kind = REMOVE if not write[6] else RETIME if content is None else PUT
            change.entry.flags = write[3]
            change.version = write[4]
            change.entry.deadline_ms = write[5]
            if change.kind == PUT and not self.fill_in(change, <bytes?> content):
                return False
        return self.sort()

    def take_puts(self, object keys, object values, uint64_t most_bytes) -> bool:
        """Take keys and the values that they are to have, without deadlines and metadata.

        Args:
            most_bytes: how long they may be together.

        Returns:
            False if one is not ordinary, one key is named twice, or they are longer.
        """
        cdef tuple all_keys = tuple(keys), all_values = tuple(values)
        cdef uint64_t left = most_bytes
        cdef Py_ssize_t i
        cdef bytes key, value
        cdef Change *change
        if len(all_keys) != len(all_values):
            raise ValueError("each key has a value")
        self.make(len(all_keys))
        self.kept = all_keys, all_values
        for i in range(len(all_keys)):
            key, value = <bytes?> all_keys[i], <bytes?> all_values[i]
            change = self.take(key)
            if change == NULL or not self.fill_in(change, value):
                return False
            if <uint64_t> (len(key) + len(value)) > left:
                return False
            left -= len(key) + len(value)
        return self.sort()

    def take_removals(self, object keys) -> bool:
        """Take keys whose entries are to be removed.

        Returns:
            False if one is not ordinary, or named twice.
        """
        cdef object key
        cdef Change *change
        self.kept = tuple(keys)
        self.make(len(self.kept))
        for key in self.kept:
            change = self.take(<bytes?> key)
            if change == NULL:
                return False
            change.kind = REMOVE
        return self.sort()

    cdef int make(self, Py_ssize_t room) except -1:
        if self.changes != NULL:
            raise ValueError("changes are taken once")
        self.changes = <Change *> calloc(room + 1, sizeof(Change))
        self.members = <uint64_t *> malloc((mask_for(room) + 1) * sizeof(uint64_t))
        if self.changes == NULL or self.members == NULL:
            raise MemoryError
        return 0

    cdef Change *take(self, bytes key) noexcept:
        """Begin with the change of a key; NULL if that is not ordinary."""
        cdef Change *change = &self.changes[self.count]
        cdef size_t key_len = PyBytes_GET_SIZE(key)
        if self.engine.arena.words == NULL:
            self.engine.decline(WHY_CLOSED)
            return NULL
        if not 0 < key_len <= LONGEST_HASHED:
            self.engine.decline(WHY_KEY)
            return NULL
        change.entry.key = <const uint8_t *> PyBytes_AS_STRING(key)
        change.entry.key_len = key_len
        change.key_hash = hash_short(change.entry.key, key_len, self.engine.seed)
        change.shard = shard_of(&self.engine.arena, change.key_hash)
        change.number = <uint32_t> self.count
        self.count += 1
        return change

    cdef bint fill_in(self, Change *change, bytes content) noexcept:
        cdef NewEntry *entry = &change.entry
        entry.value = <const uint8_t *> PyBytes_AS_STRING(content)
        entry.value_len = PyBytes_GET_SIZE(content)
        if (
            entry.value_len > self.engine.arena.inline_words << 3
            or record_words(entry.key_len, DEADLINE, entry.value_len) > self.engine.arena.inline_words
        ):
            self.engine.decline(WHY_LARGE)
            return False
        return True

    cdef bint sort(self) except -1:
        """Order them by their shards, those of one as they were given; False if a key is named twice."""
        cdef uint64_t shards = shards_of(&self.engine.arena), shard
        cdef uint64_t mask = mask_for(self.count)
        cdef Change *sorted_changes = <Change *> malloc((self.count + 1) * sizeof(Change))
        cdef uint32_t *begins = <uint32_t *> calloc(shards + 1, sizeof(uint32_t))
        cdef Py_ssize_t i
        cdef bint once = True
        if sorted_changes == NULL or begins == NULL:
            free(sorted_changes)
            free(begins)
            raise MemoryError
        memset(self.members, 0, (mask + 1) * sizeof(uint64_t))
        for i in range(self.count):
            begins[self.changes[i].shard + 1] += 1
            once = once and self.join(self.changes[i].key_hash or 1, mask)
        for shard in range(shards):
            begins[shard + 1] += begins[shard]
        for i in range(self.count):
            shard = self.changes[i].shard
            sorted_changes[begins[shard]] = self.changes[i]
            begins[shard] += 1
        free(begins)
        free(self.changes)
        self.changes = sorted_changes
        return once

    # -- a set of words ------------------------------------------------------------------------------------

    cdef bint join(self, uint64_t word, uint64_t mask) noexcept:
        """Add a word to the set; False if it is a member already."""
        cdef uint64_t at = spread(word) & mask
        while self.members[at]:
            if self.members[at] == word:
                return False
            at = (at + 1) & mask
        self.members[at] = word
        return True

    cdef bint is_member(self, uint64_t word, uint64_t mask) noexcept:
        cdef uint64_t at = spread(word) & mask
        while self.members[at]:
            if self.members[at] == word:
                return True
            at = (at + 1) & mask
        return False

    # -- what they are -------------------------------------------------------------------------------------

    @property
    def shards(self) -> list:
        """The numbers of the shards that the keys belong to, ascending."""
        return [
            self.changes[i].shard
            for i in range(self.count)
            if not i or self.changes[i].shard != self.changes[i - 1].shard
        ]

    @property
    def changed(self) -> int:
        """How many have a slot to change."""
        return self.placed

    cdef Change *at(self, Py_ssize_t number) except NULL:
        if self.engine.arena.words == NULL:
            raise ValueError("the engine is closed")
        if not 0 <= number < self.count:
            raise IndexError(number)
        return &self.changes[number]

    def log_of(self, Py_ssize_t number) -> tuple:
        """The shard whose log a change appends to, and whether that is the one of the main queue."""
        cdef Change *change = self.at(number)
        return change.shard, <bint> change.main

    def hash_of(self, Py_ssize_t number) -> int:
        """The hash of a change's key."""
        return self.at(number).key_hash

    def old_of(self, Py_ssize_t number) -> int:
        """The slot word that stood where a change is made."""
        return self.at(number).old

    def removed(self) -> list:
        """The keys whose entries are removed, in the order in which they were given."""
        cdef list keys = [None] * self.count
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.changes[i].slot and self.changes[i].kind == REMOVE:
                keys[self.changes[i].number] = self.kept[self.changes[i].number]
        return [key for key in keys if key is not None]

    def appended(self) -> list:
        """The shards and the slot words of the records that were appended."""
        return [
            (self.changes[i].shard, self.changes[i].new)
            for i in range(self.count)
            if self.changes[i].new
        ]

    def flat(self) -> bytes:
        """Slot, old word and new word of each change, one after the other."""
        cdef bytes made = PyBytes_FromStringAndSize(NULL, self.placed * 3 * sizeof(uint64_t))
        cdef uint64_t *out = <uint64_t *> PyBytes_AS_STRING(made)
        cdef Change *change
        cdef Py_ssize_t i
        for i in range(self.count):
            change = &self.changes[i]
            if change.slot:
                out[0], out[1], out[2] = change.slot, change.old, change.new
                out += 3
        return made

    # -- under the shards' locks, before anything is changed -----------------------------------------------

    def give_versions(self) -> dict:
        """Give each put the next version of its shard.

        Returns:
            The newest one of each shard that has puts.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef Change *change
        cdef uint64_t version = 0, last = 0
        cdef dict newest = {}
        cdef Py_ssize_t i
        if self.count:
            self.at(0)
        for i in range(self.count):
            change = &self.changes[i]
            if not i or change.shard != self.changes[i - 1].shard:
                version = last = arena.words[header_of(arena, change.shard) + SH_VERSION]
            if change.kind == PUT:
                version += 1
                change.version = version
            if version != last and (i + 1 == self.count or change.shard != self.changes[i + 1].shard):
                newest[change.shard] = version
        return newest

    def first_there(self, object clock) -> int:
        """Look for entries of the keys.

        Args:
            clock: milliseconds now; called only if an entry has a deadline.

        Returns:
            The slot of the entry of that key which was given first; 0 if none has one; -1 if it is declined.
        """
        cdef uint64_t slot = 0, first = 0, now_ms = 0
        cdef Py_ssize_t i
        cdef Change *change
        cdef Buckets buckets
        if self.count:
            self.at(0)
        for i in range(self.count):
            change = &self.changes[i]
            if self.locate(change, &buckets) == DECLINED:
                return -1
            if not change.slot or (slot and change.number > first):
                continue
            if change.old_deadline_ms:
                now_ms = now_ms or clock()
                if change.old_deadline_ms <= now_ms:
                    continue
            slot, first = change.slot, change.number
        return slot

    def place(self, Py_ssize_t begin, object clock) -> int:
        """Find the slots of the changes, as ``Commit._place``.

        Args:
            begin: where to begin; the shard of that change is looked through from its beginning.
            clock: milliseconds now, if an entry that has expired is none that can be removed; None if what is
                to be removed was seen by the transaction. Called only if an entry has a deadline.

        Returns:
            How many changes there are, if all have what they need; -1 if one is not ordinary. Else which one
            finds no empty slot: after ``Shard.make_vacancy``, go on with it.
        """
        cdef Py_ssize_t i = begin, end, number
        cdef uint64_t now_ms = 0
        cdef int outcome
        if self.count:
            self.at(min(i, self.count - 1))
        while 0 < i < self.count and self.changes[i - 1].shard == self.changes[i].shard:
            i -= 1
        while i < self.count:
            end = i + 1
            while end < self.count and self.changes[end].shard == self.changes[i].shard:
                end += 1
            memset(self.members, 0, (mask_for(end - i) + 1) * sizeof(uint64_t))
            for number in range(i, end):
                if number + SLOTS_AHEAD < self.count:
                    prefetch_slots(&self.engine.arena, self.changes[number + SLOTS_AHEAD].key_hash)
                if number + RECORD_AHEAD < self.count:
                    prefetch_record(&self.engine.arena, self.changes[number + RECORD_AHEAD].key_hash)
                outcome = self.place_one(&self.changes[number], mask_for(end - i))
                if outcome == DECLINED:
                    return -1
                if outcome == MISS:
                    return number
                if (
                    clock is not None
                    and self.changes[number].kind == REMOVE
                    and self.changes[number].old_deadline_ms
                ):
                    now_ms = now_ms or clock()
                    if self.changes[number].old_deadline_ms <= now_ms:
                        self.changes[number].slot = 0
            i = end
        self.placed = 0
        for i in range(self.count):
            self.placed += self.changes[i].slot != 0
        return self.count

    cdef int place_one(self, Change *change, uint64_t mask) noexcept:
        """DONE, MISS if there is no slot, DECLINED."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t state
        cdef Buckets buckets
        if self.locate(change, &buckets) == DECLINED:
            return DECLINED
        if change.kind == PUT:
            change.new_words = record_words(
                change.entry.key_len, flags_of(&change.entry), change.entry.value_len
            )
            if not change.slot:
                change.slot = self.vacancy_besides(&buckets, mask)
                if not change.slot:
                    return MISS
                self.join(change.slot, mask)
                change.main = was_evicted(arena, change.key_hash)
        elif change.kind == RETIME and change.slot:
            state = state_at(arena, row_of(arena, segment_of(arena, change.old)))
            change.main = state == OPEN_MAIN or state == CLOSED_MAIN
            change.new_words = record_words(
                change.entry.key_len, flags_of(&change.entry), change.entry.value_len
            )
            if unlikely(change.new_words > arena.inline_words):
                return self.engine.decline(WHY_DAMAGED)
        return DONE

    cdef int locate(self, Change *change, Buckets *buckets) noexcept:
        """Find the entry of a change's key, and note what stands there.

        Returns:
            DONE, or DECLINED.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t page = page_of(arena, change.key_hash)
        cdef Record record
        cdef Search outcome
        change.slot = change.old = change.new = change.old_words = change.old_deadline_ms = 0
        change.main = False
        if unlikely(
            not is_page(arena, page)
            or not is_pooled(arena, segment_of(arena, page))
            or arena.words[sequence_of(arena, change.shard)] & 1
        ):
            return self.engine.decline(WHY_DAMAGED)
        buckets[0] = buckets_of(arena, change.key_hash, page)
        outcome = search(
            arena, buckets, change.key_hash & TAG_MASK, change.entry.key, change.entry.key_len,
            &change.slot, &change.old, &record,
        )
        if outcome == ABSENT:
            change.slot = change.old = 0
            return DONE
        if unlikely(
            outcome == DISTURBED or not is_log_of(arena, segment_of(arena, change.old), change.shard)
        ):
            return self.engine.decline(WHY_DAMAGED)
        if unlikely(record.flags & (LARGE | FRAGMENT)):
            return self.engine.decline(WHY_LARGE)
        change.old_words = words_of(&record)
        change.old_deadline_ms = record.deadline_ms
        if change.kind == RETIME:
            change.entry.value = record.content
            change.entry.value_len = record.content_len
            change.entry.flags = record.flags & ~<uint32_t> DEADLINE
        return DONE

    cdef uint64_t vacancy_besides(self, const Buckets *buckets, uint64_t mask) noexcept:
        """An empty slot that is promised to no other change, as ``Index.vacancy_besides``."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t bucket = buckets.first, slot = vacancy(arena, buckets), emptiest = 0, first
        cdef int number, empty, most = 0
        if likely(not slot or not self.is_member(slot, mask)):
            return slot
        while True:
            empty = 0
            first = 0
            for number in range(BUCKET_WORDS - 1, 0, -1):
                if not arena.words[bucket + number] and not self.is_member(bucket + number, mask):
                    empty += 1
                    first = bucket + number
            if empty > most:
                most = empty
                emptiest = first
            if bucket == buckets.second:
                return emptiest
            bucket = buckets.second

    def wanted(self) -> int:
        """How many segments the records may take at most, as ``Commit._wanted``; -1 if that is declined."""
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t[2] heads
        cdef uint64_t length
        cdef Change *change
        cdef Tail tail
        cdef Py_ssize_t i, opened = 0
        cdef int log
        if self.count:
            self.at(0)
        for i in range(self.count):
            change = &self.changes[i]
            if not i or change.shard != self.changes[i - 1].shard:
                for log in range(2):
                    if not find_tail(arena, change.shard, log, &tail):
                        self.engine.decline(WHY_DAMAGED)
                        return -1
                    heads[log] = tail.head if tail.opened else arena.segment_words
            if not change.slot or change.kind == REMOVE:
                continue
            log = change.main
            if change.kind == RETIME:
                length = change.old_words + 1
            else:
                length = record_words(change.entry.key_len, COMPACT | DEADLINE, change.entry.value_len)
            if heads[log] + length > arena.segment_words:
                opened += 1
                heads[log] = 0
            heads[log] += length
        return opened

    # -- records -------------------------------------------------------------------------------------------

    def append(self, Py_ssize_t begin) -> int:
        """Append the records, as ``Commit._append``.

        Args:
            begin: the change to begin with.

        Returns:
            How many changes there are, if all are appended; else which one needs a segment to be opened:
            after ``Log.open_segment``, go on with it.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef Tail[2] tails
        cdef Tail *tail
        cdef Change *change
        cdef uint64_t placed
        cdef Py_ssize_t i
        if self.count:
            self.at(min(begin, self.count - 1))
        for i in range(begin, self.count):
            change = &self.changes[i]
            if i == begin or change.shard != self.changes[i - 1].shard:
                if not (
                    find_tail(arena, change.shard, False, &tails[0])
                    and find_tail(arena, change.shard, True, &tails[1])
                ):
                    raise RuntimeError(f"the log of shard {change.shard} is damaged")
            if not change.slot or change.kind == REMOVE:
                continue
            tail = &tails[change.main]
            if not has_room(arena, tail, change.new_words):
                return i
            placed = append(arena, change.shard, tail, change.new_words, &change.entry, change.version)
            tail.head += change.new_words
            change.new = word_of(arena, change.key_hash, change.version, placed)
        return self.count

    # -- publication ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Clear the access counts of new entries, and make the sequences of all shards odd."""
        cdef const Arena *arena = &self.engine.arena
        cdef Py_ssize_t i
        cdef uint64_t at
        for i in range(self.count):
            if self.changes[i].slot and not self.changes[i].old:
                count_at(arena, self.changes[i].slot)[0] = 0
        for i in range(self.count):
            if self.begins_shard(i):
                at = sequence_of(arena, self.changes[i].shard)
                store_release(arena.words + at, arena.words[at] | 1)
        # Before a slot is emptied: who finds it so finds its shard's sequence odd.
        fence_release()

    def end(self) -> None:
        """Make the sequences even."""
        cdef const Arena *arena = &self.engine.arena
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.begins_shard(i):
                add(arena, sequence_of(arena, self.changes[i].shard), 1)

    cdef bint begins_shard(self, Py_ssize_t number) noexcept:
        """Whether a change is the first one of its shard that has a slot."""
        cdef Py_ssize_t i = number
        if not self.changes[number].slot:
            return False
        while i > 0 and self.changes[i - 1].shard == self.changes[number].shard:
            i -= 1
            if self.changes[i].slot:
                return False
        return True

    def empty(self) -> None:
        """Empty all slots."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.changes[i].slot:
                store_release(self.engine.arena.words + self.changes[i].slot, 0)

    def fill(self) -> None:
        """Write the new words."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.changes[i].slot:
                store_release(self.engine.arena.words + self.changes[i].slot, self.changes[i].new)

    def settle(self, Py_ssize_t begin) -> int:
        """Count the entries, and the records that are dead now.

        Args:
            begin: the change to begin with.

        Returns:
            How many changes there are, if all are counted; else which one leaves a segment without a live
            record: after ``Shard.bury`` of its old record, go on behind it.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef Change *change
        cdef uint64_t header, segment
        cdef Py_ssize_t i
        for i in range(begin, self.count):
            change = &self.changes[i]
            if not change.slot:
                continue
            header = header_of(arena, change.shard)
            add(arena, header + SH_ENTRIES, (change.new != 0) - <uint64_t> (change.old != 0))
            if change.old:
                segment = segment_of(arena, change.old)
                if would_free(arena, segment, change.old_words):
                    return i
                bury(arena, header, segment, change.old_words)
        return self.count


cdef inline uint64_t mask_for(Py_ssize_t count) noexcept:
    """Of a power of two, less one, that is twice as large as a number at least."""
    cdef uint64_t mask = 1
    while mask < <uint64_t> (2 * count + 1):
        mask = mask << 1 | 1
    return mask


cdef inline uint64_t spread(uint64_t word) noexcept:
    return (word * 0x9E3779B97F4A7C15ULL) >> 32
