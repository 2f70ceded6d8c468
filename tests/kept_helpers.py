"""Arenas in files, and what the clocks showed when they were left."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from store_helpers import KIB, MIB, NOW_MS, clock, payload

from fastkv.store import Store
from fastkv.store.datafile import DataDirectory
from fastkv.store.layout import Geometry
from fastkv.store.persist import Keeper, find
from fastkv.store.superblock import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

THEN = Moment(boot_id=1 << 100 | 1, boot_ms=NOW_MS, wall_ms=10**12)
REBOOTED = THEN._replace(boot_id=2)
GEOMETRY = Geometry.plan(MIB, 2, 4 * KIB)


class SameFile(DataDirectory):
    """A directory whose file counts as the same one whenever it was made."""

    def inode(self, path: Path | None = None) -> int:
        return 7


def reopen(
    directory: DataDirectory, now: Moment = THEN, first_version: int = 1, geometry: Geometry = GEOMETRY
) -> tuple[Store, Keeper]:
    """Open the arena in a directory, or make one.

    Args:
        directory: where.
        now: what the clocks show.
        first_version: as for ``Store``.
        geometry: the measures of a new one.

    Returns:
        The store and its keeper.
    """
    found = find(directory, now)
    keeper = Keeper.go_on(directory, found, now) if found else Keeper.create(directory, geometry, now)
    store = Store(0, first_version=first_version, kept=keeper)
    if not found:
        directory.put_in_place(keeper.arena.mem)
    return store, keeper


@contextmanager
def kept_store(
    directory: DataDirectory, now: Moment = THEN, first_version: int = 1
) -> Iterator[tuple[Store, Keeper]]:
    """As ``reopen``; after the block every invariant must hold, and the arena is left as it is then."""
    store, keeper = reopen(directory, now, first_version)
    try:
        yield store, keeper
        assert store.check() == []
    finally:
        store.close()


def fill(store: Store) -> dict[bytes, bytes]:
    """Put some entries of all sizes, some of them twice; returns what is there."""
    model = {}
    for i in range(300):
        for attempt in range(1 + i % 2):
            key = b"%d" % i
            model[key] = payload((i, attempt), 12_000 if i % 60 == 0 else i)
            store.put(key, model[key], clock)
    return model


def leave(path: Path, *, clean: bool) -> dict[bytes, bytes]:
    """Make an arena with some entries and leave it.

    Args:
        path: the directory.
        clean: whether it is left in order, or as a kill leaves it.

    Returns:
        What is in it.
    """
    directory = DataDirectory(path)
    store, keeper = reopen(directory)
    model = fill(store)
    if clean:
        assert store.settle(THEN)
    else:
        keeper.save_clock(THEN)
    store.close()
    directory.close()
    return model
