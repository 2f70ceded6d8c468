"""The header section: syntax, sizes, Host (RFC 9112, 3.2 and 5; RFC 9110, 5 and 7.2)."""

from cases.case import GET, HOST, MAX_HEAD_BYTES, Case, bad, bad_field, good, good_fields, half

# What no name may have, and what no value may have.
_NO_NAME_BYTES = {
    "NUL": b"\0", "bell": b"\x07", "vertical tab": b"\x0b", "form feed": b"\x0c", "CR": b"\r",
    "escape": b"\x1b", "DEL": b"\x7f", "8 bits": b"\xe9", "NEL": b"\xc2\x85", "no-break space": b"\xa0",
    "soft hyphen": b"\xad", "space": b" ", "tab": b"\t", "bracket": b"[", "parenthesis": b"(", "quote": b'"',
    "slash": b"/", "backslash": b"\\", "comma": b",", "semicolon": b";", "equals": b"=", "at": b"@",
    "less": b"<", "brace": b"{", "question mark": b"?",
}  # fmt: skip
_NO_VALUE_BYTES = {
    "NUL": b"\0", "start of heading": b"\x01", "bell": b"\x07", "backspace": b"\x08",
    "vertical tab": b"\x0b", "form feed": b"\x0c", "CR": b"\r", "escape": b"\x1b",
    "unit separator": b"\x1f", "DEL": b"\x7f",
}  # fmt: skip

