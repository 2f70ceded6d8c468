"""Content-Type and Content-Encoding of a value: what is kept, what is refused, and what loses them."""

import re

import pytest
from fake import ISOLATED, Client, Worker, get, hit, put_pair, running_loop
from hypothesis import given
from hypothesis import strategies as st
from rest_helpers import NOT_FOUND, OCTETS, error, field_of, found, kv, status_of, store

from fastkv.errors import StoreBusy, StoreFull
from fastkv.http.content import MAX_CONTENT_BYTES, content_fields, metadata_of
from fastkv.http.request import Field, Head, HttpError, build_head
from fastkv.http.responses import without_body
from fastkv.snapshot.format import build_block, parse_block
from fastkv.store import MAX_METADATA_BYTES

pytestmark = pytest.mark.usefixtures("implementation")

TYPES = [
    b"text/html",
    b"image/svg+xml",
    b"a/b",
    b"text/plain;charset=utf-8",
    b"text/plain ; charset=utf-8 ;format=flowed",
    b'multipart/mixed; boundary="a \\" ; b"',
    b"text/plain;",
    b"text/plain; ; ;charset=x",
    b'text/plain; name="\xe9\xff"',
    b"x!#$%&'*+-.^_`|~/x!#$%&'*+-.^_`|~; a=!#$%&'*+-.^_`|~",
    b"application/x-www-form-urlencoded",
    b"a/" + b"b" * (MAX_CONTENT_BYTES - 2),
]
NO_TYPES = [
    b"",
    b"text",
    b"text/",
    b"/html",
    b"text/html/x",
    b"text /html",
    b"text/ html",
    b"text/html charset=utf-8",
    b"text/html; charset",
    b"text/html; charset=",
    b"text/html; charset =utf-8",
    b'text/html; charset="utf-8',
    b'text/html; charset="utf-8"x',
    b"text/html, text/plain",
    b"text/html\xe9",
    b"<b>/x",
    b"text/x;" + b" ;" * 100 + b"!",
]
CODINGS = {
    b"gzip": b"gzip",
    b"br": b"br",
    b"gzip, br": b"gzip, br",
    b"gzip,br": b"gzip, br",
    b" , gzip ,, br , ": b"gzip, br",
    b"GZip": b"GZip",
    b"aws-chunked": b"aws-chunked",
    b"identity": b"",
    b"Identity, gzip": b"gzip",
    b"": b"",
    b",": b"",
}
NO_CODINGS = [b"gzip;q=1", b"g zip", b'"gzip"', b"gzip/1", b"gz\xe9p", b"gzip, b r"]

TYPE, CODING = b"Content-Type: %b\r\n", b"Content-Encoding: %b\r\n"
NOT_A_TYPE = "The Content-Type header field must be a media type, such as text/plain."
NOT_CODINGS = "The Content-Encoding header field must be a list of codings, such as gzip."


def head_of(*fields: Field) -> Head:
    return build_head(b"1.1", ((b"host", b"a"), *fields))


# -- the fields ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", TYPES)
def test_a_media_type_comes_back_as_it_was_sent(value: bytes) -> None:
    assert content_fields(metadata_of(head_of((b"content-type", value)))) == TYPE % value


