"""``/kv/{key}``: what each request is answered with, byte for byte, and on real sockets."""

import gzip
import http.client
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_from_bytes

import pytest
from fake import (
    CLOSE,
    ISOLATED,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Client,
    Worker,
    delete,
    get,
    hit,
    put_pair,
    reply,
    running_loop,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_helpers import (
    DELETED,
    FAILED,
    NOT_FOUND,
    body_of,
    created,
    error,
    field_of,
    found,
    kv,
    replaced,
    status_of,
    store,
)
from server import Server, running

from fastkv.http.responses import without_body
from fastkv.http.routes import PLAIN
from fastkv.stats import Column
from fastkv.store import Decide

pytestmark = pytest.mark.usefixtures("implementation")

EVERY_BYTE = bytes(range(256))


# -- put, get, delete ----------------------------------------------------------------------------------------


def test_an_entry_comes_and_goes(client: Client) -> None:
    answer = client.ask(kv("PUT", "name", body=b"one"))
    first = field_of(answer, "ETag")
    assert first is not None
    assert re.fullmatch(rb'"[0-9a-f]+"', first)
    assert answer == created(first)
    assert client.ask(kv("GET", "name")) == found(b"one", first)
    answer = client.ask(kv("PUT", "name", body=b"two"))
    second = field_of(answer, "ETag")
    assert second is not None
    assert second != first
    assert answer == replaced(second)
    assert client.ask(kv("GET", "name")) == found(b"two", second)
    assert (200, client.ask(kv("HEAD", "name"))) == without_body((200, found(b"two", second)))
    assert client.ask(kv("DELETE", "name")) == DELETED
    for method in ("GET", "DELETE"):
        assert client.ask(kv(method, "name")) == NOT_FOUND
    assert (404, client.ask(kv("HEAD", "name"))) == without_body((404, NOT_FOUND))
    assert store(client, "name", b"one") not in (first, second)


@pytest.mark.parametrize(
    "value", [b"", b"\0", b"\xff\xfe", EVERY_BYTE, b"\r\n\r\nHTTP/1.1 200 OK\r\n", bytes(MAX_VALUE_BYTES)]
)
def test_any_bytes_are_a_value(client: Client, value: bytes) -> None:
    etag = store(client, "k", value)
    for _ in range(3):
        assert client.ask(kv("GET", "k")) == found(value, etag)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (value[:1], value[1:]) if part)
    request = kv("PUT", "k", b"Transfer-Encoding: chunked\r\n") + chunks + b"0\r\n\r\n"
    etag = field_of(client.ask(request), "ETag") or b""
    assert client.ask(kv("GET", "k")) == found(value, etag)


def test_a_value_may_be_too_long(client: Client) -> None:
    etag = store(client, "k", b"v")
    refused = error(
        "413 Content Too Large",
        f"The value has {MAX_VALUE_BYTES + 1} bytes; --max-value-bytes allows {MAX_VALUE_BYTES}.",
    )
    assert client.ask(kv("PUT", "k", body=bytes(MAX_VALUE_BYTES + 1))) == refused
    assert client.ask(kv("GET", "k")) == found(b"v", etag)


def test_what_a_put_must_say(client: Client) -> None:
    required = error("411 Length Required", "The length of the body is required.")
    assert client.ask(kv("PUT", "k")) == required
    part = error("400 Bad Request", "A part of a value cannot be put.")
    for value in (b"bytes 0-2/3", b"bytes */3", b"nonsense"):
        assert client.ask(kv("PUT", "k", b"Content-Range: %b\r\n" % value, b"abc")) == part
    assert client.ask(kv("GET", "k")) == NOT_FOUND


