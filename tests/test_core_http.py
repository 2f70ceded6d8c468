"""The compiled path of requests against the readable one: the same bytes out, the same bytes in the arena."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
import uvloop
from cases import CASES
from fake import MAX_KEY_BYTES, MAX_OUTPUT_BYTES, MAX_VALUE_BYTES, Worker, running_loop

from fastkv import core
from fastkv.connection import Connection
from fastkv.http.compiled import open_http
from fastkv.http.content import content_fields
from fastkv.http.request import KEEP_ALIVE
from fastkv.outlet import LARGE_BYTES
from fastkv.stats import Column
from fastkv.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
    from pathlib import Path

    from fastkv.core.http import Http

pytestmark = pytest.mark.skipif(not core.COMPILED, reason=core.REASON or "compiled")

# Segments of 64 KiB, so that values of some KiB are no fragments.
_MEMORY_BYTES: Final = 16 << 20
_NOW_MS: Final = 1_000_000
_COUNTED: Final = (Column.HITS, Column.MISSES, Column.PUTS, Column.DELETES, Column.INTERNAL_ERRORS)


class Compiled(Worker):
    """A worker whose requests take the compiled path.

    Attributes:
        http: that path.
    """

    def __init__(self, memory_bytes: int = _MEMORY_BYTES, **settings: Any) -> None:
        super().__init__(Store(memory_bytes, seed=7), readable=False, **settings)
        assert self.service.http is not None
        self.http: Http = self.service.http

    @property
    def declined(self) -> dict[str, int]:
        """How many whole requests the compiled path has declined, by reason."""
        return {
            reason: times for reason, times in self.http.declines.items() if times and reason != "incomplete"
        }


class Pair:
    """A worker with the compiled path and one without it, with the same in their stores."""

    def __init__(self, memory_bytes: int = _MEMORY_BYTES, **settings: Any) -> None:
        self.compiled = Compiled(memory_bytes, **settings)
        store = Store(memory_bytes, seed=7, verify_reads=True)
        assert store.engine is store.readable
        self.readable = Worker(store, readable=True, **settings)

    def at(self, now_ms: int) -> None:
        """Set both clocks."""
        self.compiled.now_ms = self.readable.now_ms = now_ms

    def check(self) -> None:
        """Both stores are whole, have the same bytes, and the same was counted."""
        ours, theirs = self.compiled, self.readable
        assert [ours.counters[column] for column in _COUNTED] == [
            theirs.counters[column] for column in _COUNTED
        ]
        assert memory_of(ours.store) == memory_of(theirs.store)
        ours.verify()
        theirs.verify()


def memory_of(store: Store) -> bytes:
    """The arena."""
    return bytes(memoryview(store.words).cast("B"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    with running_loop():
        both = Pair()
        yield both
        both.check()


def talk(worker: Worker, pieces: Iterable[bytes]) -> tuple[bytes, bool, bool]:
    """What a new connection answers, whether it says that this is all, and whether it is closed."""
    client = worker.client()
    for piece in pieces:
        if client.transport.reading and not client.transport.closed:
            client.send(piece)
    answered = client.take(), client.transport.ended, client.transport.closed
    if not client.transport.closed:
        client.leave()
    return answered


def request(
    method: bytes, target: bytes, fields: bytes = b"", body: bytes | None = None, version: bytes = b"1.1"
) -> bytes:
    """A request; with a body it says how long that is."""
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    start = b"%b %b HTTP/%b\r\nHost: a\r\n" % (method, target, version)
    return start + fields + length + b"\r\n" + (body or b"")


def put(body: bytes, method: bytes = b"PUT") -> bytes:
    """A PUT in JSON."""
    return request(method, b"/put", b"Content-Type: application/json\r\n", body)


LONGEST_KEY: Final = b"k" * MAX_KEY_BYTES
LONGEST_VALUE: Final = b"v" * MAX_VALUE_BYTES

# What the compiled path answers by itself, in one row: each reply depends on what was asked for before.
ORDINARY: Final = (
    request(b"GET", b"/get?key=a"),
    request(b"HEAD", b"/get?key=a"),
    put(b'{"key":"a","value":"1"}'),
    put(b'{"key":"a","value":"2"}', b"POST"),
    request(b"GET", b"/get?key=a"),
    request(b"HEAD", b"/get?key=a"),
    request(b"GET", b"/get?key=%61"),
    put(b'{ "key" : "a b" , "value" : "quote \\" backslash \\\\ line \\n \\u00e4" }'),
    request(b"GET", b"/get?key=a%20b"),
    request(b"GET", b"/get?key=a+b"),
    request(b"HEAD", b"/get?key=a+b"),
    put('{"key":"ä","value":"süß 漢字 \U0001f600"}'.encode()),
    request(b"GET", b"/get?key=%C3%A4"),
    request(b"GET", b"/kv/%C3%A4"),
    put(b'{"key":"quo\\"te","value":""}'),
    request(b"GET", b"/get?key=quo%22te"),
    request(b"GET", b"/get?key=a=b=c"),
    put(b'{"key":"a=b=c","value":"\x7f"}'),
    request(b"GET", b"/get?key=a=b=c"),
    put(b'{"key":"t","value":"x","ttl":7}'),
    request(b"GET", b"/get?key=t"),
    request(b"GET", b"/kv/t"),
    request(b"HEAD", b"/kv/t"),
    put(b'{"key":"t","value":"x","ttl":8,"ttl":9}'),
    request(b"GET", b"/kv/t"),
    request(b"PUT", b"/kv/r", b"", b"hello"),
    request(b"PUT", b"/kv/r", b"", b"hello again"),
    request(b"GET", b"/kv/r"),
    request(b"GET", b"/get?key=r"),
    request(b"PUT", b"/kv/r", b"Content-Type: text/plain\r\n", b"text"),
    request(b"GET", b"/kv/r"),
    request(
        b"PUT", b"/kv/r", b"Content-Type: text/html; charset=utf-8\r\nContent-Encoding: gzip\r\n", b"\x1f\x8b"
    ),
    request(b"GET", b"/kv/r"),
    request(b"HEAD", b"/kv/r"),
    request(b"GET", b"/kv?key=r"),
    request(b"HEAD", b"/kv?key=r"),
    request(b"PUT", b"/kv?key=with+space", b"X-TTL: 60\r\n", b""),
    request(b"GET", b"/kv/with%20space"),
    request(b"PUT", b"/kv/with+plus/and/slash&=", b"", b"\x00\xff"),
    request(b"GET", b"/kv/with+plus/and/slash&="),
    request(b"PUT", b"/kv/t?ttl=10000000000", b"", b"far"),
    request(b"GET", b"/kv/t"),
    request(b"PUT", b"/kv/t", b"TTL: 1\r\n", b"near"),
    request(b"PUT", b"/kv?key=%74&ttl=5", b"", b"soon"),
    request(b"GET", b"/kv/t"),
    request(b"GET", b"/kv/none"),
    request(b"HEAD", b"/kv/none"),
    request(b"DELETE", b"/delete?key=a"),
    request(b"DELETE", b"/delete?key=a"),
    request(b"DELETE", b"/kv/r"),
    request(b"DELETE", b"/kv/r", b"", b""),
    request(b"DELETE", b"/kv?key=with%20space"),
    put(b'{"key":"%b","value":"%b"}' % (LONGEST_KEY, LONGEST_VALUE)),
    request(b"GET", b"/get?key=" + LONGEST_KEY),
    request(b"GET", b"/kv/" + LONGEST_KEY),
    request(b"PUT", b"/kv/" + b"%6b" * MAX_KEY_BYTES, b"", LONGEST_VALUE),
    request(b"GET", b"/kv/" + b"%6b" * MAX_KEY_BYTES),
    request(b"GET", b"/get?key=t", b"User-Agent: curl/8.5.0\r\nAccept: */*\r\n"),
    request(b"GET", b"/get?key=t", b"Content-Length: 0\r\n"),
)

# What the readable path has to answer, and why.
DECLINED: Final = (
    (request(b"GET", b"/"), "route"),
    (request(b"GET", b"/version"), "route"),
    (request(b"GET", b"/get"), "route"),
    (request(b"GET", b"/put"), "route"),
    (request(b"OPTIONS", b"/get?key=a"), "route"),
    (request(b"POST", b"/kv/a", b"", b"x"), "route"),
    (request(b"PUT", b"/put?x=1", b"", b"{}"), "route"),
    (request(b"GET", b"http://a/get?key=a"), "route"),
    (request(b"get", b"/get?key=a"), "route"),
    (b"\r\n" + request(b"GET", b"/get?key=a"), "route"),
    (request(b"GET", b"/get?key="), "target"),
    (request(b"GET", b"/get?key=a&key=b"), "target"),
    (request(b"GET", b"/get?key=%zz"), "target"),
    (request(b"GET", b'/get?key="'), "target"),
    (request(b"GET", b"/get?key=k" + LONGEST_KEY), "target"),
    (request(b"GET", b"/get?key=" + b"k" * 2000), "target"),
    (request(b"GET", b"/kv/"), "target"),
    (request(b"GET", b"/kv/a?x=1"), "target"),
    (request(b"GET", b"/kv?key=a&x=1"), "target"),
    (request(b"PUT", b"/kv?key=a&x=1", b"", b"x"), "target"),
    (request(b"PUT", b"/kv?ttl=1&key=a", b"", b"x"), "route"),
    (request(b"PUT", b"/kv/a?ttl=0", b"", b"x"), "target"),
    (request(b"PUT", b"/kv/a?ttl=1.5", b"", b"x"), "target"),
    (request(b"PUT", b"/kv/a?ttl=10000000001", b"", b"x"), "target"),
    (request(b"GET", b"/get?key=a", version=b"1.0"), "section"),
    (request(b"GET", b"/get?key=a", b"Connection: close\r\n"), "section"),
    (request(b"GET", b"/get?key=a", b"Origin: http://b\r\n"), "section"),
    (request(b"GET", b"/get?key=a", b"", b"body"), "section"),
    (request(b"GET", b"/kv/a", b"If-None-Match: *\r\n"), "section"),
    (request(b"GET", b"/kv/a", b"Range: bytes=0-1\r\n"), "section"),
    (request(b"DELETE", b"/kv/a", b"If-Match: *\r\n"), "section"),
    (request(b"DELETE", b"/kv/a", b"", b"body"), "section"),
    (request(b"PUT", b"/put"), "section"),
    (request(b"PUT", b"/kv/a"), "section"),
    (request(b"PUT", b"/kv/a?ttl=1", b"TTL: 1\r\n", b"x"), "section"),
    (request(b"PUT", b"/kv/a", b"", b"v" + LONGEST_VALUE), "section"),
    (request(b"PUT", b"/put", b"Expect: 100-continue\r\n", b'{"key":"a","value":"1"}'), "section"),
    (put(b"{}"), "body"),
    (put(b'{"key":"","value":"1"}'), "body"),
    (put(b'{"key":"a","value":1}'), "body"),
    (put(b'{"key":"a","value":"1","ttl":0}'), "body"),
    (put(b'{"key":"a","value":"1","ttl":1e3}'), "body"),
    (put(b'{"key":"k%b","value":"1"}' % LONGEST_KEY), "body"),
    (put(b'{"key":"a","value":"v%b"}' % LONGEST_VALUE), "body"),
    (put(b'{"key":"a","value":"\xff"}'), "body"),
)


def test_ordinary_requests_get_the_same_replies(pair: Pair) -> None:
    for each in ORDINARY:
        assert talk(pair.compiled, [each]) == talk(pair.readable, [each]), each
    assert pair.compiled.declined == {}


def test_what_is_not_ordinary_is_declined_and_changes_nothing(pair: Pair) -> None:
    for each, reason in DECLINED:
        before, counted = memory_of(pair.compiled.store), bytes(pair.compiled.counters.cast("B"))
        declined = pair.compiled.http.declines[reason]
        assert pair.compiled.http.serve(each, 0, 1) == (b"", 0, core.framing.DECLINED), each
        assert pair.compiled.http.declines[reason] == declined + 1, each
        assert memory_of(pair.compiled.store) == before
        assert bytes(pair.compiled.counters.cast("B")) == counted
        assert talk(pair.compiled, [each]) == talk(pair.readable, [each]), each


def splits(size: int) -> Sequence[int]:
    """All of them; in the midst of a long message every 97th."""
    if size < 400:
        return range(1, size)
    return (*range(1, 200), *range(200, size - 100, 97), *range(size - 100, size))


def test_ordinary_requests_at_every_split(pair: Pair) -> None:
    for each in ORDINARY:
        for at in splits(len(each)):
            pieces = each[:at], each[at:]
            assert talk(pair.compiled, pieces) == talk(pair.readable, pieces), pieces
        bytewise = [each[at : at + 1] for at in range(len(each))]
        assert talk(pair.compiled, bytewise) == talk(pair.readable, bytewise)


def test_every_case_at_many_splits(pair: Pair) -> None:
    """Of a case every seventh split, each time others: of what many cases begin with it is every one."""
    for number, case in enumerate(CASES):
        for at in (0, *splits(len(case.data))[number % 7 :: 7]):
            pieces = [case.data[:at], case.data[at:]] if at else [case.data]
            assert talk(pair.compiled, pieces) == talk(pair.readable, pieces), (case.name, at)


def test_whole_pipeline_at_once_and_in_pieces(pair: Pair) -> None:
    stream = b"".join(ORDINARY)
    everything = talk(pair.compiled, [stream])
    assert everything == talk(pair.readable, [stream])
    assert everything[0].count(b"HTTP/1.1 ") == len(ORDINARY)
    for size in (7, 100, 1000, 4096):
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert talk(pair.compiled, pieces) == talk(pair.readable, pieces)
    assert pair.compiled.declined == {}


def _mixed(dice: random.Random) -> bytes:
    """A request as clients send them, one in a thousand of them unusual."""
    key = b"key%d" % dice.randrange(300)
    text = dice.choice(["plain", 'with "quotes"', "süß", "a\\b\n", "x" * dice.randrange(3000)])
    ttl = dice.choice(["", "", f',"ttl":{dice.randrange(1, 100)}'])
    body = f'{{"key":"{key.decode()}","value":{_json(text)}{ttl}}}'.encode()
    agent = dice.choice([b"", b"Accept: */*\r\n", b"X-Request-Id: %d\r\n" % dice.randrange(10**9)])
    if not dice.randrange(1000):
        return request(b"GET", b"/kv/" + key, b"If-None-Match: *\r\n")
    return dice.choices(
        (
            request(b"GET", b"/get?key=" + key, agent),
            request(b"HEAD", b"/get?key=" + key, agent),
            put(body),
            put(body, b"POST"),
            request(b"DELETE", b"/delete?key=" + key, agent),
            request(b"GET", b"/kv/" + key, agent),
            request(b"PUT", b"/kv/" + key, agent + b"Content-Type: text/plain\r\n", text.encode()),
            request(b"PUT", b"/kv/%b?ttl=%d" % (key, dice.randrange(1, 100)), agent, text.encode()),
            request(b"DELETE", b"/kv/" + key, agent),
        ),
        (40, 5, 15, 5, 5, 10, 10, 5, 5),
    )[0]


def _json(text: str) -> str:
    return orjson.dumps(text).decode()


def test_mixed_stream_is_hardly_ever_declined(pair: Pair) -> None:
    dice = random.Random(15)
    asked, ours, theirs = 0, pair.compiled.client(), pair.readable.client()
    for turn in range(600):
        pair.at(_NOW_MS + 20 * turn)
        requests = [_mixed(dice) for _ in range(dice.randrange(1, 20))]
        asked += len(requests)
        stream, at = b"".join(requests), 0
        while at < len(stream):
            size = dice.choice([1, 50, 500, 5000, len(stream)])
            ours.send(stream[at : at + size])
            theirs.send(stream[at : at + size])
            at += size
        assert ours.take() == theirs.take()
    declines = sum(pair.compiled.declined.values())
    assert declines <= 0.002 * asked, pair.compiled.declined


# -- bounds ------------------------------------------------------------------------------------------------


@pytest.fixture
def worker() -> Iterator[Compiled]:
    with running_loop():
        made = Compiled()
        yield made
        made.verify()


def test_most_and_where_to_begin(worker: Compiled) -> None:
    each = request(b"GET", b"/get?key=a")
    http, stream = worker.http, b"xyz" + 5 * each
    replies, used, more = http.serve(stream, 3, 2)
    assert (used, more, http.served) == (3 + 2 * len(each), core.framing.DONE, 2)
    assert replies.count(b"HTTP/1.1 404 ") == 2
    _, used, more = http.serve(stream, used, 10)
    assert (used, more, http.served) == (len(stream), core.framing.DONE, 3)
    assert http.serve(stream, len(stream), 10) == (b"", len(stream), core.framing.DONE)
    assert http.serve(stream, 3, 0) == (b"", 3, core.framing.DONE)
    assert http.serve(stream, 0, 10) == (b"", 0, core.framing.DECLINED)
    for outside in (-1, len(stream) + 1):
        with pytest.raises(ValueError, match="No message"):
            http.serve(stream, outside, 1)


def test_output_limit(worker: Compiled) -> None:
    assert worker.client().ask(put(b'{"key":"a","value":"%b"}' % LONGEST_VALUE)).startswith(b"HTTP/1.1 200 ")
    each = request(b"GET", b"/get?key=a")
    replies, used, more = worker.http.serve(100 * each, 0, 1000)
    assert more == core.framing.DONE
    assert used == worker.http.served * len(each) < 100 * len(each)
    longest = len(replies) // worker.http.served
    assert MAX_OUTPUT_BYTES < len(replies) <= MAX_OUTPUT_BYTES + longest


def test_body_that_is_still_to_come(worker: Compiled) -> None:
    """The head decides: what may be ordinary is asked for whole, all else is declined at once."""
    for whole in (
        put(b'{"key":"a","value":"1"}'),
        request(b"PUT", b"/kv/a", b"Content-Type: text/plain\r\n", b"hello"),
        request(b"PUT", b"/kv/a?ttl=5", b"", LONGEST_VALUE),
    ):
        head = whole.index(b"\r\n\r\n") + 4
        before = memory_of(worker.store)
        first = request(b"GET", b"/get?key=none")
        for size in (head, head + 1, len(whole) - 1):
            assert worker.http.serve(whole[:size], 0, 10) == (b"", 0, len(whole))
            replies, used, more = worker.http.serve(first + whole[:size], 0, 10)
            assert replies.startswith(b"HTTP/1.1 404 ")
            assert (used, more) == (len(first), len(whole))
        assert worker.http.serve(whole[: head - 1], 0, 10) == (b"", 0, core.framing.DECLINED)
        assert memory_of(worker.store) == before
    for refused in (
        b"PUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MAX_VALUE_BYTES + 1),
        b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
        b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n",
        b"PUT /no HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
    ):
        assert worker.http.serve(refused, 0, 10) == (b"", 0, core.framing.DECLINED)


def test_writes_are_declined_while_keyspace_events_are_listened_to() -> None:
    wanted = memoryview(bytearray(8)).cast("Q")
    with running_loop():
        worker = Compiled()
        worker.routes.wanted = wanted
        http = open_http(worker.settings, worker.routes, worker.service.access, worker.service.preludes)
        assert http is not None
        stores = put(b'{"key":"a","value":"1"}')
        writes = stores, request(b"PUT", b"/kv/a", b"", b"1"), request(b"DELETE", b"/kv/a")
        reads = request(b"GET", b"/get?key=a"), request(b"GET", b"/kv/a")
        wanted[0] = 1
        for each in writes:
            assert http.serve(each, 0, 1) == (b"", 0, core.framing.DECLINED)
        assert http.serve(stores[:-1], 0, 1) == (b"", 0, core.framing.DECLINED)
        assert http.declines["listened"] == 4
        for each in reads:
            assert http.serve(each, 0, 1)[1:] == (len(each), core.framing.DONE)
        wanted[0] = 0
        for each in writes:
            assert http.serve(each, 0, 1)[1:] == (len(each), core.framing.DONE)
        worker.verify()


def test_ttl_field_and_expiry(pair: Pair) -> None:
    lives = request(b"PUT", b"/kv/a", b"TTL: 2\r\n", b"x")
    assert talk(pair.compiled, [lives]) == talk(pair.readable, [lives])
    for after, shown in (
        (0, b"2"),
        (1, b"1.999"),
        (1000, b"1"),
        (1990, b"0.010"),
        (1999, b"0.001"),
        (2000, None),
    ):
        pair.at(_NOW_MS + after)
        reply, *_ = talk(pair.compiled, [request(b"GET", b"/kv/a")])
        assert reply == talk(pair.readable, [request(b"GET", b"/kv/a")])[0]
        assert shown is None or b"\r\nTTL: %b\r\n" % shown in reply
    assert reply.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("fields", [b"", b"Content-Type: text/plain\r\n"])
def test_what_has_expired_is_replaced_and_deleted_as_if_it_were_not_there(pair: Pair, fields: bytes) -> None:
    now_ms = _NOW_MS
    for each, status in (
        (request(b"PUT", b"/kv/a", fields, b"new"), b"201"),
        (request(b"PUT", b"/kv/a?ttl=1", b"", b"new"), b"201"),
        (request(b"DELETE", b"/kv/a"), b"404"),
        (request(b"DELETE", b"/delete?key=a"), b"404"),
        (put(b'{"key":"a","value":"new"}'), b"200"),
    ):
        old = request(b"PUT", b"/kv/a", b"TTL: 1\r\n" + fields, b"old")
        assert talk(pair.compiled, [old]) == talk(pair.readable, [old])
        now_ms += 1000
        pair.at(now_ms)
        reply, *_ = talk(pair.compiled, [each])
        assert reply == talk(pair.readable, [each])[0]
        assert reply.startswith(b"HTTP/1.1 %b " % status)
        pair.check()
    assert pair.compiled.store.stats()["expired"] == 4
    assert pair.compiled.declined == {}


def test_metadata_of_every_kind(pair: Pair) -> None:
    """More kinds than are kept, and what no PUT stores but a snapshot may bring."""
    kinds = [b"text/x%d" % kind for kind in range(20)] + [
        b"text/plain\0gzip",
        b"no type",
        b"a/b\0\r\nX: y",
        b"\xff",
    ]
    for _ in range(2):
        for kind in kinds:
            for side in (pair.compiled, pair.readable):
                side.store.put(b"m", b"value", side.routes.clock, 0, 0, kind)
            reply, *_ = talk(pair.compiled, [request(b"GET", b"/kv/m")])
            assert reply == talk(pair.readable, [request(b"GET", b"/kv/m")])[0]
            assert content_fields(kind) in reply
    assert pair.compiled.declined == {}


def test_metadata_whose_header_lines_cannot_be_made_is_declined(
    worker: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything of it kept, and an interruption is no reply."""
    interrupted: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: interrupted.append(told.exc_type))
    worker.store.put(b"m", b"value", worker.routes.clock, 0, 0, b"text/plain")
    each = request(b"GET", b"/kv/m")
    expected = worker.http.serve(each, 0, 1)

    given: list[object] = []

    def lines(metadata: bytes) -> Any:
        if not metadata:
            return content_fields(metadata)
        wrong = given.pop()
        if isinstance(wrong, BaseException):
            raise wrong
        return wrong

    monkeypatch.setattr("fastkv.http.compiled.content_fields", lines)
    http = open_http(worker.settings, worker.routes, worker.service.access, worker.service.preludes)
    assert http is not None
    # Each request looks several times, as where the entry is replaced meanwhile.
    for wrong in ("no bytes", ValueError(), KeyboardInterrupt()):
        given[:] = 4 * [wrong]
        assert http.serve(each, 0, 1) == (b"", 0, core.framing.DECLINED)
        assert not given
    assert interrupted == 4 * [KeyboardInterrupt]
    given.append(content_fields(b"text/plain"))
    assert http.serve(each, 0, 1) == expected


