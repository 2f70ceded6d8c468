"""The core's header sections against the readable parser: what it takes means the same to both."""

from __future__ import annotations

import ctypes
import mmap
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import pytest
from cases import CASES
from cases.case import HOST, MAX_HEAD_BYTES, Case
from cases.clients import CHROME, CURL, NODE
from hypothesis import given
from hypothesis import strategies as st
from test_access import CASES as SENDERS
from test_access import SETTINGS, is_admitted, policy
from test_access import Case as SenderCase

from fastkv import core
from fastkv.access import Access
from fastkv.http.content import metadata_from, metadata_of
from fastkv.http.fields import TREATMENTS, Route, Treatment
from fastkv.http.parser import Parser
from fastkv.http.request import KEEP_ALIVE, Head, HttpError
from fastkv.settings import Settings

if TYPE_CHECKING:
    from fastkv.core.headers import Sections

pytestmark = pytest.mark.skipif(not core.COMPILED, reason=core.REASON)

MAX_FIELDS = 100
KEPT = 8
BLOCK_BYTES = 16
VERSION = b" HTTP/1.1\r\n"
LINE = b"GET /get?key=name"
OPEN = Access(Settings())
GUARDED = policy("token")
TOKEN = SETTINGS["token"]["token"].encode()

Found = tuple[int, int, int, bytes] | None


class Asked:
    """The callbacks of sections, and what they were asked."""

    def __init__(self, access: Access = OPEN) -> None:
        self.access = access
        self.verdicts: list[tuple[bytes | None, ...]] = []
        self.contents: list[tuple[bytes | None, bytes | None]] = []

    def admits(self, *sender: bytes | None) -> bool:
        self.verdicts.append(sender)
        return self.access.admits(*sender)

    def metadata_of(self, content_type: bytes | None, content_encoding: bytes | None) -> bytes:
        self.contents.append((content_type, content_encoding))
        return metadata_from(content_type, content_encoding)

    def sections(self, max_head_bytes: int = MAX_HEAD_BYTES, max_fields: int = MAX_FIELDS) -> Sections:
        return core.headers.Sections(self.admits, self.metadata_of, TREATMENTS, max_head_bytes, max_fields)


def sections(access: Access = OPEN) -> Sections:
    return Asked(access).sections()


def section(*lines: bytes, host: bytes = b"Host: a") -> bytes:
    return VERSION + b"".join(line + b"\r\n" for line in (host, *lines) if line) + b"\r\n"


# -- what the readable path makes of it --------------------------------------------------------------------


def read_head(data: bytes) -> Head | None:
    """The head that the parser makes of the first message in data; None where it refuses or waits."""
    heads: list[Head] = []

    def judge(_line: bytes, head: Head) -> Any:
        heads.append(head)
        raise HttpError(400, "The body is of no interest.")

    try:
        message, _ = Parser(MAX_HEAD_BYTES, 10**19, MAX_FIELDS, judge=judge).read(data, 0)
    except HttpError:
        return heads[0] if heads else None
    return message[1] if isinstance(message, tuple) else None


def expected(data: bytes, at: int, route: Route, access: Access) -> Found:
    """What the core has to make of a request whose section begins at an offset."""
    head = read_head(data)
    if (
        head is None
        or head.version != b"1.1"
        or head.persistence != KEEP_ALIVE
        or not is_admitted(access, head)
    ):
        return None
    values: dict[Treatment, bytes] = {}
    for name, value in head.fields:
        treatment = TREATMENTS[name][route] if name in TREATMENTS else Treatment.IGNORED
        if treatment is Treatment.DECLINED or name.startswith(b"if-") or treatment in values:
            return None
        if treatment is not Treatment.IGNORED:
            values[treatment] = value
    if values.get(Treatment.CONNECTION, b"keep-alive").lower() != b"keep-alive":
        return None
    ttl = values.get(Treatment.TTL)
    if head.content_length >= 1 << 63 or (ttl is not None and not is_ttl(ttl)):
        return None
    metadata = b""
    if route is Route.PUT_RESOURCE:
        if len(values.get(Treatment.CONTENT_TYPE, b"") + values.get(Treatment.CONTENT_ENCODING, b"")) > 512:
            return None
        try:
            metadata = metadata_of(head)
        except HttpError:
            return None
    size = data.index(b"\r\n\r\n", at) + 4 - at
    return size, head.content_length if head.has_length else -1, int(ttl or 0), metadata


