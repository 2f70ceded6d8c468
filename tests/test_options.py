"""The kinds of values: what they read, refuse and show."""

from pathlib import Path
from typing import Any

import pytest

from fastkv.options import (
    Choice,
    Hosts,
    Kind,
    Seconds,
    Size,
    SocketPath,
    Switch,
    UnfitError,
    Whole,
    format_size,
)

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30

PORT = Whole(0, 65535)
SHARDS = Whole(1, 4096, power_of_two=True)
SIZE = Size(1, 128 * GB - 1)
BLOCK = Size(4 * KB, MB, power_of_two=True)
WAIT = Seconds(0, 3600)
LEVEL = Choice(("debug", "info"), metavar="LEVEL")
SWITCH, HOSTS, PATH = Switch(), Hosts(), SocketPath()

READ: list[tuple[Kind, Any, Any]] = [
    (PORT, "0", 0),
    (PORT, " 65535 ", 65535),
    (PORT, "+80", 80),
    (PORT, "0080", 80),
    (PORT, 7171, 7171),
    (SHARDS, "1", 1),
    (SHARDS, 4096, 4096),
    (SIZE, "1", 1),
    (SIZE, "1000", 1000),
    (SIZE, "512kb", 512 * KB),
    (SIZE, "256mb", 256 * MB),
    (SIZE, "2gb", 2 * GB),
    (SIZE, "2GB", 2 * GB),
    (SIZE, " 2 Gb ", 2 * GB),
    (SIZE, "1.5gb", 3 * GB // 2),
    (SIZE, "2G", 2 * GB),
    (SIZE, "2GiB", 2 * GB),
    (SIZE, "2gib", 2 * GB),
    (SIZE, "512M", 512 * MB),
    (SIZE, "64KiB", 64 * KB),
    (SIZE, "64KIB", 64 * KB),
    (SIZE, "100k", 100 * KB),
    (SIZE, "1.5 g", 3 * GB // 2),
    (SIZE, "100b", 100),
    (SIZE, "100 B", 100),
    (SIZE, "0.1kb", 102),
    (SIZE, 4096, 4096),
    (SIZE, f"{128 * GB - 1}", 128 * GB - 1),
    (BLOCK, "64kb", 64 * KB),
    (WAIT, "0", 0.0),
    (WAIT, "0.25", 0.25),
    (WAIT, "3600", 3600.0),
    (WAIT, 5, 5.0),
    (WAIT, 0.5, 0.5),
    (LEVEL, "INFO", "info"),
    (SWITCH, "true", True),
    (SWITCH, "Off", False),
    (SWITCH, "1", True),
    (SWITCH, "0", False),
    (SWITCH, False, False),
    (HOSTS, "127.0.0.1", ("127.0.0.1",)),
    (HOSTS, "127.0.0.1, ::1", ("127.0.0.1", "::1")),
    (HOSTS, ["::1", "localhost"], ("::1", "localhost")),
    (HOSTS, ["::1,localhost", "10.0.0.1"], ("::1", "localhost", "10.0.0.1")),
    (HOSTS, ("[::1]", "::1"), ("::1",)),
    (HOSTS, "fe80::1%eth0", ("fe80::1%eth0",)),
    (HOSTS, "cache-1.example.org", ("cache-1.example.org",)),
    (PATH, "run/fastkv.sock", Path("run/fastkv.sock")),
    (PATH, "x" * 107, Path("x" * 107)),
    (PATH, "", None),
    (PATH, None, None),
]

NUMBER = "is not a whole number"
BYTES = "is not a size, such as 1000, 64kb, 512M or 2GiB"
RANGE = "is out of range"
POWER = "is not a power of two"
TIME = "is not a number of seconds"
ADDRESS = "is not an address"

REFUSED: list[tuple[Kind, Any, str]] = [
    (PORT, "", NUMBER),
    (PORT, "http", NUMBER),
    (PORT, "80.0", NUMBER),
    (PORT, "8_0", NUMBER),
    (PORT, "0x50", NUMBER),
    (PORT, "٨٠", NUMBER),
    (PORT, "9" * 5000, NUMBER),
    (PORT, 80.0, NUMBER),
    (PORT, True, NUMBER),
    (PORT, None, NUMBER),
    (PORT, [80], NUMBER),
    (PORT, "-1", RANGE),
    (PORT, 65536, RANGE),
    (SHARDS, "0", RANGE),
    (SHARDS, "3", POWER),
    (SHARDS, 8192, RANGE),
    (SIZE, "", BYTES),
    (SIZE, "mb", BYTES),
    (SIZE, "1.5", BYTES),
    (SIZE, "2i", BYTES),
    (SIZE, "2ib", BYTES),
    (SIZE, "2bb", BYTES),
    (SIZE, "2kk", BYTES),
    (SIZE, "k", BYTES),
    (SIZE, "1\N{KELVIN SIGN}", BYTES),
    (SIZE, "1.5b", BYTES),
    (SIZE, "2tb", BYTES),
    (SIZE, "2mi", BYTES),
    (SIZE, "2 m b", BYTES),
    (SIZE, "1e3", BYTES),
    (SIZE, 1.5, BYTES),
    (SIZE, True, BYTES),
    (SIZE, "0", RANGE),
    (SIZE, "-1mb", RANGE),
    (SIZE, "128gb", RANGE),
    (BLOCK, "6kb", POWER),
    (WAIT, "soon", TIME),
    (WAIT, "5s", TIME),
    (WAIT, "nan", TIME),
    (WAIT, "inf", TIME),
    (WAIT, float("nan"), TIME),
    (WAIT, False, TIME),
    (WAIT, "-1", RANGE),
    (WAIT, 3600.5, RANGE),
    (LEVEL, "loud", "is not known"),
    (LEVEL, 1, "is not known"),
    (SWITCH, "maybe", "is neither true nor false"),
    (SWITCH, 1, "is neither true nor false"),
    (HOSTS, "", ADDRESS),
    (HOSTS, "127.0.0.1,", ADDRESS),
    (HOSTS, [], ADDRESS),
    (HOSTS, 1, ADDRESS),
    (HOSTS, [1], ADDRESS),
    (HOSTS, "999.1.1.1", ADDRESS),
    (HOSTS, "[127.0.0.1]", ADDRESS),
    (HOSTS, "127.0.0.1:80", ADDRESS),
    (HOSTS, "::1::", ADDRESS),
    (HOSTS, "two words", ADDRESS),
    (HOSTS, "-x.org", ADDRESS),
    (HOSTS, "x" * 64, ADDRESS),
    (PATH, "x" * 108, "is too long"),
    (PATH, "a\0b", "is not a path"),
    (PATH, 1, "is not a path"),
]


@pytest.mark.parametrize(("kind", "raw", "value"), READ)
def test_a_value_is_read_and_a_read_value_stays(kind: Kind, raw: Any, value: Any) -> None:
    read = kind.parse(raw)
    assert (read, type(read)) == (value, type(value))
    assert kind.parse(read) == value
    assert kind.parse(kind.show(read)) == value


@pytest.mark.parametrize(("kind", "raw", "problem"), REFUSED)
def test_what_is_no_value_is_refused(kind: Kind, raw: Any, problem: str) -> None:
    with pytest.raises(UnfitError) as caught:
        kind.parse(raw)
    assert caught.value.problem == problem


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        (PORT, "0 to 65535"),
        (Whole(1, 60_000, unit="ms"), "1 to 60000 ms"),
        (SHARDS, "a power of two from 1 to 4096"),
        (SIZE, "1 byte to less than 128gb"),
        (BLOCK, "a power of two from 4kb to 1mb"),
        (WAIT, "0 to 3600 seconds"),
        (LEVEL, "debug or info"),
        (PATH, "a path of at most 107 bytes"),
    ],
)
def test_bounds_are_said_with_their_unit(kind: Kind, allowed: str) -> None:
    assert kind.allowed == allowed


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1, "1"),
        (1000, "1000"),
        (KB, "1kb"),
        (1536, "1536"),
        (1536 * KB, "1536kb"),
        (256 * MB, "256mb"),
        (2 * GB, "2gb"),
    ],
)
def test_a_size_is_shown_exactly(size: int, text: str) -> None:
    assert format_size(size) == text
