"""Streams of events: their bytes, one worker, and whole servers with several publishers and clients."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
from base64 import b64encode
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from browser import Site, needs_chromium
from clients import run as run_program
from fake import Client, Worker, in_loop
from pubsub_helpers import HubWorker, settled
from server import Server, in_background, read_reply, running, wait_until

from fastkv.flow import SWEEP_TURNS
from fastkv.pubsub.messages import Message
from fastkv.sse.format import BUILDERS, as_text, event
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Iterator

NODE = Path(__file__).with_name("node")

PARTS: list[tuple[bytes, bytes]] = [
    (b"hello", b"hello"),
    (b"", b""),
    (b" a, b", b" a, b"),
    ("grüß 🎈".encode(), "grüß 🎈".encode()),
    (b"a\nb", b'"a\\nb"'),
    (b"a\r\n\r\ndata: forged", b'"a\\r\\n\\r\\ndata: forged"'),
    (b"\x00", b"\x00"),
]


@pytest.mark.parametrize(("part", "told"), PARTS)
def test_a_part_of_an_event_is_one_line_of_utf8(part: bytes, told: bytes) -> None:
    assert as_text(part) == told
    line = BUILDERS[False, False](Message(part, part))
    assert line == b"data: message,%b,%b\n\n" % (told, told)
    assert line.decode().count("\n") == 2
    assert "\r" not in line.decode()


def test_what_is_no_text_is_an_event_of_another_kind() -> None:
    assert BUILDERS[False, False](Message(b"c", b"\xff")) == b"data: message_base64,Yw==,/w==\n\n"
    assert BUILDERS[False, False](Message(b"\xff", b"p")) == b"data: message_base64,/w==,cA==\n\n"
    assert BUILDERS[False, False](Message(b"c", b"\xff\n", b"*")) == (
        b"data: pmessage_base64,Kg==,Yw==,/wo=\n\n"
    )
    assert event(b"subscribe", b"\xff") == b"data: subscribe_base64,/w==\n\n"


def test_messages_of_patterns_and_in_base64_and_in_chunks() -> None:
    message = Message(b"c", b"p\n\xff", b"c*")
    coded = b"data: pmessage,%b,%b,%b\n\n" % tuple(map(b64encode, (b"c*", b"c", b"p\n\xff")))
    assert BUILDERS[True, False](message) == coded
    assert BUILDERS[True, True](message) == b"%x\r\n%b\r\n" % (len(coded), coded)
    assert BUILDERS[False, True](Message(b"c", b"p")) == b"13\r\ndata: message,c,p\n\n\r\n"


# -- one worker on a fake transport ------------------------------------------------------------------------


def ask(target: str, version: bytes = b"1.1", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/%b\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % (method, target.encode(), version)


async def begin(worker: Worker, target: str, version: bytes = b"1.1", method: bytes = b"GET") -> Client:
    client = worker.client()
    client.send(ask(target, version, method))
    await settled()
    return client


HEAD = (
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\n"
)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@in_loop
async def test_a_stream_from_its_head_to_its_end(method: bytes) -> None:
    worker = HubWorker(asyncio.get_running_loop())
    client = await begin(worker, "/subscribe/a%2Fb/c,d", method=method)
    confirmed = b"data: subscribe,a/b/c,d,1\n\n"
    assert client.take() == HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (
        len(confirmed),
        confirmed,
    )
    assert worker.hub.publish(b"a/b/c,d", b"hello") == 1
    await settled()
    assert client.take() == b"1d\r\ndata: message,a/b/c,d,hello\n\n\r\n"
    client.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")  # nobody reads it
    worker.service.drain()
    worker.service.close_all(idle_only=True)
    await settled()
    assert client.take() == b"0\r\n\r\n"
    assert client.is_closed()
    assert worker.hub.publish(b"a/b/c,d", b"hello") == 0
    assert worker.service.drained.is_set()
    assert worker.counters[Column.CONNECTIONS] == 0
    worker.verify()


@in_loop
async def test_by_http_1_0_there_are_no_chunks() -> None:
    worker = HubWorker(asyncio.get_running_loop())
    client = await begin(worker, "/psubscribe/n*?channel=x&pattern=y?&encoding=text", b"1.0")
    assert client.take() == HEAD + (
        b"\r\ndata: psubscribe,n*,1\n\ndata: subscribe,x,2\n\ndata: psubscribe,y?,3\n\n"
    )
    worker.hub.publish(b"ya", b"1")
    await settled()
    assert client.take() == b"data: pmessage,y?,ya,1\n\n"
    client.leave()
    worker.verify()


REFUSED: list[tuple[str, bytes]] = [
    ("/subscribe/%zz", b"400"),
    ("/subscribe/a?encoding=utf8", b"400"),
    ("/subscribe/a?encoding=text&encoding=text", b"400"),
    ("/subscribe/" + "a" * 17, b"400"),
    ("/subscribe/a?channel=b&channel=c", b"400"),
]


@pytest.mark.parametrize(("target", "status"), REFUSED)
@in_loop
async def test_what_cannot_be_subscribed(target: str, status: bytes) -> None:
    worker = HubWorker(asyncio.get_running_loop(), max_channel_bytes=16, max_subscriptions=2)
    client = await begin(worker, target)
    assert client.take().startswith(b"HTTP/1.1 %b " % status)
    assert not client.is_closed()
    assert worker.hub.publish(b"a", b"1") == 0
    worker.verify()


@in_loop
async def test_a_client_that_is_behind_gets_everything_as_it_reads() -> None:
    worker = HubWorker(asyncio.get_running_loop(), max_push_bytes=64 << 10, max_output_bytes=64 << 10)
    slow, fast = [await begin(worker, "/subscribe/c") for _ in range(2)]
    slow.transport.slow = True
    slow.take()
    fast.take()
    for i in range(300):
        worker.hub.publish(b"c", b"%d:" % i + bytes(1000))
        await settled(3)
    assert fast.take().count(b"data: ") == 300
    assert slow.transport.get_write_buffer_size() < 70_000
    got = b""
    for second in range(40):
        worker.seconds = second * 0.9
        worker.hub.turn()
        slow.transport.client_reads()
        await settled()
        got += slow.take()
    assert [int(line.split(b":")[0]) for line in got.split(b"message,c,")[1:]] == list(range(300))
    assert worker.service.flow.held_bytes == 0
    slow.leave()
    worker.verify()


@in_loop
async def test_a_client_that_does_not_read_is_closed_and_others_get_all() -> None:
    worker = HubWorker(asyncio.get_running_loop(), max_push_bytes=64 << 10, max_output_bytes=64 << 10)
    slow, fast = [await begin(worker, "/subscribe/c") for _ in range(2)]
    slow.transport.slow = True
    fast.take()
    for i in range(300):
        worker.hub.publish(b"c", b"%d:" % i + bytes(1000))
        await settled(3)
    worker.hub.turn()
    for worker.seconds, is_closed in ((4.9, False), (5.0, True)):
        worker.hub.turn()
        assert slow.transport.aborted == is_closed
    await settled()
    assert fast.take().count(b"data: ") == 300
    assert worker.counters[Column.SLOW_SUBSCRIBERS] == 1
    assert worker.hub.publish(b"c", b"x") == 1
    assert worker.service.flow.held_bytes == 0
    worker.verify()


@in_loop
async def test_many_that_are_behind_share_the_memory_of_all_connections() -> None:
    """None of them is closed for what it was sent unasked, and each gets everything."""
    worker = HubWorker(
        asyncio.get_running_loop(),
        max_buffer_bytes=1 << 20,
        max_output_bytes=64 << 10,
        pubsub_memory_bytes=4 << 20,
    )
    clients = [await begin(worker, "/subscribe/c") for _ in range(100)]
    for client in clients:
        client.take()
        client.transport.slow = True
    for i in range(100):
        worker.hub.publish(b"c", b"%d:" % i + bytes(4000))
        await settled(3)
        assert worker.service.flow.held_bytes <= 1 << 20
    got = dict.fromkeys(clients, b"")
    for _ in range(100):
        for client in clients:
            client.transport.client_reads()
            got[client] += client.take()
        worker.hub.turn()
        await settled()
        assert worker.service.flow.held_bytes <= 1 << 20
    for client in clients:
        numbers = [int(line.split(b":")[0]) for line in got[client].split(b"message,c,")[1:]]
        assert numbers == list(range(100))
        assert not client.is_closed()
        client.leave()
    assert worker.counters[Column.SLOWEST_CLOSED] == 0
    worker.verify()


@in_loop
async def test_a_client_that_comes_while_the_worker_cannot_read_on_waits_for_its_confirmation() -> None:
    worker = HubWorker(asyncio.get_running_loop(), max_output_bytes=64 << 10)
    slow = await begin(worker, "/subscribe/c")
    slow.transport.slow = True
    while worker.hub.publish(b"c", bytes(1000)) is not None:
        await settled(3)
    late = await begin(worker, "/subscribe/c")
    assert late.take() == HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    confirmed = b""
    while not confirmed:
        slow.transport.client_reads()
        await asyncio.sleep(0.01)
        confirmed = late.take()
    assert confirmed.startswith(b"15\r\ndata: subscribe,c,1\n\n\r\n")
    slow.leave()
    late.leave()
    worker.verify()


@in_loop
async def test_silence_is_broken_and_never_too_long_for_the_sweep() -> None:
    worker = HubWorker(asyncio.get_running_loop(), event_ping_seconds=0.1, idle_seconds=0.1)
    client = await begin(worker, "/subscribe/c")
    client.take()
    stream: Any = client.transport.get_protocol()
    for _ in range(3):
        worker.service.flow.now += 1000
        stream.since = 0.0
        for _ in range(SWEEP_TURNS):
            worker.service.turn()
    assert not client.is_closed()
    stream._look()
    assert client.take() == b"3\r\n:\n\n\r\n"
    worker.hub.publish(b"c", b"1")
    await settled()
    client.take()
    stream._look()  # something was said since
    assert client.take() == b""
    client.finish()
    await settled()
    assert worker.hub.publish(b"c", b"1") == 0
    worker.verify()


@in_loop
async def test_the_routes_tell_of_changes_and_write_nothing_when_nobody_listens() -> None:
    worker = HubWorker(asyncio.get_running_loop())
    client = worker.client()
    head = worker.ring.head
    changes = [
        b'PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 31\r\n\r\n{"key":"k","value":"v","ttl":9}',
        b"DELETE /delete?key=k HTTP/1.1\r\nHost: a\r\n\r\n",
        b"DELETE /delete?key=k HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT /kv/k?ttl=9 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nv",
        b"PUT /kv/k HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\nContent-Length: 1\r\n\r\nv",
        b"DELETE /kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    for change in changes:
        client.send(change)
    assert worker.ring.head == head
    watcher = await begin(worker, "/psubscribe/__keyevent*", b"1.0")
    watcher.take()
    for change in changes:
        client.send(change)
    await settled()
    told = [line.rpartition(b":")[2] for line in watcher.take().split(b"\n\n")[:-1]]
    assert told == [b"set,k", b"expire,k", b"del,k", b"set,k", b"expire,k", b"del,k"]
    watcher.leave()
    await settled()
    head = worker.ring.head
    for change in changes:
        client.send(change)
    assert worker.ring.head == head
    worker.verify()


# -- whole servers -----------------------------------------------------------------------------------------


class Stream:
    """A client that reads a stream of events, on a socket of its own."""

    def __init__(self, server: Server, target: str, receive_bytes: int = 0) -> None:
        self._socket = socket.socket()
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(20)
        self._socket.connect((server.host, server.port))
        self._socket.sendall(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        self._file = self._socket.makefile("rb")
        while self._file.readline() not in (b"\r\n", b""):
            pass

    def event(self) -> bytes:
        """The next event; b"" at the end."""
        while line := self._file.readline():
            if line.startswith(b"data: "):
                return line[6:-1]
        return b""

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def streams(server: Server, target: str, number: int) -> Iterator[list[Stream]]:
    """So many clients, each of which has its confirmation."""
    with ExitStack() as stack:
        made = [stack.enter_context(closing(Stream(server, target))) for _ in range(number)]
        for stream in made:
            assert stream.event().startswith((b"subscribe,", b"psubscribe,"))
        yield made


def run(server: Server, *words: str) -> Any:
    reply = server.request("POST", "/", json.dumps(words))
    return json.loads(reply.body)["result"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(workers=3) as started:
        yield started


def test_all_workers_subscribers_see_one_order_of_several_publishers(server: Server) -> None:
    publishers, each = 4, 100

    def publish(number: int) -> None:
        with closing(http.client.HTTPConnection(server.host, server.port, timeout=20)) as connection:
            for i in range(each):
                connection.request("POST", "/", json.dumps(["PUBLISH", "order", f"{number}:{i}"]))
                assert json.loads(connection.getresponse().read()) == {"result": 12}

    with streams(server, "/subscribe/order", 12) as clients:
        wait_until(lambda: run(server, "PUBSUB", "NUMSUB", "order") == ["order", 12], "all are known")
        jobs = [lambda _stop, number=number: publish(number) for number in range(publishers)]
        with in_background(*jobs):
            got = [[client.event() for _ in range(publishers * each)] for client in clients]
    assert all(events == got[0] for events in got)
    for number in range(publishers):
        own = [event for event in got[0] if event.startswith(b"message,order,%d:" % number)]
        assert own == [b"message,order,%d:%d" % (number, i) for i in range(each)]


def test_what_one_worker_changes_is_told_by_all(server: Server) -> None:
    with streams(server, "/psubscribe/__keyevent@0__:*", 6) as clients:
        for i in range(10):
            assert server.request("PUT", f"/kv/key{i}", b"v").status == 201
        assert server.request("PUT", "/put", '{"key":"short","value":"v","ttl":0.2}').status == 200
        for client in clients:
            told = [client.event().rpartition(b":")[2] for _ in range(13)]
            assert sorted(told[:10]) == [b"set,key%d" % i for i in range(10)]
            assert told[10:] == [b"set,short", b"expire,short", b"expired,short"]


def test_what_expires_among_many_that_live_on_is_told_soon(server: Server) -> None:
    """Without anybody to hear of it the sweep would look again after a minute."""
    for batch in range(2):
        many = [["SET", f"long {batch} {i}", "v", "EX", 1000] for i in range(10_000)]
        assert server.request("POST", "/pipeline", json.dumps(many)).status == 200
    with streams(server, "/subscribe/__keyevent@0__:expired", 2) as clients:
        for i in range(50):
            run(server, "SET", f"brief {i}", "v", "PX", str(100 + 40 * i))
        for client in clients:
            told = [client.event() for _ in range(50)]
            assert sorted(told) == sorted(b"message,__keyevent@0__:expired,brief %d" % i for i in range(50))
    run(server, "FLUSHALL")


def test_the_counts_follow_those_who_leave_and_workers_that_die() -> None:
    with running(workers=2) as server, streams(server, "/subscribe/c", 20) as clients:
        assert run(server, "PUBLISH", "c", "1") == 20
        for client in clients[:5]:
            client.close()
        wait_until(lambda: run(server, "PUBLISH", "c", "2") == 15, "those who left are not counted")
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda: victim not in server.workers() and len(server.workers()) == 2, "there are two again"
        )
        run(server, "PUBLISH", "c", "mark")
        left = 0
        for client in clients[5:]:
            while (event := client.event()) not in (b"", b"message,c,mark"):
                pass
            left += event != b""
        wait_until(lambda: run(server, "PUBLISH", "c", "end") == left, "the dead one's are not counted")
        with streams(server, "/subscribe/c", 6) as more:
            wait_until(lambda: run(server, "PUBLISH", "c", "again") == left + 6, "the new ones are")
            for client in more:
                assert b"again" in client.event()
        assert 0 < left < 15


def test_who_does_not_read_is_closed_and_the_others_get_everything() -> None:
    settings: dict[str, Any] = {
        "workers": 2,
        "max_push_bytes": "1mb",
        "push_seconds": 5,
        "output_seconds": 60,
    }
    with (
        running(**settings) as server,
        streams(server, "/subscribe/c", 4) as fast,
        closing(Stream(server, "/subscribe/c", 4096)) as slow,
    ):
        assert slow.event()
        count = 0

        def is_closed() -> bool:
            nonlocal count
            run(server, "PUBLISH", "c", f"{count}:" + "x" * 20_000)
            count += 1
            return bool(json.loads(server.request("GET", "/stats").body)["slow_subscribers"])

        def publish() -> None:
            wait_until(is_closed, "the slow one is closed")
            assert run(server, "PUBLISH", "c", "end") == 4

        def read(client: Stream) -> None:
            got = -1
            while (event := client.event()) != b"message,c,end":
                got += 1
                assert event.startswith(b"message,c,%d:" % got)
            ends.append(got + 1)

        ends: list[int] = []
        jobs = [lambda _stop, client=client: read(client) for client in fast]
        with in_background(lambda _stop: publish(), *jobs):
            pass
        assert ends == [count] * 4


BURST = 800


@pytest.mark.parametrize("client", ["reads", "pauses"])
def test_a_burst_reaches_a_subscriber_that_reads(client: str) -> None:
    """More than its connection holds, at once, by the other worker as a rule."""
    # Whatever takes its time here, a client is not closed for it.
    with (
        running(workers=2, push_seconds=600) as server,
        streams(server, "/subscribe/burst", 3) as clients,
    ):
        told = json.dumps([["PUBLISH", "burst", f"{i}:" + "m" * 4000] for i in range(BURST)])

        def publish(_stop: object = None) -> None:
            assert server.request("POST", "/pipeline", told).status == 200

        if client == "pauses":
            publish()
        with in_background(*([publish] if client == "reads" else [])):
            for stream in clients:
                for i in range(BURST):
                    assert stream.event().startswith(b"message,burst,%d:" % i)
        stats = json.loads(server.request("GET", "/stats").body)
        assert (stats["slow_subscribers"], stats["pubsub_overruns"]) == (0, 0)


def living(server: Server, stopped: int, number: int) -> list[http.client.HTTPConnection]:
    """Connections to workers that are not the stopped one, which is found out by asking: so many."""
    asked = {}
    for _ in range(24):
        asked[server.connect(60)] = b""
    os.kill(stopped, signal.SIGSTOP)
    for connection in asked:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    found: list[http.client.HTTPConnection] = []
    while len(found) < number:
        for connection in select.select(list(asked), [], [], 60)[0]:
            del asked[connection]
            with connection.makefile("rb") as file:
                assert read_reply(file).status == 200
            found.append(http.client.HTTPConnection(server.host, server.port))
            found[-1].sock = connection
    for connection in asked:
        connection.close()
    return found


def test_a_worker_that_is_stopped_for_a_moment_loses_no_message() -> None:
    """The moment ends once its messages do not fit any more, and the publisher waits."""
    settings: dict[str, Any] = {"pubsub_memory": "1mb", "push_seconds": 60, "stuck_seconds": 120}
    with running(workers=2, **settings) as server, streams(server, "/subscribe/c", 16) as clients:
        told = json.dumps([["PUBLISH", "c", f"{i}:" + "m" * 4000] for i in range(BURST)])
        stopped = server.workers()[0]
        publisher, asker, *others = living(server, stopped, 2)
        publisher.request("POST", "/pipeline", told)

        def stats() -> Any:
            asker.request("GET", "/stats")
            return json.loads(asker.getresponse().read())

        def read(client: Stream) -> None:
            for i in range(BURST):
                assert client.event().startswith(b"message,c,%d:" % i)

        jobs = [lambda _stop, client=client: read(client) for client in clients]
        with in_background(*jobs):
            wait_until(lambda: stats()["publishers_held"], "the publisher waits")
            os.kill(stopped, signal.SIGCONT)
        reply = json.loads(publisher.getresponse().read())
        assert reply == [{"result": 16}] * BURST
        told_of = stats()
        assert [told_of[name] for name in ("slow_subscribers", "pubsub_overruns")] == [0, 0]
        for connection in (publisher, asker, *others):
            connection.close()


def test_a_worker_that_is_stopped_for_too_long_loses_its_subscribers_and_publishing_goes_on() -> None:
    settings: dict[str, Any] = {"pubsub_memory": "1mb", "push_seconds": 1, "stuck_seconds": 120}
    with running(workers=2, **settings) as server, streams(server, "/subscribe/c", 16) as clients:
        told = json.dumps([["PUBLISH", "c", f"{i}:" + "m" * 4000] for i in range(BURST)])
        stopped = server.workers()[0]
        publisher, *others = living(server, stopped, 1)

        def read(client: Stream) -> None:
            got = 0
            while event := client.event():
                assert event.startswith(b"message,c,%d:" % got)
                got += 1
                if got == BURST:
                    break
            whole.append(got == BURST)

        whole: list[bool] = []
        jobs = [lambda _stop, client=client: read(client) for client in clients]
        with in_background(*jobs):
            publisher.request("POST", "/pipeline", told)
            reply = json.loads(publisher.getresponse().read())
            os.kill(stopped, signal.SIGCONT)
        # On a busy machine others may have been closed as well, but each client knows.
        assert all(0 <= told["result"] <= 16 for told in reply)
        lost = whole.count(False)
        assert lost > 0
        publisher.request("GET", "/stats")
        stats = json.loads(publisher.getresponse().read())
        assert stats["pubsub_overruns"] > 0
        assert stats["subscribers_overrun"] > 0
        assert stats["subscribers_overrun"] + stats["slow_subscribers"] == lost
        for connection in (publisher, *others):
            connection.close()


def test_a_reload_ends_streams_in_order_and_who_comes_again_is_served() -> None:
    with running(workers=2, drain_seconds=0.3) as server, streams(server, "/subscribe/c", 6) as clients:
        before = set(server.workers())
        server.send(signal.SIGHUP)
        for client in clients:
            while client.event():
                pass
        wait_until(lambda: before.isdisjoint(server.workers()), "the old ones have ended")
        with streams(server, "/subscribe/c", 6) as more:
            wait_until(lambda: run(server, "PUBLISH", "c", "1") == 6, "the new ones are counted")
            for client in more:
                assert client.event() == b"message,c,1"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_reads_a_stream(server: Server) -> None:
    url = f"http://{server.host}:{server.port}/psubscribe/" + quote("cürl*") + "?encoding=text"
    with subprocess.Popen(["curl", "-sN", "-m", "20", url], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == "data: psubscribe,cürl*,1\n".encode()
        assert run(server, "PUBLISH", "cürls", "two\nlines") == 1
        assert process.stdout.readline() == b"\n"
        assert process.stdout.readline() == 'data: pmessage,cürl*,cürls,"two\\nlines"\n'.encode()
        process.terminate()


def test_upstashs_own_client_gets_what_it_publishes() -> None:
    if not (NODE / "node_modules").exists():
        pytest.skip("the clients from npm are not installed: npm ci --prefix tests/node")
    with running(token="secret") as server:
        url = f"http://{server.host}:{server.port}"
        assert run_program("node", NODE / "subscribe.mjs", url, "secret") == b"6\n"


PAGE = """
const url = 'TARGET'
const source = new EventSource(url + '/subscribe/page?channel=__keyspace@0__:k&_token=secret')
const got = []
await new Promise((done, failed) => {
  source.onerror = () => failed('an error')
  source.onmessage = async event => {
    got.push(event.data)
    const send = {method: 'POST', body: '["PUBLISH", "page", "two\\\\nlines"]'}
    if (got.length === 2) await fetch(url + '/?_token=secret', send)
    if (got.length === 3) await fetch(url + '/kv/k?_token=secret', {method: 'PUT', body: 'v'})
    if (got.length === 4) done()
  }
})
return got
"""


@needs_chromium
def test_an_event_source_in_a_browser() -> None:
    with closing(Site()) as site:
        origin = f"http://app.example:{site.port}"
        with running(token="secret", allow_origin=origin) as server:
            target = f"http://{server.host}:{server.port}"
            assert site.visit("app.example", PAGE.replace("TARGET", target)) == [
                "subscribe,page,1",
                "subscribe,__keyspace@0__:k,2",
                'message,page,"two\\nlines"',
                "message,__keyspace@0__:k,set",
            ]
