"""The load generator of the benchmark: it counts what happens, draws as it says, and leaves no delay out."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING

import pytest
from ws_frames import TEXT
from ws_frames import frame as ws_frame

from perf.bench.build import compile_c
from perf.bench.driver import Driver, FailedError, Load
from perf.bench.wires import (
    HEADERS,
    HTTP,
    MEMCACHED,
    RESP,
    WEBSOCKET,
    get_template,
    key_template,
    put_template,
)
from perf.bench.workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Respond = Callable[[int, bytes], bytes | None]

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")

CPUS = os.sched_getaffinity(0)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + b"v" * 64
HOT = WORKLOADS["hot"]
SHORTLY = Load(connections=1, seconds=0.05, warmup=0)
STALL_SECONDS = 0.3


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(tmp_path_factory.mktemp("drive"), CPUS, "plain", percent=False)


def compiled(directory: Path, body: str) -> Path:
    """A program of a main function that uses the load generator's headers."""
    source = directory / "main.c"
    head = "#define _GNU_SOURCE\n#include <stdio.h>\n#include <stdlib.h>\n"
    source.write_text(
        f'{head}#include "draw.h"\n#include "histogram.h"\nint main(int n, char **w) {{ {body} }}\n'
    )
    return compile_c(source, directory / "main")


# -- what it computes --------------------------------------------------------------------------------------


CHANCE = random.Random(5)
DATA = {
    "latencies": [int(CHANCE.lognormvariate(11, 1.2)) for _ in range(20_000)],
    "small numbers": [CHANCE.randrange(600) for _ in range(5000)],
    "powers of two": [2**i + j for i in range(1, 50) for j in (-1, 0, 1)],
    "one": [123_456_789],
}


@pytest.mark.parametrize("name", DATA)
def test_percentiles_are_within_a_per_cent(name: str, tmp_path: Path) -> None:
    program = compiled(
        tmp_path,
        'static Histogram h; unsigned long v; (void)n; (void)w; while (scanf("%lu", &v) == 1) note(&h, v);'
        'printf("%lu %lu %lu %lu %lu", percentile(&h, .01), percentile(&h, .5), percentile(&h, .99),'
        " percentile(&h, .999), h.longest); return 0;",
    )
    data = sorted(DATA[name])
    told = subprocess.run(
        [program], input=" ".join(map(str, data)), capture_output=True, text=True, check=True
    ).stdout.split()
    exact = [data[ceil(share * len(data)) - 1] for share in (0.01, 0.5, 0.99, 0.999)]
    assert [int(value) for value in told] == [
        *(pytest.approx(value, rel=0.01, abs=0) for value in exact),
        data[-1],
    ]


def drawn(directory: Path, kind: str, keys: int, count: int) -> list[int]:
    """How often each key was drawn."""
    program = compiled(
        directory,
        "Draw d = draw_by(w[1], strtoul(w[2], 0, 10), 7); (void)n;"
        'for (long i = atol(w[3]); i--;) printf("%lu\\n", draw_key(&d)); return 0;',
    )
    done = subprocess.run([program, kind, str(keys), str(count)], capture_output=True, text=True, check=True)
    counts = [0] * keys
    for number in done.stdout.split():
        counts[int(number)] += 1
    return counts


def chi_square(counts: list[int], shares: list[float]) -> float:
    expected = [share * sum(counts) for share in shares]
    return sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True))


def test_draws_are_spread_as_they_are_called(tmp_path: Path) -> None:
    keys, count = 1000, 200_000
    limit = keys + 5 * (2 * keys) ** 0.5  # five standard deviations of the distribution of chi square
    uniform = drawn(tmp_path, "uniform", keys, count)
    assert chi_square(uniform, [1 / keys] * keys) < limit
    zipf = drawn(tmp_path, "zipf", keys, count)
    weights = [rank**-0.99 for rank in range(1, keys + 1)]
    by_rank = [zipf[rank * 2654435761 % keys] for rank in range(1, keys + 1)]
    assert chi_square(by_rank, [weight / sum(weights) for weight in weights]) < limit
    assert chi_square(by_rank, [1 / keys] * keys) > 10 * limit
    assert drawn(tmp_path, "sequence", 4, 10) == [3, 3, 2, 2]
    assert drawn(tmp_path, "hot", 4, 10) == [10, 0, 0, 0]


