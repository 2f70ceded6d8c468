"""Hosts and origins: what means the same is the same, and what is none is None."""

import pytest

from fastkv.names import is_local_name, is_name, may_be_loopback, parse_origin, split_authority

AUTHORITIES: list[tuple[str, tuple[str, int | None] | None]] = [
    ("a", ("a", None)),
    ("A.Example:80", ("a.example", 80)),
    ("a.example.", ("a.example", None)),
    ("a.example.:1", ("a.example", 1)),
    ("a:", ("a", None)),
    ("a:0", ("a", 0)),
    ("a:65535", ("a", 65535)),
    ("a:65536", None),
    ("127.0.0.1:1", ("127.0.0.1", 1)),
    ("127.1", ("127.1", None)),
    ("[::1]:1", ("::1", 1)),
    ("[0:0::1]", ("::1", None)),
    ("evil%2eexample", ("evil.example", None)),
    (".below.example", (".below.example", None)),
    ("", None),
    (":1", None),
    ("a:b", None),
    ("a:1:2", None),
    ("::1", None),
    ("a b", None),
    ("a/b", None),
    ("u@a", None),
    ("[::1", None),
    ("a[::1]", None),
]


@pytest.mark.parametrize(("authority", "parts"), AUTHORITIES)
def test_authorities(authority: str, parts: tuple[str, int | None] | None) -> None:
    assert split_authority(authority) == parts


ORIGINS: list[tuple[str, str | None]] = [
    ("http://a", "http://a"),
    ("HTTP://A:80", "http://a"),
    ("http://a:443", "http://a:443"),
    ("https://a:443", "https://a"),
    ("https://a.example:8443", "https://a.example:8443"),
    ("http://[0::1]:7171", "http://[::1]:7171"),
    ("http://127.0.0.1:7171", "http://127.0.0.1:7171"),
    ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ("null", None),
    ("", None),
    ("*", None),
    ("a", None),
    ("//a", None),
    ("http:a", None),
    ("http://", None),
    ("http://a/", None),
    ("http://a?b", None),
    ("http://a#b", None),
    ("http://u@a", None),
    ("http://a b", None),
    ("http://a, http://b", None),
    ("http://a\\b", None),
    ("http://é", None),
    ("http://a%2fb", None),
    ("http://a:99999", None),
    ("http://-a", None),
    ("http://a..b", None),
]


@pytest.mark.parametrize(("text", "origin"), ORIGINS)
def test_origins(text: str, origin: str | None) -> None:
    assert parse_origin(text) == origin
    if origin is not None:
        assert parse_origin(origin) == origin


def test_kinds_of_hosts() -> None:
    assert all(map(is_name, ("a", "a.b", "a_b-c.d", "127.0.0.1", "::1", "xn--bcher-kva.example")))
    assert not any(map(is_name, ("", ".", "a.", ".a", "a..b", "a b", "é", "a" * 254, "*.a")))
    assert all(map(is_local_name, ("localhost", "a.localhost", "a.b.localhost")))
    assert not any(map(is_local_name, ("xlocalhost", "localhost.a", "", "local")))
    assert all(map(may_be_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost", "any.name")))
    assert not any(map(may_be_loopback, ("0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "128.0.0.1")))
