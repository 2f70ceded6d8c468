"""The pool and the queues of closed segments, as ``fastkv.store.segments`` keeps them.

Everything here runs under a shard's lock; what takes a segment or gives one back, under the pool's as well.
Each function stores the same words in the same order as its namesake, with release: neither the compiler nor
the processor moves a store before an earlier one, so that a death leaves what a death of the other would.
"""

from libc.stdint cimport int64_t, uint64_t

from fastkv.core.layout cimport (
    CLOSED,
    CLOSED_MAIN,
    CREDIT_SEGMENTS,
    FREE,
    OPEN,
    OPEN_MAIN,
    POOL_CREDIT,
    POOL_FREE_COUNT,
    POOL_FREE_HEAD,
    POOL_FREE_TAIL,
    POOL_FRESH,
    POOL_MAIN,
    POOL_SMALL,
    POOL_STAMP,
    SEG_DEAD,
    SEG_DUE,
    SEG_GENERATION,
    SEG_HEAD,
    SEG_NEXT,
    SEG_PREV,
    SEG_STAMP,
    SEG_STATE,
    SH_DEADEST,
    SH_DUE,
    SH_MAIN_OLDEST,
    SH_MOST_DEAD,
    SH_OLDEST,
    Arena,
    is_pooled,
    row_of,
)
from fastkv.core.native cimport store_release


cdef inline void add(const Arena *arena, uint64_t at, uint64_t amount) noexcept nogil:
    store_release(arena.words + at, arena.words[at] + amount)


cdef inline uint64_t state_at(const Arena *arena, uint64_t row) noexcept nogil:
    return arena.words[row + SEG_STATE] & 0xFF


cdef inline bint is_log_of(const Arena *arena, uint64_t segment, uint64_t shard) noexcept nogil:
    """Return whether a segment is a piece of a shard's log."""
    cdef uint64_t state = arena.words[row_of(arena, segment) + SEG_STATE]
    return is_pooled(arena, segment) and state - (shard << 8 | OPEN) <= CLOSED_MAIN - OPEN


# -- the pool ----------------------------------------------------------------------------------------------


cdef inline bint has_segment(const Arena *arena, uint64_t floor) noexcept nogil:
    """Return whether ``take`` would find a segment and leave more than ``floor - 1``."""
    cdef const uint64_t *words = arena.words
    cdef int64_t free = words[POOL_FREE_COUNT] + arena.segments - words[POOL_FRESH]
    return free > <int64_t> floor and is_pooled(arena, words[POOL_FREE_HEAD] or words[POOL_FRESH])


cdef inline void count_segment(const Arena *arena, uint64_t state, uint64_t amount) noexcept nogil:
    """Keep the lengths of the small and of the main queues."""
    if state == OPEN_MAIN or state == CLOSED_MAIN:
        add(arena, POOL_MAIN, amount)
    elif state == OPEN or state == CLOSED:
        add(arena, POOL_SMALL, amount)


cdef inline uint64_t take(const Arena *arena, uint64_t shard, uint64_t state) noexcept nogil:
    """Take a segment out of a pool that has one."""
    cdef uint64_t *words = arena.words
    cdef uint64_t segment = words[POOL_FREE_HEAD]
    cdef uint64_t row
    if segment:
        row = row_of(arena, segment)
        store_release(words + POOL_FREE_HEAD, words[row + SEG_NEXT])
        add(arena, POOL_FREE_COUNT, -1)
    else:
        segment = words[POOL_FRESH]
        row = row_of(arena, segment)
        store_release(words + POOL_FRESH, segment + 1)
    store_release(words + row + SEG_HEAD, 0)
    store_release(words + row + SEG_DEAD, 0)
    store_release(words + row + SEG_NEXT, 0)
    store_release(words + row + SEG_PREV, 0)
    store_release(words + row + SEG_DUE, 0)
    add(arena, POOL_STAMP, 1)
    store_release(words + row + SEG_STAMP, words[POOL_STAMP])
    store_release(words + row + SEG_STATE, shard << 8 | state)
    count_segment(arena, state, 1)
    return segment


cdef inline void give_back(const Arena *arena, uint64_t segment) noexcept nogil:
    """Return a segment that no slot refers to any more, and that is in no queue."""
    cdef uint64_t *words = arena.words
    cdef uint64_t row = row_of(arena, segment)
    store_release(words + row + SEG_GENERATION, (words[row + SEG_GENERATION] + 1) & arena.generation_mask)
    count_segment(arena, state_at(arena, row), -1)
    store_release(words + row + SEG_STATE, FREE)
    store_release(words + row + SEG_NEXT, 0)
    if words[POOL_FREE_HEAD]:
        store_release(words + row_of(arena, words[POOL_FREE_TAIL]) + SEG_NEXT, segment)
    else:
        store_release(words + POOL_FREE_HEAD, segment)
    store_release(words + POOL_FREE_TAIL, segment)
    add(arena, POOL_FREE_COUNT, 1)


# -- a shard's two queues of closed segments ---------------------------------------------------------------


cdef inline uint64_t queue_of(const Arena *arena, uint64_t header, uint64_t row) noexcept nogil:
    """Where the head of a closed segment's queue stands; its tail stands behind it."""
    return header + (SH_MAIN_OLDEST if state_at(arena, row) == CLOSED_MAIN else SH_OLDEST)