def test_values_that_are_no_text_are_declined(pair: Pair) -> None:
    for key, value in ((b"%FF", b"text"), (b"text", b"\xff"), (b"text", b"\xed\xa0\x80")):
        for each in (request(b"PUT", b"/kv/" + key, b"", value), request(b"GET", b"/get?key=" + key)):
            assert talk(pair.compiled, [each]) == talk(pair.readable, [each])
    assert pair.compiled.declined == {"encoding": 3}


def test_date_is_renewed(worker: Compiled) -> None:
    preludes = worker.service.preludes
    worker.client().send(put(b'{"key":"a","value":"1"}'))
    each = request(b"GET", b"/get?key=a")
    before, _, _ = worker.http.serve(each, 0, 1)
    preludes.set_date(86400)
    worker.http.set_prefixes(preludes.kinds[KEEP_ALIVE])
    after, _, _ = worker.http.serve(each, 0, 1)
    assert b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n" in before
    assert b"Date: Fri, 02 Jan 1970 00:00:00 GMT\r\n" in after
    # Whatever fails, all of what was in use stays in use: the last one fails half-way.
    kinds: dict[int, Any] = {**preludes.kinds[KEEP_ALIVE], 200: b"HTTP/1.1 200 Wrong\r\n"}
    for wrong in ({200: b""}, {**kinds, 404: "no bytes"}, {**kinds, 404: bytearray(kinds[404])}):
        with pytest.raises((KeyError, TypeError)):
            worker.http.set_prefixes(wrong)
        assert worker.http.serve(each, 0, 1)[0] == after


