"""Tables and charts of the documents, made from the results: figures are never typed.

    python -m perf.tables            bring README.md, docs/performance.md and docs/charts up to date

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``, a chart between ``<!-- chart: name -->``
and ``<!-- end -->``. What is between them is replaced. Where there is no result, a sentence stands there
that says so, and there is no file of the chart.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

from perf import comparison
from perf.charts import CHARTS, FOLDER
from perf.markdown import Result, about, in_order, spread, table
from perf.report import RESULTS, ROOT, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

PAGES: Final = (ROOT / "README.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "packing.md")
_PLACE: Final = re.compile(r"(<!-- (table|chart): ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MIB: Final = 1 << 20
_NO_RESULT: Final = "Not measured yet: `make bench`.\n"
_NO_ROWS: Final = "The last run of `make bench` has nothing of that.\n"


# -- one function for each table; those of bench.json are in comparison.py ----------------------------------


def operations(result: Result, processes: int) -> str:
    """Nanoseconds per operation: a row for each contestant, a column for each operation."""
    rows = [row for row in result["rows"] if row["processes"] == processes]
    columns = in_order(row["operation"] for row in rows)
    cells = {(row["name"], row["operation"]): spread(row["ns"]) for row in rows}
    entries = {row["name"]: row["entries"] for row in rows}
    return table(
        ["", "entries", *columns],
        (
            [name, f"{count:,}", *(cells.get((name, each), "") for each in columns)]
            for name, count in entries.items()
        ),
    )


def room(result: Result) -> str:
    """A put without room beside one with room."""
    return table(
        ["", "with room, ns", "without, ns", "ratio", "of the means", "evicted for each put", "moved"],
        (
            [
                row["mix"],
                spread(row["room_ns"]),
                spread(row["full_ns"]),
                spread(row["ratio"], 2),
                f"{row['ratio_of_means']:.2f}",
                f"{row['evicted_per_put']:.2f}",
                f"{row['moved_per_put']:.2f}",
            ]
            for row in result["rows"]
        ),
    )


def steps(result: Result) -> str:
    """The longest single steps."""
    return table(
        ["values", "segments", "step", "n", "median, ms", "p99.9", "longest", "longer than 5 ms"],
        (
            [
                row["load"],
                f"{row['segment_bytes'] >> 10} KiB",
                row["step"],
                f"{row['n']:,}",
                *(f"{row[name]:.3f}" for name in ("median_ms", "p999_ms", "max_ms")),
                f"{row['over_5_ms']:,}",
            ]
            for row in result["rows"]
        ),
    )


def instructions(result: Result) -> str:
    """Instructions of a request in both implementations, and the ratio of the core's to a constant reply."""
    counts = {(row["implementation"], row["path"]): row["instructions"] for row in result["rows"]}
    references = result["references"]
    rows = [
        [
            row["path"],
            f"{row['instructions']:,.0f}",
            f"{row['ratio']:.3f}",
            f"{counts['readable', row['path']]:,.0f}" if ("readable", row["path"]) in counts else "",
        ]
        for row in result["rows"]
        if row["implementation"] == "compiled"
    ]
    return table(
        ["", "compiled", "to a constant reply", "readable"],
        [
            *rows,
            ["uvloop, a constant reply", f"{references['compiled']:,.0f}", "1.000", ""],
            ["a turn of the reference loop", "", "", f"{references['readable']:,.0f}"],
        ],
    )


def pauses(result: Result) -> str:
    """The longest steps of a worker's event loop."""
    return _pauses(row for row in result["rows"] if not row["entries"])


def pauses_of_commands(result: Result) -> str:
    """The same of single commands, in a store that is not small."""
    return _pauses(row for row in result["rows"] if row["entries"] and not row["step"].startswith(_ASIDE))


# Steps that have nothing to do with what is asked for.
_ASIDE: Final = ("tick", "connections", "looking", "…")


def _pauses(rows: Iterable[dict[str, Any]]) -> str:
    return table(
        ["load", "step", "n", "median, ms", "p99.9", "longest", "longer than 5 ms"],
        (
            [
                row["load"],
                row["step"],
                f"{row['n']:,}",
                *(f"{row[name]:.3f}" for name in ("median_ms", "p999_ms", "max_ms")),
                f"{row['over_5_ms']:,}",
            ]
            for row in rows
        ),
    )


