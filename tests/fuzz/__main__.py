"""Runs the harnesses; see the package.

`python -m fuzz SECONDS [ARGUMENT ...]` runs each in a process of its own, with these arguments for
libFuzzer, and ends with 1 where one has found something; the input is then in `fuzz-found/`. `python -m
fuzz core SECONDS` runs those of the compiled core, which has to be built for it (`make fuzz-core`). `python
-m fuzz NAME ...` is one of these processes: what follows are libFuzzer's own arguments. `python -m fuzz
compare CASES [SEED]` is `both.main` (`make compare`).
"""

import importlib
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

NAMES = ("parsers", "connection")
CORE_NAMES = ("text", "headers", "http", "commands", "frames")
"""Those of the compiled core, which reports its coverage where it is built for a fuzzer."""
HERE = Path(__file__).parent
FOUND = Path("fuzz-found")
MAX_INPUT_BYTES = 3000
# Of what is answered request by request in Python as well: what is new in an input is in few of them.
FEWER_BYTES = {"http": 800, "frames": 800}
_UNCOVERED = "Is the code instrumented for coverage?"
MAX_INPUT_SECONDS = 30


def fuzz(name: str, arguments: list[str]) -> None:
    """Run one harness until its time is over; does not return.

    Args:
        name: Its name.
        arguments: For libFuzzer.
    """
    atheris: Any = importlib.import_module("atheris")
    with (
        atheris.instrument_imports(include=["fastkv.http", "fastkv.connection"])
        if name in NAMES
        else nullcontext()
    ):
        harness = importlib.import_module(f"fuzz.{name}")
    mutate = getattr(harness, "mutate", importlib.import_module("fuzz.grammar").mutate)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        if random.Random(seed).random() < 0.3:
            return bytes(atheris.Mutate(data, max_size))
        return bytes(mutate(data, max_size, seed))

    atheris.Setup([name, *arguments], harness.check, custom_mutator=mutator)
    atheris.Fuzz()


def run_all(names: Sequence[str], seconds: int, *more: str) -> int:
    """Run harnesses at once.

    Args:
        names: Which.
        seconds: How long, at most.
        more: Arguments for libFuzzer.

    Returns:
        The exit code: 1 where one has found something.
    """
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        running = {name: _start(name, seconds, Path(work) / name, more) for name in names}
        failed = False
        for name, process in running.items():
            log, _ = process.communicate()
            count = re.search(r"number_of_executed_units: (\d+)", log)
            if _UNCOVERED in log:
                failed = True
                sys.stdout.write(f"{name}: the code under test is not built for a fuzzer\n")
            elif process.returncode or not count:
                failed = True
                sys.stdout.write(f"{log}\n{name}: found something; see {FOUND}/\n")
            else:
                sys.stdout.write(f"{name}: {int(count[1]):,} executions, nothing found\n")
    if not any(FOUND.iterdir()):
        FOUND.rmdir()
    return int(failed)


def _start(name: str, seconds: int, work: Path, more: Sequence[str]) -> "subprocess.Popen[str]":
    """Start a harness; what it finds interesting goes to `work`, the committed corpus stays as it is."""
    work.mkdir()
    arguments = [
        str(work),
        str(HERE / "corpus" / name),
        f"-max_total_time={seconds}",
        f"-max_len={FEWER_BYTES.get(name, MAX_INPUT_BYTES)}",
        f"-timeout={MAX_INPUT_SECONDS}",
        f"-artifact_prefix={FOUND}/{name}-",
        "-print_final_stats=1",
        *more,
    ]
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(HERE.parent), str(HERE.parent.parent)])
    return subprocess.Popen(
        [sys.executable, "-m", "fuzz", name, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


if __name__ == "__main__":
    first, *others = sys.argv[1:]
    if first in NAMES + CORE_NAMES:
        fuzz(first, others)
    elif first == "compare":
        importlib.import_module("fuzz.both").main(*map(int, others))
    elif first == "core":
        sys.exit(run_all(CORE_NAMES, int(others[0])))
    else:
        sys.exit(run_all(NAMES, int(first), *others))
