"""An arena that outlives its server, in a file: how it is found, what is kept in it, and how it is left.

In: a locked directory and what the clocks show. Out: an arena, and in which of three states it is. Nothing is
read that its size decides but the hash of a clean stop.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from fastkv.errors import StartError
from fastkv.store import digests, superblock
from fastkv.store.layout import SB_CLOCKS, SB_DIGEST, Arena, Geometry
from fastkv.store.superblock import HEAD_BYTES, Moment, Saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from fastkv.store.datafile import DataDirectory

# What is larger is served at once and verified meanwhile: to hash it would take longer than half a second.
_MOST_HASHED_BYTES: Final = 4 << 30
_NONE_YET: Final = "There is no arena yet."


class Origin(Enum):
    """In which state an arena was found."""

    EMPTY = auto()
    """It is new: there is nothing in it, not even pages."""
    CLEAN = auto()
    """It is as a clean stop left it."""
    UNVERIFIED = auto()
    """It was not left in order, or parts of it are lost: everything has to be verified before it is used."""


class Keeper:
    """Keeps an arena in a file.

    Attributes:
        arena: the arena.
        origin: in which state it was found.
        why: a sentence about that.
        offset_ms: from milliseconds since boot to the arena's clock.
        lost: segments that are damaged.
        replaced: whether there was another arena, which is gone.
    """

    __slots__ = ("_copy", "_inode", "arena", "lost", "offset_ms", "origin", "replaced", "why")

    def __init__(
        self,
        arena: Arena,
        origin: Origin,
        why: str,
        offset_ms: int,
        inode: int,
        lost: AbstractSet[int] = frozenset(),
    ) -> None:
        """Keep an arena.

        Args:
            arena: the arena.
            origin: in which state it was found.
            why: a sentence about that.
            offset_ms: from milliseconds since boot to the arena's clock.
            inode: of its file.
            lost: segments that are damaged.
        """
        self.lost = lost
        self.replaced = False
        self.arena = arena
        self.origin = origin
        self.why = why
        self.offset_ms = offset_ms
        self._inode = inode
        self._copy = 0

    @classmethod
    def open(cls, directory: DataDirectory, wanted: Geometry, now: Moment) -> Keeper:
        """Go on with the arena that is there, or make a new one in its place.

        Args:
            directory: where.
            wanted: the measures that it has to have.
            now: what the clocks show.

        Returns:
            Its keeper. From here on the file says that it is in use.

        Raises:
            StartError: if there is no room for it.
        """
        found = cls._find(directory, now, wanted, copy=False)
        if isinstance(found, str):
            arena = Arena(wanted, directory.create(wanted.memory_bytes))
            arena.describe()
            why, found = found, cls(arena, Origin.EMPTY, found, 0, directory.inode())
            found.replaced = why != _NONE_YET
        for _ in SB_CLOCKS:
            found.save_clock(now)
        found.arena.words[SB_DIGEST] = 0
        return found

    @classmethod
    def look(cls, directory: DataDirectory, now: Moment) -> Keeper:
        """Open a copy of the arena that is there, in memory; the file stays as it is.

        Args:
            directory: where.
            now: what the clocks show.

        Returns:
            Its keeper.

        Raises:
            StartError: if there is none that a server would go on with.
        """
        found = cls._find(directory, now, None, copy=True)
        if isinstance(found, str):
            raise StartError(f"'{directory.path}': {found}")
        return found

    @classmethod
    def _find(
        cls, directory: DataDirectory, now: Moment, wanted: Geometry | None, *, copy: bool
    ) -> Keeper | str:
        """Look at the arena that is there.

        Returns:
            Its keeper, or a sentence that says why nothing can be done with it.
        """
        head = directory.head(HEAD_BYTES)
        if not head:
            return _NONE_YET
        measures = superblock.read_measures(head)
        if isinstance(measures, str):
            return f"The arena that was there {measures}."
        if wanted is not None and measures != wanted:
            return (
                f"The arena that was there has {_told(measures)}, and wanted are {_told(wanted)}; "
                "fastkv snapshot takes entries from a server with the ones to a server with the others."
            )
        if directory.size() != measures.memory_bytes:
            return f"The arena that was there has {directory.size()} bytes of {measures.memory_bytes}."
        saved = superblock.read_clock(head)
        if saved is None:
            return "Of the arena that was there nobody can tell what has expired: its clock is damaged."
        open_it = directory.open_copy if copy else directory.open
        arena = Arena(measures, open_it(measures.memory_bytes))
        inode = directory.inode()
        offset_ms = saved.offset_at(now)
        same_boot = saved.boot_id == now.boot_id and saved.boot_id != 0
        same_file = saved.inode == inode
        marked = arena.words[SB_DIGEST] != 0
        why = "The last server came to no clean stop."
        if marked and not (same_boot and same_file and measures.memory_bytes > _MOST_HASHED_BYTES):
            lost = digests.compare(arena)
            if lost is not None:
                origin = Origin.UNVERIFIED if lost else Origin.CLEAN
                why = f"Of what the last stop left {len(lost)} segments are damaged."
                why = why if lost else "The last stop was a clean one."
                return cls(arena, origin, why, offset_ms, inode, lost)
            why = "What the last stop left is damaged, and nobody can say where."
        elif same_boot and same_file:
            if marked:
                why = "The last stop was a clean one, but there is too much to look at all of it first."
            return cls(arena, Origin.UNVERIFIED, why, offset_ms, inode)
        elif not same_file:
            why += " This is a copy, which may have been made while it was in use."
        else:
            why += " The machine was restarted since, so that parts may be older than others."
        arena.close()
        return why

    def save_clock(self, now: Moment) -> None:
        """Write down what the clocks show, so that the next start knows how much time has passed.

        Args:
            now: what they show.
        """
        arena_ms = max(now.boot_ms + self.offset_ms, 0)
        saved = Saved(now.boot_id, self._inode, self.offset_ms, arena_ms, max(now.wall_ms, 0))
        superblock.save_clock(self.arena, self._copy, saved)
        self._copy ^= 1

    def mark_clean(self, now: Moment, go_on: Callable[[], bool]) -> bool:
        """Say that everything is in order, and what it is.

        Args:
            now: what the clocks show.
            go_on: asked now and then whether there is time left.

        Returns:
            False if there was not.
        """
        for _ in SB_CLOCKS:
            self.save_clock(now)
        return digests.take(self.arena, go_on)


def _told(geometry: Geometry) -> str:
    return (
        f"{geometry.memory_bytes >> 10}kb in {geometry.shards} shards with segments of "
        f"{geometry.segment_bytes >> 10}kb"
    )
