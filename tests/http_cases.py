"""Requests as data, right and wrong, each with its law, and a reader that joins the parsers as the server."""

from collections.abc import Iterable
from dataclasses import dataclass

from fastkv.http.fast import DECLINED, NEED_DATA, FastParser
from fastkv.http.full import FullParser
from fastkv.http.request import CLOSE, Head, Message

MAX_HEAD_BYTES = 2048
MAX_BODY_BYTES = 1000


@dataclass(frozen=True)
class Case:
    """Bytes and what has to come of them.

    Attributes:
        name: What is peculiar.
        data: The bytes.
        messages: Line and body of each message that they hold.
        error: The status they are refused with after these messages, or None.
        law: Where it is written.
        fast: True where the fast parser answers.
        open: True where a further request may follow.
    """

    name: str
    data: bytes
    messages: tuple[tuple[bytes, bytes], ...] = ()
    error: int | None = None
    law: str = ""
    fast: bool = False
    open: bool = False


HOST = b"Host: 127.0.0.1:7171\r\n"
GET = b"GET /get?key=name HTTP/1.1\r\n"
GET_LINE = b"GET /get?key=name"
BODY = b'{"key":"name","value":"UltraFastKV"}'
CHUNKED = b"POST /put HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = GET + HOST + b"\r\n"

CHROME = (
    b"Host: localhost:7171\r\nConnection: keep-alive\r\nCache-Control: max-age=0\r\n"
    b'sec-ch-ua: "Chromium";v="131"\r\nsec-ch-ua-mobile: ?0\r\n'
    b'sec-ch-ua-platform: "Linux"\r\nUpgrade-Insecure-Requests: 1\r\n'
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/131.0.0.0 Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nSec-Fetch-Site: none\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-GB,en;q=0.9\r\n"
)
NODE = (
    b"host: localhost:7171\r\nconnection: keep-alive\r\naccept: */*\r\naccept-language: *\r\n"
    b"sec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\n"
)


def _ok(
    name: str, data: bytes, line: bytes = GET_LINE, body: bytes = b"", *, law: str = "", fast: bool = False
) -> Case:
    """One message after which the connection stays open."""
    return Case(name, data, ((line, body),), None, law, fast, open=True)


def _last(name: str, data: bytes, line: bytes = GET_LINE, *, law: str, fast: bool = False) -> Case:
    """One message after which the connection ends."""
    return Case(name, data, ((line, b""),), None, law, fast, open=False)


def _bad(name: str, data: bytes, error: int, law: str, *messages: tuple[bytes, bytes]) -> Case:
    """A refusal."""
    return Case(name, data, messages, error, law)


def _get(name: str, fields: bytes, law: str = "", *, fast: bool = True) -> Case:
    """A good GET with these fields."""
    return _ok(name, GET + fields + b"\r\n", law=law, fast=fast)


def _field(name: str, field: bytes, error: int, law: str) -> Case:
    """A GET that is refused for this field."""
    return _bad(name, GET + HOST + field + b"\r\n\r\n", error, law)


def _put(name: str, field: bytes, error: int, law: str) -> Case:
    """A PUT that is refused for its framing."""
    return _bad(name, b"PUT /put HTTP/1.1\r\n" + HOST + field + b"\r\n\r\n" + BODY, error, law)


def _line(name: str, line: bytes, error: int, law: str) -> Case:
    """A request that is refused for its first line."""
    return _bad(name, line + b"\r\n" + HOST + b"\r\n", error, law)


def _host(name: str, value: bytes) -> Case:
    """A GET that is refused for its Host."""
    return _bad(name, GET + b"Host: " + value + b"\r\n\r\n", 400, "RFC 9112, 3.2")


def _chunks(name: str, chunks: bytes, error: int = 400, law: str = "RFC 9112, 7.1") -> Case:
    """A POST that is refused for its chunks."""
    return _bad(name, CHUNKED + chunks, error, law)


def _chunked(name: str, chunks: bytes, body: bytes, law: str = "RFC 9112, 7.1") -> Case:
    """A POST with good chunks."""
    return _ok(name, CHUNKED + chunks, b"POST /put", body, law=law)


