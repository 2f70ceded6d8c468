"""What a request costs beside the store: the parser, what it is made of, and replies, each alone.

Every input comes once in a turn and is a new object, as what arrives on a socket is: no hash is known.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from fastkv.http.parser import Parser
from fastkv.http.request import Head, build_head, parse_field, parse_request_line
from fastkv.http.responses import Preludes, error_reply, value_reply
from fastkv.http.urlform import key_of
from perf.instructions.paths import HEADERS
from perf.report import summary

_SEED: Final = 7
_HEAD_BYTES: Final = 16 << 10
_BODY_BYTES: Final = 1 << 20
_VALUE: Final = b"v" * 64
_QUOTED: Final = b'"' * 64

Act: TypeAlias = Callable[[bytes], object]
Part: TypeAlias = tuple[str, str, Act, list[bytes]]
"""(what, on what, the call, its arguments)."""


def _get(key: bytes, who: str) -> bytes:
    return b"GET /get?key=%b HTTP/1.1\r\n%b" % (key, HEADERS[who])


def _put(key: bytes, who: str) -> bytes:
    body = b'{"key":"%b","value":"%b"}' % (key, _VALUE)
    return b"PUT /put HTTP/1.1\r\nContent-Length: %d\r\n%b%b" % (len(body), HEADERS[who], body)


def _parse(data: bytes) -> object:
    return Parser(_HEAD_BYTES, _BODY_BYTES).read(data, 0)[0]


def _validate(section: bytes) -> Head:
    """What the parser does with a header section."""
    return build_head(b"1.1", tuple(map(parse_field, section.split(b"\r\n"))))


def parts(keys: Sequence[bytes]) -> list[Part]:
    """Everything that is timed.

    Args:
        keys: the keys that requests are for, no two the same.
    """
    preludes = Preludes(0)
    found: list[Part] = []
    for who in HEADERS:
        requests = [_get(key, who) for key in keys]
        section = HEADERS[who].removesuffix(b"\r\n\r\n")
        found += [
            ("parser", f"GET, {who}", _parse, requests),
            ("parser", f"PUT, {who}", _parse, [_put(key, who) for key in keys]),
            ("validating a section", who, _validate, [section] * len(keys)),
        ]
    errors = [b"%b is no key." % key for key in keys]
    return [
        *found,
        ("validating a line", "GET", parse_request_line, [b"GET /get?key=%b HTTP/1.1" % key for key in keys]),
        ("key of a query", "plain", key_of, [b"key=" + key for key in keys]),
        ("key of a query", "percent-encoded", key_of, [b"key=%%6B%b" % key[1:] for key in keys]),
        ("reply to a hit", "plain", lambda key: value_reply(key, _VALUE, True, True), list(keys)),
        ("reply to a hit", "64 quotes", lambda key: value_reply(key, _QUOTED, True, False), list(keys)),
        ("reply of an error", "404", lambda text: error_reply(404, text.decode()), errors),
        ("preludes of a second", "", lambda key: preludes.set_date(hash(key) & 0xFFFFFFFF), list(keys[:256])),
    ]


def measure(rounds: int, count: int = 4096) -> list[dict[str, Any]]:
    """Time all parts, in turns.

    Args:
        rounds: how often each.
        count: calls in a turn.

    Returns:
        A row for each part: nanoseconds of CPU for each request.
    """
    numbers = list(range(count))
    random.Random(_SEED).shuffle(numbers)
    all_parts = parts([b"k%010d" % number for number in numbers])
    figures: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for part, case, act, arguments in all_parts:
            _time(act, arguments)  # caches are as warm for all
            figures.setdefault((part, case), []).append(_time(act, arguments) / len(arguments))
    return [{"part": part, "case": case, "ns": summary(each)} for (part, case), each in figures.items()]


def _time(act: Act, arguments: Sequence[bytes]) -> int:
    """CPU time of a call for each argument, in nanoseconds, without that of the loop."""
    fresh = [bytes(bytearray(argument)) for argument in arguments]
    begin = time.thread_time_ns()
    for argument in fresh:
        act(argument)
    middle = time.thread_time_ns()
    for _ in fresh:
        pass
    return 2 * middle - begin - time.thread_time_ns()
