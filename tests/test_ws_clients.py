"""WebSocket clients made by others: Python's `websockets`, Node's own, the ws package, a page in Chromium."""

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from browser import Site, needs_chromium
from certificates import make_pair, needs_openssl
from clients import run
from server import Server, running
from websockets.sync.client import connect as connect_sync

NODE = Path(__file__).with_name("node")
TOKEN = "s3cret-T0ken"
LONG = "x" * 300_000

# What each client says, and what it is told.
TALK: list[tuple[Any, Any]] = [
    (["SET", "k", "ü😀\0"], {"result": "OK"}),
    *[(["GET", "k"], {"result": "ü😀\0"})] * 4,
    ({"id": [1.5], "cmd": ["STRLEN", "k"]}, {"id": [1.5], "result": 7}),
    ([["PING"], {"id": 2, "cmd": ["GET", "none"]}], [{"result": "PONG"}, {"id": 2, "result": None}]),
    (["SET", "long", LONG], {"result": "OK"}),
    (["GET", "long"], {"result": LONG}),
    *[
        ({"id": number, "cmd": ["ECHO", number]}, {"id": number, "result": str(number)})
        for number in range(300)
    ],
]
GET_K = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
VALUE_OF_K = "$7\r\nü😀\0\r\n".encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(workers=1) as started:
        yield started
        assert started.stop() == 0


def url_of(server: Server, query: str = "") -> str:
    return f"ws://{server.host}:{server.port}/ws{query}"


@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets_on_asyncio(server: Server, compression: str | None) -> None:
    async def scenario() -> None:
        async with websockets.connect(url_of(server), compression=compression, proxy=None) as socket:
            for said, _ in TALK:  # all before any reply is read
                await socket.send(json.dumps(said))
            for _, told in TALK:
                assert json.loads(await socket.recv()) == told
            await socket.send([json.dumps(TALK[0][0])[:5], json.dumps(TALK[0][0])[5:]])
            assert json.loads(await socket.recv()) == TALK[0][1]
            await socket.send(GET_K)
            assert await socket.recv() == VALUE_OF_K
            await (await socket.ping())

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets_without_asyncio(server: Server, compression: str | None) -> None:
    with connect_sync(url_of(server), compression=compression, proxy=None) as socket:
        for said, told in TALK:
            socket.send(json.dumps(said))
            assert json.loads(socket.recv(30)) == told
        socket.send(GET_K)
        assert socket.recv(30) == VALUE_OF_K


def test_node(server: Server) -> None:
    if not (NODE / "node_modules").exists():
        pytest.skip("the clients from npm are not installed: npm ci --prefix tests/node")
    # Node 20 has its own WebSocket behind a flag, later ones have it anyway.
    assert int(run("node", "--experimental-websocket", NODE / "ws.mjs", url_of(server))) >= 24


PAGE = """
const socket = new WebSocket('TARGET')
const waiting = []
socket.onmessage = event => waiting.shift()(JSON.parse(event.data))
const opened = await new Promise(done => {
  socket.onopen = () => done(true)
  socket.onerror = () => done(false)
})
if (!opened) return 'refused'
const ask = said => new Promise(done => { waiting.push(done); socket.send(JSON.stringify(said)) })
const told = [
  await ask(['SET', 'page', 'é']),
  await ask(['GET', 'page']), await ask(['GET', 'page']), await ask(['GET', 'page']),
  await ask({id: 1, cmd: ['APPEND', 'page', 'x'.repeat(3000)]}), (await ask(['GET', 'page'])).result.length
]
const closed = new Promise(done => { socket.onclose = event => done([event.code, event.wasClean]) })
socket.close(1000)
return [told, await closed, socket.extensions]
"""


@needs_chromium
def test_a_page_of_an_allowed_origin_and_a_stranger() -> None:
    site = Site()
    try:
        origin = f"http://friend.example:{site.port}"
        with running(workers=1, token=TOKEN, allow_origin=origin) as server:
            with_token = PAGE.replace("TARGET", url_of(server, f"?_token={TOKEN}"))
            told, closed, extensions = site.visit("friend.example", with_token)
            value = {"result": "é"}
            assert told == [{"result": "OK"}, value, value, value, {"id": 1, "result": 3002}, 3001]
            assert closed == [1000, True]
            assert extensions.startswith("permessage-deflate")
            assert site.visit("evil.example", with_token) == "refused"
            assert site.visit("friend.example", PAGE.replace("TARGET", url_of(server))) == "refused"
            assert server.stop() == 0
    finally:
        site.close()


@needs_openssl
def test_over_tls_with_backpressure(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    trusted = ssl.create_default_context(cafile=str(pair.cert))
    with running(workers=1, **pair.settings) as server:
        url = f"wss://localhost:{server.port}/ws"
        with connect_sync(url, ssl=trusted, proxy=None, compression=None, max_size=None) as socket:
            socket.send(json.dumps(["SET", "long", LONG]))
            assert json.loads(socket.recv(30)) == {"result": "OK"}
            for _ in range(100):  # 30 MB of replies, which nobody reads yet
                socket.send(json.dumps(["GET", "long"]))
            for _ in range(100):
                assert json.loads(socket.recv(30)) == {"result": LONG}
        assert server.stop() == 0


def test_the_access_log_has_the_handshake_and_hides_the_token(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with running(workers=1, access_log=log, token=TOKEN) as server:
        with connect_sync(url_of(server, f"?_token={TOKEN}"), proxy=None) as socket:
            for _ in range(4):
                socket.send('["GET","k"]')
                assert json.loads(socket.recv(30)) == {"result": None}
        assert server.stop() == 0
    (line,) = log.read_text().splitlines()
    assert '"GET /ws?_token=*** HTTP/1.1" 101 0 ' in line


def test_a_server_that_stops_says_goodbye() -> None:
    with running(workers=1) as server, connect_sync(url_of(server), proxy=None) as socket:
        socket.send('["PING"]')
        assert json.loads(socket.recv(30)) == {"result": "PONG"}
        assert server.stop() == 0
        with pytest.raises(websockets.ConnectionClosedOK) as closed:
            socket.recv(30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
