"""Where everything lies in the arena, and nothing else.

The arena is one shared mapping, cut into segments of equal size. The first segments hold what describes
the rest: superblock, pool, sequence words, shard headers, directory, segment table, ghost directory and the
segments' hashes; one more holds zeros. Every other segment belongs to the pool and is, in turns, free, an
index page, a piece of a shard's log, of the ghost table or of the redo list.

All words are 64 bits, native, aligned, and are read and written through one ``memoryview.cast("Q")``: a
single 8-byte load or store, so that a reader in another process never sees half of one. (``struct`` with
a byte order stores byte by byte; ``pack_into`` zeroes its target first, and a concurrent reader saw those
zeros in 21% of its reads.)

    index page = buckets of 64 bytes, one cache line each:
        word 0      one access count (0-3) a byte, byte i for slot i; byte 0 unused
        words 1-7   slots: tag (16 bits) | generation | version | location, 0 for an empty slot

A location is a word offset from the start of the arena. How many bits it takes depends on the arena; what
tag and location leave (23 bits at 256 MiB) is shared by the low bits of the segment's generation and of the
record's version. The generation keeps a slot word that was seen once from coming back while somebody still
remembers it; the version lets word and record vouch for each other: a word that was damaged may lead to an
older record of the same key, but not to one with its version.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fastkv.errors import KeyTooLong, StartError, ValueTooLong

WORD = 8
LAYOUT_VERSION = 6
MAGIC = int.from_bytes(b"fastkv\x00\x06", "little")

# The oldest layout whose arenas this release reads; a start moves their entries into a new one. From it to
# the current one only records may have gained something.
OLDEST_LAYOUT = 4

# Superblock: words from the start of the arena.
SB_MAGIC, SB_LAYOUT, SB_MEMORY, SB_SEGMENT, SB_SHARDS, SB_SEED, SB_CHECKSUM = range(7)
# The pool's words share the superblock's page and lie on a cache line of their own.
(
    POOL_FREE_HEAD,  # the first recycled segment, 0 for none
    POOL_FREE_TAIL,  # the last one
    POOL_FREE_COUNT,  # how many there are
    POOL_FRESH,  # the first segment that nobody had yet
    POOL_STAMP,  # counts the segments that were ever taken
    POOL_CREDIT,  # words that cleaning may copy
    POOL_SMALL,  # segments of the small queues, the open ones included
    POOL_MAIN,  # segments of the main queues, the open ones included
    POOL_CURSOR,  # where emptying goes on in a segment that it has begun with
    POOL_CURSOR_STAMP,  # the stamp of that segment
    POOL_GHOST_WORDS,  # words of the ghost table, 0 while nobody was evicted
    POOL_GHOST_SEGMENTS,  # how many segments its directory names
    POOL_FREE_PAGES,  # the first free index page, 0 for none
) = range(16, 29)
POOL_WORDS = range(16, 32)
# What only an arena in a file needs: see ``superblock``.
SB_DIGEST = 32  # of everything else, written by a clean stop; 0 while the arena is in use
SB_DROPPED = 33  # entries dropped because they were damaged
SB_CLOCKS = (40, 48)  # two copies of what the clocks showed
# What a transaction is about to do, on a cache line of its own: see ``redo``.
(
    REDO_STATE,  # IDLE, or how far it came
    REDO_FIRST,  # the segment in which the list begins
    REDO_COUNT,  # how many slots it changes
    REDO_CHECKSUM,  # of the list
) = range(56, 60)
SUPERBLOCK_WORDS = 64

# States of the redo list.
IDLE, PREPARED, COMMITTED, FLUSHING = range(4)

# Shard header: words from the header's start. The sequence words lie apart, side by side.
(
    SH_VERSION,  # version of the newest write
    SH_ENTRIES,  # published entries
    SH_PAGES,  # index pages
    SH_OPEN,  # where the segment that takes new records begins, as a slot word without tag; 0 for none
    SH_OPEN_MAIN,  # the same for the main queue
    SH_OLDEST,  # head of the small queue, whose segments are closed; 0 for none
    SH_NEWEST,  # its tail
    SH_MAIN_OLDEST,  # head of the main queue
    SH_MAIN_NEWEST,  # its tail
    SH_DEADEST,  # a closed segment with much dead space, 0 for none known
    SH_MOST_DEAD,  # how many dead words it had when it became that
    SH_EVICTED,  # entries evicted to make room
    SH_EXPIRED,  # entries dropped because their deadline had passed
    SH_RELOCATED,  # records copied by cleaning or for a second chance
    SH_REPAIRS,  # repairs after an owner's death
    SH_DUE,  # when expiry has to look at one of its segments in ms, 0 for never; not later than is right
) = range(16)
SHARD_WORDS = 16

# Segment table row.
(
    SEG_STATE,  # owner shard << 8 | state
    SEG_GENERATION,  # counts the segment's reuses
    SEG_HEAD,  # words written: where the next record goes
    SEG_DEAD,  # words of them that no slot refers to any more; the others are alive or being written
    SEG_NEXT,  # queue or free list
    SEG_PREV,  # queue; index page: the tags it covers, a 1 and then the bits that they begin with
    SEG_STAMP,  # order of allocation over all shards
    SEG_DUE,  # when expiry has to look at it in ms, 0 for never
) = range(8)
SEGMENT_ROW = 8
SEG_COVERS = SEG_PREV

# Segment states. PAGE_NEW is a page whose words are being copied: it counts for nothing yet. A segment that
# is being emptied is open, too, so that the death of its last record does not free it at once. A FREE_PAGE is
# free to be an index page again and nothing else: a reader that stands still before it counts an access may
# do so in what was a page long ago, and there it hits a count, at worst, and never a record.
FREE, PAGE_NEW, PAGE, OPEN, OPEN_MAIN, CLOSED, CLOSED_MAIN, GHOSTS, REDO, FREE_PAGE = range(10)
LOG_STATES = (OPEN, OPEN_MAIN, CLOSED, CLOSED_MAIN)
MAIN_STATES = (OPEN_MAIN, CLOSED_MAIN)

# What the sequence word of a shard is, and will never be again, while nobody has verified it since the start.
UNVERIFIED = 1

BUCKET_WORDS = 8
BUCKET_SLOTS = 7
BUCKET_BYTES = BUCKET_WORDS * WORD
# Bits of a key's hash: the low 30 are tag (16) and shard; of the high 30, 0-2 say the home slot, 3-14 the
# first bucket and 18-29 the second. A bucket's number times BUCKET_WORDS is its offset: shifted so that a
# mask gives it.
HIGH_SHIFT = 34
SECOND_BUCKET_SHIFT = 15
TAG_BITS = 16
TAG_SHIFT = 64 - TAG_BITS
TAG_MASK = (1 << TAG_BITS) - 1
COUNT_MAX = 3

MIN_SEGMENT = 4 << 10
MAX_SEGMENT = 256 << 10
# A word's offset in a segment takes so many.
OFFSET_BITS = (MAX_SEGMENT // WORD - 1).bit_length()
MIN_MEMORY = 1 << 20
# Segments that new entries leave in the pool. The last is for eviction and cleaning, which need one to start
# from; the others are for overwriting: a segment filled with old versions of a hot key comes back as soon as
# the next one is begun, and nobody has to be evicted for it, in a full store either.
RESERVE = 3
RESERVE_OVERWRITING = 1
# Fewer would not even hold the largest value next to what is always open.
_FEWEST_SEGMENTS = 14
# The ghost table may take a segment of so many, beside the one that it begins with.
_GHOST_SHARE = 32
# The smallest record (head, 1-byte key, checksum) and its share of the index.
_SMALLEST_ENTRY = 24 + 12


def layout_of(magic: int) -> int:
    """Tell an arena of fastkv by its first word.

    Args:
        magic: the word.

    Returns:
        The version of its layout; 0 if it is no arena.
    """
    return magic >> 56 if not (magic ^ MAGIC) & (1 << 56) - 1 else 0


def count_at(slot: int) -> int:
    """Where a slot's access count stands: in the same cache line.

    Args:
        slot: the slot's word offset.

    Returns:
        Byte offset from the start of the arena.
    """
    return (slot & -BUCKET_WORDS) << 3 | slot & BUCKET_WORDS - 1


def _power_of_two_below(n: int) -> int:
    return 1 << max(n.bit_length() - 1, 0)


@dataclass(frozen=True)
class Geometry:
    """The measures of an arena, fixed at its creation.

    Attributes:
        memory_bytes: size of the mapping; index, tables and data together.
        segment_bytes: power of two, 4 KiB to 256 KiB.
        shards: power of two, 1 to 4096.
        directory_bits: each shard's directory has 2 ** directory_bits entries.
        segments: number of segments, those that hold the tables included.
        first_segment: the first segment of the pool; the one before it holds zeros.
    """

    memory_bytes: int
    segment_bytes: int
    shards: int
    directory_bits: int
    segments: int
    first_segment: int

    @classmethod
    def plan(cls, memory_bytes: int, shards: int | None = None, segment_bytes: int | None = None) -> Geometry:
        """Choose the measures of an arena.

        Args:
            memory_bytes: the budget, at least 1 MiB.
            shards: power of two, or None: one for each 64 segments, so that the shards' open segments
                stay near 1% of the memory; at most 1024.
            segment_bytes: power of two, or None: 64 KiB, less in an arena below 16 MiB, more above 16 GiB.

        Returns:
            The geometry; its ``memory_bytes`` is the budget rounded down to whole segments.

        Raises:
            StartError: if the budget cannot hold that many shards.
        """
        if segment_bytes is None:
            segment_bytes = max(MIN_SEGMENT, min(64 << 10, _power_of_two_below(memory_bytes // 256)))
            if memory_bytes > 16 << 30:
                segment_bytes = MAX_SEGMENT
        segments = memory_bytes // segment_bytes
        # Whatever is chosen depends on whole segments only, so that a superblock tells all of it.
        memory_bytes = segments * segment_bytes
        if shards is None:
            shards = max(1, min(1024, _power_of_two_below(segments // 64)))
        page_slots = segment_bytes // BUCKET_BYTES * BUCKET_SLOTS
        pages = memory_bytes // _SMALLEST_ENTRY / (page_slots / 2)
        # Twice what even the smallest entries need, because pages do not split in step.
        directory_bits = min(TAG_BITS, max(1, int(2 * pages / shards).bit_length()))
        tables = (
            SUPERBLOCK_WORDS
            + shards * (1 + SHARD_WORDS + (1 << directory_bits))
            + segments * SEGMENT_ROW
            + segments // _GHOST_SHARE
            + 1
            + segments
        )
        first = -(-tables * WORD // segment_bytes) + 1
        # Each shard needs a page and two open segments, and eviction its reserve.
        fewest = max(4 * shards + RESERVE, _FEWEST_SEGMENTS)
        if segments - first < fewest or memory_bytes < MIN_MEMORY:
            need = max(MIN_MEMORY, (fewest + first + 1) * segment_bytes)
            raise StartError(
                f"--memory: {memory_bytes >> 10}kb are too little for {shards} shards with segments of "
                f"{segment_bytes >> 10}kb; give at least {-(-need >> 20)}mb, or fewer shards."
            )
        return cls(memory_bytes, segment_bytes, shards, directory_bits, segments, first)

    @cached_property
    def segment_words(self) -> int:
        """Words in a segment."""
        return self.segment_bytes // WORD

    @cached_property
    def segment_shift(self) -> int:
        """From a location to the segment that it lies in: a shift to the right."""
        return self.segment_words.bit_length() - 1

    @cached_property
    def inline_words(self) -> int:
        """Words of the longest record that is not cut into fragments.

        So closing a segment wastes less than an eighth of it.
        """
        return self.segment_words // 8

    @cached_property
    def blank_page(self) -> int:
        """Location of a segment of zeros: a page in which no key stands."""
        return (self.first_segment - 1) * self.segment_words

    @cached_property
    def longest_key(self) -> int:
        """Bytes of the longest key: it shares a record with the list of the value's fragments.

        And the length is one that a record's head can tell.
        """
        return min(self.segment_bytes // 4, 0xFFFF)

    @cached_property
    def longest_value(self) -> int:
        """Bytes of the longest value: a quarter of the arena, or what one such list can hold."""
        return min(self.memory_bytes // 4, self.segment_bytes // 16 * self.segment_bytes)

    def check_key(self, key: bytes) -> None:
        """Raise KeyTooLong if an arena with such segments takes no such key."""
        if len(key) > self.longest_key:
            raise KeyTooLong(f"A key has {len(key)} bytes; at most {self.longest_key} fit.")

    def check_value(self, value: bytes) -> None:
        """Raise ValueTooLong if an arena of this size takes no such value."""
        if len(value) > self.longest_value:
            raise ValueTooLong(f"A value has {len(value)} bytes; at most {self.longest_value} fit.")

    @cached_property
    def location_bits(self) -> int:
        """Bits that a location (a word offset) takes in a slot word."""
        return (self.memory_bytes // WORD - 1).bit_length()

    @cached_property
    def version_bits(self) -> int:
        """Bits of the record's version in a slot word, above the location."""
        return (64 - TAG_BITS - self.location_bits) // 2

    @cached_property
    def generation_bits(self) -> int:
        """Bits of the segment's generation in a slot word, above the version."""
        return 64 - TAG_BITS - self.location_bits - self.version_bits

    @cached_property
    def location_mask(self) -> int:
        """What a slot word says of the location."""
        return (1 << self.location_bits) - 1

    @cached_property
    def version_shift(self) -> int:
        """Where a slot word's bits of the version begin."""
        return self.location_bits

    @cached_property
    def version_mask(self) -> int:
        """The bits of a version that a slot word has."""
        return (1 << self.version_bits) - 1

    @cached_property
    def generation_shift(self) -> int:
        """Where a slot word's bits of the generation begin."""
        return self.location_bits + self.version_bits

    @cached_property
    def generation_mask(self) -> int:
        """The bits of a generation that a slot word has; a segment's generation has no others."""
        return (1 << self.generation_bits) - 1

    @cached_property
    def bucket_mask(self) -> int:
        """Bits of a hash that choose a bucket: its word offset in the page, once they are shifted there."""
        return self.segment_words - BUCKET_WORDS

    @cached_property
    def entry_mask(self) -> int:
        """Bits of a hash that choose the directory entry: shard and tag."""
        return (self.shards << TAG_BITS) - 1

    @cached_property
    def entry_shift(self) -> int:
        """From these bits to the number of the entry: the bits of the tag that tell no pages apart."""
        return TAG_BITS - self.directory_bits

    @cached_property
    def sequences_at(self) -> int:
        """Word offset of the shards' sequence words."""
        return SUPERBLOCK_WORDS

    @cached_property
    def shards_at(self) -> int:
        """Word offset of the first shard header."""
        return self.sequences_at + self.shards

    @cached_property
    def directory_at(self) -> int:
        """Word offset of the directory: for each shard 2 ** directory_bits page locations."""
        return self.shards_at + self.shards * SHARD_WORDS

    @cached_property
    def table_at(self) -> int:
        """Word offset of the segment table."""
        return self.directory_at + (self.shards << self.directory_bits)

    @cached_property
    def ghosts_at(self) -> int:
        """Word offset of the ghost table's directory: locations of its segments."""
        return self.table_at + self.segments * SEGMENT_ROW

    @cached_property
    def most_ghosts(self) -> int:
        """How many segments the ghost table may have."""
        return self.segments // _GHOST_SHARE + 1

    @cached_property
    def digests_at(self) -> int:
        """Word offset of the segments' hashes, the last of the tables."""
        return self.ghosts_at + self.most_ghosts
