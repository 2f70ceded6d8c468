"""What a server does before it listens: in parts on machines that are made up, and whole in a namespace."""

import ctypes
import errno
import logging
import os
import re
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
import pytest
from kernel_helpers import Memory, in_child, make_read_only, memory_path, namespaced, tune
from server import Server, running

from fastkv.kernel.start import prepare, raise_limits
from fastkv.kernel.sysctl import Tree, path_of
from fastkv.settings import Settings

tmp_path = memory_path

SOMAXCONN = "net.core.somaxconn"
RESERVED = "net.ipv4.ip_local_reserved_ports"
_PIDFD_GETFD = 438


def prepare_here(tree: Tree, state: Path, **values: object) -> tuple[int, list[logging.LogRecord]]:
    """What `prepare` returns and logs; the limit of open files stays."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    log, handler = logging.getLogger("fastkv"), Keep()
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        settings = {"memory_bytes": 32 << 20, "workers": 1, "open_files": 64, "state_dir": state, **values}
        made = Settings(**settings)  # type: ignore[arg-type]
        raise_limits(made, rows=2 * made.workers + 1)
        return prepare(made, tree).backlog, records
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def lines(records: list[logging.LogRecord], level: int = logging.INFO) -> list[str]:
    """What was logged at a level about the kernel's settings."""
    return [
        record.getMessage()
        for record in records
        if record.levelno == level and not record.getMessage().startswith("Each process")
    ]


def test_a_line_for_each_change_and_one_that_sums_up(tmp_path: Path) -> None:
    tree = Memory()
    backlog, records = prepare_here(tree, tmp_path)
    assert backlog == 16384
    *changes, summary = lines(records)
    assert changes == [
        "Kernel setting net.core.somaxconn: 4096 → 16384",
        "Kernel setting net.core.netdev_max_backlog: 1000 → 4096",
        "Kernel setting net.ipv4.tcp_max_syn_backlog: 2048 → 16384",
        "Kernel setting net.ipv4.tcp_fin_timeout: 60 → 30",
        "Kernel setting net.ipv4.ip_local_reserved_ports: empty → 7171",
    ]
    assert summary == (
        "Kernel profile recommended: 5 changed, 14 as good or better before, 1 not there. "
        "fastkv tune-kernel --revert puts them back."
    )
    assert not [record for record in records if record.levelno > logging.INFO]
    _, records = prepare_here(tree, tmp_path)
    assert lines(records) == [
        "Kernel profile recommended: 0 changed, 19 as good or better before, 1 not there."
    ]


def test_every_risk_of_ultrafast_is_a_warning(tmp_path: Path) -> None:
    backlog, records = prepare_here(Memory(), tmp_path, profile="ultrafast")
    assert backlog == 131072
    warned = {line.split()[2].rstrip(":") for line in lines(records, logging.WARNING)}
    assert warned == {
        "net.core.netdev_max_backlog",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_tw_reuse",
        "net.ipv4.tcp_mem",
        "net.ipv4.tcp_rmem",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_fastopen",
        "fs.file-max",
    }
    for line in lines(records, logging.WARNING):
        assert re.fullmatch(r"Kernel setting \S+: .+ → .+ \(risky: .+\.\)", line)


def test_a_refusal_is_a_warning_and_the_summary_counts_it(tmp_path: Path) -> None:
    tree = Memory()
    tree.refused = {path_of(SOMAXCONN): errno.EINVAL}
    backlog, records = prepare_here(tree, tmp_path)
    assert backlog == 4096
    assert lines(records, logging.WARNING) == [
        "Kernel setting net.core.somaxconn stays 4096: the kernel did not take 16384 (Invalid argument)."
    ]
    assert "4 changed, 14 as good or better before, 1 failed, 1 not there." in lines(records)[-1]


def test_what_is_not_permitted_is_counted(tmp_path: Path) -> None:
    tree = Memory()
    tree.locked = set(tree.values)
    backlog, records = prepare_here(tree, tmp_path)
    assert backlog == 4096
    summary = (
        "Kernel profile recommended: 0 changed, 14 as good or better before, 5 not permitted, 1 not there."
    )
    assert lines(records) == [summary]
    assert os.listdir(tmp_path) == []


def test_no_tune_writes_nothing(tmp_path: Path) -> None:
    tree = Memory()
    backlog, records = prepare_here(tree, tmp_path, tune=False, profile="ultrafast")
    assert (backlog, tree.written) == (4096, [])
    assert lines(records) == ["The kernel's settings are left as they are (--no-tune)."]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize("profile", ["recommended", "ultrafast"])
