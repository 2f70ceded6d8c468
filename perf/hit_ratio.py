"""The store's hit ratio on traces, beside exact S3-FIFO and LRU at the same number of entries.

    python -m perf.hit_ratio TRACE.txt.gz …

replays each trace through stores of several geometries that hold 1% and 10% of its objects: GET, and PUT on a
miss, entries of one size.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perf.replay import Geometry, through_store
from perf.report import save
from perf.simulators import lru, s3fifo
from perf.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_KIB: Final = 1 << 10
_SHARES: Final = (0.01, 0.1)
_LEAST_MEMORY: Final = 1 << 20
_FEWEST_SEGMENTS: Final = 64
# Room for an entry: more would make most entries larger than a segment, less would leave none for a value.
_ENTRY_BYTES: Final = 160


def geometries(entries: int, share: float) -> Iterator[Geometry]:
    """The stores in which a trace is replayed.

    Args:
        entries: how many they have to hold.
        share: of the trace's objects; so few as 1% are not divided among several shards.

    Yields:
        Geometries, with at least 64 segments.
    """
    for shards in (1, 4) if share > _SHARES[0] else (1,):
        for segment_bytes in (4 * _KIB, 16 * _KIB):
            least = max(_LEAST_MEMORY, _FEWEST_SEGMENTS * segment_bytes, entries * _ENTRY_BYTES)
            yield Geometry(shards, segment_bytes, -(-least // segment_bytes))


def compare(trace: Sequence[int], geometry: Geometry, value_bytes: int) -> dict[str, Any]:
    """Replay a trace through a store, and simulate caches that hold as many entries.

    Args:
        trace: object ids.
        geometry: the store's measures.
        value_bytes: of every entry.

    Returns:
        A row of figures: the mean number of entries, the hit ratios, and what is wrong with the store.
    """
    replay = through_store(trace, geometry, value_bytes)
    entries = round(replay.entries)
    return {
        "geometry": str(geometry),
        "value_bytes": value_bytes,
        "entries": entries,
        "store": replay.hit_ratio,
        "s3fifo": s3fifo(trace, entries),
        "lru": lru(trace, entries),
        "problems": replay.problems,
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="The store's hit ratio on traces.")
    parser.add_argument("traces", nargs="+", type=Path, help="one object id a line, gzipped or not")
    parser.add_argument("--share", type=float, nargs="+", default=_SHARES, help="of the objects to hold")
    parser.add_argument("--save", action="store_true", help="write perf/results/hit_ratio.json")
    chosen = parser.parse_args()
    rows = []
    for path in chosen.traces:
        trace = read_trace(path)
        objects = len(set(trace))
        for share in chosen.share:
            entries = int(objects * share)
            for geometry in geometries(entries, share):
                row = {
                    "trace": path.name.split(".")[0],
                    "requests": len(trace),
                    "objects": objects,
                    "share": share,
                    **compare(trace, geometry, geometry.value_bytes(entries)),
                }
                rows.append(row)
                print(*(f"{value:.4f}" if isinstance(value, float) else value for value in row.values()))
    if chosen.save:
        save("hit_ratio", rows=rows)


if __name__ == "__main__":
    main()
