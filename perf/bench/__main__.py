"""What a request costs the server, side by side in one run.

    python -m perf.bench [--quick] [--servers fastkv,redis] [--workloads hot,put] [--rounds 5] [--save NAME]

Every server with one worker has a CPU of its own, the load generator another. Servers take turns within each
round. A run of everything is kept in perf/results/bench.json; a part is only if --save says so, and one that
was interrupted never is.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.bench import processes
from perf.bench.build import UnavailableError
from perf.bench.driver import Driver, FailedError
from perf.bench.fleet import Cpus, Fleet
from perf.bench.options import read_options
from perf.bench.printing import show_latency, show_memory, show_rows
from perf.bench.rounds import LEAST_ROOM, Bench, Plan, status
from perf.bench.servers import FASTKV, SERVERS
from perf.bench.workloads import CONNECTIONS, FOR_LATENCY, FOR_WORKERS, WORKLOADS
from perf.report import circumstances, save

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from perf.bench.rounds import Row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep it.

    Args:
        arguments: None for those of this process.

    Returns:
        An exit code.
    """
    chosen = read_options(arguments, __doc__)
    started = time.monotonic()
    try:
        result = _run(chosen)
    except UnavailableError as error:
        problem, code = str(error), 2
    except FailedError as error:
        problem, code = str(error), 1
    except KeyboardInterrupt:
        problem, code = "interrupted; nothing is kept", 130
    else:
        print(f"\n{(time.monotonic() - started) / 60:.0f} minutes.")
        if chosen.whole or chosen.save:
            print(save(chosen.save or "bench", ["httptools"], **result))
        else:
            print("A part is not kept (--save keeps it).")
        return 0
    status("")
    print(f"perf.bench: {problem}", file=sys.stderr)
    return code


def _run(chosen: argparse.Namespace) -> dict[str, Any]:
    """What is kept of a run."""
    room = processes.raise_open_files()
    if room < LEAST_ROOM:
        raise UnavailableError(f"a process may have {room:,} connections here, and {LEAST_ROOM:,} are needed")
    cpus = Cpus.share_out(os.sched_getaffinity(0))
    where = circumstances()
    print(f"{where['machine']}; {where['python']}; commit {where['commit']}")
    if cpus.one == cpus.driver:
        print("There is one CPU, which the servers and the load generator have to share.")
    with tempfile.TemporaryDirectory(prefix="fastkv-bench-") as name:
        driver = Driver(Path(name), cpus.driver, chosen.headers, percent=chosen.percent)
        with Fleet(Path(name), driver, chosen.python, chosen.keys, cpus) as fleet:
            skipped: dict[str, str] = {}
            versions = _versions(fleet, chosen.servers, skipped)
            servers = [SERVERS[server] for server in versions]
            plan = Plan(servers, chosen.rounds, chosen.seconds, chosen.latency_seconds, chosen.workers_rate)
            bench = Bench(fleet, driver, plan, skipped)
            memory = bench.memory()
            show_memory(memory)
            rows = _rows(bench, chosen, room)
            latency = _latency(bench, chosen, rows)
    for what, why in skipped.items():
        print(f"No figures of {what}: {why}")
    kept = ("rounds", "seconds", "latency_seconds", "keys", "headers", "percent")
    return {
        "servers": versions,
        "options": {name: getattr(chosen, name) for name in kept},
        "rows": rows,
        "latency": latency,
        "memory": memory,
        "skipped": skipped,
    }


def _versions(fleet: Fleet, names: Sequence[str], skipped: dict[str, str]) -> dict[str, str]:
    """Versions of those that can take part; why the others cannot goes to ``skipped``."""
    versions = {}
    for name in names:
        status(f"{name} is looked for")
        try:
            versions[name] = fleet.version(SERVERS[name])
        except UnavailableError as error:
            skipped[name] = str(error)
    status("")
    print("; ".join(f"{name} {version}" for name, version in versions.items()))
    for name, why in skipped.items():
        print(f"{name} is skipped: {why}")
    return versions


def _rows(bench: Bench, chosen: argparse.Namespace, room: int) -> list[Row]:
    """CPU of a request: each workload, the hot key on more and fewer connections, several workers.

    No process may have more than ``room`` connections.
    """
    rows: list[Row] = []
    asked = [(WORKLOADS[name], CONNECTIONS) for name in chosen.workloads]
    asked += [(WORKLOADS["hot"], count) for count in chosen.connections if "hot" in chosen.workloads]
    for workload, count in asked:
        if count > room:
            bench.skipped[f"{count:,} connections"] = f"a process may have {room:,} here"
            continue
        found = bench.rows(workload, count)
        show_rows(f"{workload.name}, {count:,} connection{'s' * (count > 1)}", found)
        rows += found
    for name in FOR_WORKERS:
        if name in chosen.workloads and (found := bench.workers_rows(WORKLOADS[name])):
            show_rows(f"{name}, {CONNECTIONS} connections, {chosen.workers_rate:,} requests a second", found)
            rows += found
    return rows


def _latency(bench: Bench, chosen: argparse.Namespace, rows: Sequence[Row]) -> list[Row]:
    """Latencies at each rate."""
    latency: list[Row] = []
    for name in FOR_LATENCY:
        saturation = {
            row["server"]: row["rps"]["median"]
            for row in rows
            if (row["workload"], row["connections"]) == (name, CONNECTIONS) and "rate" not in row
        }
        if not saturation:
            continue
        for rate in _rates(chosen.rates, saturation):
            found = bench.latency(WORKLOADS[name], rate, saturation)
            show_latency(f"{name}, {CONNECTIONS} connections, {rate:,} requests a second, open loop", found)
            latency += found
    return latency


def _rates(text: str, saturation: dict[str, float]) -> list[int]:
    """Requests a second: numbers, and per cent of what fastkv took, or the slowest if it is not there."""
    most = saturation.get(FASTKV) or min(saturation.values())
    return [
        round(most * float(word[:-1]) / 10_000) * 100 if word.endswith("%") else int(word)
        for word in text.split(",")
        if word
    ]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers are ended then too
    sys.exit(main())
