"""Real clients and a real server: each over the original routes and over the resources, byte for byte."""

import asyncio
import http.client
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_from_bytes, urlencode

import httpx
import pytest
from clients import (
    CLIENTS,
    EVERY_WAY,
    PERSISTENT,
    SECONDS,
    Address,
    Send,
    async_client,
    curl,
    node,
    replies,
    run,
)
from replies import Reply
from server import Job, Server, has_ipv6, in_background, read_reply, running, wait_until

OK = {"status": "OK", "message": "Key inserted/updated successfully."}
DELETED = {"status": "OK", "message": "Key deleted successfully."}
NOT_FOUND = {"status": "ERROR", "message": "Key not found."}

EVERY_BYTE = bytes(range(256))
MIB = 1 << 20
BIG = os.urandom(4 * MIB)

# What clients say of a body without being asked to, and what the server says where they say nothing.
SAID_TYPES = ("application/octet-stream", "application/x-www-form-urlencoded", "text/plain;charset=UTF-8")
KEYS = (
    "name",
    " two  words ",
    "a/b//c/",
    "100%25%",
    "+&=#?;:@",
    "\"\\'",
    "\x00\x1f\x7f",
    "Größe",
    "鍵/κλειδί",
    "😀👍🏽",
)
TEXTS = ("", "v", "\0", "".join(map(chr, EVERY_BYTE)), "ẞ鍵😀👍🏽\U0010ffff", "😀" * (MIB // 4))
VALUES = (b"", b"\0", EVERY_BYTE, b"\r\n\r\nHTTP/1.1 200 OK\r\n", "😀".encode(), EVERY_BYTE * (MIB // 256))

BOTH = pytest.mark.parametrize("target", ["/get?key=loaded", "/kv/loaded"])
"""A key by its original route and as a resource."""

UPLOADS = pytest.mark.parametrize("target", ["/put", "/kv/uploaded"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    hosts = ("127.0.0.1", "::1") if has_ipv6() else ("127.0.0.1",)
    unix = tmp_path_factory.mktemp("unix") / "fastkv.sock"
    with running(workers=2, memory="128mb", max_value_bytes="8mb", host=hosts, unix=unix) as started:
        yield started
        assert started.stop() == 0


@pytest.fixture
def address(server: Server) -> Address:
    return Address(server.port, Path(server.ready.split("unix:")[1].split(" with ")[0]))


@pytest.fixture
def url(address: Address) -> str:
    return address.url


@pytest.fixture(autouse=True)
def _no_harm(server: Server) -> Iterator[None]:
    """After each test: no mistake was made, nothing was worth a line of the log, no connection is left."""
    log = server.log()
    yield
    assert_unharmed(server)
    assert server.log() == log


@pytest.fixture(params=CLIENTS)
def send(request: pytest.FixtureRequest, address: Address) -> Iterator[Send]:
    with EVERY_WAY[request.param](address) as opened:
        yield opened


def assert_unharmed(server: Server) -> None:
    """No mistake was made, and no connection is left but the one that asks."""

    def is_alone() -> bool:
        told = stats(server)
        assert told["internal_errors"] == 0
        return told["connections"] == 1

    wait_until(is_alone, "every connection is closed")


def stats(server: Server) -> dict[str, int]:
    return dict(json.loads(server.request("GET", "/stats").body))


def status_and_json(reply: Reply) -> tuple[int, object]:
    assert reply.fields["content-type"].startswith("application/json")
    return reply.status, json.loads(reply.body)


def metadata(reply: Reply) -> dict[str, str]:
    """Its fields but the date, which may have gone on, and Connection: undici closes after HEAD."""
    return {name: value for name, value in reply.fields.items() if name not in ("date", "connection")}


def pair(key: str, value: str) -> bytes:
    """What /put takes, as most clients write it: UTF-8 stays."""
    return json.dumps({"key": key, "value": value}, ensure_ascii=False).encode()


def body_for(target: str, value: bytes) -> bytes:
    """What to send to store a value, which for /put is ASCII."""
    return pair("uploaded", value.decode()) if target == "/put" else value


def pieces_of(body: bytes, number: int) -> list[bytes]:
    """About so many of them."""
    length = len(body) // number + 1
    return [body[at : at + length] for at in range(0, len(body), length)]


def value_of(server: Server, key: str = "uploaded") -> bytes:
    return server.request("GET", f"/kv/{key}").body


# -- every client --------------------------------------------------------------------------------------------


def test_entries_by_the_original_routes(send: Send) -> None:
    pairs = [(key, "v") for key in KEYS] + [("name", text) for text in TEXTS]
    for number, (key, value) in enumerate(pairs):
        query = urlencode({"key": key})
        # In ASCII with escapes, and in UTF-8.
        body = pair(key, value) if number % 2 else json.dumps({"key": key, "value": value}).encode()
        assert status_and_json(send("PUT" if number % 4 < 2 else "POST", "/put", body)) == (200, OK)
        found = send("GET", f"/get?{query}")
        assert status_and_json(found) == (200, {"status": "OK", "key": key, "value": value})
        told = send("HEAD", f"/get?{query}")
        assert (told.status, metadata(told), told.body) == (200, metadata(found), b"")
        assert status_and_json(send("DELETE", f"/delete?{query}")) == (200, DELETED)
    assert status_and_json(send("DELETE", "/delete?key=name")) == (404, NOT_FOUND)
    assert status_and_json(send("GET", "/get?key=name")) == (404, NOT_FOUND)
    assert status_and_json(send("GET", "/health")) == (200, {"status": "healthy"})
    assert json.loads(send("GET", "/stats").body)["workers"] == 2


def test_entries_as_resources(send: Send) -> None:
    paths = [quote(key, safe="/" if "//" in key else "") for key in KEYS]
    paths.append(quote_from_bytes(EVERY_BYTE, safe=""))
    for path, value in [(path, b"v") for path in paths] + [("name", value) for value in VALUES]:
        created = send("PUT", f"/kv/{path}", value)
        assert (created.status, created.body) == (201, b"")
        found = send("GET", f"/kv/{path}")
        assert (found.status, found.body) == (200, value)
        # What a client says of itself is kept: curl's --data-binary says that it sends a form.
        assert found.fields["content-type"] in SAID_TYPES
        assert found.fields["etag"] == created.fields["etag"]
        told = send("HEAD", f"/kv/{path}")
        assert (told.status, metadata(told), told.body) == (200, metadata(found), b"")
        assert send("DELETE", f"/kv/{path}").status == 204
    assert status_and_json(send("GET", "/kv/name")) == (404, NOT_FOUND)
    assert status_and_json(send("DELETE", "/kv/name")) == (404, NOT_FOUND)


@pytest.mark.parametrize("send", EVERY_WAY, indirect=True)
def test_conditions_and_ranges(send: Send) -> None:
    first = send("PUT", "/kv/name?ttl=100", EVERY_BYTE).fields["etag"]
    unchanged = send("GET", "/kv/name", None, {"If-None-Match": first})
    assert (unchanged.status, unchanged.body, unchanged.fields["etag"]) == (304, b"", first)
    assert 0 < float(unchanged.fields["ttl"]) <= 100
    part = send("GET", "/kv/name", None, {"Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, EVERY_BYTE[10:20])
    assert part.fields["content-range"] == "bytes 10-19/256"
    assert send("GET", "/kv/name", None, {"Range": "bytes=256-"}).status == 416
    assert send("PUT", "/kv/name", b"", {"If-None-Match": "*"}).status == 412
    assert send("PUT", "/kv/name", b"other", {"If-Match": first, "TTL": "50.5"}).status == 204
    assert send("PUT", "/kv/name", b"third", {"If-Match": first}).status == 412
    assert send("DELETE", "/kv/name", None, {"If-Match": first}).status == 412
    assert send("GET", "/kv/name").body == b"other"
    assert send("DELETE", "/kv/name").status == 204


def test_what_is_refused_is_told(send: Send) -> None:
    for method, target, body, status in (
        ("GET", "/get", None, 400),
        ("PUT", "/put", b"{", 400),
        ("PUT", "/kv/", b"v", 400),
        ("PUT", "/kv/name", bytes(9 * MIB), 413),
        ("GET", "/nothing", None, 404),
        ("POST", "/kv/name", b"v", 405),
        ("PATCH", "/kv/name", b"v", 501),
        ("GET", "/get?key=" + "k" * 1025, None, 400),
        ("GET", "/kv/" + "k" * 40_000, None, 414),
    ):
        refused = send(method, target, body)
        assert (target[:9], refused.status) == (target[:9], status)
        assert json.loads(refused.body)["status"] == "ERROR"
        assert send("GET", "/health").status == 200


@pytest.mark.parametrize("send", EVERY_WAY, indirect=True)
def test_one_store_for_both(send: Send) -> None:
    """What is put on one way is got on the other, in base64 where it is not UTF-8."""
    send("PUT", "/kv/%ff", b"\xfe")
    assert json.loads(send("GET", "/get?key=%FF").body) == {
        "status": "OK",
        "key": "/w==",
        "key_encoding": "base64",
        "value": "/g==",
        "encoding": "base64",
    }
    text = "ü😀" * 100_000
    assert status_and_json(send("PUT", "/put", pair("é/😀", text))) == (200, OK)
    assert send("GET", "/kv/%C3%A9/%F0%9F%98%80").body == text.encode()
    assert send("DELETE", "/kv/%C3%A9/%F0%9F%98%80").status == 204
    assert send("DELETE", "/delete?key=%FF").status == 200


@pytest.mark.parametrize("name", PERSISTENT)
def test_the_connection_is_kept(name: str, address: Address) -> None:
    with EVERY_WAY[name](address) as send:

        def accepted() -> int:
            return int(json.loads(send("GET", "/stats").body)["accepted"])

        before = accepted()
        for number in range(20):
            value = b"%d" % number
            send("PUT", "/put", pair("kept", value.decode()))
            assert json.loads(send("GET", "/get?key=kept").body)["value"] == str(number)
            etag = send("PUT", "/kv/kept", value * 2).fields["etag"]
            assert send("GET", "/kv/kept").body == value * 2
            assert send("GET", "/kv/kept", None, {"If-None-Match": etag}).status == 304
            assert send("GET", "/get?key=none").status == 404
            assert send("DELETE", "/kv/kept").status == 204
        assert accepted() == before


# -- curl ----------------------------------------------------------------------------------------------------

FILE, PIPE = "file", "-"
WAIT = (
    "-H",
    "Expect: 100-continue",
    "--expect100-timeout",
    "15",
)  # it would time out if it were not answered
CHUNKED = ("-H", "Transfer-Encoding: chunked")
WAYS: tuple[tuple[str, ...], ...] = (
    ("-T", FILE),
    ("-T", FILE, "-H", "Expect:"),
    ("-T", FILE, *WAIT),
    ("-T", FILE, *CHUNKED),
    ("-T", FILE, "--tcp-fastopen"),
    ("-T", FILE, "--http1.0"),
    ("-T", PIPE),
    ("-T", PIPE, "-H", "Expect:"),
    ("-T", PIPE, *WAIT),
    ("-X", "PUT", "--data-binary", "@" + FILE),
    ("-X", "PUT", "--data-binary", "@" + FILE, *WAIT),
    ("-X", "PUT", "--data-binary", "@" + FILE, *CHUNKED),
    ("-X", "PUT", "--data-binary", "@" + FILE, "--http1.0"),
)


@UPLOADS
@pytest.mark.parametrize("size", [0, 100, 4 * MIB])
def test_curl_uploads_in_every_way(server: Server, url: str, tmp_path: Path, target: str, size: int) -> None:
    source = tmp_path / "source"
    for number, way in enumerate(WAYS):
        if size == 0 and target != "/put" and way == ("-T", FILE, *CHUNKED):
            continue  # curl 7.88 does not end such a body
        value = (b"%02d bottles of beer, " % number * (size // 22 + 1))[:size]
        source.write_bytes(body_for(target, value))
        arguments = [argument.replace(FILE, str(source)) for argument in way]
        *interim, last = replies(curl("-i", *arguments, url + target, text=source.read_bytes()))
        assert last.status in ((200,) if target == "/put" else (201, 204)), way
        assert [reply.status for reply in interim] in ([], [100])
        assert interim or "15" not in way or not size
        assert value_of(server) == value


def test_curl_expects_by_itself_before_a_big_body(url: str) -> None:
    told = replies(curl("-i", "-T", "-", "--expect100-timeout", "15", f"{url}/kv/big", text=BIG))
    assert [reply.status for reply in told] == [100, 201]
    told = replies(curl("-i", "-T", "-", *WAIT, f"{url}/kv/big", text=bytes(12 * MIB)))
    assert told[-1].status == 413
    assert curl(f"{url}/kv/big") == BIG


def test_curl_posts_a_form_that_is_json(url: str) -> None:
    assert json.loads(curl("-d", '{"key":"form","value":"1"}', f"{url}/put")) == OK
    assert json.loads(curl("-d", '{"key":"form","value":"2"}', "-X", "PUT", f"{url}/put")) == OK
    assert json.loads(curl("--json", '{"key":"form","value":"3"}', f"{url}/put")) == OK
    assert curl(f"{url}/kv/form") == b"3"


@pytest.mark.parametrize("key", KEYS[:6] + KEYS[7:])
def test_curl_encodes_keys(url: str, key: str) -> None:
    curl("-d", pair(key, "v").decode(), f"{url}/put")
    assert json.loads(curl("-G", "--data-urlencode", f"key={key}", f"{url}/get"))["key"] == key
    deleted = curl("-G", "-X", "DELETE", "--data-urlencode", f"key={key}", f"{url}/delete")
    assert json.loads(deleted) == DELETED


def test_curl_in_parallel(server: Server, url: str, tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(40)]
    values = {name: os.urandom(10_000 * int(name)) for name in names}
    for name, value in values.items():
        Path(tmp_path, name).write_bytes(value)
    parallel = ("--parallel", "--parallel-immediate", "--parallel-max", "16")
    uploads = [argument for name in names for argument in ("-T", str(tmp_path / name), f"{url}/kv/p{name}")]
    curl(*parallel, *uploads)
    for name in names:
        Path(tmp_path, name).unlink()
    downloads = [argument for name in names for argument in ("-o", str(tmp_path / name), f"{url}/kv/p{name}")]
    curl(*parallel, *downloads)
    assert {name: Path(tmp_path, name).read_bytes() for name in names} == values
    puts = [
        argument
        for name in names
        for argument in ("--next", "-d", pair(f"p{name}", name).decode(), f"{url}/put")
    ]
    assert curl(*parallel, *puts[1:]).count(b'"OK"') == len(names)
    gets = [argument for name in names for argument in ("-o", str(tmp_path / name), f"{url}/get?key=p{name}")]
    curl(*parallel, *gets)
    assert [json.loads(Path(tmp_path, name).read_bytes())["value"] for name in names] == names


@BOTH
def test_curl_keeps_its_connection(server: Server, url: str, target: str) -> None:
    server.request("PUT", "/kv/loaded", b"v")
    urls = [url + path for path in (target, "/health", target, "/stats", "/get?key=none", target)]

    def connects(*options: str) -> list[bytes]:
        """How many connections each of the transfers has opened."""
        return curl(*options, "-w", "\n%{num_connects}\n", *urls).splitlines()[1::2]

    assert connects() == connects("--http1.0", "-H", "Connection: keep-alive") == [b"1"] + [b"0"] * 5
    assert connects("--http1.0") == connects("-H", "Connection: close") == [b"1"] * 6


@BOTH
def test_curl_accepts_codings_and_looks_first(server: Server, url: str, target: str) -> None:
    server.request("PUT", "/kv/loaded", b"v" * 100_000)
    plain = curl(url + target)
    assert plain.count(b"v") >= 100_000
    assert curl("--compressed", "--tr-encoding", url + target) == plain
    told = replies(curl("--head", url + target), "HEAD")[0]
    assert told.fields["content-length"] == str(len(plain))


def test_curl_resumes(server: Server, url: str, tmp_path: Path) -> None:
    server.request("PUT", "/kv/loaded", BIG)
    target = tmp_path / "target"
    for part, expected in (
        ("0-99", BIG[:100]),
        ("1000-", BIG[1000:]),
        ("-100", BIG[-100:]),
        (f"{len(BIG) - 1}-{len(BIG) + 1}", BIG[-1:]),
        ("0-1,5-6", BIG),
    ):
        assert curl("--range", part, f"{url}/kv/loaded") == expected
    # 22: a reply of 400 or more.
    curl("--fail", "--range", f"{len(BIG)}-", f"{url}/kv/loaded", code=22)
    target.write_bytes(BIG[:MIB])
    curl("--continue-at", "-", "-o", target, f"{url}/kv/loaded")
    assert target.read_bytes() == BIG


def test_curl_revalidates(server: Server, url: str, tmp_path: Path) -> None:
    etag, resource = tmp_path / "etag", f"{url}/kv/loaded"
    server.request("PUT", "/kv/loaded", b"one")
    assert curl("--etag-save", etag, resource) == b"one"
    assert replies(curl("-i", "--etag-compare", etag, resource))[0].status == 304
    server.request("PUT", "/kv/loaded", b"two")
    assert curl("--etag-compare", etag, "--etag-save", etag, resource) == b"two"
    assert curl("--etag-compare", etag, "--etag-save", etag, resource) == b""
    # Entries have no date: these conditions are passed over.
    for when in ("1 Jan 2001", "-1 Jan 2001", "1 Jan 2099"):
        assert curl("-z", when, resource) == b"two"


@BOTH
def test_curl_leaves_in_the_midst(server: Server, url: str, target: str) -> None:
    server.request("PUT", "/kv/loaded", b"v" * (4 * MIB))
    # 63: more than it takes.
    curl("--max-filesize", "1000", url + target, code=63)
    # 28: too slow for it.
    curl("--max-time", "0.2", "--limit-rate", "1k", "-o", "/dev/null", url + target, code=28)
    curl("--max-time", "0.2", "--limit-rate", "1k", "-T", "-", f"{url}/kv/loaded", text=BIG, code=28)
    assert value_of(server, "loaded") == b"v" * (4 * MIB)


# -- Python --------------------------------------------------------------------------------------------------


@UPLOADS
def test_http_client_streams(server: Server, target: str) -> None:
    value = b"0123456789abcdef" * (MIB // 4)
    body = body_for(target, value)
    pieces = pieces_of(body, 80)
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=SECONDS)) as connection:
        for chunked in (True, False):
            fields = {} if chunked else {"Content-Length": str(len(body))}
            connection.request("PUT", target, iter(pieces), fields, encode_chunked=chunked)
            reply = connection.getresponse()
            reply.read()
            assert reply.status < 300
            connection.request("GET", "/kv/uploaded")
            found = connection.getresponse()
            assert b"".join(iter(lambda: found.read(10_000), b"")) == value  # noqa: B023 - it is used at once


@UPLOADS
def test_http_client_leaves_in_the_midst(server: Server, target: str) -> None:
    server.request("PUT", "/kv/uploaded", b"before")
    for fields in ({"Content-Length": "1000"}, {"Transfer-Encoding": "chunked"}):
        with closing(http.client.HTTPConnection(server.host, server.port, timeout=SECONDS)) as connection:
            connection.putrequest("PUT", target)
            for name, value in fields.items():
                connection.putheader(name, value)
            connection.endheaders(b'1f4\r\n{"key":"uploaded","value":"')
    assert_unharmed(server)
    assert value_of(server) == b"before"


@UPLOADS
def test_httpx_streams(server: Server, url: str, target: str) -> None:
    value = b"0123456789abcdef" * (MIB // 4)
    body = body_for(target, value)
    pieces = pieces_of(body, 80)
    with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False, verify=False) as client:
        for _ in range(2):
            assert client.put(target, content=iter(pieces)).status_code < 300
            with client.stream("GET", "/kv/uploaded") as reply:
                assert b"".join(reply.iter_bytes(10_000)) == value
            with client.stream("GET", "/get?key=uploaded") as reply:
                next(reply.iter_bytes(10_000))  # and no more


def test_httpx_in_parallel(server: Server, url: str) -> None:
    """Many streams at once in both directions, more than there are connections, some of them given up."""

    async def entry(client: httpx.AsyncClient, number: int) -> None:
        value = b"%d " % number * 50_000

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(value), 30_000):
                await asyncio.sleep(0)
                yield value[at : at + 30_000]

        assert (await client.put(f"/kv/h{number}", content=pieces())).status_code == 201
        async with client.stream("GET", f"/kv/h{number}") as reply:
            if number % 4:
                assert b"".join([piece async for piece in reply.aiter_bytes(20_000)]) == value
        told = await client.get("/get", params={"key": f"h{number}"})
        assert told.json()["value"] == value.decode()
        assert (await client.post("/put", json={"key": f"h{number}", "value": "v"})).json() == OK
        assert (await client.delete("/delete", params={"key": f"h{number}"})).json() == DELETED

    async def all_entries() -> None:
        async with async_client(url) as client:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(entry(client, number)) for number in range(60)]
            assert all(task.done() for task in tasks)
            given_up = [asyncio.create_task(entry(client, number)) for number in range(100, 120)]
            await asyncio.sleep(0.05)
            for task in given_up:
                task.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
            assert (await client.get("/health")).json() == {"status": "healthy"}

    asyncio.run(all_entries())


def test_pipelined_streams(server: Server) -> None:
    """What is asked for on one asyncio stream at once is answered in order, while bodies are on their way."""
    body = pair("piped", "v" * 1000)
    puts = [
        b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body),
        b"PUT /kv/piped HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n40000\r\n%b\r\n0\r\n\r\n"
        % BIG[:0x40000],
    ]
    gets = [b"GET /kv/piped HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /get?key=none HTTP/1.1\r\nHost: a\r\n\r\n"]
    expected = [(200, None), (200, b"v" * 1000), (404, None), (204, None), (200, BIG[:0x40000]), (404, None)]
    rounds = 20

    def ask(_: object) -> None:
        for _ in range(rounds):
            for put in puts:
                client.sendall(put + b"".join(gets))

    with server.connect(SECONDS) as client, client.makefile("rb") as stream, in_background(ask):
        for _ in range(rounds):
            for status, value in expected:
                reply = read_reply(stream)
                assert reply.status == status
                assert value is None or reply.body == value


def test_who_is_refused_after_a_large_reply_may_finish_sending(server: Server) -> None:
    """It was not read from while it did not read; once it has, it is read from to the end."""
    server.request("PUT", "/kv/loaded", BIG)
    get = b"GET /kv/loaded HTTP/1.1\r\nHost: a\r\n\r\n"
    put = b"PUT /kv/loaded HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB)

    def send(_: object) -> None:
        client.sendall(get + put + bytes(20 * MIB))

    with server.connect(SECONDS) as client, client.makefile("rb") as stream, in_background(send):
        assert read_reply(stream).body == BIG
        assert read_reply(stream).status == 413
        assert stream.read() == b""


# -- Node ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scenario", ["fetchStreams", "fetchAborts", "fetchParallel", "httpAgent", "httpContinues"]
)
def test_node(url: str, scenario: str) -> None:
    node(scenario, url)


# -- load generators -----------------------------------------------------------------------------------------

PUTS = """
    local n = 0

    local function put()
        if n % 2 > 0 then return wrk.format("PUT", "/kv/loaded", nil, string.rep("v", n % 5000)) end
        return wrk.format("PUT", "/put", nil, '{"key":"loaded","value":"' .. n .. '"}')
    end

    request = function()
        n = n + 1
        return put()
    end
"""
PIPELINES = """
    request = function()
        local all = {}
        for i = 1, 16 do
            n = n + 1
            all[i] = n % 7 > 0 and wrk.format("GET", n % 2 > 0 and "/get?key=loaded" or "/kv/loaded") or put()
        end
        return table.concat(all)
    end
"""


def assert_wrk(url: str, *arguments: str | Path) -> None:
    told = run("wrk", "-t1", "-c16", "-d1s", *arguments, url).decode()
    assert "Non-2xx" not in told, told
    assert "Socket errors" not in told, told
    assert int(re.findall(r"(\d+) requests in", told)[0]) > 0


@BOTH
def test_wrk_gets(server: Server, url: str, target: str) -> None:
    server.request("PUT", "/kv/loaded", b"value")
    assert_wrk(url + target)


@pytest.mark.parametrize("lines", [PUTS, PUTS + PIPELINES], ids=["one by one", "pipelined"])
def test_wrk_puts(server: Server, url: str, tmp_path: Path, lines: str) -> None:
    server.request("PUT", "/kv/loaded", b"value")
    script = tmp_path / "script.lua"
    script.write_text(lines)
    assert_wrk(url, "-s", script)


@BOTH
@pytest.mark.parametrize("pipelined", [1, 16])
def test_h2load(server: Server, url: str, target: str, pipelined: int) -> None:
    server.request("PUT", "/kv/loaded", b"value")
    told = run("h2load", "--h1", "-n", "4000", "-c", "8", "-m", str(pipelined), url + target).decode()
    assert "4000 succeeded, 0 failed, 0 errored, 0 timeout" in told, told
    assert "status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx" in told, told


@UPLOADS
def test_h2load_uploads(server: Server, url: str, tmp_path: Path, target: str) -> None:
    value = b"0123456789abcdef" * 1000
    body = tmp_path / "body"
    body.write_bytes(body_for(target, value))
    put = ("-d", body, "-H", ":method: PUT")
    told = run("h2load", "--h1", "-n", "1000", "-c", "8", *put, url + target).decode()
    assert "1000 succeeded, 0 failed, 0 errored, 0 timeout" in told, told
    assert value_of(server) == value


def assert_ab(*arguments: str | Path) -> None:
    told = run("ab", "-q", "-k", "-n", "2000", "-c", "8", *arguments).decode()
    for line in (r"Complete requests: +2000", r"Failed requests: +0", r"Keep-Alive requests: +2000"):
        assert re.search(line, told), told
    assert "Non-2xx" not in told, told


@BOTH
def test_ab(server: Server, url: str, target: str) -> None:
    """HTTP/1.0 that asks for its connection to be kept."""
    server.request("PUT", "/kv/loaded", b"value")
    assert_ab(url + target)


@UPLOADS
def test_ab_uploads(server: Server, url: str, tmp_path: Path, target: str) -> None:
    body = tmp_path / "body"
    body.write_bytes(body_for(target, b"value"))
    server.request("PUT", "/kv/uploaded", b"before")
    assert_ab("-u", body, "-T", "application/octet-stream", url + target)
    assert value_of(server) == b"value"


# -- slow but honest -----------------------------------------------------------------------------------------


def test_who_is_slow_but_steady_is_served_whole() -> None:
    """It takes many times what a body or a reply may take, but is faster than it must be."""
    value = os.urandom(MIB)
    text = value.hex().encode()

    def sends(target: str, body: bytes) -> Job:
        def send(_: object) -> None:
            head = f"PUT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            with slow.connect(SECONDS) as client, client.makefile("rb") as stream:
                client.sendall(head)
                for piece in pieces_of(body, 30):
                    client.sendall(piece)
                    time.sleep(0.04)
                assert read_reply(stream).status in (200, 201)

        return send

    def reads(target: str) -> Job:
        def read(_: object) -> None:
            expected = slow.request("GET", target).body
            request = f"GET {target} HTTP/1.1\r\nHost: a\r\n"
            received = bytearray()
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
                client.settimeout(SECONDS)
                client.connect((slow.host, slow.port))
                client.sendall(f"{request}\r\n{request}Connection: close\r\n\r\n".encode())
                while piece := client.recv(64 << 10):
                    received += piece
                    time.sleep(0.01)
            assert [reply.body for reply in replies(bytes(received))] == [expected] * 2

        return read

    def curl_sends(_: object) -> None:
        curl("--limit-rate", "1m", "-T", "-", f"http://127.0.0.1:{slow.port}/kv/limited", text=value)

    # The long linger: who has been answered for the last time and leaves is let go at once.
    with running(body_seconds=0.1, output_seconds=0.1, min_rate="1kb", linger_seconds=600) as slow:
        slow.request("PUT", "/kv/loaded", text[:MIB])
        with in_background(
            sends("/put", body_for("/put", text[:MIB])),
            sends("/kv/sent", value),
            curl_sends,
            reads("/get?key=loaded"),
            reads("/kv/loaded"),
        ):
            pass
        assert [value_of(slow, key) for key in ("uploaded", "sent", "limited")] == [text[:MIB], value, value]
        told = stats(slow)
        assert [told[name] for name in ("body_timeouts", "output_timeouts", "slowest_closed")] == [0, 0, 0]
        assert_unharmed(slow)