# -- what it sends and counts ------------------------------------------------------------------------------


@contextmanager
def serving(respond: Respond, end: bytes = b"\r\n\r\n") -> Iterator[tuple[str, list[bytes]]]:
    """A server in threads.

    Args:
        respond: makes a reply of the request's number and its text, or None, which closes the connection.
        end: what a request ends with.

    Yields:
        Its port, and the requests as they come.
    """
    requests: list[bytes] = []
    turn = threading.Lock()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            pending = b""
            while data := connection.recv(1 << 16):
                *whole, pending = (pending + data).split(end)
                for request in whole:
                    with turn:
                        requests.append(request + end)
                        number = len(requests)
                    reply = respond(number, request)
                    if reply is None:
                        return
                    connection.sendall(reply)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield str(listener.getsockname()[1]), requests
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize(
    ("workload", "connections", "rate"),
    [
        (HOT, 1, 0),
        (HOT, 8, 0),
        (WORKLOADS["pipelined uniform"], 4, 0),
        (WORKLOADS["connection per request"], 4, 0),
        (HOT, 4, 2000),
    ],
)
def test_it_counts_what_was_asked(driver: Driver, workload: Workload, connections: int, rate: int) -> None:
    load = SHORTLY._replace(connections=connections, rate=rate)
    with serving(lambda number, request: OK) as (port, requests):
        shot = driver.shoot(port, HTTP, [], workload, 1000, load)
    assert shot.replies == len(requests) > 0
    if rate:
        assert shot.replies == rate * load.seconds
    keys = {request.split(b" ")[1] for request in requests}
    assert keys == {b"/get?key=k0000000000"} if workload.draw == "hot" else len(keys) > 10


def test_what_warms_up_is_not_counted(driver: Driver) -> None:
    with serving(lambda number, request: OK) as (port, requests):
        shot = driver.shoot(port, HTTP, [], HOT, 1, SHORTLY._replace(warmup=0.05, rate=1000))
    assert (shot.replies, len(requests)) == (50, 100)


def test_the_mix_has_its_proportion(driver: Driver) -> None:
    with serving(lambda number, request: OK) as (port, requests):
        shot = driver.shoot(
            port, HTTP, [], WORKLOADS["mix"], 1000, SHORTLY._replace(seconds=0.1, rate=10_000)
        )
    puts = sum(b"POST /put" in request for request in requests)
    assert shot.replies == 1000
    assert 60 < puts < 140


def test_every_wire_says_what_it_should(driver: Driver) -> None:
    replies = {
        HTTP: (OK, b"\r\n\r\n"),
        RESP: (b"$64\r\n" + b"v" * 64 + b"\r\n", b"k0000000000\r\n"),
        MEMCACHED: (b"VALUE k0000000000 0 64\r\n" + b"v" * 64 + b"\r\nEND\r\n", b"\r\n"),
    }
    sent = {}
    for wire, (reply, end) in replies.items():
        with serving(lambda number, request, reply=reply: reply, end) as (port, requests):  # type: ignore[misc]
            assert driver.shoot(port, wire, [], HOT, 1, SHORTLY).replies == len(requests)
        sent[wire] = requests[0]
    assert sent == {
        HTTP: b"GET /get?key=k0000000000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        RESP: b"*2\r\n$3\r\nGET\r\n$11\r\nk0000000000\r\n",
        MEMCACHED: b"get k0000000000\r\n",
    }


def test_frames_have_masks_of_their_own(driver: Driver) -> None:
    payload = get_template(WEBSOCKET, 64, "plain").replace(b"\x01", b"0")
    told = ws_frame(TEXT, b'{"result":"' + b"v" * 64 + b'"}', mask=None)
    frames: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            while stream.readline() != b"\r\n":
                pass
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            while got := stream.read(len(payload) + 6):
                frames.append(got)
                connection.sendall(told)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = str(listener.getsockname()[1])
        load = SHORTLY._replace(seconds=0.1, rate=500)
        shot = driver.shoot(port, HTTP, [], WORKLOADS["websocket"]._replace(draw="hot"), 1, load)
        thread.join()
    assert shot.replies == len(frames) == 50
    masks = [got[2:6] for got in frames]
    assert [ws_frame(TEXT, payload, mask=mask) for mask in masks] == frames
    assert len(set(masks)) == len(masks)


