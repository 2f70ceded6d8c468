"""JSON in and out."""

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.commands.replies import OK, CommandError, Reply, Status
from fastkv.jsonwire import InexactError, answer, load, load_exactly, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'["GET","k"]', [b"GET", b"k"]),
        (b'["SET","k",""]', [b"SET", b"k", b""]),
        (b'["SET","\\u0000\\ud83d\\ude00","\\u00e9"]', [b"SET", b"\0\xf0\x9f\x98\x80", b"\xc3\xa9"]),
        (b'["SET","k",5,true,false,-7]', [b"SET", b"k", b"5", b"true", b"false", b"-7"]),
        (
            b'["SET",18446744073709551615,-9223372036854775808]',
            [b"SET", b"18446744073709551615", b"-9223372036854775808"],
        ),
    ],
)
def test_a_command_is_its_words(text: bytes, words: list[bytes]) -> None:
    assert words_of(load(text)) == words
    assert words_of(load_exactly(text)) == words


@pytest.mark.parametrize(
    "literal",
    [b"1.50", b"1e+21", b"1E5", b"-0.0", b"123456789012345678901234567890", b"0.1", b"10000000000000000.5"],
)
def test_a_number_is_kept_as_it_was_written(literal: bytes) -> None:
    text = b'["SET","k",%b]' % literal
    with pytest.raises(InexactError):
        words_of(load(text))
    assert words_of(load_exactly(text)) == [b"SET", b"k", literal]


@pytest.mark.parametrize("text", [b"", b"[", b'["GET"', b'{"a":1}x', b"NaN", b'["\xff"]', b'["\\ud800"]'])
def test_what_is_no_json_is_an_error(text: bytes) -> None:
    with pytest.raises(CommandError, match="not valid JSON"):
        load(text)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b"1", b'"GET"', b"null", b'["GET",null]', b'["GET",["k"]]', b'["GET",{}]']
)
def test_what_is_no_command_is_an_error(text: bytes) -> None:
    with pytest.raises(CommandError, match="a command is an array"):
        words_of(load(text))


def test_deep_nesting_is_an_error_in_the_exact_reader_too() -> None:
    with pytest.raises(CommandError):
        load_exactly(b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(CommandError):
        words_of(load_exactly(b'["\\ud800", 1.5]'))


@pytest.mark.parametrize(
    ("reply", "plain", "encoded"),
    [
        (None, {"result": None}, {"result": None}),
        (2**63 - 1, {"result": 2**63 - 1}, {"result": 2**63 - 1}),
        (OK, {"result": "OK"}, {"result": "OK"}),
        (b"OK", {"result": "OK"}, {"result": "T0s="}),
        (Status(b"PONG"), {"result": "PONG"}, {"result": "UE9ORw=="}),
        ("é".encode(), {"result": "é"}, {"result": "w6k="}),
        (b"\xff", {"result": "/w==", "encoding": "base64"}, {"result": "/w=="}),
        (
            [b"a", b"\xff", 1, [None, b""]],
            {"result": ["YQ==", "/w==", 1, [None, ""]], "encoding": "base64"},
            {"result": ["YQ==", "/w==", 1, [None, ""]]},
        ),
        (CommandError("ERR no"), {"error": "ERR no"}, {"error": "ERR no"}),
        (
            [CommandError("ERR no"), b"a"],
            {"result": [{"error": "ERR no"}, "a"]},
            {"result": [{"error": "ERR no"}, "YQ=="]},
        ),
    ],
)
def test_a_reply_in_json(reply: Reply, plain: dict[str, Any], encoded: dict[str, Any]) -> None:
    assert answer(reply) == plain
    assert answer(reply, in_base64=True) == encoded
    assert orjson.loads(orjson.dumps(answer(reply))) == plain


@given(st.lists(st.one_of(st.text(), st.integers(-(2**63), 2**64 - 1), st.booleans()), min_size=1))
def test_words_survive_json(words: list[str | int | bool]) -> None:
    expected = [
        str(word).lower().encode() if isinstance(word, bool) else str(word).encode() for word in words
    ]
    assert words_of(load(orjson.dumps(words))) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_survives_as_a_number(number: float) -> None:
    (word,) = words_of(load_exactly(orjson.dumps([number])))
    assert math.isclose(float(word), number, rel_tol=0.0)
