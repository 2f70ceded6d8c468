"""What a file says about the arena in it: its measures, and what the clocks showed.

Every word of it may be damaged: both carry checksums. The clocks are kept twice, so that one copy is whole
while the other one is written.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from xxhash import xxh3_64_intdigest

from fastkv.store.layout import (
    LAYOUT_VERSION,
    OLDEST_LAYOUT,
    SB_CHECKSUM,
    SB_CLOCKS,
    SB_SEED,
    SUPERBLOCK_WORDS,
    WORD,
    Geometry,
    layout_of,
)

if TYPE_CHECKING:
    from fastkv.store.arena import Arena

_LOW: Final = (1 << 64) - 1
_MEASURES: Final = Struct(f"<{SB_CHECKSUM}Q")
# Boot id in two words, inode, offset, arena clock, wall clock, checksum.
_CLOCK: Final = Struct("<QQQqQQ")
_CLOCK_WORDS: Final = _CLOCK.size // WORD + 1
HEAD_BYTES: Final = SUPERBLOCK_WORDS * WORD


class Measures(NamedTuple):
    """What an arena is, by its superblock.

    Attributes:
        layout: version of its layout, one that this release reads.
        geometry: its measures.
    """

    layout: int
    geometry: Geometry


class Moment(NamedTuple):
    """What the machine's clocks show at one moment.

    Attributes:
        boot_id: of the kernel that runs, 128 bits; 0 if it is not known.
        boot_ms: milliseconds since it was booted, suspend included.
        wall_ms: the Unix time in milliseconds.
    """

    boot_id: int
    boot_ms: int
    wall_ms: int


class Saved(NamedTuple):
    """What the clocks showed when somebody looked last.

    Attributes:
        boot_id: of the kernel that ran.
        inode: of the arena's file. Where a copy was made while the arena was in use, it is another one.
        offset_ms: from milliseconds since boot to the arena's clock.
        arena_ms: the arena's clock.
        wall_ms: the Unix time in milliseconds.
    """

    boot_id: int
    inode: int
    offset_ms: int
    arena_ms: int
    wall_ms: int

    def offset_at(self, now: Moment) -> int:
        """How the arena's clock goes on: by the time since boot, and over a boot by the wall clock.

        Args:
            now: what the clocks show now.

        Returns:
            Milliseconds to be added to those since boot. The arena's clock never goes back.
        """
        if self.boot_id == now.boot_id and self.boot_id and now.boot_ms + self.offset_ms >= self.arena_ms:
            return self.offset_ms
        return self.arena_ms + max(0, now.wall_ms - self.wall_ms) - now.boot_ms


def seal(arena: Arena, seed: int) -> None:
    """Complete the first words of a new arena.

    Args:
        arena: the arena.
        seed: seed of the keys' hashes.
    """
    arena.words[SB_SEED] = seed
    arena.words[SB_CHECKSUM] = xxh3_64_intdigest(arena.mem[: SB_CHECKSUM * WORD])


def read_measures(head: bytes) -> Measures | str:
    """Find out what arena a file holds.

    Args:
        head: its first bytes.

    Returns:
        What it is, or why it cannot be read, in words that end a sentence which begins with the file.
    """
    if len(head) < HEAD_BYTES:
        return "is too short for one"
    magic, layout, memory, segment, shards, _ = _MEASURES.unpack_from(head)
    if layout_of(magic) and not OLDEST_LAYOUT <= layout_of(magic) <= LAYOUT_VERSION:
        readable = ", ".join(map(str, range(OLDEST_LAYOUT, LAYOUT_VERSION + 1)))
        return f"has layout version {layout_of(magic)}, and this release reads {readable}"
    checksum = int.from_bytes(head[SB_CHECKSUM * WORD : (SB_CHECKSUM + 1) * WORD], "little")
    if checksum != xxh3_64_intdigest(head[: SB_CHECKSUM * WORD]) or layout != layout_of(magic):
        return "has a damaged superblock"
    return Measures(layout, Geometry.plan(memory, shards, segment))


# -- the clocks --------------------------------------------------------------------------------------------


def save_clock(arena: Arena, copy: int, saved: Saved) -> None:
    """Write down what the clocks show.

    Args:
        arena: the arena.
        copy: which of the two copies is written, 0 or 1.
        saved: what they show.
    """
    at = SB_CLOCKS[copy] * WORD
    body = _CLOCK.pack(
        saved.boot_id & _LOW,
        saved.boot_id >> 64,
        saved.inode,
        saved.offset_ms,
        saved.arena_ms,
        saved.wall_ms,
    )
    arena.mem[at : at + _CLOCK_WORDS * WORD] = body + xxh3_64_intdigest(body).to_bytes(WORD, "little")


def read_clock(head: bytes) -> Saved | None:
    """Read what the clocks showed.

    Args:
        head: the first bytes of the arena.

    Returns:
        The later one of the copies that are whole, None if neither is.
    """
    copies = []
    for word in SB_CLOCKS:
        body = head[word * WORD : word * WORD + _CLOCK.size]
        checksum = head[word * WORD + _CLOCK.size : (word + _CLOCK_WORDS) * WORD]
        if xxh3_64_intdigest(body).to_bytes(WORD, "little") == checksum:
            low, high, *rest = _CLOCK.unpack(body)
            copies.append(Saved(high << 64 | low, *rest))
    return max(copies, key=lambda saved: saved.arena_ms, default=None)
