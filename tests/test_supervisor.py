"""What the supervisor does about deaths, signals and a machine that refuses: with real processes."""

import json
import os
import random
import re
import resource
import signal
import socket
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
from server import (
    SERVE,
    Server,
    has_ended,
    in_background,
    is_alive,
    read_reply,
    run_to_end,
    running,
    wait_until,
)

HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b'{"key":"drained","value":"1"}'
PUT = b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def put(server: Server, key: str, value: str) -> None:
    assert server.request("PUT", "/put", json.dumps({"key": key, "value": value})).status == 200


def get(server: Server, key: str) -> str | None:
    reply = server.request("GET", f"/get?key={key}")
    return str(json.loads(reply.body)["value"]) if reply.status == 200 else None


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def test_what_the_environment_says_in_vain_is_in_the_log() -> None:
    said = ("FASTKV_SERVICE_HOST=10.0.0.1", "FASTKV_PRT=1")
    with running(("env", *said, *SERVE, "serve"), workers=1) as server:
        log = server.log()
    assert re.search(r"(?m)^[0-9-]+ [0-9:,]+ INFO FASTKV_SERVICE_HOST: ignored; Kubernetes ", log)
    assert re.search(r"(?m)^[0-9-]+ [0-9:,]+ WARNING FASTKV_PRT .* did you mean FASTKV_PORT\? It is", log)
    with running(("env", *said, *SERVE, "serve"), workers=1, log_level="warning") as server:
        assert "FASTKV_SERVICE_HOST" not in server.log()


# -- deaths ------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced() -> None:
    with running(workers=2) as server:
        put(server, "a", "1")
        before = server.workers()
        victim = before[0]
        kill(victim)
        wait_until(lambda: len(server.workers()) == 2 and victim not in server.workers(), "a new worker")
        for _ in range(20):
            assert get(server, "a") == "1"
        assert before[1] in server.workers()
        told = json.loads(server.request("GET", "/stats").body)
        assert told["workers"] == 2
        assert server.stop() == 0
        assert re.search(
            rf"Worker \d, pid {victim}, ended: killed by SIGKILL; it is replaced now\.", server.log()
        )


def test_all_workers_at_once() -> None:
    with running(workers=3) as server:
        put(server, "a", "1")
        before = set(server.workers())
        for pid in before:
            kill(pid)
        # Whoever connects now waits, and is not refused.
        assert get(server, "a") == "1"
        wait_until(lambda: len(server.workers()) == 3 and not before & set(server.workers()), "new workers")
        assert server.stop() == 0


def test_a_worker_that_keeps_dying_is_replaced_less_and_less_often() -> None:
    with running(workers=1) as server:
        put(server, "a", "1")
        for _ in range(8):
            wait_until(server.workers, "a new worker")
            for pid in server.workers():
                kill(pid)
                wait_until(partial(has_ended, pid), "its end")
        assert get(server, "a") == "1"
        assert server.stop() == 0
        waits = re.findall(
            r"replaced in ([\d.]+) s, because it keeps ending right after its start", server.log()
        )
        assert [float(wait) for wait in waits][:2] == [0.1, 0.2]


def test_a_stuck_worker_is_killed_and_replaced() -> None:
    with running(workers=2, stuck_seconds=1) as server:
        put(server, "a", "1")
        stuck = server.workers()[0]
        kill(stuck, signal.SIGSTOP)
        wait_until(lambda: not is_alive(stuck) and len(server.workers()) == 2, "its replacement")
        for _ in range(20):
            assert get(server, "a") == "1"
        assert f"The worker with pid {stuck} gives no sign of life; it is killed." in server.log()
        assert server.stop() == 0


def test_workers_that_do_nothing_are_not_stuck() -> None:
    with running(workers=2, stuck_seconds=1) as server:
        before = server.workers()
        _let_pass(2.5)
        assert server.workers() == before


def _let_pass(seconds: float) -> None:
    """Nothing is waited for: that nothing happens is what is looked at."""
    time.sleep(seconds)


