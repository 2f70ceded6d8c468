"""The benchmark: servers start and answer, CPU is counted where it is used, a result has its form."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from server import wait_until

from perf import report
from perf.bench import __main__ as program
from perf.bench import processes, rounds
from perf.bench.build import UnavailableError
from perf.bench.driver import Driver, FailedError, Load, Shot
from perf.bench.fleet import Cpus, Fleet
from perf.bench.options import read_options, rivals_python
from perf.bench.processes import Cpu
from perf.bench.rounds import Bench, Plan
from perf.bench.servers import CEILING, FASTKV, MANY, SERVERS, UNIX, Server
from perf.bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")
KEYS = 160
CPUS = os.sched_getaffinity(0)


# -- processes ---------------------------------------------------------------------------------------------


BURN = """
import subprocess, sys, threading, time
def burn():
    while time.thread_time() < 0.15:
        pass
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], ""]) if sys.argv[1] else None
thread = threading.Thread(target=burn)
thread.start()
burn()
thread.join()
print("done", flush=True)
time.sleep(60)
"""


def test_the_cpu_of_a_tree_is_that_of_all_its_threads() -> None:
    process = subprocess.Popen([sys.executable, "-c", BURN, BURN], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["done\n"] * 2
        pids = processes.family(process.pid)
        alone, both = processes.cpu_of([process.pid]), processes.cpu_of(pids)
        for pid in pids:
            psutil.Process(pid).kill()
    assert len(pids) == 2
    assert alone.total >= 2 * 0.15e6
    assert both.total >= 4 * 0.15e6
    # The kernel's ticks and its clock tell the same.
    assert both.user + both.system == pytest.approx(both.total, rel=0.15)


def test_what_was_used_is_divided_as_the_ticks_are() -> None:
    used = Cpu(1500.0, 40_000.0, 20_000.0).since(Cpu(300.0, 10_000.0, 10_000.0))
    assert used == pytest.approx((1200.0, 900.0, 300.0))
    assert Cpu(5.0, 0.0, 0.0).since(Cpu(1.0, 0.0, 0.0)) == Cpu(4.0, 0.0, 4.0)


def test_a_process_that_has_ended_is_not_counted_as_idle() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    with pytest.raises(OSError, match="Errno"):
        processes.cpu_of([process.pid])


def test_who_is_moved_runs_there_with_all_threads() -> None:
    first = {min(CPUS)}
    with subprocess.Popen([sys.executable, "-c", BURN, ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        processes.move([process.pid], first)
        assert process.stdout.readline() == b"done\n"
        found = [os.sched_getaffinity(int(thread)) for thread in os.listdir(f"/proc/{process.pid}/task")]
        process.kill()
    assert found == [first] * len(found)
    with processes.confined(first):
        assert os.sched_getaffinity(0) == first
    assert os.sched_getaffinity(0) == CPUS


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ({0}, ({0}, {0}, {0})),
        ({0, 1}, ({0}, {0, 1}, {1})),
        ({2, 3, 6, 7}, ({2}, {2, 3}, {7})),
        (set(range(8)), ({0}, {0, 1, 2, 3}, {7})),
    ],
)
def test_cpus_are_shared_out(available: set[int], expected: tuple[set[int], ...]) -> None:
    assert Cpus.share_out(available) == expected


# -- servers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def driver(directory: Path) -> Driver:
    return Driver(directory, CPUS, "plain", percent=False)


@pytest.fixture(scope="module")
def fleet(directory: Path, driver: Driver) -> Iterator[Fleet]:
    with Fleet(directory, driver, rivals_python(), KEYS, Cpus(CPUS, CPUS, CPUS)) as running:
        yield running


@needs_gcc
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_installed_answers_whatever_it_takes(
    name: str, fleet: Fleet, driver: Driver
) -> None:
    server = SERVERS[name]
    try:
        assert fleet.version(server)
    except UnavailableError as error:
        pytest.skip(f"{name}: {error}")
    for workload in WORKLOADS.values():
        if not server.takes(workload.name):
            continue
        if workload.value_bytes > 64 and server.name != FASTKV and not server.constant:
            continue  # filling all of them takes too long for a test
        instance = fleet.get(server, workload.value_bytes)
        shot = driver.shoot(
            fleet.address(server, instance),
            server.wire,
            processes.family(instance.pid),
            workload,
            KEYS,
            Load(connections=2, seconds=0.01, warmup=0, polite=True),
        )
        assert shot.replies >= workload.depth
        assert shot.cpu.total > 0


@needs_gcc
@pytest.mark.parametrize("headers", ["curl", "browser", "node", "wrk"])
def test_fastkv_answers_every_kind_of_client(headers: str, fleet: Fleet, directory: Path) -> None:
    driver = Driver(directory, CPUS, headers, percent=True)
    instance = fleet.get(SERVERS[FASTKV])
    for name in ("uniform", "mix", "put"):
        load = Load(connections=2, seconds=0.01, warmup=0)
        address = str(instance.place.port)
        assert driver.shoot(address, "http", [], WORKLOADS[name], KEYS, load).replies > 0


@needs_gcc
def test_a_fleet_leaves_nothing_behind(directory: Path, driver: Driver) -> None:
    with Fleet(directory, driver, sys.executable, KEYS, Cpus(CPUS, CPUS, CPUS)) as fleet:
        pids = processes.family(fleet.get(SERVERS[FASTKV]).pid)
        assert len(pids) > 1
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "all have ended")


def test_a_server_that_does_not_start_is_unavailable(directory: Path) -> None:
    server = Server(
        "x", "x", lambda place: [sys.executable, "-c", ""], lambda directory, python: "1", constant=True
    )
    with (
        Fleet(directory, None, sys.executable, KEYS, Cpus(CPUS, CPUS, CPUS)) as fleet,  # type: ignore[arg-type]
        pytest.raises(UnavailableError, match="does not start"),
    ):
        fleet.get(server)


def test_what_is_not_installed_says_what_would_bring_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    reasons = {}
    for server in SERVERS.values():
        try:
            server.version(tmp_path, str(tmp_path / "python"))
        except UnavailableError as error:
            reasons[server.word] = str(error)
    debian = {"ceiling", "nginx", "go", "redis", "memcached"}
    assert set(reasons) == debian | {"uvicorn", "granian", "fastapi", "robyn"}
    assert all("Debian package" in reasons[word] for word in debian)
    with pytest.raises(UnavailableError, match=r"perf/bench/requirements\.txt"):
        SERVERS["Robyn"].version(tmp_path, _python_without_packages(tmp_path))


def _python_without_packages(directory: Path) -> str:
    """An interpreter that has nothing but the standard library."""
    path = directory / "bare-python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    path.chmod(0o755)
    return str(path)


# -- rounds ------------------------------------------------------------------------------------------------


class Told:
    """In place of a fleet and a driver: each server costs what is said here, or fails."""

    keys = KEYS
    cpus = Cpus(CPUS, CPUS, CPUS)

    def __init__(self, costs: dict[str, list[float]]) -> None:
        self.costs = costs
        self.asked: list[str] = []

    def shot(self, server: Server, *_: object) -> Shot:
        self.asked.append(server.name)
        cost = self.costs[server.name].pop(0)
        if cost < 0:
            raise FailedError("no success")
        return Shot(10, Cpu(cost, cost / 4, cost * 3 / 4), 1e6 / cost, 1.0, 2.0, 3.0, 4.0)


def told(monkeypatch: pytest.MonkeyPatch, rounds: int, costs: dict[str, list[float]]) -> tuple[Bench, Told]:
    fake: Any = Told(costs)
    bench = Bench(fake, fake, Plan([SERVERS[name] for name in costs], rounds, 1.0, 1.0, 1000), {})
    monkeypatch.setattr(bench, "_shoot", fake.shot)
    return bench, fake


def test_servers_take_turns_and_are_compared_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {CEILING: [4.0, 8.0, 5.0], FASTKV: [5.0, 10.0, 6.0], "Redis": [6.0, 8.0, 5.0]}
    bench, fake = told(monkeypatch, 3, costs)
    rows = bench.rows(WORKLOADS["hot"], 64)
    assert fake.asked == [CEILING, FASTKV, "Redis"] * 3
    assert [row["server"] for row in rows] == [CEILING, FASTKV, "Redis"]
    assert rows[1]["ratio"] == report.summary([1.25, 1.25, 1.2])
    assert rows[1]["cpu_us"] == report.summary([5.0, 10.0, 6.0])
    assert rows[1]["user_us"]["median"] == 1.5


def test_who_fails_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _ = told(monkeypatch, 2, {FASTKV: [5.0, 5.0], "Redis": [6.0, -1.0], "Robyn": [-1.0]})
    rows = bench.rows(WORKLOADS["hot"], 64)
    assert [row["server"] for row in rows] == [FASTKV]
    assert "ratio" not in rows[0]
    assert bench.skipped == {f"{name}, hot, 64 connections": "no success" for name in ("Robyn", "Redis")}


def test_if_fastkv_fails_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FASTKV, UNIX):
        bench, _ = told(monkeypatch, 1, {name: [-1.0]})
        with pytest.raises(FailedError, match=f"{name}, hot, 64 connections: no success"):
            bench.rows(WORKLOADS["hot"], 64)


def test_a_rate_is_for_those_who_are_not_saturated(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, fake = told(monkeypatch, 1, {CEILING: [5.0], FASTKV: [5.0], MANY: [5.0], "Redis": [5.0]})
    rows = bench.latency(WORKLOADS["hot"], 1000, {CEILING: 1200.0, FASTKV: 2000.0, "Redis": 1200.0})
    assert fake.asked == [row["server"] for row in rows] == [CEILING, FASTKV, MANY]
    assert rows[0]["rate"] == 1000
    assert (rows[0]["p50_us"]["median"], rows[0]["max_us"]["median"]) == (1.0, 4.0)
    assert bench.skipped == {"Redis, hot at 1,000 a second": "it is saturated at 1,200 a second"}


# -- the program -------------------------------------------------------------------------------------------


def test_a_part_is_told_from_the_whole() -> None:
    whole = read_options([], None)
    assert whole.whole
    assert whole.servers == list(SERVERS)
    assert read_options(["--rounds", "9"], None).whole
    for part in (
        "--quick",
        "--servers=redis",
        "--workloads=hot",
        "--connections=1",
        "--percent",
        "--headers=curl",
    ):
        assert not read_options([part], None).whole
    assert read_options(["--servers=redis,unix"], None).servers == ["Redis", UNIX]
    assert read_options(["--quick", "--rounds=7"], None).rounds == 7


def test_who_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read_options(["--servers=nobody"], None)
    assert "none is called 'nobody'; there are: ceiling," in capsys.readouterr().err


def test_without_a_compiler_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert program.main([]) == 2
    assert "there is no gcc, which compiles the load generator (Debian package" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "told"), [(KeyboardInterrupt(), 130, "nothing is kept"), (FailedError("x"), 1, "x")]
)
def test_what_does_not_end_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    def run(chosen: object) -> None:
        raise error

    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(program, "_run", run)
    assert program.main(["--save"]) == code
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@needs_gcc
def test_a_result_has_what_tables_are_made_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(rounds, "_IDLE_FIRST", 10)
    monkeypatch.setattr(rounds, "_IDLE_MORE", 50)
    options = "--servers=ceiling,fastkv,workers --workloads=hot --connections=1000000000 --rounds=2 --save"
    options += " --keys=160 --seconds=0.02 --latency-seconds=0.05 --rates=500 --workers-rate=500"
    assert program.main(options.split()) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    names = [CEILING, FASTKV, MANY]
    rows = {row["server"]: row for row in result["rows"]}
    assert list(rows) == names
    for row in result["rows"]:
        assert row["workload"] == "hot"
        assert row["connections"] == 64
        assert row["cpu_us"]["n"] == row["rps"]["n"] == 2
        assert row["cpu_us"]["median"] > 0
        assert row["ratio"]["n"] == 2
        assert ("ratio_to_one" in row) == ("rate" in row) == (row["server"] == MANY)
    assert rows[CEILING]["ratio"]["median"] == 1
    assert rows[MANY]["ratio_to_one"]["n"] == 2
    assert rows[MANY]["workers"] == max(2, len(CPUS) // 2) if len(CPUS) > 1 else 1
    assert {(row["server"], row["rate"]) for row in result["latency"]} == {
        (name, 500) for name in [*names, MANY]
    }
    assert all(0 < row["p50_us"]["median"] <= row["max_us"]["median"] for row in result["latency"])
    memory = {row["server"]: row for row in result["memory"]}
    assert {name: row["entries"] for name, row in memory.items()} == {CEILING: 0, FASTKV: KEYS, MANY: KEYS}
    assert memory[FASTKV]["pss_bytes"] > memory[CEILING]["pss_bytes"] > 0
    assert isinstance(memory[FASTKV]["idle_connection_bytes"], int)
    assert list(result["servers"]) == names
    assert list(result["skipped"]) == ["1,000,000,000 connections"]
    shown = capsys.readouterr().out
    assert "hot, 64 connections\n" in shown
    assert "No figures of 1,000,000,000 connections" in shown
