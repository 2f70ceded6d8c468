"""Chunked bodies: sizes, extensions, ends, trailers (RFC 9112, 7.1)."""

from cases.case import CHUNKED, MAX_BODY_BYTES, MAX_HEAD_BYTES, Case, bad_chunks, good_chunks, half

_ABC = b"\r\nabc\r\n0\r\n\r\n"
_HALF = MAX_BODY_BYTES // 2

_GOOD_EXTENSIONS = (
    b";a", b";a=b", b";a;b=c", b';a="b"', b';a=""', b';a="b;c\\"d\\\\"', b';a="\xe9\t "',
    b";!#$%&'*+-.^_`|~=09", b" ;a", b"\t;a", b"; a", b";\ta", b";a =b", b";a= b", b" ; a = b ; c",
)  # fmt: skip

_GOOD_TRAILERS = (
    b"X-Sum: 1\r\n", b"X:\r\n", b"X: \xe9\r\n", b"X: 1\r\nY: 2\r\n", b"Connection: close\r\n",
    b"Host: b\r\n", b"Host: b\r\nHost: c\r\n", b"Authorization: Bearer x\r\nContent-Type: text/html\r\n",
    b"Trailer: X\r\n", b"Content-Encoding: gzip\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 200-ok\r\n",
)  # fmt: skip

