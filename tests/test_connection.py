"""The connection on a fake transport: order, memory, backpressure, all kinds of ends, any bytes at all."""

import asyncio
import itertools
import os
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from cases import CASES
from fake import (
    CLOSE,
    DELETED,
    HEALTHY,
    MAX_KEY_BYTES,
    MAX_OUTPUT_BYTES,
    MAX_VALUE_BYTES,
    NOT_FOUND,
    STORED,
    Client,
    Worker,
    delete,
    error,
    get,
    hit,
    in_loop,
    put,
    put_pair,
    reply,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastkv.connection import Connection
from fastkv.errors import StoreBusy
from fastkv.flow import Phase
from fastkv.stats import Column
from fastkv.store import Store

pytestmark = pytest.mark.usefixtures("implementation")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
PAIR = b'{"key":"a","value":"1"}'


def chunked(*chunks: bytes, extra: bytes = b"") -> bytes:
    """A POST in chunks."""
    head = b"POST /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + extra + b"\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


# A conversation with every kind of request, in one row: (request, reply).
TALK: list[tuple[bytes, bytes]] = [
    (put_pair("a", "1"), STORED),
    (get("a"), hit("a", "1")),
    (get("a"), hit("a", "1")),
    (get("b"), NOT_FOUND),
    (get("a"), hit("a", "1")),
    (get("a", b"Accept: */*\r\n"), hit("a", "1")),
    (get("a", b"Content-Length: 3\r\n") + b"xyz", hit("a", "1")),
    (get("b"), NOT_FOUND),
    (b"HEAD" + get("a")[3:], hit("a", "1").partition(b'{"')[0]),
    (chunked(b'{"key":"a",', b'"value":"2"}'), STORED),
    (get("a"), hit("a", "2")),
    (get("a", b"Accept: */*\r\n"), hit("a", "2")),
    (put(b"[]"), error("400 Bad Request", "The body must be a JSON object.")),
    (b"\r\n" + HEALTH, HEALTHY),
    (delete("a"), DELETED),
    (delete("a"), NOT_FOUND),
    (get("a"), NOT_FOUND),
    (
        b"GET /get?key=a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        error("404 Not Found", "Key not found.", connection=b"Connection: keep-alive\r\n"),
    ),
    (
        b"POST /put HTTP/1.1\r\nHost: a\r\n\r\n",
        error("411 Length Required", "The length of the body is required."),
    ),
    (put_pair("a", "3"), STORED),
    (get("a", CLOSE), hit("a", "3", CLOSE)),
]
TALK_REQUESTS = b"".join(request for request, _ in TALK)
TALK_REPLIES = b"".join(answer for _, answer in TALK)


# -- order -------------------------------------------------------------------------------------------------


@in_loop
async def test_one_by_one() -> None:
    worker = Worker()
    client = worker.client()
    for request, answer in TALK:
        assert client.ask(request) == answer
    assert client.transport.ended
    worker.verify()


@in_loop
async def test_pipelined_at_every_split_in_two() -> None:
    worker = Worker()
    for at in range(len(TALK_REQUESTS)):
        client = worker.client()
        client.send(*filter(None, (TALK_REQUESTS[:at], TALK_REQUESTS[at:])))
        assert client.take() == TALK_REPLIES
        assert client.transport.ended
        client.transport.close()
        worker.store.delete(b"a", lambda: 0)
    worker.verify()


@in_loop
async def test_pipelined_byte_by_byte() -> None:
    worker = Worker()
    client = worker.client()
    client.send(*(bytes([byte]) for byte in TALK_REQUESTS))
    assert client.take() == TALK_REPLIES
    worker.verify()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(TALK_REQUESTS)), max_size=12))
def test_pipelined_at_any_splits(cuts: list[int]) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        bounds = [0, *sorted(cuts), len(TALK_REQUESTS)]
        client.send(*(TALK_REQUESTS[a:b] for a, b in itertools.pairwise(bounds) if a < b))
        assert client.take() == TALK_REPLIES
        worker.verify()

    scenario()


@in_loop
async def test_a_batch_is_one_write() -> None:
    worker = Worker()
    client = worker.client()
    client.send(put_pair("a", "1"))
    for _ in range(4):
        before = client.transport.writes
        client.send(get("a") * 15 + get("b"))
        assert client.transport.writes == before + 1
    assert client.take() == STORED + (hit("a", "1") * 15 + NOT_FOUND) * 4
    worker.verify()


@in_loop
async def test_connections_do_not_mix() -> None:
    worker = Worker()
    first, second = worker.client(), worker.client()
    first.send(put_pair("a", "1")[:-4])
    second.send(get("a")[:9])
    first.send(put_pair("a", "1")[-4:])
    second.send(get("a")[9:])
    assert first.take() == STORED
    assert second.take() == hit("a", "1")
    worker.verify()


# -- what is stored is what is said ------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3, 16], ids=lambda times: f"{times} at once")
def test_what_is_said_is_what_is_stored(times: int) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client, other = worker.client(), worker.client()
        for value in ("1", "2", "22", "3"):
            assert other.ask(put_pair("a", value)) == STORED
            for _ in range(4):
                assert client.ask(get("a") * times) == hit("a", value) * times
        assert other.ask(delete("a")) == DELETED
        for _ in range(4):
            assert client.ask(get("a") * times) == NOT_FOUND * times
        assert other.ask(put_pair("a", "3")) == STORED
        for _ in range(4):
            assert client.ask(get("a") * times) == hit("a", "3") * times
        worker.verify()

    scenario()


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(min_size=1, max_size=12),
        st.text('ab+%&=#?"\\ \x00\r\n/', min_size=1, max_size=6),
        st.text("k", min_size=MAX_KEY_BYTES - 1, max_size=MAX_KEY_BYTES + 2),
    ),
    st.one_of(st.none(), st.text(max_size=8), st.text('"\\é\n', max_size=8), st.just("v" * 1500)),
    st.booleans(),
)
@example("é" * MAX_KEY_BYTES, None, True)
@example("a b", "1", True)
@example("%zz", "1", False)
def test_the_fast_path_of_a_get_says_what_the_readable_one_says(
    key: str, value: str | None, quoted: bool
) -> None:
    """Whatever stands where a key may stand."""

    @in_loop
    async def scenario() -> None:
        store = Store(1 << 20)
        workers = Worker(store), Worker(store, readable=True)
        fast, readable = (worker.client() for worker in workers)
        raw = key.encode()
        if value is not None and len(raw) <= MAX_KEY_BYTES:
            fast.send(put(orjson.dumps({"key": key, "value": value})))
            fast.take()
        asked = quote(key).encode() if quoted else raw
        request = b"GET /get?key=%b HTTP/1.1\r\nHost: a\r\n\r\n" % asked
        assert fast.ask(request) == readable.ask(request)
        assert fast.transport.ended == readable.transport.ended
        for worker in workers:
            worker.verify()

    scenario()


@pytest.mark.parametrize(
    ("error", "line", "column", "closes"),
    [
        (StoreBusy, "503 Service Unavailable", Column.LOCK_TIMEOUTS, False),
        (RuntimeError, "500 Internal Server Error", Column.INTERNAL_ERRORS, True),
    ],
)
def test_what_fails_in_the_store_is_a_reply(
    error: type[Exception], line: str, column: Column, closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @in_loop
    async def scenario() -> None:
        failing = False
        store = Store(1 << 20)
        find = store.get

        def find_or_fail(key: bytes, clock: Any) -> Any:
            if failing:
                raise error("in vain")
            return find(key, clock)

        monkeypatch.setattr(store, "get", find_or_fail)
        worker = Worker(store, readable=True)
        client = worker.client()
        assert client.ask(get("a")) == NOT_FOUND
        failing = True
        assert client.ask(get("b")).startswith(b"HTTP/1.1 " + line.encode())
        assert worker.counters[column] == 1
        assert client.transport.ended == closes
        if not closes:
            failing = False
            assert client.ask(get("a")) == NOT_FOUND

    scenario()


_BODIES = st.one_of(
    st.builds(
        lambda key, value, more: orjson.dumps({"key": key, "value": value, **more}),
        st.one_of(
            st.text(max_size=4), st.text("k", min_size=MAX_KEY_BYTES, max_size=MAX_KEY_BYTES + 1), st.none()
        ),
        st.one_of(st.text(max_size=8), st.just("v" * (MAX_VALUE_BYTES + 1)), st.booleans()),
        st.sampled_from([{}, {}, {"ttl": 5}, {"ttl": 0}, {"ttl": "5"}, {"more": [1]}]),
    ),
    st.binary(min_size=1, max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_BODIES, min_size=1, max_size=4), st.sampled_from([b"PUT", b"POST"]))
def test_the_fast_path_of_a_put_says_and_does_what_the_readable_one_does(
    bodies: list[bytes], method: bytes
) -> None:
    @in_loop
    async def scenario() -> None:
        fast, readable = Worker(), Worker(readable=True)
        for body in bodies:
            request = put(body, method=method)
            client = fast.client()
            assert client.ask(request) == readable.client().ask(request)
            assert not client.transport.ended
        assert _entries(fast) == _entries(readable)
        assert list(fast.counters[Column.HITS :]) == list(readable.counters[Column.HITS :])
        fast.verify()
        readable.verify()

    scenario()


@in_loop
async def test_a_put_that_says_close_is_the_last_at_every_sight() -> None:
    worker = Worker()
    for _ in range(3):
        client = worker.client()
        assert client.ask(put(PAIR, CLOSE)) == reply(
            "200 OK", b'{"status":"OK","message":"Key inserted/updated successfully."}', connection=CLOSE
        )
        assert client.transport.ended
    worker.verify()


def _entries(worker: Worker) -> list[tuple[bytes, bytes, int, int]]:
    """All keys with value, flags and deadline."""
    found, _ = worker.store.scan(0, lambda: worker.now_ms, 1 << 20, 100)
    return sorted((key, value, flags, deadline_ms) for key, value, flags, _, deadline_ms, _ in found)


@in_loop
async def test_a_put_that_fails_unforeseen_is_the_last_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(1 << 20)

    def fail(*_: Any) -> None:
        raise RuntimeError("in vain")

    worker = Worker(store, readable=True)
    monkeypatch.setattr(store, "put", fail)
    client = worker.client()
    assert client.ask(put_pair("a", "2")).startswith(
        b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n"
    )
    assert client.transport.ended
    assert worker.counters[Column.INTERNAL_ERRORS] == 1


_PLAIN = [
    *("/get?key=" + key for key in ("plain", "quoted", "expiring", "absent", "plainGET", "k" * MAX_KEY_BYTES))
]
_OTHERS = [
    *("/get?key=" + key for key in ("", "%70lain", "a b", "plain&x", "large", "k" * (MAX_KEY_BYTES + 1))),
    *("/health", "/nowhere", "/kv/quoted"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.lists(st.sampled_from(_PLAIN), min_size=2, max_size=20),
        st.lists(st.sampled_from(_PLAIN + _OTHERS), min_size=2, max_size=20),
    ),
    st.sampled_from([1, 3, 1024]),
)
@example(["/kv/quoted", "/get?key=plain"], 1024)
def test_pipelined_requests_are_answered_as_those_that_come_alone(places: list[str], at_once: int) -> None:
    @in_loop
    async def scenario() -> None:
        requests = [b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % place.encode() for place in places]
        stores = [Store(1 << 20, seed=7) for _ in range(2)]  # a version, which is told, is that of a shard
        workers = Worker(stores[0], readable=True), Worker(stores[1], max_pipeline=at_once)
        for worker in workers:
            worker.client().send(
                put(b'{"key":"plain","value":"1"}'),
                put(b'{"key":"quoted","value":"\\"\\n"}'),
                put(b'{"key":"expiring","value":"2","ttl":9}'),
                put(b'{"key":"large","value":"%b"}' % (b"v" * MAX_VALUE_BYTES)),
                put(b'{"key":"%b","value":"3"}' % (b"k" * MAX_KEY_BYTES)),
            )
        alone, together = (worker.client() for worker in workers)
        together.ask(requests[0])
        alone.ask(requests[0])
        for _ in range(5):
            said = b"".join(alone.ask(request) for request in requests)
            await together.send_patiently(b"".join(requests))
            for _ in range(2 * len(requests)):
                await asyncio.sleep(0)
            assert together.take() == said
            assert together.transport.ended == alone.transport.ended
        told = [
            [worker.counters[column] for column in (Column.HITS, Column.MISSES, Column.KEY_TOO_LONG)]
            for worker in workers
        ]
        assert told[0] == told[1]

    scenario()


@pytest.mark.parametrize("keys", [["a"], ["a", "b"], ["absent"]], ids=["one", "several", "absent"])
@in_loop
async def test_others_have_a_turn_after_so_many_pipelined_gets(keys: list[str]) -> None:
    worker = Worker(max_pipeline=4)
    client = worker.client()
    client.send(put_pair("a", "1"), put_pair("b", "2"), *(get(key) for key in keys * 3))
    client.take()
    await client.send_patiently(b"".join(map(get, keys)) * 10)
    assert client.take().count(b"HTTP/1.1") == 4


@in_loop
async def test_pipelined_gets_stop_where_the_client_has_to_read() -> None:
    worker = Worker()
    client = worker.client()
    client.send(put_pair("a", "v" * 1000), *[get("a")] * 3)
    client.take()
    times = 2 * MAX_OUTPUT_BYTES // 1000
    client.send(get("a") * times)
    assert 0.9 * MAX_OUTPUT_BYTES < len(client.take()) < 1.1 * MAX_OUTPUT_BYTES
    assert client.connection.held_bytes > 0


@in_loop
async def test_pipelined_gets_that_must_wait_for_a_lock_are_told_so_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(1 << 20)

    def fail(key: Any, clock: Any) -> None:
        raise StoreBusy("in vain")

    monkeypatch.setattr(store, "get", fail)
    worker = Worker(store, readable=True)
    client = worker.client()
    client.ask(HEALTH)
    assert client.ask(get("a") + get("b")).count(b"HTTP/1.1 503 Service Unavailable") == 2
    assert worker.counters[Column.LOCK_TIMEOUTS] == 2


def test_another_process_writes() -> None:
    """What a different process stores, replaces and deletes is seen by the next request."""

    def elsewhere(worker: Worker, value: bytes | None) -> None:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                if value is None:
                    worker.store.delete(b"a", lambda: 0)
                else:
                    worker.store.put(b"a", value, lambda: 0)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0

    worker = Worker()

    @in_loop
    async def scenario() -> None:
        client = worker.client()
        for value in ("1", "2", "2", "3" * MAX_VALUE_BYTES):
            elsewhere(worker, value.encode())
            for _ in range(4):
                assert client.ask(get("a")) == hit("a", value)
        elsewhere(worker, None)
        assert client.ask(get("a")) == NOT_FOUND
        elsewhere(worker, b"4")
        assert client.ask(get("a")) == hit("a", "4")
        worker.verify()

    scenario()


@in_loop
async def test_a_reply_belongs_to_its_own_request() -> None:
    """A body that comes late leaves nothing behind for the next request."""
    worker = Worker()
    client, other = worker.client(), worker.client()
    client.send(put_pair("a", "1"))
    client.take()
    for _ in range(4):
        client.send(get("a", b"Content-Length: 2\r\n"), b"{}")
        assert client.take() == hit("a", "1")
        assert other.ask(get("missing")) == NOT_FOUND
        assert other.ask(get("missing") * 3) == NOT_FOUND * 3
    client.send(put_pair("missing", "2"))
    for _ in range(4):
        assert other.ask(get("missing")) == hit("missing", "2")
    worker.verify()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("pgdGe"), st.integers(1, 5)), max_size=40))
