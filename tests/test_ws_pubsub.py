"""Subscriptions over WebSocket, over two workers: what is sent unasked, to whom, and until when."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
import websockets
import ws_frames
from browser import Site, needs_chromium
from fake import Client, in_loop
from pubsub_helpers import HubWorker, settled
from server import Server, running, wait_until
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_sync

SECONDS = 30
WORKERS = 2


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(workers=WORKERS) as started:
        yield started
        assert started.stop() == 0


@contextmanager
def connected(server: Server) -> Iterator[ClientConnection]:
    with connect_sync(f"ws://{server.host}:{server.port}/ws", proxy=None, compression=None) as client:
        yield client


def ask(client: ClientConnection, *words: object) -> Any:
    """Ask in JSON; what comes next, which has to be the reply."""
    client.send(json.dumps(words))
    return json.loads(client.recv(SECONDS))


def pushed(client: ClientConnection) -> Any:
    """The next message that comes unasked."""
    return json.loads(client.recv(SECONDS))["push"]


def resp(*words: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(words), b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))


def publish(server: Server, channel: str, message: str) -> int:
    reply = server.request("POST", "/", json.dumps(["PUBLISH", channel, message]))
    assert reply.status == 200, reply
    return int(json.loads(reply.body)["result"])


def test_subscribers_of_all_workers_get_every_message_in_order(server: Server) -> None:
    with ExitStack() as stack:
        # That they are with different workers the kernel sees to.
        clients = [stack.enter_context(connected(server)) for _ in range(16)]
        for client in clients:
            assert ask(client, "SUBSCRIBE", "news", "other") == {
                "result": [["subscribe", "news", 1], ["subscribe", "other", 2]]
            }
            assert ask(client, "PSUBSCRIBE", "n?ws") == {"result": [["psubscribe", "n?ws", 3]]}
        for number in range(50):
            assert publish(server, "news", str(number)) == 2 * len(clients)
        for client in clients:
            for number in range(50):
                assert pushed(client) == ["message", "news", str(number)]
                assert pushed(client) == ["pmessage", "n?ws", "news", str(number)]
            assert ask(client, "UNSUBSCRIBE", "news") == {"result": [["unsubscribe", "news", 2]]}
            assert ask(client, "PUNSUBSCRIBE") == {"result": [["punsubscribe", "n?ws", 1]]}
        assert publish(server, "news", "nobody") == 0
        assert publish(server, "other", "all") == len(clients)
        for client in clients:
            assert pushed(client) == ["message", "other", "all"]
    wait_until(lambda: publish(server, "other", "none") == 0, "the subscriptions end with their connections")


def test_subscribed_in_resp_messages_come_in_resp(server: Server) -> None:
    with connected(server) as client:
        client.send(resp(b"SUBSCRIBE", b"a\xff", b"b") + resp(b"PING"))
        assert client.recv(SECONDS) == (
            b"*3\r\n$9\r\nsubscribe\r\n$2\r\na\xff\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n+PONG\r\n"
        )
        client.send(resp(b"PUBLISH", b"a\xff", b"\x00\xfe"))
        got = [client.recv(SECONDS), client.recv(SECONDS)]
        assert b":1\r\n" in got
        assert resp(b"message", b"a\xff", b"\x00\xfe") in got
        client.send(resp(b"UNSUBSCRIBE"))
        reply = client.recv(SECONDS)
        assert isinstance(reply, bytes)
        assert reply.count(b"unsubscribe") == 2


def test_what_is_no_text_is_pushed_in_base64(server: Server) -> None:
    with connected(server) as client, connected(server) as other:
        ask(client, "SUBSCRIBE", "raw")
        other.send(resp(b"PUBLISH", b"raw", b"\xff"))
        assert other.recv(SECONDS) == b":1\r\n"
        assert json.loads(client.recv(SECONDS)) == {"push": ["message_base64", "cmF3", "/w=="]}


def test_a_subscriber_may_go_on_asking(server: Server) -> None:
    with connected(server) as client:
        ask(client, "SUBSCRIBE", "mine")
        assert ask(client, "SET", "k", "v") == {"result": "OK"}
        assert ask(client, "GET", "k") == {"result": "v"}
        assert ask(client, "MULTI") == {"result": "OK"}
        assert ask(client, "SUBSCRIBE", "more")["error"].startswith("ERR SUBSCRIBE inside MULTI")
        assert ask(client, "DISCARD") == {"result": "OK"}
        assert ask(client, "PUBSUB", "NUMSUB", "mine") == {"result": ["mine", 1]}


def test_changes_of_a_key_by_every_wire_are_told(server: Server) -> None:
    with connected(server) as client, connected(server) as other:
        ask(client, "SUBSCRIBE", "__keyspace@0__:watched")
        told = []
        for change in (
            lambda: server.request("PUT", "/put", '{"key":"watched","value":"1"}'),
            lambda: server.request("PUT", "/kv/watched", b"2"),
            lambda: server.request("POST", "/incr/watched"),
            lambda: ask(other, "EXPIRE", "watched", 1000),
            lambda: server.request("POST", "/multi-exec", '[["APPEND","watched","0"],["PERSIST","watched"]]'),
            lambda: server.request("DELETE", "/delete?key=watched"),
            lambda: ask(other, "SET", "watched", "x", "PX", 1),
        ):
            change()
        for _ in range(10):
            kind, channel, event = pushed(client)
            assert (kind, channel) == ("message", "__keyspace@0__:watched")
            told.append(event)
        assert told == [
            *("set", "set", "incrby", "expire", "append", "persist", "del", "set", "expire"),
            "expired",
        ]


def test_a_client_that_does_not_read_is_closed_with_1013_and_counted() -> None:
    with running(workers=1, max_push_bytes="64kb", push_seconds=1) as server, connected(server) as fast:
        ask(fast, "SUBSCRIBE", "flood")
        with closing(socket.create_connection((server.host, server.port), SECONDS)) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(
                b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            command = b'["SUBSCRIBE","flood"]'
            slow.sendall(b"\x81" + bytes([0x80 | len(command)]) + bytes(4) + command)
            wait_until(
                lambda: b'["flood",2]' in server.request("POST", "/pubsub/numsub/flood").body,
                "both subscribed",
            )
            slow_subscribers, sent = 0, 0
            while not slow_subscribers:
                assert sent < 2000, "a client that does not read is never closed"
                publish(server, "flood", f"{sent} " + "x" * 60_000)
                assert pushed(fast)[2].startswith(f"{sent} ")
                sent += 1
                slow_subscribers = json.loads(server.request("GET", "/stats").body)["slow_subscribers"]
            assert slow_subscribers == 1
            received = bytearray()
            slow.settimeout(SECONDS)
            while piece := slow.recv(1 << 20):
                received += piece
            # The last frame says why (RFC 6455, 7.4.1; 1013 is registered as "try again later").
            reason = b"Messages are not read as fast as they come."
            assert received.endswith(b"\x88" + bytes([2 + len(reason)]) + (1013).to_bytes(2, "big") + reason)
        assert server.stop() == 0


def behind(worker: HubWorker) -> Client:
    """A client on ``/ws`` that subscribes to c, and then reads only where it is told to."""
    client = worker.client()
    client.ask(ws_frames.HANDSHAKE % b"")
    client.send(ws_frames.frame(ws_frames.TEXT, b'["SUBSCRIBE","c"]'))
    client.take()
    client.transport.slow = True
    return client


async def read_and_send(client: Client, *asks: bytes) -> list[bytes]:
    """The client reads all that is buffered, and sends as soon as the server reads; what is left to send."""
    left = list(asks)
    client.transport.client_reads()
    for _ in range(20):
        if left and client.transport.reading:
            client.send(ws_frames.frame(ws_frames.TEXT, left.pop(0)))
        await asyncio.sleep(0)
    return left


def texts(client: Client) -> list[Any]:
    """What the server has sent."""
    return [json.loads(frame.payload) for frame in ws_frames.read(client.take())]


@in_loop
async def test_a_client_that_is_behind_gets_messages_and_replies_by_turns() -> None:
    worker = HubWorker(asyncio.get_running_loop(), max_output_bytes=64 << 10)
    client = behind(worker)
    await settled()
    for i in range(400):
        assert worker.hub.publish(b"c", b"%d:" % i + b"x" * 1000) == 1
        await settled(3)
    got: list[Any] = []
    rounds = replied_in = 0
    asks = [b'["ECHO","first"]', b'["ECHO","second"]']
    while len(got) < 402:
        rounds += 1
        assert rounds < 20
        asks = await read_and_send(client, *asks)
        got += texts(client)
        replied_in = replied_in or ({"result": "second"} in got) * rounds
    pushes = [told["push"][2] for told in got if "push" in told]
    assert [int(push.partition(":")[0]) for push in pushes] == list(range(400))
    assert [told["result"] for told in got if "result" in told] == ["first", "second"]
    assert replied_in <= 4 < rounds
    client.leave()
    worker.verify()


@in_loop
async def test_a_client_that_is_behind_may_unsubscribe() -> None:
    worker = HubWorker(asyncio.get_running_loop(), max_output_bytes=64 << 10)
    client = behind(worker)
    await settled()
    for i in range(400):
        worker.hub.publish(b"c", b"%d:" % i + b"x" * 1000)
        await settled(3)
    asks = [b'["UNSUBSCRIBE","c"]']
    got: list[Any] = []
    while not got or "result" not in got[-1]:
        worker.hub.publish(b"c", b"late")
        asks = await read_and_send(client, *asks)
        await asyncio.sleep(0.01)
        got += texts(client)
    pushes = [told["push"][2] for told in got[:-1]]
    last = pushes.index("late") if "late" in pushes else len(pushes)
    assert [int(push.partition(":")[0]) for push in pushes[:last]] == list(range(400))
    assert got[-1] == {"result": [["unsubscribe", "c", 0]]}
    assert worker.hub.publish(b"c", b"nobody") == 0
    client.leave()
    worker.verify()


def test_a_stop_says_goodbye_to_subscribers() -> None:
    with running(workers=WORKERS) as stopping, connected(stopping) as client:
        ask(client, "SUBSCRIBE", "news")
        assert stopping.stop() == 0
        with pytest.raises(websockets.ConnectionClosedOK) as closed:
            client.recv(SECONDS)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


WATCHING = """
const socket = new WebSocket('TARGET')
await new Promise((done, failed) => { socket.onopen = done; socket.onerror = failed })
const replies = [], pushes = []
const changed = new Promise(done => {
  socket.onmessage = event => {
    const told = JSON.parse(event.data)
    if (told.push) pushes.push(told.push)
    else replies.push(told)
    if (replies.length === 5 && pushes.length === 3) done()
  }
})
for (const [id, cmd] of [
  ['SUBSCRIBE', '__keyspace@0__:tab'], ['SET', 'tab', '1'], ['INCR', 'tab'], ['GET', 'tab'], ['DEL', 'tab']
].entries()) socket.send(JSON.stringify({id, cmd}))
await changed
return [replies, pushes]
"""


@needs_chromium
def test_a_page_puts_gets_and_watches_a_key() -> None:
    site = Site()
    try:
        with running(workers=WORKERS, allow_origin=f"http://friend.example:{site.port}") as server:
            target = f"ws://{server.host}:{server.port}/ws"
            replies, pushes = site.visit("friend.example", WATCHING.replace("TARGET", target))
            assert replies == [
                {"id": 0, "result": [["subscribe", "__keyspace@0__:tab", 1]]},
                {"id": 1, "result": "OK"},
                {"id": 2, "result": 2},
                {"id": 3, "result": "2"},
                {"id": 4, "result": 1},
            ]
            assert pushes == [["message", "__keyspace@0__:tab", event] for event in ("set", "incrby", "del")]
            assert server.stop() == 0
    finally:
        site.close()
