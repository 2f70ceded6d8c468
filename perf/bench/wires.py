"""The requests, as templates for the load generator: a GET and a PUT of each wire, and what goes with them.

In a template every byte DIGIT stands for the next of the ten digits of the key's number, and then from the
first again: what the generator fills in for each request that it sends.
"""

from __future__ import annotations

from typing import Final

DIGIT: Final = b"\x01"
DIGITS: Final = DIGIT * 10
HTTP: Final = "http"
RESP: Final = "resp"
MEMCACHED: Final = "memcached"
WEBSOCKET: Final = "websocket"
NORMAL_BYTES: Final = 64

# What the kinds of clients send with a GET, their names written as they write them.
HEADERS: Final[dict[str, bytes]] = {
    "plain": b"Host: 127.0.0.1\r\n",
    "wrk": b"Host: 127.0.0.1:7171\r\n",
    "curl": b"Host: localhost:7171\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n",
    "node": (
        b"host: localhost:7171\r\nconnection: keep-alive\r\naccept: */*\r\naccept-language: *\r\n"
        b"sec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\n"
    ),
    "browser": (
        b"Host: localhost:7171\r\n"
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
        b"Accept: */*\r\nAccept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
        b"Accept-Encoding: gzip, deflate, br, zstd\r\nReferer: http://localhost:7171/\r\n"
        b"Connection: keep-alive\r\nCookie: session=3f2a9c51d0b84e67; lang=en\r\n"
        b"Sec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\n"
        b"Priority: u=4\r\n"
    ),
}


def key_template(value_bytes: int, *, percent: bool = False) -> bytes:
    """A key of eleven bytes; entries of another size have keys of their own.

    Args:
        value_bytes: of its entry.
        percent: with every byte percent-encoded.
    """
    letter = {NORMAL_BYTES: b"k", 1024: b"m", 65536: b"l"}[value_bytes]
    if percent:
        return b"%%%02X" % letter[0] + (b"%3" + DIGIT) * len(DIGITS)
    return letter + DIGITS


def value_template(value_bytes: int) -> bytes:
    """A value of so many bytes, another one for each key."""
    return b"v" + b"0" * (value_bytes - 1 - len(DIGITS)) + DIGITS


def get_template(wire: str, value_bytes: int, headers: str, *, percent: bool = False) -> bytes:
    """A request for an entry.

    Args:
        wire: which protocol.
        value_bytes: of the entry.
        headers: which of HEADERS go with it over HTTP.
        percent: whether the key is percent-encoded over HTTP.
    """
    key = key_template(value_bytes)
    if wire == RESP:
        return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)
    if wire == MEMCACHED:
        return b"get %b\r\n" % key
    if wire == WEBSOCKET:
        return b'["GET","%b"]' % key
    key = key_template(value_bytes, percent=percent)
    return b"GET /get?key=%b HTTP/1.1\r\n%b\r\n" % (key, HEADERS[headers])


def put_template(wire: str, value_bytes: int, headers: str) -> bytes:
    """A request that keeps an entry; arguments as for ``get_template``, no WebSocket."""
    key, value = key_template(value_bytes), value_template(value_bytes)
    if wire == RESP:
        return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)
    if wire == MEMCACHED:
        return b"set %b 0 0 %d\r\n%b\r\n" % (key, len(value), value)
    body = b'{"key":"%b","value":"%b"}' % (key, value)
    length = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return b"POST /put HTTP/1.1\r\n%b%b\r\n%b" % (HEADERS[headers], length, body)
