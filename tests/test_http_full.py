"""The full parser's state between reads; what it reads and refuses is in `cases`."""

import gc

from cases.case import BODY, CHUNKED, GET_LINE, GOOD, HOST, MAX_BODY_BYTES, MAX_HEAD_BYTES

from fastkv.http.full import FullParser

_EXPECTING = b"PUT /put HTTP/1.1\r\n" + HOST + b"Content-Length: 36\r\nExpect: 100-continue\r\n\r\n"


def _parser(data: bytes = b"") -> FullParser:
    parser = FullParser(MAX_HEAD_BYTES, MAX_BODY_BYTES)
    parser.feed(data)
    return parser


def test_boundary_and_body() -> None:
    parser = _parser()
    assert parser.at_boundary
    for data, at_boundary, in_body in ((b"G", False, False), (GOOD[1:], True, False), (CHUNKED, False, True)):
        parser.feed(data)
        assert (parser.at_boundary, parser.in_body) == (at_boundary, in_body)
    parser.feed(b"0\r\n\r\n")
    assert parser.at_boundary
    assert [line for line, _, _ in parser.messages] == [GET_LINE, b"POST /put"]


def test_empty_lines_are_counted_over_reads_and_begin_nothing() -> None:
    parser = _parser(b"\r\n" * 3)
    assert (parser.idle, parser.at_boundary) == (True, False)
    parser.feed(b"\r\n" + GOOD)
    assert (parser.idle, parser.at_boundary) == (True, True)
    for _ in range(5):
        parser.feed(b"\r\n")
    assert parser.error is not None
    assert (parser.idle, parser.at_boundary) == (False, False)


def test_the_reply_to_a_refused_head_has_no_body() -> None:
    for method in (b"HEAD", b"GET", b"HEADS"):
        for rest in (b" /a b HTTP/1.1\r\n", b" / HTTP/1.1\r\n\r\n", b" /" + b"a" * MAX_HEAD_BYTES):
            parser = _parser(method + rest)
            assert parser.error is not None
            assert parser.headless is (method == b"HEAD")


def test_nothing_is_read_after_an_error_or_after_close() -> None:
    refused = _parser(b"GET / HTTP/2.0\r\n")
    last = _parser(b"GET / HTTP/1.0\r\n\r\n")
    for parser in (refused, last):
        before = len(parser.messages), parser.error
        parser.feed(GOOD)
        assert (len(parser.messages), parser.error) == before
        assert not parser.at_boundary
    assert refused.error is not None
    assert refused.error.close


def test_100_is_due_once_and_only_until_the_body_begins() -> None:
    parser = _parser(_EXPECTING)
    assert [parser.take_expecting(), parser.take_expecting()] == [True, False]
    assert not _parser(_EXPECTING + b"{").take_expecting()
    assert not _parser(_EXPECTING + BODY).take_expecting()
    assert not _parser(_EXPECTING.replace(b"36", b"1025")).take_expecting()


def test_buffered_bytes() -> None:
    assert _parser(GOOD).buffered_bytes == 0
    assert _parser(GOOD[:9]).buffered_bytes == 9
    assert _parser(CHUNKED + b"3\r\nab").buffered_bytes == len(CHUNKED) + 2
    assert _parser(GOOD[:30] + b"\n" * 9).buffered_bytes <= MAX_HEAD_BYTES


def test_nothing_makes_a_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        for data in (
            GOOD,
            CHUNKED,
            CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
            CHUNKED + b"x\r\n",
            b"\0",
            _EXPECTING + BODY,
        ):
            _parser(data)
        assert gc.collect() == 0
    finally:
        gc.enable()
