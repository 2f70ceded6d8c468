"""The measurement of bulk work: replies are read and compared, time is read, ratios are within a round."""

import io
import os
import time

import pytest

from perf.bulk import LEAST_ENTRIES, NAMES, Data, Row, figures, rows, run, turn
from perf.bulk_servers import Server, cpu_ns, read_http, read_resp, resp, stat_ns, texts
from perf.rivals import RIVALS

REDIS = RIVALS[-1]


def test_a_response_is_read_to_its_end() -> None:
    file = io.BytesIO(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 204 No Content\r\nETag: 1\r\n\r\n"
    )
    assert (read_http(file), read_http(file), file.read()) == (b"ok", b"", b"")


def test_an_error_in_http_is_raised() -> None:
    with pytest.raises(RuntimeError, match="507"):
        read_http(io.BytesIO(b"HTTP/1.1 507 Full\r\ncontent-length: 1\r\n\r\nx"))


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"+OK\r\n", b"OK"),
        (b":12\r\n", 12),
        (b"$-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
        (b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$-1\r\n", [b"0", [b"a", None]]),
        (b"*0\r\n", []),
    ],
)
def test_a_reply_in_resp_is_read_to_its_end(sent: bytes, reply: object) -> None:
    file = io.BytesIO(sent)
    assert (read_resp(file), file.read()) == (reply, b"")


@pytest.mark.parametrize("sent", [b"-ERR no\r\n", b"", b"?1\r\n"])
def test_what_is_no_reply_in_resp_is_raised(sent: bytes) -> None:
    with pytest.raises(RuntimeError, match="Redis replied"):
        read_resp(io.BytesIO(sent))


def test_a_command_in_resp_is_a_reply_in_resp() -> None:
    command = read_resp(io.BytesIO(resp(["SET", "é", b"\r\n"])))
    assert command == [b"SET", "é".encode(), b"\r\n"]
    assert texts([*command, 1, [None]]) == ["SET", "é", "\r\n", 1, [None]]


def test_ticks_of_stat_are_nanoseconds() -> None:
    fields = ["S", *map(str, range(4, 50))]  # of proc(5), from the third on
    fields[11:13] = "30", "12"
    expected = 42 * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert stat_ns(f"7 (a name) with) {' '.join(fields)}\n") == expected


def test_cpu_time_is_that_of_the_process() -> None:
    begin, until = cpu_ns(os.getpid()), time.process_time() + 0.1
    while time.process_time() < until:
        pass
    time.sleep(0.01)
    assert cpu_ns(os.getpid()) > begin


def test_ratios_are_made_within_a_round() -> None:
    assert figures("a row", [2_000_000, 9_000_000, 8_000_000], [4_000_000, 3_000_000, 8_000_000]) == {
        "row": "a row",
        "n": 3,
        "fastkv_ms": 8.0,
        "redis_ms": 4.0,
        "ratio": {"median": 1.0, "least": 0.5, "greatest": 3.0},
    }


class Idle(Server):
    """One that has nothing to say."""

    def __init__(self) -> None:
        self.name, self.pid, self.asked = "idle", os.getpid(), list[str]()

    def ask(self, *words: str) -> object:
        self.asked += words
        return "OK"

    def transaction(self, commands: object) -> list[object]:
        return []

    def put(self, key: str, value: bytes) -> None:
        pass

    def get(self, key: str) -> bytes | None:
        return None


def test_a_turn_has_a_before_and_an_after() -> None:
    server = Idle()
    row = Row(
        "a row",
        run=lambda server: server.ask("work"),
        right="OK",
        before=lambda server: server.ask("prepare"),
        after=lambda server: server.ask("restore"),
    )
    assert turn(row, server) >= 0
    assert server.asked == ["prepare", "work", "restore"]


def test_a_wrong_reply_is_raised() -> None:
    with pytest.raises(RuntimeError, match="idle gave a wrong reply to a row: OK"):
        turn(Row("a row", run=lambda server: server.ask("work"), right="else"), Idle())


def test_every_pattern_matches_something_in_the_smallest_store() -> None:
    data = Data(LEAST_ENTRIES)
    assert {len(key) for key in (*data.keys, *data.absent)} == {16}
    assert not data.known & {*data.absent}
    matched = {row.name: row.right for row in rows(data) if row.name.startswith("KEYS")}
    for name, right in matched.items():
        assert isinstance(right, list)
        begin, _, end = name.removeprefix("KEYS ").replace("prefix", "key:000000012").partition("*")
        assert right == [key for key in data.keys if key.startswith(begin) and key.endswith(end)] != []


@pytest.mark.skipif(
    REDIS.version() is None, reason=f"there is no {REDIS.program} (Debian package {REDIS.package})"
)
def test_a_short_run() -> None:
    measured = list(run(LEAST_ENTRIES, 1, NAMES))
    assert [row["row"] for row in measured] == NAMES
    assert all(row["n"] == 1 and row["ratio"]["least"] > 0 for row in measured)
