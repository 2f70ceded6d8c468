"""Tables of the benchmark: figures of a made-up run are where they belong, what is missing is empty."""

from collections.abc import Callable
from typing import Any

import pytest
from perf_sample import SERVERS, WORKLOADS, sample

from perf.charts import CHARTS
from perf.comparison import (
    absent,
    by_connections,
    compared,
    connections,
    cpu,
    footprint,
    latency,
    own_ratios,
    short,
)

TABLES = (short, own_ratios, cpu, connections, latency, footprint)
MAKERS = (*TABLES, *(draw for _, _, draw in CHARTS.values()))


def cells(made: str) -> list[list[str]]:
    """The cells of a table, its head first."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in made.splitlines()]
    assert len({len(line) for line in lines}) == 1
    return [lines[0], *lines[2:]]


def test_rows_are_compared_at_64_connections_or_at_the_first_number() -> None:
    result = sample()
    assert {row["connections"] for row in compared(result).values()} == {64}
    result["rows"] = [row for row in result["rows"] if row["connections"] > 64]
    assert {row["connections"] for row in compared(result).values()} == {1024}


def test_the_short_table_has_a_column_for_each_telling_workload() -> None:
    head, *rows = cells(short(sample()))
    assert head[1:] == ["hot", "zipf", "uniform", "put", "mix", "pipelined hot", "pipelined uniform"]
    assert [row[0] for row in rows][:3] == ["fastkv", "C epoll, constant reply", "uvloop, constant reply"]
    by_server = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert by_server["FastAPI"]["hot"] == "187.00"
    assert by_server["fastkv"]["pipelined hot"] == "1.48"


def test_ratios_are_those_of_the_rounds_or_of_the_medians() -> None:
    head, *rows = cells(own_ratios(sample()))
    by_workload = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert set(by_workload) == set(WORKLOADS)
    hot, put = by_workload["hot"], by_workload["put"]
    assert hot["fastkv, µs"] == "7.40 (7.18 to 7.84)"
    assert hot["to C epoll, constant reply"] == "1.19 (1.16 to 1.27)"
    assert put["to C epoll, constant reply"] == "1.19"  # no ratio in its row
    assert hot["to Redis"] == "1.07"
    assert hot["to Go fasthttp"] == "0.65"


def test_every_server_is_in_the_long_table_with_every_workload() -> None:
    head, *rows = cells(cpu(sample()))
    assert {(row[1], row[0]) for row in rows} == {(server, one) for server in SERVERS for one in WORKLOADS}
    redis = next(dict(zip(head, row, strict=True)) for row in rows if row[:2] == ["zipf", "Redis"])
    assert redis["user"] == "3.59"
    assert redis["system"] == "5.38"
    assert redis["to Redis"] == "1.00"
    assert redis["requests/s"] == f"{1e6 / 6.9 / 1.3:,.0f}"


def test_connections_are_columns() -> None:
    head, *rows = cells(connections(sample()))
    assert head == ["workload", "server", "1", "64", "1,024", "8,192"]
    assert {(row[0], row[1]) for row in rows} == {("hot", server) for server in SERVERS}
    assert [row[2].split()[0] for row in rows if row[1] == "fastkv"] == ["11.84"]


def test_who_was_measured_with_one_number_of_connections_is_not_in_that_table() -> None:
    result = sample()
    result["rows"] = [
        row for row in result["rows"] if row["server"] != "Redis" or row["connections"] in (64, 8192)
    ]
    assert list(by_connections(result)["hot"]["Redis"]) == [64, 8192]
    result["rows"] = [row for row in result["rows"] if row["server"] != "Redis" or row["connections"] == 64]
    assert "Redis" not in by_connections(result)["hot"]


def test_latencies_are_milliseconds() -> None:
    head, *rows = cells(latency(sample()))
    row = next(dict(zip(head, row, strict=True)) for row in rows if row[3] == "Redis")
    assert row["p50, ms"] == "0.14 (0.13 to 0.15)"
    assert row["requests/s"] == "20,000"


def test_memory_is_shown_in_mib_and_connections_in_bytes() -> None:
    rows = cells(footprint(sample()))
    assert ["fastkv", "1,000,000", "141.1", "6,660"] in rows


def test_who_is_absent_is_named_with_the_reason() -> None:
    assert "| socketify | it does not install here |" in absent(sample())
    assert absent({**sample(), "skipped": {}}) == "Nobody was left out.\n"


def test_a_run_without_anything_gives_nothing() -> None:
    empty: list[dict[str, Any]] = [{"rows": []}, {"rows": [], "latency": [], "memory": [], "skipped": {}}]
    for result in empty:
        assert [make(result) for make in MAKERS] == [""] * len(MAKERS)


def without_server(name: str) -> Callable[[dict[str, Any]], None]:
    def remove(result: dict[str, Any]) -> None:
        for part in ("rows", "latency", "memory"):
            result[part] = [row for row in result[part] if row["server"] != name]

    return remove


def only_server(name: str) -> Callable[[dict[str, Any]], None]:
    def remove(result: dict[str, Any]) -> None:
        for part in ("rows", "latency", "memory"):
            result[part] = [row for row in result[part] if row["server"] == name]

    return remove


def without_ratios(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        row.pop("ratio", None)


@pytest.mark.parametrize(
    "change",
    [
        *(without_server(name) for name in SERVERS),
        *(only_server(name) for name in SERVERS),
        without_ratios,
    ],
)
def test_whoever_is_missing_nothing_fails(change: Callable[[dict[str, Any]], None]) -> None:
    result = sample()
    change(result)
    there = {row["server"] for row in result["rows"]}
    for make in TABLES:
        cells(make(result) or "| empty |\n| --- |\n")
    shown = {row[1] for row in cells(cpu(result))[1:]}
    assert shown == there
    for _, _, draw in CHARTS.values():
        assert all(name in draw(result) for name in there)
