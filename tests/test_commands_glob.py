"""Patterns, with what they match; tests/test_commands_redis.py compares them with Redis."""

from __future__ import annotations

import sys

import pytest

from fastkv.commands.glob import LONGEST_PATTERN, Glob
from fastkv.commands.replies import CommandError

MATCHES: list[tuple[bytes, list[bytes], list[bytes]]] = [
    (b"", [b""], [b"a"]),
    (b"*", [b"a", b"abc"], [b""]),
    (b"abc", [b"abc"], [b"", b"ab", b"abcd", b"xabc", b"ABC"]),
    (b"a*", [b"a", b"ab", b"abc"], [b"", b"ba"]),
    (b"*a", [b"a", b"ba", b"aa"], [b"", b"ab"]),
    (b"*a*", [b"a", b"bab"], [b"", b"b"]),
    (b"a*b*c", [b"abc", b"axbxc", b"abbcc", b"abcbc"], [b"ab", b"ac", b"abcx", b"acb"]),
    (b"**a**", [b"a", b"bab"], [b"b"]),
    (b"?", [b"a", b"\0", b"\xff"], [b"", b"ab"]),
    (b"?*?", [b"ab", b"abc"], [b"a"]),
    (b"h?llo", [b"hello", b"hallo"], [b"hllo", b"heello"]),
    (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo"]),
    (b"h[^e]llo", [b"hallo", b"h^llo"], [b"hello"]),
    (b"[a-c]", [b"a", b"b", b"c"], [b"d", b"-"]),
    (b"[c-a]", [b"a", b"b", b"c"], [b"d", b"-"]),
    (b"[a-]", [b"]", b"a"], [b"-"]),  # a range from a to ], and the class is not closed
    (b"[-a]", [b"-", b"a"], [b"b"]),
    (b"[\\]]", [b"]"], [b"\\"]),
    (b"[\\^a]", [b"^", b"a"], [b"b"]),
    (b"[]", [], [b"]", b"[", b"a"]),
    (b"[^]", [b"a", b"]"], [b""]),
    (b"[", [], [b"[", b"a"]),
    (b"[a", [b"a"], [b"[a", b"b"]),
    (b"[^", [b"a"], [b"ab"]),
    (b"[\x7f-\x80]", [b"\x80", b"\x7f", b"a"], []),  # characters are signed, so this is -128 to 127
    (b"\\*", [b"*"], [b"a", b"\\*"]),
    (b"a\\", [b"a\\"], [b"a"]),
    (b"\\a\\b", [b"ab"], [b"\\a\\b"]),
    (b"a\nb*", [b"a\nb", b"a\nb\n"], [b"a"]),
]


@pytest.mark.parametrize(("pattern", "matching", "other"), MATCHES)
def test_a_pattern_matches(pattern: bytes, matching: list[bytes], other: list[bytes]) -> None:
    glob = Glob(pattern)
    assert [text for text in matching if not glob.matches(text)] == []
    assert [text for text in other if glob.matches(text)] == []
    assert glob.matches_all is (pattern == b"*")


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


def test_a_pattern_is_not_longer_than_it_may_be() -> None:
    assert Glob(b"a" * LONGEST_PATTERN).matches(b"a" * LONGEST_PATTERN)
    with pytest.raises(CommandError, match="65536"):
        Glob(b"a" * (LONGEST_PATTERN + 1))