_LENGTH = HOST + b"Content-Length: 36\r\n"
_FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"

CLIENTS = (
    _get("curl", HOST + b"User-Agent: curl/7.88.1\r\nAccept: */*\r\n"),
    _get("wrk", b"Host: 127.0.0.1:7171\r\n"),
    _get("Chromium", CHROME),
    _get("Node fetch", NODE),
    _get("http.client", HOST + b"Accept-Encoding: identity\r\n"),
    _get(
        "httpx",
        HOST
        + b"Accept: */*\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: httpx\r\n",
    ),
    _ok(
        "curl -d",
        b"POST /put HTTP/1.1\r\n"
        + HOST
        + b"User-Agent: curl/7.88.1\r\nAccept: */*\r\nContent-Length: 36\r\n"
        + _FORM
        + b"\r\n"
        + BODY,
        b"POST /put",
        BODY,
        fast=True,
    ),
    _ok(
        "Node fetch with a body",
        b"POST /put HTTP/1.1\r\n"
        + NODE
        + b"content-type: text/plain;charset=UTF-8\r\ncontent-length: 36\r\n\r\n"
        + BODY,
        b"POST /put",
        BODY,
        fast=True,
    ),
    _ok(
        "curl -T -",
        b"PUT /put HTTP/1.1\r\n" + HOST + b"User-Agent: curl/7.88.1\r\nAccept: */*\r\n"
        b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n24\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"PUT /put",
        BODY,
    ),
    _ok(
        "curl -H Expect",
        b"PUT /put HTTP/1.1\r\n" + _LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY,
        b"PUT /put",
        BODY,
        law="RFC 9110, 10.1.1",
    ),
    _get(
        "curl --http2",
        HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "RFC 9110, 7.8",
        fast=False,
    ),
    _get(
        "WebSocket handshake",
        HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "RFC 6455, 4.1",
        fast=False,
    ),
    _last("curl --http1.0", b"GET /get?key=name HTTP/1.0\r\n" + HOST + b"\r\n", law="RFC 9112, 9.3"),
    _ok(
        "ab -k",
        b"GET /get?key=name HTTP/1.0\r\nConnection: Keep-Alive\r\n" + HOST + b"\r\n",
        law="RFC 9112, C.2.2",
    ),
)