def test_without_a_record_the_kernel_is_left_and_the_server_starts(
    tmp_path: Path, profile: str, tuned: bool
) -> None:
    (tmp_path / "file").touch()
    tree = Memory()
    backlog, records = prepare_here(tree, tmp_path / "file", profile=profile, tune=tuned)
    assert (backlog, tree.written) == (4096, [])
    warnings = lines(records, logging.WARNING)
    assert len(warnings) == tuned
    if tuned:
        assert warnings[0].startswith("The kernel's settings are left as they are: --state-dir: ")


@pytest.mark.parametrize(
    ("somaxconn", "backlog", "listened", "warned"),
    [
        ("16384", None, 16384, False),
        ("16384", 100, 100, False),
        ("16384", 16384, 16384, False),
        ("16384", 20_000, 16384, True),
        ("99999", None, 99999, False),
        (None, None, 4096, False),
        (None, 5000, 4096, True),
        ("", None, 4096, False),
        ("odd", None, 4096, False),
        ("-5", None, 4096, False),
    ],
)
def test_the_backlog_is_what_the_kernel_allows(
    tmp_path: Path, somaxconn: str | None, backlog: int | None, listened: int, warned: bool
) -> None:
    tree = Memory()
    del tree.values[path_of(SOMAXCONN)]
    if somaxconn is not None:
        tree.values[path_of(SOMAXCONN)] = somaxconn
    found, records = prepare_here(tree, tmp_path, tune=False, backlog=backlog)
    assert found == listened
    told = [f"--backlog {backlog}: the kernel allows {listened} (net.core.somaxconn)."] if warned else []
    assert lines(records, logging.WARNING) == told


@pytest.mark.parametrize(("port", "reserved"), [(0, "7171"), (7171, "7171"), (8080, "8080")])
def test_the_port_that_is_served_is_reserved(tmp_path: Path, port: int, reserved: str) -> None:
    tree = Memory()
    prepare_here(tree, tmp_path, port=port)
    assert tree.named(RESERVED) == reserved


@pytest.mark.parametrize(
    ("limit", "workers", "max_connections", "level", "clients"),
    [
        (128, 2, None, logging.WARNING, 2),
        (1000, 2, None, logging.WARNING, 2 * (1000 - 128 - 5)),
        (5132, 2, None, logging.WARNING, 9998),
        (5133, 2, None, logging.INFO, 10_000),
        (10_130, 1, None, logging.WARNING, 9999),
        (10_131, 1, None, logging.INFO, 10_000),
        (1000, 2, 1734, logging.INFO, 1734),
        (1000, 2, 1735, logging.WARNING, 1734),
        (1000, 2, 20_000, logging.WARNING, 1734),
    ],
)
def test_the_limit_of_open_files_is_told_as_clients_in_all_workers(
    tmp_path: Path, limit: int, workers: int, max_connections: int | None, level: int, clients: int
) -> None:
    def check() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit))
        settings = {"tune": False, "workers": workers, "max_connections": max_connections}
        _, (record, *_) = prepare_here(Memory(), tmp_path, open_files=1 << 30, **settings)
        told = f"Each process may open {limit} files, so all workers together serve at most {clients} clients"
        assert record.levelno == level
        assert record.getMessage() == (
            f"{told} at once: the hard limit is {limit}, below the 1073741824 of --open-files; "
            "fastkv tune-kernel says where to raise it."
        )
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limit, limit)
        _, (record, *_) = prepare_here(Memory(), tmp_path, open_files=limit, **settings)
        assert (record.levelno, record.getMessage()) == (level, f"{told} at once.")

    in_child(check)


@namespaced
def test_as_many_clients_are_served_as_the_log_says(tmp_path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
    with running(workers=1, state_dir=tmp_path) as server:
        found = re.search(r"WARNING Each process may open 150 files, .* at most (\d+) clients", server.log())
        assert found is not None
        clients = int(found[1])
        with ExitStack() as held:
            for _ in range(clients):
                client = held.enter_context(closing(server.connect()))
                client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
            one_more = held.enter_context(closing(server.connect()))
            one_more.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert one_more.recv(4096).startswith(b"HTTP/1.1 503 ")


# -- a real server -------------------------------------------------------------------------------------------


@contextmanager
def listening(server: Server) -> Iterator[list[socket.socket]]:
    """The very sockets that a server listens on."""
    found = []
    supervisor = os.pidfd_open(server.pid)
    for name in os.listdir(f"/proc/{server.pid}/fd"):
        if not os.readlink(f"/proc/{server.pid}/fd/{name}").startswith("socket:"):
            continue
        descriptor = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, supervisor, int(name), 0)
        assert descriptor >= 0, os.strerror(ctypes.get_errno())
        taken = socket.socket(fileno=descriptor)
        if taken.family in (socket.AF_INET, socket.AF_INET6) and taken.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            found.append(taken)
        else:
            taken.close()
    os.close(supervisor)
    try:
        yield found
    finally:
        for each in found:
            each.close()


