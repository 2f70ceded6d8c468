"""Redis' commands over REST: what each request is answered with."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fake import Client, Worker, in_loop, running_loop
from hypothesis import given
from hypothesis import strategies as st

from fastkv.http.request import HttpError
from fastkv.jsonwire import NOT_TEXT
from fastkv.stats import Column

TOKEN = b"Authorization: Bearer secret\r\n"


def ask(
    client: Client, method: str, target: str, body: bytes | None = None, fields: bytes = b""
) -> tuple[int, Any]:
    """Ask; status and the JSON of the body, None where there is none."""
    status, _, text = ask_fully(client, method, target, body, fields)
    return status, json.loads(text) if text else None


def ask_fully(
    client: Client, method: str, target: str, body: bytes | None = None, fields: bytes = b""
) -> tuple[int, bytes, bytes]:
    if body is not None:
        fields += b"Content-Length: %d\r\n" % len(body)
    head, _, text = client.ask(
        b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n%b" % (method.encode(), target.encode(), fields, body or b"")
    ).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head, text


def post(client: Client, *words: object) -> tuple[int, Any]:
    return ask(client, "POST", "/", json.dumps(words).encode())


def test_a_command_is_posted(client: Client) -> None:
    assert post(client, "SET", "k", "v", "EX", 60) == (200, {"result": "OK"})
    assert post(client, "GET", "k") == (200, {"result": "v"})
    assert post(client, "get", "none") == (200, {"result": None})
    assert post(client, "TTL", "k") == (200, {"result": 60})
    assert post(client, "PING") == (200, {"result": "PONG"})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "ERR this is not valid JSON"),
        (b'["GET"', "ERR this is not valid JSON"),
        (b'{"cmd":["GET","k"]}', "ERR a command is an array"),
        (b"[]", "ERR a command is an array"),
        (b'["GET",null]', "ERR a command is an array"),
        (b'["GET"]', "ERR wrong number of arguments for 'get' command"),
        (b'["FOO","bar"]', "ERR unknown command 'FOO', with args beginning with: 'bar' "),
        (b'["SET","k","v","EX","x"]', "ERR value is not an integer or out of range"),
        (b'["SUBSCRIBE","channel"]', "ERR "),
        (b'["MULTI"]', "ERR MULTI is for connections"),
    ],
)
def test_an_error_is_a_400_that_says_why(client: Client, body: bytes, text: str) -> None:
    status, told = ask(client, "POST", "/", body)
    assert (status, list(told)) == (400, ["error"])
    assert told["error"].startswith(text)


def test_strings_are_told_in_base64_for_those_who_ask(client: Client) -> None:
    base64 = b"Upstash-Encoding: base64\r\n"
    assert ask(client, "POST", "/", b'["SET","k","v"]', base64) == (200, {"result": "OK"})
    assert ask(client, "POST", "/", b'["GET","k"]', base64) == (200, {"result": "dg=="})
    assert ask(client, "POST", "/pipeline", b'[["GET","k"],["STRLEN","k"],["ECHO","OK"]]', base64) == (
        200,
        [{"result": "dg=="}, {"result": 1}, {"result": "T0s="}],
    )
    assert ask(client, "POST", "/multi-exec", b'[["GET","k"]]', base64) == (200, [{"result": "dg=="}])
    ask(client, "PUT", "/kv/raw", b"\xff")
    assert ask(client, "POST", "/", b'["GET","raw"]', base64) == (200, {"result": "/w=="})


NO_TEXT = {"error": NOT_TEXT, "result_base64": "/w=="}


def test_a_result_that_is_no_text_is_an_error_and_is_not_lost(client: Client) -> None:
    """Whatever a client looks at, it does not take base64 for the value; and what was taken out is there."""
    ask(client, "PUT", "/kv/raw", b"\xff")
    ask(client, "PUT", "/kv/plain", b"v")
    assert ask(client, "GET", "/get/raw") == (400, NO_TEXT)
    assert post(client, "GET", "raw") == (400, NO_TEXT)
    several = {"error": NOT_TEXT, "result_base64": ["/w==", "dg==", None]}
    assert post(client, "MGET", "raw", "plain", "none") == (400, several)
    assert ask(client, "POST", "/pipeline", b'[["GET","raw"],["GET","plain"]]') == (
        200,
        [NO_TEXT, {"result": "v"}],
    )
    assert ask(client, "POST", "/multi-exec", b'[["GETSET","raw","text"],["GET","raw"]]') == (
        200,
        [NO_TEXT, {"result": "text"}],
    )
    ask(client, "PUT", "/kv/raw", b"\xff")
    assert post(client, "GETDEL", "raw") == (400, NO_TEXT)
    assert post(client, "GET", "raw") == (200, {"result": None})
    ask(client, "PUT", "/kv/%ff", b"")
    status, told = post(client, "KEYS", "*")
    assert (status, told["error"], sorted(told["result_base64"])) == (400, NOT_TEXT, ["/w==", "cGxhaW4="])
    for i in range(3000):
        ask(client, "PUT", f"/kv/{i}", b"")
    status, told = post(client, "KEYS", "*")
    assert (status, told["error"], len(told["result_base64"]), "result" in told) == (
        400,
        NOT_TEXT,
        3002,
        False,
    )


def test_a_pipeline_goes_on_after_an_error(client: Client) -> None:
    body = b'[["SET","k","x"],["INCR","k"],["NONSENSE"],["GET","k"]]'
    status, told = ask(client, "POST", "/pipeline", body)
    assert status == 200
    assert [list(one) for one in told] == [["result"], ["error"], ["error"], ["result"]]
    assert told[3] == {"result": "x"}


def test_a_transaction_is_all_or_nothing(client: Client) -> None:
    body = b'[["SET","a","1"],["INCR","a"],["MGET","a","none"]]'
    assert ask(client, "POST", "/multi-exec", body) == (
        200,
        [{"result": "OK"}, {"result": 2}, {"result": ["2", None]}],
    )
    status, told = ask(client, "POST", "/multi-exec", b'[["SET","a","never"],["GET"]]')
    assert status == 400
    assert told["error"].startswith("EXECABORT")
    assert post(client, "GET", "a") == (200, {"result": "2"})


@pytest.mark.parametrize("path", ["/pipeline", "/multi-exec"])
@pytest.mark.parametrize("body", [b"[]", b"{}", b"[[]]", b'["GET","k"]', b'[["GET","k"],1]', b"x"])
def test_what_is_no_batch_is_a_400(client: Client, path: str, body: bytes) -> None:
    status, told = ask(client, "POST", path, body)
    assert status == 400
    assert told["error"].startswith("ERR ")


def test_too_many_commands_are_a_400() -> None:
    worker = Worker(max_batch=3)
    with running_loop():
        client = worker.client()
        for path in ("/pipeline", "/multi-exec"):
            assert ask(client, "POST", path, json.dumps([["INCR", "n"]] * 4).encode())[0] == 400
        assert post(client, "GET", "n") == (200, {"result": None})
    worker.verify()


@pytest.mark.parametrize(
    ("method", "target", "body", "told"),
    [
        ("POST", "/set/a/1", None, "OK"),
        ("PUT", "/SET/a/2/EX/60", None, "OK"),
        ("GET", "/get/old", None, "value"),
        ("GET", "/Get/old?", None, "value"),
        ("GET", "/mget/old/none", None, ["value", None]),
        ("POST", "/set/a%2Fb%20c", b"\xff\x00", "OK"),
        ("POST", "/set/a?EX=60&NX", b"v", "OK"),
        ("POST", "/set/a/v?PX=60000", None, "OK"),
        ("POST", "/append/old", b"+", 6),
        ("GET", "/echo/%2B+%25", None, "++%"),
        ("GET", "/echo/", None, ""),
        ("GET", "/ping", None, "PONG"),
        ("POST", "/incrby/n/5", b"", 5),
    ],
)
def test_the_path_style(client: Client, method: str, target: str, body: bytes | None, told: Any) -> None:
    post(client, "SET", "old", "value")
    assert ask(client, method, target, body) == (200, {"result": told})


def test_what_the_path_style_stores(client: Client) -> None:
    ask(client, "POST", "/set/a%2Fb?EX=60", b"\x00\xff")
    assert client.ask(b"GET /kv/a/b HTTP/1.1\r\nHost: a\r\n\r\n").endswith(b"\r\n\r\n\x00\xff")
    assert post(client, "TTL", "a/b") == (200, {"result": 60})


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nonsense/a", 404),
        ("POST", "/nonsense", 404),
        ("GET", "/", 405),
        ("GET", "/pipeline", 405),
        ("DELETE", "/get/a", 405),
        ("PATCH", "/get/a", 501),
        ("GET", "/get/%zz", 400),
        ("GET", "/get", 400),
        ("GET", "/mget", 400),
        ("GET", "/get/a?x=%zz", 400),
    ],
)
def test_what_is_no_command_in_a_path(client: Client, method: str, target: str, status: int) -> None:
    assert ask(client, method, target)[0] == status


def test_named_routes_come_before_commands(client: Client) -> None:
    post(client, "SET", "name", "v")
    assert ask(client, "GET", "/get?key=name") == (200, {"status": "OK", "key": "name", "value": "v"})
    assert ask(client, "GET", "/get/name") == (200, {"result": "v"})


def test_by_get_only_a_token_may_change_something(client: Client) -> None:
    for target in ("/set/k/v", "/set/k/v?_token=", "/incr/k", "/flushall", "/publish/channel/message"):
        status, head, text = ask_fully(client, "GET", target)
        assert status == 405
        assert b"Allow: POST, PUT" in head
        assert json.loads(text)["error"].startswith("ERR by GET")
    assert ask(client, "GET", "/set/k/v", fields=TOKEN) == (200, {"result": "OK"})
    assert ask(client, "GET", "/set/k/w?EX=9&_token=any") == (200, {"result": "OK"})
    assert ask(client, "GET", "/get/k") == (200, {"result": "w"})
    assert ask_fully(client, "HEAD", "/set/k/v")[::2] == (405, b"")


def test_on_other_addresses_a_token_in_a_query_may_be_a_strangers() -> None:
    worker = Worker(host=("127.0.0.1", "0.0.0.0"))
    with running_loop():
        client = worker.client()
        assert ask(client, "GET", "/set/k/v?_token=any")[0] == 405
        assert ask(client, "GET", "/set/k/v", fields=TOKEN) == (200, {"result": "OK"})
    worker.verify()


@pytest.mark.parametrize("line", ["GET /exists/a", "POST /incr/a"])
@in_loop
async def test_requests_that_take_long_leave_others_a_turn(line: str) -> None:
    worker = Worker()
    client = worker.client()
    worker.service.turn_seconds = -1.0
    client.send(f"{line} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode() * 3)
    for _ in range(3):
        assert client.take().count(b" 200 OK") == 1
        await asyncio.sleep(0)
    assert client.take() == b""
    assert worker.counters[Column.PIPELINE_PAUSES] == 2


def test_head_has_no_body(client: Client) -> None:
    post(client, "SET", "k", "v")
    status, head, text = ask_fully(client, "HEAD", "/get/k")
    assert (status, text) == (200, b"")
    assert b"Content-Length: 14\r\n" in head


def test_options_tells_what_a_command_takes(client: Client) -> None:
    assert (
        b"Allow: GET, HEAD, OPTIONS, POST, PUT\r\n" in ask_fully(client, "OPTIONS", "/set/k/v")[1] + b"\r\n"
    )


@pytest.fixture
def guarded() -> Iterator[Client]:
    worker = Worker(token="secret")
    with running_loop():
        yield worker.client()
    worker.verify()


def test_with_a_token_nobody_else_may_speak(guarded: Client) -> None:
    status, told = ask(guarded, "POST", "/", b'["GET","k"]')
    assert status == 401
    assert told["error"].startswith("ERR This needs the token of the server")
    assert ask(guarded, "POST", "/", b'["SET","k","v"]', TOKEN) == (200, {"result": "OK"})
    assert ask(guarded, "GET", "/get/k?_token=secret") == (200, {"result": "v"})
    assert ask(guarded, "GET", "/set/k/w/?_token=wrong")[0] == 401
    assert ask(guarded, "GET", "/set/k/w?EX=9&_token=secret") == (200, {"result": "OK"})
    assert ask(guarded, "GET", "/get/k", fields=TOKEN) == (200, {"result": "w"})


@given(words=st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=3))
def test_any_bytes_can_stand_in_a_path(words: list[bytes]) -> None:
    worker = Worker()
    with running_loop():
        client = worker.client()
        target = "/mget/" + "/".join(quote(word, safe="") for word in words)
        for word in words:
            worker.store.put(word, b"v", lambda: 0)
        assert ask(client, "GET", target) == (200, {"result": ["v"] * len(words)})
    worker.verify()


def test_a_malformed_escape_is_an_error_of_http(worker: Worker) -> None:
    handler = worker.routes.find(b"GET /get/%zz")
    with pytest.raises(HttpError):
        handler(b"", None, b"")  # type: ignore[arg-type]