def is_ttl(value: bytes) -> bool:
    return value.isdigit() and len(value) <= 19 and 1 <= int(value) <= 10_000_000_000


def check(known: Sections, section: bytes, route: Route, access: Access = OPEN) -> Found:
    """Sections that were read before and new ones, and what stands behind them, change nothing."""
    wanted = expected(LINE + section, len(LINE), route, access)
    for each in (known, known, sections(access)):
        assert each.examine(section, route, line_bytes=len(LINE)) == wanted
    if wanted is not None:
        assert known.examine(section + b"GET / HTTP/1.1\r\n", route, line_bytes=len(LINE)) == wanted
        assert known.examine(b"GET /" + section, route, 5, len(LINE)) == wanted
    return wanted


# -- the tables --------------------------------------------------------------------------------------------


def section_at(case: Case) -> int:
    """Where the section of a case begins for the core, which looks for the space before a version."""
    return case.data.find(VERSION) if b"\n" not in case.data.partition(VERSION)[0] else -1


_HEADED = [case for case in CASES if section_at(case) > 0]


def test_each_case_is_what_the_readable_parser_makes_of_it() -> None:
    taken = 0
    for access, route in product((OPEN, GUARDED), Route):
        known = sections(access)
        for case in _HEADED:
            at = section_at(case)
            # Two methods in front of one section share it; a target in absolute-form is never the core's.
            if case.data[:at].split(b" ")[-1][:1] != b"/" or read_line(case) is None:
                continue
            wanted = expected(case.data, at, route, access)
            for _ in range(2):
                assert known.examine(case.data, route, at, at) == wanted, case.name
            taken += wanted is not None
    assert taken > 5 * 100


def read_line(case: Case) -> bytes | None:
    """The request line of a case; None where it is refused for it, of which the core's part knows nothing."""
    parser = Parser(MAX_HEAD_BYTES, 10**19)
    try:
        parser.read(case.data[: section_at(case)] + VERSION, 0)
    except HttpError:
        return None
    return parser.line


