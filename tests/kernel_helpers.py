"""What the tests of the kernel settings share: made-up machines, and namespaces of their own on the real one.

No test changes a setting of the machine that it runs on. What is written for real is written by a forked
process that has network and mount namespaces of its own, with everything global mounted read-only.
"""

import ctypes
import fcntl
import functools
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec
from unittest import mock

import pytest
from server import environment

from fastkv.cli import main
from fastkv.kernel import profile
from fastkv.kernel.plan import Plan, Row, judge
from fastkv.kernel.profile import conf_directory, load
from fastkv.kernel.sysctl import Tree, path_of

GIB = 1 << 30
NOBODY = 65534
BOOT_ID = "0b9f4a2e-7c61-4c1e-9c53-1d2f6a7b8c90"
BOOT_ID_PATH = "proc/sys/kernel/random/boot_id"
SHMEM_PATH = "sys/kernel/mm/transparent_hugepage/shmem_enabled"
DROP_IN = Path("/etc/sysctl.d/60-fastkv.conf")

FRESH: Mapping[str, str] = {
    "net.core.somaxconn": "4096",
    "net.core.netdev_max_backlog": "1000",
    "net.ipv4.tcp_max_syn_backlog": "2048",
    "net.ipv4.tcp_syncookies": "1",
    "net.ipv4.tcp_tw_reuse": "2",
    "net.ipv4.tcp_fin_timeout": "60",
    "net.ipv4.tcp_mem": "287901\t383868\t575802",
    "net.ipv4.tcp_rmem": "4096\t131072\t33554432",
    "net.ipv4.tcp_wmem": "4096\t16384\t4194304",
    "net.ipv4.ip_local_reserved_ports": "",
    "net.ipv4.ip_local_port_range": "32768\t60999",
    "net.ipv4.tcp_fastopen": "1",
    "fs.file-max": "2466177",
    "net.ipv4.tcp_keepalive_time": "7200",
    "net.ipv4.tcp_keepalive_intvl": "75",
    "net.ipv4.tcp_keepalive_probes": "9",
    "fs.nr_open": "1048576",
    "vm.overcommit_memory": "0",
}
"""What Linux 6 has on a machine of 24 GiB."""

PUBLISHED: Mapping[str, str] = {
    "net.core.somaxconn": "131072",
    "net.core.netdev_max_backlog": "500000",
    "net.ipv4.tcp_tw_reuse": "1",
    "net.ipv4.tcp_tw_recycle": "1",
    "net.ipv4.tcp_fin_timeout": "10",
    "net.ipv4.tcp_max_syn_backlog": "262144",
    "net.ipv4.tcp_syncookies": "0",
    "net.ipv4.tcp_mem": "786432 1048576 1572864",
    "net.ipv4.tcp_rmem": "4096 87380 6291456",
    "net.ipv4.tcp_wmem": "4096 87380 6291456",
    "net.ipv4.ip_local_port_range": "1024 65535",
    "net.ipv4.tcp_fastopen": "3",
    "fs.file-max": "2097152",
    "net.ipv4.tcp_keepalive_time": "60",
    "net.ipv4.tcp_keepalive_intvl": "10",
    "net.ipv4.tcp_keepalive_probes": "5",
}
"""The settings that UltraFastKVCache was published with."""


# -- made-up machines ----------------------------------------------------------------------------------------


def make_files(root: Path, memory_bytes: int = 24 * GIB, /, **changes: str | None) -> Tree:
    """Make a machine of files.

    Args:
        root: where; what is there stays.
        memory_bytes: its memory.
        changes: values by the last part of a name that differ from `FRESH`; None is absent.
    """
    short = {name.rpartition(".")[2].replace("-", "_"): name for name in FRESH}
    assert changes.keys() <= short.keys()
    values = {**FRESH, **{short[name]: value for name, value in changes.items()}}
    files = {path_of(name): value for name, value in values.items()}
    files |= {
        BOOT_ID_PATH: BOOT_ID,
        SHMEM_PATH: "always within_size advise [never] deny force",
        "proc/meminfo": f"MemTotal:       {memory_bytes // 1024} kB\nMemFree: 1 kB",
    }
    for path, value in files.items():
        if value is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{value}\n", encoding="ascii")
    return Tree(root)


@contextmanager
def directory_in_memory() -> Iterator[Path]:
    """A directory in which writing a file through to the disk takes no time."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """What a module has as its ``tmp_path`` where hundreds of files are written through to the disk."""
    with directory_in_memory() as path:
        yield path


def contents(tree: Tree) -> dict[str, str | None]:
    """Every value of a machine of files, by the name of the setting."""
    return {name: tree.read(path_of(name)) for name in FRESH}


class Memory(Tree):
    """A machine that is no more than a dictionary.

    Attributes:
        values: by path.
        refused: paths that take nothing, with the number of the error.
        clamped: paths of which something else is read back, and what.
        locked: paths that cannot be opened for writing.
        written: the paths that were written.
    """

    def __init__(self, values: Mapping[str, str] = FRESH) -> None:
        super().__init__(Path("/nowhere"))
        self.values = {path_of(name): " ".join(value.split()) for name, value in values.items()}
        self.values |= {BOOT_ID_PATH: BOOT_ID, "proc/meminfo": f"MemTotal: {24 * GIB // 1024} kB"}
        self.values[SHMEM_PATH] = "never"
        self.refused: dict[str, int] = {}
        self.clamped: dict[str, str] = {}
        self.locked: set[str] = set()
        self.written: list[str] = []

    def read(self, path: str) -> str | None:
        return self.values.get(path)

    def is_writable(self, path: str) -> bool:
        return path not in self.locked

    def write(self, path: str, value: str) -> None:
        self.written.append(path)
        if path in self.refused:
            raise OSError(self.refused[path], os.strerror(self.refused[path]))
        assert path in self.values
        self.values[path] = self.clamped.get(path, value)

    def named(self, name: str) -> str | None:
        """A value by the name of the setting."""
        return self.values.get(path_of(name))


def plan_of(tree: Tree, name: str = "recommended", port: int | None = None) -> Plan:
    """Judge a machine by a profile."""
    return judge(tree, load(name, port))


def rows_of(plan: Plan) -> dict[str, Row]:
    """The rows of a plan by the name of the setting."""
    return {row.name: row for row in plan.rows}


# -- processes -----------------------------------------------------------------------------------------------


def forked(job: Callable[[], object]) -> tuple[int, str]:
    """Run something in a forked process; its exit code, negative for a signal, and its traceback."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reader)
            job()
            code = 0
        except BaseException:  # noqa: BLE001 - the parent raises it
            os.write(writer, traceback.format_exc()[-30_000:].encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as stream:
        told = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), told