def test_the_whole_of_a_reply_to_old_and_leaving_clients(worker: Worker, client: Client) -> None:
    old = b"GET /kv/k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    etag = store(client, "k", b"v")
    kept = found(b"v", etag).replace(b"OK\r\n", b"OK\r\nConnection: keep-alive\r\n")
    assert client.ask(old) == kept
    answer = client.ask(b"DELETE /kv/k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answer == b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n%b\r\n" % ISOLATED
    store(client, "k", b"v")
    assert client.ask(kv("DELETE", "k", CLOSE)) == DELETED.replace(ISOLATED, CLOSE + ISOLATED)
    assert client.transport.ended


# -- keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ("a", b"a"),
        ("a/b", b"a/b"),
        ("/", b"/"),
        ("//a//", b"//a//"),
        ("a%2Fb", b"a/b"),
        ("a%2fb", b"a/b"),
        (".", b"."),
        ("../x/./y", b"../x/./y"),
        ("a+b", b"a+b"),
        ("a%20b", b"a b"),
        ("a%2Bb", b"a+b"),
        ("a%3Fb?ignored", b"a?b"),
        ("a%25b", b"a%b"),
        ("a%2525", b"a%25"),
        ("%00", b"\0"),
        ("%ff%FE", b"\xff\xfe"),
        ("%C3%A9", "é".encode()),
        ("a=b&c=d;e:f@g!$'()*,", b"a=b&c=d;e:f@g!$'()*,"),
        ("kv/kv/", b"kv/kv/"),
        ("a?key=b&ttl", b"a"),
    ],
)
def test_keys_are_the_decoded_rest_of_the_path(worker: Worker, client: Client, raw: str, key: bytes) -> None:
    if not raw.endswith("&ttl"):
        store(client, raw, b"v")
    else:
        store(client, raw.removesuffix("&ttl"), b"v")
    entry = worker.store.get(key, lambda: 0)
    assert entry is not None
    assert entry[0] == b"v"
    for _ in range(3):
        assert body_of(client.ask(kv("GET", raw))) == b"v"
    assert client.ask(kv("DELETE", raw)) == DELETED
    assert worker.store.stats()["entries"] == 0


def test_every_byte_can_be_in_a_key(worker: Worker, client: Client) -> None:
    for byte in EVERY_BYTE:
        store(client, f"%{byte:02x}", bytes([byte]))
    for byte in EVERY_BYTE:
        for raw in (f"%{byte:02X}", quote_from_bytes(bytes([byte]))):
            assert body_of(client.ask(kv("GET", raw))) == bytes([byte])
    assert worker.store.stats()["entries"] == 256


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "A key must follow /kv/ in the path, or /kv?key= in the query."),
        ("?key=a", "A key must follow /kv/ in the path, or /kv?key= in the query."),
        ("%", "A percent escape in the target is malformed."),
        ("a%4", "A percent escape in the target is malformed."),
        ("a%zz", "A percent escape in the target is malformed."),
        (
            "x" * (MAX_KEY_BYTES + 1),
            f"The key has {MAX_KEY_BYTES + 1} bytes; --max-key-bytes allows {MAX_KEY_BYTES}.",
        ),
        (
            "%78" * (MAX_KEY_BYTES + 1),
            f"The key has {MAX_KEY_BYTES + 1} bytes; --max-key-bytes allows {MAX_KEY_BYTES}.",
        ),
    ],
)
def test_refused_keys(worker: Worker, client: Client, method: str, raw: str, message: str) -> None:
    refused = error("400 Bad Request", message)
    assert client.ask(kv(method, raw, body=b"v")) == refused
    if method == "GET":
        assert (400, client.ask(kv("HEAD", raw))) == without_body((400, refused))
    assert worker.store.stats()["entries"] == 0
    assert store(client, "x" * MAX_KEY_BYTES, b"v")  # the connection goes on


def test_both_kinds_of_routes_share_their_keys(client: Client) -> None:
    client.ask(put_pair("k", "é"))
    assert body_of(client.ask(kv("GET", "k"))) == "é".encode()
    store(client, "k", b'raw "\\\n')
    body = rb'{"status":"OK","key":"k","value":"raw \"\\\n"}'
    assert client.ask(get("k")) == reply("200 OK", body)
    store(client, "k", b"\xfe")
    assert client.ask(get("k")) == reply(
        "200 OK", b'{"status":"OK","key":"k","value":"/g==","encoding":"base64"}'
    )
    store(client, "a%20b", b"plain")
    assert client.ask(get("a+b") * 2) == hit("a b", "plain") * 2
    assert status_of(client.ask(delete("a+b"))) == 200
    assert client.ask(kv("GET", "a%20b")) == NOT_FOUND