def test_a_stopped_server_goes_on_with_its_workers() -> None:
    """Ctrl-Z and fg: nobody was stuck who was not allowed to run."""
    with running(workers=2, stuck_seconds=1) as server:
        before = server.workers()
        everybody = [server.pid, *before]
        for _ in range(3):
            for pid in everybody:
                kill(pid, signal.SIGSTOP)
            _let_pass(1.5)
            for pid in everybody:
                kill(pid, signal.SIGCONT)
            assert server.request("GET", "/health").status == 200
        assert server.workers() == before
        assert "no sign of life" not in server.log()


def test_no_worker_outlives_the_supervisor() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(running(workers=3))
        port, workers = server.port, server.workers()
        assert len(workers) == 3
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: has_ended(*workers), "the workers end")
        for _ in range(3):
            with running(port=port) as next_one:
                assert next_one.port == port
                assert get(next_one, "a") is None
                next_one.stop(signal.SIGKILL)
                wait_until(lambda: has_ended(*next_one._seen), "the workers end")


# -- the end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain(number: int) -> None:
    with running(workers=2, drain_seconds=10) as server, ExitStack() as stack:
        in_body, in_head, idle, used, *more = [stack.enter_context(server.connect()) for _ in range(12)]
        streams = {client: stack.enter_context(client.makefile("rb")) for client in (in_body, in_head, used)}
        in_body.sendall(PUT[:-5])
        in_head.sendall(HEALTH[:-5])
        used.sendall(HEALTH)
        assert read_reply(streams[used]).status == 200
        wait_until(
            lambda: json.loads(server.request("GET", "/stats").body)["connections"] >= 12, "all are accepted"
        )
        server.send(number)
        for client in (idle, used, *more):
            assert client.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        assert server.process.poll() is None
        in_body.sendall(PUT[-5:])
        stored = read_reply(streams[in_body])
        assert (stored.status, stored.fields["connection"]) == (200, "close")
        in_head.sendall(HEALTH[-5:])
        health = read_reply(streams[in_head])
        assert (health.status, health.fields["connection"]) == (503, "close")
        assert streams[in_body].read() + streams[in_head].read() == b""
        for client in (in_body, in_head):
            streams[client].close()  # a socket is open for as long as its stream is
            client.close()
        assert server.wait() == 0
        assert "Stopped." in server.log()
        assert not server.workers()


def test_a_client_that_never_finishes_does_not_hold_it_up_for_ever() -> None:
    with running(workers=2, drain_seconds=0.5) as server, server.connect() as client:
        client.sendall(PUT[:-5])
        assert server.request("GET", "/health").status == 200
        assert server.stop() == 0
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_stopped_worker_does_not_hold_it_up_for_ever() -> None:
    with running(workers=2, drain_seconds=0.2) as server:
        kill(server.workers()[0], signal.SIGSTOP)
        assert server.stop() == 0


def test_a_terminal_interrupts_all_processes_at_once() -> None:
    """Ctrl-C goes to the workers as well; they leave it to the supervisor."""
    with running(workers=2, drain_seconds=10) as server, server.connect() as client:
        client.sendall(PUT[:-5])
        assert server.request("GET", "/health").status == 200
        for pid in (*server.workers(), server.pid):
            kill(pid, signal.SIGINT)
        with client.makefile("rb") as stream:
            client.sendall(PUT[-5:])
            assert read_reply(stream).status == 200
        client.close()
        assert server.wait() == 0


# -- reload ------------------------------------------------------------------------------------------------


def _reload(server: Server, times_before: int) -> None:
    server.send(signal.SIGHUP)
    wait_until(lambda: server.log().count("All workers are replaced.") > times_before, "the reload")


