"""The whole server as its clients see it: real sockets, real processes, real clients."""

import http.client
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from server import Server, has_ipv6, read_reply, running, wait_until

from fastkv import __version__, core

OK = '{"status":"OK","message":"Key inserted/updated successfully."}'


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(workers=2, memory="64mb") as started:
        yield started
        assert started.stop() == 0


def curl(*arguments: str, text: bytes | None = None) -> bytes:
    """Run curl; what it printed."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def shell(command: str) -> str:
    """Run a line as a person would type it."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- curl --------------------------------------------------------------------------------------------------


def test_the_first_commands_of_the_manual(server: Server) -> None:
    put = (
        'curl -sS -X POST "http://localhost:7171/put" -H "Content-Type: application/json" '
        """-d '{"key":"name", "value":"UltraFastKV"}'"""
    )
    get = 'curl -sS -X GET "http://localhost:7171/get?key=name"'
    assert shell(put.replace("7171", str(server.port))) == OK
    assert (
        shell(get.replace("7171", str(server.port))) == '{"status":"OK","key":"name","value":"UltraFastKV"}'
    )


def test_curl_speaks_http_1_0(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    assert curl("--http1.0", "-d", '{"key":"old","value":"1"}', f"{url}/put").decode() == OK
    assert (
        curl("--http1.0", f"{url}/get?key=old", f"{url}/get?key=old")
        == b'{"status":"OK","key":"old","value":"1"}' * 2
    )


def test_curl_uploads_from_a_pipe(server: Server) -> None:
    """Without a length: curl sends chunks and expects 100."""
    url = f"http://127.0.0.1:{server.port}"
    assert curl("-T", "-", f"{url}/put", text=b'{"key":"piped","value":"1"}').decode() == OK
    assert (
        curl(
            "-T", "-", "-H", "Expect: 100-continue", f"{url}/put", text=b'{"key":"piped","value":"2"}'
        ).decode()
        == OK
    )
    assert (
        curl("-G", "--data-urlencode", "key=piped", f"{url}/get")
        == b'{"status":"OK","key":"piped","value":"2"}'
    )


def test_curl_waits_for_continue(server: Server) -> None:
    value = "v" * (1 << 20)
    body = json.dumps({"key": "continue", "value": value}).encode()
    url = f"http://127.0.0.1:{server.port}"
    # Long enough that it times out if nobody says that it may go on.
    arguments = (
        "--expect100-timeout",
        "15",
        "-H",
        "Expect: 100-continue",
        "--data-binary",
        "@-",
        f"{url}/put",
    )
    assert curl(*arguments, text=body).decode() == OK
    assert json.loads(curl(f"{url}/get?key=continue"))["value"] == value


def test_curl_reads_heads_and_errors(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    assert b"HTTP/1.1 200 OK\r\n" in curl("--head", f"{url}/health")
    assert (
        curl("-w", "%{http_code}", f"{url}/get?key=none")
        == b'{"status":"ERROR","message":"Key not found."}404'
    )
    assert curl("-X", "DELETE", "-w", "%{http_code}", f"{url}/delete").endswith(b"400")
    assert curl("-w", "%{http_code}", "-o", "/dev/null", "-X", "PUT", f"{url}/get") == b"405"


def test_a_refused_upload_reads_its_refusal(server: Server) -> None:
    """The client is in the midst of sending when it is refused; it must still read why."""
    body = json.dumps({"key": "big", "value": "v" * (12 << 20)}).encode()
    for _ in range(3):
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
            connection.putrequest("POST", "/put")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            try:
                connection.send(body)
            except (BrokenPipeError, ConnectionResetError):
                pytest.fail("the connection was reset before the reply could be read")
            reply = connection.getresponse()
            assert reply.status == 413
            assert json.loads(reply.read())["status"] == "ERROR"


# -- large bodies, slow clients ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["v" * (1 << 20), "é" * (1 << 19), '"\\' * (1 << 19), "\0" * (1 << 20)])
def test_the_largest_value_in_and_out(server: Server, value: str) -> None:
    assert server.request("POST", "/put", json.dumps({"key": "large", "value": value})).status == 200
    for _ in range(3):
        reply = server.request("GET", "/get?key=large")
        assert reply.status == 200
        assert json.loads(reply.body)["value"] == value
    assert server.request("POST", "/put", json.dumps({"key": "large", "value": value + "x"})).status == 413
    assert json.loads(curl(f"http://127.0.0.1:{server.port}/get?key=large"))["value"] == value


def test_a_client_that_reads_slowly_gets_all_in_order(server: Server) -> None:
    values = [str(number) * (300_000 + number) for number in range(10)]
    for number, value in enumerate(values):
        server.request("PUT", "/put", json.dumps({"key": f"slow{number}", "value": value}))
    line = "".join(f"GET /get?key=slow{number} HTTP/1.1\r\nHost: a\r\n\r\n" for number in range(10)).encode()
    times = 12  # more than the buffers of both ends and of the server hold
    with server.connect(30) as client:
        client.sendall(line * times)
        # The server stands still now; the others are served all the same.
        for _ in range(5):
            assert server.request("GET", "/health").status == 200
        with client.makefile("rb") as stream:
            for _ in range(times):
                for value in values:
                    assert json.loads(read_reply(stream).body)["value"] == value
        client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        with client.makefile("rb") as stream:
            assert read_reply(stream).status == 200


def test_a_client_that_leaves_in_the_midst(server: Server) -> None:
    server.request("PUT", "/put", json.dumps({"key": "left", "value": "v" * (1 << 20)}))
    for _ in range(5):
        with server.connect() as client:
            client.sendall(b"GET /get?key=left HTTP/1.1\r\nHost: a\r\n\r\n" * 20)
            client.recv(1000)
    assert server.request("GET", "/health").status == 200
    assert json.loads(server.request("GET", "/stats").body)["internal_errors"] == 0


# -- connections -------------------------------------------------------------------------------------------


def test_keep_alive(server: Server) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.connect()
        kept = connection.sock
        for number in range(50):
            connection.request("PUT", "/put", json.dumps({"key": "kept", "value": str(number)}))
            assert connection.getresponse().read().decode() == OK
            connection.request("GET", "/get?key=kept")
            assert json.loads(connection.getresponse().read())["value"] == str(number)
            assert connection.sock is kept


def test_what_one_worker_stores_every_worker_reads_at_once() -> None:
    with running(workers=4) as server:
        connections = [server.connect() for _ in range(16)]
        streams = [connection.makefile("rb") for connection in connections]
        accepted = {pid for pid in server.workers() if _connections_of(pid, server.port)}
        assert len(accepted) > 1
        for number in range(60):
            writer = number % len(connections)
            body = f'{{"key":"shared","value":"{number}"}}'
            connections[writer].sendall(
                f"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            assert read_reply(streams[writer]).status == 200
            for connection in connections:
                connection.sendall(b"GET /get?key=shared HTTP/1.1\r\nHost: a\r\n\r\n")
            for stream in streams:
                assert json.loads(read_reply(stream).body)["value"] == str(number)
        for stream, connection in zip(streams, connections, strict=True):
            stream.close()
            connection.close()


def _connections_of(pid: int, port: int) -> int:
    """How many connections to a port a process has accepted."""
    inodes = {
        fields[9]
        for fields in (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[1].endswith(f":{port:04X}") and fields[3] == "01"
    }
    links = [Path(f"/proc/{pid}/fd", name) for name in _names(Path(f"/proc/{pid}/fd"))]
    return sum(f"{link.readlink()}".removeprefix("socket:[").rstrip("]") in inodes for link in links)


def _names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir() if entry.is_symlink()]


@pytest.mark.parametrize("fresh", range(10))
def test_a_client_that_keeps_a_cursor_in_a_double_finds_every_key_once(fresh: int) -> None:
    keys = [f"k{fresh}:{i}" for i in range(800)]
    with (
        running(workers=2) as server,
        closing(http.client.HTTPConnection(server.host, server.port)) as client,
    ):

        def run(*words: str) -> Any:
            client.request("POST", "/", json.dumps(words))
            return json.loads(client.getresponse().read())["result"]

        run("MSET", *(word for key in keys for word in (key, "v")))
        found: list[str] = []
        cursor = -1.0
        while cursor:
            told, some = run("SCAN", f"{max(cursor, 0.0):.14g}")
            cursor = float(told)
            found += some
        assert sorted(found) == sorted(keys)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    requests = b"".join(
        b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        + b"GET /get?key=p HTTP/1.1\r\nHost: a\r\n\r\n" * 3
        for body in (b'{"key":"p","value":"%d"}' % number for number in range(200))
    )
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(requests)
        for number in range(200):
            assert read_reply(stream).body.decode() == OK
            for _ in range(3):
                assert json.loads(read_reply(stream).body)["value"] == str(number)


def test_a_client_that_shuts_its_half_gets_its_replies(server: Server) -> None:
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        client.shutdown(socket.SHUT_WR)
        assert [read_reply(stream).status for _ in range(3)] == [200] * 3
        assert stream.read() == b""


@pytest.mark.parametrize(
    "raw", [b"hello\r\n\r\n", b"\x16\x03\x01\x00\xff", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100]
)
def test_nonsense_is_told_so_and_closed(server: Server, raw: bytes) -> None:
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(raw)
        reply = read_reply(stream)
        assert reply.status == 400
        assert json.loads(reply.body)["status"] == "ERROR"
        assert reply.closes
        assert stream.read() == b""


# -- addresses ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_several_hosts_share_a_port() -> None:
    with running(host=("127.0.0.1", "::1", "127.0.0.2")) as server:
        port = server.port
        addresses = f"http://127.0.0.1:{port} and http://[::1]:{port} and http://127.0.0.2:{port}"
        assert server.ready.startswith(f"fastkv serves {addresses} with 2 workers, ")
        server.request("PUT", "/put", '{"key":"a","value":"1"}')
        for address in addresses.split(" and "):
            assert curl("-g", f"{address}/get?key=a") == b'{"status":"OK","key":"a","value":"1"}'


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "fastkv.sock"
    with running(unix=path) as server:
        assert f" and unix:{path} with" in server.ready
        url = "http://localhost"
        assert curl("--unix-socket", str(path), "-d", '{"key":"a","value":"1"}', f"{url}/put").decode() == OK
        assert server.request("GET", "/get?key=a").status == 200
        for _ in range(5):
            assert b'"healthy"' in curl("--unix-socket", str(path), f"{url}/health")
        assert server.stop() == 0
        assert not path.exists()


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"workers": 1, "shards": 1}, r"with 1 worker, 1 shard, 32mb of memory, "),
        ({"workers": 3, "shards": 4, "memory": "16mb"}, r"with 3 workers, 4 shards, 16mb of memory, "),
    ],
)
def test_the_ready_line(settings: dict[str, Any], pattern: str) -> None:
    with running(**settings) as server:
        addresses = rf"http://127\.0\.0\.1:{server.port}( and http://\[::1\]:{server.port})?"
        runs = "compiled core" if core.COMPILED else "readable Python"
        assert re.fullmatch(rf"fastkv serves {addresses} {pattern}{runs}\n", server.ready)
        assert server.port not in (0, 7171)
        version = json.loads(server.request("GET", "/version").body)
        why = {} if core.COMPILED else {"core_reason": core.REASON}
        assert version == {"name": "fastkv", "version": __version__, "core": core.IMPLEMENTATION, **why}
        assert len(server.workers()) == settings["workers"]
        assert server.stop() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b""


