"""The store keeps what is worth it: as much as exact S3-FIFO, and not less than LRU."""

from pathlib import Path

import pytest
from store_helpers import KIB

from perf.hit_ratio import compare, geometries
from perf.replay import Geometry
from perf.traces import MADE, make_trace, read_trace

# By what the store may fall behind exact S3-FIFO at equal occupancy.
TOLERANCE = 0.005
SEED = 1

WITHIN = [Geometry(shards, size, 1024 * KIB // size) for shards in (1, 4) for size in (4 * KIB, 16 * KIB)]
ACROSS_BYTES = 9000


def verify(name: str, geometry: Geometry, value_bytes: int, entries: int, rounds: int) -> None:
    row = compare(make_trace(name, entries, rounds * entries, SEED), geometry, value_bytes)
    assert row["problems"] == []
    assert row["store"] >= row["s3fifo"] - TOLERANCE
    if row["s3fifo"] >= row["lru"]:
        assert row["store"] >= row["lru"]


@pytest.mark.parametrize("geometry", WITHIN, ids=str)
@pytest.mark.parametrize("name", MADE)
def test_entries_within_a_segment(name: str, geometry: Geometry) -> None:
    verify(name, geometry, geometry.value_bytes(1000), 1000, rounds=40)


@pytest.mark.parametrize(("name", "shards"), [("scans", 1), ("scans", 4), ("loops", 4)])
def test_entries_of_several_segments(name: str, shards: int) -> None:
    geometry = Geometry(shards, 4 * KIB, 2560)
    verify(name, geometry, ACROSS_BYTES, geometry.memory_bytes * 93 // 100 // ACROSS_BYTES, rounds=20)


@pytest.mark.parametrize(("entries", "share"), [(137, 0.01), (1375, 0.1), (18_688, 0.1), (200_000, 0.01)])
def test_geometries_have_room_for_the_entries_and_64_segments(entries: int, share: float) -> None:
    found = list(geometries(entries, share))
    assert all(geometry.segments >= 64 for geometry in found)
    assert all(geometry.value_bytes(entries) >= 1 for geometry in found)
    assert {geometry.shards for geometry in found} == ({1} if share == 0.01 else {1, 4})


def test_a_file_has_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("b\na\nb\n17\n")
    assert read_trace(path) == [0, 1, 0, 2]
