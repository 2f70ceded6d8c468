"""The request line: method, white space, version, line ends (RFC 9112, 2.2 to 3.1)."""

from cases.case import GET, GOOD, HOST, MAX_HEAD_BYTES, Case, bad, bad_line, good, good_line, half, last

# A head of as many bytes as may be, and the one beyond, by the letters in its target.
_FILL = MAX_HEAD_BYTES - len(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
# A line of half the longest head, and the longest line.
_HALF_FILL = MAX_HEAD_BYTES // 2 - len(b"GET / HTTP/1.1\r\n")
_LINE_FILL = MAX_HEAD_BYTES - len(b"GET / HTTP/1.1\r\n")

_ODD_METHODS = (
    b"get", b"Get", b"GETT", b"BREW", b"M-SEARCH", b"TRACE", b"PRI", b"G", b"!#$%&'*+-.^_`|~09",
)  # fmt: skip

_METHODS = (
    *(
        good_line(f"method {method.decode()}", "RFC 9110, 9.1", method + b" /x")
        for method in (b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"PUT", b"POST")
    ),
    *(good_line(f"method {method.decode()}", "RFC 9110, 9.1", method + b" /x") for method in _ODD_METHODS),
    good(
        "TRACE with a body",
        "RFC 9110, 9.3.8",
        b"TRACE /x HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc",
        b"TRACE /x",
        b"abc",
    ),
    good_line("method of a hundred letters", "RFC 9112, 3.1", b"A" * 100 + b" /x"),
    bad_line("no method", "RFC 9112, 3", b" / HTTP/1.1"),
    bad_line("method with a colon", "RFC 9110, 9.1", b"GE:T / HTTP/1.1"),
    bad_line("method in brackets", "RFC 9110, 9.1", b"(GET) / HTTP/1.1"),
    bad_line("method with NUL", "RFC 9110, 9.1", b"GE\0T / HTTP/1.1"),
    bad_line("method with 8 bits", "RFC 9110, 9.1", b"G\xcb\x86T / HTTP/1.1"),
    bad_line("method with a control byte", "RFC 9110, 9.1", b"GET\x1b / HTTP/1.1"),
    bad_line("method that never ends", "RFC 9112, 3.1", b"A" * (MAX_HEAD_BYTES + 1) + b" / HTTP/1.1"),
    bad("method without an end", "RFC 9112, 3.1", b"A" * (MAX_HEAD_BYTES + 1)),
    bad_line("two requests in a line", "RFC 9112, 3", b"GET / HTTP/1.1 GET / HTTP/1.1"),
    bad_line("words before", "RFC 9112, 3", b"Extra lineGET / HTTP/1.1"),
)

_SPACES = (
    bad("space before", "RFC 9112, 3", b" " + GOOD),
    bad("tab before", "RFC 9112, 3", b"\t" + GOOD),
    bad("white space alone", "RFC 9112, 3", b"   \r\n\r\n"),
    bad_line("two spaces", "RFC 9112, 3", b"GET  / HTTP/1.1"),
    bad_line("two spaces before the version", "RFC 9112, 3", b"GET /  HTTP/1.1"),
    bad_line("space at the end", "RFC 9112, 3", b"GET / HTTP/1.1 "),
    bad_line("tab at the end", "RFC 9112, 3", b"GET / HTTP/1.1\t"),
    bad_line("word at the end", "RFC 9112, 3", b"GET / HTTP/1.1 x"),
    bad_line("tab for a space", "RFC 9112, 3", b"GET\t/ HTTP/1.1"),
    bad_line("tab before the version", "RFC 9112, 3", b"GET /\tHTTP/1.1"),
    bad_line("tabs for both spaces", "RFC 9112, 3", b"GET\t/\tHTTP/1.1"),
    bad_line("vertical tab for a space", "RFC 9112, 3", b"GET\x0b/ HTTP/1.1"),
    bad_line("form feed for a space", "RFC 9112, 3", b"GET\x0c/ HTTP/1.1"),
    bad_line("no-break space for a space", "RFC 9112, 3", b"GET\xa0/ HTTP/1.1"),
    bad_line("CR for a space", "RFC 9112, 2.2", b"GET\r/ HTTP/1.1"),
)

_OTHER_VERSIONS = (
    b"HTTP/0.8", b"HTTP/2.0", b"HTTP/3.1", b"HTTP/9.9", b"HTTP/0.0",
)  # fmt: skip

_BAD_VERSIONS = (
    b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/", b"HTTP", b"HTTP/1.10", b"HTTP/1.01", b"HTTP/01.1",
    b"HTTP/01.01", b"HTTP/11.1", b"HTTP/1.1.1", b"HTTP/1,1", b"HTTP/1_1", b"HTTP/+1.1", b"HTTP/-1.1",
    b"HTTP/1.x", b"HTTP/x.1", b"HTTP /1.1", b"HTTP/ 1.1", b"HTTP/1 .1", b"HTTP/1. 1", b"http/1.1",
    b"Http/1.1", b"HTTPS/1.1", b"ICY/1.1", b"RTSP/1.0", b"HTTP-1.1", b"HTTP\\1.1", b"HTTP/1.1;", b"1.1",
    b"HTTP/1.1\0", b"HTTP/1.1\x0b", b"HTTP/\xb9.\xb9".decode("latin-1").encode(), b"XHTTP/1.1",
)  # fmt: skip

_VERSIONS = (
    good_line("HTTP/1.2", "RFC 9110, 2.5", b"GET /x", b"HTTP/1.2"),
    good_line("HTTP/1.9", "RFC 9110, 2.5", b"GET /x", b"HTTP/1.9"),
    last("HTTP/1.0", "RFC 9112, 9.3", b"GET /x HTTP/1.0\r\n\r\n", b"GET /x"),
    bad_line("HTTP/0.9 that says so", "RFC 9110, 15.6.6", b"GET / HTTP/0.9", 505),
    bad("HTTP/2 preface", "RFC 9110, 15.6.6", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    bad("HTTP/0.9", "RFC 9112, 3", b"GET /\r\n"),
    bad("HTTP/0.9 with a space", "RFC 9112, 3", b"GET / \r\n\r\n"),
    *(
        bad_line(version.decode(), "RFC 9110, 15.6.6", b"GET / " + version, 505)
        for version in _OTHER_VERSIONS
    ),
    *(
        bad_line(f"version {version.decode()!r}", "RFC 9112, 2.3", b"GET / " + version)
        for version in _BAD_VERSIONS
    ),
    bad_line("version alone", "RFC 9112, 3", b"HTTP/1.1"),
    bad_line("status line", "RFC 9112, 2.1", b"HTTP/1.1 200 OK"),
)

_ENDS = (
    good("empty line before", "RFC 9112, 2.2", b"\r\n" + GOOD),
    good("four empty lines before", "RFC 9112, 2.2", b"\r\n" * 4 + GOOD),
    bad("five empty lines before", "RFC 9112, 2.2", b"\r\n" * 5 + GOOD),
    bad("bare LF before", "RFC 9112, 2.2", b"\n" + GOOD),
    bad("CR and no LF before", "RFC 9112, 2.2", b"\r" + GOOD),
    bad("CRLF and bare LF before", "RFC 9112, 2.2", b"\r\n\n" + GOOD),
    bad("bare LF at the end of the line", "RFC 9112, 2.2", b"GET / HTTP/1.1\n" + HOST + b"\r\n"),
    bad("bare LF in every line", "RFC 9112, 2.2", b"GET / HTTP/1.1\nHost: a\n\n"),
    bad("bare CR at the end of the line", "RFC 9112, 2.2", b"GET / HTTP/1.1\r" + HOST + b"\r\n"),
    bad("two CR at the end of the line", "RFC 9112, 2.2", b"GET / HTTP/1.1\r\r\n" + HOST + b"\r\n"),
    bad("LF and CR at the end of the line", "RFC 9112, 2.2", b"GET / HTTP/1.1\n\r" + HOST + b"\r\n"),
    bad("LF in the line", "RFC 9112, 2.2", b"GET /a\nb HTTP/1.1\r\n" + HOST + b"\r\n"),
    bad("space line before the fields", "RFC 9112, 2.2", GET + b" \r\n" + HOST + b"\r\n"),
    bad("folded request line", "RFC 9112, 2.2", b"GET /\r\n HTTP/1.1\r\n" + HOST + b"\r\n"),
    bad("TLS", "RFC 9112, 3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    bad("zeros", "RFC 9112, 3", b"\0" * 16),
    bad("8 bits", "RFC 9112, 3", b"\xff\xfe\xfd" + GOOD),
    bad("byte order mark", "RFC 9112, 3", b"\xef\xbb\xbf" + GOOD),
    bad("RESP", "RFC 9112, 3", b"*1\r\n$4\r\nPING\r\n"),
    bad("PROXY protocol", "RFC 9112, 3", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + GOOD),
    bad("JSON", "RFC 9112, 3", b'{"key":"name"}\r\n\r\n'),
)

_SIZES = (
    good_line("line a byte below half", "RFC 9112, 3", b"GET /" + b"a" * (_HALF_FILL - 1)),
    good_line("line of half of the head", "RFC 9112, 3", b"GET /" + b"a" * _HALF_FILL),
    good_line("line a byte above half", "RFC 9112, 3", b"GET /" + b"a" * (_HALF_FILL + 1)),
    good_line("longest head but a byte, by its line", "RFC 9112, 3", b"GET /" + b"a" * (_FILL - 1)),
    good_line("longest head by its line", "RFC 9112, 3", b"GET /" + b"a" * _FILL),
    bad_line("head too long by its line", "RFC 6585, 5", b"GET /" + b"a" * (_FILL + 1) + b" HTTP/1.1", 431),
    bad_line("line of all of the head", "RFC 6585, 5", b"GET /" + b"a" * _LINE_FILL + b" HTTP/1.1", 431),
    bad_line("line too long", "RFC 9110, 15.5.15", b"GET /" + b"a" * (_LINE_FILL + 1) + b" HTTP/1.1", 414),
    bad_line("line much too long", "RFC 9110, 15.5.15", b"GET /" + b"a" * 4500 + b" HTTP/1.1", 414),
    bad("line without an end", "RFC 9110, 15.5.15", b"GET /" + b"a" * (MAX_HEAD_BYTES - 5), 414),
    half("longest line, no end yet", "RFC 9110, 15.5.15", b"GET /" + b"a" * (MAX_HEAD_BYTES - 6)),
    bad_line("HEAD too long", "RFC 9110, 15.5.15", b"HEAD /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1", 414),
)

CASES: tuple[Case, ...] = _METHODS + _SPACES + _VERSIONS + _ENDS + _SIZES
