"""What an operation costs, for one process and for two at a time, beside other stores.

Every contestant lives in processes of its own. They take turns: in each round each operation of each
contestant is measured once, so that whatever else the machine does falls on all of them. What is measured is
CPU time of the processes that work, and of those that work for them.
"""

from __future__ import annotations

import gc
import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perf.micro.contestants import CONTESTANTS
from perf.report import summary, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from perf.micro.contestants import Contestant

_FORK = multiprocessing.get_context("fork")
_MEMORY: Final = "/dev/shm"
_COUNTERS: Final = 1000
# A turn takes about so long, and has at least and at most so many operations.
_TURN_NS: Final = 15_000_000
_FEWEST, _MOST = 20, 10_000
_FIRST: Final = 100
PROCESSES: Final = 2

OPERATIONS: Final = ("get hit", "get miss", "put new", "put overwrite", "evicting put", "incr")


class Worker:
    """Operates on a contestant's store in a process of its own."""

    def __init__(self, contestant: Contestant, number: int) -> None:
        """Attach to the store; the first one loads it.

        Args:
            contestant: made in the parent process.
            number: of this worker, from 0.
        """
        self._contestant = contestant
        self._number = number
        self._chance = random.Random(number)
        self._fresh = 0
        contestant.attach()
        self._loaded = [b"k%015d" % i for i in range(contestant.entries)]
        self._counters = [b"n%015d" % i for i in range(min(_COUNTERS, contestant.entries))]
        if number == 0:
            contestant.put_all(self._loaded)
            if contestant.full:
                contestant.put_all(self._new_keys(contestant.entries))
            else:
                contestant.incr_all(self._counters)

    def _new_keys(self, count: int) -> list[bytes]:
        self._fresh += count
        return [b"%d%015d" % (self._number, i) for i in range(self._fresh - count, self._fresh)]

    def run(self, operation: str, count: int) -> int:
        """Do an operation many times.

        Args:
            operation: one of ``OPERATIONS``.
            count: how many times.

        Returns:
            CPU time of this process in nanoseconds.
        """
        chosen = self._contestant
        if operation in ("get hit", "put overwrite"):
            keys = self._chance.choices(self._loaded, k=count)
        elif operation == "incr":
            keys = self._chance.choices(self._counters, k=count)
        else:
            keys = self._new_keys(count)
        act = {"get": chosen.get_all, "inc": chosen.incr_all}.get(operation[:3], chosen.put_all)
        begin = time.process_time_ns()
        act(keys)
        return time.process_time_ns() - begin


def _serve(contestant: Contestant, number: int, orders: Connection) -> None:
    """What a worker process does: one order after the other, until it is told to end."""
    gc.disable()
    worker = Worker(contestant, number)
    orders.send(None)
    while (order := orders.recv()) is not None:
        orders.send(worker.run(*order))


class Team:
    """The worker processes of one contestant, and what they share."""

    def __init__(self, kind: type[Contestant], *, full: bool) -> None:
        """Start them.

        Args:
            kind: the contestant.
            full: whether its store is in steady eviction.
        """
        self.kind = kind
        self._directory = tempfile.TemporaryDirectory(prefix="fastkv-perf-", dir=_MEMORY)
        self._contestant = kind(Path(self._directory.name), full=full)
        self._helpers = self._contestant.helpers()
        self._orders: list[Any] = []
        self._workers = []
        self._counts: dict[tuple[str, int], int] = {}
        for number in range(PROCESSES if kind.shared else 1):
            ours, theirs = _FORK.Pipe()
            worker = _FORK.Process(target=_serve, args=(self._contestant, number, theirs), daemon=True)
            worker.start()
            theirs.close()  # so that the end of a worker that fails is seen
            ours.recv()
            self._orders.append(ours)
            self._workers.append(worker)

    def measure(self, operation: str, processes: int) -> float:
        """Measure an operation once.

        Args:
            operation: one of ``OPERATIONS``.
            processes: how many work at the same time.

        Returns:
            CPU nanoseconds per operation.
        """
        count = self._counts.get((operation, processes), 0)
        if not count:
            count = self._counts[operation, processes] = self._turn(operation, processes)
        return self._run(operation, processes, count) / (count * processes)

    def _turn(self, operation: str, processes: int) -> int:
        """How many operations make a turn; finding out warms up, too."""
        cost = self._run(operation, processes, _FIRST) / _FIRST
        return min(max(int(_TURN_NS / cost), _FEWEST), _MOST)

    def _run(self, operation: str, processes: int, count: int) -> int:
        orders = self._orders[:processes]
        before = sum(map(_cpu_ns, self._helpers))
        for order in orders:
            order.send((operation, count))
        own: int = sum(order.recv() for order in orders)
        return own + sum(map(_cpu_ns, self._helpers)) - before

    def close(self) -> None:
        """End the processes, and remove what they shared."""
        for order, worker in zip(self._orders, self._workers, strict=True):
            order.send(None)
            worker.join()
        self._contestant.close()
        self._directory.cleanup()


def _cpu_ns(pid: int) -> int:
    """CPU time of a process, its threads included, in nanoseconds."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def installed() -> Iterator[type[Contestant]]:
    """The contestants that can be measured; a line is printed for each that cannot.

    Yields:
        Their classes.
    """
    for kind in CONTESTANTS:
        if kind.package and version_of(kind.package) is None:
            print(f"{kind.name} is skipped: {kind.package} is not installed (perf/requirements.txt)")
            continue
        yield kind


def measure(rounds: int, names: set[str] | None = None) -> list[dict[str, Any]]:
    """Measure all operations of all contestants.

    Args:
        rounds: how often each.
        names: of the contestants; None for all that are installed.

    Returns:
        A row of figures for each contestant, operation and number of processes.
    """
    kinds = [kind for kind in installed() if names is None or kind.name in names]
    figures: dict[tuple[str, str, int], list[float]] = {}
    # The full stores have rounds of their own, lest twice as many stores share the machine's caches.
    for full in (False, True):
        operations = [name for name in OPERATIONS if (name == "evicting put") == full]
        teams = [Team(kind, full=full) for kind in kinds if kind.bounded or not full]
        for _ in range(rounds):
            for operation in operations:
                for team in teams:
                    for processes in range(1, PROCESSES + 1 if team.kind.shared else 2):
                        row = figures.setdefault((team.kind.name, operation, processes), [])
                        row.append(team.measure(operation, processes))
        for team in teams:
            team.close()
    entries = {kind.name: kind.entries for kind in kinds}
    return [
        {
            "name": name,
            "operation": operation,
            "processes": processes,
            "entries": entries[name],
            "ns": summary(each),
        }
        for (name, operation, processes), each in figures.items()
    ]
