"""The store: get, put, delete and update over all shards, from any process that shares the arena."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from fastkv import core
from fastkv.errors import StoreBusy
from fastkv.store import superblock
from fastkv.store.arena import Arena
from fastkv.store.attach import Attach
from fastkv.store.check import Check
from fastkv.store.checked_reader import CheckedReader
from fastkv.store.commit import Commit
from fastkv.store.engine import Engine
from fastkv.store.eviction import Eviction
from fastkv.store.expiry import Expiry
from fastkv.store.ghosts import Ghosts
from fastkv.store.index import Index
from fastkv.store.large import LargeReader
from fastkv.store.layout import (
    IDLE,
    REDO_STATE,
    SB_DROPPED,
    SH_ENTRIES,
    SH_EVICTED,
    SH_EXPIRED,
    SH_PAGES,
    SH_RELOCATED,
    SH_REPAIRS,
    SH_VERSION,
    UNVERIFIED,
    Geometry,
)
from fastkv.store.lock import LockTable, abandon
from fastkv.store.multi_get import MultiGet
from fastkv.store.persist import Keeper, Origin
from fastkv.store.picking import Picker
from fastkv.store.reading import VERIFY_READS, Reader
from fastkv.store.redo import Redo
from fastkv.store.repair import Guard
from fastkv.store.restore import Restorer
from fastkv.store.room import Room
from fastkv.store.scan import KeyScanner, Scanner
from fastkv.store.segments import Segments
from fastkv.store.shard import Shard
from fastkv.store.sweep import Sweep
from fastkv.store.transactions import Transactions
from fastkv.store.update import Updater
from fastkv.store.verify import Verifier
from fastkv.store.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store.superblock import Moment

_LOCK_WAIT_MS: Final = 1000
# The pool's lock is taken inside of critical sections, which had better wait for a stopped owner to be killed
# than fail and be repaired.
_POOL_WAIT_MS: Final = 60_000
# A version found in a file is at most so far ahead of the clock, unless it is damaged: 11 days, in which the
# clock may have been put back.
_PLAUSIBLE_US: Final = 10**12


class Store:
    """A sharded key-value store in one shared mapping, made once and inherited by fork.

    Attributes:
        geometry: the arena's measures.
        words, counts: the arena as 64-bit words and as bytes, for tests: only the store knows what they mean.
        engine: the operations on single keys; compiled where that is to be had.
        readable: the same in Python.
        get, put, delete: those of the ``engine``.
        get_many, get_values, count_many: those of the ``MultiGet``; compiled likewise.
        entries: how many entries there are, those included that have expired and were not given back yet.
        random_key: the steps to an entry's key, each about as likely as any other; that of the ``Picker``.
        scan: that of the ``Scanner``.
        scan_keys: that of the ``KeyScanner``.
        update: that of the ``Updater``.
        large: finds and copies large values; None where the order of stores is not to be trusted.
        transact, put_many, delete_many, flush, flush_in_steps: ``run`` and the others of the
            ``Transactions``.
        removals: which entries went by themselves.
        walk: ``entries`` of the ``Walk``, for a store that nobody else uses.
        restore: that of the ``Restorer``.
        max_key_bytes: the longest key, a quarter of a segment.
        max_value_bytes: the longest value, a quarter of the arena or less.
    """

    __slots__ = (
        "_arena",
        "_compiled",
        "_eviction",
        "_expiry",
        "_ghosts",
        "_guard",
        "_index",
        "_kept",
        "_lock_table",
        "_redo",
        "_segments",
        "_shards",
        "count_many",
        "counts",
        "delete",
        "delete_many",
        "engine",
        "entries",
        "flush",
        "flush_in_steps",
        "geometry",
        "get",
        "get_many",
        "get_values",
        "large",
        "max_key_bytes",
        "max_value_bytes",
        "put",
        "put_many",
        "random_key",
        "readable",
        "removals",
        "restore",
        "scan",
        "scan_keys",
        "transact",
        "update",
        "walk",
        "words",
    )

    def __init__(
        self,
        memory_bytes: int,
        *,
        shards: int | None = None,
        segment_bytes: int | None = None,
        first_version: int = 1,
        seed: int | None = None,
        lock_wait_ms: int = _LOCK_WAIT_MS,
        evicts: bool = True,
        kept: Keeper | None = None,
        verify_reads: bool | None = None,
    ) -> None:
        """Create an empty store, or go on with what is in a kept arena.

        Args:
            memory_bytes: the budget for everything, index and data, at least 1 MiB.
            shards: power of two up to 4096; None: chosen by the number of segments.
            segment_bytes: power of two, 4 KiB to 256 KiB; None: chosen by the budget.
            first_version: versions begin after it; the Unix time in µs makes them unique over restarts.
            seed: of the keys' hashes; None: random, so that nobody can aim at one bucket.
            lock_wait_ms: the longest wait for a lock in milliseconds.
            evicts: whether entries are evicted to make room; else a full store takes nothing more.
            kept: keeps the arena in a file; the budget, the shards and the segments are then its own, and if
                it is not empty the seed as well.
            verify_reads: whether reads trust no order of stores (``CheckedReader``), without the compiled
                engine; None: if the machine may not keep it, for what that engine leaves to the readable one.

        Raises:
            StartError: if the budget is too small or cannot be mapped.
        """
        arena = kept.arena if kept else Arena(Geometry.plan(memory_bytes, shards, segment_bytes))
        self._arena = arena
        self._kept = kept
        geometry = self.geometry = arena.geometry
        self.words = arena.words
        self.counts = arena.counts
        self.removals = arena.removals
        origin = kept.origin if kept else Origin.EMPTY
        if origin is Origin.EMPTY:
            superblock.seal(arena, int.from_bytes(os.urandom(8), "little") if seed is None else seed)
        waits_ms = [_POOL_WAIT_MS, *[lock_wait_ms] * (3 + geometry.shards)]
        self._lock_table = LockTable(waits_ms)
        pool_lock, eviction_lock, transaction_lock, fence_lock, *shard_locks = self._lock_table.locks
        self._segments = Segments(arena, pool_lock)
        self._redo = Redo(arena, self._segments, transaction_lock, fence_lock)
        index = self._index = Index(arena, self._segments)
        self._ghosts = Ghosts(arena, self._segments)
        self._shards = [
            Shard(number, arena, lock, eviction_lock, self._segments, index, self._ghosts, evicts=evicts)
            for number, lock in enumerate(shard_locks)
        ]
        # Until somebody has verified a shard, reads find its keys by a directory of their own.
        unverified = Index(arena, self._segments) if origin is Origin.UNVERIFIED else index
        verifier = Verifier(arena, self._segments, unverified)
        self._guard = Guard(arena, self._segments, index, verifier, self._redo)
        sweep = Sweep(arena, self._segments, index, self._ghosts)
        self._expiry = Expiry(arena, self._shards, self._segments, sweep, self._guard)
        eviction = self._eviction = Eviction(
            arena,
            eviction_lock,
            self._shards,
            self._segments,
            self._ghosts,
            sweep,
            self._expiry,
            self._guard,
            evicts=evicts,
        )
        if kept and origin is Origin.UNVERIFIED:
            # Before anybody reads: who finds nothing in a shard that nobody verified asks no further.
            self._redo.resolve()
            attach = Attach(arena, self._segments, index, kept.lost)
            unverified.directory.release()
            unverified.directory = attach.run(self._shards, self._guard)
            abandon(shard_locks)
        self._begin(origin, first_version)
        verifies = VERIFY_READS if verify_reads is None else verify_reads
        reader = (CheckedReader if verifies else Reader)(arena, self._shards, index, self._guard, verifier)
        room = Room(eviction, self._segments)
        multi_get = MultiGet(arena, self._shards, reader, self._guard, locks=verifies)
        readable = self.readable = Engine(
            arena, self._shards, self._segments, index, self._guard, reader, room
        )
        self._compiled = core.engine.Engine(readable) if core.COMPILED and not verify_reads else None
        if self._compiled:
            sweep.compiled = core.sweep.Sweeper(self._compiled)
            index.compiled = core.pages.Pages(self._compiled)
            verifier.engine = self._compiled
            for shard in self._shards:
                shard.compiled = core.fragments.Fragments(self._compiled)
        # On the way of every request: bound, not wrapped.
        engine = self.engine = self._compiled or readable
        self.get = engine.get
        self.put = engine.put
        self.delete = engine.delete
        many = core.many.Many(self._compiled, multi_get) if self._compiled else multi_get
        self.get_many = many.get_many
        self.get_values = many.get_values
        self.count_many = many.count_many
        self.large = None if verifies else LargeReader(arena, index)
        scanner = Scanner(arena, self._shards, self._segments, index, self._guard, locks=verifies)
        key_scanner = KeyScanner(arena, self._shards, self._segments, index, self._guard, locks=verifies)
        self.scan = scanner.scan
        self.scan_keys = key_scanner.scan_keys
        picker = Picker(arena, index, scanner)
        self.entries = picker.entries
        self.random_key = picker.key
        self.walk = Walk(arena, self._segments, unverified).entries
        self.restore = Restorer(arena, self._shards, index, room, self._guard).restore
        self.update = Updater(arena, self._shards, reader, room, self._guard).update
        self.max_key_bytes = geometry.longest_key
        self.max_value_bytes = geometry.longest_value
        commit = Commit(
            arena,
            self._shards,
            self._segments,
            index,
            self._ghosts,
            self._redo,
            self._guard,
            self._compiled,
        )
        transactions = Transactions(
            arena,
            self._shards,
            self._segments,
            index,
            reader,
            self._guard,
            self._redo,
            commit,
            room,
        )
        if self._compiled:
            self._segments.compiled = core.walk.Log(self._compiled)
            picker.compiled = core.walk.Walk(self._compiled, scanner, True)
            for walker in (scanner, transactions.scanner, key_scanner, transactions.key_scanner):
                walker.compiled = core.walk.Walk(self._compiled, walker, isinstance(walker, Scanner))
        self.transact = transactions.run
        self.put_many = transactions.put_many
        self.delete_many = transactions.delete_many
        self.flush = transactions.flush
        self.flush_in_steps = transactions.flush_in_steps

    def _begin(self, origin: Origin, first_version: int) -> None:
        """Begin a run: versions go on, counters begin anew."""
        words, sequences_at = self.words, self.geometry.sequences_at
        for shard in self._shards:
            if origin is Origin.EMPTY:
                self._index.open_page(shard.header, shard.number)
            if origin is not Origin.UNVERIFIED:
                words[sequences_at + shard.number] = UNVERIFIED + 1
            last = words[shard.header + SH_VERSION]
            if last > first_version + _PLAUSIBLE_US and origin is Origin.UNVERIFIED:
                last = 0  # damaged; what the shard holds will count when it is verified
            words[shard.header + SH_VERSION] = max(last, first_version)
            for field in (SH_EVICTED, SH_EXPIRED, SH_RELOCATED, SH_REPAIRS):
                words[shard.header + field] = 0
        words[SB_DROPPED] = 0
        words[REDO_STATE] = IDLE

    def close(self) -> None:
        """Unmap the arena in this process."""
        if self._compiled:
            self._compiled.close()
        self._index.directory.release()
        self._arena.close()

    def newest_version(self) -> int:
        """The largest version that an entry of any shard has had."""
        return max(self.words[shard.header + SH_VERSION] for shard in self._shards)

    @property
    def seed(self) -> int:
        """Seed of the keys' hashes."""
        return self._arena.seed

    def look_after(self, clock: Callable[[], int]) -> bool:
        """Give back some of what has expired, or make room ahead of those who will need it.

        To be called now and then, and soon again if it says so.

        Args:
            clock: milliseconds now.

        Returns:
            Whether there is more to do already. One call takes 0.5 ms, or 1.

        Raises:
            StoreBusy: if a lock was not free within the bound.
        """
        return self._expiry.step(clock()) or self._eviction.step_ahead(clock)

    # -- over restarts --------------------------------------------------------------------------------------

    @property
    def offset_ms(self) -> int:
        """From milliseconds since boot to the clock that the entries' deadlines are on."""
        return self._kept.offset_ms if self._kept else 0

    def save_clock(self, now: Moment) -> None:
        """Keep what the clocks show for the next start; to be called about twice a second.

        Args:
            now: what they show.
        """
        if self._kept:
            self._kept.save_clock(now)

    def unverified(self) -> int:
        """How many shards nobody has verified since the start from a file."""
        return self._sequences().count(UNVERIFIED)

    def verify(self) -> None:
        """Verify every shard that nobody has verified yet, one after the other.

        Nobody has to wait for it: who wants to write to such a shard verifies it first, and reads verify what
        they find.
        """
        for shard, sequence in zip(self._shards, self._sequences(), strict=True):
            if sequence == UNVERIFIED:
                with suppress(StoreBusy), self._guard.holding(shard):
                    pass

    def _sequences(self) -> list[int]:
        start = self.geometry.sequences_at
        return self.words[start : start + self.geometry.shards].tolist()

    def settle(self, now: Moment, go_on: Callable[[], bool] = lambda: True) -> bool:
        """Leave a kept arena in order, so that the next start need not verify it.

        Nobody else uses it any more.

        Args:
            now: what the clocks show.
            go_on: asked now and then whether there is time left.

        Returns:
            Whether that was done; if not, the next start verifies it.

        Raises:
            StoreBusy: if a process that still lives holds a lock.
        """
        if self._kept is None or self.unverified():
            return False
        # Whoever died while it was changing something may have left that half done.
        with self._redo.locked(), self._eviction.locked(), self._segments.locked():
            self._segments.release_pages()
        for shard in self._shards:
            with self._guard.holding(shard):
                pass
        return self._kept.mark_clean(now, go_on)

    # -- looking at it -----------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """Verify every invariant, with all shards locked meanwhile.

        Returns:
            A sentence for each problem, none if all is well.

        Raises:
            StoreBusy: if a lock was not free within the bound.
        """
        check = Check(self._arena, self._shards, self._segments, self._index, self._ghosts)
        every = range(len(self._shards))
        with (
            self._redo.locked(),
            self._eviction.locked(),
            self._guard.holding_all(every, self._shards, len(every)),
        ):
            return check.problems()

    def stats(self) -> dict[str, int]:
        """Sums over the shards' counters, read without a lock.

        Returns:
            entries, bytes (of the memory, in segments in use), memory_bytes, evictions, expired, relocated,
            repairs, index_pages, segments_free, dropped, unverified_shards.
        """
        words = self.words
        sums = {
            name: sum(words[shard.header + field] for shard in self._shards)
            for name, field in (
                ("entries", SH_ENTRIES),
                ("evictions", SH_EVICTED),
                ("expired", SH_EXPIRED),
                ("relocated", SH_RELOCATED),
                ("repairs", SH_REPAIRS),
                ("index_pages", SH_PAGES),
            )
        }
        free = self._segments.free_count()
        sums["segments_free"] = free
        sums["bytes"] = self.geometry.memory_bytes - free * self.geometry.segment_bytes
        sums["memory_bytes"] = self.geometry.memory_bytes
        sums["dropped"] = words[SB_DROPPED]
        sums["unverified_shards"] = self.unverified()
        return sums
