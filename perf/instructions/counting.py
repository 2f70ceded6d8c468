"""Counts instructions: runs `counted` under callgrind, and reads what that writes down.

The hash seed, the store's seed and the clock are fixed, the collector is off as in a worker, and the
environment is empty: two runs give the same figures to 0.1%, whatever else the machine does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NamedTuple

from perf.instructions import reference
from perf.instructions.paths import COUNTED
from perf.report import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MARKS: Final = Path(__file__).with_name("marks.c")
_TEAMS: Final = os.cpu_count() or 1

# What callgrind and its annotator write.
_NAME: Final = re.compile(r"^desc: Trigger: Client Request: (.*)$", re.MULTILINE)
_TOTAL: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)
_COST: Final = re.compile(r"^ *([\d,]+) \( *[\d.]+%\) +(?:\* +)?(\S+:.*?)(?: \[.*\])?$", re.MULTILINE)


class Function(NamedTuple):
    """What a path spends in a function of C.

    Attributes:
        inclusive: instructions for each request, with those of what it calls.
        exclusive: without them.
        name: its file and its own name.
    """

    inclusive: float
    exclusive: float
    name: str


def missing() -> str | None:
    """What is needed and not installed here, as a sentence; None if nothing is."""
    tools = [tool for tool in ("valgrind", "gcc") if shutil.which(tool) is None]
    return f"Instructions cannot be counted: there is no {' and no '.join(tools)}." if tools else None


def run(names: Sequence[str], directory: Path, layout: int = 0) -> dict[str, Path]:
    """Count some paths, and the reference loop.

    Args:
        names: those of the paths.
        directory: where callgrind may write; empty.
        layout: see `counted.move`.

    Returns:
        By name, what it has written.

    Raises:
        OSError: the tools cannot be run.
        RuntimeError: not all was counted; it says why.
    """
    marks = directory / "marks.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", marks, _MARKS], check=True)
    command = [
        *(shutil.which("valgrind") or "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"),
        f"--callgrind-out-file={directory}/%p",
        *(sys.executable, "-m", "perf.instructions.counted", str(marks), str(layout)),
    ]
    environment = {
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # As many at a time as there are processors; that makes no difference to a count.
    all_names = [reference.NAME, *names]
    teams = [team for number in range(_TEAMS) if (team := all_names[number::_TEAMS])]
    running = [
        subprocess.Popen([*command, *team], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for team in teams
    ]
    told = [process.communicate()[1] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"Not all was counted: {''.join(told)}")
    return dict(_named(directory))


def _named(directory: Path) -> Iterator[tuple[str, Path]]:
    """The dumps that are there, each with what it was made for; the last one of a process is empty."""
    for file in directory.glob("*.1"):
        name = _NAME.search(file.read_text())
        if name is not None:
            yield name[1], file


def count(names: Sequence[str], layout: int = 0) -> dict[str, float]:
    """``per_request`` of ``run``, in a directory of its own."""
    with TemporaryDirectory() as directory:
        return per_request(run(names, Path(directory), layout))


def per_request(files: Mapping[str, Path]) -> dict[str, float]:
    """Instructions for each request.

    Args:
        files: as ``run`` returns them.

    Raises:
        RuntimeError: one of the files has no total.
    """
    totals = {name: _TOTAL.search(file.read_text()) for name, file in files.items()}
    if None in totals.values():
        raise RuntimeError("callgrind has written no total.")
    return {name: int(total[1]) / COUNTED for name, total in totals.items() if total}


def functions(file: Path) -> list[Function]:
    """Where the instructions of a path go.

    Args:
        file: what callgrind has written for it.

    Returns:
        Functions of C, those first that have most instructions of their own.

    Raises:
        OSError: callgrind_annotate cannot be run.
    """
    inclusive, exclusive = (_costs(file, which) for which in ("yes", "no"))
    found = [Function(inclusive.get(name, cost), cost, name) for name, cost in exclusive.items()]
    return sorted(found, key=lambda function: -function.exclusive)


def _costs(file: Path, inclusive: str) -> dict[str, float]:
    command = ["callgrind_annotate", f"--inclusive={inclusive}", "--auto=no", "--threshold=100", str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    costs: dict[str, float] = {}
    for cost, function in _COST.findall(told):
        source, _, name = function.rpartition(":")
        short = f"{source.rpartition('/')[2]}:{name}"
        costs[short] = costs.get(short, 0.0) + int(cost.replace(",", "")) / COUNTED
    return costs
