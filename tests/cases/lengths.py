"""Where a body ends: Content-Length and Transfer-Encoding (RFC 9112, 6), and what misleads other readers."""

from cases.case import (
    BODY,
    CHUNKED,
    GET,
    GET_LINE,
    GOOD,
    HOST,
    LENGTH,
    MAX_BODY_BYTES,
    POST,
    POST_LINE,
    PUT,
    PUT_LINE,
    Case,
    bad,
    bad_put,
    good,
    good_put,
    half,
    last,
)

_BAD_LENGTHS = (
    b"", b"+36", b"-36", b"-0", b"-1", b"+0", b"0x24", b"0X24", b"0o44", b"0b1", b"044h", b"3_6", b"3 6",
    b"3\t6", b"36.0", b"36e0", b"3.6e1", b"1e9", b"36;", b"36;a", b"36,", b",36", b"36,36", b"36, 36",
    b"36, 6", b"36 36", b"36\x0b", b"\x0b36", b"\x0c36", b"36\0", b"\x0036", b"36\r", b"'36'", b'"36"',
    b"36a", b"a36", b"abc", b"NaN", b"inf", b"\xb2", b"\xd9\xa3\xd9\xa6", b"\xef\xbc\x93\xef\xbc\x96",
    b"\xa036", b"18446744073709551652", b"4294967332000000000000", b"-123456789123456789123456789", b"=36",
    b"(36)", b"36\x1a", b"#36", b"36%20",
)  # fmt: skip

_LENGTHS = (
    good_put("length", "RFC 9112, 6.2", LENGTH),
    good("length 0", "RFC 9112, 6.2", PUT + b"Content-Length: 0\r\n\r\n", PUT_LINE),
    good("length 00", "RFC 9110, 8.6", PUT + b"Content-Length: 00\r\n\r\n", PUT_LINE),
    good_put("leading zeros", "RFC 9110, 8.6", b"Content-Length: 0036\r\n"),
    good_put("white space around a length", "RFC 9110, 5.6.3", b"Content-Length:\t 36 \t\r\n"),
    good_put("length without a space", "RFC 9112, 5", b"content-length:36\r\n"),
    good("GET with a body", "RFC 9110, 9.3.1", GET + HOST + LENGTH + b"\r\n" + BODY, GET_LINE, BODY),
    *(
        good(
            f"{method.decode()} with a body",
            "RFC 9112, 6",
            method + b" /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD,
            method + b" /x",
            GOOD,
        )
        for method in (b"HEAD", b"DELETE", b"OPTIONS")
    ),
    good(
        "body that looks like a request",
        "RFC 9112, 6",
        PUT + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD,
        PUT_LINE,
        GOOD,
    ),
    good(
        "body that looks like chunks",
        "RFC 9112, 6",
        PUT + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        PUT_LINE,
        b"0\r\n\r\n",
    ),
    good("no length", "RFC 9112, 6.3", POST + b"\r\n", POST_LINE),
    good(
        "longest body",
        "RFC 9110, 15.5.14",
        PUT + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES + b"a" * MAX_BODY_BYTES,
        PUT_LINE,
        b"a" * MAX_BODY_BYTES,
    ),
    good(
        "length in HTTP/1.0",
        "RFC 9112, 6.2",
        b"POST /put HTTP/1.0\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\n" + BODY,
        POST_LINE,
        BODY,
    ),
    last("no length in HTTP/1.0", "RFC 9112, 6.3", b"POST /put HTTP/1.0\r\n\r\n" + BODY, POST_LINE),
    bad_put("body too long", "RFC 9110, 15.5.14", b"Content-Length: %d" % (MAX_BODY_BYTES + 1), 413),
    bad_put("body much too long, none sent", "RFC 9110, 15.5.14", b"Content-Length: 999999999", 413, b""),
    bad_put("length of 64 bits", "RFC 9110, 15.5.14", b"Content-Length: 9999999999999999999", 413),
    *(
        bad_put(f"length {value.decode('latin-1')!r}", "RFC 9110, 8.6", b"Content-Length: " + value)
        for value in _BAD_LENGTHS
    ),
    bad_put("two equal lengths", "RFC 9112, 6.3", b"Content-Length: 36\r\nContent-Length: 36"),
    bad_put("two lengths", "RFC 9112, 6.3", b"Content-Length: 36\r\ncontent-length: 6"),
    bad_put("two lengths of nothing", "RFC 9112, 6.3", b"Content-Length: 0\r\nContent-Length: 0"),
    bad_put("two lengths, one malformed", "RFC 9112, 6.3", b"Content-Length: 36\r\nContent-Length: +36"),
    bad_put("two lengths, one empty", "RFC 9112, 6.3", b"Content-Length:\r\nContent-Length: 36"),
    bad_put("space before the colon of a length", "RFC 9112, 5.1", b"Content-Length : 36"),
    bad_put("second length with a space before its colon", "RFC 9112, 5.1", LENGTH + b"Content-Length : 5"),
    bad_put("second length with a tab in its name", "RFC 9110, 5.1", LENGTH + b"Content\tLength: 5"),
    bad_put("folded length", "RFC 9112, 5.2", b"Content-Length:\r\n 36"),
    bad_put("length folded in two", "RFC 9112, 5.2", b"Content-Length: 3\r\n 6"),
    good_put(
        "a length by another name", "RFC 9110, 5.1", LENGTH + b"Content_Length: 5\r\nX-Content-Length: 5\r\n"
    ),
    half("half a body", "RFC 9112, 8", PUT + LENGTH + b"\r\n" + BODY[:-1]),
    half("no byte of a body", "RFC 9112, 8", PUT + LENGTH + b"\r\n"),
    half("half a body of HTTP/1.0", "RFC 9112, 8", b"POST /put HTTP/1.0\r\n" + LENGTH + b"\r\n" + BODY[:-1]),
)

