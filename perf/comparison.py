"""Tables of the servers side by side: what ``make bench`` has written to ``bench.json``, for the documents.

Whatever was not measured leaves its cell, its row or the whole table empty; nothing here fails for it.
Ratios are those of one run: within each of its rounds where the run has written them, else of medians.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from perf.markdown import Result, in_order, spread, table

if TYPE_CHECKING:
    from collections.abc import Sequence

OWN: Final = "fastkv"
CEILING: Final = "C epoll, constant reply"
_BASES: Final = (CEILING, "uvloop, constant reply", "Go fasthttp", "Redis")
TELLING: Final = ("hot", "zipf", "uniform", "put", "mix", "pipelined hot", "pipelined uniform")
"""The workloads that the README shows."""
_SHORT: Final = (OWN, *_BASES, "memcached", "uvicorn, bare ASGI", "FastAPI", "Granian", "Robyn")
_COMPARED_CONNECTIONS: Final = 64
_MIB: Final = 1 << 20

Row = dict[str, Any]


def compared(result: Result) -> dict[tuple[str, str], Row]:
    """One row for each server and workload.

    Args:
        result: of the benchmark.

    Returns:
        By server and workload the row at 64 connections; where there is none, the first.
    """
    found: dict[tuple[str, str], Row] = {}
    for row in result["rows"]:
        pair = row["server"], row["workload"]
        if pair not in found or row["connections"] == _COMPARED_CONNECTIONS:
            found[pair] = row
    return found


def by_connections(result: Result) -> dict[str, dict[str, dict[int, Row]]]:
    """The rows of what was measured with several numbers of connections.

    Args:
        result: of the benchmark.

    Returns:
        By workload, server and number of connections, of every server that has more than one number.
    """
    found: dict[str, dict[str, dict[int, Row]]] = {}
    for row in sorted(result["rows"], key=lambda row: row["connections"]):
        found.setdefault(row["workload"], {}).setdefault(row["server"], {})[row["connections"]] = row
    several = {
        workload: {name: rows for name, rows in servers.items() if len(rows) > 1}
        for workload, servers in found.items()
    }
    return {workload: servers for workload, servers in several.items() if servers}


def _filled(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table, and nothing where it would have no rows."""
    return table(head, rows) if rows else ""


def _ratio(rows: dict[tuple[str, str], Row], server: str, workload: str, base: str) -> str:
    row, other = rows.get((server, workload)), rows.get((base, workload))
    if row is None or (other is None and "ratio" not in row):
        return ""
    if base == CEILING and "ratio" in row:
        return spread(row["ratio"], 2)
    if "rate" in row:  # at a fixed rate more is waited for; who went as fast as he could says nothing to that
        return ""
    return f"{row['cpu_us']['median'] / other['cpu_us']['median']:.2f}" if other else ""


def short(result: Result) -> str:
    """µs of CPU per request: a row for each of the best known servers, a column for each telling workload."""
    rows = compared(result)
    servers = [name for name in _SHORT if any((name, workload) in rows for workload in TELLING)]
    workloads = [name for name in TELLING if any((server, name) in rows for server in servers)]
    cells = {pair: f"{row['cpu_us']['median']:.2f}" for pair, row in rows.items()}
    return _filled(
        ["µs of CPU per request", *workloads],
        [[server, *(cells.get((server, workload), "") for workload in workloads)] for server in servers],
    )


def own_ratios(result: Result) -> str:
    """What one worker costs as a share of what others do: a row for each workload."""
    rows = compared(result)
    workloads = in_order(workload for server, workload in rows if server == OWN)
    filled = [
        [
            workload,
            spread(rows[OWN, workload]["cpu_us"], 2),
            *(_ratio(rows, OWN, workload, base) for base in _BASES),
        ]
        for workload in workloads
    ]
    return _filled(["workload", "fastkv, µs", *(f"to {base}" for base in _BASES)], filled)


def cpu(result: Result) -> str:
    """CPU per request of every server, by workload, with its parts and its ratios."""
    rows = compared(result)
    bases = (CEILING, "Go fasthttp", "Redis")
    filled = [
        [
            workload,
            server,
            spread(row["cpu_us"], 2),
            *(f"{row[name]['median']:.2f}" for name in ("user_us", "system_us")),
            *(_ratio(rows, server, workload, base) for base in bases),
            spread(row["ratio_to_one"], 2) if "ratio_to_one" in row else "",
            f"{row['rps']['median']:,.0f}",
        ]
        for workload in in_order(workload for _, workload in rows)
        for (server, one), row in rows.items()
        if one == workload
    ]
    head = [
        "workload",
        "server",
        "CPU, µs",
        "user",
        "system",
        *(f"to {base}" for base in bases),
        "to one worker",
        "requests/s",
    ]
    return _filled(head, filled)


def connections(result: Result) -> str:
    """CPU per request by how many connections there are."""
    found = by_connections(result)
    counts = sorted({count for servers in found.values() for rows in servers.values() for count in rows})
    filled = [
        [workload, server, *(spread(rows[n]["cpu_us"], 2) if n in rows else "" for n in counts)]
        for workload, servers in found.items()
        for server, rows in servers.items()
    ]
    return _filled(["workload", "server", *(f"{count:,}" for count in counts)], filled)


def latency(result: Result) -> str:
    """Percentiles of the latency at a fixed rate, in ms."""
    filled = [
        [
            row["workload"],
            f"{row['connections']:,}",
            f"{row['rate']:,}",
            row["server"],
            *(spread({part: us / 1000 for part, us in row[name].items()}, 2) for name in LATENCIES),
        ]
        for row in result.get("latency", ())
    ]
    head = ["workload", "connections", "requests/s", "server", "p50, ms", "p99", "p99.9", "longest"]
    return _filled(head, filled)


LATENCIES: Final = ("p50_us", "p99_us", "p999_us", "max_us")


def footprint(result: Result) -> str:
    """Memory of the servers, and of a connection that says nothing."""
    filled = [
        [
            row["server"],
            f"{row['entries']:,}",
            f"{row['pss_bytes'] / _MIB:,.1f}",
            f"{row['idle_connection_bytes']:,}",
        ]
        for row in result.get("memory", ())
    ]
    return _filled(["server", "entries", "PSS, MiB", "bytes of an idle connection"], filled)


def absent(result: Result) -> str:
    """Who is not there, and why."""
    missing = result.get("skipped", {})
    return table(["not measured", "because"], missing.items()) if missing else "Nobody was left out.\n"
