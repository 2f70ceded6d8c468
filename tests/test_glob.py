"""Patterns: what fits which, found out from redis-server 7.0, and that none takes long."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.glob import Glob

CASES: list[tuple[bytes, list[bytes], list[bytes]]] = [
    (b"", [b""], [b"a"]),
    (b"a", [b"a"], [b"", b"A", b"aa"]),
    (b"*", [b"a", b"\n\xff\x00", b"abc"], [b""]),
    (b"**a", [b"a", b"ba"], [b"", b"ab"]),
    (b"a*", [b"a", b"ab\n", b"ab", b"abc"], [b"ba", b""]),
    (b"*a", [b"a", b"aa", b"ba"], [b"ab", b""]),
    (b"a*b*c", [b"abc", b"aXbXbXc", b"axbxc", b"abbcc", b"abcbc"], [b"acb", b"ab", b"ac", b"abcx"]),
    (b"?", [b"a", b"\n", b"\xff", b"\x00"], [b"", b"ab"]),
    (b"?*?", [b"ab", b"abc"], [b"a"]),
    (b"[abc]", [b"a", b"c"], [b"d", b""]),
    (b"[a-c]x", [b"bx"], [b"dx", b"-x"]),
    (b"[c-a]", [b"b", b"a", b"c"], [b"d", b"-"]),
    (b"[^a-c]", [b"d", b"^"], [b"b", b""]),
    (b"[a-]", [b"a", b"`", b"]", b"^"], [b"-", b"b"]),  # a range from a to ], and the class is not closed
    (
        b"[\x7f-\x80]",
        [b"\x00", b"a", b"\x80", b"\x81", b"\xff", b"\x7f"],
        [],
    ),  # characters are signed, so this is -128 to 127
    (b"[\x80-\x82]", [b"\x80", b"\x81"], [b"\x00", b"a", b"\xff"]),
    (b"[-a]", [b"-", b"a"], [b"b"]),
    (b"[]", [], [b"", b"]", b"[]", b"[", b"a"]),
    (b"[^]", [b"a", b"]"], [b""]),
    (b"[]a]", [], [b"a]", b"]"]),
    (b"[ab", [b"a", b"b"], [b"[ab"]),
    (b"[", [], [b"[", b"", b"a"]),
    (b"[^", [b"a"], [b"", b"ab"]),
    (b"[\\]]", [b"]"], [b"\\"]),
    (b"[\\", [b"\\"], [b"a"]),
    (b"[a\\-c]", [b"a", b"-", b"c"], [b"b"]),
    (b"\\*", [b"*"], [b"a", b"\\*"]),
    (b"\\?\\[\\a", [b"?[a"], [b"xxa"]),
    (b"a\\", [b"a\\"], [b"a"]),
    (b".+(a|b)$", [b".+(a|b)$"], [b"xa"]),
    (b"\xc3\xa4[\xc3\xa4]", [b"\xc3\xa4\xa4"], [b"\xc3\xa4\xc3\xa4"]),
    (b"abc", [b"abc"], [b"", b"ab", b"abcd", b"xabc", b"ABC"]),
    (b"*a*", [b"a", b"bab"], [b"", b"b"]),
    (b"**a**", [b"a", b"bab"], [b"b"]),
    (b"h?llo", [b"hello", b"hallo"], [b"hllo", b"heello"]),
    (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo"]),
    (b"h[^e]llo", [b"hallo", b"h^llo"], [b"hello"]),
    (b"[a-c]", [b"a", b"b", b"c"], [b"d", b"-"]),
    (b"[\\^a]", [b"^", b"a"], [b"b"]),
    (b"[a", [b"a"], [b"[a", b"b"]),
    (b"\\a\\b", [b"ab"], [b"\\a\\b"]),
    (b"a\nb*", [b"a\nb", b"a\nb\n"], [b"a"]),
]


@pytest.mark.parametrize(("pattern", "fits", "others"), CASES)
def test_what_fits(pattern: bytes, fits: list[bytes], others: list[bytes]) -> None:
    glob = Glob(pattern)
    assert [name for name in (*fits, *others) if glob.matches(name)] == fits
    assert glob.matches_all is (pattern == b"*")


def test_a_pattern_that_would_try_all_ways_does_not() -> None:
    # Tried in all ways these take longer than the universe has been there.
    name = b"a" * 2000
    assert not Glob(b"*a" * 100 + b"b").matches(name)
    assert not Glob(b"*a" * 100 + b"*b").matches(name)
    assert Glob(b"*a" * 100).matches(name)
    assert not Glob(b"*[^b]?" * 50 + b"b*").matches(name)


@pytest.mark.parametrize(
    "pattern", [b"*a" * 2000 + b"b", b"*[ab]" * 2000 + b"c", b"*?" * 5000 + b"b", b"a*" * 9000]
)
def test_a_hostile_pattern_takes_no_more_steps_than_it_has(pattern: bytes) -> None:
    """Each step is one pass over the text, whatever matched before: nothing is tried again."""
    glob, text = Glob(pattern), b"a" * 4000
    lines = 0

    def on_event(frame: object, event: str, arg: object) -> object:
        nonlocal lines
        lines += event == "line"
        return on_event

    before = sys.gettrace()
    sys.settrace(on_event)  # type: ignore[arg-type]
    try:
        assert not glob.matches(text)
    finally:
        sys.settrace(before)
    assert lines < 8 * len(pattern)


def _tried_in_all_ways(pattern: bytes, text: bytes) -> bool:
    if not pattern:
        return not text
    if pattern[:1] == b"*":
        return any(_tried_in_all_ways(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return pattern[:1] in (b"?", text[:1]) and text != b"" and _tried_in_all_ways(pattern[1:], text[1:])


@given(st.text("ab?**", min_size=1, max_size=8), st.text("ab", min_size=1, max_size=8))
def test_what_fits_is_what_fits_in_any_way(pattern: str, text: str) -> None:
    raw, name = pattern.encode(), text.encode()
    assert Glob(raw).matches(name) == _tried_in_all_ways(raw, name)


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [(b"abc", b"abc"), (b"a*b", b"a"), (b"?", b""), (b"ab[c]", b"abc"), (b"a\\*", b"a*"), (b"", b"")],
)
def test_what_every_name_that_fits_begins_with(pattern: bytes, prefix: bytes) -> None:
    assert Glob(pattern).prefix == prefix


def test_classes_share_their_tables() -> None:
    classes = Glob(b"*" + b"[ab][^a-c][]" * 100)._steps[1:]
    assert len({id(table) for table in classes}) == 3
    assert [len(set(table)) for table in classes[:3]] == [2, 2, 1]
