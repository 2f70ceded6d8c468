"""The core's text against the readable path: what it takes of a body or a target means the same to both."""

import json
import random
from collections.abc import Iterator
from urllib.parse import quote_from_bytes, quote_plus

import orjson
import pytest
from fake import Worker
from fuzz.text import Reference, check_escapes, check_string, mutated_body
from hypothesis import given
from hypothesis import strategies as st

from fastkv import core
from fastkv.core import text
from fastkv.http.request import TARGET_BYTES

pytestmark = pytest.mark.skipif(not core.COMPILED, reason=core.REASON)

BLOCK_BYTES = 16
VERSION = b" HTTP/1.1\r\nHost: a\r\n\r\n"
# Strings of every kind: short, with all that JSON escapes, and of characters of each length in UTF-8.
STRINGS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from('"\\/\b\f\n\r\t\0\x1f\x7f é€😀')))
ALL_LENGTHS = "\x7f\xff\ud7ff\U0010ffff"
ORDINARY = [
    (b'{"key":"k0000000001","value":"' + b"v" * 64 + b'"}', b"k0000000001", b"v" * 64, 0, True),
    (b'{"key": "name", "value": "UltraFastKV"}', b"name", b"UltraFastKV", 0, True),
    (b'\t{\r\n "key" : "a" ,\n"value" : "" ,"ttl" : 1 }\n ', b"a", b"", 1, True),
    (b'{"ttl":10000000000,"value":"b","key":"a"}', b"a", b"b", 10_000_000_000, True),
    (b'{"key":"a","value":"\\"\\\\\\/\\b\\f\\n\\r\\t"}', b"a", b'"\\/\b\f\n\r\t', 0, False),
    (b'{"key":"\\u00e9\\u20AC\\u0000","value":"\\u0041\\/"}', "é€\0".encode(), b"A/", 0, True),
    (b'{"key":"\\uD83D\\ude00","value":"\\uDBFF\\uDFFF"}', "😀".encode(), "\U0010ffff".encode(), 0, True),
    (f'{{"key":"é","value":"{ALL_LENGTHS}"}}'.encode(), "é".encode(), ALL_LENGTHS.encode(), 0, True),
    ('{"key":"é\\n","value":"ab\\u00e9é\\tc"}'.encode(), "é\n".encode(), "abéé\tc".encode(), 0, False),
    (b'{"key":"","key":"a","value":"x","value":"y\\n","value":"z"}', b"a", b"z", 0, True),
    (b'{"key":"a","ttl":5,"value":"x\\n","ttl":6}', b"a", b"x\n", 6, False),
]
DECLINED = [
    b"", b" ", b"{", b"{}", b"[]", b"null", b'"key"', b'{"key":"a"}', b'{"value":"a"}',
    b'{"key":"","value":"a"}', b'{"key":"a","value":"b"', b'{"key":"a","value":"b"}}',
    b'{"key":"a","value":"b"}\0', b'{"key":"a","value":"b",}', b'{"key":"a","value":"b"}x',
    b'\xef\xbb\xbf{"key":"a","value":"b"}', b'\x0b{"key":"a","value":"b"}', b'{"key":"a";"value":"b"}',
    b'{"key":"a" "value":"b"}', b'{"key" "a","value":"b"}', b'{,"key":"a","value":"b"}',
    b"{'key':'a','value':'b'}", b'{key:"a","value":"b"}', b'{"key":"a","value":1}',
    b'{"key":null,"value":"b"}', b'{"k\\u0065y":"a","value":"b"}', b'{"Key":"a","value":"b"}',
    b'{"key":"a","value":"b","x":1}', b'{"key":"a","values":"b"}', b'{"key":"a","valu":"b"}',
    b'{"key ":"a","value":"b"}', b'{"key":"a\tb","value":""}', b'{"key":"a\\n\xe9","value":"b"}',
]  # fmt: skip
NO_STRINGS = [
    b"\n", b"\0", b"\x1f", b"\\x", b"\\u12", b"\\u12g4", b"\\U0041", b"\\", b"\\u",
    b"\\ud800", b"\\udc00", b"\\udc00\\ud800", b"\\ud800\\ud800", b"\\ud800\\n", b"\\ud800x", b"\\ud800\\u",
    b"\\udc00\\udc00", b"\xc0\xaf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xe9", b"\xe2\x82",
]  # fmt: skip
NO_TTLS = [
    b"", b"0", b"-1", b"+1", b"01", b"1.0", b"1e3", b"1E3", b'"1"', b"null", b"true", b"1 2", b"1x", b"[1]",
    b"0x10", b".5", b"1_0", b"10000000001", b"99999999999999999999999999", b"18446744073709551617",
]  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    """The readable path, over a store of its own."""
    worker = Worker(max_key_bytes=4096, max_value_bytes=64 << 10, memory_bytes=8 << 20)
    yield Reference(worker)
    worker.verify()