# -- sending -----------------------------------------------------------------------------------------------


class Sink:
    """A transport of a socket: it queues what the socket does not take, until it is asked to flush.

    Attributes:
        written: how many bytes were handed to it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._queue = bytearray()
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._queue += data
        self.flush()

    def flush(self) -> None:
        with suppress(BlockingIOError):
            while self._queue:
                del self._queue[: self._connection.send(self._queue)]

    def get_write_buffer_size(self) -> int:
        return len(self._queue)


class Receiving(core.receiver.Receiver if core.COMPILED else object):  # type: ignore[misc]
    """A connection that answers with what it was asked, where the compiled path does not.

    Attributes:
        large: replies that were left to `write_any`.
        left: what was left to `receive`.
    """

    def __init__(self) -> None:
        self.large: list[bytes] = []
        self.left: list[tuple[bytes, int, int]] = []

    def receive(self, data: bytes, at: int, more: int) -> None:
        self.left.append((data, at, more))
        self.write(b"<%b>" % data[at:])

    def write_any(self, data: bytes) -> None:
        self.large.append(data)
        self.write(data)


@contextmanager
def connection(worker: Compiled, buffer_bytes: int = 1) -> Iterator[tuple[Any, Sink, socket.socket]]:
    """A receiver, the transport beneath it, and the socket of its client, with buffers as small as may be."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        receiver, sink = Receiving(), Sink(ours)
        receiver.attach(worker.http, sink, ours.fileno(), 1000)
        receiver.fast_path_ok = True
        yield receiver, sink, theirs
        receiver.detach()


