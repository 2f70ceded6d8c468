"""What a request costs the server, side by side in one run.

    python -m perf.bench [--quick] [--servers fastkv,redis] [--workloads hot,put] [--rounds 5]

Every server with one worker has a CPU of its own, the load generator another. Servers take turns within each
round. A run of everything is kept in perf/results/bench.json; a part is only if --save says so, and one that
was interrupted never is.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perf.bench import processes
from perf.bench.build import UnavailableError
from perf.bench.driver import Driver, FailedError
from perf.bench.fleet import Cpus, Fleet
from perf.bench.printing import show_latency, show_memory, show_rows
from perf.bench.rounds import Bench, Plan, status
from perf.bench.servers import FASTKV, SERVERS
from perf.bench.wires import HEADERS
from perf.bench.workloads import CONNECTIONS, FOR_LATENCY, FOR_WORKERS, MORE_CONNECTIONS, WORKLOADS
from perf.report import ROOT, circumstances, save

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_RIVALS_PYTHON: Final = ROOT / ".venv-bench" / "bin" / "python"
_QUICK: Final[dict[str, Any]] = {
    "workloads": ["hot", "uniform", "put", "pipelined hot"],
    "connections": [],
    "rounds": 1,
    "seconds": 0.5,
    "latency_seconds": 1.0,
    "keys": 96_000,
}
_FULL: Final[dict[str, Any]] = {
    "workloads": list(WORKLOADS),
    "connections": list(MORE_CONNECTIONS),
    "rounds": 3,
    "seconds": 1.0,
    "latency_seconds": 3.0,
    "keys": 1_000_000,
}


def _choice(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads names that stand in a list, separated by commas."""

    def read(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"none is called {name!r}; there are: {','.join(known)}")
        return chosen

    return read


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def _read_options() -> argparse.Namespace:
    by_word = {server.word: server.name for server in SERVERS.values()}
    parser = argparse.ArgumentParser(
        prog="perf.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--servers", type=_choice(by_word), help=",".join(by_word))
    add("--workloads", type=_choice(WORKLOADS), help=",".join(WORKLOADS))
    add("--connections", type=_numbers, help="beside 64, for hot")
    add("--rounds", type=int)
    add("--seconds", type=float, help="of a turn")
    add("--latency-seconds", type=float, help="of a turn at a fixed rate")
    add("--keys", type=int, help="that each server is filled with")
    add(
        "--rates",
        default="3000,60%",
        help="for latencies; per cent: of what fastkv takes",
    )
    add("--workers-rate", type=int, default=20_000, help="for several workers")
    add("--headers", choices=HEADERS, default="plain", help="what a request carries")
    add("--percent", action="store_true", help="percent-encode the keys")
    add("--python", default=str(_RIVALS_PYTHON), help="the interpreter that has the Python rivals")
    add("--quick", action="store_true", help="a first look, in a minute or two")
    add("--save", action="store_true", help="keep a part too")
    chosen = parser.parse_args()
    chosen.whole = not (
        chosen.quick or chosen.servers or chosen.workloads or chosen.percent or chosen.headers != "plain"
    )
    chosen.servers = [by_word[word] for word in chosen.servers or by_word]
    for name, value in (_QUICK if chosen.quick else _FULL).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def _present(fleet: Fleet, names: Sequence[str], skipped: dict[str, str]) -> dict[str, str]:
    """Versions of those that can take part; why the others cannot goes to ``skipped``."""
    versions = {}
    for name in names:
        status(f"{name} is looked for")
        try:
            versions[name] = fleet.version(SERVERS[name])
        except UnavailableError as error:
            skipped[name] = str(error)
    status("")
    return versions


