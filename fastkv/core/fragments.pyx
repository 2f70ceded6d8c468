# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""The fragments of large values, as ``fastkv.store.log`` appends and buries them.

Everything here runs under the shard's lock. The same words are stored in the same order as by the readable
log, which goes on where a segment cannot be had at once, or where something is damaged.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastkv.core.engine cimport Engine, pthread_mutex_unlock
from fastkv.core.hashing cimport checksum
from fastkv.core.layout cimport (
    CHECKSUM_BYTES,
    FRAGMENT,
    HEAD_BYTES,
    Arena,
    bytes_at,
    header_of,
    segment_of,
    shards_of,
)
from fastkv.core.log cimport Tail, cover, find_tail, open_segment
from fastkv.core.native cimport fence_release
from fastkv.core.records cimport Record, parse_record, record_words, words_of
from fastkv.core.segments cimport bury, has_segment, is_log_of, would_free

include "sources.pxi"

cdef inline void build_fragment(
    const Arena *arena, uint64_t location, uint64_t key_hash, const uint8_t *piece, uint64_t size
) noexcept nogil:
    """Write a fragment; the bytes behind it, up to a whole word, stay as they are."""
    cdef uint8_t *start = bytes_at(arena, location)
    cdef uint32_t fits
    (<uint64_t *> start)[0] = size << 32 | <uint64_t> FRAGMENT << 16
    (<uint64_t *> start)[1] = key_hash
    memcpy(start + HEAD_BYTES, piece, size)
    fits = checksum(start, HEAD_BYTES + size)
    memcpy(start + HEAD_BYTES + size, &fits, CHECKSUM_BYTES)


@cython.final
cdef class Fragments:
    """Appends and buries fragments in one store."""

    cdef Engine engine

    def __cinit__(self, Engine engine not None) -> None:
        self.engine = engine

    def append(
        self, uint64_t shard, uint64_t key_hash, const uint8_t[::1] value not None, uint64_t floor, bint main
    ) -> tuple[list[int], int]:
        """Write a value as fragments, as ``Log.append_pieces``.

        Args:
            shard: the number of the shard, whose lock is held.
            key_hash: the hash of the value's key.
            value: the value.
            floor: how many segments must stay in the pool.
            main: which of the two logs.

        Returns:
            Where fragments lie, in order, and how many bytes they hold: fewer than all if a segment is not to
            be had at once.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef list found = []
        cdef uint64_t start = 0, size = value.shape[0], room, most, piece, length, place
        cdef Tail tail
        if arena.words == NULL or shard >= shards_of(arena) or not find_tail(arena, shard, main, &tail):
            return found, 0
        while start < size:
            room = arena.segment_words - tail.head if tail.opened else 0
            if room < arena.inline_words:
                room = arena.segment_words
            most = (room << 3) - HEAD_BYTES - CHECKSUM_BYTES
            piece = min(size - start, most)
            length = record_words(0, FRAGMENT, piece)
            if not tail.opened or tail.head + length > arena.segment_words:
                if not self.engine.try_pool():
                    break
                if has_segment(arena, floor):
                    open_segment(arena, shard, &tail)
                    room = 0
                pthread_mutex_unlock(self.engine.pool_mutex)
                if room:
                    break
            # What lay here before belonged to words that were cleared: that is seen before these bytes.
            fence_release()
            place = tail.opened + tail.head & arena.location_mask
            build_fragment(arena, place, key_hash, &value[start], piece)
            cover(arena, shard, &tail, length, 0)
            tail.head += length
            found.append(place)
            start += piece
        return found, start

    def bury(self, uint64_t shard, tuple pieces not None) -> int:
        """Count fragments as dead, as ``Log.bury_pieces``.

        Args:
            shard: the number of the shard, whose lock is held.
            pieces: where they lie.

        Returns:
            How many of them, from the first one on, are buried: what is behind them is the readable log's to
            bury, or to find damaged.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef Record record
        cdef Py_ssize_t done
        cdef uint64_t location, segment, length
        cdef bint frees
        if arena.words == NULL or shard >= shards_of(arena):
            return 0
        for done in range(len(pieces)):
            location = pieces[done]
            if not parse_record(arena, location, &record):
                return done
            segment = segment_of(arena, location)
            length = words_of(&record)
            if not is_log_of(arena, segment, shard):
                return done
            frees = would_free(arena, segment, length)
            if frees and not self.engine.try_pool():
                return done
            bury(arena, header_of(arena, shard), segment, length)
            if frees:
                pthread_mutex_unlock(self.engine.pool_mutex)
        return len(pieces)
