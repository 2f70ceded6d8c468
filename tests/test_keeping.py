"""A data directory over real restarts: what was acknowledged is there, whatever ended the server."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import psutil
import pytest
from kept_helpers import fill, reopen
from server import Server, has_ended, read_reply, run_to_end, running, wait_until

from fastkv import clock
from fastkv.store.datafile import DataDirectory
from fastkv.store.layout import Geometry

if TYPE_CHECKING:
    from pathlib import Path

MEMORY_BYTES = 32 << 20


def put(server: Server, key: str, value: str, **more: float) -> None:
    body = json.dumps({"key": key, "value": value, **more})
    assert server.request("PUT", "/put", body).status == 200


def get(server: Server, key: str) -> str | None:
    reply = server.request("GET", f"/get?key={key}")
    return str(json.loads(reply.body)["value"]) if reply.status == 200 else None


def stats(server: Server) -> dict[str, int]:
    found: dict[str, int] = json.loads(server.request("GET", "/stats").body)
    return found


def end_by(server: Server, number: int) -> None:
    """End it with its workers, in order or by killing it."""
    workers = server.workers()
    server.stop(number)
    wait_until(partial(has_ended, *workers), "its workers end")


def test_after_a_stop_everything_is_there(tmp_path: Path) -> None:
    with running(data_dir=tmp_path) as server:
        assert f"{tmp_path}: a cold start. There is no arena yet." in server.log()
        put(server, "a", "1")
        put(server, "large", "x" * 300_000)
        put(server, "short", "2", ttl=0.001)
        put(server, "long", "3", ttl=1000)
        assert server.stop() == 0
        assert "The entries are kept, and in order." in server.log()
    for _ in range(2):
        with running(data_dir=tmp_path) as server:
            assert get(server, "a") == "1"
            assert get(server, "large") == "x" * 300_000
            assert (get(server, "short"), get(server, "long")) == (None, "3")
            assert "a warm start with" in server.log()
            assert "The last stop was a clean one." in server.log()
            assert server.stop() == 0


def test_after_a_kill_everything_is_there(tmp_path: Path) -> None:
    with running(data_dir=tmp_path) as server:
        put(server, "a", "1")
        put(server, "short", "2", ttl=0.001)
        end_by(server, signal.SIGKILL)
    for turn in range(3):
        with running(data_dir=tmp_path) as server:
            assert get(server, "a") == "1" + "!" * turn
            assert get(server, "short") is None
            put(server, "a", "1" + "!" * (turn + 1))
            assert (
                "entries, which are verified meanwhile. The last server came to no clean stop."
                in server.log()
            )
            wait_until(lambda: stats(server)["unverified_shards"] == 0, "all shards are verified")
            wait_until(lambda: "entries are verified; 0 were damaged." in server.log(), "that is logged")
            assert (stats(server)["dropped"], stats(server)["repairs"]) == (0, 0)
            end_by(server, signal.SIGKILL)


@pytest.mark.parametrize("clean", [True, False])
def test_the_type_of_a_value_outlives_the_server(tmp_path: Path, clean: bool) -> None:
    """After a clean stop, and after a kill, before and behind the verification; short and long values."""
    values = {"/kv/short": b"<p>", "/kv/long": b"<p>" * 50_000}
    fields = {"Content-Type": "text/html; charset=utf-8", "Content-Encoding": "gzip"}
    with running(data_dir=tmp_path) as server:
        for path, value in values.items():
            assert server.request("PUT", path, value, fields).status == 201
        if clean:
            assert server.stop() == 0
        else:
            end_by(server, signal.SIGKILL)
    with running(data_dir=tmp_path) as server:
        for wait in (False, True):
            if wait:
                wait_until(lambda: stats(server)["unverified_shards"] == 0, "all shards are verified")
            for path, value in values.items():
                reply = server.request("GET", path)
                assert reply.body == value
                assert {name: reply.fields[name.lower()] for name in fields} == fields
        assert server.stop() == 0


def test_a_stop_before_all_is_verified_leaves_it_to_the_next_start(tmp_path: Path) -> None:
    with running(data_dir=tmp_path) as server:
        put(server, "a", "1")
        end_by(server, signal.SIGKILL)
    with running(data_dir=tmp_path) as server:
        # It is verified half a second after the start.
        assert server.stop() == 0
        assert "The entries are kept; the next start will have to verify them." in server.log()
    with running(data_dir=tmp_path) as server:
        assert get(server, "a") == "1"
        assert server.stop() == 0


class Writers:
    """Write to a server on several connections, and remember what was acknowledged.

    Attributes:
        acknowledged: for each key the last number that was.
        begun: the last number that was sent.
    """

    def __init__(self, server: Server, count: int) -> None:
        self.acknowledged: dict[str, int] = {}
        self.begun: dict[str, int] = {}
        self._server = server
        self._threads = [threading.Thread(target=self._write, args=(i,)) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def _write(self, writer: int) -> None:
        number = 0
        with suppress(OSError, EOFError), self._server.connect() as client, client.makefile("rb") as stream:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                number += 1
                key = f"{writer}-{number % 97}"
                value = f"{number} " * (20_000 if number % 50 == 0 else number % 100 + 1)
                body = json.dumps({"key": key, "value": value}).encode()
                self.begun[key] = number
                client.sendall(
                    b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                if read_reply(stream).status == 200:
                    self.acknowledged[key] = number

    def have_written(self, keys: int) -> bool:
        return len(self.acknowledged) >= keys

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()


def test_no_acknowledged_write_is_lost_when_all_are_killed_at_once(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    begun: dict[str, int] = {}
    for turn in range(4):
        with running(data_dir=tmp_path, workers=2) as server:
            for key, number in acknowledged.items():
                value = get(server, key)
                assert value is not None, key
                (found,) = {int(word) for word in value.split()}
                assert found in (number, begun[key]), key
                # What was begun and not acknowledged may be there or not; now it is what is there.
                acknowledged[key] = begun[key] = found
            if turn == 3:
                break
            writers = Writers(server, 4)
            wait_until(partial(writers.have_written, 300), "some was written")
            for pid in (server.pid, *server.workers()):
                os.kill(pid, signal.SIGKILL)
            writers.wait()
            acknowledged |= writers.acknowledged
            begun |= writers.begun
            wait_until(partial(has_ended, *server.workers()), "its workers end")


def test_one_server_at_a_time(tmp_path: Path) -> None:
    with running(data_dir=tmp_path) as server:
        code, out, err = run_to_end(data_dir=tmp_path)
        assert (code, out) == (1, "")
        assert f"fastkv: --data-dir: '{tmp_path}' is in use by another fastkv;" in err
        put(server, "a", "1")
        assert get(server, "a") == "1"
        assert server.stop() == 0


def test_a_start_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    with running(data_dir=tmp_path) as server:
        put(server, "a", "1")
        assert server.stop() == 0
    before = (tmp_path / "arena").read_bytes()
    with running() as other:
        for wrong in (
            {"port": other.port},
            {"max_value_bytes": "100mb", "memory": "512mb", "segment_bytes": "4kb"},
        ):
            code, _, _ = run_to_end(data_dir=tmp_path, **wrong)
            assert code == 1
        assert (tmp_path / "arena").read_bytes() == before


def test_another_size_keeps_everything(tmp_path: Path) -> None:
    """There and back, and with no size at all, which is no reason to change anything."""
    with running(data_dir=tmp_path, memory="64mb") as server:
        for i in range(200):
            put(server, f"k{i}", "x" * (i * 50), ttl=1000 + i)
        fields = {"content-type": "text/plain; charset=utf-8"}
        etag = server.request("PUT", "/kv/typed", b"typed", fields).fields["etag"]
        content_type = server.request("GET", "/kv/typed").fields["content-type"]
        assert server.stop() == 0
    for memory, moves in (("65mb", True), ("64mb", True), ("auto", False), ("64mb", False)):
        with running(data_dir=tmp_path, memory=memory) as server:
            assert stats(server)["entries"] == 201
            assert stats(server)["memory_bytes"] == int(memory.replace("auto", "64")[:2]) << 20
            for i in range(0, 200, 9):
                assert get(server, f"k{i}") == "x" * (i * 50)
                assert 900 < float(server.request("GET", f"/kv/k{i}").fields["ttl"]) <= 1000 + i
            typed = server.request("GET", "/kv/typed")
            assert (typed.body, typed.fields["etag"]) == (b"typed", etag)
            assert typed.fields["content-type"] == content_type
            assert (" 201 entries were moved in " in server.log()) == moves
            assert (
                f"{tmp_path}: a warm start with 201 entries. The last stop was a clean one." in server.log()
            )
            assert server.stop() == 0


def test_a_start_that_does_not_go_on_says_why_in_one_line(tmp_path: Path) -> None:
    with running(data_dir=tmp_path) as server:
        put(server, "a", "1")
        assert server.stop() == 0
    arena = tmp_path / "arena"
    before = arena.read_bytes()
    code, out, err = run_to_end(data_dir=tmp_path, memory="64mb", data_dir_change="refuse")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"fastkv: --data-dir: '{tmp_path}' has 32mb in 8 shards" in err
    assert arena.read_bytes() == before
    with arena.open("r+b") as file:
        file.write(b"no arena")
    damaged = arena.read_bytes()
    for change in ("migrate", "refuse"):
        code, out, err = run_to_end(data_dir=tmp_path, data_dir_change=change)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert f"fastkv: --data-dir: '{arena}' has a damaged superblock. It stays as it is;" in err
        assert arena.read_bytes() == damaged
    with running(data_dir=tmp_path, data_dir_change="replace") as server:
        assert f"{tmp_path}: a cold start. '{arena}' has a damaged superblock." in server.log()
        assert stats(server)["entries"] == 0
        assert server.stop() == 0


# The server, which gets a signal when it begins to move entries.
_SIGNALLED = """
import os, sys
from fastkv import cli, data_dir
number = int(sys.argv.pop(1))
begin = data_dir.Progress.begin
def begin_and_signal(self, *args):
    begin(self, *args)
    os.kill(os.getpid(), number)
