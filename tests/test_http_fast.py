"""The fast parser by itself: batches, limits and what it keeps."""

import pytest
from cases.case import BODY, GET, GET_LINE, GOOD, HOST

from fastkv.http import fast
from fastkv.http.fast import DECLINED, NEED_DATA, FastParser, is_request_line


@pytest.fixture
def parser() -> FastParser:
    return FastParser(2048, 1000)


def test_the_second_sight_is_the_first(parser: FastParser) -> None:
    first, second = parser.parse(GOOD), parser.parse(GOOD)
    assert first == second
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert first[0] == [GET_LINE]
    assert first[1] is second[1]
    assert first[2:] == (b"", len(GOOD))


def test_a_batch_shares_one_head(parser: FastParser) -> None:
    lines = [b"GET /%d" % number for number in range(40)]
    data = b"".join(line + b" HTTP/1.1\r\n" + HOST + b"\r\n" for line in lines)
    parsed = parser.parse(data + GET[:-5])
    assert isinstance(parsed, tuple)
    assert parsed[0] == lines
    assert parsed[3] == len(data)


@pytest.mark.parametrize(
    "odd",
    [
        b"GET /a b", b"GET /a\xff", b"get /a", b"GET /a\r\nGET /b", b"GET", b"", b"GET /#", b"GET a",
        b" GET /a",
        b"GET /a HTTP/1.0\r\nX: y", b"GET /\n", b"\nGET /", b"GET /" + b"a" * 1100, b"a", b"/",
        b"GET /[", b"GET /{}", b"GET /|",
    ],
)  # fmt: skip
def test_a_batch_ends_before_the_first_odd_line(parser: FastParser, odd: bytes) -> None:
    assert parser.parse(odd + b" HTTP/1.1\r\n" + HOST + b"\r\n") is DECLINED
    parsed = parser.parse(GOOD * 3 + odd + b" HTTP/1.1\r\n" + HOST + b"\r\n" + GOOD)
    assert isinstance(parsed, tuple)
    assert parsed[0] == [GET_LINE] * 3
    assert parsed[3] == len(GOOD) * 3
    # Again where the section is known and the line stands alone.
    assert parser.parse(odd + b" HTTP/1.1\r\n" + HOST + b"\r\n") is DECLINED
    assert not is_request_line(odd) or len(odd) > 1024


def test_a_body_that_is_there_and_one_that_is_not(parser: FastParser) -> None:
    head = b"PUT /put HTTP/1.1\r\n" + HOST + b"Content-Length: 36\r\n\r\n"
    for arrived in (b"", BODY[:-1]):
        parsed = parser.parse(head + arrived)
        assert isinstance(parsed, tuple)
        assert parsed[0] == [b"PUT /put"]
        assert parsed[2:] == (None, len(head))
    for following in (b"", b"G", GOOD):
        parsed = parser.parse(head + BODY + following)
        assert isinstance(parsed, tuple)
        assert parsed[2:] == (BODY, len(head + BODY))


def test_every_prefix_of_a_request_needs_data(parser: FastParser) -> None:
    for end in range(len(GOOD)):
        assert parser.parse(GOOD[:end]) is NEED_DATA


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"\n",
        b"get",
        b"\x16\x03",
        b"GET / HTTP/1.0\r\n",
        b"GET /\r\n",
        GET + b"Host: a\nX",
        b"G" * 1025,
    ],
)
def test_what_cannot_become_usual_is_declined_before_its_end(parser: FastParser, data: bytes) -> None:
    assert parser.parse(data) is DECLINED


def test_what_is_kept_is_bounded(parser: FastParser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "MAX_KEPT_BLOCKS", 3)
    monkeypatch.setattr(fast, "MAX_KEPT_BYTES", 1000)
    sections = [b"Host: a\r\nX: %d\r\n\r\n" % number for number in range(5)]
    for section in sections:
        assert isinstance(parser.parse(GET + section), tuple)
    kept = [section.removesuffix(b"\r\n\r\n") for section in sections[2:]]
    assert list(parser._heads) == list(parser._order) == kept
    assert list(parser._alone) == sections[2:]
    parser.parse(GET + b"Host: a\r\nX: " + b"a" * 980 + b"\r\n\r\n")
    assert len(parser._heads) == len(parser._alone) == len(parser._order) == 1
    assert parser._kept_bytes == sum(map(len, parser._heads))


def test_lines_kept_with_a_section_go_with_it(parser: FastParser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "MAX_KEPT_BLOCKS", 2)
    for length in range(1, 5):
        for line in (b"PUT /put", b"POST /put", b"PUT /kv/a"):
            request = line + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % length
            for body in (b"", b"x" * length, b"x" * length + b"GET /", b"\r\n\r\n", b"x" * length):
                parsed = parser.parse(request + body)
                assert parsed == FastParser(2048, 1000).parse(request + body)
                assert isinstance(parsed, tuple)
                assert parsed[0] == [line]
    assert len(parser.before_bodies) == 4
    assert {head.content_length for head in parser.before_bodies.values()} == {3, 4}


def test_what_is_declined_is_not_kept(parser: FastParser) -> None:
    for section in (
        b"X: a\r\n\r\n",
        HOST + b"Expect: 100-continue\r\n\r\n",
        HOST + b"Content-Length: 1001\r\n\r\n",
    ):
        assert parser.parse(GET + section) is DECLINED
    assert not parser._heads
