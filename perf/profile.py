"""A flame graph of a worker under load, with the frames of C below those of Python.

    python -m perf.profile [--workload hot|zipf|uniform|put] [--seconds 10] [--out perf/flame.svg]

Starts ``fastkv serve`` with one worker, loads keys, has wrk send requests on 64 connections, and records the
worker with py-spy meanwhile. The picture is written, and the functions that most samples were in are printed.
All are ended by their ids. What is missing, or not permitted, is said in a sentence; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from perf import flame, rivals
from perf.report import ROOT, circumstances

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKLOADS: Final = ("hot", "zipf", "uniform", "put")
_CONNECTIONS: Final = 64
_MEMORY_BYTES: Final = 256 * rivals.MIB
_KEYS: Final = 300_000
_VALUE: Final = b"v" * 64
_RATE: Final = 250
_TOP: Final = 20
_WARM_SECONDS: Final = 0.5
_LIMIT_SECONDS: Final = 60.0
_NOT_PERMITTED: Final = (
    "py-spy may not read the worker's memory. Run this as root, or let processes of one user trace each"
    " other: sysctl kernel.yama.ptrace_scope=0; a container needs the capability SYS_PTRACE as well"
    " (docker run --cap-add SYS_PTRACE)."
)


def py_spy() -> str | None:
    """Where py-spy is: beside this Python, or on the path; None if it is nowhere."""
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


@contextmanager
def _load(port: int, workload: str, keys: int) -> Iterator[subprocess.Popen[str]]:
    """Have wrk send requests until the block ends.

    Raises:
        RuntimeError: if a request was not answered with success.
    """
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", "-d1h", "-s", str(ROOT / "perf" / "load.lua")]
    with subprocess.Popen(
        [*command, f"http://127.0.0.1:{port}", "--", workload, str(keys)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)  # it sums up then
            told, _ = process.communicate(timeout=_LIMIT_SECONDS)
        if refused := re.search(r"Non-2xx.*", told):
            raise RuntimeError(f"The server refused requests: {refused[0].strip()}")


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _wait_until_busy(worker: psutil.Process) -> None:
    """Wait until the load has arrived, and the worker has seen what it remembers.

    Raises:
        RuntimeError: if it does not arrive.
    """
    deadline = time.monotonic() + _LIMIT_SECONDS
    before = _cpu_seconds(worker)
    while _cpu_seconds(worker) - before < _WARM_SECONDS:
        if time.monotonic() > deadline:
            raise RuntimeError("The worker has nothing to do: wrk sends nothing.")
        time.sleep(0.05)


def _record(worker: int, seconds: int, rate: int, out: Path) -> None:
    """Record a flame graph.

    Raises:
        RuntimeError: if py-spy could not; it says why.
    """
    command = [py_spy() or "py-spy", "record", "--native", "--function", "--pid", str(worker)]
    command += [
        "--duration",
        str(seconds),
        "--rate",
        str(rate),
        "--format",
        "flamegraph",
        "--output",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(why(done.stderr))


def why(said: str) -> str:
    """Why py-spy could not record, in a sentence, from what it said."""
    if re.search(r"permission|not permitted", said, re.IGNORECASE):
        return _NOT_PERMITTED
    lines = said.strip().splitlines()
    return f"py-spy could not record: {lines[0] if lines else 'it did not say why.'}"


def profile(workload: str, keys: int, seconds: int, rate: int, out: Path) -> str:
    """Record a worker under load.

    Args:
        workload: one of ``WORKLOADS``.
        keys: how many are loaded.
        seconds: how long to record.
        rate: samples per second.
        out: where the picture is to stand.

    Returns:
        A table: the share of the samples that was in each function itself, the largest first.

    Raises:
        RuntimeError: if something is missing, not permitted or refused.
    """
    if not shutil.which("wrk"):
        raise RuntimeError("wrk is not installed, which sends the requests: apt-get install wrk.")
    if not py_spy():
        raise RuntimeError("py-spy is not installed: pip install --requirement requirements-dev.lock.")
    with rivals.fastkv(_MEMORY_BYTES, workers=1) as server:
        server.put([(b"k%010d" % number, _VALUE) for number in range(keys)])
        worker = psutil.Process(server.pid).children()[0]
        with _load(server.port, workload, keys):
            _wait_until_busy(worker)
            _record(worker.pid, seconds, rate, out)
    where = circumstances()
    title = f"fastkv {where['commit']}, one worker, {workload}: {where['python']}, {rate} samples/s"
    picture = out.read_text()
    out.write_text(flame.trimmed(picture, title))
    counted = flame.self_samples(flame.frames(picture))
    lines = [f"{count / counted.total():7.1%}  {name}" for name, count in counted.most_common(_TOP)]
    return "\n".join([f"{counted.total():,} samples; in epoll_pwait the worker also waits.", *lines, ""])


def main() -> None:
    """Record, and say where the picture is."""
    parser = argparse.ArgumentParser(prog="perf.profile", description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, default="uniform")
    parser.add_argument("--keys", type=int, default=_KEYS)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=int, default=_RATE)
    parser.add_argument("--out", type=Path, default=ROOT / "perf" / "flame.svg")
    chosen = parser.parse_args()
    try:
        print(profile(chosen.workload, chosen.keys, chosen.seconds, chosen.rate, chosen.out))
    except RuntimeError as error:
        sys.exit(str(error))
    print(
        f"The flame graph is in {chosen.out}: open it in a browser; a click on a frame makes it the widest."
    )


if __name__ == "__main__":
    main()