# -- bodies of PUT -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "key", "value", "ttl_seconds", "plain"), ORDINARY)
def test_ordinary_bodies(
    reference: Reference, body: bytes, key: bytes, value: bytes, ttl_seconds: int, plain: bool
) -> None:
    assert text.parsed_put(body) == (key, value, ttl_seconds, plain)
    reference.check_put(body)


@pytest.mark.parametrize("body", DECLINED)
def test_declined_bodies(body: bytes) -> None:
    assert text.parsed_put(body) is None


@pytest.mark.parametrize("inside", NO_STRINGS)
def test_declined_strings(inside: bytes) -> None:
    for body in (
        b'{"key":"a","value":"%b"}',
        b'{"value":"a","key":"a%b"}',
        b'{"key":"a","value":"\\n\xc3\xa9%ba"}',
    ):
        assert text.parsed_put(body % b"") is not None
        assert text.parsed_put(body % inside) is None


@pytest.mark.parametrize("ttl", NO_TTLS)
def test_declined_ttls(ttl: bytes) -> None:
    assert text.parsed_put(b'{"key":"a","value":"b","ttl":1}') is not None
    assert text.parsed_put(b'{"key":"a","value":"b","ttl":%b}' % ttl) is None
    assert text.parsed_put(b'{"ttl":%b,"key":"a","value":"b"}' % ttl) is None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("key"), STRINGS),
            st.tuples(st.just("value"), STRINGS),
            st.tuples(st.just("ttl"), st.integers(1, 10_000_000_000)),
        )
    ),
    st.permutations([("key", "a"), ("value", "é\n")]),
    st.sampled_from(["", " ", "\t\r\n  "]),
    st.sampled_from(["as it is", "in ASCII", "orjson"]),
)
def test_every_way_to_write_a_body(
    reference: Reference,
    more: list[tuple[str, str | int]],
    needed: list[tuple[str, str]],
    space: str,
    way: str,
) -> None:
    """A body with only known members is never declined; of members with one name the last counts."""

    def written(item: str | int) -> str:
        return (
            orjson.dumps(item).decode()
            if way == "orjson"
            else json.dumps(item, ensure_ascii=way == "in ASCII")
        )

    members = [*needed, *more]
    item = dict(members)
    inside = f"{space},{space}".join(f"{written(name)}{space}:{space}{written(of)}" for name, of in members)
    body = f"{space}{{{space}{inside}{space}}}{space}".encode()
    taken = text.parsed_put(body)
    if not item["key"]:
        assert taken is None
        return
    assert taken is not None
    assert taken[:3] == (str(item["key"]).encode(), str(item["value"]).encode(), item.get("ttl", 0))
    reference.check_put(body)


@pytest.mark.parametrize("body", [body for body, *_ in ORDINARY])
def test_bodies_that_are_cut_off_or_have_another_byte(reference: Reference, body: bytes) -> None:
    for end in range(len(body)):
        reference.check_put(body[:end])
    rng = random.Random(body)
    for at in range(len(body)):
        for byte in {*b'"\\{}:,u0 \n\0\x1f\x7f\x80\xc0\xed\xf4', rng.randrange(256)}:
            reference.check_put(body[:at] + bytes([byte]) + body[at + 1 :])
            reference.check_put(body[:at] + bytes([byte]) + body[at:])
        reference.check_put(body[:at] + body[at + 1 :])


@given(st.binary(max_size=80), st.integers(0, 2**32))
def test_anything(reference: Reference, noise: bytes, seed: int) -> None:
    reference.check_put(noise)
    rng = random.Random(seed)
    for _ in range(20):
        reference.check_put(mutated_body(rng))


# -- strings -----------------------------------------------------------------------------------------------


@given(STRINGS)
def test_strings(string: str) -> None:
    check_string(string.encode())


@given(st.binary())
def test_bytes(raw: bytes) -> None:
    check_string(raw)


def test_each_byte_at_each_place_of_the_blocks() -> None:
    for length in (*range(1, BLOCK_BYTES + 3), 2 * BLOCK_BYTES - 1, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 1):
        for at in range(length):
            for byte in (0, 0x1F, 0x20, 0x21, 0x22, 0x5B, 0x5C, 0x5D, 0x7F, 0x80, 0xC2, 0xFF):
                check_string(b"a" * at + bytes([byte]) + b"a" * (length - at - 1))


def test_each_byte_alone_and_each_pair() -> None:
    for first in range(256):
        check_string(bytes([first]))
        for second in range(256):
            check_string(bytes([first, second]))