_GOOD_CODINGS = (
    b"chunked", b" Chunked", b" CHUNKED ", b"\tchunked\t", b"   chunked",
)  # fmt: skip

_UNKNOWN_CODINGS = (
    b"gzip", b"gzip, chunked", b"identity", b"identity, chunked", b"xchunked", b"chunkedx", b"x-chunked",
    b"chunk", b"'chunked'", b"cow", b"gzip\r\nTransfer-Encoding: chunked",
    b"identity\r\nTransfer-Encoding: chunked",
)  # fmt: skip

_BAD_CODING_LISTS = (
    b"", b",", b"chunked,", b",chunked", b", chunked", b"chunked, chunked", b"chunked,chunked",
    b"chunked, gzip", b"chunked, identity", b"identity, chunked, identity", b"chunked, cow",
    b"chunked\r\nTransfer-Encoding: chunked", b"chunked\r\nTransfer-Encoding: identity",
    b"chunked\r\nTransfer-Encoding:", b"\r\nTransfer-Encoding: chunked",
    b"chunked\r\ntransfer-encoding: cow",
)  # fmt: skip

_BAD_CODINGS = (
    b' "chunked"', b" chunked chunked", b" chunked;a=b", b" chunked;", b" chunked; q=0.5", b" ;chunked",
    b" chunked/1", b" (chunked)", b" [chunked]", b" chunked=1", b" \xa0chunked", b" chunked\xa0",
    b" chu\xc5\x84ked", b" \xc3\xa7hunked", b" =?iso-8859-1?B?Y2h1bmtlZA==?=", b" \xefchunked",
    b" chunked:", b"chunked\x20x", b" chun\tked",
)  # fmt: skip

_CONTROLS_IN_CODINGS = (
    b" \x0bchunked", b"\x0bchunked", b" \x0cchunked", b" chunked\0", b" \0chunked", b" chunked\x0b",
    b" chunked\r", b"\rchunked", b" chu\x08nked", b" chunked\x7f", b" \x1bchunked",
)  # fmt: skip

_BAD_NAMES = (
    b"Transfer-Encoding ", b"Transfer-Encoding\t", b"Transfer Encoding", b"Transfer\\Encoding",
    b" Transfer-Encoding", b"\tTransfer-Encoding", b"Transfer-Encoding x", b"Transfer-Encoding\0",
    b"Transfer-Encoding\x0b", b"Transfer-Encoding\xa0", b"Transfer-Encoding\xc2\x85",
    b"Transfer\xadEncoding", b"\rTransfer-Encoding", b"Transfer-Encoding\r", b"Transfer-\xcbncoding",
    b":transfer-encoding", b"Transfer-Encoding`chunked ", b"Transfer-Encoding:\x00",
    b"\x00Transfer-Encoding", b"\xffTransfer-Encoding",
)  # fmt: skip

