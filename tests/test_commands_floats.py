"""Long doubles; tests/test_commands_redis.py compares them with those of Redis."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.commands.floats import add, format_float, parse_float
from fastkv.commands.replies import CommandError


@pytest.mark.parametrize(
    ("one", "other", "total"),
    [
        (b"0.1", b"0.2", b"0.3"),
        (b"10.50", b"0.1", b"10.6"),
        (b"5.0e3", b"2.0e2", b"5200"),
        (b"3.0", b"1", b"4"),
        (b"1", b"-1", b"0"),
        (b"-0", b"-0.0", b"0"),
        (b"0x1p-3", b"0", b"0.125"),
        (b"18446744073709551615", b"1", b"18446744073709551616"),
        (b"18446744073709551616", b"1", b"18446744073709551616"),  # 64 bits are full
        (b"1e-17", b"0", b"0.00000000000000001"),
        (b"1e-18", b"0", b"0"),
        (b"-1e-18", b"0", b"0"),
    ],
)
def test_a_sum_is_printed_as_by_redis(one: bytes, other: bytes, total: bytes) -> None:
    assert add(parse_float(one), parse_float(other)) == total


@given(st.fractions(min_value=-(2**60), max_value=2**60, max_denominator=2**40))
def test_what_is_read_is_the_nearest_of_64_bits(exact: Fraction) -> None:
    decimal = b"%d.%b" % (int(exact), f"{abs(exact) % 1 * 10**40 // 1:040d}".encode())
    number = parse_float(b"-" * (exact < 0 and int(exact) == 0) + decimal)
    assert number is not None
    size, power = number
    assert abs(size * Fraction(2) ** power - exact) <= abs(exact) / 2**64 + Fraction(1, 10**40)
    assert abs(size) <= 1 << 64


@given(st.integers(-(2**63), 2**63))
def test_integers_are_printed_as_they_are(number: int) -> None:
    assert format_float((number, 0)) == b"%d" % number


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b"abc",
            b" 1",
            b"1 ",
            b"1\n",
            b"1\0",
            b".",
            b"1e",
            b"nan",
            b"1_0",
            b"0x",
            b"1e4933",
            b"1e-5000",
        ),
        *(b"1e99999999999999999999", b"1e-99999999999999999999", b"0" * 5120, b"\xd9\xa1"),
    ],
)
def test_what_is_no_number_is_an_error(text: bytes) -> None:
    with pytest.raises(CommandError) as raised:
        parse_float(text)
    assert raised.value.text == "ERR value is not a valid float"


def test_what_is_infinite_is_read_and_cannot_be_the_sum() -> None:
    assert parse_float(b"-Infinity") is None
    largest = parse_float(b"1.18973149535723176502e4932")
    for one, other in ((None, (1, 0)), ((1, 0), None), (largest, largest)):
        with pytest.raises(CommandError, match="NaN or Infinity"):
            add(one, other)
