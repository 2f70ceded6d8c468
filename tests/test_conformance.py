"""Every case as its client sees it: on a connection without sockets, and on a real server."""

import socket
from collections.abc import Iterator, Sequence

import pytest
from cases import CASES
from cases.case import BODY, GET_LINE, GOOD, HOST, MAX_BODY_BYTES, MAX_HEAD_BYTES, PUT_LINE, Case, Then
from fake import Worker, running_loop
from replies import Reply, read_replies
from server import Server, running

_EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
_STORE = b"PUT /put HTTP/1.1\r\n" + HOST + b"Content-Length: 36\r\n\r\n" + BODY
# What a client hides behind a request that closes, and what it sends behind another.
_SMUGGLED = _STORE.replace(b'"name"', b'"evil"')
_LAST = b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


# What is refused on the head, if the body has not arrived with it; then the connection ends.
_ON_THE_HEAD = (401, 403, 404, 405, 413, 421, 501)


def _may_be_refused(case: Case) -> bool:
    """Whether a request with a body is one that no body could make good."""
    return any(body and line not in (b"PUT /put", b"POST /put") for line, body in case.messages)


def _pieces(data: bytes, at: int) -> Sequence[bytes]:
    return [piece for piece in (data[:at], data[at:]) if piece]


def _behind(case: Case) -> bytes:
    """What is sent behind a case to see what becomes of its connection."""
    return {Then.OPEN: _LAST, Then.CLOSED: _SMUGGLED, Then.WAITING: b""}[case.then]


def _check(sent: bytes, case: Case, *, ended: bool) -> list[Reply]:
    """Each message has its reply, a refusal its own, and behind it there is nothing.

    Args:
        sent: What the server has sent, on a connection where `_behind` was sent too.
        case: The case.
        ended: Whether the server has said that it will send no more.

    Returns:
        Interim replies.
    """
    methods = [line.partition(b" ")[0] for line, _ in case.messages]
    if case.error:
        methods.append(b"HEAD" if case.data.startswith(b"HEAD ") else b"")
    if case.then is Then.OPEN:
        methods.append(b"")
    replies = read_replies(sent, methods)
    final = [reply for reply in replies if reply.status >= 200]
    if case.then is Then.OPEN and _may_be_refused(case) and len(final) == len(methods) - 1:
        assert ended
        assert final[-1].status in _ON_THE_HEAD
        assert final[-1].closes
        return []
    assert len(final) == len(methods)
    assert ended is (case.then is not Then.WAITING)
    if ended:
        assert [reply.closes for reply in final] == [False] * (len(final) - 1) + [True]
    if case.then is Then.OPEN:
        assert final.pop().status == 200
    if case.error:
        assert final.pop().status == case.error
    for (line, body), reply in zip(case.messages, final, strict=True):
        assert reply.status in (200, 204, 400, 404, 405, 411, 413, 501)
        if line == GET_LINE or (line == PUT_LINE and body == BODY):
            assert reply.status == 200
    return [reply for reply in replies if reply.status < 200]


def _continues(case: Case) -> int:
    """How often 100 is due where nothing follows the first head yet."""
    expects = b"100-continue" in case.data.lower() and b"HTTP/1.1" in case.data and not case.error
    return int(expects and (b"Content-Length: 36" in case.data or b"chunked" in case.data))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(max_head_bytes=MAX_HEAD_BYTES, max_body_bytes=MAX_BODY_BYTES, allowed_host="a.b.")
    with running_loop():
        worker.client().send(_STORE)
    yield worker
    assert worker.store.get(b"evil", lambda: 0) is None
    worker.verify()


@_EACH
def test_on_a_connection(case: Case, worker: Worker) -> None:
    data = case.data + _behind(case)
    head = case.data.find(b"\r\n\r\n") + 4
    with running_loop():
        for at in {0, head, len(case.data), *range(1, len(data), 1 + len(data) // 50)}:
            client = worker.client()
            client.send(*_pieces(data, at))
            interim = _check(bytes(client.transport.sent), case, ended=client.transport.ended)
            waits = head in (at, len(data))
            assert len(interim) == (_continues(case) if waits else 0)
            client.leave()
        client = worker.client()
        client.send(*(data[at : at + 1] for at in range(len(data))))
        interim = _check(bytes(client.transport.sent), case, ended=client.transport.ended)
        assert len(interim) == _continues(case)
        client.leave()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    limits = {"max_head_bytes": f"{MAX_HEAD_BYTES}", "max_body_bytes": f"{MAX_BODY_BYTES}"}
    limits["allowed_host"] = "a.b."
    with running(workers=2, max_value_bytes="128", max_key_bytes="32", **limits) as server:
        _converse(server, [_STORE, _LAST])
        yield server
        assert server.request("GET", "/get?key=evil").status == 404
        assert server.request("GET", "/stats").body.find(b'"internal_errors":0') > 0
        assert server.stop() == 0


def _converse(server: Server, pieces: Sequence[bytes], *, finish: bool = False) -> bytes:
    """Send pieces and read until the server has said all."""
    with server.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
        if finish:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


@_EACH
def test_on_a_server(case: Case, server: Server) -> None:
    data = case.data + _behind(case)
    for at in (0, len(data) // 2, len(case.data)):
        waiting = case.then is Then.WAITING
        sent = _converse(server, _pieces(data, at), finish=waiting)
        interim = _check(sent, case, ended=not waiting)
        assert len(interim) <= 1


def test_an_open_connection_answers_every_good_case_in_a_row(server: Server) -> None:
    open_cases = [case for case in CASES if case.then is Then.OPEN and not _may_be_refused(case)]
    methods = [line.partition(b" ")[0] for case in open_cases for line, _ in case.messages]
    with server.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for case in open_cases:
            client.sendall(case.data)
        client.sendall(GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = b"".join(iter(lambda: client.recv(1 << 16), b""))
    final = [reply for reply in read_replies(received, [*methods, b""]) if reply.status >= 200]
    assert len(final) == len(methods) + 1
    assert final[-1].closes
