"""Limits of a request at their boundary, on each way that a request can take, and what their errors say."""

import re

import orjson
import pytest
from fake import Client, Worker, running_loop

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
    """The third is one for the memo, if the second was answered."""
    seen = set()
    for _ in range(3):
        if not client.is_closed() and not client.transport.ended:
            seen.update(ask_with_a_known_section(client, request))
    return list(seen)


def ask_in_a_pipeline(client: Client, request: bytes) -> list[int]:
    client.send(head(100))
    assert statuses(client) == [404]
    client.send(head(100) + request)
    return statuses(client)[1:]


@pytest.mark.parametrize("fill", [b"a", b"%41", b"a+"], ids=["plain", "encoded", "with blanks"])
@pytest.mark.parametrize(
    "ask",
    [ask_at_once, ask_in_two_pieces, ask_with_a_known_section, ask_three_times, ask_in_a_pipeline],
    ids=lambda ask: ask.__name__,
)
def test_a_head_may_have_all_of_max_head_bytes(ask, fill: bytes) -> None:  # type: ignore[no-untyped-def]
    worker = Worker(max_head_bytes=MAX_HEAD, max_key_bytes=4096)
    with running_loop():
        found = [ask(worker.client(), head(MAX_HEAD + more, fill=fill)) for more in (-1, 0, 1)]
    assert found == [[404], [404], [431]]
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
            "The request line has more than 1024 bytes; --max-head-bytes allows more.",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * MAX_HEAD,
            431,
            "Request line and header section exceed 1024 bytes together; --max-head-bytes allows more.",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X:\r\n" * 8 + b"\r\n",
            431,
            "The header section has more than 8 fields; --max-fields allows more.",
        ),
        (
            b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 2049\r\n\r\n",
            413,
            "The request body has more than 2048 bytes; --max-body-bytes allows more.",
        ),
        (
            b"PUT /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n801\r\n",
            413,
            "The request body has more than 2048 bytes; --max-body-bytes allows more.",
        ),
        (
            b"PUT /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;"
            + b"a" * MAX_HEAD
            + b"a" * 20,
            431,
            "Chunk extensions and trailers have more than 1024 bytes; --max-head-bytes allows more.",
        ),
        (
            b"PUT /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X:\r\n" * 9,
            431,
            "The trailer section has more than 8 fields; --max-fields allows more.",
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
