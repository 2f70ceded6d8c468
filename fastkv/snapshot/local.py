"""The entries in a data directory that no server uses, for a snapshot.

In: a directory and the longest key and value. Out: what ``transfer`` gives for any store. Raised:
`StartError` if a server uses the directory, or there is nothing in it that one would go on with.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastkv import clock
from fastkv.errors import StartError
from fastkv.snapshot.transfer import Transfer
from fastkv.store import Store
from fastkv.store.datafile import DataDirectory
from fastkv.store.persist import Keeper, find_any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastkv.settings import Settings


class Local(Transfer):
    """The two ways of the store in a data directory.

    Attributes:
        damaged: how many entries are damaged, and left out.
    """

    __slots__ = ("_path", "damaged")

    def __init__(self, path: Path, store: Store, settings: Settings) -> None:
        """Bind to a store.

        Args:
            path: its directory.
            store: the store, verified.
            settings: for the longest key and value.
        """
        super().__init__(
            store,
            clock.arena_clock(store.offset_ms),
            max_key=settings.max_key_bytes,
            max_value=min(settings.max_value_bytes, store.max_value_bytes),
        )
        self._path = path
        self.damaged = store.stats()["dropped"]

    def __str__(self) -> str:
        return str(self._path)


@contextmanager
def opened(path: Path, settings: Settings, *, writing: bool) -> Iterator[Local]:
    """Open what a data directory holds.

    Args:
        path: the directory.
        settings: for the longest key and value.
        writing: whether entries are to be put into it; else it stays as it is, byte for byte.

    Yields:
        Its two ways.

    Raises:
        StartError: if a server uses it, or there is nothing that one would go on with.
    """
    directory = DataDirectory(path, 0, create=False)
    try:
        found = find_any(directory, clock.now())
        if writing and found.outdated:
            raise StartError(
                f"'{path}' has layout version {found.layout}, into which nothing is loaded; start a server "
                "on it once, which moves its entries, or load into a running server."
            )
        keeper = Keeper.go_on(directory, found, clock.now()) if writing else Keeper.copy(directory, found)
        # As at a server's start: no key gets a version that it had before.
        store = Store(0, first_version=time.time_ns() // 1000, kept=keeper)
        try:
            store.verify()
            yield Local(path, store, settings)
        finally:
            if writing:
                store.settle(clock.now())
            store.close()
    finally:
        directory.close()
