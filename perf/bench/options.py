"""The command line of ``python -m perf.bench``: who takes part, what is measured, for how long."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final

from perf.bench.servers import SERVERS
from perf.bench.wires import HEADERS
from perf.bench.workloads import MORE_CONNECTIONS, WORKLOADS
from perf.report import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_FULL: Final[dict[str, Any]] = {
    "workloads": list(WORKLOADS),
    "connections": list(MORE_CONNECTIONS),
    "rounds": 3,
    "seconds": 1.0,
    "latency_seconds": 3.0,
    "keys": 1_000_000,
}
_QUICK: Final[dict[str, Any]] = {
    "workloads": ["hot", "uniform", "put", "pipelined hot"],
    "connections": [],
    "rounds": 1,
    "seconds": 0.5,
    "latency_seconds": 1.0,
    "keys": 96_000,
}


def rivals_python() -> str:
    """The interpreter that ``make bench`` gave the other servers in Python; without it, this one."""
    own = ROOT / ".venv-bench" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


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


def read_options(arguments: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: None for those of this process.
        description: of the program.

    Returns:
        The options; ``whole`` says whether everything is to be measured, ``servers`` has full names.
    """
    by_word = {server.word: server.name for server in SERVERS.values()}
    parser = argparse.ArgumentParser(
        prog="perf.bench", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--servers", type=_choice(by_word), help=",".join(by_word))
    add("--workloads", type=_choice(WORKLOADS), help=",".join(WORKLOADS))
    add("--connections", type=_numbers, help="for hot, beside 64: 1,1024,8192")
    add("--rounds", type=int, help="in each of them every server has a turn")
    add("--seconds", type=float, help="of a turn")
    add("--latency-seconds", type=float, help="of a turn at a fixed rate")
    add("--keys", type=int, help="that each server is filled with")
    add("--rates", default="3000,60%", help="for latencies, a second; with a sign: of what fastkv takes")
    add("--workers-rate", type=int, default=20_000, help="for several workers, a second")
    add("--headers", choices=HEADERS, default="plain", help="what a request carries")
    add("--percent", action="store_true", help="percent-encode the keys")
    add("--python", default=rivals_python(), help="the interpreter that has the servers in Python")
    add("--quick", action="store_true", help="a first look, in two minutes")
    add("--save", nargs="?", const="bench", metavar="NAME", help="keep a part too, in perf/results/NAME.json")
    chosen = parser.parse_args(arguments)
    parts = (chosen.quick, chosen.servers, chosen.workloads, chosen.connections is not None, chosen.percent)
    chosen.whole = not any(parts) and chosen.headers == "plain"
    chosen.servers = [by_word[word] for word in chosen.servers or by_word]
    for name, value in (_QUICK if chosen.quick else _FULL).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen
