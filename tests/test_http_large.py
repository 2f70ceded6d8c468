"""Large values over HTTP: copied in steps and received in place, with the replies that small ones have."""

import asyncio
import itertools
from typing import Any

import pytest
from fake import CLOSE, Client, Worker, get, hit, in_loop, put_pair
from rest_helpers import FAILED, created, error, field_of, found, kv, replaced, status_of
from server import running
from store_helpers import payload

from fastkv.access_log import LoggedConnection, Noted
from fastkv.http.body import LARGE_BYTES
from fastkv.http.large import HUGE_PAGE_BYTES, LargeTail
from fastkv.http.rest import Resources
from fastkv.stats import Column
from fastkv.steps import Steps
from fastkv.store import Store
from fastkv.store.large import LargeReader, LargeValue

pytestmark = pytest.mark.usefixtures("implementation")

MIB = 1 << 20
VALUE = payload("value", 5 * MIB + 77)
OTHER = payload("other", 5 * MIB)


def large_worker(store: Store | None = None, **settings: Any) -> Worker:
    """A worker whose turns are a step long."""
    worker = Worker(
        store or Store(64 * MIB),
        memory_bytes=64 * MIB,
        max_value_bytes=16 * MIB,
        max_output_bytes=32 * MIB,
        **settings,
    )
    worker.service.turn_seconds = -1.0
    return worker


async def answer_of(client: Client, request: bytes, replies: int = 1) -> bytes:
    """Send a request; the reply, however many turns it takes."""
    client.send(request)
    return await answered(client, replies)


async def answered(client: Client, replies: int = 1) -> bytes:
    """All that a client is sent until the last of its replies has come; HEAD and 304 bring no body."""
    sent = b""
    for _ in range(10_000):
        sent += client.take()
        if sent.count(b"HTTP/1.1 ") >= replies:
            return sent
        await asyncio.sleep(0)
    raise AssertionError("there is no reply")


def put_value(worker: Worker, value: bytes = VALUE, key: bytes = b"key") -> bytes:
    """Put a value; its ETag."""
    return b'"%x"' % worker.store.put(key, value, lambda: worker.now_ms, 0, 0)


def resources(worker: Worker) -> Any:
    """What answers requests under /kv."""
    (by_path,) = {worker.routes.keyed[b"GET /kv/"]}
    cells: Any = by_path.__closure__
    return next(cell.cell_contents for cell in cells if isinstance(cell.cell_contents, Resources))


# -- the same replies --------------------------------------------------------------------------------------

REQUESTS = {
    "get": ("GET", b""),
    "head": ("HEAD", b""),
    "range": ("GET", b"Range: bytes=1000000-3000000\r\n"),
    "range over the end": ("GET", b"Range: bytes=5242000-\r\n"),
    "suffix": ("GET", b"Range: bytes=-5\r\n"),
    "range of head": ("HEAD", b"Range: bytes=1-5\r\n"),
    "no such range": ("GET", b"Range: bytes=9000000-\r\n"),
    "no such range of head": ("HEAD", b"Range: bytes=9000000-\r\n"),
    "not modified": ("GET", b"If-None-Match: %b\r\n"),
    "not modified, head": ("HEAD", b"If-None-Match: %b\r\n"),
    "modified": ("GET", b'If-None-Match: "0"\r\n'),
    "match": ("GET", b"If-Match: %b\r\n"),
    "no match": ("GET", b'If-Match: "0"\r\n'),
    "no match, head": ("HEAD", b'If-Match: "0"\r\n'),
    "if range": ("GET", b"If-Range: %b\r\nRange: bytes=0-9\r\n"),
    "last": ("GET", b"Connection: close\r\n"),
    "of 1.0": ("GET", b"Connection: keep-alive\r\nX: y\r\n"),
}


@pytest.mark.parametrize("name", REQUESTS)
@in_loop
async def test_replies_are_those_of_one_step(name: str) -> None:
    method, fields = REQUESTS[name]
    worker = large_worker()
    plain = large_worker(worker.store)
    resources(plain)._large = None
    etag = put_value(worker)
    request = kv(method, "key", fields.replace(b"%b", etag))
    ours = await answer_of(worker.client(), request)
    theirs = await answer_of(plain.client(), request)
    assert ours == theirs
    assert resources(worker)._large is not None
    assert worker.counters[Column.HITS] == plain.counters[Column.HITS]
    if method == "HEAD":
        assert ours.endswith(b"\r\n\r\n")
    if name == "get":
        assert ours == found(VALUE, etag)
    assert not resources(worker)._copying
    worker.verify()
    plain.verify()


@in_loop
async def test_the_type_of_a_large_value_is_told() -> None:
    worker = large_worker()
    client = worker.client()
    answer = await answer_of(client, kv("PUT", "key", b"Content-Type: text/plain\r\n", VALUE))
    etag = field_of(answer, "ETag")
    assert etag is not None
    assert answer == created(etag)
    expected = found(VALUE, etag, content=b"Content-Type: text/plain\r\n")
    assert await answer_of(client, kv("GET", "key")) == expected
    worker.verify()


# -- in between --------------------------------------------------------------------------------------------


@in_loop
async def test_others_are_answered_between_the_steps() -> None:
    worker = large_worker()
    etag = put_value(worker)
    one, other = worker.client(), worker.client()
    assert other.ask(put_pair("a", "1")).startswith(b"HTTP/1.1 200")
    one.send(kv("GET", "key"))
    between = 0
    while not (sent := one.take()):
        assert other.ask(get("a")) == hit("a", "1")
        between += 1
        await asyncio.sleep(0)
    assert sent == found(VALUE, etag)
    assert between > 3
    worker.verify()


@in_loop
async def test_replies_of_a_pipeline_are_in_order() -> None:
    worker = large_worker()
    put_value(worker, b"first", b"a")
    put_value(worker)
    put_value(worker, b"last", b"b")
    client = worker.client()
    sent = await answer_of(client, kv("GET", "a") + kv("GET", "key") + kv("GET", "b"), 3)
    bodies = [reply.partition(b"\r\n\r\n")[2] for reply in sent.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [b"first", VALUE, b"last"]
    sent = await answer_of(client, kv("GET", "key") + kv("HEAD", "key") + kv("GET", "key", CLOSE), 3)
    bodies = [reply.partition(b"\r\n\r\n")[2] for reply in sent.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [VALUE, b"", VALUE]
    assert client.transport.ended
    worker.verify()


async def begun(worker: Worker, client: Client, request: bytes) -> None:
    """Send a request, and wait until its value is being copied."""
    client.send(request)
    for _ in range(1000):
        if resources(worker)._copying:
            return
        await asyncio.sleep(0)
    raise AssertionError("nothing is copied")


@pytest.mark.parametrize("after", [OTHER, b"small", None], ids=["large", "small", "gone"])
@pytest.mark.parametrize("method", ["GET", "range"])
@in_loop
async def test_a_value_that_is_replaced_in_the_middle_is_the_new_one(
    method: str, after: bytes | None, copies: list[int]
) -> None:
    worker = large_worker()
    put_value(worker)
    client = worker.client()
    request = kv("GET", "key", b"Range: bytes=1-4000000\r\n" if method == "range" else b"")
    await begun(worker, client, request)
    assert client.take() == b""
    if after is None:
        worker.store.delete(b"key", lambda: 0)
    else:
        put_value(worker, after)
    plain = large_worker(worker.store)
    resources(plain)._large = None
    expected = await answer_of(plain.client(), request)
    assert await answered(client) == expected
    assert status_of(expected) == (404 if after is None else 206 if method == "range" else 200)
    assert worker.counters[Column.HITS] == 1  # it was there when it was asked for
    assert len(copies) == (2 if after == OTHER else 1)
    assert not resources(worker)._copying
    worker.verify()


@in_loop
async def test_a_value_that_is_replaced_all_the_time_is_whole() -> None:
    worker = large_worker()
    values = {put_value(worker): VALUE}
    client = worker.client()
    client.send(kv("GET", "key"))
    while not (sent := client.take()):
        value = OTHER if len(values) % 2 else VALUE
        values[put_value(worker, value)] = value
        await asyncio.sleep(0)
    etag = field_of(sent, "ETag")
    assert etag is not None
    assert sent == found(values[etag], etag)
    assert len(values) > 3
    assert worker.counters[Column.HITS] == 1
    assert not resources(worker)._copying
    worker.verify()


@in_loop
async def test_a_client_that_has_gone_lets_the_next_one_copy() -> None:
    worker = large_worker()
    etag = put_value(worker)
    one, other = worker.client(), worker.client()
    await begun(worker, one, kv("GET", "key"))
    other.send(kv("GET", "key"))
    one.leave()
    assert not resources(worker)._copying
    assert await patiently(other) == found(VALUE, etag)
    assert one.take() == b""
    worker.verify()


async def patiently(client: Client) -> bytes:
    """The reply of one that waits for others, which takes some time."""
    for _ in range(10_000):
        if sent := client.take():
            return sent
        await asyncio.sleep(0.001)
    raise AssertionError("there is no reply")


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The versions that are copied in steps; no two are copied at a time."""
    begun: list[int] = []
    copy = LargeReader.copy
    running = 0

    def noted(self: LargeReader, value: LargeValue, start: int, target: memoryview) -> Steps[bool]:
        nonlocal running
        assert not running
        running += 1
        begun.append(value.entry[2])
        try:
            return (yield from copy(self, value, start, target))
        finally:
            running -= 1

    monkeypatch.setattr(LargeReader, "copy", noted)
    return begun


@in_loop
async def test_two_at_once_get_theirs_and_count_once_each(copies: list[int]) -> None:
    worker = large_worker()
    etags = put_value(worker), put_value(worker, OTHER, b"other")
    one, other = worker.client(), worker.client()
    await begun(worker, one, kv("GET", "key"))
    other.send(kv("GET", "other"))
    assert await patiently(one) == found(VALUE, etags[0])
    assert await patiently(other) == found(OTHER, etags[1])
    assert worker.counters[Column.HITS] == 2
    assert len(copies) == 2
    worker.verify()


@in_loop
async def test_a_client_that_reads_nothing_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was sent before fills its transport: it has no turn until it reads."""
    # Both are answered in one turn, which ends in the middle of a copy.
    monkeypatch.setattr("fastkv.connection.monotonic", itertools.count(0, -10).__next__)
    worker = large_worker()
    etag = put_value(worker)
    put_value(worker, b"v" * 100_000, b"small")
    slow, other = worker.client(), worker.client()
    slow.transport.slow = True
    slow.send(kv("GET", "small") + kv("GET", "key"))
    other.send(kv("GET", "key"))
    assert await patiently(other) == found(VALUE, etag)
    assert VALUE not in slow.transport.sent
    slow.transport.client_reads()
    slow.take()
    slow.transport.slow = False
    assert await patiently(slow) == found(VALUE, etag)
    worker.verify()


@in_loop
async def test_the_access_log_notes_status_and_length() -> None:
    worker = large_worker()
    put_value(worker)
    noted: list[Noted] = []
    log: Any = type("Log", (), {"note": lambda self, one: noted.append(one)})()
    client = worker.client(lambda service: LoggedConnection(service, log))
    await answer_of(client, kv("GET", "key"))
    await answer_of(client, kv("GET", "key", b"Range: bytes=0-2999999\r\n"))
    await answer_of(client, kv("HEAD", "key"))
    assert [(one.line, one.status, one.body_bytes) for one in noted] == [
        (b"GET /kv/key", 200, len(VALUE)),
        (b"GET /kv/key", 206, 3_000_000),
        (b"HEAD /kv/key", 200, 0),
    ]
    worker.verify()


def no_memory(size: int) -> Any:
    raise OSError(12, "Cannot allocate memory")


@in_loop
async def test_without_memory_for_a_reply_it_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = large_worker()
    etag = put_value(worker)
    client = worker.client()
    with monkeypatch.context() as patch:
        patch.setattr("fastkv.http.large.map_memory", no_memory)
        answer = await answer_of(client, kv("GET", "key"))
    assert status_of(answer) == 503
    assert not resources(worker)._copying
    assert await answer_of(client, kv("GET", "key")) == found(VALUE, etag)
    worker.verify()


@pytest.mark.parametrize("front_bytes", [0, 1, 300, 4095, 4096, 4097, 9000])
def test_what_precedes_a_body_may_be_of_any_length(front_bytes: int) -> None:
    tail = LargeTail.of_size(10_000)
    tail.body[:] = VALUE[:10_000]
    tail.fields = b"f" * (front_bytes // 3)
    front = b"h" * (front_bytes - len(tail.fields))
    assert bytes(tail.behind(front)) == front + tail.fields + VALUE[:10_000]


# -- bodies that arrive ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [LARGE_BYTES, LARGE_BYTES + 1, len(VALUE)])
@in_loop
async def test_a_body_over_many_reads_is_stored_whole(size: int) -> None:
    worker = large_worker()
    value = VALUE[:size]
    client = worker.client()
    request = kv("PUT", "key", b"Content-Type: a/b\r\n", value)
    held, at = [], 0
    for step in itertools.cycle([1, 100_000, 65_537, 1000]):
        client.send(request[at : at + step])
        at += step
        if at >= len(request):
            break
        held.append((at, client.connection.held_bytes))
    answer = client.take()
    etag = field_of(answer, "ETag")
    assert etag is not None
    assert answer == created(etag)
    assert client.connection.held_bytes < 100_000
    for sent, counted in held:
        assert sent - 1000 <= counted <= sent + HUGE_PAGE_BYTES + 20_000
    assert size <= LARGE_BYTES or held[-1][1] >= len(request) - 200_000
    assert await answer_of(client, kv("GET", "key")) == found(value, etag, content=b"Content-Type: a/b\r\n")
    worker.verify()


@in_loop
async def test_huge_pages_count_as_held() -> None:
    worker = large_worker()
    client = worker.client()
    request = kv("PUT", "key", b"", VALUE)
    head = request.index(b"\r\n\r\n") + 4
    client.send(request[: head + LARGE_BYTES])
    before = client.connection.held_bytes
    client.send(request[head + LARGE_BYTES : head + LARGE_BYTES + 10])
    assert client.connection.held_bytes == before + 10 + HUGE_PAGE_BYTES
    client.send(request[head + LARGE_BYTES + 10 :])
    assert status_of(client.take()) == 201
    worker.verify()


@in_loop
async def test_conditions_on_a_large_body_hold_or_fail() -> None:
    worker = large_worker()
    etag = put_value(worker)
    client = worker.client()
    refused = await answer_of(client, kv("PUT", "key", b'If-Match: "0"\r\n', OTHER))
    assert refused == FAILED
    assert await answer_of(client, kv("GET", "key")) == found(VALUE, etag)
    answer = await answer_of(client, kv("PUT", "key", b"If-Match: %b\r\n" % etag, OTHER))
    after = field_of(answer, "ETag")
    assert after is not None
    assert answer == replaced(after)
    assert await answer_of(client, kv("GET", "key")) == found(OTHER, after)
    worker.verify()


@in_loop
async def test_without_memory_for_a_body_it_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = large_worker()
    client = worker.client()
    monkeypatch.setattr("fastkv.http.body.map_memory", no_memory)
    message = "The server has no memory for such a long body."
    expected = error("503 Service Unavailable", message, b"Retry-After: 1\r\n", CLOSE)
    client.send(kv("PUT", "key", b"", VALUE)[:1000])
    assert client.take() == expected
    assert client.transport.ended
    other = worker.client()
    assert status_of(other.ask(kv("PUT", "key", b"", VALUE[:LARGE_BYTES]))) == 201
    worker.verify()


# -- on sockets --------------------------------------------------------------------------------------------


def test_large_values_on_sockets() -> None:
    with running(memory="64mb", max_value_bytes="16mb", workers=1) as server:
        assert server.request("PUT", "/kv/key", VALUE).status == 201
        reply = server.request("GET", "/kv/key")
        assert (reply.status, reply.body) == (200, VALUE)
        reply = server.request("GET", "/kv/key", fields={"Range": "bytes=1000-4999999"})
        assert (reply.status, reply.body) == (206, VALUE[1000:5_000_000])
        assert server.request("HEAD", "/kv/key", fields={"If-Match": '"0"'}).status == 412
