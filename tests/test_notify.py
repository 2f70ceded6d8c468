"""What a service manager is told: message by message, and by a real server from start to end."""

import os
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from server import has_ended, running, wait_until

from fastkv.notify import Notifier

_RECEIVE_SECONDS = 20.0
# The server started anew with the variables of a service manager: WATCHDOG_PID is its own pid.
_SERVE_MANAGED = """
import os, sys
from fastkv.cli import main
socket, usec, watched = sys.argv[1:4]
pid = os.getpid() if watched == "me" else 1
os.environ.update(NOTIFY_SOCKET=socket, WATCHDOG_USEC=usec, WATCHDOG_PID=str(pid))
main(["serve", *sys.argv[4:]])
"""


class Manager:
    """The service manager's end.

    Attributes:
        address: what it says in ``NOTIFY_SOCKET``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_RECEIVE_SECONDS)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def close(self) -> None:
        self._socket.close()

    def fill(self) -> None:
        """Send to itself until nothing more fits."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(self._socket.getsockname())
            for _ in range(100_000):
                try:
                    sender.send(b"-")
                except BlockingIOError:
                    return

    def next(self) -> dict[str, str]:
        """Wait for the next message."""
        lines = self._socket.recv(4096).decode().split("\n")
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def next_with(self, name: str, most: int = 100) -> dict[str, str]:
        """Wait for the next message that says so, past signs of life and nothing else."""
        for _ in range(most):
            if (message := self.next()) != {"WATCHDOG": "1"} or name == "WATCHDOG":
                assert name in message, message
                return message
        raise AssertionError(f"There was no {name} among {most} messages.")

    def has_one(self) -> bool:
        """True where a message waits."""
        return bool(select.select([self._socket], [], [], 0)[0])


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify") if request.param == "path" else f"@fastkv-{secrets.token_hex(8)}"
    made = Manager(path)
    yield made
    made.close()


# -- messages ----------------------------------------------------------------------------------------------