def backlog_of(listener: socket.socket) -> int:
    """How many connections may wait, from the kernel (tcpi_sacked of a socket that listens)."""
    info: tuple[int, ...] = struct.unpack_from("<8B6I", listener.getsockopt(socket.IPPROTO_TCP, 11, 104))
    return info[-1]


@namespaced
def test_a_server_tunes_before_it_listens_and_it_can_be_undone(tmp_path: Path) -> None:
    tree = Tree()
    with running(tune=True, state_dir=tmp_path) as server:
        log = server.log()
        changes = re.findall(r" INFO Kernel setting (\S+): (.+) → (.+)\n", log)
        assert [name for name, *_ in changes] == [
            SOMAXCONN, "net.ipv4.tcp_max_syn_backlog", "net.ipv4.tcp_fin_timeout", RESERVED,
        ]  # fmt: skip
        for name, _, after in changes:
            assert tree.read(path_of(name)) == after
        assert log.count("Kernel profile recommended: 4 changed, ") == 1
        assert "WARNING" not in log
        with listening(server) as listeners:
            assert len(listeners) == 2 * len(server.ready.partition(" with ")[0].split(" and "))
            assert {backlog_of(listener) for listener in listeners} == {16384}
        assert server.request("GET", "/healthz").status in (200, 404)
    undone = tune("--revert", "--state-dir", tmp_path, "--json")
    assert undone.code == 0
    assert {c["name"]: c["after"] or "empty" for c in undone.json["changes"]} == {
        name: before for name, before, _ in changes
    }
    assert tree.read(path_of(SOMAXCONN)) == "4096"


@namespaced
def test_a_server_with_ultrafast_warns_of_each_risk(tmp_path: Path) -> None:
    with running(tune=True, profile="ultrafast", state_dir=tmp_path, backlog=200_000) as server:
        log = server.log()
        risky = re.findall(r" WARNING Kernel setting (\S+): .* → .* \(risky: .*\)", log)
        assert set(risky) == {
            "net.ipv4.tcp_syncookies", "net.ipv4.tcp_tw_reuse", "net.ipv4.tcp_rmem",
            "net.ipv4.ip_local_port_range", "net.ipv4.tcp_fastopen",
        }  # fmt: skip
        assert "--backlog 200000: the kernel allows 131072 (net.core.somaxconn)." in log
        with listening(server) as listeners:
            assert {backlog_of(listener) for listener in listeners} == {131072}


@namespaced
def test_a_server_that_shall_not_tune_raises_its_own_limit_alone(tmp_path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))
    with running(state_dir=tmp_path / "state") as server:
        assert Tree().read(path_of(SOMAXCONN)) == "4096"
        assert not (tmp_path / "state").exists()
        for pid in (server.pid, *server.workers()):
            assert psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE) == (1000, 1000)
        assert "the hard limit is 1000, below the 1048576 of --open-files" in server.log()
        assert "(--no-tune)" in server.log()
        with listening(server) as listeners:
            assert {backlog_of(listener) for listener in listeners} == {4096}


@namespaced
def test_a_server_that_may_change_nothing_serves(tmp_path: Path) -> None:
    make_read_only("/proc/sys")
    with running(tune=True, state_dir=tmp_path) as server:
        assert re.search(r"Kernel profile recommended: 0 changed, .* not permitted", server.log())
        assert "Traceback" not in server.log()
        with closing(server.connect()):
            pass


@namespaced
def test_a_server_whose_record_cannot_be_kept_serves_and_changes_nothing(tmp_path: Path) -> None:
    make_read_only(str(tmp_path))
    with running(tune=True, state_dir=tmp_path / "state") as server:
        assert "WARNING The kernel's settings are left as they are: --state-dir: " in server.log()
        assert Tree().read(path_of(SOMAXCONN)) == "4096"
        with closing(server.connect()):
            pass
