"""The watchdog: what is stuck, what works, and what gets no CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from server import Server, is_alive, read_reply, running, wait_until

from fastkv.watchdog import Usage, Watchdog, read_usage

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

STUCK_SERVER = (sys.executable, str(Path(__file__).parent / "stuck_server.py"), "serve")
PID = 7

# -- the decision, as data -----------------------------------------------------------------------------------

# A look: when, the sign of life, the CPU time used so far, and whether the process waits.
Look = tuple[float, int, float, bool]
RUNS, WAITS = False, True


def silent(count: int, step: float, cpu: float, *, waits: bool) -> list[Look]:
    """Looks at a process that gives no sign of life and uses so much CPU between two of them."""
    return [(i * step, 1, i * cpu, waits) for i in range(count)]


# With a limit of 2 s. The first look learns the sign of life, the second one begins to count.
CASES: dict[str, tuple[list[Look], list[int]]] = {
    "asleep": (silent(8, 0.5, 0, waits=WAITS), [5]),
    "asleep for long: it is charged anew": (silent(12, 0.5, 0, waits=WAITS), [5, 9]),
    "in an endless loop": (silent(8, 0.5, 0.5, waits=RUNS), [5]),
    "in an endless loop on half a CPU": (silent(12, 0.5, 0.25, waits=RUNS), [9]),
    "without a CPU": (silent(2000, 0.5, 0, waits=RUNS), []),
    "with one of 1,000 parts of a CPU": (silent(2000, 0.5, 0.0005, waits=RUNS), []),
    "alive": ([(i * 0.5, i, i * 0.5, RUNS) for i in range(100)], []),
    "alive, at every other look": ([(i * 0.5, i // 2, i * 0.5, RUNS) for i in range(100)], []),
    "alive, but for 1.5 s again and again": (
        [(i * 0.5, i // 5, i * 0.5, WAITS if i % 2 else RUNS) for i in range(100)],
        [],
    ),
    "found asleep between runs: CPU time counts": (
        [(i * 0.5, 1, i * 0.1, bool(i % 2)) for i in range(24)],
        [21],
    ),
    "looked at late: it was held up as well": (silent(100, 1.5, 0, waits=WAITS), []),
    "looked at late, in an endless loop": (silent(5, 1.5, 1.5, waits=RUNS), [3]),
    "looked at often": (silent(300, 0.01, 0, waits=WAITS), [201]),
    "asleep, with a sign of life between": (
        [(i * 0.5, int(i > 3), 0, WAITS) for i in range(10)],
        [9],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_stuck(name: str) -> None:
    looks, expected = CASES[name]
    usage = [Usage(cpu, waits) for _, _, cpu, waits in looks]
    at = 0
    watchdog = Watchdog(2.0, lambda _pid: usage[at])
    found = []
    for at, (now, word, _, _) in enumerate(looks):
        found += [at] * len(watchdog.stuck(now, {PID: word}))
    assert found == expected


def test_processes_are_told_apart() -> None:
    watchdog = Watchdog(2.0, lambda _pid: Usage(0.0, waits=True))
    found = [watchdog.stuck(i * 0.5, {1: i, 2: 0, 3: i // 4}) for i in range(6)]
    assert found == [[], [], [], [], [], [2]]


def test_a_process_that_is_looked_at_no_more_is_forgotten() -> None:
    watchdog = Watchdog(2.0, lambda _pid: Usage(0.0, waits=True))
    for i in range(5):
        assert watchdog.stuck(i * 0.5, {PID: 0}) == []
    assert watchdog.stuck(2.5, {}) == []
    assert [watchdog.stuck(3 + i * 0.5, {PID: 0}) for i in range(6)] == [[], [], [], [], [], [PID]]


def test_nothing_is_read_of_a_process_that_lives() -> None:
    read: list[int] = []

    def usage_of(pid: int) -> Usage:
        read.append(pid)
        return Usage(0.0, waits=True)

    watchdog = Watchdog(2.0, usage_of)
    for i in range(100):
        watchdog.stuck(i * 0.5, {1: i, 2: 0})
    assert set(read) == {2}


def test_time_counts_where_the_usage_is_unknown() -> None:
    watchdog = Watchdog(2.0, lambda _pid: None)
    assert [bool(watchdog.stuck(i * 0.5, {PID: 0})) for i in range(6)] == [False] * 5 + [True]


# -- what the kernel says ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "usage"),
    [
        ("7 (a) R 1" + " 0" * 9 + " 150 50 0 0 20", Usage(2.0, waits=False)),
        ("7 (a b) c) S) S 1" + " 0" * 9 + " 1 0 0 0 20", Usage(0.01, waits=True)),
        ("7 (a) D 1" + " 0" * 9 + " 1 0 0 0 20", Usage(0.01, waits=False)),
        ("7 (a) T 1" + " 0" * 9 + " 1 0 0 0 20", Usage(0.01, waits=True)),
        ("7 (a) t 1" + " 0" * 9 + " 1 0 0 0 20", Usage(0.01, waits=True)),
        ("7 (a) R 1 0", None),
        ("7 (a", None),
        ("", None),
    ],
)
def test_the_file_of_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, usage: Usage | None
) -> None:
    monkeypatch.setattr("fastkv.watchdog._TICKS_PER_SECOND", 100)
    where = tmp_path / "7/task/7"
    where.mkdir(parents=True)
    (where / "stat").write_text(text)
    assert read_usage(PID, tmp_path) == usage
    assert read_usage(8, tmp_path) is None


def child(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)


def test_real_processes() -> None:
    with ExitStack() as stack:
        busy, idle = (stack.enter_context(child(code)) for code in ("while True: pass", "input()"))
        stack.callback(busy.kill)
        stack.callback(idle.kill)

        def uses(pid: int) -> Usage:
            usage = read_usage(pid)
            assert usage is not None
            return usage

        wait_until(lambda: uses(busy.pid).cpu_seconds >= 0.3, "it has run")
        assert not uses(busy.pid).waits
        wait_until(lambda: uses(idle.pid).waits, "it waits for input")
        busy.send_signal(signal.SIGSTOP)
        wait_until(lambda: uses(busy.pid).waits, "it is stopped")


# -- real servers --------------------------------------------------------------------------------------------


def stats(server: Server) -> dict[str, int]:
    found: dict[str, int] = json.loads(server.request("GET", "/stats").body)
    return found


def ask(client: socket.socket, *words: str) -> None:
    """Send a command, and do not wait for its reply."""
    body = json.dumps(words)
    client.sendall(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def test_a_worker_in_an_endless_loop_is_killed_and_replaced() -> None:
    with running(STUCK_SERVER, workers=1, stuck_seconds=1) as server:
        (stuck,) = server.workers()
        with server.connect() as client:
            ask(client, "HOLD", "inf")
            wait_until(lambda: not is_alive(stuck) and len(server.workers()) == 1, "its replacement")
        assert f"The worker with pid {stuck} gives no sign of life; it is killed." in server.log()
        assert stats(server)["stuck_workers"] == 1


def test_a_worker_that_reports_progress_is_not_stuck() -> None:
    with running(STUCK_SERVER, workers=1, stuck_seconds=1) as server, server.connect(60) as client:
        before = server.workers()
        ask(client, "WORK", "3")
        with client.makefile("rb") as replies:
            assert read_reply(replies).body == b'{"result":"OK"}'
        assert server.workers() == before
        assert stats(server)["stuck_workers"] == 0


@contextmanager
def busy_loops(cpu: int) -> Iterator[list[psutil.Process]]:
    """Two processes that leave nothing of a CPU."""
    with ExitStack() as stack:
        loops = []
        for _ in range(2):
            loop = stack.enter_context(child("while True: pass"))
            stack.callback(loop.kill)
            os.sched_setaffinity(loop.pid, {cpu})
            loops.append(psutil.Process(loop.pid))
        yield loops


def cpu_seconds(*processes: psutil.Process) -> float:
    return sum(process.cpu_times().user for process in processes)


def test_a_worker_that_gets_no_cpu_is_not_stuck() -> None:
    """What it is asked for takes 0.8 s of CPU, for which it would have to wait for minutes."""
    with running(STUCK_SERVER, workers=1, stuck_seconds=1) as server, server.connect(60) as client:
        before = server.workers()
        worker = psutil.Process(before[0])
        cpus = os.sched_getaffinity(worker.pid)
        with busy_loops(min(cpus)) as loops:
            wait_until(lambda: cpu_seconds(*loops) > 0.2, "the loops run", 60)
            idle = cpu_seconds(worker)
            ask(client, "HOLD", "0.8")
            wait_until(lambda: cpu_seconds(worker) > idle, "it works")
            os.sched_setscheduler(worker.pid, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setaffinity(worker.pid, {min(cpus)})
            begun = cpu_seconds(*loops)
            wait_until(lambda: cpu_seconds(*loops) > begun + 4, "it would have been killed by now", 120)
            assert is_alive(worker.pid)
        os.sched_setscheduler(worker.pid, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(worker.pid, cpus)
        with client.makefile("rb") as replies:
            assert read_reply(replies).body == b'{"result":"OK"}'
        assert server.workers() == before
        assert "no sign of life" not in server.log()