cdef inline void enqueue(const Arena *arena, uint64_t header, uint64_t segment) noexcept nogil:
    """Put a closed segment at the young end of its queue."""
    cdef uint64_t *words = arena.words
    cdef uint64_t row = row_of(arena, segment)
    cdef uint64_t oldest_at = queue_of(arena, header, row)
    cdef uint64_t newest = words[oldest_at + 1]
    store_release(words + row + SEG_PREV, newest)
    store_release(words + row + SEG_NEXT, 0)
    if newest:
        store_release(words + row_of(arena, newest) + SEG_NEXT, segment)
    else:
        store_release(words + oldest_at, segment)
    store_release(words + oldest_at + 1, segment)


cdef inline void look_through(
    const Arena *arena, uint64_t oldest_at, uint64_t *deadest, uint64_t *most
) noexcept nogil:
    """Go through a queue, and note each segment with more dead space than the ones before."""
    cdef const uint64_t *words = arena.words
    cdef uint64_t segment = words[oldest_at]
    cdef uint64_t dead, seen = 0
    # A damaged queue may lead anywhere, but not for ever.
    while segment and seen < arena.segments:
        dead = words[row_of(arena, segment) + SEG_DEAD]
        if dead > most[0]:
            deadest[0] = segment
            most[0] = dead
        segment = words[row_of(arena, segment) + SEG_NEXT]
        seen += 1


cdef inline void choose_deadest(const Arena *arena, uint64_t header) noexcept nogil:
    """Look through a shard's queues for the segment with the most dead space."""
    cdef uint64_t deadest = 0, most = 0
    look_through(arena, header + SH_OLDEST, &deadest, &most)
    look_through(arena, header + SH_MAIN_OLDEST, &deadest, &most)
    store_release(arena.words + header + SH_DEADEST, deadest)
    store_release(arena.words + header + SH_MOST_DEAD, most)


cdef inline void dequeue(const Arena *arena, uint64_t header, uint64_t segment) noexcept nogil:
    """Take a closed segment out of its queue, wherever it stands."""
    cdef uint64_t *words = arena.words
    cdef uint64_t row = row_of(arena, segment)
    cdef uint64_t oldest_at = queue_of(arena, header, row)
    cdef uint64_t before = words[row + SEG_PREV]
    cdef uint64_t after = words[row + SEG_NEXT]
    store_release(words + (row_of(arena, before) + SEG_NEXT if before else oldest_at), after)
    store_release(words + (row_of(arena, after) + SEG_PREV if after else oldest_at + 1), before)
    if words[header + SH_DEADEST] == segment:
        choose_deadest(arena, header)


# -- what is alive -----------------------------------------------------------------------------------------


cdef inline void free_if_dead(
    const Arena *arena, uint64_t header, uint64_t segment, bint evicted
) noexcept nogil:
    """Free a closed segment in which nothing is alive; else remember it if it has the most dead space."""
    cdef uint64_t *words = arena.words
    cdef uint64_t row = row_of(arena, segment)
    cdef uint64_t dead = words[row + SEG_DEAD]
    if dead == words[row + SEG_HEAD]:
        dequeue(arena, header, segment)
        give_back(arena, segment)
    elif dead > words[header + SH_MOST_DEAD] and not evicted:
        store_release(words + header + SH_DEADEST, segment)
        store_release(words + header + SH_MOST_DEAD, dead)


cdef inline bint would_free(const Arena *arena, uint64_t segment, uint64_t length) noexcept nogil:
    """Return whether ``bury`` of a record of this many words would give its segment back."""
    cdef const uint64_t *row = arena.words + row_of(arena, segment)
    return row[SEG_STATE] & 0xFF >= CLOSED and row[SEG_DEAD] + length == row[SEG_HEAD]


cdef inline void bury(const Arena *arena, uint64_t header, uint64_t segment, uint64_t length) noexcept nogil:
    """Count a record of a segment as dead; free the segment if it was the last one alive."""
    cdef uint64_t row = row_of(arena, segment)
    add(arena, row + SEG_DEAD, length)
    if state_at(arena, row) >= CLOSED:
        free_if_dead(arena, header, segment, False)


cdef inline void close_open(
    const Arena *arena, uint64_t header, uint64_t shard, uint64_t field, uint64_t segment
) noexcept nogil:
    """Close the segment that takes a shard's records: queue it, or free it if nothing in it is alive."""
    cdef uint64_t *words = arena.words
    cdef uint64_t row = row_of(arena, segment)
    cdef uint64_t state, closed, credit, limit
    store_release(words + field, 0)
    state = state_at(arena, row)
    if state == OPEN:
        credit = words[POOL_CREDIT] + words[row + SEG_HEAD]
        limit = CREDIT_SEGMENTS * arena.segment_words
        store_release(words + POOL_CREDIT, credit if credit < limit else limit)
    closed = CLOSED_MAIN if state == OPEN_MAIN else CLOSED
    store_release(words + row + SEG_STATE, shard << 8 | closed)
    enqueue(arena, header, segment)
    free_if_dead(arena, header, segment, state == OPEN_MAIN)


cdef inline void note_deadline(
    const Arena *arena, uint64_t header, uint64_t row, uint64_t deadline_ms
) noexcept nogil:
    """Have expiry look at a segment in time."""
    make_due(arena, row + SEG_DUE, deadline_ms)
    make_due(arena, header + SH_DUE, deadline_ms)


cdef inline void make_due(const Arena *arena, uint64_t at, uint64_t deadline_ms) noexcept nogil:
    if not 0 < arena.words[at] <= deadline_ms:
        store_release(arena.words + at, deadline_ms)
