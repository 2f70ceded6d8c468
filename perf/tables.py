"""Tables of the documents, made from the results: figures are never typed.

    python -m perf.tables            bring docs/performance.md up to date

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``. What is between them is replaced.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from perf.report import RESULTS, ROOT, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

PAGE: Final = ROOT / "docs" / "performance.md"
_PLACE: Final = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MIB: Final = 1 << 20

Result = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown.

    Args:
        head: titles of the columns.
        rows: their cells.

    Returns:
        Its lines.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def about(result: Result) -> str:
    """Where the figures come from, in a line."""
    versions = [f"{name} {version}" for name, version in result["versions"].items()]
    versions += [f"{name} {version}" for name, version in result.get("servers", {}).items()]
    where = f"{result['machine']}; {result['python']}; commit {result['commit']}"
    return f"\n<sub>{where}; {', '.join(versions)}.</sub>\n"


def _spread(figures: dict[str, float], digits: int = 0) -> str:
    """A median with its quartiles."""
    median, lower, upper = (f"{figures[name]:,.{digits}f}" for name in ("median", "lower", "upper"))
    return f"{median} ({lower} to {upper})"


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


# -- one function for each table ---------------------------------------------------------------------------


def operations(result: Result, processes: int) -> str:
    """Nanoseconds per operation: a row for each contestant, a column for each operation."""
    rows = [row for row in result["rows"] if row["processes"] == processes]
    columns = _in_order(row["operation"] for row in rows)
    cells = {(row["name"], row["operation"]): _spread(row["ns"]) for row in rows}
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
                _spread(row["room_ns"]),
                _spread(row["full_ns"]),
                _spread(row["ratio"], 2),
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


def opcodes(result: Result) -> str:
    """Bytecodes by module."""
    return table(
        ["", "bytecodes", "of them"],
        (
            [
                row["operation"],
                round(row["total"]),
                ", ".join(f"{module} {round(n)}" for module, n in row["modules"].items() if round(n) > 1),
            ]
            for row in result["opcodes"]
        ),
    )


def parts(result: Result) -> str:
    """Parts of an operation, each alone."""
    return table(
        ["", "", "ns"], ([row["operation"], row["part"], _spread(row["ns"])] for row in result["rows"])
    )


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


def hit_ratio_memo(result: Result) -> str:
    """Hit ratios with the memo and without."""
    return table(
        ["trace", "holds", "store", "with the memo", "without", "answered by it"],
        (
            [
                row["trace"],
                f"{row['share']:.0%}",
                row["geometry"],
                *(f"{row[name]:.4f}" for name in ("memo_on", "memo_off", "answered_by_memo")),
            ]
            for row in result["rows"]
        ),
    )


def memory(result: Result) -> str:
    """Entries before the first eviction, and how much of the budget their keys and values are."""
    systems = _in_order(row["system"] for row in result["rows"] if "--" not in row["system"])
    cells = {
        (
            row["shape"],
            row["system"],
        ): f"{row['entries']:,} ({row['payload_bytes'] / result['memory_bytes']:.2f})"
        for row in result["rows"]
    }
    shapes = _in_order(row["shape"] for row in result["rows"])
    return table(
        ["key/value bytes", *systems],
        ([shape, *(cells.get((shape, system), "") for system in systems)] for shape in shapes),
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
                *(_spread(row[name], 1) for name in ("reply_ms", "first_ms", "last_ms")),
                _spread(row["cpu_us"], 2),
            ]
            for row in result["rows"]
        ),
    )


def websocket(result: Result) -> str:
    """µs of the server's CPU for each command."""
    return table(["", "µs of CPU a command"], ([row["kind"], _spread(row, 2)] for row in result["rows"]))


def websocket_ratios(result: Result) -> str:
    """One kind's cost as a share of another's, within a round."""
    return table(["", "ratio"], ([row["kind"], _spread(row, 2)] for row in result["ratios"]))


def autobahn(result: Result) -> str:
    """Cases of each group, by how they were."""
    offers = _in_order(row["offer"] for row in result["rows"])

    def cell(group: str, offer: str) -> str:
        found = [row for row in result["rows"] if (row["group"], row["offer"]) == (group, offer)]
        return ", ".join(f"{row['cases']} {row['behaviour']}" for row in found)

    groups = sorted(_in_order(row["group"] for row in result["rows"]), key=int)
    titles = ["group", *(f"{offer}, autobahntestsuite {result['suite']}" for offer in offers)]
    return table(titles, ([group, *(cell(group, offer) for offer in offers)] for group in groups))


TABLES: Final[dict[str, tuple[str, Callable[[Result], str]]]] = {
    "operations-1": ("operations", lambda result: operations(result, 1)),
    "operations-2": ("operations", lambda result: operations(result, 2)),
    "room": ("room", room),
    "steps": ("steps", steps),
    "opcodes": ("parts", opcodes),
    "parts": ("parts", parts),
    "hit-ratio": ("hit_ratio", hit_ratio),
    "hit-ratio-memo": ("hit_ratio_memo", hit_ratio_memo),
    "memory": ("memory", memory),
    "pss": ("memory", pss),
    "pubsub": ("pubsub", pubsub),
    "websocket": ("websocket", websocket),
    "websocket-ratios": ("websocket", websocket_ratios),
    "autobahn": ("autobahn", autobahn),
}
"""Tables by name: the result that each is made from, and how."""


def render(page: str) -> str:
    """Bring the tables of a page up to date.

    Args:
        page: its text.

    Returns:
        The text with every table as the results have it.

    Raises:
        KeyError: if there is no table of a name that stands there.
        OSError: if there is no result for it.
    """

    def fresh(place: re.Match[str]) -> str:
        name, make = TABLES[place[2]]
        result = load(RESULTS / f"{name}.json")
        return place[1] + make(result) + about(result) + place[3]

    return _PLACE.sub(fresh, page)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
