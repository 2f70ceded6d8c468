"""The table in a terminal, a part as soon as it has been measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perf.bench.rounds import Row

_NAME: Final = 24


def _show(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A table with a title, without columns that have nothing; the first goes to the left."""
    columns = [column for column in zip(head, *lines, strict=True) if any(column[1:])]
    widths = [_NAME, *(max(map(len, column)) for column in columns[1:])]
    print(f"\n{title}")
    for name, *cells in zip(*columns, strict=True):
        right = "".join(f"   {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        print(f"  {name:{widths[0]}}{right}".rstrip(), flush=True)


def _median(row: Row, name: str, pattern: str = ",.2f") -> str:
    return format(row[name]["median"], pattern) if name in row else ""


def show_rows(title: str, rows: Sequence[Row]) -> None:
    """CPU of a request."""
    lines = [
        (
            row["server"],
            _median(row, "cpu_us"),
            f"{row['cpu_us']['lower']:.2f} to {row['cpu_us']['upper']:.2f}",
            _median(row, "user_us"),
            _median(row, "system_us"),
            _median(row, "ratio"),
            _median(row, "ratio_to_one"),
            _median(row, "rps", ",.0f"),
        )
        for row in rows
    ]
    head = ("", "CPU, µs", "quartiles", "user", "system", "x ceiling", "x one worker", "requests/s")
    _show(title, head, lines)


def show_latency(title: str, rows: Sequence[Row]) -> None:
    """Latencies at a rate."""
    fields = ("p50_us", "p99_us", "p999_us", "max_us")
    lines = [
        (row["server"], *(_median(row, field, ",.0f") for field in fields), _median(row, "cpu_us"))
        for row in rows
    ]
    _show(title, ("", "p50, µs", "p99, µs", "p99.9, µs", "longest, µs", "CPU, µs"), lines)


def show_memory(rows: Sequence[Row]) -> None:
    """Memory."""
    lines = [
        (
            row["server"],
            f"{row['entries']:,}",
            f"{row['pss_bytes'] / (1 << 20):,.1f}",
            f"{row['idle_connection_bytes']:,}",
        )
        for row in rows
    ]
    _show("memory, before more is asked", ("", "entries", "PSS, MiB", "bytes of an idle connection"), lines)