@pytest.mark.parametrize("value", NO_TYPES)
def test_what_is_no_media_type_is_refused(value: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        metadata_of(head_of((b"content-type", value)))
    assert (caught.value.status, caught.value.message, caught.value.close) == (400, NOT_A_TYPE, False)


@pytest.mark.parametrize("value", CODINGS)
def test_codings_come_back_as_a_list_without_what_counts_for_nothing(value: bytes) -> None:
    kept = CODING % CODINGS[value] if CODINGS[value] else b""
    alone = metadata_of(head_of((b"content-encoding", value)))
    assert content_fields(alone) == OCTETS + kept
    both = metadata_of(head_of((b"content-encoding", value), (b"content-type", b"a/b")))
    assert content_fields(both) == TYPE % b"a/b" + kept


@pytest.mark.parametrize("value", NO_CODINGS)
def test_what_is_no_coding_is_refused(value: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        metadata_of(head_of((b"content-encoding", value)))
    assert (caught.value.status, caught.value.message) == (400, NOT_CODINGS)


def test_a_list_may_come_in_several_fields_and_a_type_may_not() -> None:
    codings = [(b"content-encoding", b"gzip"), (b"content-encoding", b"br")]
    assert content_fields(metadata_of(head_of(*codings))) == OCTETS + CODING % b"gzip, br"
    for other in (b"a/b", b"a/c"):
        with pytest.raises(HttpError, match="repeated") as caught:
            metadata_of(head_of((b"content-type", b"a/b"), (b"content-type", other)))
        assert caught.value.status == 400


@pytest.mark.parametrize(
    "fields",
    [
        [(b"content-type", b"a/" + b"b" * (MAX_CONTENT_BYTES - 1))],
        [(b"content-type", b"a/b"), (b"content-encoding", b"c" * (MAX_CONTENT_BYTES - 2))],
        [(b"content-type", b"a/b")] * 85,
    ],
)
def test_both_are_bounded_together(fields: list[Field]) -> None:
    with pytest.raises(HttpError) as caught:
        metadata_of(head_of(*fields))
    sentence = f"Content-Type and Content-Encoding have 255 bytes; at most {MAX_CONTENT_BYTES} are kept."
    assert (caught.value.status, caught.value.message) == (431, sentence)


def test_the_longest_fits_into_an_entry() -> None:
    size = MAX_CONTENT_BYTES - 3
    metadata = metadata_of(head_of((b"content-type", b"a/b"), (b"content-encoding", b"c" * size)))
    assert len(metadata) == MAX_METADATA_BYTES


@given(st.binary(max_size=255))
def test_whatever_a_snapshot_has_no_line_is_added(metadata: bytes) -> None:
    lines = content_fields(metadata)
    assert re.fullmatch(
        rb"Content-Type: [^\x00-\x08\x0a-\x1f\x7f]+\r\n(?:Content-Encoding: [!-~, ]+\r\n)?", lines
    )


@pytest.mark.parametrize(
    "metadata",
    [b"a/b\r\nX: y", b"a/b\0gzip\r\n\r\n<script>", b"html", b"a/b\0gzip\0more", b"\0\0", b"a/b\0,", b"\r\n"],
)
def test_metadata_that_is_none_of_ours_says_nothing(metadata: bytes) -> None:
    assert content_fields(metadata) == OCTETS


def test_a_hostile_type_is_read_without_trying_again() -> None:
    """An expression that gives back what it has matched would not end here."""
    for filling in (b"; " * 126, b" ;" * 126, b' ; a="' + b"\\" * 240, b";a=b" * 62):
        with pytest.raises(HttpError):
            metadata_of(head_of((b"content-type", (b"a/b" + filling)[:253] + b"/")))


# -- with a server -------------------------------------------------------------------------------------------

HTML = TYPE % b"text/html; charset=utf-8"
GZIPPED = HTML + CODING % b"gzip"


def test_they_are_kept_and_given_back(client: Client) -> None:
    for size in (1, 1000):
        value = b"<p>" * size
        etag = store(client, "k", value, GZIPPED)
        for _ in range(4):
            assert client.ask(kv("GET", "k")) == found(value, etag, content=GZIPPED)
            head = client.ask(kv("HEAD", "k"))
            assert (200, head) == without_body((200, found(value, etag, content=GZIPPED)))
        part = client.ask(kv("GET", "k", b"Range: bytes=0-0\r\n"))
        assert status_of(part) == 206
        assert (field_of(part, "Content-Type"), field_of(part, "Content-Encoding")) == (
            b"text/html; charset=utf-8",
            b"gzip",
        )
        not_modified = client.ask(kv("GET", "k", b"If-None-Match: %b\r\n" % etag))
        assert status_of(not_modified) == 304
        assert field_of(not_modified, "Content-Type") is None
        etag = store(client, "k", value)
        assert client.ask(kv("GET", "k")) == found(value, etag)


def test_each_put_says_it_anew(client: Client) -> None:
    """Also where a client repeats its header section, and where a condition is evaluated."""
    for fields in (HTML, b"", GZIPPED, HTML, HTML, CODING % b"br", b""):
        etag = store(client, "k", b"v", fields + b"If-None-Match: x\r\n".replace(b"x", b'"x"'))
        content = fields if fields.startswith(b"Content-Type") else OCTETS + fields
        assert client.ask(kv("GET", "k")) == found(b"v", etag, content=content)


def test_a_refused_put_changes_nothing(client: Client) -> None:
    etag = store(client, "k", b"v", HTML)
    for fields, status, sentence in (
        (TYPE % b"html", "400 Bad Request", NOT_A_TYPE),
        (TYPE % b"a/b" * 2, "400 Bad Request", "The Content-Type header field is repeated."),
        (CODING % b"a b", "400 Bad Request", NOT_CODINGS),
        (
            TYPE % (b"a/" + b"b" * 300),
            "431 Request Header Fields Too Large",
            f"Content-Type and Content-Encoding have 302 bytes; at most {MAX_CONTENT_BYTES} are kept.",
        ),
    ):
        assert client.ask(kv("PUT", "k", fields, b"new")) == error(status, sentence)
    assert client.ask(kv("GET", "k")) == found(b"v", etag, content=HTML)


def test_conditions_and_ttl_come_with_them(worker: Worker, client: Client) -> None:
    etag = store(client, "k?ttl=5", b"v", HTML + b"If-None-Match: *\r\n")
    assert client.ask(kv("GET", "k")) == found(b"v", etag, b"TTL: 5\r\n", HTML)
    failed = client.ask(kv("PUT", "k", TYPE % b"a/b" + b'If-Match: "x"\r\n', b"w"))
    assert status_of(failed) == 412
    assert client.ask(kv("GET", "k")) == found(b"v", etag, b"TTL: 5\r\n", HTML)
    worker.now_ms += 5000
    assert client.ask(kv("GET", "k")) == NOT_FOUND


# What a command does with an entry that has a type: the key that is looked at, and whether it has it yet.
KEEPS = {
    b'["EXPIRE","k",100]': "k",
    b'["PERSIST","k"]': "k",
    b'["GETEX","k","EX",100]': "k",
    b'["APPEND","k","5"]': "k",
    b'["INCR","k"]': "k",
    b'["INCRBYFLOAT","k",1.5]': "k",
    b'["SETRANGE","k",0,"7"]': "k",
    b'["SETBIT","k",1,1]': "k",
    b'["COPY","k","other"]': "other",
    b'["RENAME","k","other"]': "other",
    b'["RENAMENX","k","other"]': "other",
    b'["TOUCH","k"]': "k",
}
DROPS = (
    b'["SET","k","v"]',
    b'["SET","k","v","KEEPTTL"]',
    b'["SET","k","v","EX",100]',
    b'["GETSET","k","v"]',
    b'["MSET","k","v"]',
    b'["SETEX","k",100,"v"]',
)


def command(raw: bytes, path: bytes = b"/") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (path, len(raw), raw)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("raw", [*KEEPS, *DROPS])
def test_what_changes_an_entry_keeps_them_and_what_puts_another_does_not(
    client: Client, raw: bytes, together: bool
) -> None:
    store(client, "k?ttl=50", b"12", GZIPPED)
    answer = client.ask(command(b"[%b]" % raw, b"/multi-exec") if together else command(raw))
    assert status_of(answer) == 200
    assert b"error" not in answer
    after = client.ask(kv("GET", KEEPS.get(raw, "k")))
    assert status_of(after) == 200
    expected = (b"text/html; charset=utf-8", b"gzip") if raw in KEEPS else (OCTETS[14:-2], None)
    assert (field_of(after, "Content-Type"), field_of(after, "Content-Encoding")) == expected


def test_the_first_routes_and_a_type(client: Client) -> None:
    store(client, "k", b"v", HTML)
    for _ in range(3):
        assert client.ask(get("k") * 2) == hit("k", "v") * 2
    client.ask(put_pair("k", "w"))
    assert field_of(client.ask(kv("GET", "k")), "Content-Type") == b"application/octet-stream"


def test_a_snapshot_has_them(client: Client) -> None:
    store(client, "k", b"v", GZIPPED)
    page = client.ask(b"GET /snapshot HTTP/1.1\r\nHost: a\r\n\r\n").partition(b"\r\n\r\n")[2]
    assert [item[4] for item in parse_block(page)] == [b"text/html; charset=utf-8\0gzip"]
    client.ask(kv("DELETE", "k"))
    assert status_of(client.ask(command(page, b"/snapshot"))) == 200
    answer = client.ask(kv("GET", "k"))
    assert answer == found(b"v", field_of(answer, "ETag") or b"", content=GZIPPED)


def test_a_snapshot_cannot_smuggle_lines(client: Client) -> None:
    block = build_block([(b"k", b"v", 0, 0, b"text/html\r\nSet-Cookie: a=b")])
    assert status_of(client.ask(command(block, b"/snapshot"))) == 200
    answer = client.ask(kv("GET", "k"))
    assert answer == found(b"v", field_of(answer, "ETag") or b"")


# -- isolation -----------------------------------------------------------------------------------------------

LINE = b"%b %b HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize("path", [b"/kv/k", b"/kv?key=k"])
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET @ HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"HEAD @ HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET @ HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0\r\n\r\n", 206),
        (b"GET @ HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\n\r\n", 304),
        (b"GET @x HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET @%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET @ HTTP/1.1\r\nHost: a\r\nIf-Match: x\r\n\r\n", 400),
        (b"GET @ HTTP/1.1\r\nHost: a\r\nRange: bytes=9-\r\n\r\n", 416),
        (b"PUT @ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nv", 204),
        (b"PUT @x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nv", 201),
        (b"PUT @ HTTP/1.1\r\nHost: a\r\n\r\n", 411),
        (b"PUT @ HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b'PUT @ HTTP/1.1\r\nHost: a\r\nIf-Match: "x"\r\nContent-Length: 1\r\n\r\nv', 412),
        (b"PUT @ HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417),
        (b"PUT @ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n", 501),
        (b"POST @ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405),
        (b"OPTIONS @ HTTP/1.1\r\nHost: a\r\n\r\n", 204),
        (b"DELETE @ HTTP/1.1\r\nHost: a\r\n\r\n", 204),
        (b"BREW @ HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET @ HTTP/1.1\r\n\r\n", 400),
        (b"GET @ HTTP/2.0\r\n\r\n", 505),
        (b"GET @ HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 99_999 + b"\r\n\r\n", 431),
        (b"GET @" + b"x" * 99_999 + b" HTTP/1.1\r\n", 414),
        (b"GET @ HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET @ HTTP/1.1\r\nHost: a\r\nOrigin: http://evil.example\r\n\r\n", 403),
    ],
)
def test_every_reply_isolates_what_it_brings(
    client: Client, path: bytes, request_: bytes, status: int
) -> None:
    store(client, "k", b"<script>", HTML)
    answer = client.ask(request_.replace(b"@", path))
    assert status_of(answer) == status
    assert answer.count(ISOLATED) == 1
    assert answer.index(ISOLATED) < answer.index(b"\r\n\r\n")


def test_a_preflight_as_well() -> None:
    worker = Worker(allow_origin="http://friend.example")
    fields = b"Origin: http://friend.example\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
    with running_loop():
        for path in (b"/kv/k", b"/kv?key=k"):
            answer = worker.client().ask(LINE % (b"OPTIONS", path) + fields)
            assert (status_of(answer), answer.count(ISOLATED)) == (204, 1)
        assert ISOLATED not in worker.client().ask(LINE % (b"OPTIONS", b"/get") + fields)


def test_without_a_token_as_well() -> None:
    worker = Worker(token="secret")
    with running_loop():
        for path in (b"/kv/k", b"/kv?key=k"):
            for rest in (b"\r\n", b"Content-Length: 1\r\n\r\nv"):
                answer = worker.client().ask(LINE % (b"PUT", path) + rest)
                assert status_of(answer) == 401
                assert ISOLATED in answer


@pytest.mark.parametrize(("error_", "status"), [(StoreFull, 507), (StoreBusy, 503), (ZeroDivisionError, 500)])
def test_errors_of_the_store_as_well(error_: type[Exception], status: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error_

    worker = Worker(readable=True)
    with running_loop():
        worker.store.update = fail  # type: ignore[assignment]
        answer = worker.client().ask(kv("PUT", "k", b"", b"v"))
        assert status_of(answer) == status
        assert ISOLATED in answer


# -- the key in the query ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b".", b"."),
        (b"..", b".."),
        (b"../x", b"../x"),
        (b"a//b", b"a//b"),
        (b"a/./b", b"a/./b"),
        (b"a+b", b"a b"),
        (b"a%2Bb", b"a+b"),
        (b"%20", b" "),
        (b"%00", b"\0"),
        (b"%ff", b"\xff"),
        (b"a%26b", b"a&b"),
    ],
)
def test_the_query_may_have_the_key(worker: Worker, client: Client, raw: bytes, key: bytes) -> None:
    target = b"/kv?key=%b" % raw
    put = LINE % (b"PUT", target + b"&ttl=5") + HTML + b"Content-Length: 3\r\n\r\nabc"
    answer = client.ask(put)
    etag = field_of(answer, "ETag") or b""
    assert status_of(answer) == 201
    entry = worker.store.get(key, worker.routes.clock)
    assert entry is not None
    assert entry[0] == b"abc"
    whole = found(b"abc", etag, b"TTL: 5\r\n", HTML)
    for _ in range(3):
        assert client.ask(LINE % (b"GET", target) + b"\r\n") == whole
        assert (200, client.ask(LINE % (b"HEAD", target) + b"\r\n")) == without_body((200, whole))
    assert status_of(client.ask(LINE % (b"GET", target) + b"Range: bytes=1-1\r\n\r\n")) == 206
    assert status_of(client.ask(LINE % (b"GET", target) + b"If-None-Match: %b\r\n\r\n" % etag)) == 304
    assert status_of(client.ask(put.replace(b"Host: a", b"Host: a\r\nIf-None-Match: *"))) == 412
    assert status_of(client.ask(put.replace(b"Host: a", b"Host: a\r\nIf-Match: " + etag))) == 204
    assert status_of(client.ask(LINE % (b"DELETE", target) + b'If-Match: "x"\r\n\r\n')) == 412
    assert status_of(client.ask(LINE % (b"DELETE", target) + b"\r\n")) == 204
    assert client.ask(LINE % (b"GET", target) + b"\r\n") == NOT_FOUND


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (b"", "Key parameter is required."),
        (b"?", "Key parameter is required."),
        (b"?key", "Key parameter is required."),
        (b"?key=", "Key parameter is required."),
        (b"?Key=a", "Key parameter is required."),
        (b"?key=a&key=a", "Key parameter is repeated."),
        (b"?key=%zz", "A percent escape in the target is malformed."),
        (b"?key=" + b"x" * 65, "The key has 65 bytes; --max-key-bytes allows 64."),
    ],
)
def test_a_query_without_one_key(client: Client, method: bytes, query: bytes, sentence: str) -> None:
    answer = client.ask(LINE % (method, b"/kv" + query) + b"Content-Length: 1\r\n\r\nv")
    assert answer == error("400 Bad Request", sentence)


def test_behind_a_path_the_query_is_not_asked_for_a_key(client: Client) -> None:
    etag = store(client, "a?key=b", b"v")
    assert client.ask(kv("GET", "a?key=c")) == found(b"v", etag)
    assert client.ask(LINE % (b"GET", b"/kv?key=b") + b"\r\n") == NOT_FOUND
