"""The hashes of a clean stop tell which segments are damaged, wherever the damage is."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from kept_helpers import THEN, fill, reopen

from fastkv.store import digests
from fastkv.store.datafile import DataDirectory
from fastkv.store.layout import (
    LOG_STATES,
    PAGE,
    SB_DIGEST,
    SEG_HEAD,
    SEG_STATE,
    SEGMENT_ROW,
    SUPERBLOCK_WORDS,
    WORD,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_every_damage_that_counts_is_seen_and_no_other(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    store, keeper = reopen(directory)
    fill(store)
    assert store.settle(THEN)
    arena, geometry = keeper.arena, store.geometry
    assert digests.compare(arena) == set()
    chance = random.Random(1)
    table = geometry.table_at * WORD
    seen = {"tables": 0, "segments": 0, "nothing": 0}
    for _ in range(3000):
        byte = chance.choice(
            [chance.randrange(geometry.memory_bytes), chance.randrange(geometry.digests_at * 8)]
        )
        segment = byte // geometry.segment_bytes
        row = geometry.table_at + segment * SEGMENT_ROW
        state, head = store.words[row + SEG_STATE] & 0xFF, store.words[row + SEG_HEAD]
        mask = 1 << chance.randrange(8)
        arena.counts[byte] ^= mask
        lost = digests.compare(arena)
        if SB_DIGEST * WORD <= byte < SUPERBLOCK_WORDS * WORD:
            assert lost == set() or byte < (SB_DIGEST + 1) * WORD
        elif byte < geometry.digests_at * WORD:
            assert lost
            assert segment in lost
            if table <= byte < table + geometry.segments * SEGMENT_ROW * WORD:
                assert (byte - table) // (SEGMENT_ROW * WORD) in lost
            seen["tables"] += 1
        elif geometry.digests_at * WORD <= byte < (geometry.digests_at + geometry.segments) * WORD:
            assert lost is None
        elif state == PAGE or (state in LOG_STATES and byte % geometry.segment_bytes < head * WORD):
            assert lost == {segment}
            seen["segments"] += 1
        else:
            assert lost == set()
            seen["nothing"] += 1
        arena.counts[byte] ^= mask
    assert min(seen.values()) > 100
    store.close()
    directory.close()


def test_there_may_be_no_time(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    store, keeper = reopen(directory)
    assert not store.settle(THEN, lambda: False)
    assert keeper.arena.words[SB_DIGEST] == 0
    store.close()
    directory.close()
