"""What becomes of the connection, what a client expects, and requests in a row (RFC 9112, 9)."""

from cases.case import (
    BODY,
    CHUNKED,
    GET,
    GET_LINE,
    GOOD,
    HOST,
    LENGTH,
    POST_LINE,
    PUT,
    PUT_LINE,
    Case,
    Then,
    bad,
    bad_field,
    good,
    good_fields,
    half,
    last,
    several,
)

_OLD = GET_LINE + b" HTTP/1.0\r\n"
_EXPECT = b"Expect: 100-continue\r\n"

_CLOSE = (
    b" close", b" CLOSE", b" cLoSe", b"close", b"\tclose\t", b" foo,\tclose , x", b" close,", b",close",
    b" keep-alive, close", b" close, keep-alive", b" close, close", b" a\r\nX: b\r\nconnection: close",
    b" keep-alive\r\nConnection: close", b" close\r\nConnection: keep-alive",
)  # fmt: skip

_NOT_CLOSE = (
    b" keep-alive", b" Keep-Alive", b"", b" ,", b" closed", b" not-close", b' "close"', b" clo se",
    b" close;a", b" host", b" te, x", b" \xe9", b" close=1", b" upgrade",
)  # fmt: skip

_OLD_CLOSE = (
    b"", HOST, b"Connection: close\r\n", b"Connection: keep-alive, close\r\n",
    b"Connection: Close, Keep-Alive\r\n", b"Connection: keep-alive\r\nConnection: close\r\n",
    b"Connection: keep-alived\r\n", b"Connection:\r\n", b"Keep-Alive: timeout=5\r\n",
    b"Proxy-Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
)  # fmt: skip

_OLD_OPEN = (
    b" keep-alive", b"KEEP-ALIVE", b" x , Keep-Alive", b" x\r\nConnection: keep-alive",
)  # fmt: skip

_PERSISTENCE = (
    *(
        last(
            f"Connection {value.decode()!r}",
            "RFC 9112, 9.6",
            GET + HOST + b"Connection:" + value + b"\r\n\r\n",
        )
        for value in _CLOSE
    ),
    *(
        good_fields(
            f"Connection {value.decode('latin-1')!r}", "RFC 9110, 7.6.1", b"Connection:" + value + b"\r\n"
        )
        for value in _NOT_CLOSE
    ),
    good_fields("Keep-Alive alone", "RFC 9112, C.2.2", b"Keep-Alive: timeout=5\r\n"),
    good_fields("Proxy-Connection", "RFC 9112, C.2.2", b"Proxy-Connection: close\r\n"),
    *(
        last(f"HTTP/1.0 {fields.decode()!r}", "RFC 9112, 9.3", _OLD + fields + b"\r\n")
        for fields in _OLD_CLOSE
    ),
    *(
        good(f"HTTP/1.0 {value.decode()!r}", "RFC 9112, 9.3", _OLD + b"Connection:" + value + b"\r\n\r\n")
        for value in _OLD_OPEN
    ),
    last(
        "HTTP/1.2 close", "RFC 9112, 9.3", GET.replace(b"1.1", b"1.2") + HOST + b"Connection: close\r\n\r\n"
    ),
    good("HTTP/1.2 stays open", "RFC 9112, 9.3", GET.replace(b"1.1", b"1.2") + HOST + b"\r\n"),
    last(
        "close with a body",
        "RFC 9112, 9.6",
        PUT + b"Connection: close\r\n" + LENGTH + b"\r\n" + BODY,
        PUT_LINE,
        BODY,
    ),
    last(
        "close with chunks",
        "RFC 9112, 9.6",
        CHUNKED.replace(HOST, HOST + b"Connection: close\r\n") + b"1\r\na\r\n0\r\n\r\n",
        POST_LINE,
        b"a",
    ),
)

_BAD_EXPECTATIONS = (
    b"200-ok", b"100", b"100-continue, x", b"100-continue x", b", x", b"x, 100-continue",
    b"100-continue=1", b"100-continued", b"100 continue", b'"100-continue"', b"100-continue;a=b",
)  # fmt: skip

_EXPECTATION_LISTS = (
    b"Expect: 100-continue,\r\n", b"Expect: ,100-continue\r\n", b"Expect: , 100-Continue ,\t,\r\n",
    b"Expect: 100-continue, 100-CONTINUE\r\n", b"Expect: 100-continue\r\nExpect:\r\n",
    b"Expect:\r\nExpect: 100-continue\r\n",
)  # fmt: skip