def test_many_connections_agree_with_a_dict(steps: list[tuple[int, str, int]]) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        clients = [worker.client() for _ in range(3)]
        model: dict[str, str] = {}
        for number, (who, what, times) in enumerate(steps):
            key, client = f"k{number % 2}", clients[who]
            if what == "p":
                assert client.ask(put_pair(key, str(number))) == STORED
                model[key] = str(number)
            elif what == "d":
                assert client.ask(delete(key)) == (DELETED if model.pop(key, None) else NOT_FOUND)
            elif what == "e":
                client.send(get(key, b"Content-Length: 1\r\n"), b"x")
                assert client.take() == (hit(key, model[key]) if key in model else NOT_FOUND)
            else:
                extra = b"Accept: */*\r\n" if what == "G" else b""
                expected = hit(key, model[key]) if key in model else NOT_FOUND
                assert client.ask(get(key, extra) * times) == expected * times
        worker.verify()

    scenario()


# -- backpressure ------------------------------------------------------------------------------------------

BIG = "v" * MAX_VALUE_BYTES
MANY = 100  # replies of 4 KiB: several times the limit of output


@pytest.mark.parametrize(
    "one",
    [
        get("a"),
        get("a", b"Content-Length: 1\r\n") + b"x",
        b"GET /get?key=a HTTP/1.1\r\nHoSt: a\r\nUpgrade: x\r\n\r\n",
    ],
    ids=["usual", "with a body", "unusual"],
)
def test_a_client_that_does_not_read_is_not_read(one: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        client.send(put_pair("a", BIG))
        client.take()
        client.transport.slow = True
        client.send(one * MANY + HEALTH)
        sent = len(client.transport.sent)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not client.is_read()
        # It stands still: one more reply than the limit, and what was written before it was known.
        stalled = client.take()
        assert stalled == hit("a", BIG) * (len(stalled) // len(hit("a", BIG)))
        assert len(stalled) <= 2 * (MAX_OUTPUT_BYTES + len(hit("a", BIG)))
        assert sent <= len(client.transport.sent)
        for _ in range(100):
            client.transport.client_reads()
            await asyncio.sleep(0)
        assert stalled + client.take() == hit("a", BIG) * MANY + HEALTHY
        assert client.is_read()
        assert worker.counters[Column.OUTPUT_PAUSES] > 0
        assert client.ask(get("b")) == NOT_FOUND
        worker.verify()

    scenario()


@pytest.mark.parametrize("run", [1, 2, 16, 64])
def test_output_is_bounded_whatever_is_mixed(run: int) -> None:
    """Requests in runs of the same header section: the limit counts over all runs of a read event."""
    mixed = (get("a") * run + get("a", b"Accept: */*\r\n") * run) * (1024 // run)

    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        client.send(put_pair("a", BIG))
        client.take()
        client.transport.slow = True
        client.send(mixed)
        for _ in range(5):
            await asyncio.sleep(0)
        stalled = client.take()
        # A run may be answered as a whole, and twice the limit is what one stall can add up to.
        assert len(stalled) <= 2 * (MAX_OUTPUT_BYTES + 2 * run * len(hit("a", BIG)))
        for _ in range(3000):
            client.transport.client_reads()
            await asyncio.sleep(0)
        assert stalled + client.take() == hit("a", BIG) * (2 * run * (1024 // run))
        worker.verify()

    scenario()


@in_loop
async def test_what_arrives_while_it_stalls_comes_after() -> None:
    worker = Worker()
    client = worker.client()
    client.send(put_pair("a", BIG))
    client.transport.slow = True
    client.take()
    client.send(get("a") * MANY + put_pair("a", "2")[:-5])
    assert not client.is_read()
    client.connection.data_received(put_pair("a", "2")[-5:] + get("a"))  # a read that was under way
    for _ in range(100):
        client.transport.client_reads()
        await asyncio.sleep(0)
    assert client.take() == hit("a", BIG) * MANY + STORED + hit("a", "2")
    assert client.ask(get("a")) == hit("a", "2")
    worker.verify()


@in_loop
async def test_others_have_their_turn_while_one_asks_for_much() -> None:
    worker = Worker()
    greedy, other = worker.client(), worker.client()
    greedy.send(put_pair("a", BIG))
    greedy.take()
    greedy.send(get("a") * 10 * MANY)
    assert len(greedy.take()) < len(hit("a", BIG)) * MANY
    assert other.ask(get("b")) == NOT_FOUND
    for _ in range(1000):
        await asyncio.sleep(0)
    assert greedy.is_read()
    worker.verify()


@in_loop
async def test_a_client_that_said_all_gets_all() -> None:
    worker = Worker()
    client = worker.client()
    client.send(put_pair("a", BIG))
    client.take()
    client.transport.slow = True
    client.send(get("a") * MANY)
    client.finish()
    assert not client.is_closed()
    for _ in range(100):
        client.transport.client_reads()
        await asyncio.sleep(0)
    assert client.take() == hit("a", BIG) * MANY
    assert client.is_closed()
    worker.verify()


@in_loop
async def test_a_client_that_leaves_while_it_stalls() -> None:
    worker = Worker()
    client = worker.client()
    client.send(put_pair("a", BIG))
    client.transport.slow = True
    client.send(get("a") * MANY)
    client.transport.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not worker.service.connections
    assert worker.counters[Column.CONNECTIONS] == 0
    worker.verify()


@settings(max_examples=60, deadline=None)
@given(
    order=st.lists(st.sampled_from(range(6)), min_size=1, max_size=120),
    cuts=st.lists(st.integers(1, 3000), max_size=8),
)
def test_nothing_is_lost_or_out_of_order_under_backpressure(order: list[int], cuts: list[int]) -> None:
    kinds = [
        (get("a"), hit("a", BIG)),
        (get("b"), NOT_FOUND),
        (get("a", b"Content-Length: 2\r\n") + b"xy", hit("a", BIG)),
        (chunked(b'{"key":"c",', b'"value":"1"}'), STORED),
        (put_pair("c", "1"), STORED),
        (get("a", b"If-Match: *\r\n"), hit("a", BIG)),
    ]
    requests = b"".join(kinds[kind][0] for kind in order)

    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        client.send(put_pair("a", BIG))
        client.take()
        client.transport.slow = True
        bounds = [0, *sorted({min(cut, len(requests)) for cut in cuts} - {0}), len(requests)]
        await client.send_patiently(*(requests[a:b] for a, b in itertools.pairwise(bounds) if a < b))
        for _ in range(200):
            client.transport.client_reads()
            await asyncio.sleep(0)
        assert client.take() == b"".join(kinds[kind][1] for kind in order)
        worker.verify()

    scenario()


# -- bodies ------------------------------------------------------------------------------------------------


@in_loop
async def test_chunks() -> None:
    worker = Worker()
    client = worker.client()
    assert client.ask(chunked(*(bytes([byte]) for byte in PAIR)) + get("a")) == STORED + hit("a", "1")
    trailer = chunked(PAIR)[:-2] + b"X-Sum: 1\r\n\r\n"
    assert client.ask(trailer + get("a")) == STORED + hit("a", "1")
    worker.verify()


@in_loop
async def test_malformed_chunks_end_the_connection() -> None:
    worker = Worker()
    client = worker.client()
    bad = chunked(PAIR).replace(b"\r\n0\r\n", b"xx0\r\n")
    assert client.ask(bad + get("a")) == error(
        "400 Bad Request", "The chunks of the body are malformed.", b"", CLOSE
    )
    assert client.ask(get("a")) == b""
    assert worker.store.stats()["entries"] == 0
    worker.verify()


EXPECT = b"Expect: 100-continue\r\n"


@pytest.mark.parametrize(
    "request_", [put(PAIR, EXPECT), chunked(PAIR, extra=EXPECT)], ids=["length", "chunks"]
)
def test_continue_comes_once_and_before_the_body(request_: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        head, end, body = request_.partition(b"\r\n\r\n")
        client = worker.client()
        assert client.ask(head) == b""
        assert client.ask(end) == CONTINUE
        for byte in body[:-1]:
            assert client.ask(bytes([byte])) == b""
        assert client.ask(body[-1:]) == STORED
        # Where the body comes along nobody waits for it.
        assert client.ask(request_ + get("a")) == STORED + hit("a", "1")
        assert client.ask(get("a")) == hit("a", "1")
        worker.verify()

    scenario()


def _phase(client: Client) -> Phase:
    return client.connection.phase


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
@in_loop
async def test_a_body_that_comes_behind_its_head_is_collected_for_the_core(
    method: bytes,
) -> None:
    """As Python's http.client, requests and urllib3 send it."""
    worker = Worker()
    client = worker.client()
    request = put_pair("a", "v" * 100).replace(b"POST", method)
    at = request.index(b"\r\n\r\n") + 4
    client.send(get("b") + request[:at])
    assert client.take() == NOT_FOUND
    assert _phase(client) is Phase.BODY
    assert client.connection.missing_bytes == len(request) - at
    for piece in (request[at : at + 9], request[at + 9 : -1]):
        client.send(piece)
    assert (client.connection.progress, client.connection.missing_bytes) == (len(request) - at - 1, 1)
    assert client.connection.held_bytes >= len(request) - 1
    assert client.ask(request[-1:] + get("a") + request[:9]) == STORED + hit("a", "v" * 100)
    assert _phase(client) is Phase.HEAD
    assert client.ask(request[9:]) == STORED
    assert client.connection.held_bytes == 0
    http = worker.service.http
    if http is not None:
        assert sum(http.declines.values()) == 1  # the beginning of the last head
    worker.verify()


@in_loop
async def test_a_worker_that_drains_meanwhile_ends_with_the_reply_to_a_body() -> None:
    worker = Worker()
    client = worker.client()
    client.send(put(PAIR)[:-5])
    worker.service.drain()
    assert client.ask(put(PAIR)[-5:] + get("a")) == STORED.replace(
        b"Content-Type", CLOSE + b"Content-Type", 1
    )
    assert client.transport.ended
    worker.verify()


@in_loop
async def test_continue_comes_behind_the_replies_before_it() -> None:
    worker = Worker()
    client = worker.client()
    head, body = put(PAIR, EXPECT)[: -len(PAIR)], PAIR
    assert client.ask(get("a") + head) == NOT_FOUND + CONTINUE
    assert client.ask(body + get("a")) == STORED + hit("a", "1")
    worker.verify()


@in_loop
async def test_no_continue_for_what_is_refused() -> None:
    worker = Worker()
    client = worker.client()
    head = b"POST /put HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\nExpect: 100-continue\r\n\r\n"
    assert client.ask(head).startswith(b"HTTP/1.1 413 Content Too Large\r\n" + CLOSE)
    client = worker.client()
    refused = client.ask(put(PAIR, b"Expect: 200-ok\r\n"))
    assert refused.startswith(b"HTTP/1.1 417 Expectation Failed\r\n" + CLOSE)
    worker.verify()


# -- ends --------------------------------------------------------------------------------------------------


@in_loop
async def test_http_1_0() -> None:
    worker = Worker()
    client = worker.client()
    keep = b"Connection: keep-alive\r\n"
    client.send(put_pair("a", "1"))
    client.take()
    for _ in range(4):
        assert client.ask(b"GET /get?key=a HTTP/1.0\r\n" + keep + b"\r\n") == hit("a", "1", keep)
    assert client.ask(b"GET /get?key=a HTTP/1.0\r\n\r\n" + get("a")) == hit("a", "1", CLOSE)
    assert client.transport.ended
    assert client.ask(get("a")) == b""
    worker.verify()


@pytest.mark.parametrize(
    "last",
    [
        get("a", CLOSE),
        put_pair("b", "1").replace(b"\r\n", b"\r\nConnection: close\r\n", 1),
        b"GET /get?key=a HTTP/1.0\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        get("a", CLOSE + b"Content-Length: 1\r\n") + b"x",
        b"hello\r\n\r\n",
    ],
)
def test_after_the_last_reply_nothing_is_read(last: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        client.send(put_pair("a", "1"))
        client.send(last)
        assert client.transport.ended
        assert CLOSE in client.take()
        client.send(
            put_pair("c", "1"), get("a"), get("a") * 2, put_pair("c", "1")[:-3], put_pair("c", "1")[-3:]
        )
        assert client.take() == b""
        assert worker.store.get(b"c", lambda: 0) is None
        client.finish()
        await asyncio.sleep(0)
        assert client.is_closed()
        worker.verify()

    scenario()


@pytest.mark.parametrize("value", [b"close", b"Close", b"keep-alive, close"])
def test_connection_close(value: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        last = get("a", b"Connection: " + value + b"\r\n")
        assert client.ask(get("a") + last + get("a")) == NOT_FOUND + error(
            "404 Not Found", "Key not found.", b"", CLOSE
        )
        assert client.transport.ended
        assert client.ask(put_pair("a", "1")) == b""
        assert worker.store.stats()["entries"] == 0
        client.finish()
        await asyncio.sleep(0)
        assert client.is_closed()
        assert not worker.service.connections
        worker.verify()

    scenario()


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"hello\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00", b"400 Bad Request"),
        (b"GET /get?key=a HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"GET /get?key=a HTTP/2.0\r\nHost: a\r\n\r\n", b"505 HTTP Version Not Supported"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"405 Method Not Allowed"),
        (put(PAIR).replace(b"23", b"23, 23"), b"400 Bad Request"),
        (put(PAIR, b"Transfer-Encoding: chunked\r\n"), b"400 Bad Request"),
        (put(PAIR).replace(b"Content-Length: 23", b"Transfer-Encoding: gzip"), b"501 Not Implemented"),
        (b"GET /" + b"x" * 40000, b"414 URI Too Long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40000, b"431 Request Header Fields Too Large"),
    ],
)
def test_after_an_error_in_framing_nothing_is_read(bad: bytes, status: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        answer = client.ask(get("a") + bad + put_pair("a", "1"))
        assert answer.startswith(NOT_FOUND + b"HTTP/1.1 " + status + b"\r\nConnection: close\r\n")
        assert answer.count(b"Content-Length: ") == 2
        assert re.fullmatch(rb'{"status":"ERROR","message":"[^"]+"}', answer.rpartition(b"\r\n\r\n")[2])
        assert client.transport.ended
        client.send(put_pair("a", "1"))
        assert client.take() == b""
        assert worker.store.stats()["entries"] == 0
        worker.verify()

    scenario()


@pytest.mark.parametrize(
    "begun", [b"", b"GET /get?k", put(PAIR)[:-3], put(PAIR, EXPECT)[:-3], chunked(PAIR)[:-2]]
)
def test_a_client_that_says_no_more(begun: bytes) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        client.send(get("a"))
        client.send(*filter(None, [begun]))
        client.finish()
        await asyncio.sleep(0)
        assert client.take() == NOT_FOUND
        assert client.is_closed()
        assert not worker.service.connections
        assert worker.store.stats()["entries"] == 0
        worker.verify()

    scenario()


@pytest.mark.parametrize(
    "begun", [b"GET /get?key=a HT", put(PAIR)[:-3], put(PAIR, EXPECT)[:-3], chunked(PAIR)[:-2]]
)
def test_drain_answers_what_was_begun(begun: bytes) -> None:
    whole = next(r for r in (get("a"), put(PAIR), put(PAIR, EXPECT), chunked(PAIR)) if r.startswith(begun))
    answer = NOT_FOUND if whole == get("a") else STORED

    @in_loop
    async def scenario() -> None:
        worker = Worker()
        busy, idle, heard = worker.client(), worker.client(), worker.client()
        for _ in range(5):
            heard.send(get("b"))
        busy.send(begun)
        busy.take()
        worker.service.drain()
        worker.service.close_all(idle_only=True)
        assert idle.is_closed()
        assert heard.is_closed()
        assert not busy.is_closed()
        closing = answer.replace(b"Content-Type", CLOSE + b"Content-Type", 1)
        assert busy.ask(whole[len(begun) :] + get("a")) == closing
        assert busy.transport.ended
        worker.verify()

    scenario()


@pytest.mark.parametrize("end", [Connection.close, Connection.abort])
def test_what_arrives_after_the_end_is_not_read(end: Callable[[Connection], None]) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        assert client.ask(get("a")) == NOT_FOUND
        end(client.connection)
        client.connection.data_received(put_pair("a", "1"))
        assert client.take() == b""
        assert worker.store.stats()["entries"] == 0
        worker.verify()

    scenario()


@pytest.mark.parametrize("first", [True, False])
def test_a_retired_worker_ends_a_connection_with_its_next_reply(first: bool) -> None:
    @in_loop
    async def scenario() -> None:
        worker = Worker()
        client = worker.client()
        client.send(put_pair("a", "1"))
        for _ in range(0 if first else 4):
            client.send(get("a"))
        client.take()
        worker.service.drain()
        assert not client.is_closed()
        assert client.ask(get("a")) == hit("a", "1", CLOSE)
        late = worker.client()
        assert late.ask(get("a") * 2) == hit("a", "1", CLOSE)
        worker.verify()

    scenario()


@in_loop
async def test_idle_connections_of_a_retired_worker_close_when_the_server_stops() -> None:
    worker = Worker()
    client = worker.client()
    client.send(get("a"))
    worker.service.drain()
    assert not client.is_closed()
    worker.service.drain()
    worker.service.close_all(idle_only=True)
    assert client.is_closed()
    worker.verify()


@in_loop
async def test_an_empty_line_begins_no_request() -> None:
    worker = Worker()
    client = worker.client()
    for _ in range(6):
        assert client.ask(get("a")) == NOT_FOUND
        assert client.ask(b"\r\n") == b""
    worker.service.drain()
    worker.service.close_all(idle_only=True)
    assert client.is_closed()
    worker.verify()


@in_loop
async def test_a_full_store_evicts_and_goes_on() -> None:
    worker = Worker()
    client = worker.client()
    for number in range(1000):
        assert client.ask(put_pair(f"k{number}", BIG)) == STORED
    assert client.ask(get("k999")) == hit("k999", BIG)
    assert worker.store.stats()["evictions"] > 0
    worker.verify()


@in_loop
async def test_a_busy_store_is_said_to_be_one() -> None:
    """A lock that is not to be had is no bug: each request that wants it gets its 503."""
    store = Store(1 << 20, lock_wait_ms=1)
    worker = Worker(store)
    client = worker.client()
    client.send(put_pair("a", "1"))
    client.take()
    shards = store._shards
    sequences = store.geometry.sequences_at
    busy = re.compile(
        rb"HTTP/1\.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: \d+\r\n"
        rb'Cache-Control: no-store\r\nRetry-After: 1\r\n\r\n{"status":"ERROR","message":"[^"]+"}'
    )
    for shard in shards:
        shard.lock.acquire()
        store.words[sequences + shard.number] += 1
    try:
        # A hit needs no lock; a miss does while the sequence is odd.
        for request, times in ((get("b"), 1), (get("b"), 3), (put_pair("a", "2"), 1), (delete("a"), 1)):
            answer = client.ask(request * times)
            assert len(busy.findall(answer)) == times
            assert busy.sub(b"", answer) == b""
    finally:
        for shard in shards:
            store.words[sequences + shard.number] += 1
            shard.lock.release()
    assert worker.counters[Column.LOCK_TIMEOUTS] == 6
    assert client.ask(get("a") * 2) == hit("a", "1") * 2
    worker.verify()


# -- any bytes at all --------------------------------------------------------------------------------------

_REPLY = re.compile(
    rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n(?:Connection: (?:close|keep-alive)\r\n)?"
    rb"(?:Content-Security-Policy: sandbox; default-src 'none'\r\nX-Content-Type-Options: nosniff\r\n)?"
    rb"(?:Content-Type: application/(?:json|octet-stream)\r\n)?(?:Content-Length: (\d+)\r\n)?"
    rb"(?:(?:Allow|Retry-After|ETag|TTL|Cache-Control|Accept-Ranges|Content-Range)"
    rb": [^\r\n]+\r\n)*\r\n"
)
OUTCOMES = {
    100,
    200,
    201,
    204,
    206,
    304,
    400,
    401,
    403,
    404,
    405,
    411,
    412,
    413,
    414,
    416,
    417,
    421,
    431,
    501,
    505,
}
# These have no body, and do not say how long it is not (RFC 9110, 8.6).
BODILESS = {100, 204, 304}


def _statuses(sent: bytes) -> list[int]:
    """Take replies apart."""
    found = []
    while sent:
        match = _REPLY.match(sent)
        assert match, sent[:200]
        status = int(match[1])
        found.append(status)
        sent = sent[match.end() :]
        assert (match[2] is None) == (status in BODILESS)
        if status not in BODILESS:
            length = int(match[2])
            # A reply to HEAD has none; no body begins as a reply does.
            if not (sent.startswith(b"HTTP/1.1 ") or not sent):
                assert len(sent) >= length
                sent = sent[length:]
    return found


_SEEDS = [case.data for case in CASES] + [request for request, _ in TALK]
_BITS = [
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b"\xff",
    b"%",
    b"&key=b",
    b"HTTP/1.1",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"{",
    b'"',
    b"\\",
]
_BITS += [
    b"Host: a\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    EXPECT,
    b"GET /",
    b"HEAD ",
    b"GET /kv/a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"PUT /kv/",
    b"DELETE /kv/a",
    b"OPTIONS ",
    b"If-Match: *\r\n",
    b'If-None-Match: W/"1", *\r\n',
    b"If-None-Match: *\r\n",
    b"Range: bytes=1-\r\n",
    b"TTL: 1\r\n",
]


@st.composite
def _bytes(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = b"".join(draw(st.lists(st.sampled_from(_SEEDS), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.sampled_from([0, 0, 1, 2, 8]))
        data = data[:at] + draw(st.one_of(st.sampled_from(_BITS), st.binary(max_size=3))) + data[at + cut :]
    return data


@settings(max_examples=1000, deadline=None)
@given(data=_bytes(), cuts=st.lists(st.integers(0, 600), max_size=6), end=st.booleans())
def test_no_input_makes_a_worker_raise(data: bytes, cuts: list[int], end: bool) -> None:
    @in_loop
    async def scenario() -> None:
        worker = _SHARED
        client = worker.client()
        bounds = [0, *sorted(cuts), len(data)]
        await client.send_patiently(*(data[a:b] for a, b in itertools.pairwise(bounds) if a < b))
        if end:
            client.finish()
        statuses = _statuses(client.take())
        assert set(statuses) <= OUTCOMES, statuses
        assert not client.transport.aborted
        client.transport.close()
        await asyncio.sleep(0)
        assert not worker.service.connections
        assert worker.counters[Column.INTERNAL_ERRORS] == 0

    scenario()


_SHARED = Worker()


def test_after_all_that_the_store_is_whole() -> None:
    _SHARED.verify()


@in_loop
async def test_a_bug_in_a_handler_ends_one_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    client, other = worker.client(), worker.client()

    def broken(query: bytes, head: object, body: bytes) -> tuple[int, bytes]:
        raise ZeroDivisionError

    worker.routes.handlers[b"GET /broken"] = broken
    request = b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n"
    message = "Internal server error; see the server log."
    assert client.ask(request + get("a")) == error("500 Internal Server Error", message, b"", CLOSE)
    assert worker.counters[Column.INTERNAL_ERRORS] == 1
    assert "ZeroDivisionError" in caplog.text
    assert other.ask(get("a")) == NOT_FOUND


def test_a_reply_has_all_its_fields() -> None:
    @in_loop
    async def scenario() -> None:
        client: Client = Worker().client()
        client.send(HEALTH)
        assert bytes(client.transport.sent) == (
            b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: application/json\r\n"
            b'Content-Length: 20\r\nCache-Control: no-store\r\n\r\n{"status":"healthy"}'
        )

    scenario()


def test_the_replies_of_the_conversation_are_replies() -> None:
    """So that the reader of random conversations is one that reads these."""
    assert len(_statuses(TALK_REPLIES)) == len(TALK)
    assert reply("200 OK", b"{}") not in TALK_REPLIES
