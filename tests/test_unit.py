"""conf/fastkv.service: systemd accepts it, it gives away little, and what it leaves is enough."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from server import ROOT, SERVE, Server, environment, has_ended, running, wait_until

from fastkv.watchdog import LOOK_SECONDS

UNIT = ROOT / "conf/fastkv.service"
PROGRAM = "/opt/fastkv/bin/fastkv"
MOST_EXPOSURE = 1.1
# What a server has to be left with, in systemd's words.
LEFT = {
    "PrivateNetwork=",
    "RestrictAddressFamilies=~AF_(INET|INET6)",
    "RestrictAddressFamilies=~AF_UNIX",
    "IPAddressDeny=",  # who may reach it is not known
    "ProcSubset=",  # /proc/meminfo and /proc/sys are read
    "DeviceAllow=",  # ProtectClock= itself makes an exception
    "RootDirectory=/RootImage=",
}

# The server as the unit restricts it, as far as a process can do that to itself: without new privileges and
# capabilities, and without memory that is both writable and executable.
_RESTRICTED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 24, 38, 65
for capability in range(64):
    libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
for option in (PR_SET_NO_NEW_PRIVS, PR_SET_MDWE):
    if libc.prctl(option, 1, 0, 0, 0):
        print(f"prctl {option}: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
os.umask(0o077)
os.execv(sys.executable, [sys.executable, "-m", "fastkv", *sys.argv[1:]])
"""


def require(tool: str) -> None:
    """Skip the test where a tool is missing."""
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool} here")


def run(*command: str) -> tuple[int, str]:
    """Run a command to its end; the exit code, and what it wrote."""
    done = subprocess.run(
        command,
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def values(name: str) -> list[str]:
    """What the unit assigns to a name, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """The unit with a program that is there: systemd looks whether it is."""
    program = tmp_path / "fastkv"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, str(program)))
    return str(unit)


# -- the file ----------------------------------------------------------------------------------------------


def test_systemd_has_nothing_to_say(installed: str) -> None:
    require("systemd-analyze")
    code, told = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", installed)
    # What it says of the machine's own units is no concern of this one.
    assert (code, [line for line in told.splitlines() if "fastkv" in line]) == (0, []), told


def test_it_gives_away_little(installed: str) -> None:
    require("systemd-analyze")
    command = ("systemd-analyze", "security", "--offline=yes", "--no-pager", installed)
    code, told = run(*command)
    exposure = re.search(r"Overall exposure level for fastkv\.service: ([\d.]+)", told)
    assert exposure is not None, told
    assert float(exposure[1]) <= MOST_EXPOSURE, told
    assert code == 0
    code, told = run(*command, "--json=short")
    assert {row["name"] for row in json.loads(told) if row["set"] is False} == LEFT


def test_its_commands_exist() -> None:
    commands = [line for name in ("ExecStartPre", "ExecStart") for line in values(name)]
    assert len(commands) == 2
    for line in commands:
        program, *arguments = line.lstrip("+-").split()
        assert program == PROGRAM
        code, told = run(*SERVE, *arguments, "--help")
        assert code == 0, told


def test_the_kernel_is_tuned_before_and_not_by_the_service() -> None:
    assert values("ExecStartPre")[0].startswith("+-")
    assert "--no-tune" in values("ExecStart")[0]


def test_the_watchdog_waits_for_more_than_one_sign_of_life() -> None:
    assert float(values("WatchdogSec")[0].removesuffix("s")) / 2 > 2 * LOOK_SECONDS


# -- what it leaves ----------------------------------------------------------------------------------------


def exercise(server: Server, path: Path) -> None:
    """Have a server do all that it can: every route, large values, a dead worker, a reload, a Unix socket."""
    for value in ("small", "x" * 200_000):
        body = json.dumps({"key": "k", "value": value})
        assert server.request("POST", "/put", body).status == 200
        assert server.request("GET", "/get?key=k").status == 200
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    before = server.workers()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(server.workers()) == 2 and before[0] not in server.workers(), "a new worker")
    before = server.workers()
    server.send(signal.SIGHUP)
    wait_until(partial(has_ended, *before), "the old workers end")
    for path_and_query in ("/stats", "/health", "/get?key=k"):
        assert server.request("GET", path_and_query).status == 200
    assert server.request("DELETE", "/delete?key=k").status == 200


def test_it_runs_without_privileges_and_without_memory_to_write_and_execute(tmp_path: Path) -> None:
    with running((sys.executable, "-c", _RESTRICTED, "serve"), unix=tmp_path / "s") as server:
        exercise(server, tmp_path / "s")
        for pid in (server.pid, *server.workers()):
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
            assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert server.stop() == 0
        if "prctl" in server.log():
            pytest.skip("this kernel, older than 6.3, cannot forbid memory to write and execute")


def system_calls(group: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """The system calls of one of systemd's groups, and of the groups in it."""
    code, told = run("systemd-analyze", "syscall-filter", "--no-pager", group)
    assert code == 0, told
    assert group not in seen
    found = set()
    for line in map(str.strip, told.splitlines()[1:]):
        if line.startswith("@"):
            found |= system_calls(line, seen | {group})
        elif line and not line.startswith("#"):
            found.add(line)
    return found


def test_it_makes_no_system_call_that_is_forbidden(tmp_path: Path) -> None:
    require("systemd-analyze")
    require("strace")
    allowed: set[str] = set()
    for line in values("SystemCallFilter"):
        for group in line.lstrip("~").split():
            if line.startswith("~"):
                allowed -= system_calls(group)
            else:
                allowed |= system_calls(group)
    allowed |= system_calls("@default")
    trace = tmp_path / "trace"
    # The tracer as a grandchild (-D): the server is the child that gets the signals.
    tracer = ("strace", "-D", "-f", "-qq", "-o", str(trace))
    with running((*tracer, *SERVE, "serve"), unix=tmp_path / "s") as server:
        exercise(server, tmp_path / "s")
        assert server.stop() == 0
    made = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))
    assert {"clone", "accept4", "epoll_ctl", "wait4"} <= made
    assert made - allowed == set()
