"""Measures and clocks in a file: read back as they were written, or known to be damaged."""

from __future__ import annotations

import random

import pytest
from kept_helpers import GEOMETRY, THEN
from store_helpers import SEED

from fastkv.store.arena import Arena
from fastkv.store.layout import LAYOUT_VERSION, SB_LAYOUT, SB_MAGIC, SB_MEMORY, SB_SEED, WORD, Geometry
from fastkv.store.superblock import (
    HEAD_BYTES,
    Measures,
    Moment,
    Saved,
    read_clock,
    read_measures,
    save_clock,
    seal,
)

FIRST = Saved(THEN.boot_id, 7, -5, 1000, 10**12)
SECOND = FIRST._replace(arena_ms=1500, wall_ms=10**12 + 500)


def head(*saved: Saved) -> bytearray:
    """The first bytes of an arena, whose clocks showed this."""
    arena = Arena(GEOMETRY)
    seal(arena, SEED)
    for copy, one in enumerate(saved):
        save_clock(arena, copy, one)
    return bytearray(arena.mem[:HEAD_BYTES])


@pytest.mark.parametrize("memory_bytes", [1 << 20, (1 << 20) + 4095, 100_000_000, (1 << 30) + 17, 40 << 30])
def test_measures_are_read_back(memory_bytes: int) -> None:
    geometry = Geometry.plan(memory_bytes)
    again = Geometry.plan(geometry.memory_bytes, geometry.shards, geometry.segment_bytes)
    assert again == geometry
    if memory_bytes < 1 << 27:
        arena = Arena(geometry)
        seal(arena, SEED)
        assert read_measures(arena.mem[:HEAD_BYTES]) == Measures(LAYOUT_VERSION, geometry)
        arena.close()


@pytest.mark.parametrize("word", range(SB_SEED + 2))
def test_damaged_measures_are_none(word: int) -> None:
    for bit in range(64):
        content = head()
        content[word * WORD + bit // 8] ^= 1 << bit % 8
        assert isinstance(read_measures(bytes(content)), str), bit


def test_why_there_are_no_measures() -> None:
    content = head()
    assert read_measures(bytes(content[:100])) == "is too short for one"
    content[SB_MEMORY * WORD] ^= 1
    assert read_measures(bytes(content)) == "has a damaged superblock"
    content = head()
    content[SB_MAGIC * WORD + 7] = content[SB_LAYOUT * WORD] = 99
    assert "has layout version 99, and this release reads" in str(read_measures(bytes(content)))


def test_the_later_clock_counts_and_the_other_one_where_it_is_damaged() -> None:
    assert read_clock(bytes(head(FIRST, SECOND))) == SECOND
    assert read_clock(bytes(head(SECOND, FIRST))) == SECOND
    chance = random.Random(1)
    written = head(FIRST, SECOND)
    places = [at for at in range(HEAD_BYTES) if head()[at] != written[at]]
    for _ in range(500):
        content = bytearray(written)
        content[chance.choice(places)] ^= 1 << chance.randrange(8)
        assert read_clock(bytes(content)) in (FIRST, SECOND)
    content = bytearray(written)
    for at in places:
        content[at] ^= 255
    assert read_clock(bytes(content)) is None


@pytest.mark.parametrize(
    ("now", "offset_ms"),
    [
        (Moment(THEN.boot_id, 2000, 10**12 + 10), -5),  # the wall clock was put back
        (Moment(THEN.boot_id, 2000, 10**15), -5),  # or on
        (Moment(2, 300, 10**12 + 10_500), 11_200),  # 10 s later, 300 ms after another boot
        (Moment(2, 300, 10**12 - 10**9), 1200),  # the wall clock was put back meanwhile: no time has passed
        (Moment(2, 10**9, 10**12 + 500), 1500 - 10**9),
        (Moment(THEN.boot_id, 100, 10**12 + 600), 1500),  # of another time namespace
        (Moment(0, 100, 10**12 + 500), 1400),
    ],
)
def test_the_clock_goes_on(now: Moment, offset_ms: int) -> None:
    assert SECOND.offset_at(now) == offset_ms


def test_where_no_boot_id_is_known_no_boot_is_the_same() -> None:
    saved = SECOND._replace(boot_id=0)
    assert saved.offset_at(Moment(0, 2000, 10**12 + 600)) == 1600 - 2000
