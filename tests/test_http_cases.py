"""Every case through the parser, at every split."""

import itertools
from collections.abc import Iterable

import pytest
from cases import CASES
from cases.case import GET_LINE, GOOD, Case, Then, several
from hypothesis import given, settings
from hypothesis import strategies as st
from llhttp import Llhttp
from reader import Reader, read

_EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def _check(reader: Reader, case: Case) -> None:
    assert tuple((line, body) for line, _, body in reader.messages) == case.messages
    assert reader.error == case.error
    assert reader.then is case.then


def test_there_are_enough_cases_and_each_has_a_name_and_a_law() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert len(names) >= 900
    assert all(case.law.startswith("RFC ") for case in CASES)
    assert all(case.then is Then.CLOSED for case in CASES if case.error)


def _splits(size: int) -> Iterable[int]:
    """All of them; in the midst of a long run of the same bytes every tenth."""
    return (
        range(1, size)
        if size < 400
        else (*range(1, 200), *range(200, size - 100, 10), *range(size - 100, size))
    )


@_EACH
def test_at_every_split(case: Case) -> None:
    _check(read([case.data]), case)
    _check(read(case.data[at : at + 1] for at in range(len(case.data))), case)
    for at in _splits(len(case.data)):
        _check(read([case.data[:at], case.data[at:]]), case)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.then is not Then.WAITING], ids=lambda case: case.name
)
def test_trailing_request_is_read_only_where_one_may_follow(case: Case) -> None:
    trailing = ((GET_LINE, b""),) if case.then is Then.OPEN else ()
    reader = read([case.data + GOOD])
    assert tuple((line, body) for line, _, body in reader.messages) == case.messages + trailing
    assert reader.error == case.error


def test_pairs_in_one_read_and_in_two() -> None:
    """Whatever follows is read as if nothing had preceded it: each kind of message with each kind of case."""
    firsts = {(case.data[:4], case.messages): case for case in CASES if case.then is Then.OPEN}
    seconds = {(case.law, case.error, case.then): case for case in CASES}
    for first, second in itertools.product(firsts.values(), seconds.values()):
        messages = first.messages + second.messages
        pair = several("", "", b"", *messages, error=second.error, then=second.then)
        _check(read([first.data + second.data]), pair)
        _check(read([first.data, second.data]), pair)


def test_llhttp_frames_alike() -> None:
    """A third reader: what it takes of the good cases it takes as the same messages.

    It does not take all: a method of its own, HTTP/1.2, white space around a chunk's extension; and it stops
    at an upgrade.
    """
    good = [case for case in CASES if case.messages and not case.error and b"Upgrade: " not in case.data]
    taken = 0
    for case in good:
        found = [body for _, body in Llhttp(case.data).messages]
        assert found == [body for _, body in case.messages][: len(found)], case.name
        taken += len(found) == len(case.messages)
    assert taken > 0.8 * len(good)


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
    bounds = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds) if start < end]
    whole, reader = read([data]), read(pieces)
    assert reader.messages == whole.messages
    assert reader.error == whole.error
