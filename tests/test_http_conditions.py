"""Entity tags and ranges: lists as they may be written, compared as the method wants it; parts of a value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.http.conditions import Conditions, conditions_of, range_of
from fastkv.http.request import Head, HttpError, build_head

ETAG = b'"1f"'


def head(*fields: tuple[bytes, bytes]) -> Head:
    return build_head(b"1.1", ((b"host", b"a"), *fields))


def conditions(*fields: tuple[bytes, bytes]) -> Conditions:
    found = conditions_of(head(*fields))
    assert found is not None
    return found


# Value, the strong tags in it, the weak ones.
LISTS: dict[str, tuple[bytes, set[bytes], set[bytes]]] = {
    "one": (b'"1f"', {b'"1f"'}, set()),
    "weak": (b'W/"1f"', set(), {b'"1f"'}),
    "several": (b'"a", W/"b" ,"c"', {b'"a"', b'"c"'}, {b'"b"'}),
    "empty members": (b',, "a",\t,"c" ,', {b'"a"', b'"c"'}, set()),
    "commas and spaces inside": (b'"a,b", "c"', {b'"a,b"', b'"c"'}, set()),
    "an empty tag": (b'""', {b'""'}, set()),
    "bytes above ASCII": (b'"\xff"', {b'"\xff"'}, set()),
    "a star in quotes": (b'"*"', {b'"*"'}, set()),
    "nothing": (b"", set(), set()),
    "nothing but commas": (b" , ,", set(), set()),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(name: str) -> None:
    value, strong, weak = LISTS[name]
    match, none_match = conditions((b"if-match", value)), conditions((b"if-none-match", value))
    for etag in strong | weak | {b'"other"', b'"a"', b'"1f"', b'"*"'}:
        assert match.is_match(etag) is (etag in strong)
        assert none_match.is_none_match(etag) is (etag not in strong | weak)
        assert match.is_none_match(etag)
        assert none_match.is_match(etag)
    assert not match.is_match(None)
    assert none_match.is_none_match(None)


def test_a_star_is_whatever_there_is() -> None:
    star = conditions((b"if-match", b"*"), (b"if-none-match", b"*"))
    assert (star.is_match(ETAG), star.is_match(None)) == (True, False)
    assert (star.is_none_match(ETAG), star.is_none_match(None)) == (False, True)


def test_both_have_to_hold() -> None:
    both = conditions((b"if-match", b'"1f", "2"'), (b"if-none-match", b'"2"'))
    assert [both.hold(etag) for etag in (b'"1f"', b'"2"', b'"3"', None)] == [True, False, False, False]


def test_several_fields_are_one_list() -> None:
    both = conditions((b"if-match", b'"1"'), (b"if-match", b'"2"'))
    assert [both.is_match(etag) for etag in (b'"1"', b'"2"', b'"3"')] == [True, True, False]


def test_no_conditions() -> None:
    date = b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert conditions_of(head()) is None
    # There is no date to compare with.
    assert conditions_of(head((b"if-modified-since", date), (b"if-unmodified-since", date))) is None
    assert conditions_of(head((b"if-range", ETAG))) is None


@pytest.mark.parametrize("name", [b"if-match", b"if-none-match"])
@pytest.mark.parametrize(
    "value",
    [
        *(b"1f", b'"1f', b'1f"', b'"a" "b"', b'"a""b"', b"*, *", b'*, "a"', b'"a", *', b'w/"a"', b'W/ "a"'),
        *(b"W/", b"W/*", b'"a b"', b"'a'", b'"a";', b"**", b'"\x7f"'),
    ],
)
def test_what_is_no_list(name: bytes, value: bytes) -> None:
    with pytest.raises(HttpError) as refused:
        conditions_of(head((name, value)))
    assert refused.value.status == 400
    assert not refused.value.close


def test_a_long_list_takes_no_long_time() -> None:
    value = b'"' + b" " * 30_000 + b",".join(b'"%d"' % i for i in range(5000))
    with pytest.raises(HttpError):
        conditions_of(head((b"if-match", value)))
    assert conditions((b"if-match", value[1:])).is_match(b'"4999"')


# -- ranges --------------------------------------------------------------------------------------------------

# Range, and the part of ten bytes that it means: None for all of them, "416" for none.
RANGES: dict[bytes, tuple[int, int] | str | None] = {
    b"bytes=0-": (0, 10),
    b"bytes=0-0": (0, 1),
    b"bytes=0-9": (0, 10),
    b"bytes=3-5": (3, 6),
    b"bytes=9-": (9, 10),
    b"bytes=9-9": (9, 10),
    b"bytes=5-10": (5, 10),
    b"bytes=5-99999999999999999999999": (5, 10),
    b"bytes=-1": (9, 10),
    b"bytes=-10": (0, 10),
    b"bytes=-11": (0, 10),
    b"bytes=-99999999999999999999999": (0, 10),
    b"bytes=" + b"0" * 18 + b"3-5": (3, 6),
    b"BYTES=3-5": (3, 6),
    b"bytes= 3-5 ": (3, 6),
    b"bytes=3-5,": (3, 6),
    b"bytes=,3-5": (3, 6),
    b"bytes=10-": "416",
    b"bytes=10-20": "416",
    b"bytes=99999999999999999999999-": "416",
    b"bytes=" + b"9" * 10_000 + b"-": "416",
    b"bytes=-0": "416",
    b"bytes=0-1,3-4": None,
    b"bytes=0-1,20-": None,
    b"bytes=": None,
    b"bytes=-": None,
    b"bytes": None,
    b"bytes=5": None,
    b"bytes=5-3": None,
    b"bytes=11-10": None,
    b"bytes=a-b": None,
    b"bytes=--1": None,
    b"bytes=+1-2": None,
    b"bytes=1_0-": None,
    b"bytes=0x1-2": None,
    b"bytes=1 - 2": None,
    b"bytes = 1-2": None,
    b"items=0-1": None,
    b"bytes:0-1": None,
    b"=0-1": None,
    b"": None,
}


@pytest.mark.parametrize("value", RANGES)
def test_ranges(value: bytes) -> None:
    expected = RANGES[value]
    if expected == "416":
        with pytest.raises(HttpError) as refused:
            range_of(head((b"range", value)), 10, ETAG)
        assert (refused.value.status, refused.value.extra) == (416, b"Content-Range: bytes */10\r\n")
    else:
        assert range_of(head((b"range", value)), 10, ETAG) == expected


def test_no_part_of_an_empty_value_has_a_name() -> None:
    assert range_of(head((b"range", b"bytes=-5")), 0, ETAG) is None
    for value in (b"bytes=0-", b"bytes=0-5", b"bytes=-0"):
        with pytest.raises(HttpError):
            range_of(head((b"range", value)), 0, ETAG)


def test_two_range_fields_are_two_ranges() -> None:
    assert range_of(head((b"range", b"bytes=0-1"), (b"range", b"bytes=3-4")), 10, ETAG) is None


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        (ETAG, True),
        (b'W/"1f"', False),
        (b'"2"', False),
        (b'"1f", "2"', False),
        (b"*", False),
        (b"1f", False),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", False),
        (b"", False),
    ],
)
def test_if_range(value: bytes, holds: bool) -> None:
    for ranges, part in ((b"bytes=3-5", (3, 6)), (b"bytes=-2", (8, 10))):
        found = range_of(head((b"range", ranges), (b"if-range", value)), 10, ETAG)
        assert found == (part if holds else None)
    if not holds:  # nor is a range refused that does not count
        assert range_of(head((b"range", b"bytes=10-"), (b"if-range", value)), 10, ETAG) is None


@given(st.integers(0, 40), st.integers(0, 50), st.integers(0, 50))
def test_a_part_is_a_slice(size: int, first: int, last: int) -> None:
    value = bytes(range(size))
    for text, part in ((f"{first}-{last}", value[first : last + 1]), (f"{first}-", value[first:])):
        try:
            found = range_of(head((b"range", b"bytes=" + text.encode())), size, ETAG)
        except HttpError:
            assert first >= size
            continue
        if found is None:
            assert last < first
        else:
            assert value[found[0] : found[1]] == part != b""
