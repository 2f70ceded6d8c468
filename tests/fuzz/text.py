"""The core's text against the readable path: bodies of PUT, strings, keys."""

import random
from functools import cache

import orjson
from fake import Worker

from fastkv.core import text
from fastkv.http.request import HttpError, build_head, parse_request_line
from fastkv.http.responses import is_plain
from fastkv.http.routes import PLAIN
from fastkv.http.urlform import decode_percent, form_values, key_of
from fuzz import SEED_BYTES, unpack

_HEAD = build_head(b"1.1", ((b"host", b"a"), (b"content-length", b"1")))
_PIECES = [
    b"{", b"}", b":", b",", b" ", b"\n", b'"', b'"key":', b'"value":', b'"ttl":', b'"key":"a"',
    b'"value":"b"', b'"ttl":1', b'"', b"\\", b"\\n", b"\\u0041", b"\\ud83d\\ude00", b"\\ud83d",
    b"\\ude00", b"\\u00", b'\\"', b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80",
    b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xff", b"\0", b"\x1f", b"\x7f",
    b"a" * 15, b"a" * 16, b"1", b"0", b"10000000000", b"null", b"x",
    b"%", b"%4", b"%41", b"+", b"&", b"?", b"ttl=", b"k" * 17, b"/",
]  # fmt: skip


class Reference:
    """The readable path, whose answers the core's have to be.

    Attributes:
        worker: with a clock that stands still.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def check_put(self, body: bytes) -> bool:
        """Raise where the core takes a body that the route refuses, or stores otherwise.

        Args:
            body: any bytes.

        Returns:
            Whether the core took it.
        """
        taken = text.parsed_put(body)
        if taken is None:
            return False
        key, value, ttl_seconds, plain = taken
        store, clock = self.worker.store, self.worker.routes.clock
        store.delete(key, clock)
        self.worker.routes.put(b"", _HEAD, body)
        entry = store.get(key, clock)
        assert entry is not None, body
        deadline_ms = clock() + 1000 * ttl_seconds if ttl_seconds else 0
        assert (entry[0], entry[1], entry[3]) == (value, PLAIN if plain else 0, deadline_ms), body
        return True

    def check_target(self, raw: bytes) -> None:
        """Raise where the core takes a key, or a ttl, that the readable path refuses or reads otherwise.

        Args:
            raw: what follows ``key=``, ``/kv/`` or ``?`` in a request line, and may have an end of its own.
        """
        line = raw + b" HTTP/1.1"
        in_query = text.query_key(line)
        if in_query is not None:
            key, plain, stop = in_query
            query = _target(b"/get?key=" + line[:stop]).partition(b"?")[2]
            assert key_of(query)[0] == key, raw
            assert plain == _is_plain(key), raw
        in_path = text.path_key(line)
        if in_path is not None:
            key, stop = in_path
            assert line[stop : stop + 1] in (b" ", b"?")
            path = _target(b"/kv/" + line[:stop])
            assert decode_percent(path.removeprefix(b"/kv/")) == key != b"", raw
        ttl = text.query_ttl(line)
        if ttl is not None:
            seconds, stop = ttl
            query = _target(b"/kv/a?" + line[:stop]).partition(b"?")[2]
            assert form_values(query, b"ttl") == [b"%d" % seconds], raw


def mutated_body(rng: random.Random) -> bytes:
    """Make a body that is likely to be nearly right."""
    body = b'{"key":"a","value":"b"}'
    for _ in range(rng.randrange(8)):
        body = _mutated(body, rng)
    return body


def _mutated(body: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + rng.choice(_PIECES) + body[at + rng.choice((0, 0, 0, 1, 3)) :]


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Put pieces of JSON and of targets into an input.

    Args:
        data: The input.
        max_size: The longest that it may become.
        seed: For what is chosen.

    Returns:
        The other input.
    """
    rng = random.Random(seed)
    _, stream = unpack(data)
    for _ in range(rng.randrange(1, 4)):
        stream = _mutated(stream, rng)
    return (data[:SEED_BYTES].ljust(SEED_BYTES, b"\0") + stream)[:max_size]


def check_string(raw: bytes) -> None:
    """Raise where the core writes a string otherwise than orjson, or reads one that needs no escapes."""
    try:
        written = orjson.dumps(raw.decode())[1:-1]
    except UnicodeDecodeError:
        written = None
    assert text.escaped(raw) == written
    assert text.plain(raw) == (written == raw)
    taken = text.parsed_put(b'{"key":"a%b","value":"%b"}' % (raw, raw))
    if written == raw:
        assert taken == (b"a" + raw, raw, 0, True)
    elif written is None or (b'"' not in raw and b"\\" not in raw):
        assert taken is None, raw


def check_escapes(raw: bytes) -> None:
    """Raise where the core decodes percent escapes otherwise than `urllib`."""
    for form in (False, True):
        try:
            decoded = decode_percent(raw.replace(b"+", b" ") if form else raw)
        except HttpError:
            decoded = None
        assert text.unescaped(raw, form) == decoded


def _target(target: bytes) -> bytes:
    """A target that a request line may have, or HttpError."""
    line, _, _ = parse_request_line(b"GET " + target + b" HTTP/1.1")
    return line.removeprefix(b"GET ")


def _is_plain(key: bytes) -> bool:
    try:
        return is_plain(key.decode(), key)
    except UnicodeDecodeError:
        return False


@cache
def _reference() -> Reference:
    return Reference(Worker(max_key_bytes=4096, max_value_bytes=8192))


def check(data: bytes) -> None:
    """Raise where the core and the readable path differ.

    Args:
        data: The input: a body, a string, or the rest of a request line, and it is tried as each.
    """
    _, stream = unpack(data)
    _reference().check_put(stream)
    _reference().check_target(stream)
    check_string(stream)
    check_escapes(stream)
