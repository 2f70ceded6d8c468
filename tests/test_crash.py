"""Workers are killed, again and again, while clients write: what was acknowledged holds."""

import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from linearizability import Kind, Operation, by_key, violations
from replies import Reply
from server import Server, in_background, read_reply, running, wait_until

# A reply or a connection that takes longer is a failure.
PATIENCE_SECONDS = 2.0
# A worker that dies younger than that is replaced with a delay, and that is not what is looked at here.
OLD_ENOUGH_SECONDS = 1.1

CRASH_SERVER = str(Path(__file__).parent / "crash_server.py")


class Line:
    """A client's connection; it is opened anew after a loss."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._open = ExitStack()
        self._stream: BinaryIO | None = None
        self._send: Callable[[bytes], None]

    def ask(self, method: str, target: str, body: str = "") -> Reply | None:
        """Send a request; the reply, or None where the connection was lost before it came."""
        raw = body.encode()
        length = f"Content-Length: {len(raw)}\r\n" if raw else ""
        try:
            if self._stream is None:
                connection = self._open.enter_context(self._server.connect(PATIENCE_SECONDS))
                self._stream = self._open.enter_context(connection.makefile("rb"))
                self._send = connection.sendall
            self._send(f"{method} {target} HTTP/1.1\r\nHost: a\r\n{length}\r\n".encode() + raw)
            return read_reply(self._stream)
        except (ConnectionResetError, BrokenPipeError, EOFError):
            self.close()
            return None

    def insist(self, method: str, target: str, body: str = "") -> Reply:
        """Ask until there is a reply."""
        while True:
            reply = self.ask(method, target, body)
            if reply is not None:
                return reply

    def close(self) -> None:
        """Close the connection."""
        self._open.close()
        self._stream = None


def kills(server: Server) -> int:
    """How many deaths the supervisor has noted."""
    return server.log().count("ended: killed by SIGKILL")


def evictions(server: Server) -> int:
    """How many entries were evicted; 0 as well where the worker that is asked dies."""
    line = Line(server)
    try:
        return int(json.loads(line.insist("GET", "/stats").body)["evictions"])
    finally:
        line.close()


def assassin(server: Server, pause_seconds: float) -> Callable[[Callable[[], bool]], None]:
    """A job that kills workers at random, but lets them grow up."""

    def job(stop: Callable[[], bool]) -> None:
        chance = random.Random(1)
        born: dict[int, float] = {}
        while not stop():
            now = time.monotonic()
            born = {pid: born.get(pid, now) for pid in server.workers()}
            grown = [pid for pid, since in born.items() if now - since > OLD_ENOUGH_SECONDS]
            if grown:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(grown), signal.SIGKILL)
            time.sleep(pause_seconds * (0.5 + chance.random()))

    return job


# -- one register for each key -------------------------------------------------------------------------------


def test_each_key_is_a_register_although_workers_die() -> None:
    keys = [f"k{number}" for number in range(5)]
    recorded: list[tuple[str, Operation]] = []
    ids = itertools.count()

    with running(workers=4) as server:

        def client(stop: Callable[[], bool]) -> None:
            chance = random.Random(next(ids))
            line = Line(server)
            own: list[tuple[str, Operation]] = []
            while not stop():
                key, kind = chance.choice(keys), chance.choice([Kind.PUT, Kind.GET, Kind.GET, Kind.DELETE])
                value = str(next(ids))
                start = time.monotonic()
                if kind == Kind.PUT:
                    reply = line.ask("PUT", "/put", f'{{"key":"{key}","value":"{value}"}}')
                elif kind == Kind.GET:
                    reply = line.ask("GET", f"/get?key={key}")
                else:
                    reply = line.ask("DELETE", f"/delete?key={key}")
                end = time.monotonic()
                put = value if kind == Kind.PUT else None
                if reply is None:
                    own.append((key, Operation(kind, put, start)))
                    continue
                assert reply.status in ((200,) if kind == Kind.PUT else (200, 404)), reply
                found = reply.status == 200
                read = str(json.loads(reply.body)["value"]) if kind == Kind.GET and found else put
                own.append((key, Operation(kind, read, start, end, found)))
            line.close()
            recorded.extend(own)

        with in_background(*[client] * 8, assassin(server, 0.2)) as failed:
            wait_until(lambda: failed() or kills(server) >= 25, "the deaths", 60)
        assert kills(server) >= 25
        told = json.loads(server.request("GET", "/stats").body)
        assert (told["evictions"], told["internal_errors"], told["lock_timeouts"]) == (0, 0, 0)
        assert server.stop() == 0

    histories = by_key(recorded)
    assert set(histories) == set(keys)
    for history in histories.values():
        assert len(history) > 500
        assert {operation.kind for operation in history if not operation.outcome_known}
    assert violations(histories) == {}


# -- nothing acknowledged is lost ----------------------------------------------------------------------------


def describe(key: str, number: int, size: int) -> str:
    """A value that says what it is, so that a torn or a foreign one shows."""
    unit = f"{key}:{number};"
    return f"{number},{size},{(unit * (size // len(unit) + 1))[:size]}"


def is_whole(key: str, value: str) -> bool:
    """True for what `describe` made for this key."""
    number, _, rest = value.partition(",")
    return value == describe(key, int(number), int(rest.partition(",")[0]))


def value_of(reply: Reply) -> str | None:
    """The value of a reply to GET."""
    assert reply.status in (200, 404), reply
    return str(json.loads(reply.body)["value"]) if reply.status == 200 else None


class Owner:
    """A client that alone writes its keys, and so knows what each may hold.

    Args:
        server: The server.
        number: Its own.
        keeps_all: Whether the store has room for everything; else any entry may have been evicted.

    Attributes:
        possible: For each key what may stand there: the last acknowledged value (None for nothing), and what
            was under way when the connection was lost.
    """

    def __init__(self, server: Server, number: int, *, keeps_all: bool) -> None:
        self._evicted: set[str | None] = set() if keeps_all else {None}
        self.possible: dict[str, set[str | None]] = {}
        self._line = Line(server)
        # Written once and kept: more of it than the memory holds, where entries may be evicted.
        self._once_size = 20 if keeps_all else 400
        self._name = f"o{number}"
        self._chance = random.Random(number)
        self._numbers = itertools.count()

    def work(self, stop: Callable[[], bool]) -> None:
        """Write and read until told to stop."""
        while not stop():
            choice = self._chance.random()
            key = f"{self._name}-{self._chance.randrange(8)}"
            if choice < 0.5:
                self.put(key)
            elif choice < 0.6:
                self.delete(key)
            elif choice < 0.8:
                self.verify(key)
            elif choice < 0.9:
                self.put(f"{self._name}-once-{next(self._numbers)}", self._once_size)
            else:
                other = f"o{self._chance.randrange(8)}-{self._chance.randrange(8)}"
                reply = self._line.ask("GET", f"/get?key={other}")
                value = value_of(reply) if reply else None
                assert value is None or is_whole(other, value), (other, value)
        self._line.close()

    def put(self, key: str, size: int | None = None) -> None:
        """Write a key."""
        if size is None:
            size = self._chance.randrange(self._chance.choice([300] * 6 + [3000, 20_000]))
        value = describe(key, next(self._numbers), size)
        reply = self._line.ask("PUT", "/put", f'{{"key":"{key}","value":"{value}"}}')
        if reply is None:
            self.possible.setdefault(key, {None}).add(value)
        else:
            assert reply.status == 200, reply
            self.possible[key] = {value, *self._evicted}

    def delete(self, key: str) -> None:
        """Delete a key."""
        possible = self.possible.setdefault(key, {None})
        reply = self._line.ask("DELETE", f"/delete?key={key}")
        if reply is None:
            possible.add(None)
        else:
            assert reply.status in (200, 404), reply
            assert (None in possible) if reply.status == 404 else (possible != {None}), (key, reply)
            self.possible[key] = {None}

    def verify(self, key: str) -> None:
        """Read a key, which must hold what it may hold."""
        possible = self.possible.setdefault(key, {None})
        reply = self._line.ask("GET", f"/get?key={key}")
        if reply is not None:
            value = value_of(reply)
            assert value in possible, (key, value, possible)
            self.possible[key] = {value} | self._evicted


@pytest.mark.parametrize(
    ("deaths", "keeps_all", "settings"),
    [
        (200, True, {"memory": "256mb", "segment_bytes": "16kb", "shards": 4}),
        (60, False, {"memory": "1mb", "max_value_bytes": "128kb"}),
    ],
    ids=["with room for everything", "cleaning and evicting"],
)
def test_deaths_lose_nothing_and_wedge_nothing(
    deaths: int, keeps_all: bool, settings: dict[str, Any]
) -> None:
    program = (sys.executable, CRASH_SERVER, "1", "serve")
    with running(program, workers=8, **settings) as server:
        owners = [Owner(server, number, keeps_all=keeps_all) for number in range(8)]
        served = threading.Event()

        def newcomer(stop: Callable[[], bool]) -> None:
            """New connections are served throughout; one whose worker dies meanwhile tries again."""
            while not stop():
                line = Line(server)
                assert line.insist("GET", "/health").status == 200
                line.close()
                served.set()

        jobs = [*(owner.work for owner in owners), newcomer, assassin(server, 1.0)]
        with in_background(*jobs) as failed:
            wait_until(
                lambda: failed() or (kills(server) >= deaths and (keeps_all or evictions(server))),
                "the deaths, and a full store",
                100,
            )
            server.send(signal.SIGUSR1)
        assert kills(server) >= deaths
        assert served.is_set()

        line = Line(server)
        told = json.loads(line.insist("GET", "/stats").body)
        assert (told["internal_errors"], told["lock_timeouts"]) == (0, 0), told
        assert (told["evictions"] == 0) is keeps_all, told
        # A repair is what a death with a shard's lock held leads to.
        assert told["repairs"] >= deaths / 2, told
        assert sum(len(owner.possible) for owner in owners) > 1000
        for owner in owners:
            for key, possible in owner.possible.items():
                value = value_of(line.insist("GET", f"/get?key={key}"))
                assert value in possible, (key, value, possible)
        # No shard is wedged: each takes, gives and forgets.
        for number in range(500):
            body = f'{{"key":"after-{number}","value":"{number}"}}'
            assert line.insist("PUT", "/put", body).status == 200
            assert value_of(line.insist("GET", f"/get?key=after-{number}")) == str(number)
            assert line.insist("DELETE", f"/delete?key=after-{number}").status == 200
        line.close()
        assert server.stop() == 0, server.log()[-2000:]