def test_reload_refuses_nobody_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "fastkv.sock"
    counts = {"new": 0, "kept": 0, "unix": 0, "closed": 0}
    with running(workers=3, unix=path) as server:
        for number in range(100):
            put(server, f"k{number}", str(number))

        def new_connections(stop: Callable[[], bool]) -> None:
            while not stop():
                key = counts["new"] % 100
                assert get(server, f"k{key}") == str(key)
                counts["new"] += 1

        def unix_connections(stop: Callable[[], bool]) -> None:
            while not stop():
                with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as stream:
                    client.settimeout(10)
                    client.connect(str(path))
                    client.sendall(HEALTH)
                    assert read_reply(stream).status == 200
                counts["unix"] += 1

        def kept_connections(stop: Callable[[], bool]) -> None:
            while not stop():
                with server.connect() as client, client.makefile("rb") as stream:
                    last = False
                    while not last and not stop():
                        key = counts["kept"] % 100
                        client.sendall(b"GET /get?key=k%d HTTP/1.1\r\nHost: a\r\n\r\n" % key)
                        reply = read_reply(stream)
                        assert json.loads(reply.body)["value"] == str(key)
                        last = reply.closes
                        counts["kept"] += 1
                    counts["closed"] += last
                    assert not last or stream.read() == b""

        with in_background(
            new_connections, new_connections, unix_connections, kept_connections, kept_connections
        ):
            for times in range(4):
                before = set(server.workers())
                _reload(server, times)
                wait_until(partial(has_ended, *before), "the old workers end")
                assert len(server.workers()) == 3
        assert all(counts.values()), counts
        for number in range(100):
            assert get(server, f"k{number}") == str(number)
        told = json.loads(server.request("GET", "/stats").body)
        assert told["workers"] == 3
        assert told["internal_errors"] == 0
        assert path.exists()
        assert server.stop() == 0


def test_reload_answers_pipelined_requests_under_way() -> None:
    with running(workers=1) as server, server.connect() as client, client.makefile("rb") as stream:
        put(server, "a", "1")
        burst = b"GET /get?key=a HTTP/1.1\r\nHost: a\r\n\r\n" * 16
        for _ in range(4):
            client.sendall(burst)
            assert [read_reply(stream).status for _ in range(16)] == [200] * 16
        old = server.workers()
        _reload(server, 0)
        client.sendall(burst)
        replies = [read_reply(stream)]
        with suppress(EOFError):
            while True:
                replies.append(read_reply(stream))
        assert {reply.status for reply in replies} == {200}
        # The old worker may hear that it has to end only after it has answered.
        assert len(replies) == 16 or replies[-1].closes
        stream.close()
        client.close()
        wait_until(lambda: has_ended(*old), "the old worker ends")


def test_an_upload_survives_a_reload() -> None:
    with running(workers=1) as server, server.connect() as client, client.makefile("rb") as stream:
        client.sendall(PUT[:-5])
        assert server.request("GET", "/health").status == 200
        _reload(server, 0)
        assert get(server, "drained") is None
        client.sendall(PUT[-5:])
        reply = read_reply(stream)
        assert (reply.status, reply.fields["connection"]) == (200, "close")
        assert get(server, "drained") == "1"


def test_stop_right_after_a_reload_does_not_wait_for_idle_connections() -> None:
    with running(workers=2, drain_seconds=3600) as server, ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(6)]
        for client in idle:
            client.sendall(HEALTH)
            assert client.recv(4096)
        _reload(server, 0)
        server.send(signal.SIGTERM)
        for client in idle:
            assert client.recv(1) == b""
            client.close()
        assert server.wait() == 0


def test_a_hangup_of_the_whole_process_group_is_one_reload() -> None:
    """A terminal that closes tells supervisor and workers; only the supervisor acts on it."""
    with running(workers=2) as server:
        old = server.workers()
        for pid in old:
            os.kill(pid, signal.SIGHUP)
        for _ in range(10):
            put(server, "a", "1")
        assert server.workers() == old
        assert server.stop() == 0


def test_reloads_and_deaths_in_any_order() -> None:
    chance = random.Random(3)
    with running(workers=2) as server, ExitStack() as stack:
        put(server, "a", "1")
        for _ in range(30):
            client = stack.enter_context(server.connect())
            client.sendall(HEALTH)
            if chance.random() < 0.5:
                server.send(signal.SIGHUP)
            for pid in server.workers():
                if chance.random() < 0.3:
                    kill(pid)
            wait_until(server.workers, "a worker")
        for _ in range(10):
            assert get(server, "a") == "1"
        assert server.stop() == 0


# -- a machine that refuses --------------------------------------------------------------------------------


