"""``/snapshot``: pages out, blocks in, byte for byte."""

import re
from collections.abc import Iterator

import pytest
from fake import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Client,
    Worker,
    error,
    get,
    hit,
    put_pair,
    reply,
    running_loop,
)

from fastkv.http.responses import without_body
from fastkv.snapshot.format import Item, build_block, parse_block
from fastkv.snapshot.transfer import unix_ms
from fastkv.stats import Column

EMPTY = build_block([])


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.verify()


@pytest.fixture
def client(worker: Worker) -> Iterator[Client]:
    with running_loop():
        yield worker.client()


def page(client: Client, query: bytes = b"") -> bytes:
    return client.ask(b"GET /snapshot%b HTTP/1.1\r\nHost: a\r\n\r\n" % query)


def post(client: Client, block: bytes) -> bytes:
    return client.ask(
        b"POST /snapshot HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(block), block)
    )


def done(entries: int, expired: int = 0) -> bytes:
    return reply("200 OK", b'{"status":"OK","entries":%d,"expired":%d}' % (entries, expired))


def found(block: bytes, cursor: int) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n"
        b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nNext-Cursor: %d\r\n\r\n%b"
    ) % (len(block), cursor, block)


def walk(client: Client) -> list[Item]:
    """All entries, by as many pages as it takes."""
    entries: list[Item] = []
    cursor = b"0"
    while True:
        answer = page(client, b"?cursor=" + cursor)
        entries += parse_block(answer.partition(b"\r\n\r\n")[2])
        match = re.search(rb"\r\nNext-Cursor: ([0-9]+)\r\n", answer)
        assert match
        cursor = match[1]
        if cursor == b"0":
            return entries


def test_the_whole_of_a_reply(client: Client) -> None:
    assert page(client) == found(EMPTY, 0)
    client.ask(put_pair("name", "value"))
    block = build_block([(b"name", b"value", 1, 0, b"")])
    for query in (b"", b"?cursor=0", b"?other=1&cursor=0", b"?cursor=00"):
        assert page(client, query) == found(block, 0)
    answer = client.ask(b"HEAD /snapshot HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (200, answer) == without_body((200, found(block, 0)))


def test_all_pages_have_all_entries(worker: Worker, client: Client) -> None:
    model = {}
    for i in range(3000):
        key, value = b"%d\xff" % i, bytes(i % 100)
        model[key] = value
        worker.store.put(key, value, worker.routes.clock, i % 256)
    assert {key: value for key, value, *_ in walk(client)} == model


def test_a_block_is_put(worker: Worker, client: Client) -> None:
    client.ask(put_pair("name", "old"))
    assert post(client, EMPTY) == done(0)
    in_time = unix_ms() + 60_000
    items = [
        (b"name", b"new", 1, 0, b""),
        (b"\xff", b"\0", 0, in_time, b""),
        (b"late", b"v", 0, 1, b""),
        (b"\xff2", b"", 7, 0, b""),
    ]
    assert post(client, build_block(items)) == done(3, 1)
    assert client.ask(get("name")) == hit("name", "new")
    back = {key: (value, flags) for key, value, flags, *_ in walk(client)}
    assert back == {key: (value, flags) for key, value, flags, *_ in items if key != b"late"}
    (deadline_ms,) = (deadline_ms for key, _, _, deadline_ms, _ in walk(client) if key == b"\xff")
    assert abs(deadline_ms - in_time) < 30_000
    assert worker.counters[Column.PUTS] == 4
    assert post(client, walk_block(client)) == done(3)


def walk_block(client: Client) -> bytes:
    """What a page has goes in as it came out."""
    return page(client).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    "query",
    [
        b"?cursor=",
        b"?cursor=x",
        b"?cursor=-1",
        b"?cursor=1.0",
        b"?cursor=%2B1",
        b"?cursor=0&cursor=0",
        b"?cursor=\xd9\xa1",
        b"?cursor=%D9%A1",
        b"?cursor=000000000000000000000",
    ],
)
def test_a_cursor_that_is_no_number(client: Client, query: bytes) -> None:
    sentence = "The cursor must be a whole number, given once."
    answer = page(client, query)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    if query.isascii():
        assert answer == error("400 Bad Request", sentence)


@pytest.mark.parametrize("cursor", [1, 1 << 32, 1 << 63, 10**20 - 1])
def test_a_cursor_of_another_store(client: Client, cursor: int) -> None:
    refused = error("400 Bad Request", "The cursor is none of this store's.")
    assert page(client, b"?cursor=%d" % cursor) == refused


def test_a_wrong_block_changes_nothing(worker: Worker, client: Client) -> None:
    good = (b"k", b"v", 0, 0, b"")
    block = build_block([good])
    for raw, sentence in (
        (b"", "A block is cut off."),
        (b"{}", "A block is cut off."),
        (block[:-1], "A block is cut off."),
        (block + b"\0", "A block is malformed."),
        (block[:-1] + b"w", "The checksum of a block does not fit."),
        (b"data" + b"\xff" * 60, "A block has more than 256 entries or 524288 bytes."),
        (b"date" + b"\xff" * 60, "A block is malformed."),
    ):
        assert post(client, raw) == error("400 Bad Request", sentence)
    sentence = f"A key has {MAX_KEY_BYTES + 1} bytes; --max-key-bytes allows {MAX_KEY_BYTES}."
    answer = post(client, build_block([good, (b"k" * (MAX_KEY_BYTES + 1), b"", 0, 0, b"")]))
    assert answer == error("400 Bad Request", sentence)
    sentence = f"A value has {MAX_VALUE_BYTES + 1} bytes; --max-value-bytes allows {MAX_VALUE_BYTES}."
    answer = post(client, build_block([good, (b"k", bytes(MAX_VALUE_BYTES + 1), 0, 0, b"")]))
    assert answer == error("413 Content Too Large", sentence)
    no_length = client.ask(b"POST /snapshot HTTP/1.1\r\nHost: a\r\n\r\n")
    assert no_length == error("411 Length Required", "The length of the body is required.")
    assert worker.store.stats()["entries"] == 0
    assert worker.counters[Column.PUTS] == 0


def test_other_methods(client: Client) -> None:
    refused = error(
        "405 Method Not Allowed",
        "This route takes GET, HEAD, OPTIONS, POST only.",
        b"Allow: GET, HEAD, OPTIONS, POST\r\n",
    )
    assert client.ask(b"DELETE /snapshot HTTP/1.1\r\nHost: a\r\n\r\n") == refused


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_who_may_speak(method: bytes) -> None:
    worker = Worker(token="secret")
    with running_loop():
        worker.store.put(b"k", b"v", worker.routes.clock)
        for fields, status in (
            (b"", b"401"),
            (b"Authorization: Bearer wrong\r\n", b"401"),
            (b"Authorization: Bearer secret\r\nOrigin: https://evil.example\r\n", b"403"),
            (b"Authorization: Bearer secret\r\n", b"200"),
        ):
            block = build_block([(b"new", b"v", 0, 0, b"")])
            answer = worker.client().ask(
                b"%b /snapshot HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n%b"
                % (method, len(block), fields, block)
            )
            assert answer.split(b" ")[1] == status
            if status != b"200":
                assert worker.store.get(b"new", worker.routes.clock) is None
    worker.verify()
