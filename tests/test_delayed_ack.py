"""Acknowledgements while a request is incomplete: asked for on a fake, seen in the kernel, counted there."""

import http.client
import itertools
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import ws_frames
from certificates import make_pair, needs_openssl
from fake import Client, get, put_pair
from kernel_helpers import namespaced
from server import read_reply, running

from fastkv.outlet import send_ack

pytestmark = pytest.mark.usefixtures("implementation")

HEAD = b"PUT /kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"PUT /kv/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
MESSAGE = ws_frames.frame(ws_frames.TEXT, b'["PING"]')

# Enough that the kernel has stopped to acknowledge at once by itself, as it does at first.
_WARM_UP = 40


class Kernel:
    """A TCP socket that counts how often it was asked to acknowledge at once."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.acks = 0

    def fileno(self) -> int:
        return -1

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option, value) == (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.acks += 1


@pytest.mark.parametrize(
    ("pieces", "acks"),
    [
        ((HEAD, b"he", b"llo"), [1, 1, 0]),
        ((HEAD + b"hel", b"lo"), [1, 0]),
        ((HEAD[:9], HEAD[9:30], HEAD[30:] + b"hello"), [1, 1, 0]),
        ((CHUNKED, b"5\r\nhello\r\n", b"0\r\n", b"\r\n"), [1, 1, 1, 0]),
        ((b"\r\n", get("a")), [1, 0]),
        ((get("a"), get("a"), put_pair("a", "b"), put_pair("a", "b")), [0, 0, 0, 0]),
        ((get("a") + get("b"), get("a") * 3), [0, 0]),
        # A reply takes the acknowledgement along.
        ((get("a") + HEAD, b"hel", b"lo"), [0, 1, 0]),
        ((HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"), b"hello"), [0, 0]),
        ((b"\0",), [0]),
        ((ws_frames.HANDSHAKE % b"", MESSAGE[:1], MESSAGE[1:7], MESSAGE[7:]), [0, 1, 1, 0]),
        ((ws_frames.HANDSHAKE % b"", MESSAGE, MESSAGE + MESSAGE[:3], MESSAGE[3:]), [0, 0, 0, 0]),
        (
            (
                ws_frames.HANDSHAKE % b"",
                ws_frames.frame(ws_frames.TEXT, b'["PI', fin=False),
                ws_frames.frame(ws_frames.CONT, b'NG"]'),
            ),
            [0, 1, 0],
        ),
    ],
)
def test_what_is_incomplete_is_acknowledged_and_nothing_else(
    client: Client, pieces: tuple[bytes, ...], acks: list[int]
) -> None:
    kernel = client.transport.socket = Kernel()
    counted = [0]
    for piece in pieces:
        client.send(piece)
        counted.append(kernel.acks)
    assert [after - before for before, after in itertools.pairwise(counted)] == acks


def test_the_kernel_is_asked_of_tcp_alone() -> None:
    def is_quick(end: socket.socket) -> int:
        return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        end, _ = listener.accept()
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        assert not is_quick(end)
        send_ack(end)
        assert is_quick(end)
        end.close()
        send_ack(end)
    send_ack(None)
    for end in socket.socketpair():
        with end:
            send_ack(end)


def _delayed_acks() -> int:
    """How often this network namespace has acknowledged something late."""
    lines = [line.split() for line in Path("/proc/net/netstat").read_text().splitlines()]
    names, counts = (line for line in lines if line[0] == "TcpExt:")
    return int(counts[names.index("DelayedACKs")])


def _prompt_rounds(converse: Callable[[], None], most: int) -> int:
    """Converse until ten rounds went without a late acknowledgement; how many did.

    On a busy machine the server may come to read the head too late; that such rounds are few is not asked.
    """
    prompt = 0
    for _ in range(most):
        before = _delayed_acks()
        converse()
        prompt += _delayed_acks() == before
        if prompt == 10:
            break
    return prompt


def _http_client(host: str, port: int) -> Iterator[None]:
    """Python's own, which sends head and body apart, without the TCP_NODELAY that it sets since 3.6."""
    with closing(http.client.HTTPConnection(host, port, timeout=10)) as connection:
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        while True:
            connection.request("PUT", "/kv/a", b"hello")
            connection.getresponse().read()
            yield


def _in_pieces(client: socket.socket, method: str, *pieces: bytes) -> Iterator[None]:
    with client, client.makefile("rb") as stream:
        while True:
            for piece in pieces:
                client.sendall(piece)
            read_reply(stream, method)
            yield


def _secure(host: str, port: int, cert: Path) -> socket.socket:
    plain = socket.create_connection((host, port), 10)
    return ssl.create_default_context(cafile=cert).wrap_socket(plain, server_hostname="localhost")


@namespaced
def test_no_client_waits_for_a_delayed_acknowledgement() -> None:
    with running(workers=1) as server:
        address = server.host, server.port
        for rounds in (
            _http_client(*address),
            _in_pieces(server.connect(), "HEAD", HEAD, b"hello"),
            _in_pieces(server.connect(), "HEAD", HEAD[:20], HEAD[20:] + b"hello"),
        ):
            for _ in range(_WARM_UP):
                next(rounds)
            assert _prompt_rounds(lambda rounds=rounds: next(rounds), 200) == 10  # type: ignore[misc]


@needs_openssl
def test_no_client_waits_behind_tls_either(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)

    @namespaced
    def inside() -> None:
        with running(workers=1, **pair.settings) as server:
            rounds = _in_pieces(_secure(server.host, server.port, pair.cert), "HEAD", HEAD, b"hello")
            for _ in range(_WARM_UP):
                next(rounds)
            assert _prompt_rounds(lambda: next(rounds), 200) == 10

    inside()