LINES = (
    *(
        _ok(
            f"method {method.decode()}",
            method + b" /x HTTP/1.1\r\n" + HOST + b"\r\n",
            method + b" /x",
            fast=True,
        )
        for method in (b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"PUT", b"POST")
    ),
    *(
        _ok(
            f"method {method.decode()}",
            method + b" /x HTTP/1.1\r\n" + HOST + b"\r\n",
            method + b" /x",
            law="RFC 9110, 9.1",
        )
        for method in (b"get", b"BREW", b"M-SEARCH", b"TRACE", b"G")
    ),
    _ok("root", b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /", fast=True),
    _ok("two slashes", b"GET //x/../y HTTP/1.1\r\n" + HOST + b"\r\n", b"GET //x/../y", fast=True),
    _ok(
        "odd but visible",
        b'GET /a|b"<>\\^`{}~%zz?& HTTP/1.1\r\n' + HOST + b"\r\n",
        b'GET /a|b"<>\\^`{}~%zz?&',
        fast=True,
    ),
    _ok("GET in the target", b"GET /GET/ HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /GET/", fast=True),
    _ok(
        "absolute form",
        b"GET http://127.0.0.1:7171/get?key=name HTTP/1.1\r\n" + HOST + b"\r\n",
        law="RFC 9112, 3.2.2",
    ),
    _ok(
        "absolute form, capitals",
        b"GET HTTPS://A/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /",
        law="RFC 9110, 4.2.3",
    ),
    _ok(
        "absolute form, no path",
        b"GET http://a HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /",
        law="RFC 9112, 3.2.2",
    ),
    _ok(
        "absolute form, query only",
        b"GET http://a?b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /?b",
        law="RFC 9112, 3.2.1",
    ),
    _ok("asterisk form", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b"OPTIONS *", law="RFC 9112, 3.2.4"),
    _ok(
        "asterisk as absolute form",
        b"OPTIONS http://a HTTP/1.1\r\n" + HOST + b"\r\n",
        b"OPTIONS *",
        law="RFC 9112, 3.2.4",
    ),
    _ok("HTTP/1.2", b"GET /x HTTP/1.2\r\n" + HOST + b"\r\n", b"GET /x", law="RFC 9110, 2.5"),
    _ok("empty line before", b"\r\n" + GOOD, law="RFC 9112, 2.2"),
    _ok("four empty lines before", b"\r\n" * 4 + GOOD, law="RFC 9112, 2.2"),
    _bad("five empty lines before", b"\r\n" * 5 + GOOD, 400, "RFC 9112, 2.2"),
    _bad("bare LF before", b"\n" + GOOD, 400, "RFC 9112, 2.2"),
    _bad("space before", b" " + GOOD, 400, "RFC 9112, 3"),
    _bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "RFC 9112, 3"),
    _bad("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "RFC 9110, 15.6.6"),
    _bad("HTTP/0.9", b"GET /\r\n", 400, "RFC 9112, 3"),
    _line("HTTP/0.9 named", b"GET / HTTP/0.9", 505, "RFC 9110, 15.6.6"),
    _line("HTTP/2.0", b"GET / HTTP/2.0", 505, "RFC 9110, 15.6.6"),
    _line("HTTP/3.1", b"GET / HTTP/3.1", 505, "RFC 9110, 15.6.6"),
    _line("HTTP/1", b"GET / HTTP/1", 400, "RFC 9112, 2.3"),
    _line("HTTP/1.10", b"GET / HTTP/1.10", 400, "RFC 9112, 2.3"),
    _line("http/1.1", b"GET / http/1.1", 400, "RFC 9112, 2.3"),
    _line("ICY/1.1", b"GET / ICY/1.1", 400, "RFC 9112, 2.3"),
    _line("version only", b"HTTP/1.1", 400, "RFC 9112, 3"),
    _line("no target", b"GET HTTP/1.1", 400, "RFC 9112, 3"),
    _line("empty target", b"GET  HTTP/1.1", 400, "RFC 9112, 3"),
    _line("two spaces", b"GET  / HTTP/1.1", 400, "RFC 9112, 3"),
    _line("two spaces before the version", b"GET /  HTTP/1.1", 400, "RFC 9112, 3"),
    _line("space in the target", b"GET /a b HTTP/1.1", 400, "RFC 9112, 3.2"),
    _line("space at the end", b"GET / HTTP/1.1 ", 400, "RFC 9112, 3"),
    _line("tab for a space", b"GET\t/ HTTP/1.1", 400, "RFC 9112, 3"),
    _line("method with a colon", b"GE:T / HTTP/1.1", 400, "RFC 9110, 9.1"),
    _line("NUL in the target", b"GET /\0 HTTP/1.1", 400, "RFC 9112, 3.2"),
    _line("CR in the target", b"GET /\r HTTP/1.1", 400, "RFC 9112, 2.2"),
    _line("DEL in the target", b"GET /\x7f HTTP/1.1", 400, "RFC 9112, 3.2"),
    _line("8 bits in the target", b"GET /\xc3\xa9 HTTP/1.1", 400, "RFC 9112, 3.2"),
    _line("fragment", b"GET /#a HTTP/1.1", 400, "RFC 9112, 3.2"),
    _line("no slash", b"GET get HTTP/1.1", 400, "RFC 9112, 3.2"),
    _line("another scheme", b"GET ftp://a/ HTTP/1.1", 400, "RFC 9110, 7.4"),
    _line("absolute form, no host", b"GET http:///x HTTP/1.1", 400, "RFC 9110, 4.2.1"),
    _line("absolute form, user", b"GET http://a@b/ HTTP/1.1", 400, "RFC 9110, 4.2.4"),
    _line("asterisk for GET", b"GET * HTTP/1.1", 400, "RFC 9112, 3.2.4"),
    _line("authority form", b"CONNECT a:80 HTTP/1.1", 405, "RFC 9112, 3.2.3"),
    _line("authority form for GET", b"GET a:80 HTTP/1.1", 400, "RFC 9112, 3.2.3"),
    _bad("bare LF at the end of the line", b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400, "RFC 9112, 2.2"),
    _bad("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", 400, "RFC 9112, 2.2"),
    _line("line too long", b"GET /" + b"a" * 1100 + b" HTTP/1.1", 414, "RFC 9110, 15.5.15"),
    _bad("line without an end", b"GET /" + b"a" * 1100, 414, "RFC 9110, 15.5.15"),
    _ok(
        "longest line",
        b"GET /" + b"a" * 1010 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /" + b"a" * 1010,
        law="RFC 9112, 3",
    ),
)

FIELDS = (
    _get("IPv6", b"Host: [::1]:7171\r\n", "RFC 9110, 7.2"),
    _get("host with escapes", b"Host: a%20b_c\r\n", "RFC 3986, 3.2.2"),
    _get("empty port", b"Host: a:\r\n", "RFC 3986, 3.2.3"),
    _get("name in capitals, tab", b"hOST:\ta \t\r\n", "RFC 9110, 5.1"),
    _get("no space", b"Host:a\r\n", "RFC 9112, 5"),
    _get("empty value", HOST + b"X:\r\nY: \t \r\n", "RFC 9110, 5.5"),
    _get("8 bits in a value", HOST + b"X: \xc3\xa9\xff\r\n", "RFC 9110, 5.5"),
    _get("tab in a value", HOST + b"X: a\tb\r\n", "RFC 9110, 5.5"),
    _get("every token character", HOST + b"!#$%&'*+-.^_`|~09azAZ: x\r\n", "RFC 9110, 5.6.2"),
    _get("version in a value", HOST + b"X: GET / HTTP/1.1\r\n", "RFC 9112, 3"),
    _get("repeated", HOST + b"X: a\r\nX: b\r\n", "RFC 9110, 5.3"),
    _get("conditions", HOST + b'If-None-Match: "a"\r\nRange: bytes=0-1\r\n', "RFC 9110, 13"),
    _get("upgrade that Connection does not name", HOST + b"Upgrade: h2c\r\n", "RFC 9110, 7.8"),
    _get("empty Connection", HOST + b"Connection: ,\r\n", "RFC 9110, 5.6.1"),
    _get("a hundred fields", HOST + b"x:\r\n" * 99, "RFC 9110, 5.4"),
    _bad("a hundred and one fields", GET + HOST + b"x:\r\n" * 100 + b"\r\n", 431, "RFC 6585, 5"),
    _bad("section too large", GET + HOST + b"X: " + b"a" * 2000 + b"\r\n\r\n", 431, "RFC 6585, 5"),
    _bad("section without an end", GET + HOST + b"Xy: 3456\r\n" * 3 + b"a" * 2000, 431, "RFC 6585, 5"),
    _ok("long section", GET + HOST + b"X: " + b"a" * 1200 + b"\r\n\r\n", law="RFC 9110, 5.4"),
    _bad("no fields", GET + b"\r\n", 400, "RFC 9112, 3.2"),
    _bad("no Host", GET + b"Accept: */*\r\n\r\n", 400, "RFC 9112, 3.2"),
    _bad("two Hosts", GET + HOST * 2 + b"\r\n", 400, "RFC 9112, 3.2"),
    _bad("two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\n" + HOST * 2 + b"\r\n", 400, "RFC 9112, 3.2"),
    _host("Host empty", b""),
    _host("Host with a user", b"a@b"),
    _host("Host with a space", b"a b"),
    _host("Host list", b"a, b"),
    _host("Host with a path", b"a/b"),
    _host("Host with 8 bits", b"\xc3\xa9"),
    _host("Host as a URL", b"http://a"),
    _host("Host with a bad escape", b"a%2"),
    _host("Host with a bad port", b"a:b"),
    _host("Host with a large port", b"a:65536"),
    _host("Host with an open bracket", b"[::1"),
    _host("Host with a bare IPv6", b"::1"),
    _field("folded", b"X: a\r\n b", 400, "RFC 9112, 5.2"),
    _field("folded by a tab", b"X: a\r\n\tb: c", 400, "RFC 9112, 5.2"),
    _bad("folded first field", GET + b" " + HOST + b"\r\n", 400, "RFC 9112, 2.2"),
    _field("space before the colon", b"X : a", 400, "RFC 9112, 5.1"),
    _field("tab before the colon", b"X\t: a", 400, "RFC 9112, 5.1"),
    _field("no colon", b"Xa", 400, "RFC 9112, 5"),
    _field("no name", b": a", 400, "RFC 9110, 5.1"),
    _field("bracket in a name", b"X[]: a", 400, "RFC 9110, 5.6.2"),
    _field("NUL in a name", b"X\0: a", 400, "RFC 9110, 5.6.2"),
    _field("8 bits in a name", b"X\xe9: a", 400, "RFC 9110, 5.6.2"),
    _field("NUL in a value", b"X: a\0b", 400, "RFC 9110, 5.5"),
    _field("control in a value", b"X: a\x07", 400, "RFC 9110, 5.5"),
    _field("DEL in a value", b"X: a\x7f", 400, "RFC 9110, 5.5"),
    _field("CR in a value", b"X: a\rb", 400, "RFC 9112, 2.2"),
    _field("CR before a name", b"\rX: a", 400, "RFC 9112, 2.2"),
    _field("CR twice", b"X: a\r", 400, "RFC 9112, 2.2"),
    _field("bare LF", b"X: a\nY: b", 400, "RFC 9112, 2.2"),
    _bad("bare LF at the end of the section", GET + HOST + b"\n", 400, "RFC 9112, 2.2"),
    _field("another expectation", b"Expect: 200-ok", 417, "RFC 9110, 10.1.1"),
    _field("two expectations", b"Expect: 100-continue, x", 417, "RFC 9110, 10.1.1"),
)

CONNECTIONS = (
    _last("close", GET + HOST + b"Connection: close\r\n\r\n", law="RFC 9112, 9.6", fast=True),
    _last("close in capitals", GET + HOST + b"Connection: CLOSE\r\n\r\n", law="RFC 9110, 7.6.1", fast=True),
    _last(
        "close in a list",
        GET + HOST + b"Connection: foo,\tclose , x\r\n\r\n",
        law="RFC 9110, 7.6.1",
        fast=True,
    ),
    _last(
        "close in the second field",
        GET + HOST + b"Connection: a\r\nX: b\r\nConnection: close\r\n\r\n",
        law="RFC 9110, 5.3",
        fast=True,
    ),
    _last(
        "close beats keep-alive",
        GET + HOST + b"Connection: keep-alive, close\r\n\r\n",
        law="RFC 9112, 9.3",
        fast=True,
    ),
    _get("keep-alive", HOST + b"Connection: keep-alive\r\n", "RFC 9112, 9.3"),
    _get("not quite close", HOST + b"Connection: closed\r\n", "RFC 9110, 7.6.1"),
    _last("HTTP/1.0 without Host", b"GET /get?key=name HTTP/1.0\r\n\r\n", law="RFC 9112, 3.2"),
    _last(
        "HTTP/1.0 close",
        b"GET /get?key=name HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        law="RFC 9112, 9.3",
    ),
    _last(
        "HTTP/1.0 upgrade",
        b"GET /get?key=name HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        law="RFC 9110, 7.8",
    ),
    Case(
        "HTTP/1.0 keep-alive twice",
        b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2,
        ((b"GET /a", b""),) * 2,
        law="RFC 9112, C.2.2",
        open=True,
    ),
    Case("three", GOOD * 3, ((GET_LINE, b""),) * 3, law="RFC 9112, 9.3.2", fast=True, open=True),
    Case(
        "three of two kinds",
        GOOD + GET + HOST + b"X: y\r\n\r\n" + GOOD,
        ((GET_LINE, b""),) * 3,
        fast=True,
        open=True,
    ),
    Case(
        "three methods",
        GOOD + b"HEAD" + GOOD[3:] + b"DELETE" + GOOD[3:],
        ((GET_LINE, b""), (b"HEAD" + GET_LINE[3:], b""), (b"DELETE" + GET_LINE[3:], b"")),
        fast=True,
        open=True,
    ),
    Case(
        "usual, unusual, usual",
        GOOD + b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n" + GOOD,
        ((GET_LINE, b""), (b"BREW /", b""), (GET_LINE, b"")),
        fast=True,
        open=True,
    ),
    Case(
        "body, none, chunks",
        b"PUT /put HTTP/1.1\r\n" + _LENGTH + b"\r\n" + BODY + GOOD + CHUNKED + b"1\r\na\r\n0\r\n\r\n" + GOOD,
        ((b"PUT /put", BODY), (GET_LINE, b""), (b"POST /put", b"a"), (GET_LINE, b"")),
        fast=True,
        open=True,
    ),
    Case(
        "nothing is read after close",
        GET + HOST + b"Connection: close\r\n\r\n" + GOOD,
        ((GET_LINE, b""),),
        law="RFC 9112, 9.6",
        fast=True,
    ),
    Case(
        "two, then garbage",
        GOOD * 2 + b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
        ((GET_LINE, b""),) * 2,
        400,
        "RFC 9112, 3",
        fast=True,
    ),
    Case("one, then no Host", GOOD + GET + b"\r\n", ((GET_LINE, b""),), 400, "RFC 9112, 3.2", fast=True),
    Case(
        "one, then CRLF and one",
        GOOD + b"\r\n" + GOOD,
        ((GET_LINE, b""),) * 2,
        law="RFC 9112, 2.2",
        fast=True,
        open=True,
    ),
    Case("nothing", b"", open=True),
    Case("half a line", b"GET /get?key"),
    Case("half a section", GET + b"Host: a\r\nX-"),
    Case("one and a half", GOOD + GET[:-3], ((GET_LINE, b""),), fast=True),
)

BODIES = (
    _ok("length", b"PUT /put HTTP/1.1\r\n" + _LENGTH + b"\r\n" + BODY, b"PUT /put", BODY, fast=True),
    _ok("length 0", b"PUT /put HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", b"PUT /put", fast=True),
    _ok(
        "leading zeros",
        b"PUT /put HTTP/1.1\r\n" + HOST + b"Content-Length: 0036\r\n\r\n" + BODY,
        b"PUT /put",
        BODY,
        law="RFC 9110, 8.6",
        fast=True,
    ),
    _ok("GET with a body", GET + _LENGTH + b"\r\n" + BODY, GET_LINE, BODY, law="RFC 9110, 9.3.1", fast=True),
    _ok(
        "body that looks like a request",
        b"PUT /put HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD,
        b"PUT /put",
        GOOD,
        law="RFC 9112, 6",
        fast=True,
    ),
    _ok(
        "length of HTTP/1.0",
        b"POST /put HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 36\r\nExpect: 100-continue\r\n\r\n"
        + BODY,
        b"POST /put",
        BODY,
        law="RFC 9110, 10.1.1",
    ),
    _ok(
        "no length", b"POST /put HTTP/1.1\r\n" + HOST + b"\r\n", b"POST /put", law="RFC 9112, 6.3", fast=True
    ),
    _ok(
        "longest body",
        b"PUT /put HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n" + b"a" * 1000,
        b"PUT /put",
        b"a" * 1000,
        fast=True,
    ),
    _ok("expectation without a body", GET + HOST + b"Expect: 100-continue\r\n\r\n", law="RFC 9110, 10.1.1"),
    _put("body too long", b"Content-Length: 1001", 413, "RFC 9110, 15.5.14"),
    _put("length of 64 bits", b"Content-Length: 9999999999999999999", 413, "RFC 9110, 15.5.14"),
    _put("length of more", b"Content-Length: 18446744073709551652", 400, "RFC 9110, 8.6"),
    _put("empty length", b"Content-Length:", 400, "RFC 9110, 8.6"),
    _put("positive length", b"Content-Length: +36", 400, "RFC 9110, 8.6"),
    _put("negative length", b"Content-Length: -36", 400, "RFC 9110, 8.6"),
    _put("length in hex", b"Content-Length: 0x24", 400, "RFC 9110, 8.6"),
    _put("length with an underscore", b"Content-Length: 3_6", 400, "RFC 9110, 8.6"),
    _put("length with a space", b"Content-Length: 3 6", 400, "RFC 9110, 8.6"),
    _put("length with a fraction", b"Content-Length: 36.0", 400, "RFC 9110, 8.6"),
    _put("length list", b"Content-Length: 36, 36", 400, "RFC 9112, 6.3"),
    _put("two equal lengths", b"Content-Length: 36\r\nContent-Length: 36", 400, "RFC 9112, 6.3"),
    _put("two lengths", b"Content-Length: 36\r\ncontent-length: 6", 400, "RFC 9112, 6.3"),
    _put("length and chunks", b"Content-Length: 36\r\nTransfer-Encoding: chunked", 400, "RFC 9112, 6.1"),
    _bad(
        "length and chunks that agree",
        b"POST /put HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "RFC 9112, 6.3",
    ),
    _put("chunks and length", b"tRANSFER-eNCODING: chunked\r\ncONTENT-lENGTH: 0", 400, "RFC 9112, 6.1"),
    _put("gzip", b"Transfer-Encoding: gzip", 501, "RFC 9112, 6.1"),
    _put("gzip, chunked", b"Transfer-Encoding: gzip, chunked", 501, "RFC 9112, 6.1"),
    _put("identity", b"Transfer-Encoding: identity", 501, "RFC 9112, 6.1"),
    _put("xchunked", b"Transfer-Encoding: xchunked", 501, "RFC 9112, 6.1"),
    _put("chunked, gzip", b"Transfer-Encoding: chunked, gzip", 400, "RFC 9112, 6.3"),
    _put("chunked twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400, "RFC 9112, 6.1"),
    _put("chunked in quotes", b'Transfer-Encoding: "chunked"', 400, "RFC 9112, 6.1"),
    _put("vertical tab before chunked", b"Transfer-Encoding: \x0bchunked", 400, "RFC 9110, 5.5"),
    _put("no coding", b"Transfer-Encoding:", 400, "RFC 9112, 6.1"),
    _bad(
        "chunks in HTTP/1.0",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "RFC 9112, 6.1",
    ),
    _chunked("no chunk", b"0\r\n\r\n", b""),
    _chunked("one chunk", b"24\r\n" + BODY + b"\r\n0\r\n\r\n", BODY),
    _chunked("two chunks", b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
    _chunked("many zeros", b"0003\r\nabc\r\n0000\r\n\r\n", b"abc"),
    _chunked("empty lines as data", b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n"),
    _chunked("last chunk as data", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    _chunked("extensions", b'3;a;b=c;d="e f"\r\nabc\r\n0;x=y\r\n\r\n', b"abc", "RFC 9112, 7.1.1"),
    _chunked(
        "trailers", b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nConnection: close\r\n\r\n", b"abc", "RFC 9112, 7.1.2"
    ),
    _chunked(
        "longest chunks",
        b"1f4\r\n" + b"a" * 500 + b"\r\n1F4\r\n" + b"b" * 500 + b"\r\n0\r\n\r\n",
        b"a" * 500 + b"b" * 500,
    ),
    _chunked("a byte each", b"1\r\na\r\n" * 900 + b"0\r\n\r\n", b"a" * 900),
    _ok("Chunked", CHUNKED.replace(b"chunked", b"Chunked") + b"0\r\n\r\n", b"POST /put", law="RFC 9112, 7"),
    _chunks("too many chunks", (b"1f4\r\n" + b"a" * 500 + b"\r\n") * 3, 413, "RFC 9110, 15.5.14"),
    _chunks("chunk too large", b"ffffffffffffffff\r\n" + b"a" * 1001, 413),
    _chunks("chunk of more than 64 bits", b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
    _chunks("extension too long", b"3;a=" + b"b" * 2100 + b"\r\nabc\r\n0\r\n\r\n", 413, "RFC 9112, 7.1.1"),
    _chunks("trailers too long", b"0\r\n" + b"X: 0123456789\r\n" * 140 + b"\r\n", 413, "RFC 9112, 7.1.2"),
    _chunks("no size", b"\r\nabc\r\n0\r\n\r\n"),
    _chunks("size with a sign", b"+3\r\nabc\r\n0\r\n\r\n"),
    _chunks("negative size", b"-3\r\nabc\r\n0\r\n\r\n"),
    _chunks("size with 0x", b"0x3\r\nabc\r\n0\r\n\r\n"),
    _chunks("size with a space", b"3 \r\nabc\r\n0\r\n\r\n"),
    _chunks("size that is no number", b"g\r\nabc\r\n0\r\n\r\n"),
    _chunks("bare LF behind the size", b"3\nabc\r\n0\r\n\r\n"),
    _chunks("bare LF behind the data", b"3\r\nabc\n0\r\n\r\n"),
    _chunks("bare LF at the end", b"3\r\nabc\r\n0\r\n\n"),
    _chunks("bare LF in an extension", b"3;a\nabc\r\n0\r\n\r\n"),
    _chunks("data too long", b"3\r\nabcd\r\n0\r\n\r\n"),
    _chunks("data too short", b"3\r\nab\r\n0\r\n\r\n"),
    _chunks("CR in an extension", b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    _chunks("NUL in an extension", b"3;a\0\r\nabc\r\n0\r\n\r\n"),
    _chunks("folded trailer", b"0\r\nX: a\r\n b\r\n\r\n", 400, "RFC 9112, 5.2"),
    _chunks("malformed trailer", b"0\r\nX : a\r\n\r\n", 400, "RFC 9112, 7.1.2"),
    _chunks("NUL in a trailer", b"0\r\nX: \0\r\n\r\n", 400, "RFC 9110, 5.5"),
    _chunks("length in a trailer", b"0\r\nContent-Length: 3\r\n\r\nabc", 400, "RFC 9110, 6.5.1"),
    _chunks("coding in a trailer", b"0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "RFC 9110, 6.5.1"),
    Case("half a body", b"PUT /put HTTP/1.1\r\n" + _LENGTH + b"\r\n" + BODY[:-1], fast=True),
    Case("half a chunk", CHUNKED + b"3\r\nab"),
)

CASES = CLIENTS + LINES + FIELDS + CONNECTIONS + BODIES


class Reader:
    """Reads one connection with both parsers, as the server does, or with the full one alone.

    Args:
        fast: The worker's fast parser, or None for the full one alone.
    """

    def __init__(self, fast: FastParser | None) -> None:
        self.fast = fast
        self.full = FullParser(MAX_HEAD_BYTES, MAX_BODY_BYTES)
        self.messages: list[Message] = []
        self._data = b""
        self._due: tuple[bytes, Head] | None = None

    @property
    def error(self) -> int | None:
        """The status of the refusal, if there was one."""
        return self.full.error.status if self.full.error else None

    @property
    def idle(self) -> bool:
        """True where nothing is in progress and a request may follow."""
        return not self._data and not self._due and not self._closed and self.full.at_boundary

    @property
    def _closed(self) -> bool:
        return bool(self.messages) and self.messages[-1][1].persistence == CLOSE

    def feed(self, data: bytes) -> None:
        """Take what one read brought."""
        data, self._data = self._data + data, b""
        while data and not self._closed:
            if self._due:
                line, head = self._due
                if len(data) < head.content_length:
                    self._data = data
                    return
                self.messages.append((line, head, data[: head.content_length]))
                data, self._due = data[head.content_length :], None
                continue
            parsed = self.fast.parse(data) if self.fast and self.full.at_boundary else DECLINED
            if parsed is NEED_DATA:
                self._data = data
                return
            if parsed is DECLINED:
                self.full.feed(data)
                self.messages += self.full.messages
                self.full.messages.clear()
                return
            lines, head, body, used = parsed
            if body is None:
                self._due = (lines[0], head)
            else:
                self.messages += [(line, head, body) for line in lines]
            data = data[used:]


def read(pieces: Iterable[bytes], fast: FastParser | None) -> Reader:
    """Feed pieces to a new reader."""
    reader = Reader(fast)
    for piece in pieces:
        reader.feed(piece)
    return reader
