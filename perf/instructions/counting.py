"""Counts instructions: runs `served` under callgrind, sends it requests, and reads what is written down.

What is counted is all that the process does in user space between the first and the last request: the event
loop, the system calls' wrappers, the connection, the store. The hash seed and the store's seed are fixed, the
collector is off as in a worker, and the environment is empty.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Final, NamedTuple

from perf.instructions import client, reference
from perf.instructions.client import Server
from perf.instructions.paths import COUNTED, PATHS
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


def run(names: Sequence[str], directory: Path, layout: int = 0, *, pure: bool = False) -> dict[str, Path]:
    """Count some paths, and what they are compared with.

    Args:
        names: those of the paths.
        directory: where callgrind may write; empty.
        layout: see `served.move`.
        pure: whether the readable path is counted in place of the compiled core.

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
        *(sys.executable, "-m", "perf.instructions.served", str(marks), str(layout)),
    ]
    environment = {
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    } | ({"FASTKV_PURE": "1"} if pure else {})
    # As many at a time as there are processors; that makes no difference to a count.
    all_names = [reference_of(pure=pure), *names]
    teams = [team for number in range(_TEAMS) if (team := all_names[number::_TEAMS])]
    with ThreadPoolExecutor(_TEAMS) as pool:
        problems = list(pool.map(lambda team: _count_team([*command, *team], team, environment), teams))
    if any(problems):
        raise RuntimeError(f"Not all was counted: {''.join(problems)}")
    return dict(_named(directory))


def reference_of(*, pure: bool) -> str:
    """What counts are compared with.

    Args:
        pure: whether they are those of the readable path.
    """
    return reference.NAME if pure else reference.CONSTANT


def _count_team(command: Sequence[str], team: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run one process of servers and send them what is counted; why that failed, empty if it did not."""
    paths = {path.name: path for path in PATHS}
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=PIPE, stdout=PIPE, stderr=errors, bufsize=0
        ) as process,
    ):
        server = Server(process)
        try:
            for name in team:
                if name in paths:
                    client.count(paths[name], server)
                elif name == reference.CONSTANT:
                    client.count_constant(server)
            failure = ""
        except (OSError, RuntimeError, ValueError) as error:
            failure = f"{error}\n"
            process.terminate()
        status = process.wait()
        errors.seek(0)
        return failure + errors.read() if failure or status else ""


def _named(directory: Path) -> Iterator[tuple[str, Path]]:
    """The dumps that are there, each with what it was made for; the last one of a process is empty."""
    for file in directory.glob("*.1"):
        name = _NAME.search(file.read_text())
        if name is not None:
            yield name[1], file


def count(names: Sequence[str], layout: int = 0, *, pure: bool = False) -> dict[str, float]:
    """``per_request`` of ``run``, in a directory of its own."""
    with TemporaryDirectory() as directory:
        return per_request(run(names, Path(directory), layout, pure=pure))


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
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    costs: dict[str, float] = {}
    for cost, function in _COST.findall(listing):
        source, _, name = function.rpartition(":")
        short = f"{source.rpartition('/')[2]}:{name}"
        costs[short] = costs.get(short, 0.0) + int(cost.replace(",", "")) / COUNTED
    return costs