def in_child(job: Callable[[], object]) -> None:
    """Run something in a forked process; what fails there fails here."""
    code, told = forked(job)
    if code:
        raise AssertionError(f"In the forked process, exit code {code}:\n{told}")


def as_nobody(job: Callable[[], object]) -> None:
    """Run something in a forked process without privileges; the checkout may be out of its reach."""

    def unprivileged() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        job()

    with directory_in_memory() as path:
        shutil.copytree(conf_directory(), path / "conf")
        path.chmod(0o755)
        with mock.patch.object(profile, "conf_directory", return_value=path / "conf"):
            in_child(unprivileged)


@contextmanager
def every_step(step: Callable[[str], None]) -> Iterator[None]:
    """Call something before and after all that changes a setting or a file, with the name of what it is."""

    def stepping(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def stepped(*args: Any, **kwargs: Any) -> Any:
            step(f"before {name}")
            result = function(*args, **kwargs)
            step(f"after {name}")
            return result

        return stepped

    places = ((Tree, "write"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (os, "fsync"))
    patches = [mock.patch.object(on, name, stepping(getattr(on, name), name)) for on, name in places]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def is_killed_at(number: int, job: Callable[[], object]) -> bool:
    """Run something in a forked process that is killed at its n-th step; False where it ended before that."""
    left = number

    def step(_: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        with every_step(step):
            job()

    code, told = forked(run)
    assert code in (0, -signal.SIGKILL), told
    return code != 0


# -- namespaces ----------------------------------------------------------------------------------------------

_NEW_NETWORK, _NEW_MOUNTS = 0x40000000, 0x00020000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_SET_FLAGS, _UP = 0x8914, 1
_GLOBAL = ("/proc/sys/fs", "/proc/sys/kernel", "/proc/sys/vm")

_P = ParamSpec("_P")


def _call(name: str, *args: object) -> None:
    """Call a function of the C library that returns 0."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: bytes | None = None) -> None:
    _call("mount", source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), data)


def make_read_only(path: str) -> None:
    """Mount a directory over itself, read-only."""
    _mount(path, path, None, _BIND)
    _mount(path, path, None, _REMOUNT | _BIND | _READ_ONLY)


def new_network() -> None:
    """Move this process into a network namespace of its own; what is global is what it was."""
    before = os.stat("/proc/self/ns/net").st_ino
    _call("unshare", _NEW_NETWORK)
    # The descriptor keeps the old one, and so its number, from being given again.
    assert os.stat("/proc/self/ns/net").st_ino != before


def enter_namespaces() -> None:
    """Move this process into network and mount namespaces in which nothing global can be written."""
    old = os.open("/proc/self/ns/net", os.O_RDONLY)
    _call("unshare", _NEW_NETWORK | _NEW_MOUNTS)
    assert os.fstat(old).st_ino != os.stat("/proc/self/ns/net").st_ino
    os.close(old)
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    for path in (*_GLOBAL, "/sys"):
        make_read_only(path)
        assert os.statvfs(path).f_flag & os.ST_RDONLY
    for path in ("/etc/sysctl.d", "/var/lib"):
        _mount("none", path, "tmpfs", 0, b"mode=755")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))


@functools.cache
def _why_no_namespaces() -> str:
    if os.geteuid() != 0:
        return "needs root, for namespaces of its own"
    code, told = forked(enter_namespaces)
    return f"needs namespaces of its own: {told.strip().splitlines()[-1]}" if code else ""


def namespaced(test: Callable[_P, None]) -> Callable[_P, None]:
    """Run a test in a forked process with network and mount namespaces of its own."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        if reason := _why_no_namespaces():
            pytest.skip(reason)

        def inside() -> None:
            enter_namespaces()
            test(*args, **kwargs)

        in_child(inside)

    return run


_release = re.match(r"(\d+)\.(\d+)", os.uname().release)
needs_cookies = pytest.mark.skipif(
    _release is not None and (int(_release[1]), int(_release[2])) < (5, 14),
    reason="needs Linux 5.14: before there is nothing better than an inode's number",
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


# -- the command ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did.

    Attributes:
        code: its exit code.
        out: its standard output.
        err: its standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its output as JSON."""
        report = json.loads(self.out)
        assert isinstance(report, dict)
        return report


class Screen(io.StringIO):
    """A standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def tune(*args: object, out: io.StringIO | None = None, **variables: str) -> Ran:
    """Run ``fastkv tune-kernel`` in this process, with an environment that has no settings but the given."""
    out, err, code = out or io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, {**environment(), **variables}, clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main(["tune-kernel", *map(str, args)])
        except SystemExit as end:
            code = int(end.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def changed(report: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """Before and after of every change in a report."""
    return {change["name"]: (change["before"], change["after"]) for change in report["changes"]}
