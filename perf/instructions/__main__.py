"""Count the instructions of requests, as a ratio to those of a reference loop.

    python -m perf.instructions                       all paths, beside what is stored
    python -m perf.instructions --save                and store them in perf/results/instructions.json
    python -m perf.instructions --only 'GET, plain'   one path
    python -m perf.instructions --functions 'GET, plain' [--inclusive] [--most 40]
"""

from __future__ import annotations

import argparse
import sys

from perf.instructions import counting, reference
from perf.instructions.paths import PATHS
from perf.report import RESULTS, load, save


def main() -> None:
    """Run it."""
    names = [path.name for path in PATHS]
    parser = argparse.ArgumentParser(description="Count the instructions of requests.")
    parser.add_argument("--save", action="store_true", help="store what was counted")
    parser.add_argument("--only", action="append", choices=names, help="count this path; may be repeated")
    parser.add_argument("--functions", choices=names, help="show which functions of C a path spends them in")
    parser.add_argument("--inclusive", action="store_true", help="with what those functions call")
    parser.add_argument("--most", type=int, default=40, help="how many functions")
    chosen = parser.parse_args()
    lacking = counting.missing()
    if lacking:
        sys.exit(f"Instructions cannot be counted: {lacking}.")
    if chosen.functions:
        for cost, function in counting.functions(chosen.functions, inclusive=chosen.inclusive)[: chosen.most]:
            print(f"{cost:10,.1f}  {function}")
        return
    counts = counting.count(chosen.only)
    unit = counts.pop(reference.NAME)
    file = RESULTS / "instructions.json"
    stored = {row["path"]: row["ratio"] for row in load(file)["rows"]} if file.exists() else {}
    print(f"{'':28}{'instructions':>14}{'ratio':>9}{'stored':>9}{'difference':>12}")
    for name, each in sorted(counts.items(), key=lambda pair: names.index(pair[0])):
        ratio = each / unit
        known = stored.get(name)
        beside = f"{known:9.4f}{ratio / known - 1:+12.2%}" if known else ""
        print(f"{name:28}{each:14,.1f}{ratio:9.4f}{beside}")
    print(f"{'a turn of the reference loop':28}{unit:14,.1f}")
    if chosen.save:
        rows = [
            {"path": name, "instructions": round(each, 1), "ratio": round(each / unit, 5)}
            for name, each in counts.items()
        ]
        print(save("instructions", ["hiredis", "websockets"], reference=round(unit, 1), rows=rows))


if __name__ == "__main__":
    main()
