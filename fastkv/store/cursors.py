"""The cursor of a walk as one number: which shard, which page of it, which word of that page.

In: a place of a store of this geometry. Out: a cursor, and back. Raises: ``WrongCursor``.

Many clients keep numbers in an IEEE double, which is exact below 2 ** 53, and Lua writes them with 14 digits.
A cursor is below 2 ** 46 in every geometry, and has 14 digits at most. Its parts stand in the order in which
a store needs them, the lowest first: a mark of the store, the shard, the word in the page, and the directory
entry with its bits reversed (a page that covers few leading bits has a small number then). So only a shard
with many entries has cursors that are longer than mark and shard.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from fastkv.errors import WrongCursor

if TYPE_CHECKING:
    from fastkv.store.layout import Geometry

MOST_BITS: Final = 46
"""Bits of the largest cursor."""

# What the largest places (35 bits: 128 GiB in segments of 4 KiB) leave of them.
_MARK_BITS: Final = 11
_MARK_MASK: Final = (1 << _MARK_BITS) - 1


class Place(NamedTuple):
    """A place in the order of a walk.

    Attributes:
        shard: number of the shard.
        entry: entry of the shard's directory, which names the page.
        word: a word of the page.
    """

    shard: int
    entry: int
    word: int


START: Final = Place(0, 0, 0)
"""Where a walk begins; its cursor is 0."""


class Cursors:
    """Encodes and decodes the cursors of one store."""

    __slots__ = ("_entry_bits", "_mark", "_shard_bits", "_word_bits")

    def __init__(self, geometry: Geometry, seed: int) -> None:
        """Choose the mark of a store.

        Args:
            geometry: the measures of its arena.
            seed: seed of its keys' hashes.
        """
        self._shard_bits = geometry.shards.bit_length() - 1
        self._word_bits = geometry.segment_shift
        self._entry_bits = geometry.directory_bits
        # In another store the same place means other keys. A digest, because clients see cursors, and the
        # seed has to stay secret. Never 0: a cursor of 0 is the end.
        name = struct.pack("<4Q", seed, geometry.memory_bytes, geometry.shards, geometry.segment_bytes)
        self._mark = 1 + int.from_bytes(sha256(name).digest()[:8]) % _MARK_MASK

    def encode(self, place: Place) -> int:
        """The cursor of a place.

        Args:
            place: any but ``START``, where no walk goes on.

        Returns:
            A number from 1 to 2 ** ``MOST_BITS`` - 1.
        """
        number = _reversed(place.entry, self._entry_bits)
        number = number << self._word_bits | place.word
        number = number << self._shard_bits | place.shard
        return number << _MARK_BITS | self._mark

    def decode(self, cursor: int) -> Place:
        """The place of a cursor; ``START`` of 0.

        Raises:
            WrongCursor: if it is none of this store's. A cursor of another store passes in one of 2,047
                cases, if there is such a place here.
        """
        if not cursor:
            return START
        number = cursor >> _MARK_BITS
        shard = number & (1 << self._shard_bits) - 1
        number >>= self._shard_bits
        word = number & (1 << self._word_bits) - 1
        entry = number >> self._word_bits
        place = START
        if (
            0 < cursor < 1 << MOST_BITS
            and cursor & _MARK_MASK == self._mark
            and not entry >> self._entry_bits
        ):
            place = Place(shard, _reversed(entry, self._entry_bits), word)
        if place == START:
            raise WrongCursor("The cursor is none of this store's.")
        return place


def _reversed(entry: int, bits: int) -> int:
    """The bits of a number in reverse order, the highest one lowest."""
    return int(f"{entry:0{bits}b}"[::-1], 2)