def test_what_is_not_known_to_be_plain_is_not_called_so(worker: Worker, client: Client) -> None:
    client.ask(put_pair("k", "plain"))
    entry = worker.store.get(b"k", lambda: 0)
    assert entry is not None
    assert entry[1] == PLAIN
    store(client, "k", b'"')
    assert client.ask(get("k")) == reply("200 OK", rb'{"status":"OK","key":"k","value":"\""}')


# -- time to live --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "field", "ms"),
    [
        ("?ttl=2", b"", 2000),
        ("?ttl=0.5", b"", 500),
        ("?ttl=1.0005", b"", 1001),
        ("?ttl=0.0001", b"", 1),
        ("?ttl=1e-05", b"", 1),
        ("?ttl=1.5E1", b"", 15_000),
        ("?ttl=007", b"", 7000),
        ("?ttl=10000000000", b"", 10_000_000_000_000),
        ("?ttl=%32", b"", 2000),
        ("?t%74l=2", b"", 2000),
        ("?x=%zz&ttl=2&y", b"", 2000),
        ("", b"TTL: 2\r\n", 2000),
        ("", b"X-TTL: 2\r\n", 2000),
        ("?x", b"x-ttl: 1e-1 \r\n", 100),
        ("?x", b"ttl:\t0.30000000000000004 \r\n", 301),
    ],
)
def test_an_entry_is_gone_after_its_ttl(
    worker: Worker, client: Client, query: str, field: bytes, ms: int
) -> None:
    def told(left_ms: int) -> bytes:
        whole, part = divmod(left_ms, 1000)
        return b"TTL: %d.%03d\r\n" % (whole, part) if part else b"TTL: %d\r\n" % whole

    etag = store(client, "k" + query, b"v", field)
    assert client.ask(kv("GET", "k")) == found(b"v", etag, told(ms))
    worker.now_ms += ms - 1
    for _ in range(4):
        assert client.ask(kv("GET", "k")) == found(b"v", etag, b"TTL: 0.001\r\n")
    not_modified = client.ask(kv("GET", "k", b"If-None-Match: *\r\n"))
    assert (status_of(not_modified), field_of(not_modified, "TTL")) == (304, b"0.001")
    worker.now_ms += 1
    assert client.ask(kv("GET", "k")) == NOT_FOUND
    assert client.ask(kv("PUT", "k", b"If-Match: *\r\n", b"w")) == FAILED
    answer = client.ask(kv("PUT", "k", b"If-None-Match: *\r\n", b"w"))
    assert status_of(answer) == 201
    assert worker.store.stats()["expired"] == 1


def test_a_ttl_that_ends_between_two_looks_at_the_clock() -> None:
    worker = Worker(readable=True)
    with running_loop():
        client = worker.client()
    store(client, "k?ttl=1", b"v")
    ticks = iter([999, 1000])
    start = worker.now_ms
    worker.routes.clock = lambda: start + next(ticks)
    assert field_of(client.ask(kv("GET", "k")), "TTL") == b"0.001"


def test_a_put_sets_or_lifts_the_ttl(worker: Worker, client: Client) -> None:
    store(client, "k?ttl=1", b"v")
    etag = store(client, "k", b"w")
    worker.now_ms += 5000
    for _ in range(3):
        assert client.ask(kv("GET", "k")) == found(b"w", etag)
    store(client, "k", b"x", b"TTL: 1\r\n")
    worker.now_ms += 1000
    assert client.ask(kv("GET", "k")) == NOT_FOUND


TTL = "The ttl must be a number of seconds above 0, at most 10000000000."
TWICE = "The ttl is given more than once."