_GOOD = (
    good_chunks("no chunk", "RFC 9112, 7.1", b"0\r\n\r\n", b""),
    good_chunks("one chunk", "RFC 9112, 7.1", b"24\r\n" + b"a" * 36 + b"\r\n0\r\n\r\n", b"a" * 36),
    good_chunks("two chunks", "RFC 9112, 7.1", b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
    good_chunks("small letters", "RFC 9112, 7.1", b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    good_chunks("zeros before", "RFC 9112, 7.1", b"0003\r\nabc\r\n0000\r\n\r\n", b"abc"),
    good_chunks(
        "many zeros before", "RFC 9112, 7.1", b"0" * 40 + b"3\r\nabc\r\n" + b"0" * 40 + b"\r\n\r\n", b"abc"
    ),
    good_chunks(
        "empty lines as data", "RFC 9112, 7.1", b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n"
    ),
    good_chunks("last chunk as data", "RFC 9112, 7.1", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    good_chunks("any byte as data", "RFC 9112, 7.1", b"4\r\n\0\xff\n\r\r\n0\r\n\r\n", b"\0\xff\n\r"),
    good_chunks("a byte each", "RFC 9112, 7.1", b"1\r\na\r\n" * 200 + b"0\r\n\r\n", b"a" * 200),
    good_chunks(
        "longest chunks",
        "RFC 9110, 15.5.14",
        b"%x\r\n%b\r\n%X\r\n%b\r\n0\r\n\r\n" % (_HALF, b"a" * _HALF, _HALF, b"b" * _HALF),
        b"a" * _HALF + b"b" * _HALF,
    ),
    *(
        good_chunks(f"extension {text.decode('latin-1')!r}", "RFC 9112, 7.1.1", b"3" + text + _ABC, b"abc")
        for text in _GOOD_EXTENSIONS
    ),
    good_chunks("extension of the last chunk", "RFC 9112, 7.1.1", b"3\r\nabc\r\n0;x=y\r\n\r\n", b"abc"),
    good_chunks(
        "longest extension", "RFC 9112, 7.1.1", b"3;a=" + b"b" * (MAX_HEAD_BYTES + 10) + _ABC, b"abc"
    ),
    *(
        good_chunks(
            f"trailers {text.decode('latin-1')!r}",
            "RFC 9112, 7.1.2",
            b"3\r\nabc\r\n0\r\n" + text + b"\r\n",
            b"abc",
        )
        for text in _GOOD_TRAILERS
    ),
    good_chunks("a hundred trailers", "RFC 9112, 7.1.2", b"0\r\n" + b"x:\r\n" * 100 + b"\r\n", b""),
)

_BAD_SIZES = (
    b"", b"+3", b"-3", b"-0", b"-1", b"0x3", b"0X3", b"x3", b"3h", b"&h3", b"#3", b"g", b"3g", b"3.0",
    b"3_0", b"_3", b"3 ", b"3\t", b" 3", b"\t3", b"3 3", b"3,3", b"3\x0b", b"\x0b3", b"3\x0c", b"3\0",
    b"\x003", b"3\r", b"\r3", b'"3"', b"(3)", b"{3}", b"3=", b"3:", b"3 a", b"3a;b;", b"\xb3",
    b"\xef\xbc\x93", b"\xa03", b"3\xa0", b"10000000000000003", b"ffffffffffffffff0", b"f" * 40, b"0 ", b"-",
    b"\x1b3",
)  # fmt: skip

_BAD_LAST_CHUNKS = (
    b"", b"+0", b"-0", b"0x0", b"0 ", b" 0", b"0_0", b"0;", b"0\0", b"0\t", b"00000000000000000g", b"zero",
)  # fmt: skip

_SIZES = (
    *(bad_chunks(f"size {text.decode('latin-1')!r}", "RFC 9112, 7.1", text + _ABC) for text in _BAD_SIZES),
    *(
        bad_chunks(
            f"last chunk {text.decode('latin-1')!r}", "RFC 9112, 7.1", b"3\r\nabc\r\n" + text + b"\r\n\r\n"
        )
        for text in _BAD_LAST_CHUNKS
    ),
    bad_chunks("chunk too large", "RFC 9110, 15.5.14", b"ffffffffffffffff\r\n" + b"a" * 1025, 413),
    bad_chunks("chunk too large, none sent", "RFC 9110, 15.5.14", b"%x\r\n" % (MAX_BODY_BYTES + 1), 413),
    bad_chunks("chunk of 31 bits", "RFC 9112, 7.1", b"7fffffff\r\nabc", 413),
    bad_chunks("chunk of 32 bits and 3", "RFC 9112, 7.1", b"100000003" + _ABC, 413),
    bad_chunks("too many chunks", "RFC 9110, 15.5.14", (b"%x\r\n" % _HALF + b"a" * _HALF + b"\r\n") * 3, 413),
)

_BAD_EXTENSIONS = (
    b";", b"; ", b";;", b";;a", b";a;", b";=b", b";a=", b";a=;b", b";a==b", b";a b", b";a=b c", b';a="b',
    b';a="b"c', b';"a"', b";a[", b";bad[=x", b";a=[b]", b";a:b", b";a,b", b";a\0", b";a=\0", b';a="\0"',
    b';a="\\\0"', b";a\x0b", b";a=b\x7f", b";\xe9", b";a=\xe9", b";a\rb", b";\r", b";a=\r", b';a="\r"',
    b";a\x1b", b' "a"', b" a", b";a= ", b" ;", b"\x0b;a", b";\x0ca",
)  # fmt: skip

_EXTENSIONS = (
    *(
        bad_chunks(f"extension {text.decode('latin-1')!r}", "RFC 9112, 7.1.1", b"3" + text + _ABC)
        for text in _BAD_EXTENSIONS
    ),
    bad_chunks("extension too long", "RFC 9112, 7.1.1", b"3;a=" + b"b" * (MAX_HEAD_BYTES + 11) + _ABC, 431),
    bad_chunks("extension without an end", "RFC 9112, 7.1.1", b"3;" + b"a" * (MAX_HEAD_BYTES + 40), 431),
    bad_chunks("too many extensions", "RFC 9112, 7.1.1", (b"1;a=" + b"b" * 77 + b"\r\na\r\n") * 40, 431),
    bad_chunks(
        "white space without an end", "RFC 9112, 7.1.1", b"3" + b" " * (MAX_HEAD_BYTES + 40) + b";", 431
    ),
    bad_chunks("zeros without an end", "RFC 9112, 7.1", b"0" * (MAX_HEAD_BYTES + 40), 431),
)

_ENDS = (
    bad_chunks("bare LF behind the size", "RFC 9112, 2.2", b"3\nabc\r\n0\r\n\r\n"),
    bad_chunks("bare LF behind the data", "RFC 9112, 2.2", b"3\r\nabc\n0\r\n\r\n"),
    bad_chunks("bare LF behind the last chunk", "RFC 9112, 2.2", b"3\r\nabc\r\n0\n\r\n"),
    bad_chunks("bare LF at the end", "RFC 9112, 2.2", b"3\r\nabc\r\n0\r\n\n"),
    bad_chunks("bare LF everywhere", "RFC 9112, 2.2", b"3\nabc\n0\n\n"),
    bad_chunks("bare LF in an extension", "RFC 9112, 2.2", b"3;a\nabc\r\n0\r\n\r\n"),
    bad_chunks("bare LF in a quoted extension", "RFC 9112, 2.2", b'3;a="\n"\r\nabc\r\n0\r\n\r\n'),
    bad_chunks("LF and CR behind the size", "RFC 9112, 2.2", b"3\n\rabc\r\n0\r\n\r\n"),
    bad_chunks("bare CR behind the size", "RFC 9112, 2.2", b"3\rabc\r\n0\r\n\r\n"),
    bad_chunks("bare CR behind the data", "RFC 9112, 2.2", b"3\r\nabc\r0\r\n\r\n"),
    bad_chunks("two CR behind the data", "RFC 9112, 2.2", b"3\r\nabc\r\r\n0\r\n\r\n"),
    bad_chunks("LF and CR behind the data", "RFC 9112, 2.2", b"3\r\nabc\n\r0\r\n\r\n"),
    bad_chunks("any two bytes behind the data", "RFC 9112, 7.1", b"3\r\nabcXX0\r\n\r\n"),
    bad_chunks("nothing behind the data", "RFC 9112, 7.1", b"3\r\nabc0\r\n\r\n"),
    bad_chunks("data too long", "RFC 9112, 7.1", b"3\r\nabcd\r\n0\r\n\r\n"),
    bad_chunks("data too short", "RFC 9112, 7.1", b"3\r\nab\r\n0\r\n\r\n"),
    bad_chunks("empty line between chunks", "RFC 9112, 7.1", b"3\r\nabc\r\n\r\n0\r\n\r\n"),
    bad_chunks("second chunk malformed", "RFC 9112, 7.1", b"3\r\nabc\r\n3 \r\nabc\r\n0\r\n\r\n"),
    bad_chunks("request in place of a chunk", "RFC 9112, 7.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad_chunks("request in place of an end", "RFC 9112, 7.1", b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    bad_chunks("no size and no end", "RFC 9112, 7.1", b"g"),
    half("half a size", "RFC 9112, 8", CHUNKED + b"3"),
    half("half a chunk", "RFC 9112, 8", CHUNKED + b"3\r\nab"),
    half("no last chunk", "RFC 9112, 8", CHUNKED + b"3\r\nabc\r\n"),
    half("no end", "RFC 9112, 8", CHUNKED + b"3\r\nabc\r\n0\r\n"),
    half("half an end", "RFC 9112, 8", CHUNKED + b"3\r\nabc\r\n0\r\n\r"),
    half("half a trailer", "RFC 9112, 8", CHUNKED + b"0\r\nX: a\r\n"),
)

_TRAILERS = (
    *(
        bad_chunks(f"trailer {text.decode('latin-1')!r}", law, b"3\r\nabc\r\n0\r\n" + text + b"\r\n\r\n")
        for law, texts in {
            "RFC 9110, 6.5.1": (
                b"Content-Length: 3",
                b"content-length: 0",
                b"Transfer-Encoding: chunked",
                b"X: y\r\nContent-Length:",
            ),
            "RFC 9112, 5.2": (b"X: a\r\n b", b"X: a\r\n\tb", b" X: a", b"\tX: a"),
            "RFC 9112, 5.1": (b"X : a", b"X\t: a", b"X a: b"),
            "RFC 9110, 5.1": (b": a", b"Xa", b"X[]: a", b"X\0: a", b"X\xe9: a", b"\rX: a"),
            "RFC 9110, 5.5": (b"X: \0", b"X: a\x07", b"X: a\r", b"X: a\rb", b"X: \x7f"),
            "RFC 9112, 2.2": (b"X: a\nY: b", b"X: a\n", b"\nX: a"),
        }.items()
        for text in texts
    ),
    bad_chunks("trailers too long", "RFC 9112, 7.1.2", b"0\r\n" + b"X: 0123456789\r\n" * 140 + b"\r\n", 431),
    bad_chunks("trailer without an end", "RFC 9112, 7.1.2", b"0\r\nX: " + b"a" * MAX_HEAD_BYTES, 431),
    bad_chunks("too many trailers", "RFC 9112, 7.1.2", b"0\r\n" + b"x:\r\n" * 101 + b"\r\n", 431),
)

CASES: tuple[Case, ...] = _GOOD + _SIZES + _EXTENSIONS + _ENDS + _TRAILERS
