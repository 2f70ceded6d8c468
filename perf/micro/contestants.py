"""What the store is measured beside: each does the same operations on many keys, one after the other.

Each takes keys and values as bytes, and loops itself, so that nobody pays for a call that is not its own.
What is shared is made in one process and used by several. SharedArray is not among them: it shares arrays,
and has no keys.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final

from fastkv.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastkv.store import Change, Entry

VALUE: Final = b"v" * 64
_MIB: Final = 1 << 20
# An entry of 16 and 64 bytes with its share of the index.
_ENTRY_BYTES: Final = 120
_NOW_MS: Final = 1_000_000


class Contestant:
    """A key-value store.

    Attributes:
        name: what it is called in results.
        package: the distribution that brings it, empty if it is always there.
        shared: whether several processes can use one.
        bounded: whether it evicts entries when it is full.
        entries: how many are loaded.
    """

    name: ClassVar[str]
    package: ClassVar[str] = ""
    shared: ClassVar[bool] = True
    bounded: ClassVar[bool] = False
    entries: ClassVar[int] = 100_000

    def __init__(self, directory: Path, *, full: bool) -> None:
        """Make what processes inherit.

        Args:
            directory: in memory, empty, its own.
            full: whether there is to be room for ``entries`` only.
        """
        self.directory = directory
        self.full = full

    def attach(self) -> None:
        """Open what each process opens for itself."""

    def helpers(self) -> list[int]:
        """Processes whose work is its own, too."""
        return []

    def get_all(self, keys: Sequence[bytes]) -> None:
        """Look each key up."""
        raise NotImplementedError

    def put_all(self, keys: Sequence[bytes]) -> None:
        """Put ``VALUE`` under each key."""
        raise NotImplementedError

    def incr_all(self, keys: Sequence[bytes]) -> None:
        """Add one to the number under each key, with nobody in between."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what processes inherited."""


def clock() -> int:
    """A clock that stands still."""
    return _NOW_MS


def add_one(entry: Entry | None) -> Change:
    """What becomes of a counter of fastkv."""
    return (b"%d" % (int(entry[0]) + 1) if entry else b"1"), 0, 0, b""


class _Fastkv(Contestant):
    """The store."""

    name = "fastkv"
    bounded = True

    def __init__(self, directory: Path, *, full: bool) -> None:
        super().__init__(directory, full=full)
        self.store = Store(self.entries * _ENTRY_BYTES if full else 512 * _MIB)

    def get_all(self, keys: Sequence[bytes]) -> None:
        get = self.store.get
        for key in keys:
            get(key, clock)

    def put_all(self, keys: Sequence[bytes]) -> None:
        put = self.store.put
        for key in keys:
            put(key, VALUE, clock)

    def incr_all(self, keys: Sequence[bytes]) -> None:
        update = self.store.update
        for key in keys:
            update(key, add_one, clock)

    def close(self) -> None:
        self.store.close()


class _Dict(Contestant):
    """A dict: one process, no bound, no expiry."""

    name = "dict"
    shared = False

    def attach(self) -> None:
        self.map: Any = {}

    def get_all(self, keys: Sequence[bytes]) -> None:
        get = self.map.get
        for key in keys:
            get(key)

    def put_all(self, keys: Sequence[bytes]) -> None:
        put = self.map.__setitem__
        for key in keys:
            put(key, VALUE)

    def incr_all(self, keys: Sequence[bytes]) -> None:
        entries = self.map
        for key in keys:
            entries[key] = b"%d" % (int(entries.get(key, b"0")) + 1)


class _CachetoolsLru(_Dict):
    """A bounded dict in Python: one process."""

    name = "cachetools LRUCache"
    package = "cachetools"
    bounded = True

    def attach(self) -> None:
        self.map = import_module("cachetools").LRUCache(self.entries if self.full else 100 * self.entries)


class _Diskcache(Contestant):
    """SQLite with an eviction policy, in memory here."""

    name = "diskcache"
    package = "diskcache"
    bounded = True
    entries = 10_000

    def attach(self) -> None:
        limit = self.entries * _ENTRY_BYTES if self.full else 1 << 30
        self.cache = import_module("diskcache").Cache(str(self.directory), size_limit=limit)

    def get_all(self, keys: Sequence[bytes]) -> None:
        get = self.cache.get
        for key in keys:
            get(key)

    def put_all(self, keys: Sequence[bytes]) -> None:
        put = self.cache.set
        for key in keys:
            put(key, VALUE)

    def incr_all(self, keys: Sequence[bytes]) -> None:
        incr = self.cache.incr
        for key in keys:
            incr(key)


class _Lmdb(Contestant):
    """A memory-mapped B+ tree, in memory here and never synchronised; a transaction for each operation."""

    name = "LMDB"
    package = "lmdb"

    def attach(self) -> None:
        lmdb = import_module("lmdb")
        self.environment = lmdb.open(str(self.directory), map_size=1 << 30, sync=False, writemap=True)

    def get_all(self, keys: Sequence[bytes]) -> None:
        begin = self.environment.begin
        for key in keys:
            with begin() as transaction:
                transaction.get(key)

    def put_all(self, keys: Sequence[bytes]) -> None:
        begin = self.environment.begin
        for key in keys:
            with begin(write=True) as transaction:
                transaction.put(key, VALUE)

    def incr_all(self, keys: Sequence[bytes]) -> None:
        begin = self.environment.begin
        for key in keys:
            with begin(write=True) as transaction:
                transaction.put(key, b"%d" % (int(transaction.get(key, b"0")) + 1))


