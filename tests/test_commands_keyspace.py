"""All keys there are: walks that find each of them, and bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from commands_helpers import Asked, error

from fastkv.commands import keyspace

if TYPE_CHECKING:
    from fastkv.commands.replies import Reply
    from fastkv.store import Page


def put(asked: Asked, count: int) -> list[bytes]:
    keys = [b"key:%d" % i for i in range(count)]
    for key in keys:
        asked.store.put(key, b"value", asked.clock)
    return keys


def walk(asked: Asked, options: str) -> list[bytes]:
    """All that SCAN returns, call by call, to a client that keeps the cursor in a double."""
    found: list[bytes] = []
    cursor, calls = b"0", 0
    while cursor != b"0" or not calls:
        reply: Reply = asked.run(f"SCAN {cursor.decode()} {options}")
        assert isinstance(reply, list)
        assert isinstance(reply[0], bytes)
        assert isinstance(reply[1], list)
        cursor, calls = b"%d" % float(reply[0]), calls + 1
        for key in reply[1]:
            assert isinstance(key, bytes)
            found.append(key)
    return found


@pytest.mark.parametrize("count", [1, 7, 1000, 9_223_372_036_854_775_807])
def test_a_walk_finds_every_key_once(asked: Asked, count: int) -> None:
    keys = put(asked, 600)
    assert sorted(walk(asked, f"COUNT {count}")) == sorted(keys)
    assert sorted(walk(asked, f"COUNT {count} MATCH *7")) == sorted(key for key in keys if key.endswith(b"7"))


def test_a_call_tells_no_more_than_it_is_asked_for(asked: Asked) -> None:
    put(asked, 600)
    for options, most in (("", 10), ("COUNT 25", 25)):
        reply = asked.run(f"SCAN 0 {options}")
        assert isinstance(reply, list)
        assert isinstance(reply[1], list)
        assert 0 < len(reply[1]) <= most
        assert reply[0] != b"0"


def test_keys_are_told_as_far_as_a_reply_goes(asked: Asked) -> None:
    keys = put(asked, 600)
    told = asked.run("KEYS *")
    assert isinstance(told, list)
    assert set(told) == set(keys)
    assert len(told) == len(keys)
    for i in range(210):
        asked.store.put(b"%099d" % i, b"", asked.clock)
    assert error(asked.run("KEYS 0*")).startswith("ERR the reply would take")
    assert asked.counted() == {"REPLY_TOO_LONG": 1}


@pytest.mark.parametrize("growing", [False, True])
def test_a_key_that_is_met_twice_is_told_once(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, *, growing: bool
) -> None:
    """While KEYS goes through them, keys are removed and put anew, or pages are split."""
    monkeypatch.setattr(keyspace, "_STEP_ENTRIES", 50)
    keys = put(asked, 600)
    added: set[bytes] = set()
    met: list[bytes] = []
    scan = asked.store.scan_keys

    def scan_keys(*arguments: Any) -> Page[bytes]:
        page = scan(*arguments)
        met.extend(page.found)
        if len(met) < 3000:
            if growing:
                new = {b"added:%d" % number for number in range(len(added), len(added) + 60)}
                added.update(new)
                for key in new:
                    asked.store.put(key, b"", asked.clock)
            for key in keys[::2]:
                asked.store.delete(key, asked.clock)
            for key in reversed(keys[::2]):  # some get the slots of others
                asked.store.put(key, b"", asked.clock)
        return page

    monkeypatch.setattr(asked.store, "scan_keys", scan_keys)
    told = asked.run("KEYS *")
    assert isinstance(told, list)
    assert len(met) > len(set(met))
    assert len(told) == len(set(map(bytes, told)))  # type: ignore[arg-type]
    assert set(keys) - set(keys[::2]) <= set(told) <= {*keys, *added}


def test_keys_are_looked_for_among_so_many_and_no_more(asked: Asked) -> None:
    keys = put(asked, 5000)
    told = asked.run("KEYS *7")
    assert isinstance(told, list)
    assert set(told) == {key for key in keys if key.endswith(b"7")}
    asked.run("SET one 1")
    assert error(asked.run("KEYS nothing")) == (
        "ERR there are 5001 entries; --max-keys allows KEYS 5000; use SCAN"
    )
    assert asked.counted() == {"PUTS": 1, "WALK_TOO_LONG": 1}


def test_the_number_of_entries_is_that_of_the_keys(asked: Asked) -> None:
    put(asked, 600)
    assert asked.run("DBSIZE") == 600
    seen = {asked.run("RANDOMKEY") for _ in range(200)}
    assert len(seen) > 50
    asked.run("FLUSHALL")
    assert (asked.run("DBSIZE"), asked.run("RANDOMKEY")) == (0, None)


def test_a_cursor_that_is_none_is_an_error(asked: Asked) -> None:
    put(asked, 600)
    for cursor in ("1", "x", "-1", "1.0", "1e3", "18446744073709551615", "99999999999999999999", "0" * 21):
        assert error(asked.run(f"SCAN {cursor}")) == "ERR invalid cursor"


def test_leading_zeros_of_a_cursor_say_nothing(asked: Asked) -> None:
    put(asked, 600)
    first = asked.run("SCAN 0")
    assert asked.run("SCAN 00000") == first
    assert isinstance(first, list)
    assert isinstance(first[0], bytes)
    assert asked.run(f"SCAN 000{first[0].decode()}") == asked.run(f"SCAN {first[0].decode()}")


def test_a_pattern_that_is_too_long_is_an_error(asked: Asked) -> None:
    assert "65536" in error(asked.run("KEYS " + "a" * 65_537))
    assert "65536" in error(asked.run("SCAN 0 MATCH " + "a" * 65_537))
