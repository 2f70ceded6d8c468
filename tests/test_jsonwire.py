"""JSON in and out."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.commands.replies import OK, CommandError, Reply, Status
from fastkv.jsonwire import NOT_TEXT, InexactError, answer, load, load_exactly, words_of


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
    [
        b"1.50", b"1e+21", b"1E5", b"-0", b"0", b"-0.0", b"123456789012345678901234567890", b"0.1", b"1e-400",
        b"10000000000000000.5",
    ],
)  # fmt: skip
def test_a_number_is_kept_as_it_was_written(literal: bytes) -> None:
    text = b'["SET","k",%b]' % literal
    with pytest.raises(InexactError):
        words_of(load(text))
    assert words_of(load_exactly(text)) == [b"SET", b"k", literal]


@pytest.mark.parametrize(
    "literal",
    [b"1e309", b"-1e309", b"1E+400", b"9" * 310, b"-" + b"9" * 5000, b"9" * 310 + b".5e+7", b"1e99999999999"],
)
def test_a_number_beyond_a_double_is_kept_as_well(literal: bytes) -> None:
    text = '["é😀",true,1,'.encode() + literal + b"]"
    assert words_of(load(text)) == ["é😀".encode(), b"true", b"1", literal]
    assert load(b'{"a":[%b,"%b"]}' % (literal, literal)) == {"a": [literal, literal.decode()]}


_NO_JSON = (
    b"", b"[", b'["GET"', b'{"a":1}x', b"NaN", b"[Infinity]", b"[-Infinity]", b'["\xff"]', b'["\\ud800"]',
    b'["\\udc00"]', b'["\\ud800\\u0041"]', b'["\\\\\\ud800"]', b'["\\x41"]', b'["a\nb"]', b"\xef\xbb\xbf[1]",
    b"[01]", b"[+1]", b"[1.]", b"[.5]", b"[1e]", b"[-]", b"[0x1]", b"[1,]", b"[1 2]", b'{"a"}', b"{1:2}",
    b"[1]\x0b", b"'a'", b"[\xc2\xa01]", b"[1]\0",
)  # fmt: skip


@pytest.mark.parametrize("text", _NO_JSON)
def test_what_is_no_json_is_an_error(text: bytes) -> None:
    with pytest.raises(CommandError, match="not valid JSON"):
        load(text)
    with pytest.raises(CommandError, match="not valid JSON"):
        load_exactly(text)


@pytest.mark.parametrize("text", _NO_JSON)
def test_a_number_beyond_a_double_does_not_let_it_in(text: bytes) -> None:
    for mixed in (b"[1e309,%b]" % text, b'{"a":1e309,"b":%b}' % text, b"1e309" + text):
        if mixed != b"1e309":
            with pytest.raises(CommandError, match="not valid JSON"):
                load(mixed)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda part: st.lists(part) | st.dictionaries(st.text(), part)
    )
)
def test_both_readers_read_alike(item: Any) -> None:
    for text in (orjson.dumps(item), json.dumps(item).encode(), json.dumps(item, indent=1).encode()):
        assert load_exactly(text) == load(text) == item


@given(st.text(alphabet='[]{}",:\\u0dD8cC1eE.-+ \n\ttrufalsen', max_size=30))
def test_both_readers_refuse_alike(text: str) -> None:
    """Of numbers within a double."""
    raw = text.encode()
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "infinity" in str(error):
            return
        with pytest.raises(CommandError):
            load_exactly(raw)
    else:
        load_exactly(raw)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b"1", b'"GET"', b"null", b'["GET",null]', b'["GET",["k"]]', b'["GET",{}]']
)
def test_what_is_no_command_is_an_error(text: bytes) -> None:
    with pytest.raises(CommandError, match="a command is an array"):
        words_of(load(text))


def test_deep_nesting_is_an_error_in_the_exact_reader_too() -> None:
    for deep in (b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000):
        with pytest.raises(CommandError):
            load_exactly(deep)
        with pytest.raises(CommandError):
            load(b"[1e309,%b]" % deep)


@pytest.mark.parametrize(
    ("reply", "plain", "encoded"),
    [
        (None, {"result": None}, {"result": None}),
        (2**63 - 1, {"result": 2**63 - 1}, {"result": 2**63 - 1}),
        (OK, {"result": "OK"}, {"result": "OK"}),
        (b"OK", {"result": "OK"}, {"result": "T0s="}),
        (Status(b"PONG"), {"result": "PONG"}, {"result": "UE9ORw=="}),
        ("é".encode(), {"result": "é"}, {"result": "w6k="}),
        (b"\xff", {"error": NOT_TEXT, "result_base64": "/w=="}, {"result": "/w=="}),
        (
            [b"a", b"\xff", 1, [None, b""]],
            {"error": NOT_TEXT, "result_base64": ["YQ==", "/w==", 1, [None, ""]]},
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
    text = orjson.dumps(words)
    expected = [
        str(word).lower().encode() if isinstance(word, bool) else str(word).encode() for word in words
    ]
    assert words_of(load_exactly(text)) == expected
    if not any(word == 0 and type(word) is int for word in words):
        assert words_of(load(text)) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_survives_as_a_number(number: float) -> None:
    (word,) = words_of(load_exactly(orjson.dumps([number])))
    assert math.isclose(float(word), number, rel_tol=0.0)
