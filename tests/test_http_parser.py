"""The parser's state between reads; what it reads and refuses is in `cases`."""

import gc

import pytest
from cases.case import BODY, CHUNKED, GET_LINE, GOOD, HOST, MAX_BODY_BYTES, MAX_HEAD_BYTES

from fastkv.http.parser import EXPECTING, Parser
from fastkv.http.request import HttpError

_EXPECTING = b"PUT /put HTTP/1.1\r\n" + HOST + b"Content-Length: 36\r\nExpect: 100-continue\r\n\r\n"


def _parser() -> Parser:
    return Parser(MAX_HEAD_BYTES, MAX_BODY_BYTES)


def _refused(data: bytes) -> Parser:
    parser = _parser()
    with pytest.raises(HttpError) as refusal:
        parser.read(data, 0)
    assert refusal.value.close
    return parser


def test_one_message_is_read_and_nothing_behind_it() -> None:
    for data in (GOOD, b"\r\n" + GOOD, CHUNKED + b"0\r\n\r\n", b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"):
        for before in (b"", GOOD):
            found, at = _parser().read(before + data + GOOD, len(before))
            assert isinstance(found, tuple)
            assert at == len(before + data)


def test_head_and_body() -> None:
    parser = _parser()
    states = []
    for data in (b"\r\n", CHUNKED[:1], CHUNKED[1:], b"0\r\n\r"):
        assert parser.read(data, 0) == (None, len(data))
        states.append((parser.in_head, parser.in_body))
    assert states == [(False, False), (True, False), (True, True), (True, True)]
    found, _ = parser.read(b"\n", 0)
    assert isinstance(found, tuple)
    assert found[0] == b"POST /put"


def test_empty_lines_are_counted_over_reads_and_begin_nothing() -> None:
    parser = _parser()
    for _ in range(4):
        assert parser.read(b"\r\n", 0) == (None, 2)
        assert not parser.in_head
    with pytest.raises(HttpError):
        parser.read(b"\r\n", 0)
    parser = _parser()
    parser.read(b"\r\n" * 4, 0)
    found, at = parser.read(GOOD, 0)
    assert isinstance(found, tuple)
    assert (found[0], at) == (GET_LINE, len(GOOD))


def test_the_reply_to_a_refused_head_has_no_body() -> None:
    for method in (b"HEAD", b"GET", b"HEADS"):
        for rest in (
            b" /a b HTTP/1.1\r\n",
            b" / HTTP/1.1\n",
            b" / HTTP/1.1\r\n\r\n",
            b" /" + b"a" * MAX_HEAD_BYTES,
        ):
            assert _refused(method + rest).headless is (method == b"HEAD")


def test_the_line_of_a_refused_request_is_known_once_it_is_right() -> None:
    assert _refused(b"GET /a b HTTP/1.1\r\n").line == b""
    assert _refused(b"GET /a HTTP/1.1\r\nX\r\n").line == b"GET /a"


def test_100_is_due_once_and_only_until_the_body_begins() -> None:
    parser = _parser()
    assert parser.read(_EXPECTING, 0) == (EXPECTING, len(_EXPECTING))
    assert parser.read(b"{", 0) == (None, 1)
    assert _parser().read(_EXPECTING + b"{", 0)[0] is None
    assert isinstance(_parser().read(_EXPECTING + BODY, 0)[0], tuple)
    _refused(_EXPECTING.replace(b"36", b"1025"))


def test_held_bytes() -> None:
    for data, held in (
        (b"", 0),
        (GOOD[:9], 9),
        (GOOD[:-2], len(GOOD) - 2),
        (CHUNKED + b"3\r\nab", len(CHUNKED) + 2),
        (CHUNKED + b"3;a", len(CHUNKED) + 3),
    ):
        for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
            parser = _parser()
            for piece in pieces:
                parser.read(piece, 0)
            assert parser.held_bytes == held


def test_nothing_makes_a_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        for data in (GOOD, CHUNKED, CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", _EXPECTING + BODY):
            _parser().read(data, 0)
        assert gc.collect() == 0
    finally:
        gc.enable()