_OTHER_NAMES = (
    b"Transfer_Encoding", b"TransferEncoding", b"X-Transfer-Encoding", b"Transfer-Encodin",
    b"Transfer-Encodings", b"Transfer-%45ncoding", b"Content-Encoding", b"Transfer-Encoding-", b"TE",
)  # fmt: skip

_CODINGS = (
    *(
        good(
            f"coding {value.decode()!r}",
            "RFC 9112, 7",
            POST + b"tRANSFER-eNCODING:" + value + b"\r\n\r\n0\r\n\r\n",
            POST_LINE,
        )
        for value in _GOOD_CODINGS
    ),
    good("chunks in HTTP/1.2", "RFC 9110, 2.5", CHUNKED.replace(b"1.1", b"1.2", 1) + b"0\r\n\r\n", POST_LINE),
    *(
        good(
            f"{method.decode()} in chunks",
            "RFC 9112, 6.3",
            method + b" /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            method + b" /x",
            b"a",
        )
        for method in (b"GET", b"HEAD", b"DELETE", b"BREW")
    ),
    # RFC 9112, 6.3 has 400 where another coding than chunked is the last, and 6.1 has 501 for one that is not
    # known: 501 says more, and the connection is closed either way.
    *(
        bad_put(f"coding {value.decode('latin-1')!r}", "RFC 9112, 6.1", b"Transfer-Encoding: " + value, 501)
        for value in _UNKNOWN_CODINGS
    ),
    # Empty members may be passed over (RFC 9110, 5.6.1); here some readers see chunks then and some do not.
    *(
        bad_put(f"coding {value.decode('latin-1')!r}", "RFC 9112, 6.3", b"Transfer-Encoding: " + value)
        for value in _BAD_CODING_LISTS
    ),
    *(
        bad_put(f"coding {value.decode('latin-1')!r}", "RFC 9110, 5.6.2", b"Transfer-Encoding:" + value)
        for value in _BAD_CODINGS
    ),
    *(
        bad_put(f"coding {value.decode('latin-1')!r}", "RFC 9110, 5.5", b"Transfer-Encoding:" + value)
        for value in _CONTROLS_IN_CODINGS
    ),
    bad_put("folded coding", "RFC 9112, 5.2", b"Transfer-Encoding:\r\n chunked"),
    bad_put("folded coding by a tab", "RFC 9112, 5.2", b"Transfer-Encoding:\r\n\tchunked"),
    bad_put("coding folded twice", "RFC 9112, 5.2", b"Transfer-Encoding:\r\n \r\n chunked"),
    bad_put("coding on a line of its own", "RFC 9112, 2.2", b"Transfer-Encoding:\n chunked"),
    bad_put("colon on a line of its own", "RFC 9112, 2.2", b"Transfer-Encoding\n : chunked"),
    bad_put("coding behind a bare LF", "RFC 9112, 2.2", b"X: y\nTransfer-Encoding: chunked"),
    bad_put("coding behind a bare CR", "RFC 9112, 2.2", b"X: y\rTransfer-Encoding: chunked"),
    *(
        bad_put(
            f"name {name.decode('latin-1')!r}", "RFC 9110, 5.1", name + b": chunked\r\n" + LENGTH.rstrip()
        )
        for name in _BAD_NAMES
    ),
    *(
        good_put(f"name {name.decode()!r}", "RFC 9110, 5.1", name + b": chunked\r\n" + LENGTH)
        for name in _OTHER_NAMES
    ),
    bad("chunks in HTTP/1.0", "RFC 9112, 6.1", CHUNKED.replace(b"1.1", b"1.0", 1) + b"0\r\n\r\n"),
    bad(
        "chunks in HTTP/1.0 that stays open",
        "RFC 9112, 6.1",
        b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    bad("coding in HTTP/1.0", "RFC 9112, 6.1", b"POST / HTTP/1.0\r\nTransfer-Encoding: identity\r\n\r\n"),
)

_HIDDEN = b"GET /get?key=smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
_CL, _TE = b"Content-Length: %d\r\n", b"Transfer-Encoding: chunked\r\n"
_CLTE = b"0\r\n\r\n" + _HIDDEN
_TECL = b"%x\r\n" % len(_HIDDEN) + _HIDDEN + b"\r\n0\r\n\r\n"

_SECOND_CODINGS = (
    b"identity", b"cow", b"x", b"chunked", b"gzip, chunked", b"", b"chunked;a",
)  # fmt: skip

_SMUGGLING = (
    bad("length and chunks that agree", "RFC 9112, 6.3", POST + _CL % 5 + _TE + b"\r\n0\r\n\r\n"),
    bad(
        "chunks and length of nothing",
        "RFC 9112, 6.3",
        POST + b"tRANSFER-eNCODING: chunked\r\n" + _CL % 0 + b"\r\n",
    ),
    bad("CL.TE", "RFC 9112, 11.2", POST + _CL % len(_CLTE) + _TE + b"\r\n" + _CLTE),
    bad("CL.TE, a byte more", "RFC 9112, 11.2", POST + _CL % 6 + _TE + b"\r\n0\r\n\r\nG"),
    bad("CL.TE with CL.CL", "RFC 9112, 11.2", POST + _CL % 4 + _CL % len(_CLTE) + _TE + b"\r\n" + _CLTE),
    bad("TE.CL", "RFC 9112, 11.2", POST + _TE + _CL % 4 + b"\r\n" + _TECL),
    bad("TE.CL, more declared than sent", "RFC 9112, 11.2", POST + _TE + _CL % 30 + b"\r\n0\r\n\r\nX"),
    bad("CL.CL", "RFC 9112, 11.2", POST + _CL % 4 + _CL % (4 + len(_HIDDEN)) + b"\r\naaaa" + _HIDDEN),
    *(
        bad(
            f"TE.TE, {value.decode('latin-1')!r}",
            "RFC 9112, 11.2",
            POST + _TE + b"Transfer-Encoding: " + value + b"\r\n" + _CL % len(_CLTE) + b"\r\n" + _CLTE,
        )
        for value in _SECOND_CODINGS
    ),
    bad("+CL.TE", "RFC 9112, 11.2", POST + b"Content-Length: +%d\r\n" % len(_CLTE) + _TE + b"\r\n" + _CLTE),
    bad("CLx.TE", "RFC 9112, 11.2", POST + b"Content-Length: %dx\r\n" % len(_CLTE) + _TE + b"\r\n" + _CLTE),
    bad(
        "CL.TE with Expect",
        "RFC 9112, 11.2",
        POST + b"Expect: 100-continue\r\n" + _CL % 5 + _TE + b"\r\n0\r\n\r\n",
    ),
    bad("GET with both", "RFC 9112, 6.3", GET + HOST + _CL % 5 + _TE + b"\r\n0\r\n\r\n"),
    bad("HEAD with both", "RFC 9112, 6.3", b"HEAD / HTTP/1.1\r\n" + HOST + _CL % 5 + _TE + b"\r\n0\r\n\r\n"),
    bad("both in HTTP/1.0", "RFC 9112, 6.1", b"POST / HTTP/1.0\r\n" + _CL % 5 + _TE + b"\r\n0\r\n\r\n"),
    bad(
        "Connection names the length",
        "RFC 9112, 6.3",
        POST + b"Connection: content-length\r\n" + _CL % 5 + _TE + b"\r\n",
    ),
    good(
        "GET that hides the beginning of a request",
        "RFC 9110, 9.3.1",
        GET + HOST + _CL % len(GET) + b"\r\n" + GET,
        GET_LINE,
        GET,
    ),
    good(
        "length that Connection names",
        "RFC 9110, 7.6.1",
        PUT + b"Connection: content-length\r\n" + LENGTH + b"\r\n" + BODY,
        PUT_LINE,
        BODY,
    ),
)

CASES: tuple[Case, ...] = _LENGTHS + _CODINGS + _SMUGGLING