_SYNTAX = (
    good_fields("name in capitals, tab", "RFC 9110, 5.1", b"X-aBC:\ta \t\r\n"),
    good("no space", "RFC 9112, 5", GET + b"Host:a\r\n\r\n"),
    good("white space around a value", "RFC 9110, 5.6.3", GET + b"hOST:\t  a \t\r\n\r\n"),
    good_fields("empty value", "RFC 9110, 5.5", b"X:\r\nY: \t \r\n"),
    good_fields("8 bits in a value", "RFC 9110, 5.5", b"X: \xc3\xa9\xff\x80\r\n"),
    good_fields("tab in a value", "RFC 9110, 5.5", b"X: a\tb\r\n"),
    good_fields("colons in a value", "RFC 9112, 5", b"X::a: b:\r\n"),
    good_fields("every token character", "RFC 9110, 5.6.2", b"!#$%&'*+-.^_`|~09azAZ: x\r\n"),
    good_fields("version in a value", "RFC 9112, 3", b"X: GET / HTTP/1.1\r\n"),
    good_fields("version at the end of a value", "RFC 9112, 3", b"X: a HTTP/1.1\r\nY: b\r\n"),
    good_fields("quoted string that never ends", "RFC 9110, 5.6.4", b'X: "a\r\n'),
    good_fields("comment that never ends", "RFC 9110, 5.6.5", b"User-Agent: a (b\r\n"),
    good_fields("repeated", "RFC 9110, 5.3", b"X: a\r\nX: b\r\n"),
    good_fields("repeated Content-Type", "RFC 9110, 5.3", b"Content-Type: a/b\r\nContent-Type: c/d\r\n"),
    good_fields("cookies", "RFC 6265, 4.2", b"Cookie: a=1; b=\r\nCookie: ===;;;\r\nCookie:\r\n"),
    good_fields("conditions", "RFC 9110, 13", b'If-None-Match: "a"\r\nRange: bytes=0-1\r\n'),
    good_fields("malformed range", "RFC 9110, 14.2", b"Range: bytes=abc-xyz\r\nAccept: x/nonsense\r\n"),
    bad_field("folded", "RFC 9112, 5.2", b"X: a\r\n b"),
    bad_field("folded by a tab", "RFC 9112, 5.2", b"X: a\r\n\tb: c"),
    bad_field("folded to nothing", "RFC 9112, 5.2", b"X: a\r\n "),
    bad_field("folded, and then a colon", "RFC 9112, 5.2", b"X\r\n : a"),
    bad("folded first field", "RFC 9112, 2.2", GET + b" " + HOST + b"\r\n"),
    bad("folded first field by a tab", "RFC 9112, 2.2", GET + b"\t" + HOST + b"\r\n"),
    bad_field("space before the colon", "RFC 9112, 5.1", b"X : a"),
    bad_field("tab before the colon", "RFC 9112, 5.1", b"X\t: a"),
    bad("space before the colon of Host", "RFC 9112, 5.1", GET + b"Host : a\r\n\r\n"),
    bad_field("no colon", "RFC 9112, 5", b"Xa"),
    bad_field("no name", "RFC 9110, 5.1", b": a"),
    bad_field("colon alone", "RFC 9110, 5.1", b":"),
    bad_field("pseudo field of HTTP/2", "RFC 9110, 5.1", b":authority: a"),
    *(
        bad_field(f"{name} in a name", "RFC 9110, 5.1", b"X%bY: a" % byte)
        for name, byte in _NO_NAME_BYTES.items()
    ),
    *(
        bad_field(f"{name} before a name", "RFC 9110, 5.1", b"%bX: a" % byte)
        for name, byte in _NO_NAME_BYTES.items()
    ),
    *(
        bad_field(f"{name} in a value", "RFC 9110, 5.5", b"X: a%bb" % byte)
        for name, byte in _NO_VALUE_BYTES.items()
    ),
    *(
        bad_field(f"{name} behind a value", "RFC 9110, 5.5", b"X: a" + byte)
        for name, byte in _NO_VALUE_BYTES.items()
    ),
    *(
        bad_field(f"{name} before a value", "RFC 9110, 5.5", b"X:%ba" % byte)
        for name, byte in _NO_VALUE_BYTES.items()
    ),
    bad_field("bare LF", "RFC 9112, 2.2", b"X: a\nY: b"),
    bad_field("bare LF in a name", "RFC 9112, 2.2", b"X\nY: b"),
    bad_field("bare LF and a fold", "RFC 9112, 2.2", b"X: a\n b"),
    bad_field("CR in place of CRLF", "RFC 9112, 2.2", b"X: a\rY: b"),
    bad_field("LF and CR in place of CRLF", "RFC 9112, 2.2", b"X: a\n\rY: b"),
    bad("bare LF behind Host", "RFC 9112, 2.2", GET + b"Host: a\nX: b\r\n\r\n"),
    bad("bare LF at the end of the section", "RFC 9112, 2.2", GET + HOST + b"\n"),
    bad("bare CR at the end of the section", "RFC 9112, 2.2", GET + HOST + b"\rX: a\r\n\r\n"),
    bad("two CR at the end of the section", "RFC 9112, 2.2", GET + HOST + b"\r\r\n"),
)

_SIZES = (
    good_fields("a hundred fields", "RFC 9110, 5.4", b"x:\r\n" * 99),
    bad("a hundred and one fields", "RFC 6585, 5", GET + HOST + b"x:\r\n" * 100 + b"\r\n", 431),
    bad("very many fields", "RFC 6585, 5", GET + HOST + b"x:\r\n" * 400 + b"\r\n", 431),
    good_fields("long section", "RFC 9110, 5.4", b"X: " + b"a" * 1200 + b"\r\n"),
    good_fields("longest section", "RFC 9110, 5.4", b"X: " + b"a" * (MAX_HEAD_BYTES - 57) + b"\r\n"),
    bad(
        "section too large",
        "RFC 6585, 5",
        GET + HOST + b"X: " + b"a" * (MAX_HEAD_BYTES - 56) + b"\r\n\r\n",
        431,
    ),
    bad("section without an end", "RFC 6585, 5", GET + HOST + b"Xy: 3456\r\n" * 3 + b"a" * 2000, 431),
    bad("name too long", "RFC 6585, 5", GET + HOST + b"a" * 2500 + b": b\r\n\r\n", 431),
)