_EXPECTATIONS = (
    good("expectation", "RFC 9110, 10.1.1", PUT + LENGTH + _EXPECT + b"\r\n" + BODY, PUT_LINE, BODY),
    good(
        "expectation in capitals",
        "RFC 9110, 10.1.1",
        PUT + LENGTH + b"EXPECT:100-CONTINUE\r\n\r\n" + BODY,
        PUT_LINE,
        BODY,
    ),
    good(
        "expectation of chunks",
        "RFC 9110, 10.1.1",
        CHUNKED.replace(HOST, HOST + _EXPECT) + b"1\r\na\r\n0\r\n\r\n",
        POST_LINE,
        b"a",
    ),
    good_fields("expectation without a body", "RFC 9110, 10.1.1", _EXPECT),
    *(
        good(
            f"expectation list {fields.decode()!r}",
            "RFC 9110, 5.6.1",
            PUT + LENGTH + fields + b"\r\n" + BODY,
            PUT_LINE,
            BODY,
        )
        for fields in _EXPECTATION_LISTS
    ),
    *(
        good(
            f"empty expectation {fields.decode()!r}",
            "RFC 9110, 5.6.1",
            PUT + LENGTH + fields + b"\r\n" + BODY,
            PUT_LINE,
            BODY,
        )
        for fields in (b"Expect:\r\n", b"Expect: ,\r\n", b"Expect: , \t,\r\nExpect:\r\n")
    ),
    good(
        "expectation of an empty body",
        "RFC 9110, 10.1.1",
        PUT + b"Content-Length: 0\r\n" + _EXPECT + b"\r\n",
        PUT_LINE,
    ),
    good(
        "expectation twice", "RFC 9110, 10.1.1", PUT + LENGTH + _EXPECT * 2 + b"\r\n" + BODY, PUT_LINE, BODY
    ),
    good(
        "expectation of HTTP/1.0",
        "RFC 9110, 10.1.1",
        b"PUT /put HTTP/1.0\r\nConnection: keep-alive\r\n" + LENGTH + _EXPECT + b"\r\n" + BODY,
        PUT_LINE,
        BODY,
    ),
    last(
        "expectation and close",
        "RFC 9110, 10.1.1",
        PUT + b"Connection: close\r\n" + LENGTH + _EXPECT + b"\r\n" + BODY,
        PUT_LINE,
        BODY,
    ),
    half("expectation, no body yet", "RFC 9110, 10.1.1", PUT + LENGTH + _EXPECT + b"\r\n"),
    half(
        "expectation of HTTP/1.0, no body yet",
        "RFC 9110, 10.1.1",
        b"PUT /put HTTP/1.0\r\n" + LENGTH + _EXPECT + b"\r\n",
    ),
    *(
        bad_field(f"expectation {value.decode()!r}", "RFC 9110, 10.1.1", b"Expect: " + value, 417)
        for value in _BAD_EXPECTATIONS
    ),
    bad(
        "expectation and its opposite",
        "RFC 9110, 10.1.1",
        PUT + LENGTH + _EXPECT + b"Expect: x\r\n\r\n" + BODY,
        417,
    ),
    bad("another expectation in HTTP/1.0", "RFC 9110, 10.1.1", _OLD + b"Expect: x\r\n\r\n", 417),
    bad(
        "expectation for too much",
        "RFC 9110, 10.1.1",
        PUT + b"Content-Length: 9999\r\n" + _EXPECT + b"\r\n",
        413,
    ),
    bad("expectation without Host", "RFC 9112, 3.2", b"PUT /put HTTP/1.1\r\n" + LENGTH + _EXPECT + b"\r\n"),
    bad(
        "expectation, unknown coding",
        "RFC 9112, 6.1",
        PUT + b"Transfer-Encoding: x\r\n" + _EXPECT + b"\r\n",
        501,
    ),
)

_UPGRADES = (
    good_fields("upgrade that Connection does not name", "RFC 9110, 7.8", b"Upgrade: h2c\r\n"),
    good_fields("unknown upgrade", "RFC 9110, 7.8", b"Connection: Upgrade\r\nUpgrade: made-up/1.0\r\n"),
    good_fields("upgrade list", "RFC 9110, 7.8", b"Connection: x,UPGRADE\r\nUpgrade: a, b/2\r\n"),
    good_fields(
        "WebSocket of an unknown version",
        "RFC 6455, 4.4",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99\r\nSec-WebSocket-Key: x\r\n",
    ),
    good(
        "upgrade by PUT",
        "RFC 9110, 7.8",
        PUT + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + LENGTH + b"\r\n" + BODY,
        PUT_LINE,
        BODY,
    ),
    good(
        "HTTP/1.0 upgrade",
        "RFC 9110, 7.8",
        _OLD + b"Connection: upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n",
    ),
    several(
        "upgrade, and the next",
        "RFC 9110, 7.8",
        GET + HOST + b"Connection: Upgrade\r\nUpgrade: x\r\n\r\n" + GOOD,
        (GET_LINE, b""),
        (GET_LINE, b""),
    ),
)

