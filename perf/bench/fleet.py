"""The servers that run: each is started when it is first asked for, filled over its own wire, and kept."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Self

from perf.bench import processes
from perf.bench.build import UnavailableError
from perf.bench.servers import SERVERS, Place
from perf.bench.wires import NORMAL_BYTES
from perf.bench.workloads import WORKLOADS
from perf.rivals import child, connect, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from perf.bench.driver import Driver
    from perf.bench.servers import Server


class Cpus(NamedTuple):
    """Who runs where.

    Attributes:
        one: a server with one worker.
        several: one with more, and one with one that is compared to it.
        driver: the load generator.
    """

    one: set[int]
    several: set[int]
    driver: set[int]

    @classmethod
    def share_out(cls, available: Iterable[int]) -> Cpus:
        """The load generator has the last CPU, a server the first, or half of them, but two at least."""
        cpus = sorted(available)
        return cls({cpus[0]}, set(cpus[: max(2, len(cpus) // 2)]), {cpus[-1]})


class Instance(NamedTuple):
    """A server that runs.

    Attributes:
        pid: of its first process.
        place: where.
        filled: sizes of the entries that it has.
    """

    pid: int
    place: Place
    filled: set[int]


class Fleet:
    """The servers of a run; on leaving the context they are ended.

    Attributes:
        cpus: who runs where.
        keys: how many entries of normal size each is filled with.
    """

    def __init__(self, directory: Path, driver: Driver, python: str, keys: int, cpus: Cpus) -> None:
        """None runs yet.

        Args:
            directory: for their files.
            driver: fills them.
            python: the interpreter of the Python rivals.
            keys: how many entries.
            cpus: who runs where.
        """
        self.cpus = cpus
        self.keys = keys
        self._directory = directory
        self._driver = driver
        self._python = python
        self._running: dict[tuple[str, int], Instance] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def version(self, server: Server) -> str:
        """The version of a server, which is compiled if it has to be.

        Raises:
            UnavailableError: if it cannot take part.
        """
        return server.version(self._directory, self._python)

    def get(self, server: Server, value_bytes: int = NORMAL_BYTES) -> Instance:
        """A server with entries of that size.

        Args:
            server: which.
            value_bytes: of its entries, or of its constant reply.

        Returns:
            It, running.

        Raises:
            UnavailableError: if it does not start.
            FailedError: if it does not take an entry.
        """
        owner = SERVERS[server.process_of] if server.process_of else server
        slot = owner.name, value_bytes if owner.constant else 0
        if slot not in self._running:
            self._running[slot] = self._start(owner, value_bytes)
        instance = self._running[slot]
        if not owner.constant and value_bytes not in instance.filled:
            self._driver.fill(str(instance.place.port), owner.wire, value_bytes, self._keys_of(value_bytes))
            instance.filled.add(value_bytes)
        return instance

    def address(self, server: Server, instance: Instance) -> str:
        """Where it is asked: a port, or the path of a unix socket."""
        return instance.place.socket if server.process_of else str(instance.place.port)

    def _keys_of(self, value_bytes: int) -> int:
        least = [work.keys for work in WORKLOADS.values() if work.value_bytes == value_bytes]
        return least[0] or self.keys

    def _start(self, server: Server, value_bytes: int) -> Instance:
        cpus = self.cpus.several if server.several else self.cpus.one
        place = Place(self._directory, free_port(), self._python, value_bytes, len(self.cpus.several))
        with processes.confined(cpus):
            process = self._stack.enter_context(
                child(server.command(place), GOMAXPROCS=str(len(cpus)), PYTHONDONTWRITEBYTECODE="1")
            )
        try:
            connect(place.port, process).close()
        except ConnectionError as error:
            raise UnavailableError(f"it does not start: {' '.join(server.command(place))}") from error
        return Instance(process.pid, place, set())
