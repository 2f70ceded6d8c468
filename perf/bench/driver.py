"""Runs the load generator against a server, and reads the server's CPU before it counts and after it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Final, NamedTuple

from perf.bench import processes, wires
from perf.bench.build import NATIVE, compile_c
from perf.bench.workloads import CONNECTIONS, PIPELINE

if TYPE_CHECKING:
    from pathlib import Path

    from perf.bench.processes import Cpu
    from perf.bench.workloads import Workload


_FILLING_CONNECTIONS: Final = 8


class FailedError(Exception):
    """A run that gives no figures: a reply was no success, or a short one, or did not come."""


class Shot(NamedTuple):
    """What one run of the load generator measured.

    Attributes:
        replies: how many there were, all of them successes.
        cpu: of the server, in µs, for each reply.
        rps: replies a second.
        p50_us: latency, in the open loop from when a request was due.
        p99_us: the same.
        p999_us: the same.
        max_us: the same.
    """

    replies: int
    cpu: Cpu
    rps: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


class Load(NamedTuple):
    """How a server is asked.

    Attributes:
        connections: how many.
        seconds: for how long.
        warmup: for how long before that.
        rate: requests a second in the open loop, 0 for the closed one.
        polite: between requests the load generator sleeps: for a server that has all CPUs.
        seed: of the draws.
    """

    connections: int = CONNECTIONS
    seconds: float = 1.0
    warmup: float = 0.2
    rate: int = 0
    polite: bool = False
    seed: int = 1


class Driver:
    """The load generator."""

    def __init__(self, directory: Path, cpus: set[int], headers: str, *, percent: bool) -> None:
        """Compile it.

        Args:
            directory: where it and its templates go.
            cpus: where it runs.
            headers: which of ``wires.HEADERS`` it sends.
            percent: whether it percent-encodes keys.

        Raises:
            UnavailableError: if it cannot be compiled.
        """
        self._program = compile_c(NATIVE / "drive.c", directory / "drive")
        self._directory = directory
        self._cpus = cpus
        self._headers = headers
        self._percent = percent

    def fill(self, address: str, wire: str, value_bytes: int, keys: int) -> None:
        """Put entries, one after the other.

        Args:
            address: a port, or the path of a unix socket.
            wire: which protocol.
            value_bytes: of each.
            keys: how many.

        Raises:
            FailedError: if one was not taken.
        """
        template = self._keep(wires.put_template(wire, value_bytes, "plain"))
        depth = PIPELINE if keys % PIPELINE == 0 else 1
        options = ["-w", wire, "-c", str(_FILLING_CONNECTIONS), "-d", str(depth)]
        options += ["-D", "sequence", "-k", str(keys), "-n", str(keys)]
        self._run([*options, address, template], [])

    def shoot(
        self, address: str, wire: str, pids: list[int], workload: Workload, keys: int, load: Load
    ) -> Shot:
        """Ask.

        Args:
            address: as for ``fill``.
            wire: the server's own.
            pids: of the server.
            workload: what.
            keys: how many entries there are.
            load: how.

        Returns:
            The figures.

        Raises:
            FailedError: if not every reply was a success of the right size.
        """
        wire = workload.wire or wire
        options = ["-w", wire, "-c", str(load.connections), "-d", str(workload.depth), "-s", str(load.seed)]
        options += ["-D", workload.draw, "-k", str(workload.keys or keys)]
        options += ["-t", str(load.seconds), "-u", str(load.warmup), "-r", str(load.rate)]
        options += ["-y"] if load.polite else []
        options += ["-x"] if workload.reconnect else []
        get = wires.get_template(wire, workload.value_bytes, self._headers, percent=self._percent)
        if workload.put_percent:
            put = wires.put_template(wire, workload.value_bytes, self._headers)
            options += ["-m", self._keep(put), "-p", str(workload.put_percent)]
        else:
            options += ["-l", str(workload.value_bytes)]
        counted, cpu = self._run([*options, address, self._keep(get)], pids)
        replies = int(counted["replies"])
        latency = {name: counted[name] for name in ("p50_us", "p99_us", "p999_us", "max_us")}
        each = processes.Cpu(*(part / replies for part in cpu))
        return Shot(replies, each, replies / counted["seconds"], **latency)

    def _keep(self, template: bytes) -> str:
        """A file with a template."""
        path = self._directory / f"{hash(template):x}.template"
        path.write_bytes(template)
        return str(path)

    def _run(self, options: list[str], pids: list[int]) -> tuple[dict[str, float], Cpu]:
        with processes.confined(self._cpus):
            process = subprocess.Popen(
                [self._program, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                ready = process.stdout.readline()
                before = processes.cpu_of(pids)
                if ready:
                    process.stdin.write("\n")
                    process.stdin.flush()
                line = process.stdout.readline()
                used = processes.cpu_of(pids).since(before)
                _, told = process.communicate("\n" if line else None)
            except OSError as error:
                process.kill()
                raise FailedError(f"a process of the server has ended: {error}") from error
            except BaseException:
                process.kill()
                raise
        counted: dict[str, float] = json.loads(line) if line else {}
        if process.returncode or not counted:
            raise FailedError(_reason(counted, told, process.returncode))
        return counted, used


def _reason(counted: dict[str, float], told: str, code: int) -> str:
    text = told.strip() or f"the load generator ended with {code}"
    if not counted:
        return text
    errors, shorts = counted["errors"], counted["shorts"]
    return f"of {counted['replies']} replies {errors} were no success, {shorts} short; {text}"
