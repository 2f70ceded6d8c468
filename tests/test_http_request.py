"""The facts of a head; what is refused is in `cases`."""

import pytest
from cases.case import HOST

from fastkv.http.request import (
    CLOSE,
    KEEP_ALIVE,
    KEEP_ALIVE_1_0,
    Head,
    build_head,
    parse_field,
    parse_request_line,
)


def _head(block: bytes, version: bytes = b"1.1", authority: bytes | None = None) -> Head:
    return build_head(version, tuple(map(parse_field, block.split(b"\r\n")[:-1])), authority)


def test_fields_are_lower_case_trimmed_and_in_order() -> None:
    head = _head(b"HOST:\t a \r\nX-A: 1\r\nB:\r\nx-a:2\r\n")
    assert head.fields == ((b"host", b"a"), (b"x-a", b"1"), (b"b", b""), (b"x-a", b"2"))
    assert head.get(b"host") == b"a"
    assert head.get(b"x-a") == b"1, 2"
    assert head.get(b"b") == b""
    assert head.get(b"c") is None


@pytest.mark.parametrize(
    ("version", "fields", "persistence"),
    [
        (b"1.1", b"", KEEP_ALIVE),
        (b"1.1", b"Connection: keep-alive\r\n", KEEP_ALIVE),
        (b"1.1", b"Connection: x\r\nConnection: y, CLOSE\r\n", CLOSE),
        (b"1.0", b"", CLOSE),
        (b"1.0", b"Connection: Keep-Alive\r\n", KEEP_ALIVE_1_0),
        (b"1.0", b"Connection: keep-alive\r\nConnection: close\r\n", CLOSE),
    ],
)
def test_persistence(version: bytes, fields: bytes, persistence: int) -> None:
    head = _head(HOST + fields, version)
    assert (head.version, head.persistence) == (version, persistence)


def test_body_as_declared() -> None:
    none, zero, some = (
        _head(HOST),
        _head(HOST + b"Content-Length: 0\r\n"),
        _head(HOST + b"Content-Length: 07\r\n"),
    )
    chunked = _head(HOST + b"Transfer-Encoding: CHUNKED\r\n")
    assert [head.content_length for head in (none, zero, some, chunked)] == [0, 0, 7, 0]
    assert [head.has_length for head in (none, zero, some, chunked)] == [False, True, True, True]
    assert [head.chunked for head in (none, zero, some, chunked)] == [False, False, False, True]


def test_expectation_and_upgrade_are_not_for_http_1_0() -> None:
    fields = HOST + b"Expect: 100-Continue\r\nConnection: x, Upgrade\r\nUpgrade: websocket\r\n"
    head, old = _head(fields), _head(fields, b"1.0")
    assert (head.expect_continue, head.upgrade) == (True, b"websocket")
    assert (old.expect_continue, old.upgrade) == (False, None)
    assert _head(HOST + b"Upgrade: websocket\r\n").upgrade is None


def test_absolute_form_takes_the_place_of_host() -> None:
    for scheme, secure in ((b"http", False), (b"http", True), (b"https", True)):
        found = parse_request_line(b"GET " + scheme + b"://b:1/x?y HTTP/1.1", secure=secure)
        assert found == (b"GET /x?y", b"b:1", b"1.1")
    line, authority, version = parse_request_line(b"GET http://b:1/x?y HTTP/1.1")
    assert (line, authority, version) == (b"GET /x?y", b"b:1", b"1.1")
    assert _head(b"X: 1\r\nHost: a\r\n", version, authority).fields == ((b"host", b"b:1"), (b"x", b"1"))
