"""The measures of an arena: everything fits, nothing overlaps, and what cannot be is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastkv
from fastkv.errors import StartError
from fastkv.store.arena import Arena
from fastkv.store.layout import (
    MAGIC,
    MAX_SEGMENT,
    MIN_MEMORY,
    MIN_SEGMENT,
    RESERVE,
    SB_MAGIC,
    SB_MEMORY,
    SB_SEGMENT,
    SB_SHARDS,
    SEGMENT_ROW,
    SHARD_WORDS,
    SUPERBLOCK_WORDS,
    TAG_BITS,
    WORD,
    Geometry,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# memory: (shards, segment bytes), as the store chooses them
CHOICES: dict[int, tuple[int, int]] = {
    MIB: (4, 4 * KIB),
    8 * MIB: (4, 32 * KIB),
    16 * MIB: (4, 64 * KIB),
    256 * MIB: (64, 64 * KIB),
    16 * GIB: (1024, 64 * KIB),
    64 * GIB: (1024, 256 * KIB),
}

# name: (memory, shards, segment bytes)
REFUSED: dict[str, tuple[int, int | None, int | None]] = {
    "less than the least memory": (MIN_MEMORY - 1, None, None),
    "nothing": (0, 1, MIN_SEGMENT),
    "too many shards": (MIB, 64, MIN_SEGMENT),
    "too few segments": (MIB, 1, MAX_SEGMENT),
}


@pytest.mark.parametrize("memory", CHOICES)
def test_the_store_chooses_shards_and_segments(memory: int) -> None:
    geometry = Geometry.plan(memory)
    assert (geometry.shards, geometry.segment_bytes) == CHOICES[memory]
    assert geometry.memory_bytes == memory


@pytest.mark.parametrize("name", REFUSED)
def test_too_little_memory_is_refused_with_what_would_do(name: str) -> None:
    memory, shards, segment_bytes = REFUSED[name]
    with pytest.raises(StartError, match=r"^--memory: .* give at least \d+mb, or fewer shards\.$") as refusal:
        Geometry.plan(memory, shards, segment_bytes)
    enough = int(str(refusal.value).split("give at least ")[1].split("mb")[0]) << 20
    assert Geometry.plan(enough, shards, segment_bytes).memory_bytes <= enough


@settings(max_examples=200)
@given(
    st.integers(MIB, 1 << 38),
    st.one_of(st.none(), st.integers(0, 12).map(lambda bits: 1 << bits)),
    st.one_of(st.none(), st.integers(12, 18).map(lambda bits: 1 << bits)),
)
def test_tables_do_not_overlap_and_everything_is_within_the_budget(
    memory: int, shards: int | None, segment_bytes: int | None
) -> None:
    try:
        geometry = Geometry.plan(memory, shards, segment_bytes)
    except StartError:
        return
    assert memory - geometry.segment_bytes < geometry.memory_bytes <= memory
    assert geometry.memory_bytes == geometry.segments * geometry.segment_bytes
    assert geometry.sequences_at == SUPERBLOCK_WORDS
    assert geometry.shards_at == geometry.sequences_at + geometry.shards
    assert geometry.directory_at == geometry.shards_at + geometry.shards * SHARD_WORDS
    assert geometry.table_at == geometry.directory_at + (geometry.shards << geometry.directory_bits)
    end = geometry.table_at + geometry.segments * SEGMENT_ROW
    assert end * WORD <= geometry.first_segment * geometry.segment_bytes
    assert geometry.segments - geometry.first_segment >= 4 * geometry.shards + RESERVE
    # A slot word has room for the tag, the location and some generations.
    assert geometry.memory_bytes // WORD <= 1 << geometry.location_bits
    assert TAG_BITS + geometry.location_bits + geometry.version_bits + geometry.generation_bits == 64
    assert 5 <= geometry.version_bits <= geometry.generation_bits
    assert 1 <= geometry.directory_bits <= TAG_BITS


def test_an_arena_starts_with_its_superblock_and_is_empty_else() -> None:
    geometry = Geometry.plan(MIB)
    arena = Arena(geometry)
    measures = [arena.words[at] for at in (SB_MAGIC, SB_MEMORY, SB_SEGMENT, SB_SHARDS)]
    assert measures == [MAGIC, MIB, geometry.segment_bytes, geometry.shards]
    assert len(arena.mem) == MIB
    assert not any(arena.words[SUPERBLOCK_WORDS:].tolist())
    arena.close()


def test_more_than_the_address_space_is_refused() -> None:
    with pytest.raises(StartError, match="cannot be mapped"):
        Arena(Geometry(1 << 60, MAX_SEGMENT, 1, 1, (1 << 60) // MAX_SEGMENT, 1))


def test_only_the_store_knows_its_layout() -> None:
    """The rest of the package goes through what ``fastkv.store`` offers; the core is made for the layout."""
    package = Path(fastkv.__file__).parent
    inside = [package / "store", package / "core"]
    knowing = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if not any(room in path.parents for room in inside)
        and re.search(r"fastkv\.store\.(layout|arena)\b|store\.(words|counts)\b", path.read_text())
    ]
    assert knowing == []
