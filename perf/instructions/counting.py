"""Counts instructions: runs `counted` under callgrind and reads what that writes down.

The same commit, interpreter and libraries give the same figures to 0.01%: the hash seed, the store's seed and
the clock are fixed, the collector is off as in a worker, and the environment is empty.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from perf.instructions import reference
from perf.instructions.paths import COUNTED, PATHS
from perf.report import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HERE: Final = Path(__file__).parent
_NAME: Final = re.compile(r"^desc: Trigger: Client Request: (.*)$", re.MULTILINE)
_TOTAL: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def missing() -> str | None:
    """What is not installed here and is needed, None if all is."""
    lacking = [tool for tool in ("valgrind", "gcc", "callgrind_annotate") if shutil.which(tool) is None]
    return f"there is no {' and no '.join(lacking)}" if lacking else None


def dumps(names: Iterable[str], directory: Path) -> dict[str, Path]:
    """Count some paths.

    Args:
        names: theirs.
        directory: where callgrind may write.

    Returns:
        By name, what it has written.

    Raises:
        RuntimeError: something went wrong; it says what.
    """
    marks = directory / "marks.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", marks, _HERE / "marks.c"], check=True)
    command = [
        *("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"),
        f"--callgrind-out-file={directory}/%p",
        *(sys.executable, "-m", "perf.instructions.counted", str(marks), *names),
    ]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Nothing was counted: {done.stderr}")
    return dict(_found(directory))


def _found(directory: Path) -> Iterator[tuple[str, Path]]:
    for file in directory.glob("*.1"):
        name = _NAME.search(file.read_text())
        if name:
            yield name[1], file


def count(names: Iterable[str] | None = None) -> dict[str, float]:
    """Count instructions of a request.

    Args:
        names: of the paths; None for all.

    Returns:
        By path, and by `reference.NAME` those of a turn of the reference loop.

    Raises:
        RuntimeError: something went wrong; it says what.
    """
    names = [path.name for path in PATHS] if names is None else names
    with TemporaryDirectory() as directory:
        files = dumps([reference.NAME, *names], Path(directory))
        return {name: _total(file) / COUNTED for name, file in files.items()}


def _total(file: Path) -> int:
    total = _TOTAL.search(file.read_text())
    if total is None:
        raise RuntimeError(f"callgrind has written no total into {file}.")
    return int(total[1])


_COST: Final = re.compile(r"^\s*([\d,]+) \(\s*[\d.]+%\)\s+(?:\*\s+)?(.*?)(?: \[.*\])?$")


def functions(name: str, *, inclusive: bool) -> list[tuple[float, str]]:
    """Where the instructions of a path go, by function of C.

    Args:
        name: the path's.
        inclusive: whether those of what a function calls are its own.

    Returns:
        Instructions for each request, and the function; the dearest first.

    Raises:
        RuntimeError: something went wrong; it says what.
    """
    with TemporaryDirectory() as directory:
        file = dumps([name], Path(directory))[name]
        annotate = ["callgrind_annotate", f"--inclusive={'yes' if inclusive else 'no'}", "--auto=no"]
        done = subprocess.run(
            [*annotate, "--threshold=100", file], capture_output=True, text=True, check=True
        )
    found = map(_COST.match, done.stdout.splitlines())
    return [(int(each[1].replace(",", "")) / COUNTED, _short(each[2])) for each in found if each]


def _short(function: str) -> str:
    """A function with the last part of its file's name."""
    file, _, symbol = function.rpartition(":")
    return f"{file.rpartition('/')[2]}:{symbol}" if file else symbol
