"""What clients really send."""

from cases.case import (
    BODY,
    GET_LINE,
    HOST,
    LENGTH,
    POST,
    POST_LINE,
    PUT,
    PUT_LINE,
    Case,
    good,
    good_fields,
    last,
)

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
CURL = b"User-Agent: curl/7.88.1\r\nAccept: */*\r\n"
_LINE = GET_LINE + b" HTTP/1.1\r\n"

CASES: tuple[Case, ...] = (
    good_fields("curl", "RFC 9110, 9.3.1", CURL),
    good_fields("wrk", "RFC 9110, 9.3.1", b""),
    good("Chromium", "RFC 9110, 9.3.1", _LINE + CHROME + b"\r\n"),
    good("Node fetch", "RFC 9110, 9.3.1", _LINE + NODE + b"\r\n"),
    good_fields("http.client", "RFC 9110, 9.3.1", b"Accept-Encoding: identity\r\n"),
    good_fields(
        "httpx",
        "RFC 9110, 9.3.1",
        b"Accept: */*\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: httpx\r\n",
    ),
    good(
        "curl -d",
        "RFC 9110, 9.3.3",
        POST + CURL + LENGTH + b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + BODY,
        POST_LINE,
        BODY,
    ),
    good(
        "Node fetch with a body",
        "RFC 9110, 9.3.3",
        POST_LINE
        + b" HTTP/1.1\r\n"
        + NODE
        + b"content-type: text/plain\r\ncontent-length: 36\r\n\r\n"
        + BODY,
        POST_LINE,
        BODY,
    ),
    good(
        "curl -T -",
        "RFC 9112, 7.1",
        PUT
        + CURL
        + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n24\r\n"
        + BODY
        + b"\r\n0\r\n\r\n",
        PUT_LINE,
        BODY,
    ),
    good(
        "curl --data-binary @large",
        "RFC 9110, 10.1.1",
        PUT + CURL + LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY,
        PUT_LINE,
        BODY,
    ),
    good_fields(
        "curl --http2",
        "RFC 9110, 7.8",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    ),
    good_fields(
        "WebSocket handshake",
        "RFC 6455, 4.1",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ),
    last("curl --http1.0", "RFC 9112, 9.3", GET_LINE + b" HTTP/1.0\r\n" + HOST + b"\r\n"),
    good("ab -k", "RFC 9112, C.2.2", GET_LINE + b" HTTP/1.0\r\nConnection: Keep-Alive\r\n" + HOST + b"\r\n"),
)
