"""Every case through both parsers, at every split; and what both say is the same."""

import itertools

import pytest
from http_cases import CASES, GET_LINE, GOOD, MAX_BODY_BYTES, MAX_HEAD_BYTES, Case, Reader, read
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv.http.fast import DECLINED, NEED_DATA, FastParser

_FAST = FastParser(MAX_HEAD_BYTES, MAX_BODY_BYTES)
_OPEN = [case for case in CASES if case.open]
_PARSERS = pytest.mark.parametrize("fast", [_FAST, None], ids=["fast", "full"])
_EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _check(reader: Reader, case: Case) -> None:
    assert tuple((line, body) for line, _, body in reader.messages) == case.messages
    assert reader.error == case.error
    assert reader.idle is case.open


def test_there_are_enough_cases_and_each_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert len(names) >= 80
    assert all(case.law for case in CASES if case.error)


@_EACH
@_PARSERS
def test_whole(case: Case, fast: FastParser | None) -> None:
    _check(read([case.data], fast), case)


@_EACH
@_PARSERS
def test_byte_by_byte(case: Case, fast: FastParser | None) -> None:
    _check(read((case.data[at : at + 1] for at in range(len(case.data))), fast), case)


@_EACH
@_PARSERS
def test_every_split_in_two(case: Case, fast: FastParser | None) -> None:
    for at in range(1, len(case.data)):
        _check(read([case.data[:at], case.data[at:]], fast), case)


@_EACH
def test_heads_agree(case: Case) -> None:
    assert read([case.data], _FAST).messages == read([case.data], None).messages


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.open or case.error], ids=lambda case: case.name
)
@_PARSERS
def test_trailing_request_is_read_only_where_one_may_follow(case: Case, fast: FastParser | None) -> None:
    reader = read([case.data + GOOD], fast)
    trailing = ((GET_LINE, b""),) if case.open else ()
    assert tuple((line, body) for line, _, body in reader.messages) == case.messages + trailing
    assert reader.error == case.error


@_PARSERS
def test_every_pair_in_one_read_and_in_two(fast: FastParser | None) -> None:
    for first, second in itertools.product(_OPEN, CASES):
        pair = Case("pair", b"", first.messages + second.messages, second.error, open=second.open)
        _check(read([first.data + second.data], fast), pair)
        _check(read([first.data, second.data], fast), pair)


@_EACH
def test_fast_answers_the_usual_and_declines_or_waits_for_the_rest(case: Case) -> None:
    for parser in (FastParser(MAX_HEAD_BYTES, MAX_BODY_BYTES), _FAST):
        assert isinstance(parser.parse(case.data), tuple) is case.fast


_PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b":",
    b"#",
    b"\xe9",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b" HTTP/1.1\r\n",
]
_PIECES += [
    b"Host: a\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n\r\n",
    b"GET /",
    b"0\r\n\r\n",
]
_PIECES += [b"Connection: close\r\n", b"", b",", b"x", b"1"]


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """Some requests in a row, with bytes cut out and others put in."""
    data = b"".join(case.data for case in draw(st.lists(st.sampled_from(CASES), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data = (
            data[:at] + draw(st.sampled_from(_PIECES)) + data[at + draw(st.sampled_from([0, 0, 1, 2, 8])) :]
        )
    return data


@settings(max_examples=500, deadline=None)
@given(data=_mutated(), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_mutations_are_read_alike(data: bytes, cuts: list[int]) -> None:
    # An end for the last head: the fast parser may wait for one where the full one knows better already.
    data += b"\r\n\r\n"
    bounds = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    full = read([data], None)
    for reader in (read([data], _FAST), read(pieces, _FAST), read(pieces, None)):
        assert reader.messages == full.messages
        assert reader.error == full.error


@settings(max_examples=500, deadline=None)
@given(data=_mutated())
def test_fast_alone_never_says_what_full_does_not(data: bytes) -> None:
    parsed = _FAST.parse(data)
    if parsed is DECLINED or parsed is NEED_DATA:
        return
    lines, head, body, used = parsed
    if body is None:
        data = data[:used] + b"a" * head.content_length
        body, used = b"a" * head.content_length, len(data)
    reader = read([data[:used]], None)
    assert reader.messages == [(line, head, body) for line in lines]
    assert reader.error is None