def _one_line(outcome: tuple[int, str, str]) -> str:
    """What a start that failed as it should says, after what it logged of limits and kernel."""
    code, out, err = outcome
    assert (code, out) == (1, "")
    *logged, last = err.splitlines()
    assert last.startswith("fastkv: ")
    assert all(re.match(r"[-0-9]{10} [:,0-9]{12} (INFO|WARNING) ", line) for line in logged)
    return last


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use(host: str) -> None:
    with socket.socket() as other:
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"--port: {port} on 127.0.0.1 is in use by another process" in _one_line(run_to_end(port=port))


def test_a_second_server_does_not_share_the_port() -> None:
    with running() as server:
        assert f"--port: {server.port} on 127.0.0.1 is in use" in _one_line(run_to_end(port=server.port))
        assert server.request("GET", "/health").status == 200


def test_an_address_of_somebody_else() -> None:
    assert "--host: '192.0.2.1' is no address of this machine." in _one_line(run_to_end(host="192.0.2.1"))


def test_too_little_memory() -> None:
    assert "are too little for 4096 shards" in _one_line(run_to_end(memory="8mb", shards=4096))


def test_more_memory_than_there_is() -> None:
    assert "that this process may use" in _one_line(run_to_end(memory="127gb"))


def test_a_unix_path_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "fastkv.sock"
    assert f"--unix: no socket can be made at '{path}'" in _one_line(run_to_end(unix=path))


def test_a_unix_path_that_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    assert f"--unix: '{path}' exists and is no socket; it is left alone." in _one_line(run_to_end(unix=path))
    assert path.read_text() == "data"


def test_a_unix_socket_in_use(tmp_path: Path) -> None:
    path = tmp_path / "fastkv.sock"
    with running(unix=path) as server:
        assert f"--unix: '{path}' is in use by another process" in _one_line(run_to_end(unix=path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert server.request("GET", "/health").status == 200


def test_a_unix_socket_left_by_a_killed_server(tmp_path: Path) -> None:
    path = tmp_path / "fastkv.sock"
    with running(unix=path) as server:
        server.stop(signal.SIGKILL)
        workers = set(server._seen)
        wait_until(lambda: has_ended(*workers), "the workers end")
    assert stat.S_ISSOCK(path.stat().st_mode)
    with (
        running(unix=path) as server,
        socket.socket(socket.AF_UNIX) as client,
        client.makefile("rb") as stream,
    ):
        client.connect(str(path))
        client.sendall(HEALTH)
        assert read_reply(stream).status == 200


@pytest.mark.parametrize("wanted", [100, 700, 1 << 20])
def test_the_limit_of_open_files_is_raised_and_never_lowered(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
    try:
        with running(open_files=wanted) as server:
            text = Path(f"/proc/{server.workers()[0]}/limits").read_text()
            found = re.search(r"Max open files\s+(\d+)", text)
            assert found is not None
            # With privileges a hard limit goes up as well.
            assert int(found[1]) in {max(600, min(wanted, hard)), max(600, wanted)}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_reload_cuts_off_nobody_who_reads_or_sends() -> None:
    """Longer than the drain time, and shorter than their own deadlines."""
    value = b"v" * 1_000_000
    put = b"PUT /kv/%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    with running(workers=1, drain_seconds=0.3) as server:
        assert server.request("PUT", "/kv/big", value).status == 201
        old = server.workers()[0]
        with server.connect() as reader, server.connect() as sender, sender.makefile("rb") as told:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            reader.sendall(b"GET /kv/big HTTP/1.1\r\nHost: a\r\n\r\n" * 4)
            sender.sendall(put % (b"slow", len(value)) + value[:1000])
            server.send(signal.SIGHUP)
            wait_until(lambda: len(server.workers()) == 2, "there is a successor")
            pieces = [reader.recv(20_000)]
            for _ in range(20):
                time.sleep(0.05)
                pieces.append(reader.recv(20_000))
            sender.sendall(value[1000:])
            assert read_reply(told).status == 201
            while piece := reader.recv(1 << 16):
                pieces.append(piece)
            assert len(b"".join(pieces)) > len(value)
            assert b"".join(pieces).partition(b"\r\n\r\n")[2].startswith(value)
        wait_until(lambda: has_ended(old), "the old worker ends")