def read_from(client: socket.socket, most: int) -> bytes:
    """What has arrived, up to this many bytes."""
    with suppress(BlockingIOError):
        return client.recv(most)
    return b""


def test_every_byte_once_and_in_order_whatever_the_client_reads(worker: Compiled) -> None:
    """Replies of the compiled path, replies of others, and a client that reads now and then."""
    worker.client().send(put(b'{"key":"a","value":"%b"}' % LONGEST_VALUE))
    miss, hit = request(b"GET", b"/get?key=none"), request(b"GET", b"/get?key=a")
    replies = {each: worker.http.serve(each, 0, 1)[0] for each in (miss, hit)}
    partial = full = direct = 0
    for seed in range(30):
        dice = random.Random(seed)
        wanted, got = bytearray(), bytearray()
        with connection(worker) as (receiver, sink, client):
            for _ in range(400):
                step = dice.randrange(6)
                if step < 3:
                    asked = [dice.choice((miss, miss, hit)) for _ in range(dice.randrange(1, 4))]
                    expected = b"".join(map(replies.__getitem__, asked))
                    waited, before = sink.get_write_buffer_size(), sink.written
                    receiver.data_received(b"".join(asked))
                    wanted += expected
                    handed = sink.written - before
                    assert handed == len(expected) or not waited
                    direct += not handed
                    partial += 0 < handed < len(expected)
                    full += not waited and handed == len(expected)
                elif step == 3:
                    receiver.write(b"[from elsewhere]")
                    wanted += b"[from elsewhere]"
                elif step == 4:
                    receiver.data_received(miss + b"rest")
                    wanted += replies[miss] + b"<rest>"
                else:
                    got += read_from(client, dice.choice((1, 100, 10_000)))
                    if dice.randrange(2):
                        sink.flush()
            while len(got) < len(wanted):
                got += read_from(client, 1 << 20)
                sink.flush()
            assert not receiver.large
        assert got == wanted
    # All three happen: sent at once, sent in part, and not taken at all.
    assert direct
    assert partial
    assert full