@pytest.mark.parametrize(
    ("query", "fields", "message"),
    [
        *(
            (f"?ttl={ttl}", b"", TTL)
            for ttl in (
                "",
                "0",
                "0.0",
                "-1",
                "+1",
                "x",
                "1s",
                "1,5",
                ".5",
                "5.",
                "nan",
                "inf",
                "1e400",
                "1_0",
                "0x1",
            )
        ),
        *((f"?ttl={ttl}", b"", TTL) for ttl in ("10000000001", "9" * 400, "%2B1", "1%00", "1+", "%C2%B2")),
        ("?ttl", b"", TTL),
        ("", b"TTL:\r\n", TTL),
        ("", b"TTL: 0\r\n", TTL),
        ("", b"TTL: 1, 2\r\n", TTL),
        ("?ttl=%zz", b"", "A percent escape in the target is malformed."),
        ("?ttl=1&ttl=1", b"", TWICE),
        ("?ttl=1&ttl", b"", TWICE),
        ("?ttl=1", b"TTL: 1\r\n", TWICE),
        ("", b"TTL: 1\r\nttl: 1\r\n", TWICE),
        ("", b"X-TTL: 0\r\n", TTL),
        ("?ttl=1", b"X-TTL: 1\r\n", TWICE),
        ("", b"TTL: 1\r\nX-TTL: 1\r\n", TWICE),
    ],
)
def test_refused_ttls(worker: Worker, client: Client, query: str, fields: bytes, message: str) -> None:
    assert client.ask(kv("PUT", "k" + query, fields, b"v")) == error("400 Bad Request", message)
    assert worker.store.stats()["entries"] == 0


# -- conditions ----------------------------------------------------------------------------------------------

MATCH, NONE = b"If-Match: %b\r\n", b"If-None-Match: %b\r\n"
DATES = (
    b"If-Modified-Since: Sun, 06 Nov 2044 08:49:37 GMT\r\n"
    b"If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
)

# Fields, with @ for the entry's tag without its quotes; then the status of GET, PUT and DELETE where the
# entry is there, and where it is not (RFC 9110, 13.1 and 13.2).
CONDITIONS: list[tuple[bytes, tuple[int, int, int], tuple[int, int, int]]] = [
    (b"", (200, 204, 204), (404, 201, 404)),
    (DATES, (200, 204, 204), (404, 201, 404)),
    (MATCH % b"*", (200, 204, 204), (404, 412, 412)),
    (MATCH % b'"@"', (200, 204, 204), (404, 412, 412)),
    (MATCH % b'"x", "@"', (200, 204, 204), (404, 412, 412)),
    (MATCH % b'"x"' + MATCH % b'"@"', (200, 204, 204), (404, 412, 412)),
    (MATCH % b'W/"@"', (412, 412, 412), (404, 412, 412)),
    (MATCH % b'"x"', (412, 412, 412), (404, 412, 412)),
    (MATCH % b'"@0"', (412, 412, 412), (404, 412, 412)),
    (MATCH % b'"*"', (412, 412, 412), (404, 412, 412)),
    (MATCH % b"", (412, 412, 412), (404, 412, 412)),
    (NONE % b"*", (304, 412, 412), (404, 201, 404)),
    (NONE % b'"@"', (304, 412, 412), (404, 201, 404)),
    (NONE % b'W/"@"', (304, 412, 412), (404, 201, 404)),
    (NONE % b'"x", W/"@", "y"', (304, 412, 412), (404, 201, 404)),
    (NONE % b'"x"' + NONE % b'"@"', (304, 412, 412), (404, 201, 404)),
    (NONE % b'"x"', (200, 204, 204), (404, 201, 404)),
    (NONE % b"", (200, 204, 204), (404, 201, 404)),
    # If-Match comes first.
    (MATCH % b'"x"' + NONE % b'"@"', (412, 412, 412), (404, 412, 412)),
    (NONE % b'"@"' + MATCH % b'"@"', (304, 412, 412), (404, 412, 412)),
    (NONE % b'"x"' + MATCH % b'"@"', (200, 204, 204), (404, 412, 412)),
    # The dates do not count beside entity tags, nor without.
    (DATES + NONE % b'"@"', (304, 412, 412), (404, 201, 404)),
    (DATES + MATCH % b'"@"', (200, 204, 204), (404, 412, 412)),
]


