"""Going through a segment: each record that is alive stays, moves to the main queue, or goes.

Eviction, cleaning and expiry are this one loop with another rule. For each record the key is hashed, its slot
looked at, the slot emptied or its word replaced. The segment's and the shard's counters change once, at the
end. Everything here runs under the shard's lock.

Where there is a compiled core it goes through the ordinary records (``fastkv.core.sweep``), and this loop
looks at each one that it leaves. As long as something listens to what is removed, all are looked at here.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

from fastkv.store.layout import (
    BUCKET_WORDS,
    CLOSED,
    COUNT_MAX,
    HIGH_SHIFT,
    MAIN_STATES,
    OFFSET_BITS,
    OPEN,
    OPEN_MAIN,
    SEG_DEAD,
    SEG_HEAD,
    SEG_STATE,
    SH_ENTRIES,
    SH_EVICTED,
    SH_EXPIRED,
    TAG_MASK,
    WORD,
    count_at,
)
from fastkv.store.records import (
    CHECKSUM_BYTES,
    DEADLINE,
    FRAGMENT,
    LARGE,
    head_bytes,
    parse_record,
    unpack_deadline,
    unpack_head,
)
from fastkv.store.removals import EVICTED, EXPIRED

if TYPE_CHECKING:
    from fastkv.core import sweep as compiled
    from fastkv.store.arena import Arena
    from fastkv.store.ghosts import Ghosts
    from fastkv.store.index import Index
    from fastkv.store.segments import Segments
    from fastkv.store.shard import Shard

LEAVE: Final = -1
KEEP_ALL: Final = 0
SECOND_CHANCE: Final = 1
PROMOTE: Final = 2
KEEP_NONE: Final = COUNT_MAX + 1
"""Rules: the access count from which a record moves to the main queue; who has a lower one is evicted.
S3-FIFO promotes from the small queue at 2 and starts again at 0; the main queue takes 1 for each second
chance. ``LEAVE`` looks for what has expired and touches nothing else."""


class Swept(NamedTuple):
    """How far a sweep came.

    Attributes:
        location: where to go on, 0 if the segment was swept to its end.
        looks: how many records were looked at.
        stuck: whether a record could not be moved, because the pool has no segment for it.
    """

    location: int
    looks: int
    stuck: bool


class _Part:
    """The part of a segment that is swept, and what has become of it so far.

    Attributes:
        base: where the segment begins.
        location: where the next record lies.
        end: where there are no more.
        looks: how many may be looked at, from here on.
        moves: how many may be moved.
        dead: words that are dead now, to be counted.
        expired: entries that have expired.
        evicted: the hashes of the keys of those that were evicted.
        stuck: whether the next record could not be moved.
    """

    __slots__ = ("base", "dead", "end", "evicted", "expired", "location", "looks", "moves", "stuck")

    def __init__(self, base: int, location: int, end: int, looks: int, moves: int) -> None:
        self.base = base
        self.location = location
        self.end = end
        self.looks = looks
        self.moves = moves
        self.dead = self.expired = 0
        self.evicted = array("Q")
        self.stuck = False

    @property
    def goes_on(self) -> bool:
        """Whether there is more to look at."""
        return self.location < self.end and self.looks > 0 and self.moves > 0 and not self.stuck


class Sweep:
    """Sweeps the segments of all shards.

    Attributes:
        compiled: sweeps what is ordinary; None where there is no compiled core.
    """

    __slots__ = (
        "_arena",
        "_ghosts",
        "_index",
        "_segments",
        "compiled",
    )

    def __init__(self, arena: Arena, segments: Segments, index: Index, ghosts: Ghosts) -> None:
        """Bind to an arena.

        Args:
            arena: the arena.
            segments: its pool.
            index: its index.
            ghosts: told who was evicted from a small queue.
        """
        self._arena = arena
        self._segments = segments
        self._index = index
        self._ghosts = ghosts
        self.compiled: compiled.Sweeper | None = None

    def run(
        self,
        shard: Shard,
        segment: int,
        rule: int,
        now_ms: int,
        *,
        location: int = 0,
        looks: int,
        moves: int,
        deadlines: list[int] | None = None,
    ) -> Swept:
        """Sweep a segment, or a part of it. What has expired goes under every rule.

        Args:
            shard: its owner, whose lock is held.
            segment: a segment of its log.
            rule: from which access count a record is kept.
            now_ms: now.
            location: where to begin; 0 for the segment's beginning.
            looks: how many records to look at.
            moves: how many of them to move.
            deadlines: where to note those that have not passed, of the dead as well, as in `Plan.fresh`.

        Returns:
            How far it came. A closed segment in which nothing is left is given back.
        """
        words = self._arena.words
        row = self._segments.row(segment)
        state = words[row + SEG_STATE]
        main = state & 0xFF in MAIN_STATES
        # Open, the segment is not freed under our feet when an entry with several records is dropped.
        words[row + SEG_STATE] = shard.number << 8 | (OPEN_MAIN if main else OPEN)
        base = self._segments.base(segment)
        part = _Part(base, location or base, base + words[row + SEG_HEAD], looks, moves)
        compiled = None if self._arena.removals.wanted[0] else self.compiled
        while part.goes_on:
            if compiled is not None:
                part.location, part.looks, part.moves, dead, expired, evicted = compiled.stretch(
                    shard.number,
                    segment,
                    rule,
                    rule == PROMOTE,
                    now_ms,
                    part.location,
                    part.end,
                    part.looks,
                    part.moves,
                    deadlines,
                )
                part.dead += dead
                part.expired += expired
                part.evicted.frombytes(evicted)
            if part.goes_on:
                self._look(shard, rule, now_ms, part, part.looks if compiled is None else 1, deadlines)
        header = shard.header
        words[header + SH_ENTRIES] -= len(part.evicted) + part.expired
        words[header + SH_EVICTED] += len(part.evicted)
        words[header + SH_EXPIRED] += part.expired
        words[row + SEG_DEAD] += part.dead
        words[row + SEG_STATE] = state
        if state & 0xFF >= CLOSED:
            # What an eviction has begun with it will go on with; nobody has to clean it.
            self._segments.free_if_dead(header, segment, evicted=rule > KEEP_ALL)
        if not main:
            (self._ghosts if compiled is None else compiled).remember(part.evicted)
        return Swept(0 if part.location >= part.end else part.location, looks - part.looks, part.stuck)

    def _look(
        self, shard: Shard, rule: int, now_ms: int, part: _Part, looks: int, deadlines: list[int] | None
    ) -> None:
        """Go through records of any kind.

        Args:
            shard: the owner.
            rule: as for ``run``.
            now_ms: now.
            part: where; it is kept up to date.
            looks: how many to look at.
            deadlines: as for ``run``.
        """
        words, mem, counts = self._arena.words, self._arena.mem, self._arena.counts
        geometry, hash_of, directory = self._arena.geometry, self._arena.hash_of, self._index.directory
        location_mask, bucket_mask = geometry.location_mask, geometry.bucket_mask
        entry_mask, entry_shift = geometry.entry_mask, geometry.entry_shift
        base, location, end, moves = part.base, part.location, part.end, part.moves
        evicted, removals = part.evicted, self._arena.removals
        looked = dead = expired = 0
        leave, listened = rule == LEAVE, removals.wanted[0]
        stuck = False
        while location < end and looked < looks:
            looked += 1
            here = location
            at = here << 3
            key_len, flags, value_len, version = unpack_head(mem, at)
            at += head_bytes(flags)
            deadline_ms, past = 0, False
            if flags & (DEADLINE | LARGE | FRAGMENT):
                if flags & DEADLINE:
                    (deadline_ms,) = unpack_deadline(mem, at - WORD)
                    past = deadline_ms <= now_ms
                    if deadlines is not None and not past:
                        deadlines.append(deadline_ms << OFFSET_BITS | here - base)
                if flags & (LARGE | FRAGMENT):
                    location = at + key_len + value_len + CHECKSUM_BYTES + 7 >> 3
                    key_hash = version if flags & FRAGMENT else hash_of(mem[at : at + key_len])
                    stuck = self._large(shard, key_hash, here, flags, rule, now_ms)
                    moves -= 1
                    if stuck or not moves:
                        break
                    continue
            location = at + key_len + value_len + CHECKSUM_BYTES + 7 >> 3
            if leave and not past:
                continue
            key_hash = hash_of(mem[at : at + key_len])
            # The key's home slot, or else wherever it stands.
            high = key_hash >> HIGH_SHIFT
            slot = directory[(key_hash & entry_mask) >> entry_shift] + (high & bucket_mask) + (high & 7 or 7)
            word = words[slot]
            if word & location_mask != here:
                slot, word = self._slot_of(key_hash, here)
                if not slot:
                    continue
            place = (slot & -8) << 3 | slot & 7  # ``count_at``
            if past:
                expired += 1
            elif counts[place] < rule:
                evicted.append(key_hash)
            elif shard.relocate(slot, word, here, location - here, deadline_ms):
                counts[place] = counts[place] - rule if rule != PROMOTE else 0
                dead += location - here
                moves -= 1
                if not moves:
                    break
                continue
            elif rule == KEEP_ALL:
                stuck = True
                break
            else:
                evicted.append(key_hash)
            words[slot] = 0
            dead += location - here
            if listened:
                removals.note(EXPIRED if past else EVICTED, mem[at : at + key_len])
        part.location = here if stuck else location
        part.looks -= looked
        part.moves = moves
        part.dead += dead
        part.expired += expired
        part.stuck = stuck

    def _slot_of(self, key_hash: int, location: int) -> tuple[int, int]:
        """The slot and word that refer to a record, zeros if none does."""
        words, find = self._arena.words, self._arena.mem.find
        tag = (key_hash & TAG_MASK).to_bytes(2, "little")
        # The first slot with the tag in a bucket is nearly always the only one; ``candidates`` has all.
        for bucket in self._index.buckets(key_hash):
            slot = find(tag, (bucket << 3) + WORD, (bucket + BUCKET_WORDS) << 3) >> 3
            if slot >= 0 and self._arena.location_of(words[slot]) == location:
                return slot, words[slot]
        for slot, word in self._index.candidates(key_hash):
            if self._arena.location_of(word) == location:
                return slot, word
        return 0, 0

    def _large(self, shard: Shard, key_hash: int, here: int, flags: int, rule: int, now_ms: int) -> bool:
        """Treat a record of a large entry. Its first fragment decides for the whole entry; the rest follows.

        Args:
            shard: the owner.
            key_hash: the hash of its key.
            here: where the record lies: the entry's own or a fragment.
            flags: its flags.
            rule: as for ``run``.
            now_ms: now.

        Returns:
            True if it had to be moved and could not be.
        """
        words, counts = self._arena.words, self._arena.counts
        slot, word = (
            self._owner_of(shard, key_hash, here) if flags & FRAGMENT else self._slot_of(key_hash, here)
        )
        if not slot:
            return False
        owner = self._arena.location_of(word)
        key, _, _, _, deadline_ms = parse_record(self._arena.mem, owner << 3)
        removals = self._arena.removals
        if 0 < deadline_ms <= now_ms:
            shard.expire(slot, word, key)
            return False
        if rule == LEAVE:
            return False
        keep = rule != KEEP_NONE
        if keep and flags & FRAGMENT and shard.pieces(owner)[0] == here:
            place = count_at(slot)
            keep = counts[place] >= rule
            if keep:
                counts[place] = counts[place] - rule if rule != PROMOTE else 0
        if keep:
            if flags & FRAGMENT:
                if shard.relocate_piece(slot, word, here):
                    return False
            elif shard.relocate(slot, word, here, length := shard.length(here), deadline_ms):
                self._segments.bury(shard.header, here, length, evicted=True)
                return False
            if rule == KEEP_ALL:
                return True
        shard.drop(slot, word, evicted=True)
        words[shard.header + SH_EVICTED] += 1
        if removals.wanted[0]:
            removals.note(EVICTED, key)
        if rule == PROMOTE:
            self._ghosts.remember([key_hash])
        return False

    def _owner_of(self, shard: Shard, key_hash: int, piece: int) -> tuple[int, int]:
        """The slot and word of the entry that a fragment belongs to, zeros if there is none any more."""
        for slot, word in self._index.candidates(key_hash):
            location = self._arena.location_of(word)
            _, _, flags, _, _ = parse_record(self._arena.mem, location << 3)
            if flags & LARGE and piece in shard.pieces(location):
                return slot, word
        return 0, 0
