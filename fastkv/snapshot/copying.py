"""From a store to a file and back, whoever has the store.

In: a `Peer` and a path. Out: what was copied. Raised: errors of the peer and of the file; from ``load`` they
say how far it had come.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from typing import TYPE_CHECKING, Protocol, TypeAlias

from fastkv.errors import FastKVError, SnapshotError
from fastkv.snapshot.file import SnapshotFile, new_snapshot
from fastkv.snapshot.format import BLOCK_HEAD_BYTES
from fastkv.snapshot.transfer import unix_ms

if TYPE_CHECKING:
    from pathlib import Path

    from fastkv.snapshot.format import Chain

Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""From what is done, in a word, and how much of it, to what is told of each step."""


class Peer(Protocol):
    """Who has the entries: `transfer.Transfer` or `remote.Remote`, which say what the methods do."""

    def total(self) -> int:
        """How many entries there are."""

    def page(self, cursor: int) -> tuple[bytes, int]:
        """Read some entries; the next cursor."""

    def put(self, block: bytes) -> tuple[int, int]:
        """Put what a block has; how many were put, and how many were expired."""


def amount(entries: int) -> str:
    """Say how many entries."""
    return "1 entry" if entries == 1 else f"{entries:,} entries"


def save(peer: Peer, path: Path, progress: Progress) -> Chain:
    """Save all entries.

    Each is saved as it was at some time between the beginning and the end; one that is written meanwhile may
    be saved twice, the newer later.

    Args:
        peer: from where.
        path: to where.
        progress: is told how many entries were saved.

    Returns:
        What the file has.

    Raises:
        FastKVError: if they cannot be read or written; then an older file is as it was.
    """
    with progress("Saving", peer.total()) as step, new_snapshot(path, unix_ms()) as (chain, write):
        cursor = 0
        while True:
            before = chain.entries
            block, cursor = peer.page(cursor)
            if len(block) > BLOCK_HEAD_BYTES:  # a page of empty slots has no entries
                write(block)
            step(chain.entries - before)
            if not cursor:
                return chain


def load(peer: Peer, path: Path, progress: Progress, *, verify: bool = True) -> tuple[int, int]:
    """Put all entries of a snapshot.

    Args:
        peer: to where.
        path: from where.
        progress: is told how many bytes were verified and loaded.
        verify: whether the whole file is verified before the first entry is put. Each block is, anyway.

    Returns:
        How many entries were put, and of how many the deadline had passed.

    Raises:
        SnapshotError: if the file is damaged, or the peer does not take what it has.
    """
    loaded = expired = 0
    with closing(SnapshotFile(path)) as file:
        if verify:
            with progress("Verifying", file.size) as step:
                for block in file.blocks():
                    step(len(block))
        try:
            with progress("Loading", file.size) as step:
                for block in file.blocks():
                    put, late = peer.put(block)
                    loaded += put
                    expired += late
                    step(len(block))
        except FastKVError as error:
            done = f"Loaded before that: {amount(loaded)}." if loaded else "Nothing was loaded."
            raise SnapshotError(f"{error} {done}") from None
    return loaded, expired
