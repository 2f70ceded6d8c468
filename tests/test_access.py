"""Who may speak: the rules as a table, asked of the policy, of a connection, and of servers on sockets."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fake import Client, Worker, in_loop
from fake import put_pair as put
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st
from server import Server, read_reply, run_to_end, running

from fastkv import access
from fastkv.access import Access
from fastkv.http.request import Head, HttpError, build_head, parse_field
from fastkv.settings import Settings
from fastkv.stats import Column

pytestmark = pytest.mark.usefixtures("implementation")

TOKEN = "s3cret-T0ken"
APP, LOCAL_APP = "https://app.example", "http://localhost:3000"

SETTINGS: dict[str, dict[str, Any]] = {
    "open": {},
    "token": {"token": TOKEN},
    "origins": {"allow_origin": (APP, LOCAL_APP)},
    "any": {"allow_origin": "*"},
    "both": {"token": TOKEN, "allow_origin": (APP, LOCAL_APP)},
    "names": {"allowed_host": ("one.example", "two.example:8080", "three.example:80", ".below.example")},
    "public": {"host": "0.0.0.0"},
}


@dataclass(frozen=True, slots=True)
class Case:
    """A request and what becomes of it.

    Attributes:
        settings: Which of `SETTINGS` the server has.
        fields: Its header lines; Host is 127.0.0.1:7171 unless they have one.
        status: Of the reply; 200 where the route answers.
        line: Method and target.
        cors: Whether the reply lets the page of its origin read it.
    """

    settings: str
    fields: str
    status: int = 200
    line: str = "GET /version"
    cors: bool = False

    @property
    def lines(self) -> list[bytes]:
        """The header lines, Host among them."""
        given = [field for field in self.fields.split("; ") if field]
        host = [] if any(field.startswith("Host:") for field in given) else ["Host: 127.0.0.1:7171"]
        return [field.encode() for field in host + given]

    @property
    def is_preflight(self) -> bool:
        """Whether the policy answers it, and not the route: both say 204 to OPTIONS."""
        return self.status == 204 and self.cors and "Access-Control-Request-Method" in self.fields

    @property
    def request(self) -> bytes:
        """The whole request."""
        return b"\r\n".join([self.line.encode() + b" HTTP/1.1", *self.lines, b"", b""])

    @property
    def head(self) -> Head:
        """Its head."""
        return build_head(b"1.1", tuple(map(parse_field, self.lines)))


SENDER = (b"host", b"origin", b"sec-fetch-site", b"authorization")
"""The fields that name a sender, in the order of `Access.admits`."""


def is_admitted(rules: Access, head: Head) -> bool:
    return rules.admits(*map(head.get, SENDER))


def name(case: Case) -> str:
    return f"{case.settings} {case.line} {case.fields} {case.status}"


RIGHT = f"Authorization: Bearer {TOKEN}"
OWN = "http://127.0.0.1:7171"

TOKENS = [
    Case("token", "", 401),
    Case("token", RIGHT),
    Case("token", f"Authorization: bEARER {TOKEN}"),
    Case("token", f"Authorization: Bearer  {TOKEN}"),
    Case("token", f"Authorization: Bearer {TOKEN}x", 401),
    Case("token", f"Authorization: Bearer {TOKEN[:-1]}", 401),
    Case("token", f"Authorization: Bearer {TOKEN.upper()}", 401),
    Case("token", f"Authorization: Bearer {TOKEN} x", 401),
    Case("token", f"Authorization: Basic {TOKEN}", 401),
    Case("token", f"Authorization: {TOKEN}", 401),
    Case("token", "Authorization: Bearer", 401),
    Case("token", "Authorization:", 401),
    Case("token", f"{RIGHT}; {RIGHT}", 401),
    Case("token", f"{RIGHT}; Authorization: Bearer x", 401),
    Case("token", f"Proxy-Authorization: Bearer {TOKEN}", 401),
    Case("token", f"Cookie: _token={TOKEN}", 401),
    Case("token", "", 200, f"GET /version?_token={TOKEN}"),
    Case("token", "", 200, "GET /version?a=b&%5Ftoken=s3cret%2DT0ken"),
    Case("token", "Authorization: Bearer wrong", 200, f"GET /version?_token={TOKEN}"),
    Case("token", RIGHT, 200, "GET /version?_token=wrong"),
    Case("token", "", 401, f"GET /version?_token={TOKEN}&_token={TOKEN}"),
    Case("token", "", 401, "GET /version?_token="),
    Case("token", "", 401, "GET /version?_token"),
    Case("token", "", 401, f"GET /version?token={TOKEN}"),
    Case("token", "", 401, f"GET /version?_token={TOKEN}+"),
    Case("token", "", 400, "GET /version?_token=%zz"),
    Case("token", "", 200, "GET /health"),
    Case("token", "", 200, "HEAD /health"),
    Case("token", "", 200, "GET /health?x=1"),
    Case("token", "Authorization: Bearer wrong", 200, "GET /health"),
    Case("token", "", 405, "DELETE /health"),
    Case("token", "", 401, "GET /health/"),
    Case("token", "", 401, "GET //health"),
    Case("token", "", 401, "GET /%68ealth"),
    Case("token", "", 401, "GET /stats?/health"),
    Case("token", "", 401, "GET /nothing"),
    *(
        Case("token", "", 401, line)
        for line in ("GET /get?key=a", "DELETE /delete?key=a", "HEAD /stats", "OPTIONS /put", "PATCH /x")
    ),
    Case("token", "Content-Length: 0", 401, "PUT /put"),
    # With a token any name is good: a page cannot know it.
    Case("token", f"Host: one.example; {RIGHT}"),
    # Without a token on the server any is accepted.
    Case("open", "Authorization: Bearer anything"),
    Case("open", "", 200, "GET /version?_token=anything"),
]

BROWSERS = [
    Case("open", "Origin: https://evil.example", 403),
    Case("open", "Origin: null", 403),
    Case("open", "Origin:", 403),
    Case("open", f"Origin: {OWN}"),
    Case("open", "Origin: http://127.0.0.1", 403),
    Case("open", "Origin: http://127.0.0.1:7172", 403),
    Case("open", "Origin: https://127.0.0.1:7171", 403),
    Case("open", "Origin: http://localhost:7171", 403),
    Case("open", f"Origin: {OWN}; Origin: {OWN}", 403),
    Case("open", f"Origin: {OWN}, https://evil.example", 403),
    Case("open", f"Origin: {OWN}/", 403),
    Case("open", "Origin: http://127.0.0.1:7171@evil.example", 403),
    Case("open", "Origin: http://127.0.0.1:99999", 403),
    Case("open", "Origin: *", 403),
    Case("open", "Host: LOCALHOST; Origin: http://localhost"),
    Case("open", "Host: localhost:80; Origin: http://localhost"),
    Case("open", "Host: localhost:443; Origin: http://localhost", 403),
    Case("open", "Host: [::1]:7171; Origin: http://[::1]:7171"),
    Case("open", "Sec-Fetch-Site: cross-site", 403),
    Case("open", "Sec-Fetch-Site: same-site", 403),
    Case("open", "Sec-Fetch-Site: Cross-Site", 403),
    Case("open", "Sec-Fetch-Site: none; Sec-Fetch-Site: cross-site", 403),
    Case("open", "Sec-Fetch-Site: none"),
    Case("open", "Sec-Fetch-Site: same-origin"),
    Case("open", "Sec-Fetch-Site: x"),
    Case("open", f"Origin: {OWN}; Sec-Fetch-Site: same-origin"),
    Case("open", f"Origin: {OWN}; Sec-Fetch-Site: cross-site", 403),
    Case("open", "Origin: https://evil.example; Sec-Fetch-Site: same-origin", 403),
    *(
        Case("open", "Origin: https://evil.example", 403, line)
        for line in ("GET /health", "HEAD /health", "GET /nothing", "OPTIONS /put", "DELETE /delete?key=a")
    ),
    Case("open", "Sec-Fetch-Site: cross-site", 403, "GET /health"),
    # The handshake of a WebSocket is a request like any other here.
    Case("open", "Origin: https://evil.example; Connection: Upgrade; Upgrade: websocket", 403, "GET /ws"),
    # A token does not help against a browser that was told to send it, nor does its lack go first.
    Case("token", f"Origin: https://evil.example; {RIGHT}", 403),
    Case("token", "Origin: https://evil.example", 403),
    Case("token", f"Origin: {OWN}; {RIGHT}"),
    Case("origins", f"Origin: {APP}", cors=True),
    Case("origins", f"Origin: {APP}; Sec-Fetch-Site: cross-site", cors=True),
    Case("origins", f"Origin: {LOCAL_APP}; Sec-Fetch-Site: same-site", cors=True),
    Case("origins", f"Origin: {APP}", 404, "GET /nothing", cors=True),
    Case("origins", f"Origin: {APP}", 404, "GET /get?key=nothing", cors=True),
    Case("origins", f"Origin: {APP}", 200, "HEAD /version", cors=True),
    Case("origins", f"Origin: {APP}", 204, "OPTIONS /put", cors=True),
    Case("origins", f"Origin: {APP}:444", 403),
    Case("origins", "Origin: http://app.example", 403),
    Case("origins", "Origin: https://xapp.example", 403),
    Case("origins", f"Origin: {APP}.evil.example", 403),
    Case("origins", f"Origin: {APP}; Origin: {APP}", 403),
    Case("origins", "Origin: null", 403),
    Case("origins", f"Origin: {OWN}"),
    # No Origin, as for an image: nobody knows whose page it is on.
    Case("origins", "Sec-Fetch-Site: cross-site", 403),
    Case("any", "Origin: https://evil.example; Sec-Fetch-Site: cross-site", cors=True),
    Case("any", "Origin: null", cors=True),
    Case("any", "Origin: chrome-extension://abcdef", cors=True),
    Case("any", "Origin: x", 403),
    Case("any", "Origin: https://a.example; Origin: https://b.example", 403),
    Case("any", "Sec-Fetch-Site: cross-site"),
    Case("any", f"Origin: {OWN}", cors=True),
    Case("both", f"Origin: {APP}", 401, cors=True),
    Case("both", f"Origin: {APP}; {RIGHT}", cors=True),
    Case("both", f"Origin: {APP}", 200, f"GET /version?_token={TOKEN}", cors=True),
    Case("both", f"Origin: {APP}", 200, "GET /health", cors=True),
]

ASKS = "Access-Control-Request-Method: PUT"
PREFLIGHTS = [
    *(
        Case(settings, f"Origin: {APP}; {ASKS}", 204, line, cors=True)
        for settings in ("origins", "any", "both")
        for line in ("OPTIONS /put", "OPTIONS /nothing", "OPTIONS /health")
    ),
    Case("open", f"Origin: {APP}; {ASKS}", 403, "OPTIONS /put"),
    Case("open", f"Origin: {OWN}; {ASKS}", 204, "OPTIONS /put"),
    Case("open", ASKS, 204, "OPTIONS /put"),
    Case("both", f"Origin: https://evil.example; {ASKS}", 403, "OPTIONS /put"),
    Case("both", f"Origin: null; {ASKS}", 403, "OPTIONS /put"),
    Case("both", f"Origin: {APP}", 401, "OPTIONS /put", cors=True),
    Case("both", ASKS, 401, "OPTIONS /put"),
    Case("both", f"Origin: {APP}; {ASKS}", 401, "GET /get?key=a", cors=True),
    Case("origins", f"Host: evil.example; Origin: {APP}; {ASKS}", 421, "OPTIONS /put"),
]

NAMES = [
    *(
        Case("open", f"Host: {host}")
        for host in (
            "127.0.0.1", "127.0.0.1:1", "192.168.1.1", "[::1]", "[::1]:7171", "localhost", "LocalHost:7171",
            "localhost.", "a.localhost", "a.b.localhost:7171", "kv", "kv:7171", "my_host",
        )
    ),
    *(
        Case("open", f"Host: {host}", 421)
        for host in (
            "evil.example", "evil.example:7171", "localhost.evil.example", "127.0.0.1.evil.example", "1.2.3",
            "evil.example.", "xlocalhost.example", "evil%2eexample", "1.2.3.4.5", "127.1", "0x7f.0.0.1",
        )
    ),
    Case("open", "Host: evil.example", 421, "GET /health"),
    Case("open", "Host: evil.example; Origin: http://evil.example; Sec-Fetch-Site: same-origin", 421),
    Case("open", "Host: evil.example", 421, "GET /nothing"),
    # The target goes before Host (RFC 9112, 3.2.2).
    Case("open", "Host: 127.0.0.1", 421, "GET http://evil.example/version"),
    Case("open", "Host: evil.example", 200, "GET http://127.0.0.1/version"),
    Case("names", "Host: one.example"),
    Case("names", "Host: One.Example:99"),
    Case("names", "Host: one.example."),
    Case("names", "Host: two.example:8080"),
    Case("names", "Host: two.example", 421),
    Case("names", "Host: two.example:80", 421),
    Case("names", "Host: three.example"),
    Case("names", "Host: three.example:80"),
    Case("names", "Host: three.example:8080", 421),
    Case("names", "Host: a.one.example", 421),
    Case("names", "Host: xone.example", 421),
    Case("names", "Host: below.example"),
    Case("names", "Host: a.below.example:1"),
    Case("names", "Host: a.b.below.example"),
    Case("names", "Host: xbelow.example", 421),
    Case("names", "Host: below.example.evil.example", 421),
    Case("names", "Host: localhost"),
    Case("public", "Host: any.example"),
    Case("public", "Host: any.example; Origin: http://any.example"),
    Case("public", "Host: any.example; Origin: http://evil.example", 403),
]  # fmt: skip

CASES = [*TOKENS, *BROWSERS, *PREFLIGHTS, *NAMES]
REFUSALS = {401: Column.UNAUTHORIZED, 403: Column.FOREIGN_ORIGINS, 421: Column.WRONG_HOSTS}
_each = pytest.mark.parametrize("case", CASES, ids=name)


@cache
def policy(settings: str) -> Access:
    return Access(Settings(workers=1, memory_bytes=4 << 20, **SETTINGS[settings]))


def origin_of(case: Case) -> str:
    return case.fields.split("Origin: ")[1].split(";")[0]


def check_fields(case: Case, fields: dict[str, str]) -> None:
    """What a reply says besides its status."""
    if case.status == 401:
        assert fields["www-authenticate"] == "Bearer"
    cross = {field: value for field, value in fields.items() if field.startswith("access-control-")}
    assert bool(cross) is case.cors
    if not case.cors:
        return
    assert cross.pop("access-control-allow-origin") == origin_of(case)
    assert fields["vary"] == "Origin"
    assert case.status != 204 or "content-length" not in fields
    if case.is_preflight:
        assert cross.pop("access-control-allow-methods") == "GET, HEAD, POST, PUT, DELETE"
        assert cross.pop("access-control-max-age") == "7200"
    else:
        assert {"ETag", "TTL", "Retry-After"} <= set(cross.pop("access-control-expose-headers").split(", "))
    assert cross == {}


# -- the table ---------------------------------------------------------------------------------------------


def test_each_case_is_there_once() -> None:
    assert len(set(map(name, CASES))) == len(CASES) > 130


@pytest.mark.parametrize("case", [c for c in CASES if "http://" not in c.line], ids=name)
def test_the_policy(case: Case) -> None:
    handler, fields = policy(case.settings).judge(case.line.encode(), case.head)
    assert bool(fields) is case.cors
    if case.status in (*REFUSALS, 400):
        assert handler is not None
        with pytest.raises(HttpError) as caught:
            handler(b"", case.head, b"")
        assert caught.value.status == case.status
        assert not caught.value.close
    elif case.is_preflight:
        assert handler is not None
        assert handler(b"", case.head, b"")[0] == 204
    else:
        assert handler is None


@_each
def test_a_connection(case: Case) -> None:
    """Whole, and byte by byte; five times, so that whatever is learned has been learned."""

    @in_loop
    async def scenario() -> None:
        worker = Worker(**SETTINGS[case.settings])
        client, slow = worker.client(), worker.client()
        for _ in range(5):
            assert statuses(client.ask(case.request)) == [case.status]
        slow.send(*(bytes([byte]) for byte in case.request))
        assert statuses(slow.take()) == [case.status]
        refused = [worker.counters[column] for column in REFUSALS.values()]
        assert sum(refused) == (6 if case.status in REFUSALS else 0)
        if case.status in REFUSALS:
            assert worker.counters[REFUSALS[case.status]] == 6
        worker.verify()

    scenario()


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server]]:
    """Servers by their settings, each started when it is first asked for."""
    with ExitStack() as stack:

        @cache
        def started(settings: str) -> Server:
            return stack.enter_context(running(workers=1, **SETTINGS[settings]))

        yield started


@_each
def test_a_server(case: Case, servers: Callable[[str], Server]) -> None:
    with servers(case.settings).connect() as client, client.makefile("rb") as stream:
        client.sendall(case.request * 3)
        for _ in range(3):
            reply = read_reply(stream, case.line.partition(" ")[0])
            assert reply.status == case.status
            check_fields(case, reply.fields)
            if case.status >= 400 and not case.line.startswith("HEAD"):
                assert json.loads(reply.body)["status"] == "ERROR"


def test_each_refusal_is_counted(servers: Callable[[str], Server]) -> None:
    server = servers("both")
    fields = {"Authorization": f"Bearer {TOKEN}"}
    before = json.loads(server.request("GET", "/stats", None, fields).body)
    assert server.request("GET", "/stats").status == 401
    for _ in range(2):
        assert server.request("GET", "/stats", None, {"Origin": "null"}).status == 403
    after = json.loads(server.request("GET", "/stats", None, fields).body)
    told = {
        field: after[field] - before[field] for field in ("unauthorized", "foreign_origins", "wrong_hosts")
    }
    assert told == {"unauthorized": 1, "foreign_origins": 2, "wrong_hosts": 0}
    assert after["bad_requests"] == before["bad_requests"]


# -- which hosts are guarded -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "guarded"),
    [
        ({}, True),
        ({"host": "127.0.0.5"}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "192.0.2.1,2001:db8::1"}, False),
        ({"host": "192.0.2.1,127.0.0.1"}, True),
        ({"host": "192.0.2.1,kv.example"}, True),  # a name may be one of a loopback address
        ({"host": "127.0.0.1", "token": TOKEN}, False),
        ({"host": "127.0.0.1", "unix": "x.sock"}, True),
        ({"host": "192.0.2.1", "unix": "x.sock"}, False),
    ],
)
def test_which_hosts_are_guarded(settings: dict[str, Any], guarded: bool) -> None:
    rules = Access(Settings(workers=1, memory_bytes=4 << 20, **settings))
    stranger = Case("", f"Host: evil.example; {RIGHT}").head
    handler, _ = rules.judge(b"GET /version", stranger)
    assert (handler is not None) is guarded


def test_a_name_that_is_listened_on_is_a_good_host() -> None:
    rules = Access(Settings(workers=1, memory_bytes=4 << 20, host=("Kv.example",)))
    assert is_admitted(rules, Case("", "Host: kv.Example:7171").head)
    assert not is_admitted(rules, Case("", "Host: b.example").head)


def test_without_host_there_is_no_wrong_one() -> None:
    head = build_head(b"1.0", ())
    assert policy("open").judge(b"GET /version", head) == (None, b"")
    handler, _ = policy("open").judge(b"GET /version", build_head(b"1.0", ((b"origin", b"http://a"),)))
    assert handler is not None


def test_with_a_certificate_the_own_scheme_is_https() -> None:
    rules = Access(Settings(workers=1, memory_bytes=4 << 20, tls_cert=Path("c"), tls_key=Path("k")))
    for origin, own in {
        "https://localhost": True,
        "https://localhost:7171": False,
        "http://localhost": False,
    }.items():
        assert is_admitted(rules, Case("", f"Host: localhost; Origin: {origin}").head) is own


# -- preflights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "field", "value"),
    [
        ("Access-Control-Request-Headers: ttl,x", "Access-Control-Allow-Headers", "ttl,x"),
        ("Access-Control-Request-Headers: a, b", "Access-Control-Allow-Headers", "a, b"),
        ("Access-Control-Request-Headers: a\x7f", "Access-Control-Allow-Headers", None),
        ('Access-Control-Request-Headers: "', "Access-Control-Allow-Headers", None),
        ("Access-Control-Request-Headers:", "Access-Control-Allow-Headers", None),
        ("X: y", "Access-Control-Allow-Headers", None),
        ("Access-Control-Request-Private-Network: true", "Access-Control-Allow-Private-Network", "true"),
        ("X: y", "Access-Control-Allow-Private-Network", None),
    ],
)  # fmt: skip
def test_what_a_preflight_asks_for(asked: str, field: str, value: str | None) -> None:
    fields = ((b"origin", APP.encode()), (b"access-control-request-method", b"PUT"), (b"host", b"a"))
    raw_name, _, raw_value = asked.encode().partition(b":")
    head = build_head(b"1.1", (*fields, (raw_name.lower(), raw_value.strip(b" "))))
    handler, _ = policy("both").judge(b"OPTIONS /put", head)
    assert handler is not None
    told = dict(line.split(": ") for line in handler(b"", head, b"")[1].decode().splitlines() if line)
    assert told.get(field) == value


# -- one after the other -----------------------------------------------------------------------------------


@_each
def test_an_admitted_sender_may_ask_for_anything(case: Case) -> None:
    rules = policy(case.settings)
    if is_admitted(rules, case.head):
        assert rules.judge(b"GET /version", case.head) == (None, b"")
        assert rules.judge(b"OPTIONS /x?_token=%zz", case.head) == (None, b"")


def test_usual_clients_are_admitted() -> None:
    """The compiled core answers these; it declines a sender that is not admitted."""
    for settings, fields in {
        "open": "User-Agent: curl/8; Accept: */*",
        "token": RIGHT,
        "both": RIGHT,
        "origins": f"Origin: {OWN}; Sec-Fetch-Site: same-origin",
    }.items():
        assert is_admitted(policy(settings), Case(settings, fields).head)


def statuses(sent: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", sent)]


GET = "GET /get?key=a"
# (settings, who may, who may not and what that one gets)
PAIRS = [
    ("token", RIGHT, "", 401),
    ("token", RIGHT, "Authorization: Bearer s3cret-T0keN", 401),
    ("token", RIGHT, f"{RIGHT}; {RIGHT}", 401),
    ("token", RIGHT, f"{RIGHT}; Origin: null", 403),
    ("token", RIGHT, f"{RIGHT}; Sec-Fetch-Site: cross-site", 403),
    ("open", "", "Sec-Fetch-Site: same-site", 403),
    ("open", "", "Origin: https://evil.example", 403),
    ("open", "", "Host: evil.example", 421),
    ("open", "Host: kv", "Host: k.v", 421),
    ("origins", "", "Origin: https://evil.example", 403),
]


def stored(worker: Worker, may: Case) -> Client:
    """A client that may speak and has spoken, when the entry is stored."""
    client = worker.client()
    worker.store.put(b"a", b"1", lambda: 0)
    for _ in range(4):
        assert statuses(client.ask(may.request)) == [200]
    return client


@pytest.mark.parametrize(("settings", "may", "may_not", "status"), PAIRS)
def test_a_verdict_on_one_sender_is_not_that_on_another(
    settings: str, may: str, may_not: str, status: int
) -> None:
    @in_loop
    async def scenario() -> None:
        right, wrong = Case(settings, may, 200, GET), Case(settings, may_not, status, GET)
        worker = Worker(**SETTINGS[settings])
        client = stored(worker, right)
        other = worker.client()
        for asker in (other, client):
            for _ in range(4):
                assert statuses(asker.ask(wrong.request)) == [status]
        assert statuses(client.ask(right.request)) == [200]
        for times in (1, 2, 16):
            for _ in range(3):
                mixed = (right.request * times + wrong.request * times) * 2
                assert statuses(client.ask(mixed)) == ([200] * times + [status] * times) * 2
                assert statuses(client.ask(wrong.request * times)) == [status] * times
        client.send(wrong.request[:-1], wrong.request[-1:] + right.request)
        assert statuses(client.take()) == [status, 200]
        worker.verify()

    scenario()


@with_settings(max_examples=100, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    who=st.lists(st.booleans(), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 1500), max_size=6),
)
def test_order_and_splits_change_nothing(
    pair: tuple[str, str, str, int], who: list[bool], cuts: list[int]
) -> None:
    @in_loop
    async def scenario() -> None:
        settings, may, may_not, status = pair
        requests = {True: Case(settings, may, 200, GET), False: Case(settings, may_not, status, GET)}
        worker = Worker(**SETTINGS[settings])
        client = stored(worker, requests[True])
        data = b"".join(requests[one].request for one in who)
        bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        client.send(*(data[a:b] for a, b in itertools.pairwise(bounds) if a < b))
        assert statuses(client.take()) == [200 if one else status for one in who]
        worker.verify()

    scenario()


@in_loop
async def test_a_right_token_counts_in_the_query_as_well() -> None:
    worker = Worker(token=TOKEN)
    client = stored(worker, Case("token", RIGHT, 200, GET))
    for _ in range(5):
        assert statuses(client.ask(Case("token", "", 200, f"{GET}&_token={TOKEN}").request)) == [200]
        assert statuses(client.ask(Case("token", "", 401, f"{GET}&_token=x").request)) == [401]
    worker.verify()


@in_loop
async def test_nothing_is_stored_for_who_may_not() -> None:
    worker = Worker(token=TOKEN)
    client = worker.client()
    body = put("a", "1")
    fields = f"\r\n{RIGHT}\r\nContent-Length".encode()
    assert statuses(client.ask(body)) == [401]
    assert statuses(client.ask(body.replace(b"POST", b"PUT"))) == [401]
    chunked = b"POST /put HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n17\r\n%b\r\n0\r\n\r\n"
    assert statuses(worker.client().ask(chunked % body[-23:])) == [401]
    assert worker.store.stats()["entries"] == 0
    assert statuses(client.ask(body.replace(b"\r\nContent-Length", fields))) == [200]
    assert worker.store.stats()["entries"] == 1
    worker.verify()


# -- the token is compared in constant time, and kept to itself ---------------------------------------------


@pytest.mark.parametrize("given", ["", "s", TOKEN, TOKEN + "x", "x" * 1000])
@pytest.mark.parametrize("line", ["GET /version", "GET /version?_token={}"])
def test_tokens_are_compared_by_digests_and_by_nothing_else(
    monkeypatch: pytest.MonkeyPatch, given: str, line: str
) -> None:
    """Whatever the comparison says is what holds, and all that it sees is of one length."""
    compared: list[tuple[bytes, bytes]] = []
    verdicts: list[bool] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return verdicts[-1]

    monkeypatch.setattr(access, "compare_digest", compare)
    rules = Access(Settings(workers=1, memory_bytes=4 << 20, token=TOKEN))
    fields = "" if "{}" in line else f"Authorization: Bearer {given}"
    for verdict in (True, False):
        verdicts.append(verdict)
        compared.clear()
        handler, _ = rules.judge(line.format(given).encode(), Case("token", fields).head)
        assert (handler is None) is verdict
        assert compared
        assert {len(digest) for pair in compared for digest in pair} == {32}


def test_a_token_by_flag_is_in_no_output() -> None:
    for settings in (
        {"token": TOKEN, "port": "x"},
        {"token": f"{TOKEN}\n"},
        {"token": TOKEN, "memory": "1mb"},
    ):
        code, out, err = run_to_end(**settings)
        assert code in (1, 2)
        assert TOKEN not in out + err
        assert err.startswith("fastkv: ")
    code, out, err = run_to_end(help=True, token=TOKEN)
    assert code == 0
    assert TOKEN not in out + err


# -- the log: an owner's own page may be among those that are kept out ---------------------------------------

# Fields, what is said of them, and where they are counted.
_REFUSED = [
    (
        "Origin: https://evil.example",
        "A page of the Origin 'https://evil.example' was refused; --allow-origin lets pages of an origin in.",
        "foreign_origins",
    ),
    (
        "Sec-Fetch-Site: cross-site",
        "A page without Origin was refused (Sec-Fetch-Site 'cross-site'); --allow-origin * lets all in.",
        "foreign_origins",
    ),
    (
        "Host: evil.example",
        "A request for the unknown Host 'evil.example' was refused; --allowed-host adds names.",
        "wrong_hosts",
    ),
]


def request_of(fields: str, line: str = "GET /version") -> bytes:
    """A request with some fields, a Host of the server's own unless they have one."""
    host = "" if "Host:" in fields else "Host: 127.0.0.1\r\n"
    return f"{line} HTTP/1.1\r\n{host}{fields}\r\n\r\n".encode("latin-1")


