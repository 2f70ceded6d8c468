"""Charts of the documents, made from the results: docs/charts/NAME.svg. One function for each."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from perf.comparison import OWN, by_connections, compared
from perf.plots import Bar, Series, dots, lines, stacked_bars
from perf.report import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from perf.markdown import Result

FOLDER: Final = ROOT / "docs" / "charts"
_TORN: Final = 5
"""Bars may be so many times as long as fastkv's: the fast ones are told apart then."""
_PERCENTILES: Final = {"p50": "p50_us", "p99": "p99_us", "p99.9": "p999_us"}


def _is_own(server: str) -> bool:
    return server.startswith(OWN)


def cpu(result: Result, workload: str) -> str:
    """CPU per request of each server, the cheapest first; nothing where the workload was not measured."""
    # At a fixed rate more is waited for: beside those who go as fast as they can that would be no comparison.
    rows = [row for (_, one), row in compared(result).items() if one == workload and "rate" not in row]
    if not rows:
        return ""
    bars = [
        Bar(
            row["server"],
            [row[part]["median"] for part in ("user_us", "system_us")],
            _is_own(row["server"]),
        )
        for row in sorted(rows, key=lambda row: row["user_us"]["median"] + row["system_us"]["median"])
    ]
    own = [sum(bar.parts) for bar in bars if bar.own]
    limit = _TORN * max(own) if own else max(sum(bar.parts) for bar in bars)
    title = f"CPU per request: {_TITLES[workload]}"
    return stacked_bars(title, "µs of the server's CPU per request, medians", ("user", "system"), bars, limit)


_TITLES: Final = {
    "hot": "GET of one key",
    "zipf": "GET, keys by Zipf's law",
    "uniform": "GET, all keys alike",
    "put": "PUT",
}


def latency(result: Result) -> str:
    """Percentiles of each server's latency, a panel for each load; nothing where none was measured."""
    panels: dict[str, list[Series]] = {}
    for row in result.get("latency", ()):
        what = _TITLES.get(row["workload"], row["workload"])
        heading = f"{what}, {row['connections']:,} connections, {row['rate']:,} requests/s"
        values = [row[name]["median"] / 1000 for name in _PERCENTILES.values()]
        panels.setdefault(heading, []).append(Series(row["server"], values, _is_own(row["server"])))
    if not panels:
        return ""
    ordered = [
        (heading, sorted(rows, key=lambda row: row.values[-1] or 0)) for heading, rows in panels.items()
    ]
    return dots("Latency at a fixed rate", "ms, logarithmic", list(_PERCENTILES), ordered)


def connections(result: Result) -> str:
    """CPU per request by connections, of the workload that most servers have; nothing without one."""
    found = by_connections(result)
    if not found:
        return ""
    workload = max(found, key=lambda name: len(found[name]))
    counts = sorted({count for rows in found[workload].values() for count in rows})
    rows = [
        Series(server, [rows[n]["cpu_us"]["median"] if n in rows else None for n in counts], _is_own(server))
        for server, rows in sorted(found[workload].items(), key=lambda each: _is_own(each[0]))
    ]  # fastkv's are drawn last, above the others
    return lines(
        f"CPU per request by connections: {_TITLES.get(workload, workload)}",
        "µs of the server's CPU per request, medians, logarithmic",
        "connections",
        [f"{count:,}" for count in counts],
        rows,
    )


CHARTS: Final[dict[str, tuple[str, str, Callable[[Result], str]]]] = {
    **{
        f"cpu-{workload}": (
            "bench",
            f"CPU per request of each server: {title}",
            partial(cpu, workload=workload),
        )
        for workload, title in _TITLES.items()
    },
    "latency": ("bench", "Latency of each server at a fixed rate: p50, p99, p99.9", latency),
    "connections": ("bench", "CPU per request by number of connections", connections),
}
"""Charts by name: the result that each is made from, what it is for who does not see it, and how."""
