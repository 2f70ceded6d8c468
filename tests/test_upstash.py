"""Upstash's published clients, unchanged, against a server: from PyPI, sync and asyncio, and from npm."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clients import run
from server import Server, running
from upstash_redis import Redis
from upstash_redis.asyncio import Redis as AsyncRedis
from upstash_redis.errors import UpstashError

TOKEN = "secret"
NODE = Path(__file__).with_name("node")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(token=TOKEN) as started:
        yield started


@pytest.fixture(params=["base64", None])
def redis(server: Server, request: pytest.FixtureRequest) -> Iterator[Any]:
    with Redis(url_of(server), TOKEN, rest_encoding=request.param, rest_retries=0) as client:
        yield client
        client.flushall()


def url_of(server: Server) -> str:
    return f"http://{server.host}:{server.port}"


def test_set_with_all_its_options(redis: Any) -> None:
    assert redis.set("k", "v") is True
    assert redis.get("k") == "v"
    assert redis.get("none") is None
    assert redis.set("k", "w", nx=True) is False
    assert redis.set("k", "w", xx=True, get=True) == "v"
    assert redis.set("k", "x", ex=100) is True
    assert 0 < redis.ttl("k") <= 100
    assert redis.set("k", "x", keepttl=True) is True
    assert 0 < redis.pttl("k") <= 100_000
    assert redis.set("k", "x", px=50_000) is True
    assert redis.set("k", "x", exat=int(time.time()) + 50) is True
    assert redis.set("k", "x", pxat=int(time.time() * 1000) + 50_000) is True
    assert redis.getex("k", persist=True) == "x"
    assert redis.ttl("k") == -1
    assert redis.getset("k", "y") == "x"
    assert redis.getdel("k") == "y"
    assert redis.exists("k") == 0


def test_strings_and_numbers(redis: Any) -> None:
    assert redis.setnx("k", 1) is True
    assert redis.incr("k") == 2
    assert redis.incrby("k", 2**60) == 2**60 + 2
    assert redis.decrby("k", 2**60) == 2
    assert redis.decr("k") == 1
    assert redis.incrbyfloat("k", 0.25) == 1.25
    assert redis.append("k", "00") == 6
    assert redis.strlen("k") == 6
    assert redis.getrange("k", 0, 2) == "1.2"
    assert redis.setrange("k", 1, ",") == 6
    assert redis.substr("k", 0, 1) == "1,"
    assert redis.setex("k", 10, "v") is True
    assert redis.psetex("k", 10_000, "v") is True
    assert redis.type("k") == "string"


@pytest.mark.parametrize("number", [2**63, 2**64, 10**30, -(10**30), 101600000000150081467])
def test_big_integers_stay_what_they_are(redis: Any, number: int) -> None:
    assert redis.set("k", number) is True
    assert redis.get("k") == str(number)
    assert redis.mset({"a": number, "b": [number, 1.5]}) is True
    assert redis.mget("a", "b") == [str(number), f"[{number}, 1.5]"]


@pytest.mark.parametrize("text", ["", "OK", "T0s=", "null", "é 中 😀", "\0\x01\x7f", '"\\\n\u2028'])
def test_text_stays_what_it_is(redis: Any, text: str) -> None:
    key = f"key {text}"
    redis.set(key, text)
    assert redis.get(key) == text
    assert redis.mget(key, "none") == [text, None]
    assert redis.keys("*") == [key]


def test_several_keys(redis: Any) -> None:
    assert redis.mset({"a": "1", "b": "2"}) is True
    assert redis.msetnx({"b": "3", "c": "3"}) is False
    assert redis.mget("a", "b", "c") == ["1", "2", None]
    assert redis.exists("a", "b", "c", "a") == 3
    assert redis.touch("a", "c") == 1
    assert redis.unlink("a") == 1
    assert redis.delete("a", "b") == 1
    assert redis.dbsize() == 0


def test_scan_meets_every_key(redis: Any) -> None:
    wanted = {f"key:{i}" for i in range(300)}
    redis.mset(dict.fromkeys(wanted, "v"))
    met: set[str] = set()
    cursor, keys = redis.scan(0, match="key:*", count=50)
    met.update(keys)
    while cursor:
        cursor, keys = redis.scan(cursor, match="key:*", count=50)
        met.update(keys)
    assert met == wanted
    assert redis.randomkey() in wanted


def test_expiry(redis: Any) -> None:
    redis.set("k", "v")
    assert redis.expire("k", 100) is True
    assert redis.expire("k", 50, gt=True) is False
    assert redis.pexpire("k", 50_000) is True
    assert redis.expireat("k", int(time.time()) + 50) is True
    assert redis.pexpireat("k", int(time.time() * 1000) + 50_000) is True
    assert redis.persist("k") is True
    assert redis.expire("k", -1) is True
    assert redis.ttl("k") == -2


def test_pipelines_and_transactions(redis: Any) -> None:
    pipeline = redis.pipeline()
    pipeline.set("k", "1")
    pipeline.incr("k")
    pipeline.get("k")
    assert pipeline.exec() == [True, 2, "2"]
    multi = redis.multi()
    multi.mset({"a": "1", "b": "2"})
    multi.incr("a")
    multi.mget("a", "b")
    assert multi.exec() == [True, 2, ["2", "2"]]
    faulty = redis.multi()
    faulty.execute(["NONSENSE"])
    faulty.set("k", "never")
    # It is told with {"error": …}, as it has to be; this client looks for an array.
    with pytest.raises((UpstashError, AttributeError)):
        faulty.exec()
    assert redis.get("k") == "2"


def test_errors_are_told(redis: Any, server: Server) -> None:
    redis.set("k", "text")
    with pytest.raises(UpstashError, match="ERR value is not an integer or out of range"):
        redis.incr("k")
    with pytest.raises(UpstashError, match="ERR unknown command"):
        redis.hset("h", "field", "value")
    with (
        Redis(url_of(server), "wrong", rest_retries=0) as stranger,
        pytest.raises(UpstashError, match="token"),
    ):
        stranger.get("k")


def test_a_value_that_is_no_text_is_never_taken_for_one(redis: Any, server: Server) -> None:
    """With base64, which is these clients' default, or without it: an error, and not another value."""
    path, fields = "/kv/raw", {"Authorization": f"Bearer {TOKEN}"}
    assert server.request("PUT", path, b"\xff", fields).status == 201
    redis.set("text", "v")
    for command in (["GET", "raw"], ["MGET", "text", "raw"], ["GETDEL", "raw"]):
        with pytest.raises((UpstashError, UnicodeDecodeError), match=r"utf-8|UTF-8"):
            redis.execute(command)
    assert redis.mget("text", "raw") == ["v", None]


def test_the_server(redis: Any) -> None:
    assert redis.ping() == "PONG"
    assert redis.ping("hi") == "hi"
    assert redis.echo("hello") == "hello"
    seconds, microseconds = redis.time()
    assert abs(seconds - time.time()) < 3600
    assert 0 <= microseconds < 1_000_000


def test_the_asyncio_client(server: Server) -> None:
    async def play() -> None:
        async with AsyncRedis(url_of(server), TOKEN, rest_retries=0) as redis:
            assert await redis.set("k", "v")
            await asyncio.gather(*(redis.incr("n") for _ in range(100)))
            pipeline = redis.pipeline()
            pipeline.get("k")
            pipeline.get("n")
            assert await pipeline.exec() == ["v", "100"]
            await redis.flushdb()

    asyncio.run(play())


def test_the_client_from_npm(server: Server) -> None:
    if not (NODE / "node_modules").exists():
        pytest.skip("the clients from npm are not installed: npm ci --prefix tests/node")
    assert int(run("node", NODE / "upstash.mjs", url_of(server), TOKEN)) > 0