class _Sqlite(Contestant):
    """A table of SQLite, in memory here and never synchronised."""

    name = "sqlite3 in /dev/shm"
    entries = 20_000

    def attach(self) -> None:
        self.connection = sqlite3.connect(self.directory / "kv", timeout=60, isolation_level=None)
        run = self.run = self.connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = OFF")
        run("CREATE TABLE IF NOT EXISTS kv (k BLOB PRIMARY KEY, v) WITHOUT ROWID")

    def get_all(self, keys: Sequence[bytes]) -> None:
        run = self.run
        for key in keys:
            run("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()

    def put_all(self, keys: Sequence[bytes]) -> None:
        run = self.run
        for key in keys:
            run("INSERT OR REPLACE INTO kv VALUES (?, ?)", (key, VALUE))

    def incr_all(self, keys: Sequence[bytes]) -> None:
        run = self.run
        for key in keys:
            run("INSERT INTO kv VALUES (?, 1) ON CONFLICT (k) DO UPDATE SET v = v + 1", (key,))


class _ManagerDict(Contestant):
    """A dict in a process of its own, asked through a socket."""

    name = "multiprocessing.Manager"
    entries = 20_000

    def __init__(self, directory: Path, *, full: bool) -> None:
        super().__init__(directory, full=full)
        context = multiprocessing.get_context("fork")
        before = {child.pid for child in multiprocessing.active_children()}
        self.manager = context.Manager()
        self.map = self.manager.dict()
        # A lock of the kernel, not one of the manager: that would be a fourth message.
        self.lock = context.Lock()
        self.servers = [
            child.pid for child in multiprocessing.active_children() if child.pid and child.pid not in before
        ]

    def helpers(self) -> list[int]:
        return self.servers

    def get_all(self, keys: Sequence[bytes]) -> None:
        get = self.map.get
        for key in keys:
            get(key)

    def put_all(self, keys: Sequence[bytes]) -> None:
        entries = self.map
        for key in keys:
            entries[key] = VALUE

    def incr_all(self, keys: Sequence[bytes]) -> None:
        entries = self.map
        for key in keys:
            with self.lock:
                entries[key] = b"%d" % (int(entries.get(key, b"0")) + 1)

    def close(self) -> None:
        self.manager.shutdown()


class _UltraDict(Contestant):
    """A dict in each process, and a log of changes in shared memory."""

    name = "UltraDict"
    package = "UltraDict"
    entries = 20_000

    def __init__(self, directory: Path, *, full: bool) -> None:
        super().__init__(directory, full=full)
        # Forked processes go on with the object that they inherit: where another replaces it, the memory is
        # unlinked as it goes.
        self.map = import_module("UltraDict").UltraDict(
            create=True, shared_lock=True, auto_unlink=False, buffer_size=4 * _MIB, full_dump_size=64 * _MIB
        )

    def get_all(self, keys: Sequence[bytes]) -> None:
        get = self.map.get
        for key in keys:
            get(key)

    def put_all(self, keys: Sequence[bytes]) -> None:
        entries = self.map
        for key in keys:
            entries[key] = VALUE

    def incr_all(self, keys: Sequence[bytes]) -> None:
        entries = self.map
        for key in keys:
            with entries.lock:
                entries[key] = b"%d" % (int(entries.get(key, b"0")) + 1)

    def close(self) -> None:
        self.map.unlink()


class _SharedMemoryDict(Contestant):
    """A pickled dict in shared memory, read and written as a whole; increments without a lock."""

    name = "shared-memory-dict"
    package = "shared-memory-dict"
    # Every operation takes as long as the dict is large.
    entries = 100

    def __init__(self, directory: Path, *, full: bool) -> None:
        super().__init__(directory, full=full)
        self.map = import_module("shared_memory_dict").SharedMemoryDict(
            name=f"fastkv-{os.getpid()}", size=4 * _MIB
        )

    def get_all(self, keys: Sequence[bytes]) -> None:
        get = self.map.get
        for key in keys:
            get(key)

    def put_all(self, keys: Sequence[bytes]) -> None:
        entries = self.map
        for key in keys:
            entries[key] = VALUE

    def incr_all(self, keys: Sequence[bytes]) -> None:
        entries = self.map
        for key in keys:
            entries[key] = b"%d" % (int(entries.get(key, b"0")) + 1)

    def close(self) -> None:
        self.map.shm.close()
        self.map.shm.unlink()


CONTESTANTS: Final[tuple[type[Contestant], ...]] = (
    _Fastkv,
    _Dict,
    _CachetoolsLru,
    _Lmdb,
    _Sqlite,
    _Diskcache,
    _UltraDict,
    _ManagerDict,
    _SharedMemoryDict,
)
