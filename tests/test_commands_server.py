"""What is not about entries: what the server tells of itself and of its commands."""

from __future__ import annotations

import pytest
from commands_helpers import UNIX_NOW_MS, Asked, error

from fastkv import __version__
from fastkv.commands.replies import Status
from fastkv.commands.table import COMMANDS


def test_time_is_unix_time(asked: Asked) -> None:
    asked.clock.now_ms += 123
    assert asked.run("TIME") == [b"%d" % (UNIX_NOW_MS // 1000), b"123000"]


def test_info_tells_the_store_in_sections(asked: Asked) -> None:
    asked.run("SET a 1")
    told = asked.run("INFO")
    assert isinstance(told, bytes)
    lines = told.decode().split("\r\n")
    assert [line for line in lines if line.startswith("#")] == [
        "# Server",
        "# Memory",
        "# Stats",
        "# Keyspace",
    ]
    assert {f"fastkv_version:{__version__}", "maxmemory:1048576", "entries:1", "db0:keys=1"} <= set(lines)


@pytest.mark.parametrize(
    ("sections", "headings"),
    [
        ("memory", [b"# Memory"]),
        ("MEMORY server", [b"# Server", b"# Memory"]),
        ("all", [b"# Server", b"# Memory", b"# Stats", b"# Keyspace"]),
        ("nonsense", []),
    ],
)
def test_info_tells_what_is_asked_for(asked: Asked, sections: str, headings: list[bytes]) -> None:
    told = asked.run(f"INFO {sections}")
    assert isinstance(told, bytes)
    assert [line for line in told.split(b"\r\n") if line.startswith(b"#")] == headings


def test_command_tells_the_table(asked: Asked) -> None:
    count = len(COMMANDS)
    assert asked.run("COMMAND COUNT") == count
    for text in ("COMMAND", "COMMAND LIST", "COMMAND INFO"):
        told = asked.run(text)
        assert isinstance(told, list)
        assert len(told) == count
    get = [b"get", 2, [Status(b"readonly")], 1, 1, 1]
    mset = [b"mset", -3, [Status(b"write")], 1, -1, 2]
    ping = [b"ping", -1, [], 0, 0, 0]
    assert asked.run("COMMAND INFO gEt mset foo ping") == [get, mset, None, ping]


def test_every_command_says_what_it_does(asked: Asked) -> None:
    told = asked.run("COMMAND DOCS")
    assert isinstance(told, list)
    assert len(told) == 2 * len(COMMANDS)
    for documented in told[1::2]:
        assert isinstance(documented, list)
        assert isinstance(documented[1], bytes)
        assert documented[1].endswith(b".")
    assert asked.run("COMMAND DOCS nonsense") == []


def test_there_is_one_database(asked: Asked) -> None:
    assert asked.run("SELECT 0") == b"OK"
    assert error(asked.run("SELECT 1")) == "ERR DB index is out of range"
