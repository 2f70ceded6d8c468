"""Deadlines by a clock that is moved by hand: to the millisecond, which no Redis can be compared with."""

from __future__ import annotations

import pytest
from commands_helpers import LIMITS, UNIX_NOW_MS, Asked, error

from fastkv.clock import boot_ms
from fastkv.commands.context import NOBODY
from fastkv.commands.execute import Commands
from fastkv.stats import ROW_WORDS


@pytest.mark.parametrize(
    "setting",
    [
        "SET a 1 EX 2",
        "SET a 1 PX 2000",
        f"SET a 1 PXAT {UNIX_NOW_MS + 2000}",
        f"SET a 1 EXAT {UNIX_NOW_MS // 1000 + 2}",
        "SETEX a 2 1",
        "PSETEX a 2000 1",
        "GETEX a EX 2",
        f"GETEX a PXAT {UNIX_NOW_MS + 2000}",
        "EXPIRE a 2",
        "PEXPIRE a 2000",
        f"EXPIREAT a {UNIX_NOW_MS // 1000 + 2}",
        f"PEXPIREAT a {UNIX_NOW_MS + 2000}",
    ],
)
def test_an_entry_lives_to_the_millisecond(asked: Asked, setting: str) -> None:
    asked.run("SET a 1 EX 1000")
    asked.run(setting)
    assert asked.run("PTTL a") == 2000
    assert asked.run("PEXPIRETIME a") == UNIX_NOW_MS + 2000
    asked.clock.now_ms += 1
    assert (asked.run("PTTL a"), asked.run("TTL a")) == (1999, 2)
    asked.clock.now_ms += 1998
    assert (asked.run("PTTL a"), asked.run("TTL a"), asked.run("GET a")) == (1, 0, b"1")
    asked.clock.now_ms += 1
    assert (asked.run("PTTL a"), asked.run("GET a"), asked.run("EXISTS a")) == (-2, None, 0)


@pytest.mark.parametrize(
    "command",
    [
        "INCR a",
        "DECRBY a 2",
        "INCRBYFLOAT a 1",
        "APPEND a x",
        "SETRANGE a 1 x",
        "SET a 2 KEEPTTL",
        "RENAME a b",
    ],
)
def test_what_is_changed_keeps_its_deadline(asked: Asked, command: str) -> None:
    asked.run("SET a 1 PX 500")
    asked.run(command)
    left = [asked.run("PTTL a"), asked.run("PTTL b")]
    assert 500 in left


@pytest.mark.parametrize(
    "command",
    ["SET a 2", "GETSET a 2", "MSET a 2", "SET a 2 GET", "SET a 2 XX", "PERSIST a", "GETEX a PERSIST"],
)
def test_what_is_put_anew_has_none(asked: Asked, command: str) -> None:
    asked.run("SET a 1 PX 500")
    asked.run(command)
    assert asked.run("TTL a") == -1


def test_an_expired_entry_is_as_if_it_had_never_been(asked: Asked) -> None:
    asked.run("SET a 5 PX 10")
    asked.clock.now_ms += 10
    assert asked.run("SET a 1 XX") is None
    assert asked.run("KEYS *") == []
    assert asked.run("SCAN 0 COUNT 100") == [b"0", []]
    assert error(asked.run("RENAME a b")) == "ERR no such key"
    assert asked.run("EXPIRE a 10") == 0
    assert asked.run("GETDEL a") is None
    assert asked.run("INCR a") == 1
    assert asked.run("TTL a") == -1


def test_the_version_stays_where_only_the_deadline_changes(asked: Asked) -> None:
    asked.run("SET a 1")
    before = asked.store.get(b"a", asked.clock)
    for command in ("EXPIRE a 10", "GETEX a EX 20", "PERSIST a"):
        asked.run(command)
        entry = asked.store.get(b"a", asked.clock)
        assert before
        assert entry
        assert entry[2] == before[2]


def test_unix_time_is_that_of_the_machine(asked: Asked) -> None:
    """A moment comes back as it was given, whatever the clocks show in between."""
    commands = Commands(
        asked.store,
        boot_ms,
        [0] * ROW_WORDS,
        limits=LIMITS,
    )
    for moment in range(4_102_444_800_000, 4_102_444_800_100):
        commands.run([b"SET", b"a", b"", b"PXAT", b"%d" % moment], NOBODY)
        assert commands.run([b"PEXPIRETIME", b"a"], NOBODY) == moment
