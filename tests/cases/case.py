"""What a case is, and short ways to write the frequent kinds."""

from dataclasses import dataclass
from enum import Enum

MAX_HEAD_BYTES = 2048
MAX_BODY_BYTES = 1024

HOST = b"Host: 127.0.0.1:7171\r\n"
GET = b"GET /get?key=name HTTP/1.1\r\n"
GET_LINE = b"GET /get?key=name"
GOOD = GET + HOST + b"\r\n"
BODY = b'{"key":"name","value":"UltraFastKV"}'
PUT = b"PUT /put HTTP/1.1\r\n" + HOST
PUT_LINE = b"PUT /put"
POST = b"POST /put HTTP/1.1\r\n" + HOST
POST_LINE = b"POST /put"
LENGTH = b"Content-Length: 36\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Then(Enum):
    """What becomes of the connection."""

    OPEN = "a further request may follow"
    CLOSED = "nothing that follows is read"
    WAITING = "the message is not complete"


@dataclass(frozen=True)
class Case:
    """Bytes and what has to come of them.

    Attributes:
        name: What is peculiar.
        law: Where it is written.
        data: The bytes.
        messages: Line and body of each message that they hold.
        error: The status they are refused with after these messages, or None.
        then: What becomes of the connection.
    """

    name: str
    law: str
    data: bytes
    messages: tuple[tuple[bytes, bytes], ...]
    error: int | None
    then: Then


def good(name: str, law: str, data: bytes, line: bytes = GET_LINE, body: bytes = b"") -> Case:
    """One message after which the connection stays open."""
    return Case(name, law, data, ((line, body),), None, Then.OPEN)


def last(name: str, law: str, data: bytes, line: bytes = GET_LINE, body: bytes = b"") -> Case:
    """One message after which the connection ends."""
    return Case(name, law, data, ((line, body),), None, Then.CLOSED)


def bad(name: str, law: str, data: bytes, error: int = 400) -> Case:
    """A refusal."""
    return Case(name, law, data, (), error, Then.CLOSED)


def half(name: str, law: str, data: bytes) -> Case:
    """A message that is not complete."""
    return Case(name, law, data, (), None, Then.WAITING)


def several(
    name: str,
    law: str,
    data: bytes,
    *messages: tuple[bytes, bytes],
    error: int | None = None,
    then: Then = Then.OPEN,
) -> Case:
    """Messages in a row."""
    return Case(name, law, data, messages, error, then if error is None else Then.CLOSED)


def good_line(name: str, law: str, line: bytes, version: bytes = b"HTTP/1.1", *, means: bytes = b"") -> Case:
    """A method and a target; `means` is what they come to, if that is something else."""
    return good(name, law, line + b" " + version + b"\r\n" + HOST + b"\r\n", means or line)


def bad_line(name: str, law: str, line: bytes, error: int = 400) -> Case:
    """A request that is refused for its first line."""
    return bad(name, law, line + b"\r\n" + HOST + b"\r\n", error)


def good_fields(name: str, law: str, fields: bytes) -> Case:
    """A GET with fields besides Host."""
    return good(name, law, GET + HOST + fields + b"\r\n")


def bad_field(name: str, law: str, field: bytes, error: int = 400) -> Case:
    """A GET that is refused for a field."""
    return bad(name, law, GET + HOST + field + b"\r\n\r\n", error)


def good_put(name: str, law: str, fields: bytes) -> Case:
    """A PUT of 36 bytes."""
    return good(name, law, PUT + fields + b"\r\n" + BODY, PUT_LINE, BODY)


def bad_put(name: str, law: str, field: bytes, error: int = 400, body: bytes = BODY) -> Case:
    """A PUT that is refused for its framing."""
    return bad(name, law, PUT + field + b"\r\n\r\n" + body, error)


def good_chunks(name: str, law: str, chunks: bytes, body: bytes) -> Case:
    """A POST in chunks."""
    return good(name, law, CHUNKED + chunks, POST_LINE, body)


def bad_chunks(name: str, law: str, chunks: bytes, error: int = 400) -> Case:
    """A POST that is refused for its chunks."""
    return bad(name, law, CHUNKED + chunks, error)