@pytest.mark.parametrize(("fields", "complaint", "counter"), _REFUSED)
@in_loop
async def test_the_first_refusal_is_logged_and_the_others_are_counted(
    fields: str, complaint: str, counter: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    body = "Content-Length: 9\r\n"  # is not waited for
    for line, more in (("GET /version", ""), ("GET /version", ""), ("GET /ws", ""), ("PUT /kv/k", body)):
        assert statuses(worker.client().ask(request_of(more + fields, line))) in ([403], [421])
    warning = f"{complaint} Further ones are only counted, in {counter} of /stats."
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", warning)]
    assert worker.counters[Column[counter.upper()]] == 4
    worker.verify()


@in_loop
async def test_origin_and_host_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    # One for an https URL is another mistake, and no host's.
    https = b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n"
    assert statuses(worker.client().ask(https)) == [421]
    for fields, _, _ in _REFUSED * 2:
        worker.client().ask(request_of(fields))
    assert [message.split(" was refused")[0] for message in caplog.messages] == [
        "A page of the Origin 'https://evil.example'",
        "A request for the unknown Host 'evil.example'",
    ]
    assert (worker.counters[Column.FOREIGN_ORIGINS], worker.counters[Column.WRONG_HOSTS]) == (4, 2)
    assert worker.counters[Column.BAD_REQUESTS] == 1


@in_loop
async def test_allowed_and_unauthorised_senders_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(token=TOKEN, allow_origin=[APP])
    for fields, status in ((f"Origin: {APP}", 401), ("Host: evil.example", 401), ("X: y", 401)):
        assert statuses(worker.client().ask(request_of(fields))) == [status]
    assert caplog.messages == []


@pytest.mark.parametrize(
    "value", ["https://" + "a" * 5000, "\t'\"\\", "a\tb\x80\x85\x9b31m\xad\xff", "%s{}{0}%(x)s", "", "null"]
)
@in_loop
async def test_what_is_logged_is_one_short_line(value: str, caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    assert statuses(worker.client().ask(request_of(f"Origin: {value}"))) == [403]
    (message,) = caplog.messages
    assert message.isprintable()
    assert len(message) < 250
    assert message.startswith("A page of the Origin ")


def test_a_server_logs_it_once_over_all_its_workers() -> None:
    with running(workers=2) as server:
        for _ in range(30):
            refused = server.request("GET", "/version", None, {"Origin": "https://evil.example"})
            assert refused.status == 403
        assert server.log().count("https://evil.example") == 1
        assert json.loads(server.request("GET", "/stats").body)["foreign_origins"] == 30
