"""The measuring: servers take turns in each round, and are compared within a round."""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from perf.bench import processes, wires
from perf.bench.build import UnavailableError
from perf.bench.driver import FailedError, Load
from perf.bench.servers import CEILING, FASTKV, MANY
from perf.bench.workloads import CONNECTIONS
from perf.report import summary
from perf.rivals import pss_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from perf.bench.driver import Driver, Shot
    from perf.bench.fleet import Fleet, Instance
    from perf.bench.servers import Server
    from perf.bench.workloads import Workload

# Connections of which one takes as much memory as the mean of those beyond the first ones.
_IDLE_FIRST: Final = 500
_IDLE_MORE: Final = 2000
LEAST_ROOM: Final = _IDLE_FIRST + _IDLE_MORE
# A rate is below saturation if it is at most so much of what the closed loop reached.
_SATURATION: Final = 0.8
_LATENCIES: Final = ("p50_us", "p99_us", "p999_us", "max_us")

Row = dict[str, Any]


class Plan(NamedTuple):
    """How much is measured.

    Attributes:
        servers: who takes part.
        rounds: how often each has its turn.
        seconds: of a turn in the closed loop.
        latency_seconds: of one at a fixed rate.
        workers_rate: requests a second where servers have several workers.
    """

    servers: list[Server]
    rounds: int
    seconds: float
    latency_seconds: float
    workers_rate: int


