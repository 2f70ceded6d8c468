"""Queries and escapes, right and wrong."""

from urllib.parse import quote_from_bytes, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.http.request import HttpError
from fastkv.http.responses import is_plain
from fastkv.http.urlform import decode_percent, form_pairs, form_values, key_of


@pytest.mark.parametrize(
    ("query", "key", "plain"),
    [
        (b"key=name", b"name", True),
        (b"key=key:0_0-1.~/?@!", b"key:0_0-1.~/?@!", True),
        (b"key=a+b", b"a b", False),
        (b"key=%41%7a", b"Az", False),
        (b"key=%00%ff", b"\0\xff", False),
        (b"key=%2B%26%3D%25", b"+&=%", False),
        (b"key=a%22b", b'a"b', False),
        (b"key=%5c%5B%7D%7C", b"\\[}|", False),
        (b"key=a=b", b"a=b", False),
        (b"key==", b"=", False),
        (b"x=1&key=a", b"a", False),
        (b"key=a&x=%zz&%zz=1&&x", b"a", False),
        (b"k%65y=a", b"a", False),
        (b"Key=b&key=a", b"a", False),
    ],
)
def test_keys(query: bytes, key: bytes, plain: bool) -> None:
    assert key_of(query) == (key, plain)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"", "Key parameter is required."),
        (b"key", "Key parameter is required."),
        (b"key=", "Key parameter is required."),
        (b"name", "Key parameter is required."),
        (b"kex=a", "Key parameter is required."),
        (b"key=&x=1", "Key parameter is required."),
        (b"xkey=a", "Key parameter is required."),
        (b"key=a&key=a", "Key parameter is repeated."),
        (b"key=&key=a", "Key parameter is repeated."),
        (b"key=a&k%65y=b", "Key parameter is repeated."),
        (b"key=%zz", "A percent escape in the target is malformed."),
        (b"key=%", "A percent escape in the target is malformed."),
        (b"key=%4", "A percent escape in the target is malformed."),
        (b"key=a%4g", "A percent escape in the target is malformed."),
    ],
)
def test_refused_keys(query: bytes, message: str) -> None:
    with pytest.raises(HttpError) as caught:
        key_of(query)
    assert (caught.value.status, caught.value.message, caught.value.close) == (400, message, False)


def test_values_in_order() -> None:
    assert form_values(b"a=1&b=2&a=%33&a&c", b"a") == [b"1", b"3", b""]
    assert form_values(b"a=1", b"b") == []


@given(st.binary(min_size=1))
def test_any_key_comes_back(key: bytes) -> None:
    assert key_of(b"key=" + quote_plus(key).encode())[0] == key
    assert decode_percent(quote_from_bytes(key).encode()) == key


@given(st.binary(min_size=1))
def test_a_plain_key_is_plain(raw: bytes) -> None:
    try:
        key, plain = key_of(b"key=" + raw)
    except HttpError:
        return
    if plain:
        assert key == raw
        assert is_plain(raw.decode(), raw)
        assert decode_percent(raw) == raw


def test_form_pairs_are_all_parameters_in_order() -> None:
    assert form_pairs(b"") == []
    assert form_pairs(b"EX=60&NX&a+b=%2B+c&x=") == [
        (b"EX", b"60"),
        (b"NX", None),
        (b"a b", b"+ c"),
        (b"x", b""),
    ]
    with pytest.raises(HttpError):
        form_pairs(b"a=%zz")
