"""Limits of a request at their boundary, on each way that it can take, and what their errors say."""

import re

import orjson
import pytest
import ws_frames
from fake import MAX_BODY_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Client, Worker, running_loop

from fastkv.stats import Column

pytestmark = pytest.mark.usefixtures("implementation")

MAX_HEAD = 1024
_SECTION = b" HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"


def head(size: int, line: bytes = b"GET /get?key=", fill: bytes = b"a", section: bytes = _SECTION) -> bytes:
    """A head of so many bytes, by the length of its key."""
    left = size - len(line) - len(section)
    key = fill * (left // len(fill)) + b"b" * (left % len(fill))
    return line + key + section


def statuses(client: Client) -> list[int]:
    """Codes of the replies since the last time."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", client.take())]


def ask_at_once(client: Client, request: bytes) -> list[int]:
    client.send(request)
    return statuses(client)


def ask_in_two_pieces(client: Client, request: bytes) -> list[int]:
    client.send(request[:30], request[30:])
    return statuses(client)


def ask_with_a_known_section(client: Client, request: bytes) -> list[int]:
    client.send(head(100), head(100))
    assert statuses(client) == [404, 404]
    return ask_at_once(client, request)


def ask_three_times(client: Client, request: bytes) -> list[int]:
    """Whatever was answered before."""
    seen = set()
    for _ in range(3):
        if not client.is_closed() and not client.transport.ended:
            seen.update(ask_with_a_known_section(client, request))
    return list(seen)


def ask_in_a_pipeline(client: Client, request: bytes) -> list[int]:
    client.send(head(100), head(100))
    assert statuses(client) == [404, 404]
    client.send(head(100) + request)
    return statuses(client)[1:]


_WAYS = pytest.mark.parametrize(
    "ask",
    [ask_at_once, ask_in_two_pieces, ask_with_a_known_section, ask_three_times, ask_in_a_pipeline],
    ids=lambda ask: ask.__name__,
)


@pytest.mark.parametrize("fill", [b"a", b"%41", b"a+"], ids=["plain", "encoded", "with blanks"])
@_WAYS
def test_a_head_may_have_all_of_max_head_bytes(ask, fill: bytes) -> None:  # type: ignore[no-untyped-def]
    worker = Worker(max_head_bytes=MAX_HEAD, max_key_bytes=4096)
    with running_loop():
        found = [ask(worker.client(), head(MAX_HEAD + more, fill=fill)) for more in (-1, 0, 1)]
    assert found == [[404], [404], [431]]
    worker.verify()


@pytest.mark.parametrize("odd", b'"<>\\^`{}|[]#', ids=chr)
@_WAYS
def test_a_byte_that_no_target_has_is_400(ask, odd: int) -> None:  # type: ignore[no-untyped-def]
    worker = Worker()
    with running_loop():
        for key in (b"%c", b"a%cb", b"%%41%c", b"+%c"):
            line = b"GET /get?key=" + key % odd
            assert ask(worker.client(), line + _SECTION) == [400]
    worker.verify()


@pytest.mark.parametrize("line", [b"PUT /kv/", b"HEAD /get?key=", b"DELETE /delete?key=", b"POST /set/"])
def test_so_may_that_of_any_method(line: bytes) -> None:
    section = _SECTION[:-2] + b"Content-Length: 0\r\n\r\n"
    worker = Worker(max_head_bytes=MAX_HEAD, max_key_bytes=4096)
    with running_loop():
        found = [
            ask_at_once(worker.client(), head(MAX_HEAD + more, line, section=section)) for more in (-1, 0, 1)
        ]
    assert found[0] == found[1] != [431]
    assert found[2] == [431]
    worker.verify()


@pytest.mark.parametrize(
    ("request_bytes", "status", "message"),
    [
        (
            b"GET /get?key={a} HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "The request target has the byte 0x7B as it is; write it as %7B.",
        ),
        (
            b"GET /get?key=\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "The request target has the byte 0xC3 as it is; write it as %C3.",
        ),
        (
            b"GET /" + b"a" * MAX_HEAD,
            414,
            "The request line is too long; --max-head-bytes allows 1024 bytes.",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * MAX_HEAD,
            431,
            "The header section is too long; --max-head-bytes allows 1024 bytes, the request line included.",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X:\r\n" * 8 + b"\r\n",
            431,
            "The header section has too many fields; --max-fields allows 8.",
        ),
        (
            b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 2049\r\n\r\n",
            413,
            "The request body is too long; --max-body-bytes allows 2048 bytes.",
        ),
        (
            b"PUT /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n801\r\n",
            413,
            "The request body is too long; --max-body-bytes allows 2048 bytes.",
        ),
        (
            b"PUT /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;"
            + b"a" * MAX_HEAD
            + b"a" * 20,
            431,
            "Extensions and trailers of chunks are too long; --max-head-bytes allows 1024 bytes.",
        ),
        (
            b"PUT /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X:\r\n" * 9,
            431,
            "The trailer section has too many fields; --max-fields allows 8.",
        ),
        (
            b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            505,
            "This server supports HTTP/1.1 and HTTP/1.0 only.",
        ),
    ],
)
def test_an_error_says_what_would_be_right(request_bytes: bytes, status: int, message: str) -> None:
    worker = Worker(max_head_bytes=MAX_HEAD, max_body_bytes=2048, max_fields=8)
    with running_loop():
        reply = worker.client().ask(request_bytes)
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert orjson.loads(reply.partition(b"\r\n\r\n")[2]) == {"status": "ERROR", "message": message}
    worker.verify()


# -- keys and values -----------------------------------------------------------------------------------------

VALUE = "v" * (MAX_VALUE_BYTES + 1)
KEY = "k" * (MAX_KEY_BYTES + 1)
VALUE_ERROR = f"bytes; --max-value-bytes allows {MAX_VALUE_BYTES}"
KEY_ERROR = f"the key has {MAX_KEY_BYTES + 1} bytes; --max-key-bytes allows {MAX_KEY_BYTES}"


def post(route: str, body: str, fields: str = "") -> bytes:
    """A request with a body that comes along."""
    return f"{route} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{fields}\r\n{body}".encode()


def chunked(route: str, body: str) -> bytes:
    """The same in chunks."""
    head = f"{route} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return f"{head}{len(body):x}\r\n{body}\r\n0\r\n\r\n".encode()


def announced(route: str, size: int) -> bytes:
    """One whose body is still to come."""
    return f"{route} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()


def told(reply: bytes) -> tuple[int, str]:
    """The status of a reply, and its body."""
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body.decode()


@pytest.mark.parametrize(
    "request_bytes",
    [
        post("PUT /put", f'{{"key":"k","value":"{VALUE}"}}'),
        post("POST /put", f'{{"key":"k","value":"{VALUE}"}}'),
        chunked("POST /put", f'{{"key":"k","value":"{VALUE}"}}'),
        post("PUT /kv/k", VALUE),
        post("POST /", f'["SET","k","{VALUE}"]'),
        post("POST /", f'["SETRANGE","k",{MAX_VALUE_BYTES},"v"]'),
        post("POST /set/big", VALUE),
        post("PUT /set/big", VALUE),
        chunked("POST /set/big", VALUE),
        post("POST /append/big", VALUE),
        post("POST /setex/big/60", VALUE),
        post("POST /mset/k", VALUE),
    ],
    ids=lambda request: request[:30].decode(),
)
def test_a_value_that_is_too_long_is_413_on_every_route(worker: Worker, request_bytes: bytes) -> None:
    with running_loop():
        status, body = told(worker.client().ask(request_bytes))
    assert (status, VALUE_ERROR in body) == (413, True)
    assert worker.counters[Column.VALUE_TOO_LONG] == 1
    assert worker.store.stats()["entries"] == 0


@pytest.mark.parametrize("request_bytes", [announced("PUT /kv/k", len(VALUE)), chunked("PUT /kv/k", VALUE)])
def test_so_is_one_that_is_refused_before_it_has_come(worker: Worker, request_bytes: bytes) -> None:
    with running_loop():
        status, body = told(worker.client().ask(request_bytes))
    message = f"The value is too long; --max-value-bytes allows {MAX_VALUE_BYTES} bytes."
    assert (status, orjson.loads(body)["message"]) == (413, message)
    assert worker.counters[Column.VALUE_TOO_LONG] == 1


@pytest.mark.parametrize("route", ["POST /pipeline", "POST /multi-exec"])
def test_among_several_commands_it_is_the_error_of_one(worker: Worker, route: str) -> None:
    with running_loop():
        request = post(route, f'[["SET","k","{VALUE}"],["SET","k","v"]]')
        status, body = told(worker.client().ask(request))
    refused, done = orjson.loads(body)
    assert status == 200
    assert VALUE_ERROR in refused["error"]
    assert done == {"result": "OK"}


@pytest.fixture
def socket(client: Client) -> Client:
    """A WebSocket."""
    assert client.ask(ws_frames.HANDSHAKE % b"").startswith(b"HTTP/1.1 101 ")
    return client


def test_over_a_websocket_the_error_says_the_same(socket: Client) -> None:
    long, key = VALUE.encode(), KEY.encode()
    for kind, message in (
        (ws_frames.TEXT, b'["SET","k","%b"]' % long),
        (ws_frames.BINARY, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%b\r\n" % (len(long), long)),
    ):
        socket.send(ws_frames.frame(kind, message))
        (frame,) = ws_frames.read(socket.take())
        assert VALUE_ERROR in frame.payload.decode()
    socket.send(ws_frames.frame(ws_frames.TEXT, b'["SET","%b","v"]' % key))
    (frame,) = ws_frames.read(socket.take())
    assert orjson.loads(frame.payload) == {"error": f"ERR {KEY_ERROR}"}


@pytest.mark.parametrize(
    "request_bytes",
    [
        post("PUT /put", f'{{"key":"{KEY}","value":"v"}}'),
        f"GET /get?key={KEY} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        f"GET /get?key=%41{KEY[1:]} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        f"DELETE /delete?key={KEY} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        post(f"PUT /kv/{KEY}", "v"),
        f"GET /kv/{KEY} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        post("POST /", f'["SET","{KEY}","v"]'),
        post(f"POST /set/{KEY}", "v"),
    ],
    ids=lambda request: request[:20].decode(),
)
def test_a_key_that_is_too_long_is_400_on_every_route(worker: Worker, request_bytes: bytes) -> None:
    with running_loop():
        status, body = told(worker.client().ask(request_bytes))
    assert (status, KEY_ERROR in body.replace("The key", "the key")) == (400, True)
    assert worker.counters[Column.KEY_TOO_LONG] == 1


@pytest.mark.parametrize("make", [announced, lambda route, size: chunked(route, "a" * size)])
@pytest.mark.parametrize(
    "route", ["POST /", "POST /pipeline", "POST /multi-exec", "POST /set/k", "PUT /put", "POST /snapshot"]
)
def test_a_body_that_is_too_long_is_413_on_every_route(worker: Worker, route: str, make) -> None:  # type: ignore[no-untyped-def]
    with running_loop():
        status, body = told(worker.client().ask(make(route, MAX_BODY_BYTES + 1)))
    message = f"The request body is too long; --max-body-bytes allows {MAX_BODY_BYTES} bytes."
    assert (status, orjson.loads(body)["message"]) == (413, message)
    assert worker.counters[Column.BODY_TOO_LONG] == 1