class Bench:
    """A run.

    Attributes:
        skipped: what there are no figures of, and why.
    """

    def __init__(self, fleet: Fleet, driver: Driver, plan: Plan, skipped: dict[str, str]) -> None:
        """Nothing is measured yet.

        Args:
            fleet: the servers.
            driver: asks them.
            plan: how much.
            skipped: what is missing already, to be added to.
        """
        self.skipped = skipped
        self._fleet = fleet
        self._driver = driver
        self._plan = plan

    # -- turns ---------------------------------------------------------------------------------------------

    def _shoot(self, server: Server, workload: Workload, load: Load) -> Shot:
        instance = self._fleet.get(server, workload.value_bytes)
        address = self._fleet.address(server, instance)
        pids = processes.family(instance.pid)
        return self._driver.shoot(address, server.wire, pids, workload, self._fleet.keys, load)

    def _turns(
        self, servers: list[Server], label: str, turn: Callable[[Server, int], Shot]
    ) -> dict[str, list[Shot]]:
        """Let servers take turns.

        Args:
            servers: who.
            label: what is measured, to tell who watches.
            turn: measures one server, with a seed that is the round's.

        Returns:
            By server, what each round gave; who failed once is not among them, but in ``skipped``.

        Raises:
            FailedError: if fastkv failed.
        """
        shots: dict[str, list[Shot]] = {server.name: [] for server in servers}
        for number in range(1, self._plan.rounds + 1):
            for server in servers:
                if server.name not in shots:
                    continue
                status(f"{label}: round {number} of {self._plan.rounds}, {server.name}")
                try:
                    shots[server.name].append(turn(server, number))
                except (FailedError, UnavailableError) as error:
                    if server.name.startswith(FASTKV):
                        raise FailedError(f"{server.name}, {label}: {error}") from error
                    self.skipped[f"{server.name}, {label}"] = str(error)
                    del shots[server.name]
        status("")
        return shots

    # -- CPU of a request ----------------------------------------------------------------------------------

    def rows(self, workload: Workload, connections: int = CONNECTIONS) -> list[Row]:
        """What a request costs each server with one worker, in the closed loop.

        Args:
            workload: what they are asked.
            connections: on how many connections.

        Returns:
            A row for each server.

        Raises:
            FailedError: if fastkv failed.
        """
        servers = [one for one in self._plan.servers if one.takes(workload.name) and not one.several]

        def turn(server: Server, seed: int) -> Shot:
            return self._shoot(server, workload, Load(connections, self._plan.seconds, seed=seed))

        shots = self._turns(servers, f"{workload.name}, {connections:,} connections", turn)
        rows = []
        for name, own in shots.items():
            row = {"server": name, "workload": workload.name, "connections": connections, "workers": 1}
            row |= _costs(own)
            if CEILING in shots:
                row["ratio"] = _ratio(own, shots[CEILING])
            rows.append(row)
        return rows

    def workers_rows(self, workload: Workload) -> list[Row]:
        """What a request costs several workers, at a fixed rate.

        One worker and the ceiling have turns as well, at the same rate and on the same CPUs, to compare with.

        Args:
            workload: what they are asked.

        Returns:
            A row for those with several, with the ``rate``, and ``ratio_to_one`` worker.

        Raises:
            FailedError: if they failed.
        """
        taking_part = [one for one in self._plan.servers if one.several or one.name in (CEILING, FASTKV)]
        if not any(one.several for one in taking_part):
            return []
        rate = self._plan.workers_rate
        load = Load(seconds=self._plan.latency_seconds, rate=rate, polite=True)

        def turn(server: Server, seed: int) -> Shot:
            with self._spread(server):
                return self._shoot(server, workload, load._replace(seed=seed))

        shots = self._turns(taking_part, f"{workload.name} at {rate:,} a second, several workers", turn)
        row = {"server": MANY, "workload": workload.name, "connections": CONNECTIONS}
        row |= {"workers": len(self._fleet.cpus.several), "rate": rate, **_costs(shots[MANY])}
        for name, ratio in ((CEILING, "ratio"), (FASTKV, "ratio_to_one")):
            if name in shots:
                row[ratio] = _ratio(shots[MANY], shots[name])
        return [row]

    @contextmanager
    def _spread(self, server: Server) -> Iterator[None]:
        """Let a server run where those with several workers do."""
        pids = processes.family(self._fleet.get(server).pid)
        processes.move(pids, self._fleet.cpus.several)
        try:
            yield
        finally:
            if not server.several:
                processes.move(pids, self._fleet.cpus.one)

    # -- latency -------------------------------------------------------------------------------------------

    def latency(self, workload: Workload, rate: int, saturation: dict[str, float]) -> list[Row]:
        """Latencies of every server that takes so many requests a second.

        Args:
            workload: what they are asked.
            rate: requests a second.
            saturation: what each took in the closed loop, by name, where that is known.

        Returns:
            A row for each server, with the CPU of a request at that rate.

        Raises:
            FailedError: if fastkv failed.
        """
        label = f"{workload.name} at {rate:,} a second"
        servers = []
        for server in self._plan.servers:
            most = saturation.get(server.name, saturation.get(FASTKV, rate / _SATURATION))
            if not server.takes(workload.name):
                continue
            # The ceiling takes what fastkv does, whatever a short turn has said: others are held to it.
            if rate > most * _SATURATION and server.name != CEILING:
                self.skipped[f"{server.name}, {label}"] = f"it is saturated at {most:,.0f} a second"
                continue
            servers.append(server)

        def turn(server: Server, seed: int) -> Shot:
            load = Load(seconds=self._plan.latency_seconds, rate=rate, polite=server.several, seed=seed)
            return self._shoot(server, workload, load)

        return [
            {
                "server": name,
                "workload": workload.name,
                "connections": CONNECTIONS,
                "rate": rate,
                **{field: summary([getattr(shot, field) for shot in shots]) for field in _LATENCIES},
                "cpu_us": summary([shot.cpu.total for shot in shots]),
            }
            for name, shots in self._turns(servers, label, turn).items()
        ]

    # -- memory --------------------------------------------------------------------------------------------

    def memory(self) -> list[Row]:
        """What servers take when they are filled, and for each connection that waits.

        Returns:
            A row for each that starts; the others have no more turns.

        Raises:
            FailedError: if fastkv does not start, or does not take the entries.
        """
        rows = []
        for server in list(self._plan.servers):
            if server.process_of:
                continue
            try:
                rows.append(self._memory_of(server))
            except (FailedError, UnavailableError, OSError) as error:
                if server.name.startswith(FASTKV):
                    raise FailedError(f"{server.name}: {error}") from error
                self.skipped[server.name] = str(error)
                self._plan.servers.remove(server)
        return rows

    def _memory_of(self, server: Server) -> Row:
        status(f"{server.name} is started and filled")
        instance = self._fleet.get(server)
        filled = pss_bytes(instance.pid)
        row = {
            "server": server.name,
            "entries": 0 if server.constant else self._fleet.keys,
            "pss_bytes": filled,
        }
        status(f"{server.name}: {_IDLE_FIRST + _IDLE_MORE:,} idle connections")
        row["idle_connection_bytes"] = round(_idle_connection_bytes(server, instance))
        status("")
        return row


def _costs(shots: list[Shot]) -> Row:
    return {
        "cpu_us": summary([shot.cpu.total for shot in shots]),
        "user_us": summary([shot.cpu.user for shot in shots]),
        "system_us": summary([shot.cpu.system for shot in shots]),
        "rps": summary([shot.rps for shot in shots]),
    }


def _ratio(own: list[Shot], others: list[Shot]) -> dict[str, float]:
    """What one server costs in units of another, round by round."""
    return summary([shot.cpu.total / other.cpu.total for shot, other in zip(own, others, strict=True)])


def _idle_connection_bytes(server: Server, instance: Instance) -> float:
    """What the server's memory grows by for a connection that has asked once, beyond the first ones."""
    template = wires.get_template(server.wire, wires.NORMAL_BYTES, "plain")
    request = template.replace(wires.DIGIT, b"0")
    open_ones: list[socket.socket] = []

    def grow(count: int) -> int:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", instance.place.port))
            open_ones.append(one)
            one.sendall(request)
            if not one.recv(4096):
                raise FailedError("it closed a connection")
        return pss_bytes(instance.pid)

    try:
        first = grow(_IDLE_FIRST)
        return (grow(_IDLE_MORE) - first) / _IDLE_MORE
    finally:
        for one in open_ones:
            one.close()


def status(text: str) -> None:
    """Tell who watches what is going on, in a line that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
