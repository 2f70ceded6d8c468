"""The original routes, byte for byte: what each request is answered with, and what is stored afterwards."""

import json
from urllib.parse import quote_from_bytes, quote_plus

import orjson
import pytest
from fake import (
    DELETED,
    HEALTHY,
    ISOLATED,
    MAX_BODY_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    NOT_FOUND,
    STORED,
    Client,
    Worker,
    delete,
    error,
    get,
    hit,
    put,
    put_pair,
    reply,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv import __version__, core
from fastkv.http.responses import without_body
from fastkv.stats import Column

pytestmark = pytest.mark.usefixtures("implementation")


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def stored_keys(worker: Worker) -> int:
    return worker.store.stats()["entries"]


# -- what is right -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
def test_put_get_delete(client: Client, method: bytes) -> None:
    assert client.ask(put(b'{"key":"name", "value":"UltraFastKV"}', method=method)) == STORED
    assert client.ask(get("name")) == hit("name", "UltraFastKV")
    assert client.ask(put_pair("name", "other")) == STORED
    assert client.ask(get("name")) == hit("name", "other")
    assert client.ask(delete("name")) == DELETED
    assert client.ask(get("name")) == NOT_FOUND
    assert client.ask(delete("name")) == NOT_FOUND


def test_health_and_version(client: Client, worker: Worker) -> None:
    assert client.ask(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n") == HEALTHY
    told = json.loads(body_of(client.ask(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")))
    expected = {"name": "fastkv", "version": __version__, "core": core.IMPLEMENTATION}
    assert told == (expected if core.COMPILED else {**expected, "core_reason": core.REASON})
    worker.routes.draining = True
    assert client.ask(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n") == error(
        "503 Service Unavailable", "The server is draining.", b"Retry-After: 1\r\n"
    )


def test_stats(client: Client, worker: Worker) -> None:
    client.ask(put_pair("a", "1"))
    client.ask(get("a"))
    client.ask(get("b"))
    client.ask(delete("a"))
    client.ask(get("x" * (MAX_KEY_BYTES + 1)))
    told = json.loads(body_of(client.ask(b"GET /stats HTTP/1.1\r\nHost: a\r\n\r\n")))
    expected = {
        "connections": 1,
        "hits": 1,
        "misses": 1,
        "puts": 1,
        "deletes": 1,
        "key_too_long": 1,
        "entries": 0,
    }
    assert {name: told[name] for name in expected} == expected
    counters = {column.name.lower() for column in Column if column >= Column.HITS}
    assert {"bytes", "evictions", "memory_bytes"} | counters <= told.keys()
    assert told.pop("core") == core.IMPLEMENTATION
    assert all(type(value) is int for value in told.values())


@pytest.mark.parametrize("target", ["/get?key=a", "/get?key=none", "/health", "/version", "/get", "/nothing"])
def test_head_is_get_without_a_body(client: Client, target: str) -> None:
    client.ask(put_pair("a", "1"))
    rest = f" {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    full = client.ask(b"GET" + rest)
    for _ in range(3):
        assert (200, client.ask(b"HEAD" + rest)) == without_body((200, full))
        assert client.ask(b"GET" + rest) == full


def test_head_of_stats(client: Client) -> None:
    answer = client.ask(b"HEAD /stats HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body_of(answer) == b""


# -- keys in a query ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ("a+b", "a b"),
        ("a%20b", "a b"),
        ("a%2Bb", "a+b"),
        ("%C3%A9", "é"),
        ("%c3%a9", "é"),
        ("%F0%9F%98%80", "😀"),
        ("a%00b", "a\0b"),
        ("%22%5C", '"\\'),
        ("a=b", "a=b"),
        ("a%26b", "a&b"),
        ("/x/../y", "/x/../y"),
        ("a&other=%zz&x", "a"),
        ("key", "key"),
    ],
)
def test_keys_are_form_encoded(client: Client, raw: str, key: str) -> None:
    assert client.ask(put(json.dumps({"key": key, "value": "v"}).encode())) == STORED
    expected = reply("200 OK", orjson.dumps({"status": "OK", "key": key, "value": "v"}))
    for _ in range(3):
        assert client.ask(get(raw)) == expected
    assert client.ask(delete(raw)) == DELETED
    assert client.ask(get(raw)) == NOT_FOUND


REQUIRED = "Key parameter is required."
REPEATED = "Key parameter is repeated."
ESCAPE = "A percent escape in the target is malformed."
LONG = f"The key has {MAX_KEY_BYTES + 1} bytes; --max-key-bytes allows {MAX_KEY_BYTES}."


@pytest.mark.parametrize("line", ["GET /get", "DELETE /delete"])
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", REQUIRED),
        ("?", REQUIRED),
        ("?key", REQUIRED),
        ("?key=", REQUIRED),
        ("?KEY=a", REQUIRED),
        ("?other=a", REQUIRED),
        ("?key=a&key=b", REPEATED),
        ("?key=&key=b", REPEATED),
        ("?key=%zz", ESCAPE),
        ("?key=%", ESCAPE),
        ("?key=a%4", ESCAPE),
        ("?key=" + "x" * (MAX_KEY_BYTES + 1), LONG),
        ("?key=" + "%41" * (MAX_KEY_BYTES + 1), LONG),
    ],
)
def test_refused_queries(client: Client, line: str, query: str, message: str) -> None:
    request = f"{line}{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    assert client.ask(request) == error("400 Bad Request", message)
    assert client.ask(get("a")) == NOT_FOUND  # the connection goes on


def test_keys_and_values_at_their_limits(client: Client, worker: Worker) -> None:
    key = "k" * MAX_KEY_BYTES
    value = "v" * MAX_VALUE_BYTES
    assert client.ask(put_pair(key, value)) == STORED
    assert client.ask(get(key)) == hit(key, value)
    assert client.ask(put_pair(key + "k", "v")) == error("400 Bad Request", LONG)
    assert client.ask(put_pair("a", value + "v")) == error(
        "413 Content Too Large",
        f"The value has {MAX_VALUE_BYTES + 1} bytes; --max-value-bytes allows {MAX_VALUE_BYTES}.",
    )
    # Bytes count, not characters.
    assert client.ask(put_pair("é" * (MAX_KEY_BYTES // 2), "é" * (MAX_VALUE_BYTES // 2))) == STORED
    assert client.ask(put_pair("é" * (MAX_KEY_BYTES // 2) + "x", "v")) == error("400 Bad Request", LONG)
    # So long as it may be, as JSON escapes, it fits the limit of the body.
    escaped = rb'{"key":"%b","value":"%b"}' % (rb"\u0000" * MAX_KEY_BYTES, rb"\u0000" * MAX_VALUE_BYTES)
    assert client.ask(put(escaped)) == STORED
    nulls = b"\0" * MAX_VALUE_BYTES
    entry = worker.store.get(b"\0" * MAX_KEY_BYTES, lambda: 0)
    assert entry is not None
    assert entry[0] == nulls


def test_an_empty_value_is_one(client: Client) -> None:
    assert client.ask(put_pair("a", "")) == STORED
    assert client.ask(get("a")) == hit("a", "")


# -- bodies ------------------------------------------------------------------------------------------------

JSON = "The body is not valid JSON."
OBJECT = "The body must be a JSON object."
KEY = "The body must have a key: a string that is not empty."
VALUE = "The body must have a value: a string."
TTL = "The ttl must be a number of seconds above 0, at most 10000000000."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", None),  # Content-Length: 0 is a length; nothing is no JSON
        (b"{", JSON),
        (b'{"key":"a","value":"b"}x', JSON),
        (b'{"key":"a","value":"b",}', JSON),
        (b"{'key':'a','value':'b'}", JSON),
        (b'{"key":"a","value":"\n"}', JSON),
        (b'{"key":"a","value":"\\x"}', JSON),
        (b'{"key":"a","value":"\\ud800"}', JSON),
        (b'{"key":"\\udc00","value":"b"}', JSON),
        (b'{"key":"a","value":"\\ud800\\ud800"}', JSON),
        (b'{"key":"a","value":"\xff"}', JSON),
        (b'{"key":"a","value":"\xc3"}', JSON),
        (b'{"key":"a","value":"\xed\xa0\x80"}', JSON),
        (b'{"key":"a","value":"\xc0\x80"}', JSON),
        (b'\xef\xbb\xbf{"key":"a","value":"b"}', JSON),
        (b"[" * 5000 + b"]" * 5000, JSON),
        (b'["a","b"]', OBJECT),
        (b'"a"', OBJECT),
        (b"null", OBJECT),
        (b"17", OBJECT),
        (b"{}", KEY),
        (b'{"value":"b"}', KEY),
        (b'{"key":"","value":"b"}', KEY),
        (b'{"key":null,"value":"b"}', KEY),
        (b'{"key":1,"value":"b"}', KEY),
        (b'{"key":["a"],"value":"b"}', KEY),
        (b'{"KEY":"a","value":"b"}', KEY),
        (b'{"key":"a"}', VALUE),
        (b'{"key":"a","value":null}', VALUE),
        (b'{"key":"a","value":1}', VALUE),
        (b'{"key":"a","value":true}', VALUE),
        (b'{"key":"a","value":{}}', VALUE),
        (b'{"key":"a","value":["b"]}', VALUE),
        *(
            (b'{"key":"a","value":"b","ttl":%b}' % ttl, TTL)
            for ttl in (
                *(b"0", b"0.0", b"-0.0", b"-1", b"-0.001", b"true", b"false", b"null", b'"5"', b"[]", b"{}"),
                *(b"1e308", b"10000000001", b"9223372036854775808", b"1" * 30),
            )
        ),
        *(
            (b'{"key":"a","value":"b","ttl":%b}' % ttl, JSON)
            for ttl in (b"NaN", b"Infinity", b"-Infinity", b"05")
        ),
        (b'{"key":"a","value":"b","ttl":1,"ttl":0}', TTL),
    ],
)
def test_refused_bodies(client: Client, worker: Worker, body: bytes, message: str | None) -> None:
    assert client.ask(put(body)) == error("400 Bad Request", message or JSON)
    assert stored_keys(worker) == 0
    assert client.ask(get("a")) == NOT_FOUND  # the connection goes on


def test_a_body_needs_a_length(client: Client, worker: Worker) -> None:
    required = error("411 Length Required", "The length of the body is required.")
    for method in (b"POST", b"PUT"):
        assert client.ask(method + b" /put HTTP/1.1\r\nHost: a\r\n\r\n") == required
    assert client.ask(get("a")) == NOT_FOUND


def test_a_body_that_is_too_long_ends_the_connection(client: Client, worker: Worker) -> None:
    request = put(b"x" * (MAX_BODY_BYTES + 1))
    assert client.ask(request).startswith(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n")
    assert client.transport.ended
    assert client.ask(put_pair("a", "b")) == b""
    assert stored_keys(worker) == 0


def test_a_body_at_its_limit_is_read(client: Client) -> None:
    body = b'{"key":"a","value":"b"}'
    assert client.ask(put(body + b" " * (MAX_BODY_BYTES - len(body)))) == STORED


@pytest.mark.parametrize(
    "body",
    [
        b'{"value":"b","key":"a"}',
        b' \r\n\t{ "key" : "a" ,\n"value":"b" } ',
        b'{"key":"a","value":"b","other":[1,{"x":null}]}',
        b'{"key":"\\u0061","value":"\\u0062"}',
        b'{"key":"x","key":"a","value":"y","value":"b"}',  # the last one counts, as everywhere
        b'{"key":"x","value":1,"key":"a","value":"b"}',
        b'{"key":"a","value":"b","ttl":1}',
        b'{"key":"a","value":"b","ttl":0.0001}',
        b'{"key":"a","value":"b","ttl":10000000000}',
        b'{"key":"a","value":"b","ttl":1e3}',
        b'{"key":"a","value":"b","ttl":0,"ttl":5}',
    ],
)
def test_accepted_bodies(client: Client, body: bytes) -> None:
    assert client.ask(put(body)) == STORED
    assert client.ask(get("a")) == hit("a", "b")


@pytest.mark.parametrize(
    "kind", [b"", b"application/json", b"application/x-www-form-urlencoded", b"text/plain"]
)
def test_any_content_type(client: Client, kind: bytes) -> None:
    field = b"Content-Type: " + kind + b"\r\n" if kind else b""
    assert client.ask(put(b'{"key":"a","value":"b"}', field)) == STORED


# -- strings come back as they were ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (rb"\u0000", rb"\u0000"),
        (rb"\u001f\u0008\u000c", rb"\u001f\b\f"),
        (rb"\n\r\t\b\f", rb"\n\r\t\b\f"),
        (rb"\"\\\/", rb"\"\\/"),
        (rb"\ud83d\ude00", "😀".encode()),
        ("😀é€".encode(), "😀é€".encode()),
        (rb"\u00e9", "é".encode()),
        (b"\x7f", b"\x7f"),
        (rb"\u2028<script>&'", "\u2028<script>&'".encode()),
        (rb"\ufeff\uffff", "\ufeff\uffff".encode()),
        (rb"\\u0000", rb"\\u0000"),
    ],
)
def test_escapes(client: Client, text: bytes, told: bytes) -> None:
    assert client.ask(put(b'{"key":"%b","value":"%b"}' % (text, text))) == STORED
    key = json.loads(b'"%b"' % text).encode()
    for _ in range(3):
        answer = client.ask(get(quote_plus(key)))
        assert answer == reply("200 OK", b'{"status":"OK","key":"%b","value":"%b"}' % (told, told))
    assert json.loads(body_of(answer))["value"].encode() == key


_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=150, deadline=None)
@given(
    key=_TEXT.filter(lambda key: 0 < len(key.encode()) <= MAX_KEY_BYTES),
    value=_TEXT,
    ascii_only=st.booleans(),
)
def test_any_strings_come_back(key: str, value: str, ascii_only: bool) -> None:
    worker = Worker()
    client = worker.client()
    body = json.dumps({"key": key, "value": value}, ensure_ascii=ascii_only).encode()
    assert client.ask(put(body)) == STORED
    for _ in range(3):
        told = json.loads(body_of(client.ask(get(quote_plus(key)))))
        assert told == {"status": "OK", "key": key, "value": value}
    worker.verify()


def test_what_is_not_text_comes_back_in_base64(client: Client, worker: Worker) -> None:
    worker.store.put(b"\xff", b"v", lambda: 0)
    worker.store.put(b"k", b"\xfe", lambda: 0)
    worker.store.put(b"\xfd", b"\xfe", lambda: 0)
    for key, body in (
        (b"\xff", b'{"status":"OK","key":"/w==","value":"v","key_encoding":"base64"}'),
        (b"k", b'{"status":"OK","key":"k","value":"/g==","encoding":"base64"}'),
        (b"\xfd", b'{"status":"OK","key":"/Q==","value":"/g==","encoding":"base64","key_encoding":"base64"}'),
    ):
        assert client.ask(get(quote_from_bytes(key))) == reply("200 OK", body)


# -- time to live ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ttl", "lives_ms"), [("2", 2000), ("0.5", 500), ("0.0001", 1), ("1.0005", 1001)])
def test_an_entry_is_gone_after_its_ttl(client: Client, worker: Worker, ttl: str, lives_ms: int) -> None:
    client.ask(put(f'{{"key":"a","value":"b","ttl":{ttl}}}'.encode()))
    worker.now_ms += lives_ms - 1
    for _ in range(4):
        assert client.ask(get("a")) == hit("a", "b")
    worker.now_ms += 1
    assert client.ask(get("a")) == NOT_FOUND
    assert client.ask(delete("a")) == NOT_FOUND


def test_a_put_sets_or_lifts_the_ttl(client: Client, worker: Worker) -> None:
    client.ask(put_pair("a", "b"))
    for _ in range(3):
        assert client.ask(get("a")) == hit("a", "b")
    client.ask(put(b'{"key":"a","value":"c","ttl":1}'))
    for _ in range(3):
        assert client.ask(get("a")) == hit("a", "c")
    worker.now_ms += 1000
    assert client.ask(get("a")) == NOT_FOUND
    client.ask(put(b'{"key":"a","value":"d","ttl":1}'))
    client.ask(put_pair("a", "e"))
    worker.now_ms += 5000
    assert client.ask(get("a")) == hit("a", "e")


# -- methods and routes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/get", ["GET", "HEAD", "OPTIONS"]),
        ("/health", ["GET", "HEAD", "OPTIONS"]),
        ("/stats", ["GET", "HEAD", "OPTIONS"]),
        ("/version", ["GET", "HEAD", "OPTIONS"]),
        ("/put", ["OPTIONS", "POST", "PUT"]),
        ("/delete", ["DELETE", "OPTIONS"]),
        ("/kv", ["DELETE", "GET", "HEAD", "OPTIONS", "PUT"]),
        ("/kv/a", ["DELETE", "GET", "HEAD", "OPTIONS", "PUT"]),
        ("/kv/", ["DELETE", "GET", "HEAD", "OPTIONS", "PUT"]),
        ("/kv/a/b%zz", ["DELETE", "GET", "HEAD", "OPTIONS", "PUT"]),
    ],
)
def test_other_methods_are_told_what_is_allowed(client: Client, path: str, allowed: list[str]) -> None:
    names = ", ".join(allowed)
    isolated = ISOLATED if path.startswith("/kv") else b""
    for method in {"GET", "PUT", "POST", "DELETE"} - set(allowed):
        refused = error(
            "405 Method Not Allowed",
            f"This route takes {names} only.",
            f"Allow: {names}\r\n".encode(),
            isolated,
        )
        request = f"{method} {path}?key=a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}"
        assert client.ask(request.encode()) == refused
    told = b"HTTP/1.1 204 No Content\r\n%bAllow: %b\r\n\r\n" % (isolated, names.encode())
    assert client.ask(f"OPTIONS {path}?x HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 2) == told * 2
    assert client.ask(get("a")) == NOT_FOUND


@pytest.mark.parametrize("path", ["/get?key=a", "/put", "/kv/a", "/nothing", "/"])
@pytest.mark.parametrize("method", ["PATCH", "get", "Get", "BREW", "TRACE", "PROPFIND", "G", "GETS"])
def test_methods_that_no_route_takes(client: Client, method: str, path: str) -> None:
    refused = error(
        "501 Not Implemented",
        "The methods known here are DELETE, GET, HEAD, OPTIONS, POST, PUT.",
        connection=ISOLATED if path.startswith("/kv") else b"",
    )
    request = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}"
    assert client.ask(request.encode()) == refused
    assert client.ask(get("a")) == NOT_FOUND


def test_options_of_the_server(client: Client) -> None:
    told = b"HTTP/1.1 204 No Content\r\nAllow: DELETE, GET, HEAD, OPTIONS, POST, PUT\r\n\r\n"
    assert client.ask(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n") == told
    assert client.ask(b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n") == told


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "//get", "/g%65t", "/gets/a?key=a", "/put/x", "/favicon.ico"),
        *("//kv/a", "/KV/a", "/k%76/a", "/x/kv/a"),
    ],
)
def test_unknown_routes(client: Client, path: str) -> None:
    missing = error("404 Not Found", "There is no such route.")
    for method in ("GET", "PUT", "OPTIONS"):
        request = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        assert client.ask(request.encode()) == missing
    assert client.ask(get("a")) == NOT_FOUND


def test_a_get_with_a_body_is_read_past_it(client: Client) -> None:
    client.ask(put_pair("a", "1"))
    assert client.ask(get("a", b"Content-Length: 5\r\n") + b"hello" + get("b")) == hit("a", "1") + NOT_FOUND


def test_absolute_form(client: Client) -> None:
    client.ask(put_pair("a", "1"))
    assert client.ask(b"GET http://b/get?key=a HTTP/1.1\r\nHost: a\r\n\r\n") == hit("a", "1")