# -- numbers -----------------------------------------------------------------------------------------------


def test_what_has_expired_is_given_back_unread() -> None:
    with running(workers=2) as server:
        with server.connect() as client, client.makefile("rb") as stream:
            for number in range(2000):
                ttl = "" if number % 4 == 0 else ',"ttl":0.3'
                body = f'{{"key":"k{number}","value":"v"{ttl}}}'
                client.sendall(
                    f"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
                )
                assert read_reply(stream).status == 200

        def told(name: str) -> int:
            return int(json.loads(server.request("GET", "/stats").body)[name])

        wait_until(lambda: told("entries") == 500, "what has expired is gone")
        assert told("expired") == 1500
        assert told("evictions") == 0


def test_stats_are_sums_over_all_workers() -> None:
    with running(workers=3) as server:
        clients = [server.connect() for _ in range(12)]
        streams = [client.makefile("rb") for client in clients]

        def ask(number: int, request: str) -> int:
            clients[number].sendall(request.encode())
            return read_reply(streams[number]).status

        for number in range(12):
            body = f'{{"key":"k{number}","value":"v"}}'
            ask(number, f"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}")
            for _ in range(7):
                assert ask(number, f"GET /get?key=k{number} HTTP/1.1\r\nHost: a\r\n\r\n") == 200
            assert ask(number, "GET /get?key=none HTTP/1.1\r\nHost: a\r\n\r\n") == 404
            assert ask(number, "GET /get HTTP/1.1\r\nHost: a\r\n\r\n") == 400
        for number in range(4):
            assert ask(number, f"DELETE /delete?key=k{number} HTTP/1.1\r\nHost: a\r\n\r\n") == 200

        def have_counted() -> bool:
            """What is counted with each request another worker tells up to a quarter of a second late."""
            clients[0].sendall(b"GET /stats HTTP/1.1\r\nHost: a\r\n\r\n")
            told = json.loads(read_reply(streams[0]).body)
            return bool((told["puts"], told["hits"], told["misses"]) == (12, 84, 12))

        wait_until(have_counted, "all workers have told what they have counted")
        told = json.loads(server.request("GET", "/stats").body)
        expected = {
            "workers": 3,
            "connections": 13,
            "accepted": 13,
            "entries": 8,
            "puts": 12,
            "hits": 84,
            "misses": 12,
            "deletes": 4,
            "bad_requests": 12,
            "evictions": 0,
            "internal_errors": 0,
            "memory_bytes": 32 << 20,
        }
        assert {name: told[name] for name in expected} == expected
        for stream, client in zip(streams, clients, strict=True):
            stream.close()
            client.close()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_finds_no_fault(server: Server, tmp_path: Path) -> None:
    server.request("PUT", "/put", '{"key":"name","value":"UltraFastKV"}')
    script = tmp_path / "mixed.lua"
    script.write_text(
        "local n = 0\n"
        "request = function()\n"
        "  n = n + 1\n"
        "  if n % 5 == 0 then\n"
        '    return wrk.format("PUT", "/put", nil, \'{"key":"k\' .. n % 100 .. \'","value":"v"}\')\n'
        "  end\n"
        '  return wrk.format("GET", "/get?key=name")\n'
        "end\n"
    )
    command = ["wrk", "-t1", "-c16", "-d1s", "-s", str(script), f"http://127.0.0.1:{server.port}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "Non-2xx" not in done.stdout
    assert "Socket errors" not in done.stdout
    assert int(re.findall(r"(\d+) requests in", done.stdout)[0]) > 0


@pytest.mark.parametrize(
    ("more", "warned"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "token": "s3cret"}, False),
        ({"host": ("127.0.0.1", "localhost")}, False),
    ],
)
def test_who_listens_to_all_without_a_token_is_warned(more: dict[str, Any], warned: bool) -> None:
    with running(workers=1, **more) as server:
        assert ("may read and write every entry" in server.log()) is warned
