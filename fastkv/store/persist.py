"""An arena that outlives its server, in a file: how it is found, what is kept in it, and how it is left.

In: a locked directory and what the clocks show. Out: what was found there, and arenas in one of three states.
Nothing is read that its size decides but the hash of a clean stop, and to look at an arena changes nothing.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

from fastkv.errors import StartError
from fastkv.store import digests, superblock
from fastkv.store.arena import Arena
from fastkv.store.layout import LAYOUT_VERSION, SB_CLOCKS, SB_DIGEST, WORD, Geometry
from fastkv.store.superblock import HEAD_BYTES, Moment, Saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from fastkv.store.datafile import DataDirectory

# What is larger is served at once and verified meanwhile: to hash it would take longer than half a second.
_MOST_HASHED_BYTES: Final = 4 << 30


class UnreadableArena(StartError):
    """A file is no arena that can be gone on with: it is damaged, or parts of it may be older than others."""


class Origin(Enum):
    """In which state an arena was found."""

    EMPTY = auto()
    """It is new: there is nothing in it, not even pages."""
    CLEAN = auto()
    """It is as a clean stop left it."""
    UNVERIFIED = auto()
    """It was not left in order, or parts of it are lost: everything has to be verified before it is used."""


class Found(NamedTuple):
    """An arena in a directory, looked at and not changed.

    Attributes:
        layout: version of its layout.
        geometry: its measures.
        origin: CLEAN or UNVERIFIED.
        why: a sentence about that.
        offset_ms: from milliseconds since boot to its clock.
        lost: segments that are damaged.
    """

    layout: int
    geometry: Geometry
    origin: Origin
    why: str
    offset_ms: int
    lost: AbstractSet[int]

    @property
    def outdated(self) -> bool:
        """Whether its layout is one that can be read, but not written."""
        return self.layout != LAYOUT_VERSION


def find(directory: DataDirectory, now: Moment) -> Found | None:
    """Look at the arena in a directory.

    Args:
        directory: where.
        now: what the clocks show.

    Returns:
        What it is; None if there is none.

    Raises:
        UnreadableArena: if nothing can be done with it; the sentence says why.
        StartError: if the file cannot be read.
    """
    head = directory.head(HEAD_BYTES)
    if not head:
        return None
    measures = superblock.read_measures(head)
    if isinstance(measures, str):
        raise UnreadableArena(f"'{directory.arena_path}' {measures}.")
    layout, geometry = measures
    if directory.size() != geometry.memory_bytes:
        raise UnreadableArena(
            f"'{directory.arena_path}' has {directory.size()} bytes of {geometry.memory_bytes}."
        )
    saved = superblock.read_clock(head)
    if saved is None:
        raise UnreadableArena(
            f"'{directory.arena_path}' has a damaged clock, so that deadlines cannot be told."
        )
    offset_ms = saved.offset_at(now)
    same_boot = saved.boot_id == now.boot_id and saved.boot_id != 0
    same_file = saved.inode == directory.inode()
    marked = int.from_bytes(head[SB_DIGEST * WORD : (SB_DIGEST + 1) * WORD], "little") != 0
    if marked and not (same_boot and same_file and geometry.memory_bytes > _MOST_HASHED_BYTES):
        lost = _compare(directory, geometry)
        if lost is None:
            raise UnreadableArena(
                f"'{directory.arena_path}' was stopped cleanly and is damaged since, hashes included."
            )
        if not lost:
            return Found(layout, geometry, Origin.CLEAN, "The last stop was a clean one.", offset_ms, lost)
        why = f"Of what the last stop left {len(lost)} segments are damaged."
        return Found(layout, geometry, Origin.UNVERIFIED, why, offset_ms, lost)
    if not same_file:
        raise UnreadableArena(
            f"'{directory.arena_path}' is a copy of an arena that was in use, so that parts may be older "
            "than others."
        )
    if not same_boot:
        raise UnreadableArena(
            f"'{directory.arena_path}' was in use when the machine went down, so that parts may be older "
            "than others."
        )
    why = "The last server came to no clean stop."
    if marked:
        why = "The last stop was a clean one, but there is too much to look at all of it first."
    return Found(layout, geometry, Origin.UNVERIFIED, why, offset_ms, frozenset())


def find_any(directory: DataDirectory, now: Moment) -> Found:
    """``find`` where there has to be an arena.

    Args:
        directory: where.
        now: what the clocks show.

    Returns:
        What it is.

    Raises:
        StartError: if there is none, or nothing can be done with it.
    """
    found = find(directory, now)
    if found is None:
        raise StartError(f"'{directory.path}': There is no arena yet.")
    return found


def _compare(directory: DataDirectory, geometry: Geometry) -> set[int] | None:
    """``digests.compare`` with the file, which stays as it is."""
    arena = Arena(geometry, directory.open_copy(geometry.memory_bytes))
    try:
        return digests.compare(arena)
    finally:
        arena.close()


class Keeper:
    """Keeps an arena in a file.

    Attributes:
        arena: the arena.
        origin: in which state it was found.
        why: a sentence about that.
        offset_ms: from milliseconds since boot to the arena's clock.
        lost: segments that are damaged.
    """

    __slots__ = ("_copy", "_inode", "arena", "lost", "offset_ms", "origin", "why")

    def __init__(
        self,
        arena: Arena,
        inode: int,
        origin: Origin,
        why: str,
        offset_ms: int,
        lost: AbstractSet[int] = frozenset(),
    ) -> None:
        """Keep an arena.

        Args:
            arena: the arena.
            inode: of its file.
            origin: in which state it was found.
            why: a sentence about that.
            offset_ms: from milliseconds since boot to the arena's clock.
            lost: segments that are damaged.
        """
        self.lost = lost
        self.arena = arena
        self.origin = origin
        self.why = why
        self.offset_ms = offset_ms
        self._inode = inode
        self._copy = 0

    @classmethod
    def create(cls, directory: DataDirectory, geometry: Geometry, now: Moment, offset_ms: int = 0) -> Keeper:
        """Make a new arena, beside the one that is there until ``put_in_place`` of the directory.

        Args:
            directory: where.
            geometry: its measures.
            now: what the clocks show.
            offset_ms: from milliseconds since boot to its clock.

        Returns:
            Its keeper. The file says that it is in use; a `Store` completes its superblock.

        Raises:
            StartError: if there is no room for it.
        """
        arena = Arena(geometry, directory.create(geometry.memory_bytes))
        arena.describe()
        inode = directory.inode(directory.new_path)
        keeper = cls(arena, inode, Origin.EMPTY, "There is no arena yet.", offset_ms)
        keeper.save_clocks(now)
        return keeper

    @classmethod
    def go_on(cls, directory: DataDirectory, found: Found, now: Moment) -> Keeper:
        """Use the arena that was found.

        Args:
            directory: where.
            found: what ``find`` returned, with the layout of this release.
            now: what the clocks show.

        Returns:
            Its keeper. From here on the file says that it is in use.

        Raises:
            StartError: if it has holes for which there is no room.
        """
        arena = Arena(found.geometry, directory.open(found.geometry.memory_bytes))
        keeper = cls(arena, directory.inode(), found.origin, found.why, found.offset_ms, found.lost)
        keeper.save_clocks(now)
        arena.words[SB_DIGEST] = 0
        return keeper

    @classmethod
    def copy(cls, directory: DataDirectory, found: Found) -> Keeper:
        """Open a copy of the arena that was found, in memory; the file stays as it is.

        Args:
            directory: where.
            found: what ``find`` returned.

        Returns:
            Its keeper.

        Raises:
            StartError: if it cannot be mapped.
        """
        arena = Arena(found.geometry, directory.open_copy(found.geometry.memory_bytes))
        return cls(arena, directory.inode(), found.origin, found.why, found.offset_ms, found.lost)

    def save_clock(self, now: Moment) -> None:
        """Write down what the clocks show, so that the next start knows how much time has passed.

        Args:
            now: what they show.
        """
        arena_ms = max(now.boot_ms + self.offset_ms, 0)
        saved = Saved(now.boot_id, self._inode, self.offset_ms, arena_ms, max(now.wall_ms, 0))
        superblock.save_clock(self.arena, self._copy, saved)
        self._copy ^= 1

    def save_clocks(self, now: Moment) -> None:
        """``save_clock`` into both copies.

        Args:
            now: what they show.
        """
        for _ in SB_CLOCKS:
            self.save_clock(now)

    def mark_clean(self, now: Moment, go_on: Callable[[], bool]) -> bool:
        """Say that everything is in order, and what it is.

        Args:
            now: what the clocks show.
            go_on: asked now and then whether there is time left.

        Returns:
            False if there was not.
        """
        self.save_clocks(now)
        return digests.take(self.arena, go_on)
