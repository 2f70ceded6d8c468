"""What words say: integers as strictly as Redis reads them, and what of a word is repeated in an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.commands.arguments import (
    LARGEST,
    LONGEST_PATTERN,
    SMALLEST,
    glob_of,
    integer,
    maybe_integer,
    printable,
)
from fastkv.commands.replies import CommandError


@given(st.integers(SMALLEST, LARGEST))
def test_every_integer_of_64_bits_is_read(number: int) -> None:
    assert maybe_integer(b"%d" % number) == number


@given(st.one_of(st.integers(min_value=LARGEST + 1), st.integers(max_value=SMALLEST - 1)))
def test_no_other_integer_is_read(number: int) -> None:
    assert maybe_integer(b"%d" % number) is None


@pytest.mark.parametrize(
    "word",
    [
        b"",
        b"-",
        b"+1",
        b"01",
        b"-0",
        b"-01",
        b"00",
        b" 1",
        b"1 ",
        b"1\n",
        b"1\0",
        b"1_0",
        b"1.0",
        b"0x1",
        b"\xb2",
    ],
)
def test_what_is_written_otherwise_is_no_integer(word: bytes) -> None:
    assert maybe_integer(word) is None
    with pytest.raises(CommandError) as raised:
        integer(word)
    assert raised.value.text == "ERR value is not an integer or out of range"


def test_a_very_long_word_is_no_integer() -> None:
    assert maybe_integer(b"1" * 1_000_000) is None


@pytest.mark.parametrize(
    ("word", "most", "text"),
    [
        (b"abc", 128, "abc"),
        (b"abc", 2, "ab"),
        (b"abc", 0, ""),
        (b"abc", -1, ""),
        (b"a\r\nb", 128, "a  b"),
        (b"a\0b", 128, "a"),
        ("é".encode(), 128, "é"),
        (b"\xff", 128, "\ufffd"),
    ],
)
def test_a_word_is_repeated_on_one_line(word: bytes, most: int, text: str) -> None:
    assert printable(word, most) == text


def test_a_pattern_is_not_longer_than_it_may_be() -> None:
    assert glob_of(b"a" * LONGEST_PATTERN).matches(b"a" * LONGEST_PATTERN)
    with pytest.raises(CommandError, match="65536"):
        glob_of(b"a" * (LONGEST_PATTERN + 1))