data_dir.Progress.begin = begin_and_signal
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_start_that_is_ended_while_it_moves_entries_changes_nothing(tmp_path: Path, number: int) -> None:
    with running(data_dir=tmp_path) as server:
        for i in range(100):
            put(server, f"k{i}", "x" * i)
        assert server.stop() == 0
    before = (tmp_path / "arena").read_bytes()
    program = (sys.executable, "-c", _SIGNALLED, str(int(number)), "serve")
    code, out, err = run_to_end(program, data_dir=tmp_path, memory="64mb")
    assert (tmp_path / "arena").read_bytes() == before
    assert out == ""
    if number == signal.SIGKILL:
        assert code == -number
    else:
        assert code == 1
        assert err.endswith(f"stopped while entries were moved; '{tmp_path}' is as it was.\n")
        assert not (tmp_path / "arena.new").exists()
    with running(data_dir=tmp_path, memory="64mb") as server:
        assert stats(server)["entries"] == 100
        assert get(server, "k99") == "x" * 99
        assert server.stop() == 0


def leave_many(path: Path) -> int:
    """Make an arena as a kill leaves it, with a shard that takes a while to be verified."""
    directory = DataDirectory(path)
    store, _ = reopen(directory, clock.now(), geometry=Geometry.plan(MEMORY_BYTES, 8))
    fill(store)
    for i in range(150_000):
        store.put(b"many %d" % i, b"", clock.boot_ms)
    entries = store.stats()["entries"]
    store.close()
    directory.close()
    return entries