def _measure(bench: Bench, plan: Plan, chosen: argparse.Namespace, room: int) -> dict[str, Any]:
    """Everything that was chosen, printed as it comes.

    Raises:
        FailedError: if fastkv failed.
    """
    memory: list[dict[str, Any]] = []
    for server in list(plan.servers):
        if server.process_of:
            continue
        try:
            memory.append(bench.memory(server))
        except (UnavailableError, FailedError) as error:
            if server.name.startswith(FASTKV):
                raise FailedError(f"{server.name}: {error}") from error
            bench.skipped[server.name] = str(error)
            plan.servers.remove(server)
    show_memory(memory)
    rows: list[dict[str, Any]] = []
    saturation: dict[str, dict[str, float]] = {}
    asked = [(WORKLOADS[name], CONNECTIONS) for name in chosen.workloads]
    asked += [(WORKLOADS["hot"], count) for count in chosen.connections if "hot" in chosen.workloads]
    for workload, count in asked:
        if count > room:
            bench.skipped[f"{count:,} connections"] = f"a process may have {room:,} here"
            continue
        found = bench.rows(workload, count)
        if count == CONNECTIONS:
            saturation[workload.name] = {row["server"]: row["rps"]["median"] for row in found}
        show_rows(f"{workload.name}, {count:,} connection{'s' * (count > 1)}", found)
        rows += found
    for name in FOR_WORKERS:
        if name in chosen.workloads and (found := bench.workers_rows(WORKLOADS[name])):
            show_rows(f"{name}, {CONNECTIONS} connections, {plan.workers_rate:,} requests a second", found)
            rows += found
    latency: list[dict[str, Any]] = []
    for name in FOR_LATENCY:
        if name not in chosen.workloads:
            continue
        for rate in _rates(chosen.rates, saturation[name]):
            found = bench.latency(WORKLOADS[name], rate, saturation[name])
            show_latency(f"{name}, {CONNECTIONS} connections, {rate:,} requests a second, open loop", found)
            latency += found
    return {"rows": rows, "latency": latency, "memory": memory, "skipped": bench.skipped}


def _rates(text: str, saturation: dict[str, float]) -> list[int]:
    """Requests a second: numbers, and per cent of what fastkv took, or the slowest if it is not there."""
    most = saturation.get(FASTKV) or min(saturation.values())
    return [
        int(most * float(word[:-1]) / 100 / 500) * 500 if word.endswith("%") else int(word)
        for word in text.split(",")
        if word
    ]


def main() -> int:
    """Measure, print, and keep it."""
    chosen = _read_options()
    room = processes.raise_open_files()
    cpus = Cpus.share_out(os.sched_getaffinity(0))
    where = circumstances()
    started = time.monotonic()
    print(f"{where['machine']}; {where['python']}; commit {where['commit']}")
    if cpus.one == cpus.driver:
        print("There is one CPU, which the servers and the load generator have to share.")
    with tempfile.TemporaryDirectory(prefix="fastkv-bench-") as name:
        directory = Path(name)
        try:
            driver = Driver(directory, cpus.driver, chosen.headers, percent=chosen.percent)
        except UnavailableError as error:
            print(f"perf.bench: the load generator needs a C compiler: {error}", file=sys.stderr)
            return 2
        with Fleet(directory, driver, chosen.python, chosen.keys, cpus) as fleet:
            skipped: dict[str, str] = {}
            versions = _present(fleet, chosen.servers, skipped)
            print(", ".join(f"{server} {version}" for server, version in versions.items()))
            for server, why in skipped.items():
                print(f"{server} is skipped: {why}")
            servers = [SERVERS[server] for server in versions]
            plan = Plan(servers, chosen.rounds, chosen.seconds, chosen.latency_seconds, chosen.workers_rate)
            bench = Bench(fleet, driver, plan)
            bench.skipped |= skipped
            try:
                figures = _measure(bench, plan, chosen, room)
            except FailedError as error:
                status("")
                print(f"perf.bench: {error}", file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                status("")
                print("\nInterrupted; nothing is kept.", file=sys.stderr)
                return 130
    for what, why in bench.skipped.items():
        print(f"No figures of {what}: {why}")
    print(f"\n{(time.monotonic() - started) / 60:.0f} minutes.")
    if chosen.whole or chosen.save:
        options = {name: getattr(chosen, name) for name in ("keys", "seconds", "headers", "percent")}
        print(save("bench", ["httptools"], servers=versions, options=options, **figures))
    else:
        print("A part is not kept (--save does).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