def bulk(result: Result) -> str:
    """CPU of bulk work beside Redis."""
    return table(
        ["", "fastkv, ms", "Redis, ms", "ratio (range)"],
        (
            [
                row["row"],
                *(f"{row[name]:,.1f}" for name in ("fastkv_ms", "redis_ms")),
                "{median:.2f} ({least:.2f} to {greatest:.2f})".format(**row["ratio"]),
            ]
            for row in result["rows"]
        ),
    )


def requests(result: Result) -> str:
    """The parser and replies."""
    return table(["", "", "ns"], ([row["part"], row["case"], spread(row["ns"])] for row in result["rows"]))


def hit_ratio(result: Result) -> str:
    """Hit ratios of the store beside those of simulators."""
    return table(
        ["trace", "holds", "store", "entries", "hit ratio", "S3-FIFO", "difference", "LRU"],
        (
            [
                row["trace"],
                f"{row['share']:.0%}",
                row["geometry"],
                f"{row['entries']:,}",
                *(f"{row[name]:.4f}" for name in ("store", "s3fifo")),
                f"{row['store'] - row['s3fifo']:+.4f}",
                f"{row['lru']:.4f}",
            ]
            for row in result["rows"]
        ),
    )


def memory(result: Result) -> str:
    """Entries before the first eviction, and how much of the budget their keys and values are."""
    systems = in_order(row["system"] for row in result["rows"] if "--" not in row["system"])
    cells = {
        (
            row["shape"],
            row["system"],
        ): f"{row['entries']:,} ({row['payload_bytes'] / result['memory_bytes']:.2f})"
        for row in result["rows"]
    }
    shapes = in_order(row["shape"] for row in result["rows"])
    return table(
        ["key/value bytes", *systems],
        ([shape, *(cells.get((shape, system), "") for system in systems)] for shape in shapes),
    )


def memory_bytes(result: Result) -> str:
    """What the bytes of a budget are for, for each entry, at two moments."""
    rows = result["rows"]

    def line(purpose: str, spent: list[int]) -> list[str]:
        shares = (f"{count / row['entries']:.2f}" for count, row in zip(spent, rows, strict=True))
        return [purpose, *shares, *(f"{count:,}" for count in spent)]

    moments = [row["moment"] for row in rows]
    return table(
        [
            "bytes",
            *(f"an entry, {moment}" for moment in moments),
            *(f"in all, {moment}" for moment in moments),
        ],
        [
            *(line(purpose, [row["bytes"][purpose] for row in rows]) for purpose in rows[0]["bytes"]),
            line("**together**", [sum(row["bytes"].values()) for row in rows]),
            ["**entries**", "", "", *(f"{row['entries']:,}" for row in rows)],
        ],
    )


def pss(result: Result) -> str:
    """What the filled process trees take."""
    return table(
        ["key/value bytes", "", "entries", "PSS, MiB"],
        (
            [row["shape"], row["system"], f"{row['entries']:,}", f"{row['pss_bytes'] / _MIB:.1f}"]
            for row in result["rows"]
            if "pss_bytes" in row and row["shape"] == result["rows"][0]["shape"]
        ),
    )


def pubsub(result: Result) -> str:
    """The fan-out of a message."""
    return table(
        [
            "",
            "subscribers",
            "PUBLISH answered, ms",
            "first has it, ms",
            "last has it, ms",
            "CPU for each, µs",
        ],
        (
            [
                row["name"],
                f"{row['subscribers']:,}",
                *(spread(row[name], 1) for name in ("reply_ms", "first_ms", "last_ms")),
                spread(row["cpu_us"], 2),
            ]
            for row in result["rows"]
        ),
    )


def websocket(result: Result) -> str:
    """µs of the server's CPU for each command."""
    return table(["", "µs of CPU a command"], ([row["kind"], spread(row, 2)] for row in result["rows"]))


def websocket_ratios(result: Result) -> str:
    """One kind's cost as a share of another's, within a round."""
    return table(["", "ratio"], ([row["kind"], spread(row, 2)] for row in result["ratios"]))


