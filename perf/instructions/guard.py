"""Whether paths cost what is stored: counts in, sentences out about those that do not.

What is compared is a path's ratio to the reference of its implementation (`reference`). The margin depends
on how much of what was stored is the same here:

* the same build of Python and the same libraries: 3% for the compiled core, whose counts repeat, and 5% for
  the readable path, which moves with things in memory;
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

from perf.instructions import counting
from perf.instructions.paths import PATHS, READABLE
from perf.report import RESULTS, circumstances, load, save

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

STORED: Final = RESULTS / "instructions.json"
SAME_BUILD: Final = {"compiled": 0.03, "readable": 0.05}
SAME_PYTHON: Final = 0.07
ANY_PYTHON: Final = 0.12

NAMES: Final = {"compiled": tuple(path.name for path in PATHS), "readable": READABLE}
"""The paths that are stored, by implementation."""

# Places in memory, see `counted.move`.
_LAYOUTS: Final = (0, 21, 50)

# The libraries of C on the paths, beside those that every result names.
_PACKAGES: Final = ("websockets",)

Result = dict[str, Any]


def count_lowest(names: Sequence[str], implementation: str) -> dict[str, float]:
    """Count paths in several layouts.

    Args:
        names: those of the paths.
        implementation: "compiled" or "readable".

    Returns:
        The lowest count of each, instructions for a request; that of the reference among them.
    """
    pure = implementation == "readable"
    return _lowest(counting.count(names, layout, pure=pure) for layout in _LAYOUTS)


def count_against(names: Sequence[str], result: Result, implementation: str) -> dict[str, float]:
    """``count_lowest`` for as long as there are paths that are further from what is stored than they may be.

    Args:
        names: those of the paths.
        result: what was stored.
        implementation: "compiled" or "readable".
    """
    pure = implementation == "readable"
    counts = counting.count(names, pure=pure)
    allowed = margin(result, implementation)
    for layout in _LAYOUTS[1:]:
        changes = differences(counts, result, implementation)
        far = [name for name, change in changes.items() if abs(change) > allowed]
        if not far:
            break
        counts = _lowest((counts, counting.count(far, layout, pure=pure)))
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


def store(counts: Mapping[str, Mapping[str, float]]) -> Path:
    """Store what paths cost now.

    Args:
        counts: by implementation and path, instructions for each request; those of the references among them.

    Returns:
        Where.
    """
    units = {each: counts[each][counting.reference_of(pure=each == "readable")] for each in counts}
    rows = [
        {
            "implementation": implementation,
            "path": path,
            "instructions": round(each[path], 1),
            "ratio": round(each[path] / units[implementation], 5),
        }
        for implementation, each in counts.items()
        for path in NAMES[implementation]
    ]
    references = {implementation: round(unit, 1) for implementation, unit in units.items()}
    return save(STORED.stem, _PACKAGES, build=build(), references=references, rows=rows)


def ratios(result: Result, implementation: str) -> dict[str, float]:
    """What is stored of an implementation: ratios by path."""
    rows: list[dict[str, Any]] = result["rows"]
    return {row["path"]: row["ratio"] for row in rows if row["implementation"] == implementation}


def stored() -> Result | None:
    """What was stored; None if nothing was."""
    return load(STORED) if STORED.exists() else None


def margin(result: Result, implementation: str, here: Result | None = None) -> float:
    """How far a ratio may be from a stored one, as a share of it.

    Args:
        result: what was stored.
        implementation: "compiled" or "readable".
        here: ``build``, ``python`` and ``versions`` in its place; None for those of this process.
    """
    here = here or {"build": build(), **circumstances(_PACKAGES)}
    if all(result[name] == here[name] for name in ("build", "versions")):
        return SAME_BUILD[implementation]
    same = (each["python"].rpartition(".")[0] for each in (result, here))
    return SAME_PYTHON if len(set(same)) == 1 else ANY_PYTHON


def differences(counts: Mapping[str, float], result: Result, implementation: str) -> dict[str, float]:
    """How far paths are from what is stored.

    Args:
        counts: instructions for each request, by path; those of the reference among them.
        result: what was stored.
        implementation: "compiled" or "readable".

    Returns:
        By path that is in both, the change of its ratio, as a share of what is stored.
    """
    known = ratios(result, implementation)
    unit = counts[counting.reference_of(pure=implementation == "readable")]
    return {name: count / unit / known[name] - 1 for name, count in counts.items() if name in known}


def judge(counts: Mapping[str, float], result: Result, implementation: str, allowed: float) -> list[str]:
    """List what differs from the stored result.

    Args:
        counts: as for ``differences``, of all paths.
        result: what was stored.
        implementation: "compiled" or "readable".
        allowed: the margin.

    Returns:
        A sentence for each path that costs more or less than it may, or is not in both.
    """
    found = differences(counts, result, implementation)
    complaints = [
        f"{name} takes {abs(change):.1%} {'more' if change > 0 else 'fewer'} instructions than is stored."
        for name, change in found.items()
        if abs(change) > allowed
    ]
    known = ratios(result, implementation).keys()
    counted = counts.keys() - {counting.reference_of(pure=implementation == "readable")}
    complaints += [
        f"{name} is {'not stored' if name in counts else 'stored and not counted'}."
        for name in sorted(known ^ counted)
    ]
    if complaints:
        complaints.append("If that is meant: make bench-instructions ARGS=--save")
    return complaints
