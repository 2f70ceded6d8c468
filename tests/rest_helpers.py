"""What the tests of resources share: requests under ``/kv``, and the replies to them byte for byte."""

import re

from fake import ISOLATED, Client
from fake import error as plain_error


def error(line: str, message: str, fields: bytes = b"", connection: bytes = b"") -> bytes:
    """An error of a resource."""
    return plain_error(line, message, fields, connection + ISOLATED)


NOT_FOUND = error("404 Not Found", "Key not found.")
FAILED = error("412 Precondition Failed", "The entry is not what If-Match or If-None-Match demands.")


def kv(method: str, rest: str, fields: bytes = b"", body: bytes | None = None) -> bytes:
    """A request; the key, and a query, as they stand in the target."""
    if body is not None:
        fields += b"Content-Length: %d\r\n" % len(body)
    return b"%b /kv/%b HTTP/1.1\r\nHost: a\r\n%b\r\n%b" % (
        method.encode(),
        rest.encode(),
        fields,
        body or b"",
    )


def store(client: Client, rest: str, body: bytes, fields: bytes = b"") -> bytes:
    """Put a value; its ETag."""
    answer = client.ask(kv("PUT", rest, fields, body))
    assert status_of(answer) in (201, 204)
    etag = field_of(answer, "ETag")
    assert etag is not None
    return etag


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


def field_of(answer: bytes, name: str) -> bytes | None:
    match = re.search(rb"\r\n%b: ([^\r]*)\r\n" % name.encode(), answer.partition(b"\r\n\r\n")[0] + b"\r\n")
    return match and match[1]


def body_of(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(field_of(head + b"\r\n\r\n", "Content-Length") or -1) == len(body)
    return body


OCTETS = b"Content-Type: application/octet-stream\r\n"


def found(value: bytes, etag: bytes, ttl: bytes = b"", content: bytes = OCTETS) -> bytes:
    """The reply to a GET."""
    return (
        b"HTTP/1.1 200 OK\r\n%b%bContent-Length: %d\r\nETag: %b\r\n%b"
        b"Cache-Control: no-cache\r\nAccept-Ranges: bytes\r\n\r\n%b"
    ) % (ISOLATED, content, len(value), etag, ttl, value)


def created(etag: bytes) -> bytes:
    return b"HTTP/1.1 201 Created\r\n%bContent-Length: 0\r\nETag: %b\r\n\r\n" % (ISOLATED, etag)


def replaced(etag: bytes) -> bytes:
    return b"HTTP/1.1 204 No Content\r\n%bETag: %b\r\n\r\n" % (ISOLATED, etag)


DELETED = b"HTTP/1.1 204 No Content\r\n%b\r\n" % ISOLATED
