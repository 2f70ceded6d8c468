"""Measure the store alone, and what else a request is made of.

    python -m perf.micro                     everything, written to perf/results
    python -m perf.micro operations --only fastkv --only dict

``operations`` beside other stores, ``room`` for a put that evicts beside one that need not, ``steps`` for the
longest single step, ``requests`` for the parser and replies.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from perf.micro import making_room, operations, requests, steps
from perf.micro.contestants import CONTESTANTS
from perf.report import save

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = [kind.package for kind in CONTESTANTS if kind.package]


def run(suite: str, rounds: int, only: set[str] | None) -> Path:
    """Run a suite and save what it found.

    Args:
        suite: its name.
        rounds: how often each thing is measured.
        only: names of contestants; None for all.

    Returns:
        Where the figures are.
    """
    if suite == "operations":
        return save("operations", PACKAGES, rows=operations.measure(rounds, only))
    if suite == "room":
        return save("room", rows=making_room.measure(2 * rounds))
    if suite == "steps":
        return save("steps", rows=steps.measure())
    return save("requests", ["httptools"], rows=requests.measure(2 * rounds))


def main() -> None:
    """Run it."""
    suites = ("requests", "operations", "room", "steps")
    parser = argparse.ArgumentParser(description="Measure the store alone.")
    parser.add_argument("suites", nargs="*", choices=[*suites, []], help="all, if none is named")
    parser.add_argument("--rounds", type=int, default=11, help="how often each thing is measured")
    parser.add_argument("--only", action="append", choices=[kind.name for kind in CONTESTANTS])
    chosen = parser.parse_args()
    for suite in chosen.suites or suites:
        print(run(suite, chosen.rounds, set(chosen.only) if chosen.only else None))


if __name__ == "__main__":
    main()