# Who verifies waits for as long as a file is there.
_HELD = """
import os, sys, time
from fastkv.start import main
from fastkv.store import Store

held, verify = sys.argv.pop(1), Store.verify

def wait(store):
    while os.path.exists(held):
        time.sleep(0.01)
    verify(store)

Store.verify = wait
main()
"""


def test_who_verifies_may_be_killed(tmp_path: Path) -> None:
    entries = leave_many(tmp_path)
    held = tmp_path / "held"
    held.touch()
    program = (sys.executable, "-c", _HELD, str(held), "serve")
    with running(program, data_dir=tmp_path, workers=1, shards=8) as server:
        worker = server.workers()
        verifying: list[int] = []

        def found() -> bool:
            verifying[:] = set(server.workers()) - set(worker)
            return bool(verifying)

        wait_until(found, "a process verifies")
        with suppress(psutil.NoSuchProcess):
            psutil.Process(verifying[0]).kill()
        held.unlink()
        wait_until(lambda: stats(server)["unverified_shards"] == 0, "all shards are verified")
        told = stats(server)
        assert (told["entries"], told["dropped"]) == (entries, 0)
        assert get(server, "many%2077") == ""
        wait_until(lambda: server.workers() == worker, "who has verified the rest has ended")
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_server(tmp_path: Path, number: int) -> None:
    leave_many(tmp_path)
    held = tmp_path / "held"
    held.touch()
    program = (sys.executable, "-c", _HELD, str(held), "serve")
    with running(program, data_dir=tmp_path, workers=1, shards=8) as server:
        wait_until(lambda: len(server.workers()) == 2, "a process verifies")
        children = server.workers()
        server.stop(number)
        wait_until(partial(has_ended, *children), "all end")