_ROWS = (
    Case("nothing", "RFC 9112, 9.3", b"", (), None, Then.OPEN),
    several("three", "RFC 9112, 9.3.2", GOOD * 3, *[(GET_LINE, b"")] * 3),
    several(
        "three of two kinds",
        "RFC 9112, 9.3.2",
        GOOD + GET + HOST + b"X: y\r\n\r\n" + GOOD,
        *[(GET_LINE, b"")] * 3,
    ),
    several(
        "three methods",
        "RFC 9112, 9.3.2",
        GOOD + b"HEAD" + GOOD[3:] + b"DELETE" + GOOD[3:],
        (GET_LINE, b""),
        (b"HEAD" + GET_LINE[3:], b""),
        (b"DELETE" + GET_LINE[3:], b""),
    ),
    several(
        "usual, unusual, usual",
        "RFC 9112, 9.3.2",
        GOOD + b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n" + GOOD,
        (GET_LINE, b""),
        (b"BREW /", b""),
        (GET_LINE, b""),
    ),
    several(
        "body, none, chunks",
        "RFC 9112, 9.3.2",
        PUT + LENGTH + b"\r\n" + BODY + GOOD + CHUNKED + b"1\r\na\r\n0\r\n\r\n" + GOOD,
        (PUT_LINE, BODY),
        (GET_LINE, b""),
        (POST_LINE, b"a"),
        (GET_LINE, b""),
    ),
    several(
        "HTTP/1.0 keep-alive twice",
        "RFC 9112, C.2.2",
        (_OLD + b"Connection: keep-alive\r\n\r\n") * 2,
        (GET_LINE, b""),
        (GET_LINE, b""),
    ),
    several(
        "nothing is read after close",
        "RFC 9112, 9.6",
        GET + HOST + b"Connection: close\r\n\r\n" + GOOD,
        (GET_LINE, b""),
        then=Then.CLOSED,
    ),
    several(
        "close twice",
        "RFC 9112, 9.6",
        (GET + HOST + b"Connection: close\r\n\r\n") * 2,
        (GET_LINE, b""),
        then=Then.CLOSED,
    ),
    several(
        "nothing is read after close and a body",
        "RFC 9112, 9.6",
        PUT + b"Connection: close\r\n" + LENGTH + b"\r\n" + BODY + GOOD,
        (PUT_LINE, BODY),
        then=Then.CLOSED,
    ),
    several(
        "nothing is read after HTTP/1.0",
        "RFC 9112, 9.3",
        _OLD + b"\r\n" + GOOD,
        (GET_LINE, b""),
        then=Then.CLOSED,
    ),
    several(
        "two, then garbage",
        "RFC 9112, 3",
        GOOD * 2 + b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
        (GET_LINE, b""),
        (GET_LINE, b""),
        error=400,
    ),
    several("one, then no Host", "RFC 9112, 3.2", GOOD + GET + b"\r\n", (GET_LINE, b""), error=400),
    several("one, then zeros", "RFC 9112, 3", GOOD + b"\0" * 8, (GET_LINE, b""), error=400),
    several(
        "one, then CRLF and one", "RFC 9112, 2.2", GOOD + b"\r\n" + GOOD, (GET_LINE, b""), (GET_LINE, b"")
    ),
    several(
        "body, then CRLF and one",
        "RFC 9112, 2.2",
        PUT + LENGTH + b"\r\n" + BODY + b"\r\n" + GOOD,
        (PUT_LINE, BODY),
        (GET_LINE, b""),
    ),
    several(
        "body a byte too long",
        "RFC 9112, 6.3",
        PUT + LENGTH + b"\r\n" + BODY + b" " + GOOD,
        (PUT_LINE, BODY),
        error=400,
    ),
    several(
        "length 0 and a body",
        "RFC 9112, 6.3",
        PUT + b"Content-Length: 0\r\n\r\n" + BODY + b"\r\n" + GOOD,
        (PUT_LINE, b""),
        error=400,
    ),
    several(
        "no length and a body",
        "RFC 9112, 6.3",
        PUT + b"\r\n" + BODY + b"\r\n" + GOOD,
        (PUT_LINE, b""),
        error=400,
    ),
    several(
        "chunks, then one behind a byte too many",
        "RFC 9112, 7.1",
        CHUNKED + b"0\r\n\r\n\n" + GOOD,
        (POST_LINE, b""),
        error=400,
    ),
    several("one and a half", "RFC 9112, 8", GOOD + GET[:-3], (GET_LINE, b""), then=Then.WAITING),
)

CASES: tuple[Case, ...] = _PERSISTENCE + _EXPECTATIONS + _UPGRADES + _ROWS
