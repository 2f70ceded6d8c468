"""What a head makes certain is answered before the body: no byte of that is kept or waited for."""

from typing import Any

import pytest
from fake import MAX_BODY_BYTES, MAX_VALUE_BYTES, Worker, in_loop

from fastkv.stats import Column

pytestmark = pytest.mark.usefixtures("implementation")

TOKEN = "a-token"
LONG = b"Content-Length: 4000"
CHUNKED = b"Transfer-Encoding: chunked"
BEARER = b"Authorization: Bearer a-token\r\n"

# Settings, method and path, fields, status and what is counted.
REFUSED: list[tuple[dict[str, Any], bytes, bytes, int, Column]] = [
    ({"token": TOKEN}, b"PUT /kv/k", b"", 401, Column.UNAUTHORIZED),
    ({"token": TOKEN}, b"POST /", b"Authorization: Bearer no\r\n", 401, Column.UNAUTHORIZED),
    ({}, b"PUT /kv/k", b"Origin: https://else.example\r\n", 403, Column.FOREIGN_ORIGINS),
    ({}, b"PUT /kv/k", b"Sec-Fetch-Site: cross-site\r\n", 403, Column.FOREIGN_ORIGINS),
    ({}, b"POST /nowhere/else", b"", 404, Column.BAD_REQUESTS),
    ({}, b"POST /kv/k", b"", 405, Column.BAD_REQUESTS),
    ({}, b"POST /version", b"", 405, Column.BAD_REQUESTS),
    ({}, b"PATCH /put", b"", 501, Column.BAD_REQUESTS),
    ({"host": ["localhost"]}, b"PUT /kv/k", b"Host: else.example\r\n", 421, Column.WRONG_HOSTS),
]


def head(route: bytes, fields: bytes, length: bytes) -> bytes:
    host = b"" if b"Host:" in fields else b"Host: a\r\n"
    return b"%b HTTP/1.1\r\n%b%b%b\r\n\r\n" % (route, host, fields, length)


def status(reply: bytes) -> int:
    """Status of the one reply that there is."""
    assert reply.count(b"HTTP/1.1 ") == 1, reply
    return int(reply[9:12])


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
@pytest.mark.parametrize("length", [LONG, CHUNKED])
@pytest.mark.parametrize(("settings", "route", "fields", "code", "column"), REFUSED)
@in_loop
async def test_a_head_is_answered_without_its_body(
    settings: dict[str, Any],
    route: bytes,
    fields: bytes,
    code: int,
    column: Column,
    length: bytes,
    expects: bytes,
) -> None:
    worker = Worker(**settings)
    client = worker.client()
    reply = client.ask(head(route, fields + expects, length))
    assert status(reply) == code
    assert b"\r\nConnection: close\r\n" in reply
    assert worker.counters[column] == 1
    for _ in range(3):  # it may go on sending, and nothing is kept of that
        client.send(b"z" * 1000)
        assert worker.service.flow.held_bytes == client.connection.held_bytes == 0
    assert client.take() == b""
    worker.verify()


@pytest.mark.parametrize("length", [LONG, CHUNKED, LONG + b"\r\nExpect: 100-continue"])
@in_loop
async def test_who_may_is_read_all_the_same(length: bytes) -> None:
    worker = Worker(token=TOKEN)
    client = worker.client()
    reply = client.ask(head(b"PUT /kv/k", BEARER, length))
    assert reply == (b"HTTP/1.1 100 Continue\r\n\r\n" if b"Expect" in length else b"")
    body = b"z" * 4000
    reply = client.ask(b"fa0\r\n%b\r\n0\r\n\r\n" % body if length is CHUNKED else body)
    assert status(reply) == 201
    assert b"Connection: close" not in reply


@pytest.mark.parametrize(
    ("route", "most", "column"),
    [
        (b"PUT /kv/k", MAX_VALUE_BYTES, Column.VALUE_TOO_LONG),
        (b"PUT /put", MAX_BODY_BYTES, Column.BODY_TOO_LONG),
        (b"POST /set/k", MAX_BODY_BYTES, Column.BODY_TOO_LONG),
    ],
)
@in_loop
async def test_a_length_over_the_bound_is_refused_and_the_bound_is_not(
    route: bytes, most: int, column: Column
) -> None:
    worker = Worker()
    for expects in (b"", b"Expect: 100-continue\r\n"):
        client = worker.client()
        assert status(client.ask(head(route, expects, b"Content-Length: %d" % (most + 1)))) == 413
        client = worker.client()
        assert not client.ask(head(route, expects, b"Content-Length: %d" % most)).startswith(b"HTTP/1.1 413")
    assert worker.counters[column] == 2


@pytest.mark.parametrize(("route", "most"), [(b"PUT /kv/k", MAX_VALUE_BYTES), (b"PUT /put", MAX_BODY_BYTES)])
@in_loop
async def test_chunks_are_refused_as_soon_as_they_pass_the_bound(route: bytes, most: int) -> None:
    client = Worker().client()
    assert client.ask(head(route, b"", CHUNKED) + b"%x\r\n%b\r\n" % (most, b"z" * most)) == b""
    assert status(client.ask(b"1\r\n")) == 413


@in_loop
async def test_a_refusal_waits_for_the_replies_before_it() -> None:
    client = Worker().client()
    version = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"
    reply = client.ask(version + head(b"POST /version", b"", LONG))
    assert reply.index(b"HTTP/1.1 200") < reply.index(b"HTTP/1.1 405")


@in_loop
async def test_a_short_body_that_is_there_does_not_end_the_connection() -> None:
    worker = Worker(token=TOKEN)
    client = worker.client()
    for _ in range(3):
        assert status(client.ask(head(b"PUT /kv/k", b"", b"Content-Length: 5") + b"abcde")) == 401
    assert status(client.ask(head(b"PUT /kv/k", BEARER, b"Content-Length: 5") + b"abcde")) == 201


@in_loop
async def test_a_refusal_looks_like_any_other() -> None:
    """Redis' clients find its sentence, pages may read it, and a HEAD has no body."""
    worker = Worker(token=TOKEN, allow_origin=["https://app.example"])
    fields = b"Origin: https://app.example\r\n"
    reply = worker.client().ask(head(b"POST /pipeline", fields, LONG))
    assert b"\r\nAccess-Control-Allow-Origin: https://app.example\r\n" in reply
    assert b'"error":"ERR This needs the token' in reply
    reply = worker.client().ask(head(b"HEAD /version", fields, LONG))
    assert status(reply) == 401
    assert reply.endswith(b"\r\n\r\n")
    # A preflight cannot carry a token; it is answered when its body is there.
    asks = fields + b"Access-Control-Request-Method: PUT\r\n"
    client = worker.client()
    assert client.ask(head(b"OPTIONS /put", asks, b"Content-Length: 9")) == b""
    assert status(client.ask(b"z" * 9)) == 204