def autobahn(result: Result) -> str:
    """Cases of each group, by how they were."""
    offers = in_order(row["offer"] for row in result["rows"])

    def cell(group: str, offer: str) -> str:
        found = [row for row in result["rows"] if (row["group"], row["offer"]) == (group, offer)]
        return ", ".join(f"{row['cases']} {row['behaviour']}" for row in found)

    groups = sorted(in_order(row["group"] for row in result["rows"]), key=int)
    titles = ["group", *(f"{offer}, autobahntestsuite {result['suite']}" for offer in offers)]
    return table(titles, ([group, *(cell(group, offer) for offer in offers)] for group in groups))


TABLES: Final[dict[str, tuple[str, Callable[[Result], str]]]] = {
    "operations-1": ("operations", lambda result: operations(result, 1)),
    "operations-2": ("operations", lambda result: operations(result, 2)),
    "room": ("room", room),
    "steps": ("steps", steps),
    "instructions": ("instructions", instructions),
    "bulk": ("bulk", bulk),
    "pauses": ("pauses", pauses),
    "pauses-of-commands": ("pauses", pauses_of_commands),
    "requests": ("requests", requests),
    "hit-ratio": ("hit_ratio", hit_ratio),
    "memory": ("memory", memory),
    "pss": ("memory", pss),
    "memory-bytes": ("memory-bytes", memory_bytes),
    "pubsub": ("pubsub", pubsub),
    "websocket": ("websocket", websocket),
    "websocket-ratios": ("websocket", websocket_ratios),
    "autobahn": ("autobahn", autobahn),
    "cpu-short": ("bench", comparison.short),
    "cpu-own": ("bench", comparison.own_ratios),
    "cpu-beside": ("beside", comparison.own_ratios),
    "cpu": ("bench", comparison.cpu),
    "connections": ("bench", comparison.connections),
    "latency": ("bench", comparison.latency),
    "footprint": ("bench", comparison.footprint),
    "absent": ("bench", comparison.absent),
}
"""Tables by name: the result that each is made from, and how."""


def _result(name: str) -> Result | None:
    """A result; None for that of ``make bench`` before its first run."""
    path = RESULTS / f"{name}.json"
    return None if name == "bench" and not path.exists() else load(path)


def charts() -> dict[Path, str]:
    """All charts that the results have figures for, by their files."""
    drawn: dict[Path, str] = {}
    for name, (source, _, draw) in CHARTS.items():
        result = _result(source)
        if result and (picture := draw(result)):
            drawn[FOLDER / f"{name}.svg"] = picture
    return drawn


def render(page: str, folder: Path) -> str:
    """Bring the tables and the charts of a page up to date.

    Args:
        page: its text.
        folder: where it stands: links to the charts begin there.

    Returns:
        The text with everything as the results have it.

    Raises:
        KeyError: if there is no table or chart of a name that stands there.
        OSError: if there is no result for it.
    """

    def fresh(place: re.Match[str]) -> str:
        opening, kind, name, closing = place.groups()
        return opening + (_table(name) if kind == "table" else _chart(name, folder)) + closing

    return _PLACE.sub(fresh, page)


def _table(name: str) -> str:
    source, make = TABLES[name]
    if (result := _result(source)) is None:
        return _NO_RESULT
    made = make(result)
    return made + about(result) if made else _NO_ROWS


def _chart(name: str, folder: Path) -> str:
    source, words, draw = CHARTS[name]
    if (result := _result(source)) is None:
        return _NO_RESULT
    if not draw(result):
        return _NO_ROWS
    return f"![{words}]({os.path.relpath(FOLDER / name, folder)}.svg)\n"


def main() -> None:
    """Write the pages and the charts, and remove charts that nothing is there for any more."""
    drawn = charts()
    if drawn:
        FOLDER.mkdir(exist_ok=True)
    for path in set(FOLDER.glob("*.svg")) - set(drawn):
        path.unlink()
    for path, picture in drawn.items():
        path.write_text(picture)
    for page in PAGES:
        page.write_text(render(page.read_text(), page.parent))


if __name__ == "__main__":
    main()
