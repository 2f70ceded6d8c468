"""The access log: what its lines say, and what happens when nobody takes them."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from fake import Worker, in_loop
from server import run_to_end, running, wait_until

from fastkv.access_log import AccessLog, LoggedConnection, Noted
from fastkv.settings import Settings
from fastkv.stats import Board, Column

NOTED = Noted(1_700_000_000_123_456_789, "10.1.2.3", b"GET /get?key=a", b"1.1", 200, 42, 7_654)


def settings(path: Path, **more: object) -> Settings:
    return Settings(workers=1, memory_bytes=4 << 20, access_log=path, **more)  # type: ignore[arg-type]


def written(path: Path, *noted: Noted, **more: object) -> list[str]:
    log = AccessLog(settings(path, **more), Board(1).rows[0])
    for one in noted:
        log.note(one)
    log.turn()
    log.close()
    return path.read_text().splitlines()


def test_a_turn_after_the_end_does_nothing(tmp_path: Path) -> None:
    log = AccessLog(settings(tmp_path / "log"), Board(1).rows[0])
    log.note(NOTED)
    log.close()
    log.turn()
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_a_line_of_text(tmp_path: Path) -> None:
    assert written(tmp_path / "log", NOTED) == [
        '10.1.2.3 - - [14/Nov/2023:22:13:20 +0000] "GET /get?key=a HTTP/1.1" 200 42 7'
    ]


def test_a_line_of_json(tmp_path: Path) -> None:
    assert [json.loads(line) for line in written(tmp_path / "log", NOTED, access_log_format="json")] == [
        {
            "time": "2023-11-14T22:13:20.123+00:00",
            "client": "10.1.2.3",
            "request": "GET /get?key=a HTTP/1.1",
            "status": 200,
            "bytes": 42,
            "microseconds": 7,
        }
    ]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "line",
    [
        b"GET /set/a/b?_token=hidden&x=1",
        b"GET /get?key=a&_token=hidden",
        b"GET /get?key=a&%5Ftoken=hidden",
        b"GET /get?%5f%74%6f%6b%65%6e=hidden&_tok%65n=hidden",
    ],
)
def test_a_token_is_not_told(tmp_path: Path, form: str, line: bytes) -> None:
    (told,) = written(tmp_path / "log", NOTED._replace(line=line), access_log_format=form)
    assert "hidden" not in told
    assert "=***" in told


def test_nobody_can_forge_a_line(tmp_path: Path) -> None:
    (told,) = written(tmp_path / "log", NOTED._replace(line=b'GET /get?key="\\x22'))
    assert r'"GET /get?key=\x22\x5Cx22 HTTP/1.1"' in told


def test_one_of_several(tmp_path: Path) -> None:
    noted = [NOTED._replace(status=200 + n) for n in range(10)]
    told = written(tmp_path / "log", *noted, access_log_every=4)
    assert [line.split()[-3] for line in told] == ["203", "207"]


def test_what_nobody_takes_is_counted_and_not_kept(tmp_path: Path) -> None:
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    counters = Board(1).rows[0]
    log = AccessLog(settings(fifo), counters)
    for _ in range(3):
        for _ in range(70_000):
            log.note(NOTED)
        log.turn()
    # The first batch fills the pipe; what came meanwhile waits up to the bound.
    assert counters[Column.ACCESS_LOG_DROPPED] == (70_000 - 65_536) + 2 * 70_000 - 65_536
    os.close(reader)
    log.close()


@in_loop
async def test_every_request_is_noted(tmp_path: Path) -> None:
    worker = Worker(access_log=tmp_path / "log")
    log = AccessLog(settings(tmp_path / "log"), worker.counters)
    worker.store.put(b"k", b"v", lambda: 0)
    client = worker.client(lambda service: LoggedConnection(service, log))
    get = b"GET /get?key=k HTTP/1.1\r\nHost: a\r\n\r\n"
    for _ in range(3):
        client.ask(get)
    client.ask(get * 5)
    body = b'{"key":"a","value":"b"}'
    for _ in range(2):
        client.ask(b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    client.ask(b"HEAD /get?key=none HTTP/1.1\r\nHost: a\r\n\r\n")
    client.ask(b"no request\r\n\r\n")
    log.close()
    told = [re.sub(r".*?\] ", "", line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [re.sub(r" \d+$", "", line) for line in told] == [
        *['"GET /get?key=k HTTP/1.1" 200 37'] * 8,
        *['"PUT /put HTTP/1.1" 200 62'] * 2,
        '"HEAD /get?key=none HTTP/1.1" 404 0',
        '"-" 400 89',
    ]
    worker.verify()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_real_server_logs_and_a_rotated_log_is_left_at_sighup(tmp_path: Path, form: str) -> None:
    path = tmp_path / "access.log"
    with running(access_log=path, access_log_format=form) as server:
        for number in range(20):
            server.request("GET", f"/get?key=k{number}")
        wait_until(lambda: len(path.read_text().splitlines()) == 20, "twenty lines")
        assert "127.0.0.1" in path.read_text()
        path.rename(tmp_path / "access.log.1")
        before = set(server.workers())
        server.send(signal.SIGHUP)
        wait_until(lambda: not before & set(server.workers()), "the workers are replaced")
        server.request("GET", "/get?key=last")
        assert server.stop() == 0
        assert "key=last" in path.read_text()


def test_a_log_that_cannot_be_is_said_before_serving(tmp_path: Path) -> None:
    code, out, err = run_to_end(access_log=tmp_path / "missing" / "log")
    assert (code, out) == (1, "")
    assert "--access-log: '" in err
    assert "cannot be written (No such file or directory)." in err