@pytest.mark.parametrize("case", CONDITIONS, ids=lambda case: case[0].decode().replace("\r\n", " "))
@pytest.mark.parametrize("there", [True, False])
def test_conditions(
    worker: Worker,
    client: Client,
    case: tuple[bytes, tuple[int, int, int], tuple[int, int, int]],
    there: bool,
) -> None:
    raw, *expected = case
    for method, status in zip(("GET", "PUT", "DELETE"), expected[not there], strict=True):
        etag = store(client, "k", b"old")
        if not there:
            client.ask(kv("DELETE", "k"))
        fields = raw.replace(b"@", etag.strip(b'"'))
        # Twice, because what changes nothing must not change what comes next.
        for _ in range(1 if status in (201, 204) else 3):
            answer = client.ask(kv(method, "k", fields, b"new" if method == "PUT" else None))
            assert status_of(answer) == status
            if method == "GET":
                assert (status, client.ask(kv("HEAD", "k", fields))) == without_body((status, answer))
        if status == 304:
            not_modified = b"HTTP/1.1 304 Not Modified\r\n%bETag: %b\r\nCache-Control: no-cache\r\n\r\n"
            assert answer == not_modified % (ISOLATED, etag)
        if status == 412:
            assert answer == FAILED
        after = client.ask(kv("GET", "k"))
        if status in (200, 304, 412) and there:
            assert after == found(b"old", etag)
        elif method == "PUT" and status != 412:
            assert after == found(b"new", field_of(answer, "ETag") or b"")
            assert field_of(answer, "ETag") != etag
        else:
            assert after == NOT_FOUND


@pytest.mark.parametrize("field", [MATCH, NONE])
@pytest.mark.parametrize("value", [b"abc", b'"abc', b'*, "a"', b'"a" "b"'])
def test_what_is_no_condition_changes_nothing(client: Client, field: bytes, value: bytes) -> None:
    etag = store(client, "k", b"old")
    refused = error(
        "400 Bad Request", "If-Match and If-None-Match take * or a list of entity tags in quotes."
    )
    for method, body in (("GET", None), ("PUT", b"new"), ("DELETE", None)):
        assert client.ask(kv(method, "k", field % value, body)) == refused
    assert client.ask(kv("GET", "k")) == found(b"old", etag)


@pytest.mark.parametrize(("method", "field"), [("PUT", MATCH), ("DELETE", MATCH), ("PUT", NONE)])
def test_a_condition_is_evaluated_with_nobody_in_between(
    worker: Worker, client: Client, method: str, field: bytes
) -> None:
    """Another worker writes after the request was read and before the shard's lock is taken."""
    update = worker.store.update
    tag = store(client, "k", b"old") if field is MATCH else b"*"

    def another_first(key: bytes, decide: Decide, clock: Callable[[], int], *, with_value: bool) -> object:
        worker.store.put(key, b"another's", clock)
        return update(key, decide, clock, with_value=with_value)

    worker.store.update = another_first  # type: ignore[assignment]
    assert client.ask(kv(method, "k", field % tag, b"new")) == FAILED
    assert body_of(client.ask(kv("GET", "k"))) == b"another's"


def test_an_etag_is_never_seen_again(client: Client) -> None:
    seen = set()
    for i in range(40):
        seen.add(store(client, "k", b"same"))
        if i % 3 == 0:
            client.ask(kv("DELETE", "k"))
        if i % 5 == 0:
            client.ask(put_pair("k", "same"))
    assert len(seen) == 40


def test_the_other_routes_change_the_etag_as_well(client: Client) -> None:
    etag = store(client, "k", b"one")
    client.ask(put_pair("k", "two"))
    assert client.ask(kv("PUT", "k", MATCH % etag, b"three")) == FAILED
    assert client.ask(get("k")) == hit("k", "two")


# -- ranges --------------------------------------------------------------------------------------------------