_BAD_HOSTS = (
    b"", b"a@b", b"a:b@c", b"@a", b"a b", b"a, b", b"a,b", b"a/b", b"a/", b"/a", b"a?b", b"a#b", b"a\\b",
    b"\xc3\xa9", b"http://a", b"a%2", b"a%zz", b"a:b", b"a:-1", b"a:+1", b"a:65536", b"a:1:2", b"a:80 ,b",
    b":80", b"[::1", b"::1]", b"::1", b"[]", b"[:]", b"[:::]", b"[1.2.3.4]", b"[::1]a", b"[::g]",
    b"[fe80::1%25lo]", b'"a"', b"<a>", b"a|b", b"{a}", b"a^b", b"a`b",
)  # fmt: skip

_HOSTS = (
    good("IPv6", "RFC 9110, 7.2", GET + b"Host: [::1]:7171\r\n\r\n"),
    good("IPv4 in IPv6", "RFC 3986, 3.2.2", GET + b"Host: [::ffff:127.0.0.1]\r\n\r\n"),
    good("host with escapes", "RFC 3986, 3.2.2", GET + b"Host: a%20b_c\r\n\r\n"),
    good("host with a dot at its end", "RFC 3986, 3.2.2", GET + b"Host: a.b.:1\r\n\r\n"),
    good("empty port", "RFC 3986, 3.2.3", GET + b"Host: a:\r\n\r\n"),
    good("largest port", "RFC 3986, 3.2.3", GET + b"Host: a:65535\r\n\r\n"),
    good("Host behind others", "RFC 9110, 7.2", GET + b"X: y\r\nHost: a\r\n\r\n"),
    bad("no fields", "RFC 9112, 3.2", GET + b"\r\n"),
    bad("no Host", "RFC 9112, 3.2", GET + b"Accept: */*\r\n\r\n"),
    bad("no Host in HTTP/1.2", "RFC 9112, 3.2", b"GET / HTTP/1.2\r\n\r\n"),
    bad("no Host for HEAD", "RFC 9112, 3.2", b"HEAD / HTTP/1.1\r\n\r\n"),
    bad("two Hosts", "RFC 9112, 3.2", GET + HOST * 2 + b"\r\n"),
    bad("two Hosts that differ", "RFC 9112, 3.2", GET + HOST + b"X: y\r\nhOST: b\r\n\r\n"),
    bad("two Hosts in HTTP/1.0", "RFC 9112, 3.2", b"GET / HTTP/1.0\r\n" + HOST * 2 + b"\r\n"),
    bad("bad Host in HTTP/1.0", "RFC 9112, 3.2", b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n"),
    *(
        bad(f"Host {value.decode('latin-1')!r}", "RFC 9112, 3.2", GET + b"Host: " + value + b"\r\n\r\n")
        for value in _BAD_HOSTS
    ),
)

_BEGUN = (
    b"G", b"GET", b"GET ", b"GET /x", b"GET /x ", b"GET /x HTTP", b"GET /x HTTP/1.1", b"GET /x HTTP/1.1\r",
    b"GET /x HTTP/1.1\r\n", b"GET /x HTTP/1.1\r\nHos", b"GET /x HTTP/1.1\r\nHost:",
    b"GET /x HTTP/1.1\r\nHost: ", b"GET /x HTTP/1.1\r\nHost: a", b"GET /x HTTP/1.1\r\nHost: a\r",
    b"GET /x HTTP/1.1\r\nHost: a\r\n", b"GET /x HTTP/1.1\r\nHost: a\r\n\r", b"\r", b"BREW",
    b"GET /x HTTP/1.0\r\n", b"GET /x HTTP/2.0", b"GET \0",
)  # fmt: skip

_HALVES = tuple(half(f"ends behind {begun[-6:]!r}", "RFC 9112, 8", begun) for begun in _BEGUN)

CASES: tuple[Case, ...] = _SYNTAX + _SIZES + _HOSTS + _HALVES
