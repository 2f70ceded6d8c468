"""The supervisor: starts the workers of a server, and looks after them until it stops.

It serves nothing, takes no shard's lock and runs no event loop: one thread that waits for signals. Workers
are its direct and only children and die with it. It holds every listening socket, so that connections wait
while a worker is being replaced, and are not refused.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from fastkv import core, worker
from fastkv.credentials import Credentials
from fastkv.errors import StartError
from fastkv.keeping import SETTLE_SECONDS, Keeping
from fastkv.notify import Notifier
from fastkv.options import format_size
from fastkv.stats import Board, Column, State
from fastkv.watchdog import LOOK_SECONDS, Watchdog

if TYPE_CHECKING:
    from fastkv.listeners import Listeners
    from fastkv.pubsub.ring import Ring
    from fastkv.settings import Settings
    from fastkv.store import Store

_log = logging.getLogger("fastkv")

SIGNALS: Final = frozenset((signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
"""The signals that the supervisor waits for. They have to be blocked before it starts."""

_START_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.01
# A worker that ends sooner than this after its start keeps dying rather than being killed now and then.
_QUICK_DEATH_SECONDS: Final = 1.0
_FREE_RESTARTS: Final = 5
_BACK_OFF_SECONDS: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
# What a worker may take over its drain time before it is killed.
_GRACE_SECONDS: Final = 2.0


@dataclass(slots=True)
class Process:
    """A worker process.

    Attributes:
        pid: its process id.
        row: its row on the board.
        started: when, on the monotonic clock.
    """

    pid: int
    row: memoryview[int]
    started: float


@dataclass(slots=True)
class Slot:
    """A worker's place: its number and sockets stay, processes come and go.

    Attributes:
        number: from 0.
        process: who serves now, None while nobody does.
        successor: who will, once it is ready (SIGHUP).
        quick_deaths: how many processes in a row ended right after their start.
        not_before: when the next start is due, on the monotonic clock.
    """

    number: int
    process: Process | None = None
    successor: Process | None = None
    quick_deaths: int = 0
    not_before: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Looks after the workers of one server.

    Attributes:
        settings: the settings.
        store: the shared store.
        board: the workers' rows; twice as many as workers, for a reload has both generations alive.
        ring: through which messages go from worker to worker; it has as many rows.
        listeners: the sockets.
        keeping: looks after the data directory, if there is one.
        notifier: tells the service manager, if there is one.
        credentials: the token and the certificate, as they were read last.
    """

    settings: Settings
    store: Store
    board: Board
    ring: Ring
    listeners: Listeners
    keeping: Keeping | None = None
    notifier: Notifier = field(default_factory=Notifier.take)
    credentials: Credentials = field(default_factory=Credentials)
    slots: list[Slot] = field(default_factory=list)
    retired: dict[int, Process] = field(default_factory=dict)
    _to_reload: list[Slot] = field(default_factory=list)
    _watchdog: Watchdog = field(init=False)

    def __post_init__(self) -> None:
        self._watchdog = Watchdog(self.settings.stuck_seconds)

    def run(self) -> None:
        """Look after the workers until SIGTERM or SIGINT, then stop them. `start` has to come first."""
        try:
            while True:
                arrived = self._next_signal()
                if arrived in (signal.SIGTERM, signal.SIGINT):
                    _log.info(
                        "%s: no new connections; requests under way are finished.",
                        signal.Signals(arrived).name,
                    )
                    break
                if arrived == signal.SIGHUP:
                    self._reload()
                self._reap()
                self._kill_stuck()
                self._restart_due()
                self._reload_next()
        finally:
            self._stop_all()

    # -- starting ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers, and announce the server once all of them are ready.

        Raises:
            StartError: a worker did not come up, or SIGTERM or SIGINT came first; no worker is left.
        """
        self.slots = [Slot(number) for number in range(self.settings.workers)]
        try:
            self._start_all()
        except BaseException:
            self._stop_all()
            raise
        self._announce()

    def _start_all(self) -> None:
        for slot in self.slots:
            slot.process = self._fork(slot)
        deadline = time.monotonic() + _START_SECONDS
        while not all(slot.process and slot.process.row[Column.STATE] == State.READY for slot in self.slots):
            arrived = signal.sigtimedwait(SIGNALS, _POLL_SECONDS)
            if arrived and arrived.si_signo in (signal.SIGTERM, signal.SIGINT):
                raise StartError("Stopped before the workers were ready.")
            self._reap()
            if any(slot.process is None for slot in self.slots) or time.monotonic() > deadline:
                raise StartError("A worker did not start; what it logged stands above.")

    def _announce(self) -> None:
        """The one line on stdout that says where and what is served."""
        sys.stdout.write(f"fastkv serves {self._served()}\n")
        sys.stdout.flush()
        self.notifier.ready(f"Serves {self._served()}.")

    def _served(self) -> str:
        geometry = self.store.geometry
        where = " and ".join(self.listeners.addresses)
        parts = (_count(len(self.slots), "worker"), _count(geometry.shards, "shard"))
        memory = format_size(geometry.memory_bytes)
        runs = "compiled core" if core.COMPILED else "readable Python"
        return f"{where} with {', '.join(parts)}, {memory} of memory, {runs}"

    def _fork(self, slot: Slot) -> Process:
        """Start a process for a slot.

        Args:
            slot: the slot.

        Returns:
            The process; it says on its row when it is ready.
        """
        row = next(row for row in self.board.rows if row[Column.STATE] == State.NONE)
        row[Column.STATE] = State.STARTING
        row[Column.CONNECTIONS] = row[Column.SUBSCRIPTIONS] = 0
        row[Column.HEARTBEAT] = time.monotonic_ns() // 1_000_000
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return Process(pid, row, time.monotonic())
        code = 1
        try:
            sockets = self.listeners.keep_only(slot.number)
            settings = self.credentials.fill_in(self.settings)
            tls = self.credentials.tls
            code = worker.serve(self.store, settings, self.board, row, self.ring, sockets, parent, tls)
        except BaseException:  # noqa: BLE001 - nothing may unwind into the supervisor's stack
            _log.exception("Worker %d could not go on.", slot.number)
        finally:
            # Not sys.exit: what the supervisor has on its stack is not this process's to clean up.
            logging.shutdown()
            os._exit(code)

    # -- looking after them ------------------------------------------------------------------------------

    def _next_signal(self) -> int:
        """Wait for the next signal, or until there is something to look after.

        Returns:
            Its number, 0 for none.
        """
        self.notifier.alive()
        waiting = self._to_reload or any(slot.process is None or slot.successor for slot in self.slots)
        arrived = signal.sigtimedwait(SIGNALS, _POLL_SECONDS if waiting else LOOK_SECONDS)
        return arrived.si_signo if arrived else 0

    def _reap(self) -> None:
        """Take note of every process that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._ended(pid, status)

    def _ended(self, pid: int, status: int) -> None:
        if self.keeping and self.keeping.ended(pid):
            return
        retired = self.retired.pop(pid, None)
        if retired is not None:
            _log.info("The retired worker with pid %d has ended (%s).", pid, _cause(status))
            _clear(retired)
        for slot in self.slots:
            if slot.successor and slot.successor.pid == pid:
                _log.error("The successor of worker %d, pid %d, ended: %s.", slot.number, pid, _cause(status))
                _clear(slot.successor)
                slot.successor = None
            if slot.process and slot.process.pid == pid:
                self._lost(slot, slot.process, status)

    def _lost(self, slot: Slot, process: Process, status: int) -> None:
        """Decide when a worker that ended is replaced."""
        _clear(process)
        slot.process = None
        now = time.monotonic()
        quick = now - process.started < _QUICK_DEATH_SECONDS
        slot.quick_deaths = slot.quick_deaths + 1 if quick else 0
        over = slot.quick_deaths - _FREE_RESTARTS
        wait = _BACK_OFF_SECONDS[min(over, len(_BACK_OFF_SECONDS)) - 1] if over > 0 else 0.0
        slot.not_before = now + wait
        _log.error(
            "Worker %d, pid %d, ended: %s; it is replaced %s.",
            slot.number,
            process.pid,
            _cause(status),
            f"in {wait} s, because it keeps ending right after its start" if wait else "now",
        )

    def _restart_due(self) -> None:
        now = time.monotonic()
        for slot in self.slots:
            if slot.process is None and slot.not_before <= now:
                if slot.successor is not None:
                    slot.process, slot.successor = slot.successor, None
                else:
                    slot.process = self._fork(slot)

    def _kill_stuck(self) -> None:
        """Kill the workers that are stuck; each is then replaced like any other that ends."""
        if self.keeping:
            self.keeping.turn(partial(self.listeners.keep_only, None))
        workers = [p for slot in self.slots for p in (slot.process, slot.successor) if p]
        rows = {process.pid: process.row for process in (*workers, *self.retired.values())}
        heartbeats = {pid: row[Column.HEARTBEAT] for pid, row in rows.items()}
        for pid in self._watchdog.stuck(time.monotonic(), heartbeats):
            _log.error("The worker with pid %d gives no sign of life; it is killed.", pid)
            rows[pid][Column.STUCK_WORKERS] += 1
            _kill(pid, signal.SIGKILL)

    def _reload(self) -> None:
        """Replace all workers, unless a file that they would depend on has gone bad."""
        self.notifier.reloading("The workers are replaced one by one.")
        try:
            self.credentials = Credentials.read(self.settings)
        except StartError as error:
            _log.error("SIGHUP: the workers go on as they are, because a file is wrong. %s", error)
            if not self._to_reload:
                # systemd waits for the end of each reload, also of one that came to nothing.
                self.notifier.ready(f"Serves {self._served()}; a reload failed.")
            return
        _log.info("SIGHUP: the workers are replaced one by one.")
        # A successor that an earlier reload has begun with knows nothing of this one: it is replaced in turn.
        self._to_reload = [*(slot for slot in self.slots if slot.successor), *self.slots]

    def _reload_next(self) -> None:
        """Reload one worker further: a successor accepts from the same sockets before the old one stops."""
        if not self._to_reload:
            return
        slot = self._to_reload[0]
        if slot.process is None:
            self._reloaded()  # it is about to be a new one anyway
        elif slot.successor is None:
            # A retired worker may take its time; who has none at all comes first.
            free = sum(row[Column.STATE] == State.NONE for row in self.board.rows)
            if free > sum(other.process is None for other in self.slots):
                slot.successor = self._fork(slot)
        elif slot.successor.row[Column.STATE] == State.READY:
            old, slot.process, slot.successor = slot.process, slot.successor, None
            self.retired[old.pid] = old
            _kill(old.pid, worker.RETIRE)
            self._reloaded()

    def _reloaded(self) -> None:
        """Go on to the next worker."""
        self._to_reload.pop(0)
        if not self._to_reload:
            _log.info("All workers are replaced.")
            self.notifier.ready(f"Serves {self._served()}.")

    # -- stopping ----------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Refuse connections and end every process: SIGTERM, and after the drain time SIGKILL."""
        self.listeners.close()
        limit = self.settings.drain_seconds + _GRACE_SECONDS
        more = _GRACE_SECONDS + (SETTLE_SECONDS if self.keeping else 0)
        self.notifier.stopping("Requests under way are finished.", limit + more)
        alive = {p.pid for slot in self.slots for p in (slot.process, slot.successor) if p} | set(
            self.retired
        )
        for pid in alive:
            _kill(pid, signal.SIGTERM)
        if self.keeping:
            self.keeping.stop()
        deadline = time.monotonic() + limit
        while alive:
            self.notifier.alive()
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                alive.discard(pid)
            elif time.monotonic() > deadline:
                _log.error("%d workers did not end in time; they are killed.", len(alive))
                for pid in alive:
                    _kill(pid, signal.SIGKILL)
                deadline = float("inf")
            else:
                signal.sigtimedwait({signal.SIGCHLD}, _POLL_SECONDS)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _clear(process: Process) -> None:
    process.row[Column.PID] = 0
    process.row[Column.STATE] = State.NONE


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"