def test_a_part(client: Client) -> None:
    etag = store(client, "k", b"0123456789")
    whole = found(b"0123456789", etag)
    part = whole.replace(b"200 OK", b"206 Partial Content").replace(b"Length: 10", b"Length: 3")
    part = part.replace(b"bytes\r\n\r\n0123456789", b"bytes\r\nContent-Range: bytes 2-4/10\r\n\r\n234")
    ranged = b"Range: bytes=2-4\r\n"
    for _ in range(3):
        assert client.ask(kv("GET", "k", ranged)) == part
        assert client.ask(kv("GET", "k")) == whole
    assert client.ask(kv("GET", "k", ranged + b"If-Range: %b\r\n" % etag)) == part
    assert client.ask(kv("GET", "k", ranged + b'If-Range: "x"\r\n')) == whole
    assert client.ask(kv("GET", "k", ranged + b"If-Range: W/%b\r\n" % etag)) == whole
    assert client.ask(kv("GET", "k", b"Range: bytes=2-4,6-7\r\n")) == whole
    assert client.ask(kv("GET", "k", b"Range: lines=2-4\r\n")) == whole
    # Conditions come first (RFC 9110, 13.2.2).
    assert status_of(client.ask(kv("GET", "k", ranged + NONE % etag))) == 304
    assert status_of(client.ask(kv("GET", "k", ranged + MATCH % b'"x"'))) == 412
    assert client.ask(kv("GET", "absent", ranged)) == NOT_FOUND
    past = error("416 Range Not Satisfiable", "The value has 10 bytes; the range begins after them.")
    past = past.replace(b"\r\n\r\n", b"\r\nContent-Range: bytes */10\r\n\r\n")
    assert client.ask(kv("GET", "k", b"Range: bytes=10-\r\n")) == past


def test_a_range_is_for_get_alone(client: Client) -> None:
    etag = store(client, "k", b"0123456789")
    for value in (b"bytes=2-4", b"bytes=10-"):
        ranged = b"Range: %b\r\n" % value
        assert (200, client.ask(kv("HEAD", "k", ranged))) == without_body((200, found(b"0123456789", etag)))
        etag = store(client, "k", b"0123456789", ranged)
        assert client.ask(kv("GET", "k")) == found(b"0123456789", etag)
    assert client.ask(kv("DELETE", "k", ranged)) == DELETED


# -- again and in a row --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_asked_again_is_what_is_stored(worker: Worker, client: Client, method: str) -> None:
    other = worker.client()
    for value in (b"one", b"two"):
        etag = store(other, "k", value)
        expected = found(value, etag) if method == "GET" else without_body((200, found(value, etag)))[1]
        for _ in range(4):
            assert client.ask(kv(method, "k")) == expected
        assert client.ask(kv(method, "k") * 3) == expected * 3
    other.ask(kv("DELETE", "k"))
    missing = NOT_FOUND if method == "GET" else without_body((404, NOT_FOUND))[1]
    assert client.ask(kv(method, "k")) == missing
    assert client.ask(kv(method, "k") * 2) == missing * 2


def test_a_batch_of_them_is_answered_in_order(client: Client) -> None:
    etags = [store(client, f"k{i}", b"%d" % i) for i in range(5)]
    requests = b"".join(kv("GET", f"k{i}") + kv("HEAD", f"k{i}") for i in range(5))
    replies = b"".join(
        found(b"%d" % i, etag) + without_body((200, found(b"%d" % i, etag)))[1]
        for i, etag in enumerate(etags)
    )
    for _ in range(4):
        assert client.ask(requests) == replies


# -- numbers, any value ------------------------------------------------------------------------------------


def test_what_is_counted(worker: Worker, client: Client) -> None:
    etag = store(client, "k", b"v")
    client.ask(kv("PUT", "k", NONE % b"*", b"w"))
    client.ask(kv("GET", "k"))
    client.ask(kv("HEAD", "k"))
    client.ask(kv("GET", "k", NONE % etag))
    client.ask(kv("GET", "k", b"Range: bytes=0-0\r\n"))
    client.ask(kv("GET", "absent"))
    client.ask(kv("DELETE", "k", MATCH % b'"x"'))
    client.ask(kv("DELETE", "k"))
    client.ask(kv("DELETE", "k"))
    told = worker.counters
    columns = (Column.PUTS, Column.HITS, Column.MISSES, Column.DELETES, Column.BAD_REQUESTS)
    assert [told[column] for column in columns] == [1, 4, 1, 1, 0]