def test_what_is_said(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.ready("Serves.")
    assert manager.next() == {"READY": "1", "STATUS": "Serves."}
    before = time.monotonic_ns() // 1000
    notifier.reloading("Changes.")
    told = manager.next()
    assert before <= int(told.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert told == {"RELOADING": "1", "STATUS": "Changes."}
    notifier.extend("Begins.", 60)
    assert manager.next() == {"EXTEND_TIMEOUT_USEC": "60000000", "STATUS": "Begins."}
    notifier.stopping("Ends.", 7.5)
    assert manager.next() == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "7500000", "STATUS": "Ends."}


def test_a_sign_of_life_when_one_is_due(manager: Manager) -> None:
    notifier = Notifier(manager.address, watchdog_seconds=3600)
    notifier.alive()
    assert manager.next() == {"WATCHDOG": "1"}
    notifier.alive()
    assert not manager.has_one()
    notifier = Notifier(manager.address, watchdog_seconds=1e-9)
    for _ in range(3):
        notifier.alive()
        assert manager.next() == {"WATCHDOG": "1"}


def test_it_is_due_after_half_of_the_time_allowed(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    notifier = Notifier.take({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "10000000"})
    for now, due in ((100.0, True), (104.9, False), (105.0, True), (109.9, False), (110.0, True)):
        monkeypatch.setattr("fastkv.notify.time.monotonic", lambda now=now: now)
        notifier.alive()
        monkeypatch.undo()
        assert manager.has_one() == due, now
        if due:
            assert manager.next() == {"WATCHDOG": "1"}


def test_no_sign_of_life_where_nobody_watches(manager: Manager) -> None:
    Notifier(manager.address).alive()
    assert not manager.has_one()


def test_the_variables_are_taken_out_of_the_environment(manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    notifier = Notifier.take(env)
    assert env == {"A": "b"}
    notifier.alive()
    assert manager.next() == {"WATCHDOG": "1"}


@pytest.mark.parametrize(
    ("variables", "watched"),
    [
        ({"WATCHDOG_USEC": "1"}, True),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "-1"}, False),
        ({"WATCHDOG_USEC": "often"}, False),
        ({}, False),
    ],
)
def test_who_is_watched(manager: Manager, variables: dict[str, str], watched: bool) -> None:
    Notifier.take({"NOTIFY_SOCKET": manager.address, **variables}).alive()
    assert manager.has_one() == watched


def test_nobody_is_told(tmp_path: Path) -> None:
    gone = Manager(str(tmp_path / "gone"))
    gone.close()
    (tmp_path / "file").touch()
    for address in (
        "",
        gone.address,
        "@nobody",
        str(tmp_path / "none"),
        str(tmp_path / "file"),
        "x" * 200,
        "a\0",
    ):
        notifier = Notifier(address, watchdog_seconds=1)
        notifier.ready("Serves.")
        notifier.reloading("Changes.")
        notifier.stopping("Ends.", 1)
        notifier.alive()


def test_a_manager_that_does_not_read(manager: Manager) -> None:
    manager.fill()
    Notifier(manager.address).ready("Serves.")
    assert manager.next() == {"-": ""}


# -- a server ----------------------------------------------------------------------------------------------


def managed(manager: Manager, usec: int = 0, watched: str = "me") -> tuple[str, ...]:
    """The command of a server with a service manager."""
    return (sys.executable, "-c", _SERVE_MANAGED, manager.address, str(usec), watched)


def test_a_start_that_moves_entries_asks_for_time(manager: Manager, tmp_path: Path) -> None:
    with running(data_dir=tmp_path / "data") as server:
        assert server.stop() == 0
    with running(managed(manager), data_dir=tmp_path / "data", memory="64mb"):
        for said in ("0 entries are moved from 32mb in", "0 entries were moved in"):
            told = manager.next()
            assert told.keys() == {"EXTEND_TIMEOUT_USEC", "STATUS"}
            assert told["STATUS"].startswith(said)
        assert manager.next()["READY"] == "1"


def test_a_server_from_start_to_end(manager: Manager) -> None:
    with running(managed(manager), workers=2, drain_seconds=3) as server:
        told = manager.next()
        assert told == {"READY": "1", "STATUS": server.ready.replace("fastkv serves", "Serves").strip() + "."}
        for _ in range(2):
            before = set(server.workers())
            server.send(signal.SIGHUP)
            assert manager.next()["RELOADING"] == "1"
            assert manager.next() == told
            wait_until(partial(has_ended, *before), "the old workers end")
        assert server.stop() == 0
        message = manager.next()
        assert message["STOPPING"] == "1"
        assert int(message["EXTEND_TIMEOUT_USEC"]) > 3_000_000
        assert not manager.has_one()


def test_a_reload_ends_also_where_no_worker_is_there_to_be_replaced(manager: Manager) -> None:
    with running(managed(manager), workers=1) as server:
        assert "READY" in manager.next()
        for _ in range(20):
            wait_until(
                lambda: server.workers() or "replaced in 0.8 s" in server.log(), "a worker, or a wait for it"
            )
            if "replaced in 0.8 s" in server.log():
                break
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
                wait_until(partial(has_ended, pid), "its end")
        server.send(signal.SIGHUP)
        assert "RELOADING" in manager.next()
        assert "READY" in manager.next()
        assert server.stop() == 0


def test_a_reload_that_fails_ends_too(manager: Manager, tmp_path: Path) -> None:
    """A manager that waits for the end of a reload would end the service else."""
    token = tmp_path / "token"
    token.write_text("s3cret")
    with running(managed(manager), workers=1, token_file=token) as server:
        assert "READY" in manager.next()
        token.write_text("")
        server.send(signal.SIGHUP)
        assert "RELOADING" in manager.next()
        told = manager.next()
        assert told["READY"] == "1"
        assert told["STATUS"].endswith("; a reload failed.")
        assert server.stop() == 0


def test_the_watchdog_hears_of_a_server_from_start_to_end(manager: Manager) -> None:
    with running(managed(manager, usec=1_000_000), workers=1, drain_seconds=2) as server:
        manager.next_with("READY")
        for _ in range(3):
            assert manager.next() == {"WATCHDOG": "1"}
        with server.connect() as client:
            # Half a request, the second: the server waits for the rest until its time to drain is over.
            client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\n")
            assert client.recv(4096)
            server.send(signal.SIGTERM)
            manager.next_with("STOPPING")
            assert manager.next() == {"WATCHDOG": "1"}
            assert manager.next() == {"WATCHDOG": "1"}
        assert server.wait() == 0


def test_a_watchdog_that_is_meant_for_somebody_else(manager: Manager) -> None:
    with running(managed(manager, usec=1, watched="other"), workers=1) as server:
        assert "READY" in manager.next()
        server.send(signal.SIGHUP)
        assert "RELOADING" in manager.next()
        assert "READY" in manager.next()
        assert server.stop() == 0
        assert "STOPPING" in manager.next()


def test_the_manager_goes_away(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with running(managed(manager, usec=1), workers=1) as server:
        manager.next_with("READY")
        manager.close()
        Path(manager.address).unlink()
        before = server.workers()
        server.send(signal.SIGHUP)
        wait_until(lambda: server.workers() and not set(before) & set(server.workers()), "a new worker")
        assert server.request("GET", "/health").status == 200
        assert server.stop() == 0


def has_no_datagram_socket(pid: int) -> bool:
    """True where a process has no local datagram socket open."""
    opened = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.add(os.readlink(entry))
    columns = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    return not opened & {f"socket:[{row[6]}]" for row in columns if row[4] == "0002"}


def test_no_process_keeps_a_socket_to_the_manager(manager: Manager) -> None:
    """What is open would be inherited, and a worker would look like the service."""
    with running(managed(manager), workers=1) as server:
        assert "READY" in manager.next()
        for pid in (server.pid, *server.workers()):
            wait_until(partial(has_no_datagram_socket, pid), "it is closed")
        assert server.stop() == 0
