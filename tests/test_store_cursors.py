"""Cursors: every place has one, a double holds it, and no other store takes it."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from store_helpers import KIB, MIB, SEED

from fastkv.errors import StartError, WrongCursor
from fastkv.options import Size
from fastkv.settings import OPTIONS
from fastkv.store.cursors import MOST_BITS, START, Cursors, Place
from fastkv.store.layout import Geometry

(MOST_MEMORY,) = [
    option.kind.high for option in OPTIONS if option.field == "memory_bytes" and isinstance(option.kind, Size)
]
SHARDS = [None, *[1 << bits for bits in range(13)]]
SEGMENTS = [None, *[KIB << bits for bits in range(2, 9)]]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """All that the settings allow, small and large ones alike."""
    most = 1 << draw(st.integers(20, 37))
    memory_bytes = draw(st.integers(MIB, min(most, MOST_MEMORY)))
    try:
        return Geometry.plan(memory_bytes, draw(st.sampled_from(SHARDS)), draw(st.sampled_from(SEGMENTS)))
    except StartError:
        assume(False)
        raise


@st.composite
def places(draw: st.DrawFn) -> tuple[Geometry, Place]:
    """A geometry and a place in it, the first and the last ones often."""
    geometry = draw(geometries())
    bounds = (geometry.shards, 1 << geometry.directory_bits, geometry.segment_words)
    return geometry, Place(*[draw(st.integers(0, n - 1) | st.sampled_from([0, n - 1])) for n in bounds])


@given(places(), st.integers(0, (1 << 64) - 1))
def test_a_cursor_is_the_place_that_it_was_made_of(here: tuple[Geometry, Place], seed: int) -> None:
    geometry, place = here
    assume(place != START)
    cursors = Cursors(geometry, seed)
    cursor = cursors.encode(place)
    assert 0 < cursor < 1 << MOST_BITS
    assert int(float(cursor)) == int(f"{float(cursor):.14g}") == cursor
    assert cursors.decode(cursor) == place


@pytest.mark.parametrize(("shards", "segment_bytes"), [*product(SHARDS, SEGMENTS)])
def test_the_largest_cursor_of_the_largest_memory(shards: int | None, segment_bytes: int | None) -> None:
    geometry = Geometry.plan(MOST_MEMORY, shards, segment_bytes)
    last = Place(geometry.shards - 1, (1 << geometry.directory_bits) - 1, geometry.segment_words - 1)
    cursors = Cursors(geometry, SEED)
    assert cursors.encode(last) < 1 << MOST_BITS < 1 << 53
    assert cursors.decode(cursors.encode(last)) == last


def test_a_cursor_is_as_large_as_its_place_needs() -> None:
    geometry = Geometry.plan(64 * MIB, 1024, 4 * KIB)
    assert (geometry.directory_bits, geometry.segment_words) == (5, 512)
    cursors = Cursors(geometry, SEED)
    sizes = [
        (Place(1, 0, 0), 12),
        (Place(1023, 0, 0), 21),
        (Place(0, 0, 1), 22),
        (Place(1023, 0, 511), 30),
        (Place(0, 0b10000, 0), 31),  # the upper half of the tags: the second page of a shard
        (Place(0, 0b00001, 0), 35),
    ]
    assert [cursors.encode(place).bit_length() for place, _ in sizes] == [bits for _, bits in sizes]


def test_the_start_is_0_and_no_other_cursor() -> None:
    cursors = Cursors(Geometry.plan(MIB), SEED)
    assert cursors.decode(0) == START
    for cursor in range(1, 1 << 11):
        with pytest.raises(WrongCursor):
            cursors.decode(cursor)


def test_what_is_no_place_is_refused() -> None:
    geometry = Geometry.plan(MIB)
    cursors = Cursors(geometry, SEED)
    last = cursors.encode(
        Place(geometry.shards - 1, (1 << geometry.directory_bits) - 1, geometry.segment_words - 1)
    )
    for cursor in (last + (1 << 11), last | 1 << MOST_BITS, last | 1 << 64, -last, last - (1 << 70)):
        with pytest.raises(WrongCursor):
            cursors.decode(cursor)


def test_cursors_of_other_stores_are_refused() -> None:
    """All but one of 2,047: of 8,188 stores four would be the average."""
    geometry = Geometry.plan(MIB)
    cursor = Cursors(geometry, SEED).encode(Place(0, 0, 1))
    taken = 0
    for seed in range(8188):
        try:
            taken += Cursors(geometry, seed).decode(cursor) == Place(0, 0, 1)
        except WrongCursor:
            continue
    assert 0 < taken < 16