def test_large_replies_are_left_to_the_connection(worker: Compiled) -> None:
    worker.client().send(put(b'{"key":"a","value":"%b"}' % LONGEST_VALUE))
    hit = request(b"GET", b"/get?key=a")
    reply, _, _ = worker.http.serve(hit, 0, 1)
    most = LARGE_BYTES // len(reply)
    with connection(worker, 1 << 20) as (receiver, sink, client):
        receiver.data_received(most * hit)
        assert not receiver.large
        assert not sink.written
        receiver.data_received((most + 1) * hit)
        assert receiver.large == [(most + 1) * reply]
        receiver.data_received(hit)
        assert sink.written == (most + 1) * len(reply)
        assert read_from(client, 1 << 20) == (2 * most + 2) * reply


def test_nothing_is_sent_before_what_the_transport_has_yet_to_write(worker: Compiled) -> None:
    """A transport may put off a write though the socket would take it, as uvloop does within a turn."""
    miss = request(b"GET", b"/get?key=none")
    reply, _, _ = worker.http.serve(miss, 0, 1)

    class Lazy(Sink):
        def write(self, data: bytes) -> None:
            self.written += len(data)
            self._queue += data

    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver, lazy = Receiving(), Lazy(ours)
        lazy.write(b"[before]")
        receiver.attach(worker.http, lazy, ours.fileno(), 1000)
        receiver.fast_path_ok = True
        receiver.data_received(miss)
        lazy.flush()
        receiver.data_received(miss)
        receiver.write(b"[write]")
        receiver.data_received(miss)
        lazy.flush()
        assert theirs.recv(1 << 20) == b"[before]" + reply + reply + b"[write]" + reply
        assert lazy.written == len(b"[before]" + reply + b"[write]" + reply)