def test_where_utf_8_begins_and_ends() -> None:
    """The firsts and lasts of RFC 3629, 4, and their neighbours, as characters of three and of four bytes."""
    followers = (0x00, 0x22, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    for first in (0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF):
        for second in followers:
            for third in followers:
                check_string(bytes([first, second, third]))
                for fourth in followers:
                    check_string(bytes([first, second, third, fourth]))


def test_each_character() -> None:
    """Of the 1,114,112 code points one in 61, and the first and the last of each length."""
    for code in (*range(0, 0x110000, 61), 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF):
        if not 0xD800 <= code < 0xE000:
            raw = chr(code).encode()
            check_string(raw)
            escaped = json.dumps(chr(code)).encode()
            assert text.parsed_put(b'{"key":"a","value":%b}' % escaped) == (b"a", raw, 0, text.plain(raw))


# -- targets -----------------------------------------------------------------------------------------------


@given(st.binary(min_size=1))
def test_encoded_keys(reference: Reference, key: bytes) -> None:
    for encoded in (quote_plus(key).encode(), quote_from_bytes(key, "").encode()):
        assert text.query_key(encoded + VERSION) == (key, text.plain(key), len(encoded))
    encoded = quote_from_bytes(key).encode()
    assert text.path_key(encoded + VERSION) == (key, len(encoded))
    assert text.path_key(encoded + b"?ttl=1" + VERSION) == (key, len(encoded))
    reference.check_target(encoded)


@given(st.one_of(st.binary(), st.lists(st.sampled_from([*b'aZ09+%&=?# /:\\"\0\xff4F'])).map(bytes)))
def test_any_target(reference: Reference, raw: bytes) -> None:
    reference.check_target(raw)


def test_each_byte_of_a_target() -> None:
    for byte in range(256):
        for before in (b"", b"a", b"a" * (BLOCK_BYTES - 1), b"a" * BLOCK_BYTES, b"a" * BLOCK_BYTES + b"!"):
            raw = before + bytes([byte]) + b"b"
            is_one = byte in TARGET_BYTES and byte != ord("%")
            in_query = text.query_key(raw + VERSION)
            in_path = text.path_key(raw + VERSION)
            if byte == ord("&"):
                assert in_query == ((before, True, len(before)) if before else None)
            elif is_one:
                assert in_query == (raw.replace(b"+", b" "), True, len(raw))
            elif byte != ord(" ") or not before:
                assert in_query is None
            if is_one and byte != ord("?"):
                assert in_path == (raw, len(raw))
            elif byte not in b" ?" or not before:
                assert in_path is None


@pytest.mark.parametrize("raw", [b"", b" ", b"a", b"%", b"%4 ", b"%zz ", b"a%4", b"%4g ", b"%%41 ", b"a\0 "])
def test_keys_that_do_not_end_or_are_malformed(raw: bytes) -> None:
    assert text.query_key(raw) is None
    assert text.path_key(raw) is None


def test_a_key_that_is_long_is_read_to_its_end() -> None:
    for size in range(1, 5 * BLOCK_BYTES):
        key = b"k" * size
        assert text.query_key(key + b" ") == (key, True, size)
        assert text.query_key(key) is None
        assert text.path_key(key + b"?") == (key, size)


@given(st.one_of(st.binary(), st.lists(st.sampled_from([*b"%%%aF09+g "])).map(bytes)))
def test_percent_escapes(raw: bytes) -> None:
    check_escapes(raw)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        (b"ttl=1", 1),
        (b"ttl=10000000000", 10_000_000_000),
        *((query, None) for query in (
            b"", b"ttl", b"ttl=", b"ttl=0", b"ttl=01", b"ttl=-1", b"ttl=1.5", b"ttl=1e3", b"ttl=10000000001",
            b"ttl=99999999999999999999999", b"ttl=1&x=1", b"ttl=1&ttl=1", b"x=1&ttl=1", b"TTL=1", b"ttl=%31",
        )),
    ],
)  # fmt: skip
def test_ttl_of_a_query(query: bytes, seconds: int | None) -> None:
    assert text.query_ttl(query + VERSION) == (None if seconds is None else (seconds, len(query)))
    for end in range(len(query) + 1):
        assert text.query_ttl(query[:end]) is None


# -- numbers -----------------------------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1), st.integers(0, 64))
def test_numbers(number: int, shift: int) -> None:
    for each in (number, number >> shift, 1 << shift & 2**64 - 1, 10 ** (shift % 20), 10 ** (shift % 20) - 1):
        assert text.decimal(each) == b"%d" % each
        assert text.hexadecimal(each) == b"%x" % each
