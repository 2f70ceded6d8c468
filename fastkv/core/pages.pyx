# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: nonecheck=False, embedsignature=True, auto_pickle=False, autotestdict=False
"""What a split of an index page copies, and what it makes known, as ``fastkv.store.index`` does it.

Everything here runs under the shard's lock while the shard's sequence is odd. The steps of a split, and what
a death between them leaves, are those of ``Index.split``.
"""

cimport cython
from libc.stdint cimport uint64_t

from fastkv.core.engine cimport Engine
from fastkv.core.index cimport is_page
from fastkv.core.layout cimport BUCKET_WORDS, TAG_BITS, Arena, is_pooled, segment_of
from fastkv.core.native cimport fence_release, store_release

include "sources.pxi"


cdef inline bint may_be_page(const Arena *arena, uint64_t base) noexcept nogil:
    """Return whether a page may begin there, and the engine is not closed."""
    return arena.words != NULL and is_page(arena, base) and is_pooled(arena, segment_of(arena, base))


cdef inline uint64_t next_bit(uint64_t depth) noexcept nogil:
    """The bit of a slot word's tag behind ``depth`` others."""
    return <uint64_t> 1 << (63 - depth)


@cython.final
cdef class Pages:
    """Copies pages of one store."""

    cdef Engine engine

    def __cinit__(self, Engine engine not None) -> None:
        self.engine = engine

    def copy(self, uint64_t base, uint64_t new_base, uint64_t depth) -> None:
        """Copy to a new page the slots whose tag has the next bit, empty all others, and copy all counts.

        Args:
            base: where the page begins.
            new_base: where the new one begins, to which nothing leads yet.
            depth: how many leading bits all tags of the page share.

        Raises:
            ValueError: if these can be no pages; nothing is written then.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t at, bit, word
        if not may_be_page(arena, base) or not may_be_page(arena, new_base) or base == new_base:
            raise ValueError("there is no such page")
        if depth >= TAG_BITS:
            raise ValueError("a tag has no such bit")
        bit = next_bit(depth)
        # What lay here before belonged to words that were cleared: that is seen before these.
        fence_release()
        for at in range(arena.segment_words):
            word = arena.words[base + at]
            # A bucket's first word holds access counts.
            store_release(
                arena.words + new_base + at, word if word & bit or not at & (BUCKET_WORDS - 1) else 0
            )

    def clear(self, uint64_t base, uint64_t depth) -> None:
        """Empty the slots that were copied.

        Args:
            base: where the page begins.
            depth: as for ``copy``.

        Raises:
            ValueError: as for ``copy``.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t at, bit
        if not may_be_page(arena, base) or depth >= TAG_BITS:
            raise ValueError("there is no such page")
        bit = next_bit(depth)
        for at in range(base, base + arena.segment_words):
            if arena.words[at] & bit and at & (BUCKET_WORDS - 1):
                store_release(arena.words + at, 0)
        fence_release()

    def name(self, uint64_t first, uint64_t entries, uint64_t base) -> None:
        """Have directory entries name a page.

        Args:
            first: the number of the first entry, over all shards.
            entries: how many.
            base: where the page begins.

        Raises:
            ValueError: as for ``copy``; also if there are no such entries.
        """
        cdef const Arena *arena = &self.engine.arena
        cdef uint64_t all_entries = arena.table_at - arena.directory_at
        cdef uint64_t at
        if not may_be_page(arena, base) or first > all_entries or entries > all_entries - first:
            raise ValueError("there is no such page, or no such entry")
        for at in range(arena.directory_at + first, arena.directory_at + first + entries):
            store_release(arena.words + at, base)
