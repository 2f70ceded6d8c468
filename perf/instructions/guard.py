"""Whether paths cost what is stored: counts in, sentences out about those that do not.

What is compared is a path's ratio to the reference loop. The margin depends on how much of what was stored
is the same here:

* the same build of Python and the same libraries: the same code gives the same figures to 0.1%, and code that
  is not on the path, which moves things in memory, changes them by less than 0.5%. So 1% is a change of the
  path: an attribute looked up once more is 1.2% of the shortest one, a call of an empty method 6%;
* another build of the same Python: 3.11.2 as Debian builds it and 3.11.7 as its makefile does differ by 6%;
* another Python: 3.12 and 3.13 differ from 3.11 by 10%, where counts alone differ by 18%.

What differs by more than that is counted again with all things elsewhere in memory, and the lowest count
taken: chance may add to a count and never takes from it. What has become cheaper than the margin is to be
stored, too: otherwise it might become dearer again unseen.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Any, Final

from perf.instructions import counting, reference
from perf.report import RESULTS, circumstances, load, save

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

STORED: Final = RESULTS / "instructions.json"
SAME_BUILD: Final = 0.01
SAME_PYTHON: Final = 0.07
ANY_PYTHON: Final = 0.12

# Places in memory, see `counted.move`.
_LAYOUTS: Final = (0, 21, 50)

# The libraries of C on the paths, beside those that every result names.
_PACKAGES: Final = ("websockets",)

Result = dict[str, Any]


def count_lowest(names: Sequence[str]) -> dict[str, float]:
    """Count paths in several layouts.

    Args:
        names: those of the paths.

    Returns:
        The lowest count of each, instructions for a request; that of the reference loop among them.
    """
    return _lowest(counting.count(names, layout) for layout in _LAYOUTS)


def count_against(names: Sequence[str], result: Result) -> dict[str, float]:
    """``count_lowest`` for as long as there are paths that are further from what is stored than they may be.

    Args:
        names: those of the paths.
        result: what was stored.
    """
    counts = counting.count(names)
    allowed = margin(result)
    for layout in _LAYOUTS[1:]:
        far = [name for name, change in differences(counts, result).items() if abs(change) > allowed]
        if not far:
            break
        counts = _lowest((counts, counting.count(far, layout)))
    return counts


def _lowest(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    lowest: dict[str, float] = {}
    for counts in several:
        for name, count in counts.items():
            lowest[name] = min(count, lowest.get(name, count))
    return lowest


def build() -> str:
    """What was compiled here: Python, how and when, and the library of C."""
    return f"{sys.version}, {' '.join(platform.libc_ver())}"


def store(counts: Mapping[str, float]) -> Path:
    """Store what paths cost now.

    Args:
        counts: instructions for each request, by path; those of the reference loop among them.

    Returns:
        Where.
    """
    unit = counts[reference.NAME]
    rows = [
        {"path": name, "instructions": round(count, 1), "ratio": round(count / unit, 5)}
        for name, count in counts.items()
        if name != reference.NAME
    ]
    return save(STORED.stem, _PACKAGES, build=build(), reference=round(unit, 1), rows=rows)


def stored() -> Result | None:
    """What was stored; None if nothing was."""
    return load(STORED) if STORED.exists() else None


def margin(result: Result, here: Result | None = None) -> float:
    """How far a ratio may be from a stored one, as a share of it.

    Args:
        result: what was stored.
        here: ``build``, ``python`` and ``versions`` in its place; None for those of this process.
    """
    here = here or {"build": build(), **circumstances(_PACKAGES)}
    if all(result[name] == here[name] for name in ("build", "versions")):
        return SAME_BUILD
    same = (each["python"].rpartition(".")[0] for each in (result, here))
    return SAME_PYTHON if len(set(same)) == 1 else ANY_PYTHON


def differences(counts: Mapping[str, float], result: Result) -> dict[str, float]:
    """How far paths are from what is stored.

    Args:
        counts: as for ``store``.
        result: what was stored.

    Returns:
        By path that is in both, the change of its ratio, as a share of what is stored.
    """
    ratios = {row["path"]: row["ratio"] for row in result["rows"]}
    unit = counts[reference.NAME]
    return {name: count / unit / ratios[name] - 1 for name, count in counts.items() if name in ratios}


def judge(counts: Mapping[str, float], result: Result, allowed: float) -> list[str]:
    """Tell what is not as it is stored.

    Args:
        counts: as for ``store``, of all paths.
        result: what was stored.
        allowed: the margin.

    Returns:
        A sentence for each path that costs more or less than it may, or is not in both.
    """
    found = differences(counts, result)
    told = [
        f"{name} takes {abs(change):.1%} {'more' if change > 0 else 'fewer'} instructions than is stored."
        for name, change in found.items()
        if abs(change) > allowed
    ]
    known = {row["path"] for row in result["rows"]}
    told += [
        f"{name} is {'not stored' if name in counts else 'stored and not counted'}."
        for name in sorted(known ^ (counts.keys() - {reference.NAME}))
    ]
    if told:
        told.append('If that is as it should be: make bench-instructions ARGS="--save"')
    return told
