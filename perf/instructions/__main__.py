"""Count the instructions of requests, and compare them with what is stored.

``--only`` counts one path, ``--functions`` shows where its instructions go.

python -m perf.instructions                             all paths
python -m perf.instructions --save                      … and store them
python -m perf.instructions --only "GET miss"           one path
python -m perf.instructions --functions "GET miss"      … and which functions of C it spends them in
python -m perf.instructions --pure                      all paths of the readable implementation
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from perf.instructions import counting, guard
from perf.instructions.paths import PATHS

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = [path.name for path in PATHS]


def show(counts: Mapping[str, float], implementation: str) -> None:
    """Print what paths cost, beside what is stored.

    Args:
        counts: instructions for each request, by path; those of the reference among them.
        implementation: "compiled" or "readable".
    """
    result = guard.stored()
    ratios = guard.ratios(result, implementation) if result else {}
    changes = guard.differences(counts, result, implementation) if result else {}
    reference = counting.reference_of(pure=implementation == "readable")
    unit = counts[reference]
    print(f"{implementation:28}{'instructions':>14}{'ratio':>10}{'stored':>10}{'difference':>12}")
    for name in filter(counts.__contains__, _NAMES):
        beside = f"{ratios[name]:10.4f}{changes[name]:12.2%}" if name in changes else ""
        print(f"{name:28}{counts[name]:14,.1f}{counts[name] / unit:10.4f}{beside}")
    print(f"{reference:28}{unit:14,.1f}")
    if result:
        print(f"The margin is {guard.margin(result, implementation):.0%}.")


def show_functions(file: Path, most: int) -> None:
    """Print where the instructions of a path go.

    Args:
        file: what callgrind has written for it.
        most: how many functions.
    """
    print(f"{'inclusive':>12}{'exclusive':>12}  instructions for each request")
    for function in counting.functions(file)[:most]:
        print(f"{function.inclusive:12,.1f}{function.exclusive:12,.1f}  {function.name}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="Count the instructions of requests.")
    parser.add_argument("--save", action="store_true", help="store what was counted, of all paths")
    parser.add_argument("--only", action="append", choices=_NAMES, help="may be given several times")
    parser.add_argument("--functions", choices=_NAMES, help="of one path, by function of C")
    parser.add_argument("--most", type=int, default=40, help="how many functions")
    parser.add_argument("--pure", action="store_true", help="the readable path in place of the core")
    chosen = parser.parse_args()
    if chosen.save and (chosen.only or chosen.functions or chosen.pure):
        parser.error("What is stored is all paths of both implementations.")
    lacking = counting.missing()
    if lacking:
        sys.exit(lacking)
    implementation = "readable" if chosen.pure else "compiled"
    if chosen.functions:
        with TemporaryDirectory() as directory:
            files = counting.run([chosen.functions], Path(directory), pure=chosen.pure)
            show(counting.per_request(files), implementation)
            show_functions(files[chosen.functions], chosen.most)
    elif chosen.save:
        counts = {each: guard.count_lowest(names, each) for each, names in guard.NAMES.items()}
        print(guard.store(counts))
        for each, counted in counts.items():
            show(counted, each)
    else:
        names = chosen.only or guard.NAMES[implementation]
        show(counting.count(names, pure=chosen.pure), implementation)


if __name__ == "__main__":
    main()