class Fence:
    """Memory behind whose end nothing may be read: the next page is not there."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        self._protect = ctypes.CDLL(None).mprotect
        self._protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._page = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + mmap.PAGESIZE
        assert self._protect(self._page, mmap.PAGESIZE, 0) == 0

    def put(self, data: bytes) -> memoryview:
        """Put data, a page at most, in front of the end."""
        at = mmap.PAGESIZE - len(data)
        self._memory[at : mmap.PAGESIZE] = data
        return memoryview(self._memory)[at : mmap.PAGESIZE]


FENCE = Fence()


@pytest.mark.parametrize("route", [Route.PUT_JSON, Route.PUT_RESOURCE])
def test_a_section_that_is_not_whole_is_declined_and_nothing_behind_it_is_read(route: Route) -> None:
    warm = sections()
    for case in _HEADED:
        cold = sections()
        data = case.data[section_at(case) :][:400]
        whole = warm.examine(data, route)
        for size in range(len(data) + 1):
            wanted = whole if whole and size >= whole[0] else None
            assert warm.examine(FENCE.put(data[:size]), route) == wanted
            assert cold.examine(FENCE.put(data[:size]), route) == wanted


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("route", Route)
def test_a_sender_gets_the_verdict_of_access(settings: str, route: Route) -> None:
    access = policy(settings)
    known = sections(access)
    cases: list[SenderCase] = [*SENDERS, *SENDERS]
    taken = sum(
        check(known, section(*case.lines, host=b""), route, access) is not None
        for case in cases
        if not case.head.upgrade
    )
    assert taken > 10


@pytest.mark.parametrize("route", Route)
def test_what_clients_send_is_ordinary(route: Route) -> None:
    known = sections()
    own = (
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX-Request-Id: 8f14e45f\r\n"
    )
    amazon = (
        b"X-Amzn-Trace-Id: Root=1-67891233-abcdef012345678912345678\r\nX-B3-TraceId: 80f198ee56343ba8\r\n"
    )
    for fields in (
        b"",
        CURL,
        own,
        amazon,
        b"Cookie: a=1\r\nCookie: b=2\r\n",
        b"Keep-Alive: 5\r\nTE: trailers\r\n",
    ):
        assert check(known, VERSION + HOST + fields + b"\r\n", route)
    assert check(known, VERSION + CHROME + b"\r\n", route)
    assert check(known, VERSION + NODE + b"\r\n", route)


# -- single fields -----------------------------------------------------------------------------------------

ALWAYS_DECLINED = [
    b"Expect: 100-continue", b"Expect:", b"Transfer-Encoding: chunked", b"Upgrade: websocket",
    b"If-Match: *", b"IF-NONE-MATCH: *", b"If-Modified-Since: x", b"if-unmodified-since: x", b"If-Range: x",
    b"if-: x", b"If-Anything: x", b"Range: bytes=0-1", b"Content-Range: bytes 0-1/2",
    b"Connection: close", b"Connection: upgrade", b"Connection: keep-alive, te", b"Connection:",
    b"Connection: keep_alive", b"Connection: keep-alivf", b"Connection: keep-alive,",
    b"Connection: keep-alive\r\nConnection: keep-alive", b"Host: a", b"Host:", b"Origin: a\r\nOrigin: a",
    b"Sec-Fetch-Site: none\r\nSec-Fetch-Site: none", b"Authorization: a\r\nAuthorization: a",
    b"Content-Length: 1\r\nContent-Length: 1", b"Content-Length:", b"Content-Length: +1",
    b"Content-Length: -1", b"Content-Length: 1 2", b"Content-Length: 1,1", b"Content-Length: 0x1",
    b"Content-Length: 1_0", b"Content-Length: 1.0", b"Content-Length: \xb2",
    b"Content-Length: 9223372036854775808", b"Content-Length: 00000000000000000001",
]  # fmt: skip
ALWAYS_ORDINARY = [
    b"Connection: Keep-Alive", b"connection:\tkEEP-aLIVE \t", b"Ifx: 1", b"If: (x)", b"I: 1", b"Iff-Match: *",
    b"Ranges: 1", b"Hosts: a", b"Content-Lengths: x", b"X_Y: 1", b"^if-match: *", b"Sec-Fetch-Mode: cors",
    b"Authorization-Not: x", b"Sec-Fetch-Sitf: cross-site", b"Transfer.Encoding: chunked",
    b"Content-Length: 0", b"CONTENT-LENGTH:0064", b"Content-Length: 9223372036854775807 ",
    b"Upgrade-Insecure-Requests: 1", b"Access-Control-Request-Method: GET", b"Last-Event-ID: 5",
    b"Content-Length: 0000000000000000001", b"Authorization: Bearer x", b"Authorization:",
]  # fmt: skip


@pytest.mark.parametrize("route", Route)
def test_single_fields(route: Route) -> None:
    known = sections()
    for place in (b"X: 1\r\n%b", b"%b\r\nX: 1", b"%b"):
        for lines in ALWAYS_DECLINED:
            assert check(known, section(place % lines), route) is None, lines
        for lines in ALWAYS_ORDINARY:
            assert check(known, section(place % lines), route) is not None, lines


@pytest.mark.parametrize("name", [b"TTL", b"x-TTL"])
def test_a_ttl_is_read_by_one_route(name: bytes) -> None:
    known = sections()
    for value in (b"1", b"60", b"0060", b"9999999999", b"10000000000"):
        assert known.examine(section(name + b": " + value), Route.PUT_RESOURCE) == (
            len(section(name + b": " + value)), -1, int(value), b"",
        )  # fmt: skip
    for value in (b"", b"0", b"0.5", b"1e3", b"-1", b"+1", b"10000000001", b"1" * 20, b"1 1", b"x"):
        for route in Route:
            assert (check(known, section(name + b": " + value), route) is None) is (
                route is Route.PUT_RESOURCE
            )
    assert known.examine(section(b"TTL: 1", b"X-TTL: 1"), Route.PUT_RESOURCE) is None


def test_metadata_is_asked_for_once_and_refusals_decline() -> None:
    asked = Asked()
    known = asked.sections()
    pairs = [
        (None, b"gzip"), (b"text/html", None), (b"text/html", b""), (b"text/html", b"identity"),
        (b"a/b;c=d", b"gzip,br"), (b"a/" + b"b" * 252, None), (b"gzip", None), (None, b"a/b"), (b"", None),
        (b"a/" + b"b" * 253, None), (b"a/b" + b" " * 300 + b";", b"c" + b"," * 300),
    ]  # fmt: skip

    def examine(content_type: bytes | None, encoding: bytes | None, number: int) -> Found:
        lines = [b"X: %d" % number]
        lines += [] if content_type is None else [b"Content-Type: " + content_type]
        lines += [] if encoding is None else [b"Content-Encoding: " + encoding]
        return check(known, section(*lines), Route.PUT_RESOURCE)

    found = [examine(*pair, 0) for pair in pairs]
    assert [entry and entry[3] for entry in found] == [
        b"\0gzip", b"text/html", b"text/html", b"text/html", b"a/b;c=d\0gzip, br", b"a/" + b"b" * 252,
        None, None, None, None, None,
    ]  # fmt: skip
    asked.contents.clear()
    assert [examine(*pair, 1) for pair in pairs[:6]] == found[:6]
    assert asked.contents == []
    for number in range(2 * KEPT):
        assert examine(b"a/%d" % number, None, 2)
    assert [examine(*pair, 1) for pair in pairs[:6]] == found[:6]


# -- bounds ------------------------------------------------------------------------------------------------


def test_the_longest_head_is_that_of_the_readable_parser() -> None:
    ordinary = section(b"Accept: */*", b"Content-Length: 5")
    known = sections()
    for size in (MAX_HEAD_BYTES - 1, MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1, 2 * MAX_HEAD_BYTES):
        line = b"GET /".ljust(size - len(ordinary), b"a")
        wanted = expected(line + ordinary, len(line), Route.PUT_JSON, OPEN)
        assert (wanted is not None) is (size <= MAX_HEAD_BYTES)
        for each in (known, sections()):
            assert each.examine(ordinary + b"12345GET", Route.PUT_JSON, 0, len(line)) == wanted
    for line_bytes in (MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1, (1 << 64) - 1):
        assert known.examine(ordinary, Route.PUT_JSON, 0, line_bytes) is None


@pytest.mark.parametrize("count", [1, 2, MAX_FIELDS])
def test_a_section_has_at_most_max_fields(count: int) -> None:
    known = Asked().sections(max_fields=count)
    lines = [b"X%d: a" % number for number in range(count)]
    assert known.examine(section(*lines[1:]), Route.READ_JSON)
    assert known.examine(section(*lines), Route.READ_JSON) is None


def test_long_sections_are_read_though_they_are_not_kept() -> None:
    known = Asked().sections(max_head_bytes=1 << 20)
    for size in (4000, 4100, 100_000):
        long = section(b"Cookie: " + b"a" * size)
        for _ in range(2):
            assert known.examine(long, Route.READ_JSON) == (len(long), -1, 0, b"")
    assert len(known.known_sections(Route.READ_JSON)) == 1


# -- senders -----------------------------------------------------------------------------------------------


def test_one_verdict_for_a_tuple_and_none_for_a_field() -> None:
    """Two sites of one server: each may speak to itself, and neither to the other."""
    asked = Asked(policy("public"))
    known = asked.sections()
    sites = [b"a.example", b"b.example"]
    for _, host, name in product(range(2), sites, sites):
        found = known.examine(section(b"Origin: http://" + name, host=b"Host: " + host), Route.READ_JSON)
        assert (found is not None) is (host == name)
    for site, origin in product((b"same-origin", b"none", b"cross-site"), (b"", b"Origin: http://a.example")):
        found = known.examine(
            section(b"Sec-Fetch-Site: " + site, origin, host=b"Host: a.example"), Route.READ_JSON
        )
        assert (found is not None) is (site != b"cross-site")
    # The absence of a field is not its emptiness, and what is in one field is not in the other.
    assert known.examine(section(b"Origin:", host=b"Host: a.example"), Route.READ_JSON) is None
    assert known.examine(section(host=b"Host: a.example"), Route.READ_JSON)
    assert known.examine(section(b"Origin: same-origin", host=b"Host: a.example"), Route.READ_JSON) is None


def test_a_tuple_that_is_kept_is_not_asked_for_again_and_a_refused_one_is() -> None:
    asked = Asked(GUARDED)
    known = asked.sections()
    good, bad = section(b"Authorization: Bearer " + TOKEN), section(b"Authorization: Bearer " + TOKEN[::-1])
    for number in range(3):
        assert known.examine(good, Route.READ_JSON)
        assert known.examine(section(b"Authorization: Bearer " + TOKEN, b"X: %d" % number), Route.PUT_JSON)
        assert known.examine(bad, Route.READ_JSON) is None
    assert len(asked.verdicts) == 1 + 3
    others = [section(b"Authorization: Bearer " + TOKEN, host=b"Host: 127.0.0.%d" % n) for n in range(KEPT)]
    for request in (*others, good):
        assert known.examine(request, Route.READ_JSON)
    assert len(asked.verdicts) == 4 + KEPT + 1


def test_a_token_is_right_or_it_is_declined_whatever_was_right_before() -> None:
    known = sections(GUARDED)
    right = b"Authorization: Bearer " + TOKEN
    changed = [right[:i] + bytes([right[i] ^ 1]) + right[i + 1 :] for i in range(len(right))]
    wrong = [
        right[:-1], right + b"x", right + b" x", right[:-4], right.replace(b"Bearer ", b""), right[:22],
        b"Authorization: Basic " + TOKEN, b"X-Authorization: Bearer " + TOKEN, b"Authorization:", b"",
        right + b"\r\n" + right, right + b"\r\nAuthorization: Bearer x", right.swapcase(),
        b"Authorization: Bearer " + TOKEN.swapcase(),
        *(line for line in changed if line.startswith(b"Authorization: ")),
    ]  # fmt: skip
    same = [right, right.lower().replace(TOKEN.lower(), TOKEN), right.replace(b"r ", b"r  "), right + b" "]
    for route, line in product(Route, wrong):
        assert known.examine(section(right), route)
        assert known.examine(section(line), route) is None, line
    for route, line in product(Route, same):
        assert check(known, section(line), route, GUARDED), line


def test_a_section_with_a_credential_is_not_kept() -> None:
    for access, route in product((OPEN, GUARDED), Route):
        known = sections(access)
        assert known.examine(section(b"authorization: Bearer " + TOKEN, b"X: 1"), route)
        assert known.known_sections(route) == []


def test_what_raises_is_declined() -> None:
    def refuse(*_: bytes | None) -> Any:
        raise RuntimeError

    broken = core.headers.Sections(refuse, refuse, TREATMENTS, MAX_HEAD_BYTES, MAX_FIELDS)
    assert broken.examine(section(), Route.READ_JSON) is None
    for answer in (1, None, "yes", b"", b"a" * 256, "text"):
        odd = core.headers.Sections(
            lambda *_: True, lambda *_, answer=answer: answer, TREATMENTS, MAX_HEAD_BYTES, 9
        )
        found = odd.examine(section(b"Content-Type: a/b"), Route.PUT_RESOURCE)
        assert (found is not None) is (answer == b"")
        no = core.headers.Sections(
            lambda *_, answer=answer: answer, metadata_from, TREATMENTS, MAX_HEAD_BYTES, 9
        )
        assert no.examine(section(), Route.READ_JSON) is None


# -- known sections ----------------------------------------------------------------------------------------


def test_sections_that_come_again_stay_whatever_comes_once() -> None:
    known = sections()
    repeated = [section(b"User-Agent: %d" % number) for number in range(KEPT - 1)]
    for request in [*repeated, *repeated]:
        for _ in range(2):
            assert known.examine(request, Route.READ_JSON)
    for number in range(100):
        assert known.examine(section(b"X-Request-Id: %d" % number), Route.READ_JSON)
    kept = known.known_sections(Route.READ_JSON)
    assert set(repeated) < {before for before, after in kept if not after}
    assert kept[-1] == (section(b"X-Request-Id: 99"), b"")
    assert len(kept) == KEPT


def test_the_last_one_that_came_again_is_in_front() -> None:
    known = sections()
    requests = [section(b"X: %d" % number) for number in range(2 * KEPT)]
    for request in requests:
        for _ in range(2):
            known.examine(request, Route.READ_JSON)
        assert known.known_sections(Route.READ_JSON)[0] == (request, b"")
    assert [before for before, _ in known.known_sections(Route.READ_JSON)] == requests[: -KEPT - 1 : -1]


def test_sections_differ_by_route() -> None:
    known = sections()
    lines = section(b"TTL: 60", b"Content-Type: a/b")
    for _ in range(2):
        assert known.examine(lines, Route.PUT_JSON) == (len(lines), -1, 0, b"")
        assert known.examine(lines, Route.PUT_RESOURCE) == (len(lines), -1, 60, b"a/b")
    odd = section(b"TTL: 0")
    assert known.examine(odd, Route.READ_RESOURCE)
    assert known.examine(odd, Route.PUT_RESOURCE) is None


def test_a_known_section_holds_for_every_length() -> None:
    known = sections()
    line = b"Content-Length:  %b \t"
    for lengths in pairwise((b"1", b"64", b"000", b"9223372036854775807", b"5", b"12345", b"0", b"")):
        for digits in (*lengths, b"x", b"6x", b"-1", b"9223372036854775808", b"9" * 19, b"1" * 20):
            for request in (
                section(line % digits),
                section(line % digits, b"X: a"),
                section(b"X: a", line % digits),
            ):
                check(known, request, Route.PUT_JSON)
    assert all(b"Content-Length:  " in before for before, _ in known.known_sections(Route.PUT_JSON))
    assert len(known.known_sections(Route.PUT_JSON)) == 3 + 0 * KEPT


def test_a_section_that_differs_in_one_byte_is_another() -> None:
    known = sections()
    request = section(b"Accept: */*", b"Content-Length: 64", b"X-A: b")
    for at in range(len(VERSION), len(request)):
        for byte in (0, 9, 10, 13, 32, 58, 65, 127, 128, request[at] ^ 0x20):
            for _ in range(2):
                assert known.examine(request, Route.PUT_JSON) == (len(request), 64, 0, b"")
            check(known, request[:at] + bytes([byte]) + request[at + 1 :], Route.PUT_JSON)


# -- random sections ---------------------------------------------------------------------------------------

_names = st.one_of(
    st.sampled_from(sorted(TREATMENTS)),
    st.sampled_from([b"accept", b"cookie", b"x-request-id", b"if-modified-since", b"x", b"a-very-long-name"]),
    st.text("abcxyzABC-_.!~^|5 :\t\0é", min_size=1, max_size=20).map(lambda text: text.encode("latin-1")),
)  # fmt: skip
_cased = st.builds(lambda name, how: how(name), _names, st.sampled_from([bytes, bytes.title, bytes.upper]))
_values = st.one_of(
    st.sampled_from([
        b"", b"a", b"a:1", b"localhost", b"127.0.0.1:7171", b"[::1]", b"a,b", b"http://a", b"http://localhost",
        b"null", b"same-origin", b"cross-site", b"none", b"keep-alive", b"close", b"5", b"0", b"60", b"gzip",
        b"text/plain", b"a/b; c=\"d\"", b"Bearer " + TOKEN, b"bearer x", b"100-continue", b"a\tb", b"\xe9",
    ]),
    st.binary(max_size=40),
)  # fmt: skip
_blanks = st.sampled_from([b"", b" ", b"\t", b"  ", b" \t "])
_line_ends = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b""])
_lines = st.builds(
    lambda *parts: b"".join(parts), _cased, st.just(b":"), _blanks, _values, _blanks, _line_ends
)
_hosts = st.sampled_from(
    [b"Host: a\r\n", b"host:localhost:80 \r\n", b"Host: a b\r\n", b"HOST: evil.example\r\n", b""]
)
_sections = st.builds(
    lambda host, lines, end: VERSION + host + b"".join(lines) + end,
    _hosts, st.lists(_lines, max_size=6), st.sampled_from([b"\r\n"] * 8 + [b"", b"\n", b"\r"]),
)  # fmt: skip


@given(_sections, st.sampled_from(Route), st.sampled_from(sorted(SETTINGS)))
def test_random_sections(request: bytes, route: Route, settings: str) -> None:
    check(sections(policy(settings)), request, route, policy(settings))


@given(
    st.lists(_sections, min_size=2, max_size=12), st.sampled_from(Route), st.sampled_from(["open", "token"])
)
def test_random_sections_one_after_the_other(requests: list[bytes], route: Route, settings: str) -> None:
    known = sections(policy(settings))
    for request in requests + requests[::-1]:
        check(known, request, route, policy(settings))


@given(st.binary(max_size=80), st.integers(0, 40))
def test_garbage_is_read_within_its_bounds(data: bytes, cut: int) -> None:
    request = section(b"Accept: */*")[: -2 - cut] + data
    found = sections().examine(FENCE.put(request), Route.PUT_RESOURCE)
    assert found == expected(LINE + request, len(LINE), Route.PUT_RESOURCE, OPEN)


# -- the table of names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [[b""], [b"X"], [b"a" * 49], [b"a_b"], [b"a%d" % i for i in range(2)]])
def test_a_name_that_the_table_cannot_hold_is_refused(names: list[bytes]) -> None:
    with pytest.raises(ValueError, match="name"):
        core.headers.Sections(OPEN.admits, metadata_from, dict.fromkeys(names, (1,) * len(Route)), 100, 100)


def test_every_listed_name_is_found_and_no_other() -> None:
    names = [
        a + b
        for a, b in product([b"", b"a-long-beginning-and-", b"if"], [b"x", b"y", b"abcdefgh", b"zz-top"])
    ]
    tables = [
        dict.fromkeys(names, (treatment,) * len(Route)) | {b"host": (Treatment.HOST,) * len(Route)}
        for treatment in (0, 1)
    ]
    ignoring, declining = (
        core.headers.Sections(OPEN.admits, metadata_from, table, 1000, 100) for table in tables
    )
    for name in names:
        for changed in (
            name[:-1],
            name + b"x",
            name[:-1] + b"q",
            b"q" + name[1:],
            name[:9] + b"q" + name[10:],
        ):
            found = declining.examine(section((changed or b"q") + b": 1"), Route.READ_JSON)
            assert (found is None) is (changed in names)
        assert declining.examine(section(name + b": 1"), Route.READ_JSON) is None
        assert ignoring.examine(section(name + b": 1"), Route.READ_JSON)
    with pytest.raises(ValueError, match="on each route"):
        core.headers.Sections(OPEN.admits, metadata_from, {b"host": (1,) * (len(Route) - 1)}, 9, 9)
    with pytest.raises(ValueError, match="same beginning"):
        core.headers.Sections(
            OPEN.admits,
            metadata_from,
            dict.fromkeys([b"b" * 20, b"b" * 9 + b"c" + b"b" * 10], (1,) * len(Route)),
            9,
            9,
        )
