"""What the kernel knows of a server's processes: the CPU that they used, and where they may run."""

from __future__ import annotations

import os
import resource
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICK_US: Final = 1e6 / os.sysconf("SC_CLK_TCK")
# Files that a process opens beside its connections.
_OTHER_FILES: Final = 200


class Cpu(NamedTuple):
    """CPU time in µs.

    Attributes:
        total: by the scheduler's clock, which is exact.
        user: as the kernel divides it, in ticks of 10 ms.
        system: the same.
    """

    total: float
    user: float
    system: float

    def since(self, before: Cpu) -> Cpu:
        """What was used since then: the exact total, divided in the proportion of the ticks."""
        total = self.total - before.total
        user, system = self.user - before.user, self.system - before.system
        share = user / (user + system) if user + system else 0.0
        return Cpu(total, total * share, total * (1 - share))


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(process.pid for process in psutil.Process(pid).children(recursive=True))]


def cpu_of(pids: list[int]) -> Cpu:
    """The CPU that processes have used so far, all their threads included.

    Args:
        pids: of the processes.

    Returns:
        The sum.

    Raises:
        OSError: if one of them has ended.
    """
    total = user = system = 0.0
    for pid in pids:
        # As clock_getcpuclockid(3) makes it: a process's id, and 2 for the scheduler's clock.
        total += time.clock_gettime(~pid << 3 | 2) * 1e6
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user += int(fields[11]) * _TICK_US
        system += int(fields[12]) * _TICK_US
    return Cpu(total, user, system)


def move(pids: list[int], cpus: set[int]) -> None:
    """Let the threads of processes run on these CPUs only."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cpus)


@contextmanager
def confined(cpus: set[int]) -> Iterator[None]:
    """Run on these CPUs until the block ends; what is started meanwhile stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one; how many connections that allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - _OTHER_FILES