# -- what it does not accept -------------------------------------------------------------------------------


FAILURES: dict[str, tuple[bytes | None, str]] = {
    "an error": (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
        "1 were no success, 0 short; .*404",
    ),
    "a short reply": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "0 were no success, 1 short; .*200 OK",
    ),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n{}", "a reply cannot be read"),
    "no HTTP": (b"hello, how are you\r\n\r\n", "a reply cannot be read"),
    "two replies": (OK + OK, "more than was asked for"),
    "the end": (None, "closed a connection"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_no_success_fails_the_run(driver: Driver, name: str) -> None:
    reply, message = FAILURES[name]
    load = SHORTLY._replace(rate=1000)
    with (
        serving(lambda number, request: reply if number == 20 else OK) as (port, _),
        pytest.raises(FailedError, match=message),
    ):
        driver.shoot(port, HTTP, [], HOT, 1, load)


@pytest.mark.parametrize(
    ("wire", "reply"),
    [
        (RESP, b"$-1\r\n"),
        (RESP, b"-ERR no\r\n"),
        (MEMCACHED, b"END\r\n"),
        (MEMCACHED, b"SERVER_ERROR no\r\n"),
    ],
)
def test_a_miss_is_no_success(driver: Driver, wire: str, reply: bytes) -> None:
    with (
        serving(lambda number, request: reply, b"k0000000000\r\n") as (port, _),
        pytest.raises(FailedError, match=r"[1-9]\d* were no success"),
    ):
        driver.shoot(port, wire, [], HOT, 1, SHORTLY)


def test_where_nobody_listens(driver: Driver, tmp_path: Path) -> None:
    with pytest.raises(FailedError, match="cannot connect"):
        driver.shoot(str(tmp_path / "nobody.sock"), HTTP, [], HOT, 1, SHORTLY)


# -- coordinated omission ----------------------------------------------------------------------------------


def stall(number: int, request: bytes) -> bytes:
    """One reply of all is late."""
    if number == 50:
        threading.Event().wait(STALL_SECONDS)
    return OK


def test_the_open_loop_shows_a_stall_in_every_request_that_was_due(driver: Driver) -> None:
    """300 of 1000 requests were due while one was late; the closed loop sees that one only."""
    with serving(stall) as (port, _):
        opened = driver.shoot(port, HTTP, [], HOT, 1, SHORTLY._replace(seconds=1, rate=1000))
    with serving(stall) as (port, _):
        closed = driver.shoot(port, HTTP, [], HOT, 1, SHORTLY._replace(seconds=1))
    assert opened.replies == 1000
    assert opened.max_us >= STALL_SECONDS * 1e6
    # The last hundredth of those due waited for longer than 290 of 300 ms, at least.
    assert opened.p99_us >= 0.9 * STALL_SECONDS * 1e6
    assert closed.replies > 100
    assert closed.max_us >= STALL_SECONDS * 1e6
    assert closed.p99_us < opened.p99_us / 2


# -- templates ---------------------------------------------------------------------------------------------


def test_templates_have_ten_digits_for_key_and_value() -> None:
    for wire in (HTTP, RESP, MEMCACHED):
        for size in (64, 1024, 65536):
            put = put_template(wire, size, "plain")
            assert put.count(b"\x01") == 20
            assert size < len(put) < size + 300
    assert key_template(64, percent=True) == b"%6B" + b"%3\x01" * 10


def test_header_sets_are_fields() -> None:
    for fields in HEADERS.values():
        lines = fields.split(b"\r\n")
        assert lines.pop() == b""
        assert all(line.split(b": ")[0].replace(b"-", b"").isalpha() for line in lines)
        assert sum(line.lower().startswith(b"host:") for line in lines) == 1