def test_client_that_has_left_raises_nothing(worker: Compiled) -> None:
    """The error is the transport's: it gets the whole reply, and meets it itself."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        handed: list[bytes] = []

        class Broken:
            def write(self, data: bytes) -> None:
                handed.append(data)

            def get_write_buffer_size(self) -> int:
                return 0

        receiver = Receiving()
        receiver.attach(worker.http, Broken(), ours.fileno(), 1000)
        receiver.fast_path_ok = True
        miss = request(b"GET", b"/get?key=none")
        receiver.data_received(miss)
        assert handed == [worker.http.serve(miss, 0, 1)[0]]


def test_nothing_is_sent_after_detach(worker: Compiled) -> None:
    miss = request(b"GET", b"/get?key=none")
    with connection(worker) as (receiver, sink, client):
        receiver.detach()
        receiver.fast_path_ok = True
        receiver.data_received(miss)
        receiver.write(b"more")
        assert receiver.left == [(miss, 0, core.framing.DECLINED)]
        assert not sink.written
        assert read_from(client, 1000) == b""


def test_what_switches_the_compiled_path_off(worker: Compiled) -> None:
    miss = request(b"GET", b"/get?key=none")
    with connection(worker, 1 << 20) as (receiver, sink, _):
        receiver.fast_path_ok = False
        receiver.data_received(miss)
        assert receiver.heard
        receiver.fast_path_ok = True
        receiver.data_received(bytearray(miss))
        assert receiver.left == [(miss, 0, core.framing.DECLINED), (miss, 0, core.framing.DECLINED)]
        receiver.attach(None, sink, -1, 1000)
        receiver.data_received(miss)
        assert len(receiver.left) == 3


def test_rest_is_handed_on_with_its_place(worker: Compiled) -> None:
    miss, stores = request(b"GET", b"/get?key=none"), put(b'{"key":"a","value":"1"}')
    with connection(worker, 1 << 20) as (receiver, sink, _):
        receiver.attach(worker.http, sink, -1, 2)
        receiver.data_received(3 * miss)
        receiver.data_received(miss + stores[:-1])
        receiver.data_received(miss + b"GET /version HTTP/1.1\r\n\r\n")
        assert [rest[1:] for rest in receiver.left] == [
            (2 * len(miss), core.framing.DONE),
            (len(miss), len(stores)),
            (len(miss), core.framing.DECLINED),
        ]


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])
@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_pipelines_over_sockets_of_slow_readers(
    run: Callable[[Coroutine[Any, Any, None]], None], family: int, tmp_path: Path
) -> None:
    """Small buffers, a client that reads little at a time, and replies of both paths in turns."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        worker = Compiled()
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        listener.bind(str(tmp_path / "socket") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        if family == socket.AF_UNIX:
            server = await loop.create_unix_server(lambda: Connection(worker.service), sock=listener)
        else:
            server = await loop.create_server(lambda: Connection(worker.service), sock=listener)
        stores = put(b'{"key":"a","value":"%b"}' % LONGEST_VALUE)
        asked = (
            request(b"GET", b"/get?key=a"),
            request(b"GET", b"/get?key=none"),
            request(b"GET", b"/version"),
            request(b"GET", b"/get?key=a", b"Range: bytes=0-9\r\n"),
            stores,
        )
        expected = {each: talk(worker, [each])[0] for each in (stores, *asked)}
        for seed in range(4):
            dice = random.Random(seed)
            requests = dice.choices(asked, (4, 4, 1, 1, 1), k=400)
            with socket.socket(family) as client:
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                await loop.sock_connect(client, listener.getsockname())

                async def ask(client: socket.socket, stream: bytes, dice: random.Random) -> None:
                    while stream:
                        size = dice.choice((1, 100, 3000))
                        await loop.sock_sendall(client, stream[:size])
                        stream = stream[size:]

                asking = loop.create_task(ask(client, b"".join(requests), dice))
                wanted = b"".join(map(expected.__getitem__, requests))
                got = b""
                while got.count(b"HTTP/1.1 ") < len(requests) or len(_undated(got)) < len(wanted):
                    got += await loop.sock_recv(client, dice.choice((10, 1000, 10_000)))
                await asking
                assert _undated(got) == wanted
        server.close()
        worker.service.close_all(idle_only=False)
        await server.wait_closed()
        await asyncio.sleep(0)
        worker.verify()

    run(scenario())


def _undated(replies: bytes) -> bytes:
    return re.sub(rb"Date: [^\r]*\r\n", b"", replies)
