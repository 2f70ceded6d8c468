"""The request target (RFC 9112, 3.2)."""

from cases.case import HOST, Case, bad, bad_line, good, good_line

_ALLOWED = b"GET /-._~!$&'()*+,;=:@/azAZ09?-._~!$&'()*+,;=:@/?azAZ09"
# Visible, and in no URL: they have to be percent-encoded.
_ODD = b'"<>\\^`{}|[]'

CASES: tuple[Case, ...] = (
    good_line("root", "RFC 9112, 3.2.1", b"GET /"),
    good_line("two slashes", "RFC 9112, 3.2.1", b"GET //x/../y"),
    good_line("slashes and a colon", "RFC 9112, 3.2.1", b"GET //a:80@b/"),
    good_line("question marks", "RFC 9112, 3.2.1", b"GET /x?a?b=?"),
    good_line("empty query", "RFC 9112, 3.2.1", b"GET /x?"),
    good_line("every byte of a target", "RFC 3986, 3.3", _ALLOWED),
    *(
        bad_line(f"raw {chr(odd)} in {place}", "RFC 9112, 3.2", line % odd + b" HTTP/1.1")
        for odd in _ODD
        for place, line in {
            "a path": b"GET /a%cb",
            "a key": b"GET /get?key=a%cb",
            "a key, alone": b"GET /get?key=%c",
            "an encoded key": b"GET /get?key=%%41%c",
            "a key of /kv/": b"PUT /kv/a%c",
            "a name of a query": b"HEAD /get?a%c=b&key=c",
            "absolute form": b"GET http://a/b%c",
        }.items()
    ),
    good_line("escapes", "RFC 3986, 2.1", b"GET /%00%0d%0a%20HTTP/1.1%zz%"),
    good_line("overlong UTF-8 in escapes", "RFC 3986, 2.1", b"GET /%c0%af"),
    good_line("GET in the target", "RFC 9112, 3.2.1", b"GET /GET/"),
    good_line("version in the target", "RFC 9112, 3.2.1", b"GET /HTTP/1.1"),
    good_line("URL in the query", "RFC 9112, 3.2.1", b"GET /x?http://b/"),
    good_line(
        "absolute form",
        "RFC 9112, 3.2.2",
        b"GET http://127.0.0.1:7171/get?key=name",
        means=b"GET /get?key=name",
    ),
    good_line("absolute form, capitals", "RFC 9110, 4.2.3", b"GET HTTP://A/", means=b"GET /"),
    good_line("absolute form, no path", "RFC 9112, 3.2.2", b"GET http://a", means=b"GET /"),
    good_line("absolute form, query only", "RFC 9112, 3.2.1", b"GET http://a?b", means=b"GET /?b"),
    good_line("absolute form, IPv6", "RFC 3986, 3.2.2", b"GET http://[::1]:80/x", means=b"GET /x"),
    good_line("absolute form, another host", "RFC 9112, 3.2.2", b"GET http://b/x", means=b"GET /x"),
    good_line("asterisk form", "RFC 9112, 3.2.4", b"OPTIONS *"),
    good_line("asterisk as absolute form", "RFC 9112, 3.2.4", b"OPTIONS http://a", means=b"OPTIONS *"),
    good_line("OPTIONS with a query", "RFC 9112, 3.2.4", b"OPTIONS http://a?b", means=b"OPTIONS /?b"),
    good(
        "absolute form in HTTP/1.0",
        "RFC 9112, 3.2.2",
        b"GET http://a/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /x",
    ),
    bad("absolute form, no Host", "RFC 9112, 3.2", b"GET http://a/ HTTP/1.1\r\n\r\n"),
    bad("absolute form, two Hosts", "RFC 9112, 3.2", b"GET http://a/ HTTP/1.1\r\n" + HOST * 2 + b"\r\n"),
    bad("absolute form, bad Host", "RFC 9112, 3.2", b"GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n"),
    bad_line("https", "RFC 9110, 7.4", b"GET https://a/ HTTP/1.1", 421),
    bad_line("https in capitals", "RFC 9110, 7.4", b"GET HTTPS://A/ HTTP/1.1", 421),
    *(
        bad_line(f"scheme {target.decode()}", "RFC 9110, 7.4", b"GET " + target + b" HTTP/1.1")
        for target in (
            b"ftp://a/",
            b"ws://a/",
            b"file:///etc/passwd",
            b"javascript:1",
            b"httpx://a/",
            b"://a/",
        )
    ),
    bad_line("absolute form, one slash", "RFC 9110, 4.2.1", b"GET http:/a HTTP/1.1"),
    bad_line("absolute form, backslashes", "RFC 9110, 4.2.1", b"GET http:\\\\a\\ HTTP/1.1"),
    bad_line("absolute form, no host", "RFC 9110, 4.2.1", b"GET http:///x HTTP/1.1"),
    bad_line("absolute form, port only", "RFC 9110, 4.2.1", b"GET http://:80/x HTTP/1.1"),
    bad_line("absolute form, bad port", "RFC 3986, 3.2.3", b"GET http://a:8x/ HTTP/1.1"),
    bad_line("absolute form, large port", "RFC 3986, 3.2.3", b"GET http://a:65536/ HTTP/1.1"),
    bad_line("absolute form, user", "RFC 9110, 4.2.4", b"GET http://a@b/ HTTP/1.1"),
    bad_line("absolute form, user and password", "RFC 9110, 4.2.4", b"GET http://a:b@c/ HTTP/1.1"),
    bad_line("absolute form, brackets behind the host", "RFC 3986, 3.2.2", b"GET http://a[1]/ HTTP/1.1"),
    bad_line("absolute form, backslash in the host", "RFC 3986, 3.2.2", b"GET http://a\\b/ HTTP/1.1"),
    bad_line("absolute form, fragment", "RFC 9112, 3.2.2", b"GET http://a/#b HTTP/1.1"),
    bad_line("asterisk for GET", "RFC 9112, 3.2.4", b"GET * HTTP/1.1"),
    bad_line("asterisk and more", "RFC 9112, 3.2.4", b"OPTIONS *a HTTP/1.1"),
    bad_line("asterisk and a query", "RFC 9112, 3.2.4", b"OPTIONS *?a HTTP/1.1"),
    bad_line("authority form", "RFC 9112, 3.2.3", b"CONNECT a:80 HTTP/1.1", 405),
    bad_line("CONNECT with a path", "RFC 9112, 3.2.3", b"CONNECT /a HTTP/1.1", 405),
    bad_line("authority form for GET", "RFC 9112, 3.2.3", b"GET a:80 HTTP/1.1"),
    bad_line("no target", "RFC 9112, 3", b"GET HTTP/1.1"),
    bad_line("empty target", "RFC 9112, 3", b"GET  HTTP/1.1"),
    bad_line("no slash", "RFC 9112, 3.2", b"GET get HTTP/1.1"),
    bad_line("query alone", "RFC 9112, 3.2.1", b"GET ?key=name HTTP/1.1"),
    bad_line("backslash first", "RFC 9112, 3.2.1", b"GET \\a HTTP/1.1"),
    bad_line("two dots", "RFC 9112, 3.2.1", b"GET ../a HTTP/1.1"),
    bad_line("fragment", "RFC 9112, 3.2", b"GET /#a HTTP/1.1"),
    bad_line("fragment behind a query", "RFC 9112, 3.2", b"GET /get?key=name#a HTTP/1.1"),
    bad_line("space in the target", "RFC 9112, 3.2", b"GET /a b HTTP/1.1"),
    bad_line("tab in the target", "RFC 9112, 3.2", b"GET /a\tb HTTP/1.1"),
    bad_line("NUL in the target", "RFC 9112, 3.2", b"GET /\0 HTTP/1.1"),
    bad_line("CR in the target", "RFC 9112, 2.2", b"GET /\r HTTP/1.1"),
    bad_line("CR and a field in the target", "RFC 9112, 2.2", b"GET /\rX:a HTTP/1.1"),
    bad_line("escape byte in the target", "RFC 9112, 3.2", b"GET /\x1b[m HTTP/1.1"),
    bad_line("DEL in the target", "RFC 9112, 3.2", b"GET /\x7f HTTP/1.1"),
    bad_line("8 bits in the target", "RFC 9112, 3.2", b"GET /\xc3\xa9 HTTP/1.1"),
    bad_line("overlong UTF-8 in the target", "RFC 9112, 3.2", b"GET /\xc0\xaf HTTP/1.1"),
    bad_line("8 bits in the query", "RFC 9112, 3.2", b"GET /get?key=\xff HTTP/1.1"),
)