@settings(max_examples=150, deadline=None)
@given(
    key=st.binary(min_size=1, max_size=MAX_KEY_BYTES),
    value=st.binary(max_size=MAX_VALUE_BYTES),
    start=st.integers(0, 100),
    size=st.integers(1, 100),
)
def test_any_value_of_any_key_comes_back(key: bytes, value: bytes, start: int, size: int) -> None:
    made = Worker()
    with running_loop():
        client = made.client()
        raw = quote_from_bytes(key)
        etag = store(client, raw, value)
        for _ in range(3):
            assert client.ask(kv("GET", raw)) == found(value, etag)
        if start < len(value):
            part = client.ask(kv("GET", raw, b"Range: bytes=%d-%d\r\n" % (start, start + size - 1)))
            assert body_of(part) == value[start : start + size]
        assert client.ask(kv("DELETE", raw, MATCH % etag)) == DELETED
    made.verify()


# -- real sockets --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(workers=2, memory="272mb", max_value_bytes="64mb") as started:
        yield started
        assert started.stop() == 0


def curl(*arguments: str, text: bytes | None = None) -> bytes:
    """Run curl; what it printed."""
    command = ["curl", "--silent", "--show-error", "--path-as-is", "--max-time", "60", *arguments]
    # A sanitizer that is loaded into Python is not for curl, which hangs with it.
    alone = os.environ | {"LD_PRELOAD": ""}
    done = subprocess.run(command, input=text, env=alone, capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


STATUS = ("-w", "%{http_code}", "-o", "/dev/null")


@pytest.mark.parametrize("size", [0, 1, 100_000, 64 << 20])
def test_curl_sends_files(server: Server, tmp_path: Path, size: int) -> None:
    url = f"http://127.0.0.1:{server.port}/kv/file{size}"
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes((os.urandom(1 << 16) * ((size >> 16) + 1))[:size])
    assert curl(*STATUS, "-T", str(source), url) == b"201"
    assert curl(*STATUS, "-X", "PUT", "--data-binary", f"@{source}", url) == b"204"
    curl("-o", str(target), url)
    assert target.read_bytes() == source.read_bytes()
    # From a pipe it sends chunks.
    assert curl(*STATUS, "-T", "-", url, text=source.read_bytes()) == b"204"
    curl("-o", str(target), url)
    assert target.read_bytes() == source.read_bytes()
    if size > 1:
        curl("-o", str(target), "-r", f"{size // 2}-", url)
        assert target.read_bytes() == source.read_bytes()[size // 2 :]
    assert curl("-I", url).count(b"Content-Length: %d\r\n" % size) == 1
    assert curl(*STATUS, "-X", "DELETE", url) == b"204"


def test_a_file_that_is_too_large_is_refused(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}/kv/large"
    assert curl(*STATUS, "-T", "-", url, text=bytes((64 << 20) + 1)) == b"413"
    assert curl(*STATUS, url) == b"404"


def test_curl_revalidates(server: Server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.port}/kv/cached"
    etag = str(tmp_path / "etag")
    curl("-T", "-", url, text=b"value")
    assert curl("--etag-save", etag, url) == b"value"
    assert curl(*STATUS, "--etag-compare", etag, url) == b"304"
    curl("-T", "-", url, text=b"other")
    assert curl("--etag-compare", etag, url) == b"other"
    assert b"DELETE, GET, HEAD, OPTIONS, PUT" in curl("-i", "-X", "OPTIONS", url)


def test_curl_says_what_it_sends(server: Server, tmp_path: Path) -> None:
    """What curl says of a body without being asked is kept as well; of a file it says nothing."""
    url = f"http://127.0.0.1:{server.port}/kv/typed"
    source = tmp_path / "page.html"
    source.write_text("<p>")
    kinds = (
        (("-T", str(source)), b"application/octet-stream"),
        (("-T", str(source), "-H", "Content-Type: text/html; charset=utf-8"), b"text/html; charset=utf-8"),
        (("-X", "PUT", "-d", "<p>"), b"application/x-www-form-urlencoded"),
        (("-X", "PUT", "--data-binary", "<p>", "-H", "Content-Type:"), b"application/octet-stream"),
        (("-X", "PUT", "--json", "{}"), b"application/json"),
    )
    for arguments, kind in kinds:
        assert curl(*STATUS, *arguments, url) in (b"201", b"204")
        assert curl("-o", "/dev/null", "-w", "%{content_type}", url) == kind
    zipped = gzip.compress(b"<p>" * 1000)
    arguments = "-H", "Content-Encoding: gzip", "--data-binary", "@-", "-X", "PUT"
    assert curl(*STATUS, *arguments, url, text=zipped) == b"204"
    assert curl("--compressed", url) == b"<p>" * 1000
    assert curl(url) == zipped


def test_curl_reaches_keys_that_it_would_change_in_a_path(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}/kv"
    for key in (".", "..", "a/../b", "a b", "+", " ", "?#"):
        arguments = "--no-path-as-is", "-G", "--data-urlencode", f"key={key}", url
        assert curl(*STATUS, "-X", "PUT", "-T", "/dev/null", f"{url}?key={quote(key, safe='')}") == b"201"
        assert curl(*STATUS, *arguments) == b"200"
        assert curl(*STATUS, "-X", "DELETE", *arguments) == b"204"


def test_a_key_of_every_byte(server: Server) -> None:
    key = quote_from_bytes(EVERY_BYTE, safe="")
    assert server.request("PUT", f"/kv/{key}", EVERY_BYTE).status == 201
    assert server.request("GET", f"/kv/{key}").body == EVERY_BYTE
    assert server.request("DELETE", f"/kv/{key}").status == 204


@pytest.mark.parametrize(("before", "method"), [(b"v", "PUT"), (None, "PUT"), (b"v", "DELETE")])
def test_of_several_clients_one_wins_each_round(server: Server, before: bytes | None, method: str) -> None:
    """Compare-and-set, create-only and compare-and-delete, from connections on all workers."""
    clients, rounds = 8, 40
    etags: list[str] = []
    won: list[list[int]] = [[] for _ in range(rounds)]

    def prepare() -> None:
        server.request("DELETE", "/kv/race")
        if before is None:
            etags.append("")
        else:
            etags.append(server.request("PUT", "/kv/race", before).fields["etag"])

    gate = threading.Barrier(clients, action=prepare)

    def compete(name: int) -> None:
        with closing(http.client.HTTPConnection(server.host, server.port, timeout=20)) as connection:
            for number in range(rounds):
                gate.wait()
                fields = {"If-Match": etags[-1]} if before is not None else {"If-None-Match": "*"}
                connection.request(method, "/kv/race", b"%d" % name, fields)
                answer = connection.getresponse()
                answer.read()
                if answer.status in (201, 204):
                    won[number].append(name)
                else:
                    assert answer.status == 412

    threads = [threading.Thread(target=compete, args=(name,)) for name in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(winners) for winners in won] == [1] * rounds
    last = server.request("GET", "/kv/race")
    assert (last.status, last.body) == ((404, last.body) if method == "DELETE" else (200, b"%d" % won[-1][0]))


def test_no_increment_is_lost(server: Server) -> None:
    """Clients that try again until their ETag was the newest."""
    server.request("PUT", "/kv/count", b"0")

    def count() -> None:
        with closing(http.client.HTTPConnection(server.host, server.port, timeout=20)) as connection:
            for _ in range(25):
                status = 412
                while status == 412:
                    connection.request("GET", "/kv/count")
                    answer = connection.getresponse()
                    number, etag = int(answer.read()), answer.headers["ETag"]
                    connection.request("PUT", "/kv/count", b"%d" % (number + 1), {"If-Match": etag})
                    answer = connection.getresponse()
                    answer.read()
                    status = answer.status
                assert status == 204

    threads = [threading.Thread(target=count) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.request("GET", "/kv/count").body == b"150"
