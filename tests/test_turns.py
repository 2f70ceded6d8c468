"""Long commands in turns: other connections are served between, and a client's own replies stay in order."""

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any
from urllib.parse import quote

import hiredis
import pytest
from fake import NOT_FOUND, Client, Worker, get, in_loop
from server import read_reply, running
from test_ws_websocket import connect
from ws_frames import BINARY, TEXT, frame
from ws_frames import read as read_frames

from fastkv.access_log import LoggedConnection, Noted
from fastkv.commands import keyspace
from fastkv.turns import Turns

KEYS = 3000
"""More than are looked at in one step."""


def posted(path: str, said: object, fields: bytes = b"") -> bytes:
    body = json.dumps(said).encode()
    head = b"POST %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n"
    return head % (path.encode(), fields, len(body)) + body


ALL = [f"key:{i:04}" for i in range(KEYS)]


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a walk takes many."""
    monkeypatch.setattr(keyspace, "_STEP_ENTRIES", 256)


async def replies(client: Client, until: Callable[[bytes], bool], ask_others: Callable[[], None]) -> bytes:
    """Take what a client is sent, and ask others between turns.

    Args:
        client: The client.
        until: Whether all is there.
        ask_others: Called in each round of the loop.

    Returns:
        What it was sent.
    """
    sent = b""
    for _ in range(10_000):
        sent += client.take()
        if until(sent):
            return sent
        ask_others()
        await asyncio.sleep(0)
    raise AssertionError("The reply did not come.")


@in_loop
async def test_callbacks_have_turns_in_order_and_the_loop_goes_round_between() -> None:
    turns, seen = Turns(-1.0), ""

    def turn(name: str, left: int) -> None:
        nonlocal seen
        seen += name
        if left:
            turns.later(partial(turn, name, left - 1))

    turns.later(partial(turn, "a", 2))
    turns.later(partial(turn, "b", 0))
    for _ in range(4):
        await asyncio.sleep(0)
        seen += "."
    assert seen == "a.b.a.a."


@in_loop
async def test_a_callback_may_wait_a_while_before_its_turn() -> None:
    turns, called = Turns(), asyncio.Event()
    turns.later(called.set, 0.001)
    assert not turns._waiting
    await asyncio.wait_for(called.wait(), 60)


@in_loop
async def test_short_callbacks_share_a_round() -> None:
    turns, seen = Turns(3600.0), ""

    def turn(name: str, left: int) -> None:
        nonlocal seen
        seen += name
        if left:
            turns.later(partial(turn, name, left - 1))

    for name in "abc":
        turns.later(partial(turn, name, 1))
    for _ in range(2):
        await asyncio.sleep(0)
        seen += "."
    assert seen == "abc.abc."


@in_loop
async def test_a_callback_that_fails_does_not_keep_the_others_from_their_turn() -> None:
    turns, seen = Turns(3600.0), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
    turns.later(lambda: 1 // 0)
    turns.later(lambda: seen.append("second"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert [type(item) for item in seen] == [ZeroDivisionError, str]


LONG: dict[str, tuple[Sequence[str], Callable[[Any], bool]]] = {
    "KEYS": (("KEYS", "*"), lambda said: sorted(said) == ALL),
    "KEYS of a pattern": (("KEYS", "*:0000"), lambda said: said == ALL[:1]),
    "SCAN": (("SCAN", "0", "COUNT", "100000"), lambda said: len(set(said[1]) & set(ALL)) > 2000),
    "FLUSHALL ASYNC": (("FLUSHALL", "ASYNC"), lambda said: said == "OK"),
    "WATCH": (("WATCH", *ALL[:200]), lambda said: said == "OK"),
}
OVER_HTTP = ["REST", "path", "pipeline"]
OVER_WEBSOCKETS = ["text", "text with an id", "text batch", "resp", "resp of several"]


@pytest.mark.parametrize("wire", OVER_HTTP + OVER_WEBSOCKETS)
@pytest.mark.parametrize("name", list(LONG))
@in_loop
async def test_others_are_served_while_a_command_takes_its_turns(name: str, wire: str) -> None:
    if name == "WATCH" and wire in OVER_HTTP:
        name = "KEYS"  # there is no transaction to watch for
    words, is_right = LONG[name]
    worker = slow_worker()
    client = worker.client() if wire in OVER_HTTP else connect(worker)
    other = worker.client()
    client.send(request(wire, words) + (get("x") if wire in OVER_HTTP else frame(TEXT, b'["ECHO","x"]')))
    assert client.take() == b""
    assert not client.is_read()
    served = 0

    def ask_other() -> None:
        nonlocal served
        assert other.ask(get("x")) == NOT_FOUND
        served += 1

    sent = await replies(client, lambda sent: sent.endswith((NOT_FOUND, b'"x"}')), ask_other)
    assert served >= 3
    assert client.is_read()
    assert is_right(said(wire, sent))
    worker.verify()


def slow_worker(**settings: Any) -> Worker:
    """A worker with some entries, whose connections have a turn for each step."""
    worker = Worker(max_keys=2 * KEYS, **settings)
    for i in range(KEYS):
        worker.store.put(b"key:%04d" % i, b"v", lambda: worker.now_ms)
    worker.service.turn_seconds = -1.0
    worker.service.turns = Turns(-1.0)
    return worker


def request(wire: str, words: Sequence[str]) -> bytes:
    """A command as a wire has it; behind another one where the wire takes several."""
    resp = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words)
    return {
        "REST": posted("/", words),
        "path": f"POST /{quote('/'.join(words))} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode(),
        "pipeline": posted("/pipeline", [["PING"], words]),
        "text": frame(TEXT, json.dumps(words).encode()),
        "text with an id": frame(TEXT, json.dumps({"id": 7, "cmd": words}).encode()),
        "text batch": frame(TEXT, json.dumps([["PING"], {"id": 7, "cmd": words}]).encode()),
        "resp": frame(BINARY, resp),
        "resp of several": frame(BINARY, b"*1\r\n$4\r\nPING\r\n" + resp),
    }[wire]


def said(wire: str, sent: bytes) -> Any:
    """The result of that command, out of all that was sent."""
    if wire in OVER_HTTP:
        head, _, body = sent.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        told, _ = json.JSONDecoder().raw_decode(body.decode())
        return told[1]["result"] if wire == "pipeline" else told["result"]
    payload = read_frames(sent)[0].payload
    if wire in ("resp", "resp of several"):
        reader: Any = hiredis.Reader(encoding="utf-8")
        reader.feed(payload.removeprefix(b"+PONG\r\n"))
        return reader.gets()
    told = json.loads(payload)
    told = told[1] if wire == "text batch" else told
    assert told.pop("id", None) == (None if wire == "text" else 7)
    return told["result"]


@pytest.mark.parametrize(
    ("call", "ended"),
    [
        (lambda client: client.leave(), True),
        (lambda client: client.connection.abort(), True),
        (lambda client: client.finish(), False),  # it may still read
    ],
)
@in_loop
async def test_a_client_that_leaves_ends_its_work(call: Callable[[Client], None], ended: bool) -> None:
    worker = slow_worker()
    client = worker.client()
    client.send(posted("/", ["KEYS", "*"]))
    await asyncio.sleep(0)
    work = client.connection._work
    assert work is not None
    call(client)
    for _ in range(100):
        await asyncio.sleep(0)
    assert work.gi_frame is None  # type: ignore[attr-defined]
    assert client.connection._work is None
    assert (client.take() == b"") == ended
    assert client.is_closed()
    worker.verify()


@in_loop
async def test_many_clients_with_long_commands_have_turns_alike() -> None:
    worker = slow_worker()
    clients = [worker.client() for _ in range(4)]
    for client in clients:
        client.send(posted("/", ["KEYS", "*"]))
    rounds: dict[int, int] = {}
    for at in range(10_000):
        for number, client in enumerate(clients):
            if number not in rounds and client.take():
                rounds[number] = at
        await asyncio.sleep(0)
    # One turn each, in their order, until the first of them has all; then the others follow one by one.
    assert list(rounds) == [0, 1, 2, 3]
    assert rounds[3] - rounds[0] == 3
    assert rounds[0] > 4 * 4
    worker.verify()


@in_loop
async def test_what_a_long_command_answers_is_as_of_a_short_one() -> None:
    fields = b"Origin: https://a.example\r\n"
    seen: dict[bytes, object] = {}
    worker = Worker(max_keys=2 * KEYS, allow_origin=("https://a.example",), max_reply_bytes=1 << 20)
    for seconds in (3600.0, -1.0):
        worker.service.turn_seconds = seconds
        asked = [posted("/", ["KEYS", "*"], fields), b"HEAD /keys/* HTTP/1.1\r\nHost: a\r\n\r\n"]
        asked += [posted("/", ["KEYS", "*"], b"Connection: close\r\n")]
        worker.store.put(b"key", b"v", lambda: worker.now_ms)
        for i in range(KEYS):
            worker.store.put(b"%04d" % i, b"v", lambda: worker.now_ms)
        for one in asked:
            client = worker.client()
            client.send(one)
            sent = await replies(client, bool, lambda: None)
            told = sorted(sent.partition(b"\r\n\r\n")[0].split(b"\r\n")), sorted(sent)
            assert told == seen.setdefault(one, told)
            assert client.transport.ended == (b"close" in one)
    worker.verify()


def test_a_server_answers_others_while_one_client_walks_through_everything() -> None:
    """Counted in replies, and not in time: others ask one by one, and the walk takes its turns between."""
    with running(workers=1, memory="64mb") as server:
        with closing(server.connect(60)) as filler, filler.makefile("rb") as told:
            for first in range(0, 100_000, 5000):
                pairs = [word for i in range(first, first + 5000) for word in (f"key:{i:05}", "v")]
                filler.sendall(posted("/", ["MSET", *pairs]))
                assert read_reply(told).status == 200
        with (
            closing(server.connect(60)) as walker,
            closing(server.connect(60)) as other,
            other.makefile("rb") as told,
        ):
            walker.sendall(posted("/", ["KEYS", "*"]) + posted("/", ["PING"]))
            walker.setblocking(False)
            served, walked = 0, bytearray()
            while not walked:
                other.sendall(get("key:00007"))
                assert read_reply(told).status == 200
                served += 1
                with suppress(BlockingIOError):
                    walked += walker.recv(1 << 20)
            assert served > 3  # in one piece it would be one or two
            walker.settimeout(60)
            while not walked.endswith(b'{"result":"PONG"}'):
                walked += walker.recv(1 << 20)
            assert walked.count(b"key:") == 100_000


@pytest.mark.parametrize("extra", [b"", b"Origin: https://a.example\r\n", b"Connection: close\r\n"])
@in_loop
async def test_a_reply_in_steps_is_in_the_access_log_once_it_is_there(extra: bytes) -> None:
    worker = slow_worker(allow_origin=("https://a.example",))
    noted: list[Noted] = []
    log: Any = type("Log", (), {"note": lambda self, one: noted.append(one)})()
    client = worker.client(lambda service: LoggedConnection(service, log))
    asked = posted("/", ["PING"]) + posted("/", ["KEYS", "*"], extra)
    client.send(asked)
    assert len(noted) == 1
    sent = await replies(client, lambda sent: b"key:2999" in sent, lambda: None)
    assert [(one.line, one.status) for one in noted] == [(b"POST /", 200)] * 2
    assert noted[1].body_bytes == len(sent.rpartition(b"\r\n\r\n")[2])
    worker.verify()


@in_loop
async def test_the_work_of_a_client_that_has_gone_ends_although_nothing_is_read() -> None:
    worker = slow_worker()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = worker.client()
        client.transport.socket = ours
        client.send(posted("/", ["KEYS", "*"]))
        theirs.shutdown(socket.SHUT_WR)  # it has said all, and may still read
        for _ in range(3):
            await asyncio.sleep(0)
        work = client.connection._work
        assert work is not None
        theirs.close()
        for _ in range(10):
            await asyncio.sleep(0)
        assert work.gi_frame is None  # type: ignore[attr-defined]
        assert client.transport.aborted
    worker.verify()


@in_loop
async def test_some_clients_at_a_time_collect_keys_and_the_others_wait() -> None:
    worker = slow_worker()
    context = worker.routes.commands._context
    clients = [worker.client() for _ in range(9)]
    for client in clients:
        client.send(posted("/", ["KEYS", "*:000*"]))
    most, done = 0, 0
    while done < len(clients):
        most = max(most, context.walks)
        done += sum(bool(client.take()) for client in clients)
        await asyncio.sleep(0.0001)
    assert most == 4
    assert context.walks == 0
    worker.verify()
