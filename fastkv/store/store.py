"""The store: get, put and delete over all shards, from any process that shares the arena.

Reading takes no lock: slot word → copy of the record → key equal → word unchanged. A word names a
segment's generation, so an unchanged word means an unchanged record: a hit needs no more. A miss does: an
unchanged, even sequence means that nothing of several steps (growth, repair) moved the key meanwhile. A
reader that finds either otherwise goes to the lock.
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64_intdigest

from fastkv.errors import StoreBusy, StoreFull, ValueTooLong
from fastkv.store.check import Check
from fastkv.store.eviction import Eviction
from fastkv.store.index import HIGH_SHIFT, SECOND_BUCKET_SHIFT, Index
from fastkv.store.layout import (
    COUNT_MAX,
    SB_SEED,
    SH_ENTRIES,
    SH_EVICTED,
    SH_EXPIRED,
    SH_PAGES,
    SH_RELOCATED,
    SH_REPAIRS,
    SH_VERSION,
    TAG_BITS,
    TAG_MASK,
    TAG_SHIFT,
    Arena,
    Geometry,
)
from fastkv.store.lock import LockTable
from fastkv.store.records import (
    CALLER_FLAGS,
    HEAD_BYTES,
    LARGE,
    parse_pieces,
    parse_record,
    unpack_head,
)
from fastkv.store.repair import Repair
from fastkv.store.segments import Segments
from fastkv.store.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

Entry = tuple[bytes, int, int, int, int, int]
"""What get returns: value, the caller's flags, version, deadline in ms (0 for none), and the slot and
word under which the entry was found: while that slot holds that word, the entry is unchanged."""

_LOCK_WAIT_MS: Final = 1000
# The pool's lock is taken inside of critical sections, which had better wait for a stopped owner to be killed
# than fail and be repaired.
_POOL_WAIT_MS: Final = 60_000
# A writer whose room was taken by others again and again gives up; each try frees at least a segment.
_TRIES: Final = 64
_EX_SOFTWARE: Final = 70


class Store:
    """A sharded key-value store in one shared mapping, made once and inherited by fork.

    Attributes:
        geometry: the arena's measures.
        words: the arena as 64-bit words; read-only for callers, who may look whether a slot still holds
            the word under which they found an entry.
        counts: the arena as bytes, for ``touch``.
    """

    __slots__ = (
        "_arena",
        "_bucket_mask",
        "_directory",
        "_directory_shift",
        "_eviction",
        "_eviction_lock",
        "_index",
        "_inline_bytes",
        "_location_mask",
        "_lock_table",
        "_low_mask",
        "_mem",
        "_repair",
        "_search",
        "_seed",
        "_segments",
        "_sequences",
        "_shards",
        "counts",
        "geometry",
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
    ) -> None:
        """Create an empty store.

        Args:
            memory_bytes: the budget for everything, index and data, at least 1 MiB.
            shards: power of two up to 4096; None: chosen by the number of segments.
            segment_bytes: power of two, 4 KiB to 256 KiB; None: chosen by the budget.
            first_version: versions begin after it; the Unix time in µs makes them unique over restarts.
            seed: of the keys' hashes; None: random, so that nobody can aim at one bucket.
            lock_wait_ms: the longest wait for a lock in milliseconds.

        Raises:
            StartError: if the budget is too small or cannot be mapped.
        """
        geometry = Geometry.plan(memory_bytes, shards, segment_bytes)
        arena = self._arena = Arena(geometry)
        self.geometry = geometry
        self.words = arena.words
        self.counts = arena.counts
        self._mem = arena.mem
        self._seed = int.from_bytes(os.urandom(8), "little") if seed is None else seed
        self.words[SB_SEED] = self._seed
        waits_ms = [_POOL_WAIT_MS, *[lock_wait_ms] * (1 + geometry.shards)]
        self._lock_table = LockTable(waits_ms)
        pool_lock, self._eviction_lock, *shard_locks = self._lock_table.locks
        self._segments = Segments(arena, pool_lock)
        index = self._index = Index(arena, self._segments)
        self._shards = [Shard(i, arena, lock, self._segments, index) for i, lock in enumerate(shard_locks)]
        self._repair = Repair(arena, self._segments, index)
        self._eviction = Eviction(arena, self._shards, self._segments, index, self._seed, self._holding)
        for shard in self._shards:
            index.open_page(shard.header, shard.number)
            self.words[shard.header + SH_VERSION] = first_version
        # What a read needs, bound once.
        self._directory = index.directory
        self._directory_shift = TAG_BITS - geometry.directory_bits
        self._low_mask = (geometry.shards << TAG_BITS) - 1
        self._sequences = arena.words[geometry.sequences_at : geometry.sequences_at + geometry.shards]
        self._search = arena.mem.find
        self._bucket_mask = index.bucket_mask
        self._location_mask = index.location_mask
        self._inline_bytes = geometry.segment_bytes // 8

    def close(self) -> None:
        """Unmap the arena in this process."""
        self._sequences.release()
        self._directory.release()
        self._arena.close()

    @property
    def max_value_bytes(self) -> int:
        """The longest value: a quarter of the arena, its list of fragments in one record."""
        segment = self.geometry.segment_bytes
        return min(self.geometry.memory_bytes // 4, segment // 16 * segment)

    # -- reading ---------------------------------------------------------------------------------------

    def get(self, key: bytes, clock: Callable[[], int]) -> Entry | None:
        """Look a key up.

        This is the short way, written out: the first record with the key's tag is the key's, has no
        deadline, holds its value itself, and nobody disturbs. ``find`` is the whole of it.

        Args:
            key: the key.
            clock: milliseconds now; called only if the entry has a deadline.

        Returns:
            The entry, None if there is none.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
        """
        key_hash = xxh3_64_intdigest(key, self._seed)
        low = key_hash & self._low_mask
        high = key_hash >> HIGH_SHIFT
        words = self.words
        bucket = self._directory[low >> self._directory_shift] + (high & self._bucket_mask)
        slot = bucket + (high & 7 or 7)
        word = words[slot]
        if word >> TAG_SHIFT != low & TAG_MASK:
            slot = self._elsewhere(low, high, bucket)
            if not slot:
                return self.find(key_hash, key, clock)
            word = words[slot]
        mem = self._mem
        at = (word & self._location_mask) << 3
        try:
            key_len, flags, value_len, version = unpack_head(mem, at)
        except struct.error:  # the word was none: a split or an eviction is at work
            return self.find(key_hash, key, clock)
        at += HEAD_BYTES
        middle = at + key_len
        # Flags above the caller's say that there is a deadline, or that the value lies elsewhere.
        if flags <= CALLER_FLAGS and value_len <= self._inline_bytes and mem[at:middle] == key:
            value = mem[middle : middle + value_len]
            if words[slot] == word:
                count_at = (slot & -8) << 3 | slot & 7
                counts = self.counts
                if counts[count_at] < COUNT_MAX:
                    counts[count_at] += 1
                return value, flags, version, 0, slot, word
        return self.find(key_hash, key, clock)

    def _elsewhere(self, low: int, high: int, bucket: int) -> int:
        """Look for a key's tag outside its home slot, with one search in C a bucket.

        Args:
            low: low bits of the key's hash.
            high: its high bits.
            bucket: the key's first bucket.

        Returns:
            A slot that may be the key's, 0 if none was found.
        """
        tag = (low & TAG_MASK).to_bytes(2, "little")
        at = bucket << 3
        at = self._search(tag, at + 8, at + 64)
        if at < 0:
            page = self._directory[low >> self._directory_shift]
            at = page + (high >> SECOND_BUCKET_SHIFT & self._bucket_mask) << 3
            at = self._search(tag, at + 8, at + 64)
            if at < 0:
                return 0
        return at >> 3

    def find(self, key_hash: int, key: bytes, clock: Callable[[], int]) -> Entry | None:
        """Look a key up wherever it stands; the readable twin of ``get``.

        Args:
            key_hash: the key's hash.
            key: the key.
            clock: milliseconds now.

        Returns:
            The entry, None if there is none or its deadline has passed.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
        """
        number = (key_hash & self._low_mask) >> TAG_BITS
        sequence = self._sequences[number]
        try:
            entry = self._read(key_hash, key)
        except (struct.error, ValueError, IndexError):
            sequence |= 1  # what it followed was overwritten meanwhile
            entry = None
        undisturbed = not sequence & 1 and self._sequences[number] == sequence
        if not undisturbed or (entry and self.words[entry[4]] != entry[5]):
            with self._holding(self._shards[number]):
                entry = self._read(key_hash, key)
        if entry is None or (entry[3] and entry[3] <= clock()):
            return None
        self.touch(self._index.count_at(entry[4]))
        return entry

    def _read(self, key_hash: int, key: bytes) -> Entry | None:
        slot, word, _, _ = self._index.locate(key_hash, key)
        if not slot:
            return None
        _, value, flags, version, deadline_ms = parse_record(self._mem, (word & self._location_mask) << 3)
        if flags & LARGE:
            # The list is followed only if it was the entry's after it was copied.
            if self.words[slot] != word:
                raise ValueError("overwritten while it was read")
            whole, *pieces = parse_pieces(value)
            value = b"".join([parse_record(self._mem, piece << 3)[1] for piece in pieces])
            if len(value) != whole:
                raise ValueError("overwritten while it was read")
        return value, flags & CALLER_FLAGS, version, deadline_ms, slot, word

    def count_at(self, slot: int) -> int:
        """Where a slot's access count stands, for ``touch``.

        Args:
            slot: the slot.

        Returns:
            Offset into ``counts``.
        """
        return self._index.count_at(slot)

    def touch(self, count_at: int) -> None:
        """Count an access, blindly: a lost one does no harm.

        Args:
            count_at: as ``count_at`` gave it.
        """
        if self.counts[count_at] < COUNT_MAX:
            self.counts[count_at] += 1

    def get_small(self, keys: list[bytes], clock: Callable[[], int]) -> list[Entry | None] | None:
        """``get`` for several keys with small values; 0.2 µs less for each.

        Args:
            keys: the keys.
            clock: milliseconds now.

        Returns:
            An entry or None for each, in order, as ``get`` would have found it; None instead of the list if
            a value is longer than an eighth of a segment: then the caller had better go one by one.

        Raises:
            StoreBusy: if a lock was needed and not free within the bound.
        """
        # What follows is ``get``, with what it needs in local names.
        words, mem, counts, directory = self.words, self._mem, self.counts, self._directory
        seed, low_mask, bucket_mask, location_mask = (
            self._seed,
            self._low_mask,
            self._bucket_mask,
            self._location_mask,
        )
        directory_shift, inline_bytes = self._directory_shift, self._inline_bytes
        entries: list[Entry | None] = []
        for key in keys:
            key_hash = xxh3_64_intdigest(key, seed)
            low = key_hash & low_mask
            high = key_hash >> HIGH_SHIFT
            bucket = directory[low >> directory_shift] + (high & bucket_mask)
            slot = bucket + (high & 7 or 7)
            word = words[slot]
            if word >> TAG_SHIFT != low & TAG_MASK:
                slot = self._elsewhere(low, high, bucket)
                word = words[slot] if slot else 0
            at = (word & location_mask) << 3
            try:
                key_len, flags, value_len, version = unpack_head(mem, at)
            except struct.error:
                key_len = value_len = version = 0
                flags = CALLER_FLAGS + 1
            at += HEAD_BYTES
            middle = at + key_len
            if flags <= CALLER_FLAGS and value_len <= inline_bytes and word and mem[at:middle] == key:
                value = mem[middle : middle + value_len]
                if words[slot] == word:
                    count_at = (slot & -8) << 3 | slot & 7
                    if counts[count_at] < COUNT_MAX:
                        counts[count_at] += 1
                    entries.append((value, flags, version, 0, slot, word))
                    continue
            entry = self.find(key_hash, key, clock)
            if entry and len(entry[0]) > inline_bytes:
                return None
            entries.append(entry)
        return entries

    # -- writing ---------------------------------------------------------------------------------------

    def put(
        self, key: bytes, value: bytes, clock: Callable[[], int], flags: int = 0, deadline_ms: int = 0
    ) -> int:
        """Insert or replace an entry.

        Args:
            key: 1 to 65,535 bytes.
            value: up to ``max_value_bytes``.
            clock: milliseconds now; called only if room has to be made.
            flags: 0 to 255, the caller's own.
            deadline_ms: when the entry is gone, on the caller's clock; 0: never.

        Returns:
            The entry's version, larger than each that the key had before.

        Raises:
            ValueTooLong: if no arena of this size takes such a value.
            StoreFull: if no room could be made.
            StoreBusy: if a lock was not free within the bound.
        """
        key_hash = xxh3_64_intdigest(key, self._seed)
        shard = self._shards[(key_hash & self._low_mask) >> TAG_BITS]
        if len(value) > self._inline_bytes and len(value) > self.max_value_bytes:
            raise ValueTooLong(f"The value has {len(value)} bytes; the store takes {self.max_value_bytes}.")
        # ``_holding`` written out: as a context manager it costs 1 µs more.
        lock = shard.lock
        code = lock.attempt()
        if code and lock.wait(code):
            self._after_death(shard)
        try:
            version = shard.put(key_hash, key, value, flags, deadline_ms)
        except BaseException:
            self._after_failure(shard)
            raise
        lock.release()
        return version or self._put_with_room(shard, key_hash, key, value, clock, flags, deadline_ms)

    def _put_with_room(
        self,
        shard: Shard,
        key_hash: int,
        key: bytes,
        value: bytes,
        clock: Callable[[], int],
        flags: int,
        deadline_ms: int,
    ) -> int:
        """Make room and put, until nobody else has taken the room that was made."""
        for _ in range(_TRIES):
            self._make_room(shard.segments_for(len(key), len(value)), clock)
            with self._holding(shard):
                version = shard.put(key_hash, key, value, flags, deadline_ms)
            if version:
                return version
        raise StoreBusy("Other writers took the room that was made; try again.")

    def delete(self, key: bytes, clock: Callable[[], int]) -> bool:
        """Remove an entry.

        Args:
            key: the key.
            clock: milliseconds now; called only if the entry has a deadline.

        Returns:
            True if it was there and its deadline had not passed.

        Raises:
            StoreBusy: if a lock was not free within the bound.
        """
        key_hash = xxh3_64_intdigest(key, self._seed)
        shard = self._shards[(key_hash & self._low_mask) >> TAG_BITS]
        with self._holding(shard):
            slot, word, _, _ = self._index.locate(key_hash, key)
            if not slot:
                return False
            *_, deadline_ms = parse_record(self._mem, (word & self._location_mask) << 3)
            shard.drop(slot, word)
            if deadline_ms and deadline_ms <= clock():
                self.words[shard.header + SH_EXPIRED] += 1
                return False
            return True

    def _make_room(self, segments: int, clock: Callable[[], int]) -> None:
        """Free segments until the pool has as many as a write may take.

        Args:
            segments: how many.
            clock: milliseconds now.

        Raises:
            StoreFull: if the arena has not that many.
        """
        for attempt in range(_TRIES * segments):
            if self._segments.room(segments):
                return
            # One segment at a time, so that no other writer waits for more than one.
            if self._eviction_lock.acquire():
                self._eviction_lock.consistent()  # it guards no state, only the order
            try:
                self._eviction.free_one(attempt // segments, clock)
            finally:
                self._eviction_lock.release()
        if not self._segments.room(segments):
            raise StoreFull(
                f"No room for {segments} segments of {self.geometry.segment_bytes} bytes could be made."
            )

    # -- locks and repair --------------------------------------------------------------------------------

    @contextmanager
    def _holding(self, shard: Shard) -> Iterator[None]:
        """Hold a shard's lock; repair the shard if its last owner died, or if the block fails."""
        if shard.lock.acquire():
            self._after_death(shard)
        try:
            yield
        except BaseException:
            self._after_failure(shard)
            raise
        shard.lock.release()

    def _after_death(self, shard: Shard) -> None:
        """Repair a shard whose owner died, then call its lock consistent."""
        self._repair_or_die(shard)
        shard.lock.consistent()

    def _after_failure(self, shard: Shard) -> None:
        """Repair a shard in which an error left something half done, then let go of it."""
        self._repair_or_die(shard)
        shard.lock.release()

    def _repair_or_die(self, shard: Shard) -> None:
        """Never unlock a shard that cannot be repaired: the process ends, and the next owner tries again."""
        try:
            self._repair.shard(shard)
        except BaseException as error:  # noqa: BLE001 - whatever it is, going on would be worse
            os.write(2, f"fastkv: shard {shard.number} could not be repaired: {error!r}\n".encode())
            os._exit(_EX_SOFTWARE)

    # -- looking at it -----------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """Verify every invariant, with all shards locked meanwhile.

        Returns:
            A sentence for each problem, none if all is well.

        Raises:
            StoreBusy: if a lock was not free within the bound.
        """
        check = Check(self._arena, self._shards, self._segments, self._index, self._seed)
        held: list[AbstractContextManager[None]] = []
        try:
            for shard in self._shards:
                held.append(self._holding(shard))
                held[-1].__enter__()
            return check.problems()
        finally:
            for holding in reversed(held):
                holding.__exit__(None, None, None)

    def stats(self) -> dict[str, int]:
        """Sums over the shards' counters, read without a lock.

        Returns:
            entries, bytes (of the memory, in segments in use), memory_bytes, evictions, expired, relocated,
            repairs, index_pages, segments_free.
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
        return sums
