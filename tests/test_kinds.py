"""The kinds of settings that say who may speak: what they read, refuse and show."""

from typing import Any

import pytest

from fastkv.kinds import EventClasses, HostNames, Mode, Origins, Secret
from fastkv.options import Kind, UnfitError

ORIGINS, NAMES, SECRET, MODE, EVENTS = Origins(), HostNames(), Secret(), Mode(), EventClasses()

READ: list[tuple[Kind, Any, Any]] = [
    (ORIGINS, "", ()),
    (ORIGINS, [], ()),
    (ORIGINS, ["", " "], ()),
    (ORIGINS, "*", ("*",)),
    (ORIGINS, "HTTP://A:80, https://b", ("http://a", "https://b")),
    (ORIGINS, ["http://a", "http://A", "http://a:80"], ("http://a",)),
    (ORIGINS, ["http://a,https://b", "*"], ("http://a", "https://b", "*")),
    (ORIGINS, ("http://a",), ("http://a",)),
    (NAMES, "", ()),
    (NAMES, "A.b,c:80, .d.e", ("a.b", "c:80", ".d.e")),
    (NAMES, ["[::1]:80", "127.0.0.1"], ("[::1]:80", "127.0.0.1")),
    (SECRET, None, None),
    (SECRET, "!~", "!~"),
    (SECRET, "x" * 1024, "x" * 1024),
    (MODE, "600", "0600"),
    (MODE, " 0660 ", "0660"),
    (MODE, "0777", "0777"),
    (EVENTS, "", ""),
    (EVENTS, "AKE", "AKE"),
    (EVENTS, "Kg$x", "Kg$x"),
]


@pytest.mark.parametrize(("kind", "raw", "value"), READ)
def test_what_is_read(kind: Kind, raw: object, value: object) -> None:
    assert kind.parse(raw) == value
    assert kind.parse(value) == value
    if kind is not SECRET and value:
        assert kind.parse(kind.show(value)) == value


REFUSED: list[tuple[Kind, Any]] = [
    (ORIGINS, "http://a/"),
    (ORIGINS, "http://a,"),
    (ORIGINS, ["http://a", 1]),
    (ORIGINS, 1),
    (ORIGINS, None),
    (NAMES, "a,,b"),
    (NAMES, "*"),
    (NAMES, {"a": 1}),
    (SECRET, ""),
    (SECRET, "a b"),
    (SECRET, "a\n"),
    (SECRET, "x" * 1025),
    (SECRET, 1),
    (SECRET, True),
    (MODE, 0o600),
    (MODE, "0o600"),
    (MODE, "4755"),
    (MODE, "-600"),
    (EVENTS, "A"),
    (EVENTS, "KE"),
    (EVENTS, "AKEn"),
    (EVENTS, "ake"),
    (EVENTS, 1),
]


@pytest.mark.parametrize(("kind", "raw"), REFUSED)
def test_what_is_refused(kind: Kind, raw: object) -> None:
    with pytest.raises(UnfitError) as caught:
        kind.parse(raw)
    if kind is SECRET:
        assert repr(caught.value.shown) == "the token"
        assert SECRET.show("s3cret") == ""
