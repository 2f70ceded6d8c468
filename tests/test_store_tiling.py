"""Pages that cover the tags: what overlaps goes, what is missing is found."""

from __future__ import annotations

import random

from fastkv.store import tiling


def entries(node: int, bits: int) -> set[int]:
    """The directory entries of a node, counted one by one."""
    depth = node.bit_length() - 1
    return {entry for entry in range(1 << bits) if entry >> bits - depth == node ^ 1 << depth}


def test_clear_keeps_what_overlaps_nothing_and_holes_are_the_rest() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        bits = chance.randrange(1, 6)
        covers = [chance.randrange(2 << bits) for _ in range(chance.randrange(7))]
        spans = [entries(node, bits) if node else set() for node in covers]
        good = tiling.clear(covers, bits)
        assert good == {
            node
            for i, node in enumerate(covers)
            if spans[i] and not any(spans[i] & other for j, other in enumerate(spans) if j != i)
        }
        holes = list(tiling.holes(good))
        assert tiling.is_whole(good, bits) == (not holes)
        covered = [entry for node in (*good, *holes) for entry in entries(node, bits)]
        assert sorted(covered) == list(range(1 << bits))


def test_a_number_past_the_directory_covers_nothing() -> None:
    assert tiling.clear([0, 1 << 63, 8], 2) == set()
    assert tiling.clear([4, 5, 3], 2) == {4, 5, 3}


def test_a_page_whose_upper_half_moved_out_covers_the_lower() -> None:
    assert tiling.deepened(1, {1, 3}) == 2
    assert tiling.deepened(3, {1, 3}) == 3
    assert tiling.deepened(2, {2, 3}) == 2
