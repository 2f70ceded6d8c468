"""The mapping that all processes share, and what its words mean.

``layout`` says where everything lies; here are the memory itself and what every part of the store has to know
of hashes and slot words: which shard a key belongs to, how a slot word is built, and what it says.
"""

from __future__ import annotations

import mmap

from xxhash import xxh3_64_intdigest

from fastkv.errors import StartError
from fastkv.store.layout import (
    COUNT_MAX,
    LAYOUT_VERSION,
    MAGIC,
    POOL_FRESH,
    SB_LAYOUT,
    SB_MAGIC,
    SB_MEMORY,
    SB_SEED,
    SB_SEGMENT,
    SB_SHARDS,
    TAG_BITS,
    TAG_MASK,
    TAG_SHIFT,
    Geometry,
    count_at,
)
from fastkv.store.removals import Removals


class Arena:
    """The mapping and its views.

    Attributes:
        geometry: its measures.
        mem: the mapping; slices of it are copies.
        words: the same memory as 64-bit words.
        counts: the same memory as bytes, for the access counts.
        removals: which entries this process has removed unasked.
    """

    __slots__ = ("_shard_mask", "counts", "geometry", "mem", "removals", "words")

    def __init__(self, geometry: Geometry, mem: mmap.mmap | None = None) -> None:
        """Map shared memory without a file and describe it, or take a mapping as it is.

        Args:
            geometry: the measures.
            mem: the mapping, of that many bytes, or None.

        Raises:
            StartError: if the kernel does not give that much address space.
        """
        self.geometry = geometry
        self._shard_mask = geometry.shards - 1
        self.removals = Removals()
        try:
            self.mem = mem or mmap.mmap(-1, geometry.memory_bytes, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError, OverflowError) as error:
            raise StartError(f"--memory: {geometry.memory_bytes} bytes cannot be mapped: {error}.") from error
        self.counts = memoryview(self.mem)
        self.words = self.counts.cast("Q")
        if mem is None:
            self.describe()

    def describe(self) -> None:
        """Write the superblock into memory that is all zeros."""
        words, geometry = self.words, self.geometry
        words[SB_LAYOUT] = LAYOUT_VERSION
        words[SB_MEMORY] = geometry.memory_bytes
        words[SB_SEGMENT] = geometry.segment_bytes
        words[SB_SHARDS] = geometry.shards
        words[POOL_FRESH] = geometry.first_segment
        words[SB_MAGIC] = MAGIC

    def close(self) -> None:
        """Unmap the memory. Every view that was cut from it must be released before."""
        self.words.release()
        self.counts.release()
        self.mem.close()

    # -- hashes ------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """Seed of the keys' hashes; 0 until ``superblock.seal`` has written it."""
        return self.words[SB_SEED]

    def hash_of(self, key: bytes) -> int:
        """A key's hash, 64 bits: XXH3 with the arena's seed."""
        return xxh3_64_intdigest(key, self.words[SB_SEED])

    def shard_of(self, key_hash: int) -> int:
        """The number of a key's shard: the bits of its hash above the tag."""
        return key_hash >> TAG_BITS & self._shard_mask

    def sequence_of(self, shard: int) -> int:
        """A shard's sequence word: odd while a change of several steps runs, or if it is unverified."""
        return self.words[self.geometry.sequences_at + shard]

    # -- slot words --------------------------------------------------------------------------------------

    def word_of(self, key_hash: int, version: int, place: int) -> int:
        """The slot word of a record.

        Args:
            key_hash: its key's hash.
            version: its version.
            place: generation and location, as ``Log.append`` returns them.

        Returns:
            Tag, generation, version and location in one word.
        """
        geometry = self.geometry
        check = (version & geometry.version_mask) << geometry.version_shift
        return (key_hash & TAG_MASK) << TAG_SHIFT | check | place

    def moved(self, word: int, place: int) -> int:
        """The slot word of an entry whose record lies elsewhere now; its tag and version stay.

        Args:
            word: the word until now.
            place: as for ``word_of``.
        """
        geometry = self.geometry
        kept = TAG_MASK << TAG_SHIFT | geometry.version_mask << geometry.version_shift
        return word & kept | place

    def location_of(self, word: int) -> int:
        """Where a slot word's record lies, in words from the start of the arena."""
        return word & self.geometry.location_mask

    def names_version(self, word: int, version: int) -> bool:
        """Return whether a record's version may be the one that a slot word was made with."""
        geometry = self.geometry
        return not (word >> geometry.version_shift ^ version) & geometry.version_mask

    def count_access(self, slot: int) -> None:
        """Count an access to the entry of a slot; without a lock, for a lost access does no harm."""
        place = count_at(slot)
        if self.counts[place] < COUNT_MAX:
            self.counts[place] += 1
