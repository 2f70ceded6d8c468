"""A server as a child process: started, waited for, talked to, and ended by its process id."""

import http.client
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import psutil
from replies import Reply

import fastkv
from fastkv.core import PURE_VARIABLE

ROOT = Path(__file__).parent.parent
SERVE = (sys.executable, "-m", "fastkv")

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.01


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Look again and again until a condition holds.

    Args:
        condition: What has to become true.
        what: The same in words, for the failure.
        seconds: When to give up.

    Raises:
        AssertionError: It did not become true.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"This did not come true: {what}.")
        time.sleep(_POLL_SECONDS)


def is_alive(pid: int) -> bool:
    """True for a process that runs or could; a zombie is none."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def has_ended(*pids: int) -> bool:
    """True where none of these processes is alive."""
    return not any(map(is_alive, pids))


def has_ipv6() -> bool:
    """True where the machine has a loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def private_bytes(pid: int) -> int:
    """Memory of a process that it shares with nobody."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Private_Dirty"))


def read_reply(stream: IO[bytes], method: str = "GET") -> Reply:
    """Read one reply.

    Args:
        stream: What the server sends, as a buffered file.
        method: Of the request: a reply to HEAD has no body.

    Returns:
        The reply.

    Raises:
        EOFError: The connection ended before the reply did.
    """
    line = stream.readline()
    fields: dict[str, str] = {}
    while (field_line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = field_line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip()
    length = 0 if method == "HEAD" else int(fields.get("content-length", 0))
    body = stream.read(length) if length else b""
    if not line or field_line != b"\r\n" or len(body) < length:
        raise EOFError("The connection ended before the reply did.")
    return Reply(int(line.split(b" ")[1]), fields, body)


def flags_of(settings: dict[str, object]) -> list[str]:
    """Write settings as flags: a tuple repeats its flag, True and False are a switch."""
    flags: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        for one in value if isinstance(value, tuple) else (value,):
            flags += [f"--{flag}", str(one)]
    return flags


def environment() -> dict[str, str]:
    """The environment without settings of the server, and with the package on the path.

    Which implementation runs is no setting: that of the tests runs in the server, too.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == PURE_VARIABLE or not name.startswith("FASTKV_")
    }
    return {**kept, "PYTHONPATH": str(Path(fastkv.__file__).parent.parent)}


_DEFAULTS: dict[str, object] = {"port": 0, "workers": 2, "memory": "32mb", "tune": False}


def run_to_end(program: Sequence[str] = (*SERVE, "serve"), **settings: object) -> tuple[int, str, str]:
    """Run a server that is expected to end by itself; exit code, stdout and stderr."""
    done = subprocess.run(
        [*program, *flags_of({**_DEFAULTS, **settings})],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_START_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


Job = Callable[[Callable[[], bool]], None]
"""What runs in a thread; it asks its argument whether to stop."""


@contextmanager
def in_background(*jobs: Job) -> Iterator[Callable[[], bool]]:
    """Run jobs in threads until the block ends; what the first that fails raises is raised here.

    Args:
        jobs: What to run.

    Yields:
        Tells whether one has failed.
    """
    over = threading.Event()
    failures: list[BaseException] = []

    def run(job: Job) -> None:
        try:
            job(over.is_set)
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
            failures.append(error)
            over.set()

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield over.is_set
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


@dataclass(slots=True)
class Server:
    """A server that is ready.

    Attributes:
        process: Its supervisor.
        ready: The line that it wrote when it was ready.
        host: The first address that it listens on.
        port: Its port.
    """

    process: subprocess.Popen[bytes]
    ready: str
    host: str
    port: int
    _log: IO[bytes]
    _seen: set[int] = field(default_factory=set)

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        return self.process.pid

    def workers(self) -> list[int]:
        """Process ids of its children, without zombies."""
        with suppress(psutil.NoSuchProcess):
            found = [child.pid for child in psutil.Process(self.pid).children() if is_alive(child.pid)]
            self._seen.update(found)
            return found
        return []

    def log(self) -> str:
        """What it has written to stderr so far."""
        return os.pread(self._log.fileno(), 1 << 26, 0).decode()

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """Open a connection whose operations time out after so many seconds."""
        return socket.create_connection((self.host, self.port), timeout)

    def request(
        self, method: str, path: str, body: bytes | str | None = None, fields: dict[str, str] | None = None
    ) -> Reply:
        """Send a request on a connection of its own.

        Args:
            method: The method.
            path: The target.
            body: The body, or None.
            fields: Further header fields.

        Returns:
            The reply.
        """
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=10)) as connection:
            connection.request(method, path, body, fields or {})
            reply = connection.getresponse()
            named = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, named, reply.read())

    def send(self, number: int) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end, not for ever; the exit code, negative for a signal."""
        return self.process.wait(_STOP_SECONDS)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.workers()
        self.send(number)
        return self.wait()

    def end(self) -> None:
        """End it whatever state it is in, workers included."""
        self.workers()
        self.process.kill()
        self.process.wait(_STOP_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        for pid in self._seen:
            wait_until(partial(has_ended, pid), f"worker {pid} ends with its supervisor")


@contextmanager
def running(program: Sequence[str] = (*SERVE, "serve"), **settings: object) -> Iterator[Server]:
    """Start a server on a free port, and end it after the block.

    Args:
        program: What is run; the settings follow it as flags.
        settings: By name of the flag, without the dashes.

    Yields:
        The server, ready.
    """
    with tempfile.TemporaryFile() as log:
        command = [*program, *flags_of({**_DEFAULTS, **settings})]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=environment(), cwd=ROOT, bufsize=0
        )
        server = Server(process, "", "", 0, log)
        try:
            server.ready = _ready_line(process)
            address = server.ready.split()[2].partition("://")[2]
            server.host = address.rpartition(":")[0].strip("[]")
            server.port = int(address.rpartition(":")[2])
            yield server
        except BaseException as error:
            error.add_note(f"The server wrote to stderr:\n{server.log()}")
            raise
        finally:
            server.end()


def _ready_line(process: subprocess.Popen[bytes]) -> str:
    """Wait for the line that says where the server can be reached."""
    assert process.stdout is not None
    deadline = time.monotonic() + _START_SECONDS
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(deadline - time.monotonic()):
                raise AssertionError("The server was not ready in time.")
            piece = process.stdout.read(4096)
            if not piece:
                raise AssertionError(f"The server ended with exit code {process.wait(_STOP_SECONDS)}.")
            line += piece
    return line.decode()
