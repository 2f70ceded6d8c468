"""Publishing all changes of a transaction at once.

In: what becomes of several keys, whose shards are locked. Everything that may fail for want of room comes
first, and is not seen: slots for new keys, then the records, then the redo list. Out: nothing has changed,
and how many segments are wanted; or everything has. The order:

    slots → records into unpublished space → redo list → versions → sequences odd
    → the list is done (``redo``) → counters → sequences even
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from fastkv import core
from fastkv.errors import StoreFull
from fastkv.progress import PROGRESS
from fastkv.store.layout import (
    POOL_GHOST_WORDS,
    RESERVE,
    SH_DUE,
    SH_ENTRIES,
    SH_VERSION,
    count_at,
)
from fastkv.store.redo import SlotChanges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from fastkv.core.changes import Changes
    from fastkv.core.engine import Engine as CompiledEngine
    from fastkv.store.arena import Arena
    from fastkv.store.ghosts import Ghosts
    from fastkv.store.index import Index
    from fastkv.store.redo import Redo
    from fastkv.store.repair import Guard
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard

# What ``Shard.append_entry`` wants free for a large value, be it the last one, and what that really takes are
# at most so many apart.
_SPARE_SEGMENTS = 4
# So many pages are split, or entries of a full bucket evicted, for the new keys of one shard.
_MOST_VACANCIES = 4096
_TOO_MANY = "Too many keys of the transaction belong to one place of the index."


class Write(NamedTuple):
    """What becomes of a key.

    Attributes:
        key: the key.
        key_hash: its hash.
        content: its value and metadata, by ``join_metadata``; None: those that it has, but with another
            deadline.
        flags: those of its record.
        version: the version.
        deadline_ms: 0 for none.
        there: whether there is an entry at all; if not, what stands above counts for nothing.
    """

    key: bytes
    key_hash: int
    content: bytes | None
    flags: int
    version: int
    deadline_ms: int
    there: bool


class _Placed(NamedTuple):
    """A write, the slot that it changes, and the word that stands there, 0 for none."""

    shard: Shard
    write: Write
    slot: int
    old: int


class Commit:
    """Publishes what transactions write."""

    __slots__ = (
        "_arena",
        "_engine",
        "_ghosts",
        "_guard",
        "_index",
        "_redo",
        "_segments",
        "_shards",
        "_words",
    )

    def __init__(
        self,
        arena: Arena,
        shards: Sequence[Shard],
        segments: Segments,
        index: Index,
        ghosts: Ghosts,
        redo: Redo,
        guard: Guard,
        engine: CompiledEngine | None = None,
    ) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            shards: its shards.
            segments: its pool.
            index: its index.
            ghosts: who was evicted not long ago.
            redo: makes several changes one.
            guard: repairs a shard.
            engine: the compiled one, where there is one: then ``fastkv.core.changes`` has the loops.
        """
        self._engine = engine
        self._arena = arena
        self._words = arena.words
        self._shards = shards
        self._segments = segments
        self._index = index
        self._ghosts = ghosts
        self._redo = redo
        self._guard = guard

    def run(self, writes: Iterable[Write], versions: Mapping[int, int]) -> int:
        """Publish. The transaction lock and the locks of all shards concerned are held, and stay so.

        Args:
            writes: each key once.
            versions: the newest version of each shard that has new ones.

        Returns:
            0; or how many segments must be free first, and then nothing has changed.

        Raises:
            StoreFull: if the keys can never stand in the index together.
        """
        writes = list(writes)
        if (changes := self.changes()) is not None and changes.take_writes(writes):
            wanted = self.run_changes(changes, versions)
            if wanted is not None:
                return wanted
        by_shard: dict[int, list[Write]] = {}
        for write in writes:
            by_shard.setdefault(self._arena.shard_of(write.key_hash), []).append(write)
        with self._recovering(by_shard):
            return self._run(by_shard, versions)

    @contextmanager
    def _recovering(self, numbers: Iterable[int]) -> Iterator[None]:
        """Treat an error like a death.

        Args:
            numbers: of the shards concerned.
        """
        try:
            yield
        except StoreFull:  # before anything was written
            raise
        except BaseException:
            self._redo.recover_or_die()
            for number in numbers:
                self._guard.repair(self._shards[number])
            raise

    def _run(self, by_shard: Mapping[int, list[Write]], versions: Mapping[int, int]) -> int:
        placed: list[_Placed] = []
        for number, writes in sorted(by_shard.items()):
            found = self._place(self._shards[number], writes)
            if found is None:
                return 1
            placed += found
        if not placed:  # what was put was deleted again
            self._spend(versions)
            return 0
        wanted = self._wanted(placed)
        if self._segments.free_count() < wanted + RESERVE:
            return wanted  # before anything is written in vain
        news = self._append(placed)
        if len(news) < len(placed):
            return wanted or 1
        self._publish(placed, news, versions)
        return 0

    # -- slots -----------------------------------------------------------------------------------------------

    def _place(self, shard: Shard, writes: Sequence[Write]) -> list[_Placed] | None:
        """Find a slot for each key of a shard; who is not there and is to go, or to be retimed, needs none.

        Returns:
            The writes that have something to change; None if the pool has no segment for a new page.
        """
        for _ in range(_MOST_VACANCIES):
            placed: list[_Placed] = []
            taken: set[int] = set()
            for write in writes:
                slot, old = self._index.locate(write.key_hash, write.key)
                if not slot and write.there and write.content is not None:
                    slot = self._index.vacancy_besides(write.key_hash, taken)
                    if not slot:
                        break
                    taken.add(slot)
                if slot:
                    placed.append(_Placed(shard, write, slot, old))
            else:
                return placed
            # What was found so far may stand elsewhere afterwards, or be gone.
            if not shard.make_vacancy(write.key_hash):
                return None
        raise StoreFull(_TOO_MANY)

    # -- records ---------------------------------------------------------------------------------------------

    def _wanted(self, placed: Sequence[_Placed]) -> int:
        """How many segments the records and the list may take."""
        wanted = self._redo.segments_for(len(placed)) if len(placed) > 1 else 0
        spare = 0
        heads: dict[tuple[int, bool], int] = {}
        for shard, write, _, old in placed:
            if not write.there:
                continue
            retimed = write.content is None
            main = shard.is_main(old) if retimed else not old and self._recalls(write)
            log = shard.number, main
            if log not in heads:
                heads[log] = shard.open_head(main=main)
            if write.content is None:
                length = shard.length(self._arena.location_of(old)) + 1
                opened, heads[log] = shard.room_after(heads[log], length)
            else:
                opened, heads[log] = shard.room_for(heads[log], write.key, write.content, write.flags)
                if shard.segments_for(len(write.key), len(write.content)) > 1:
                    spare = _SPARE_SEGMENTS
            wanted += opened
        return wanted + spare

    def _recalls(self, write: Write) -> bool:
        return self._words[POOL_GHOST_WORDS] != 0 and self._ghosts.recalls(write.key_hash)

    def _append(self, placed: Sequence[_Placed]) -> list[int]:
        """Append all records; returns the new slot words, 0 for who goes; too few if the pool ran out."""
        news: list[int] = []
        for shard, write, _, old in placed:
            new = 0
            if write.there:
                if write.content is None:
                    place = shard.append_retimed(self._arena.location_of(old), write.deadline_ms, RESERVE)
                else:
                    place = shard.append_entry(
                        write.key_hash,
                        write.key,
                        write.content,
                        write.flags,
                        write.version,
                        write.deadline_ms,
                        RESERVE,
                        main=not old and self._recalls(write),
                    )
                if not place:
                    break
                new = self._arena.word_of(write.key_hash, write.version, place)
            news.append(new)
        if len(news) == len(placed) and (
            len(placed) == 1 or self._redo.write(self._slots(placed, news).flat())
        ):
            return news
        for (shard, write, _, _), new in zip(placed, news, strict=False):
            if new:
                self._bury(shard, new, alone=write.content is None)
        return []

    def _slots(self, placed: Sequence[_Placed], news: Sequence[int]) -> SlotChanges:
        """What becomes of the slots."""
        changes = [(slot, old, new) for (_, _, slot, old), new in zip(placed, news, strict=True)]
        return SlotChanges(self._words, changes)

    def _bury(self, shard: Shard, word: int, *, alone: bool) -> None:
        """Discount a record, with its fragments unless another one has them now."""
        if alone:
            location = self._arena.location_of(word)
            self._segments.bury(shard.header, location, shard.length(location))
        else:
            shard.bury(word)

    # -- publication -----------------------------------------------------------------------------------------

    def _publish(self, placed: Sequence[_Placed], news: Sequence[int], versions: Mapping[int, int]) -> None:
        words = self._words
        shards = {each.shard.number: each.shard for each in placed}
        self._spend(versions)  # before an entry is seen
        for _, _, slot, old in placed:
            if not old:
                self._arena.mem[count_at(slot)] = 0
        for shard in shards.values():
            shard.begin_steps()
        if len(placed) > 1:
            self._redo.publish(self._slots(placed, news))
        else:
            words[placed[0].slot] = news[0]
        for (shard, write, _, old), new in zip(placed, news, strict=True):
            words[shard.header + SH_ENTRIES] += bool(new) - bool(old)
            if old:
                self._bury(shard, old, alone=bool(new) and write.content is None)
        for shard in shards.values():
            shard.end_steps()

    def _spend(self, versions: Mapping[int, int]) -> None:
        """See to it that a version which somebody was shown is never given again."""
        for number, version in versions.items():
            self._words[self._shards[number].header + SH_VERSION] = version

    # -- the same with compiled loops ------------------------------------------------------------------------

    def changes(self) -> Changes | None:
        """What takes changes for ``run_changes``; None without the compiled engine."""
        return core.changes.Changes(self._engine) if self._engine else None

    def run_changes(
        self,
        changes: Changes,
        versions: Mapping[int, int],
        clock: Callable[[], int] | None = None,
    ) -> int | None:
        """Publish what was taken; otherwise as ``run``.

        Args:
            changes: each key once.
            versions: as for ``run``.
            clock: as for ``Changes.place``.

        Returns:
            As ``run``; None if a change is not ordinary, and then nothing has changed.
        """
        with self._recovering(changes.shards):
            return self._run_changes(changes, versions, clock)

    def _run_changes(
        self, changes: Changes, versions: Mapping[int, int], clock: Callable[[], int] | None
    ) -> int | None:
        count = len(changes)
        tries: Counter[int] = Counter()
        at = 0
        while (at := changes.place(at, clock)) < count:
            if at < 0:
                return None
            shard = self._shard_of(changes, at)
            tries[shard.number] += 1
            if tries[shard.number] > _MOST_VACANCIES:
                raise StoreFull(_TOO_MANY)
            if not shard.make_vacancy(changes.hash_of(at)):
                return 1
        changed = changes.changed
        if not changed:
            self._spend(versions)
            return 0
        wanted = changes.wanted()
        if wanted < 0:
            return None
        if changed > 1:
            wanted += self._redo.segments_for(changed)
        if self._segments.free_count() < wanted + RESERVE:
            return wanted
        if not self._append_changes(changes):
            for number, word in changes.appended():
                self._shards[number].bury(word)
            return wanted or 1
        self._publish_changes(changes, versions)
        return 0

    def _append_changes(self, changes: Changes) -> bool:
        """Append all records, and write the list; False if the pool ran out."""
        at = 0
        while (at := changes.append(at)) < len(changes):
            number, main = changes.log_of(at)
            if not self._shards[number].open_segment(main=main):
                return False
        return changes.changed == 1 or self._redo.write(changes.flat())

    def _publish_changes(self, changes: Changes, versions: Mapping[int, int]) -> None:
        self._spend(versions)
        changes.begin()
        if changes.changed > 1:
            self._redo.publish(changes)
        else:
            changes.fill()
        at = 0
        while (at := changes.settle(at)) < len(changes):
            self._shard_of(changes, at).bury(changes.old_of(at))
            at += 1
        changes.end()

    def _shard_of(self, changes: Changes, number: int) -> Shard:
        return self._shards[changes.log_of(number)[0]]

    # -- everything ------------------------------------------------------------------------------------------

    def flush(self) -> int:
        """Drop all entries. The transaction lock and the locks of all shards are held, and stay so.

        Returns:
            How many they were.
        """
        words = self._words
        try:
            for shard in self._shards:
                shard.begin_steps()
            self._redo.publish_flush()
            dropped = 0
            for shard in self._shards:
                PROGRESS.made()
                dropped += words[shard.header + SH_ENTRIES]
                self._clear(shard)
                shard.end_steps()
        except BaseException:
            self._redo.recover_or_die()
            for shard in self._shards:
                self._guard.repair(shard)
            raise
        return dropped

    def flush_shard(self, shard: Shard) -> int:
        """Drop the entries of one shard, whose lock is held.

        A death in the middle leaves some of them; a failure likewise, and the shard has to be repaired.

        Returns:
            How many they were.
        """
        dropped = self._words[shard.header + SH_ENTRIES]
        with shard.several_steps():
            for page in self._index.pages(shard.number):
                self._index.make_blank(page)
            self._clear(shard)
        return dropped

    def _clear(self, shard: Shard) -> None:
        """Give back what a shard has whose slots are all empty; one page stays."""
        log = list(self._segments.log(shard.header))
        self._guard.rebuild_queue(shard, [])
        self._words[shard.header + SH_ENTRIES] = self._words[shard.header + SH_DUE] = 0
        self._segments.give_back_all(shard.number, log)
        self._index.merge(shard.header, shard.number)
