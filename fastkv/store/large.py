"""Values in fragments, copied out a few at a time: to copy a large one takes longer than others can wait.

In: a key. Out: where its value lies, and then its bytes, into memory of the caller. No lock is held, and
nothing keeps the value where it is: who finds it replaced in the middle begins anew.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from fastkv.store.layout import MAX_SEGMENT
from fastkv.store.reading import Entry, has_expired
from fastkv.store.records import (
    CALLER_FLAGS,
    LARGE,
    head_bytes,
    parse_pieces,
    parse_record,
    split_metadata,
    unpack_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.steps import Steps
    from fastkv.store.arena import Arena
    from fastkv.store.index import Index

STEP_BYTES: Final = 1 << 20
"""A step ends behind so many bytes: 0.2 ms, or 0.8 in ordinary pages that nobody has touched."""


class LargeValue(NamedTuple):
    """A value that was found in fragments.

    Attributes:
        entry: its entry, with an empty value.
        size: bytes of the value.
        pieces: where its fragments lie, in order.
    """

    entry: Entry
    size: int
    pieces: tuple[int, ...]


class LargeReader:
    """Finds values in fragments, and copies them."""

    __slots__ = ("_arena", "_index")

    def __init__(self, arena: Arena, index: Index) -> None:
        """Bind to a store.

        Args:
            arena: the arena.
            index: its index.
        """
        self._arena = arena
        self._index = index

    def find(self, key: bytes, clock: Callable[[], int]) -> LargeValue | None:
        """Look a key up; an access to its entry is counted if it is found.

        Args:
            key: the key.
            clock: milliseconds now; called only if the entry has a deadline.

        Returns:
            The value; None if ``Engine.get`` has to say what there is: nothing, or a value in one piece, or
            something that changes right now.
        """
        arena = self._arena
        key_hash = arena.hash_of(key)
        shard = arena.shard_of(key_hash)
        sequence = arena.sequence_of(shard)
        if sequence & 1:
            return None
        try:
            slot, word = self._index.locate(key_hash, key)
            if not slot:
                return None
            _, content, flags, version, deadline_ms = parse_record(arena.mem, arena.location_of(word) << 3)
            if not flags & LARGE:
                return None
            listed, metadata = split_metadata(content, flags)
            size, *pieces = parse_pieces(listed)
        except (struct.error, ValueError, IndexError):
            return None  # what it followed was overwritten meanwhile
        if size > arena.geometry.longest_value:
            return None  # damaged
        entry = b"", flags & CALLER_FLAGS, version, deadline_ms, slot, word, metadata
        if has_expired(entry, clock) or not self._stands(entry) or arena.sequence_of(shard) != sequence:
            return None
        arena.count_access(slot)
        return LargeValue(entry, size, tuple(pieces))

    def copy(self, value: LargeValue, start: int, target: memoryview) -> Steps[bool]:
        """Copy a part of a value.

        Args:
            value: as ``find`` returned it.
            start: where the part begins, in bytes; with as many as the target has it ends within the value.
            target: where it is copied to.

        Returns:
            False if the entry was changed meanwhile: then anything may stand in the target.
        """
        source, at, copied = self._arena.counts, -start, 0
        for piece in value.pieces:
            try:
                _, flags, size, _ = unpack_head(self._arena.mem, piece << 3)
                if size > MAX_SEGMENT or not self._stands(value.entry):
                    return False
                first, last = max(at, 0), min(at + size, len(target))
                if first < last:
                    begin = (piece << 3) + head_bytes(flags) + first - at
                    target[first:last] = source[begin : begin + last - first]
                    copied += last - first
            except (struct.error, OverflowError, ValueError):
                return False  # a damaged list leads out of the arena
            at += size
            if copied >= STEP_BYTES:
                copied = 0
                yield None
        return at == value.size - start and self._stands(value.entry)

    def _stands(self, entry: Entry) -> bool:
        """Whether an entry is what it was; then its fragments are, too."""
        return self._arena.words[entry[4]] == entry[5]
