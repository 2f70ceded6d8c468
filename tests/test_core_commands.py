"""Commands as JSON, in the core and on the readable path: the same replies, the same bytes in the arena."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Final

import orjson
import pytest
from fake import MAX_VALUE_BYTES, running_loop
from test_core_http import LONGEST_KEY, LONGEST_VALUE, Pair, memory_of, put, request, talk

from fastkv import core
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not core.COMPILED, reason=core.REASON or "compiled")

_BASE64: Final = b"Upstash-Encoding: base64\r\n"
_SMALLEST: Final = -(1 << 63)
_LARGEST: Final = (1 << 63) - 1


@pytest.fixture
def pair() -> Iterator[Pair]:
    with running_loop():
        both = Pair()
        yield both
        both.check()


def one(body: bytes, fields: bytes = b"") -> bytes:
    """A request that runs a command."""
    return request(b"POST", b"/", fields, body)


def several(body: bytes, fields: bytes = b"") -> bytes:
    """A request that runs several."""
    return request(b"POST", b"/pipeline", fields, body)


def command(*words: str | int) -> bytes:
    """A command as JSON."""
    return orjson.dumps(words)


STRINGS: Final = (
    "",
    "plain",
    "x" * 15,
    "x" * 16,
    "x" * 70,
    "x" * 300,
    'with "quotes" and \\ and \n\t\b\f\r\0\x1f\x7f/',
    "süß 漢字 \U0001f600",
    "é" * 33,
    LONGEST_VALUE.decode(),
    '"' * MAX_VALUE_BYTES,
    "1",
    "01",
    "-0",
)

# What the core answers by itself, in one row: each reply depends on what was asked for before.
ORDINARY: Final = (
    command("GET", "a"),
    command("SET", "a", "1"),
    command("GET", "a"),
    command("get", "a"),
    command("gEt", "a"),
    command("INCR", "a"),
    command("incr", "a"),
    command("GET", "a"),
    command("INCR", "new"),
    command("GET", "new"),
    command("SET", "n", -10),
    command("INCR", "n"),
    command("GET", "n"),
    command("SET", "n", _SMALLEST),
    command("INCR", "n"),
    command("SET", "n", _LARGEST - 1),
    command("INCR", "n"),
    command("SET", "n", -1),
    command("INCR", "n"),
    command("MGET", "a"),
    command("MGET", "a", "n"),
    command("MGET", "a", "none", "n", "a"),
    command("MGET", "none", "a"),
    command("MGET", "a", "none"),
    command("MGET", "none"),
    command("SET", "t", "x", "EX", "7"),
    command("SET", "t", "x", "ex", 7),
    command("GET", "t"),
    command("SET", "t", "1", "PX", "1500"),
    command("INCR", "t"),
    command("GET", "t"),
    command("SET", "t", "1", "pX", 10_000_000_000),
    command("SET", "t", "x", "EX", 10_000_000_000),
    command("SET", "t", "without"),
    command("DEL", "t"),
    command("del", "t"),
    command("GET", "t"),
    b' [ "GET" , "a" ] ',
    b'\r\n\t["GET",\n"a"]\r\n',
    b'["\\u0047ET","\\u0061"]',
    b'["SET","q\\"uote","\\ud83d\\ude00 \\/ \\n"]',
    b'["GET","q\\"uote"]',
    b'["SET","number",-0]',
    b'["GET","number"]',
    b'["SET","number",123456789012345678901234567890]',
    b'["GET","number"]',
    b'["SET",7,0]',
    b'["GET",7]',
    b'["INCR",7]',
    command("SET", LONGEST_KEY.decode(), LONGEST_VALUE.decode()),
    command("GET", LONGEST_KEY.decode()),
    *(command("SET", "string", each) for each in STRINGS),
)

# What the readable path has to answer, and why.
DECLINED: Final = (
    (b"", "body"),
    (b"[]", "body"),
    (b"[", "body"),
    (b"]", "body"),
    (b"null", "body"),
    (b'"GET"', "body"),
    (b"{}", "body"),
    (b'["GET"]', "body"),
    (b'["GET","a"', "body"),
    (b'["GET","a"]]', "body"),
    (b'["GET","a"]x', "body"),
    (b'["GET","a",]', "body"),
    (b'["GET",,"a"]', "body"),
    (b'["GET" "a"]', "body"),
    (b'[["GET","a"]]', "body"),
    (b'["GET",["a"]]', "body"),
    (b'["GET","a","b"]', "body"),
    (b'["GET",""]', "body"),
    (b'["GET",null]', "body"),
    (b'["GET",true]', "body"),
    (b'["GET",1.5]', "body"),
    (b'["GET",1e3]', "body"),
    (b'["GET",01]', "body"),
    (b'["GET",-]', "body"),
    (b'["GET",+1]', "body"),
    (b'["GET","\xff"]', "body"),
    (b'["GET","\xed\xa0\x80"]', "body"),
    (b'["GET","\\ud800"]', "body"),
    (b'["GET","\n"]', "body"),
    (b'["GET","a\\x"]', "body"),
    (b'\xef\xbb\xbf["GET","a"]', "body"),
    (command("GET", "k" + LONGEST_KEY.decode()), "body"),
    (command("MGET"), "body"),
    (command("MGET", "a", ""), "body"),
    (command("MGET", *map(str, range(257))), "body"),
    (command("MGET", "none", "neither"), "engine"),
    (command("SET", "a"), "body"),
    (command("SET", "a", "b", "EX"), "body"),
    (command("SET", "a", "b", "EX", "0"), "body"),
    (command("SET", "a", "b", "EX", "-1"), "body"),
    (command("SET", "a", "b", "EX", "1.5"), "body"),
    (command("SET", "a", "b", "EX", "01"), "body"),
    (command("SET", "a", "b", "EX", "10000000001"), "body"),
    (command("SET", "a", "b", "PX", "9223372036854775807"), "body"),
    (command("SET", "a", "b", "EXAT", "5"), "body"),
    (command("SET", "a", "b", "NX"), "body"),
    (command("SET", "a", "b", "EX", "5", "NX"), "body"),
    (command("SET", "a", "v" + LONGEST_VALUE.decode()), "body"),
    (command("SET", "", "v"), "body"),
    (command("INCR", "text"), "engine"),
    (command("INCR", "last"), "engine"),
    (command("INCR", "padded"), "engine"),
    (command("INCR", "a", "1"), "body"),
    (command("INCR", ""), "body"),
    (command("DEL", "a", "b"), "body"),
    (command("DEL"), "body"),
    (command("PING"), "body"),
    (command("DECR", "a"), "body"),
    (command("GETX", "a"), "body"),
    (command("\x07\x05\x14", "a"), "body"),
    (b"[1,2]", "body"),
    (command("GET", "bytes"), "encoding"),
    (command("MGET", "text", "bytes"), "encoding"),
)

_PREPARED: Final = (
    command("SET", "text", "some"),
    command("SET", "last", _LARGEST),
    command("SET", "padded", "01"),
)


def prepare(pair: Pair) -> None:
    """Have something in both stores, of which the readable path has to tell."""
    for each in (*map(one, _PREPARED), request(b"PUT", b"/kv/bytes", b"", b"\xff\xfe")):
        assert talk(pair.compiled, [each]) == talk(pair.readable, [each])


@pytest.mark.parametrize(
    "fields", [b"", _BASE64, b"upstash-encoding:BASE64\r\n", b"Upstash-Encoding: no\r\n"]
)
def test_ordinary_commands_get_the_same_replies(pair: Pair, fields: bytes) -> None:
    for each in ORDINARY:
        asked = one(each, fields)
        assert talk(pair.compiled, [asked]) == talk(pair.readable, [asked]), each
        shown = one(command("GET", "string"), fields)
        assert talk(pair.compiled, [shown]) == talk(pair.readable, [shown]), each
    assert pair.compiled.declined == {}
    pair.check()


def test_what_is_not_ordinary_is_declined_and_changes_nothing(pair: Pair) -> None:
    prepare(pair)
    for body, reason in DECLINED:
        asked = one(body)
        before = memory_of(pair.compiled.store), list(pair.compiled.counters)
        declined = pair.compiled.http.declines[reason]
        assert pair.compiled.http.serve(asked, 0, 1) == (b"", 0, core.framing.DECLINED), body
        assert pair.compiled.http.declines[reason] == declined + 1, body
        assert (memory_of(pair.compiled.store), list(pair.compiled.counters)) == before, body
        assert talk(pair.compiled, [asked]) == talk(pair.readable, [asked]), body


def test_any_value_is_returned_as_the_readable_path_returns_it(pair: Pair) -> None:
    values = [b"\xff", b"\x80abc", b"OK", *(bytes(range(size)) for size in range(128)), b"a" * 3000]
    for value in values:
        for asked in (
            request(b"PUT", b"/kv/a", b"", value),
            one(command("GET", "a")),
            one(command("GET", "a"), _BASE64),
            one(command("MGET", "a", "none", "a")),
            one(command("MGET", "a", "none", "a"), _BASE64),
        ):
            assert talk(pair.compiled, [asked]) == talk(pair.readable, [asked]), value
    assert pair.compiled.declined == {"encoding": 4}


def test_counting_keeps_deadline_and_metadata(pair: Pair) -> None:
    for asked in (
        request(b"PUT", b"/kv/n?ttl=60", b"Content-Type: text/plain\r\nContent-Encoding: gzip\r\n", b"41"),
        one(command("INCR", "n")),
        request(b"GET", b"/kv/n"),
        put(b'{"key":"p","value":"41"}'),
        one(command("INCR", "p")),
        request(b"GET", b"/get?key=p"),
    ):
        assert talk(pair.compiled, [asked]) == talk(pair.readable, [asked]), asked
    assert pair.compiled.declined == {}


@pytest.mark.parametrize("name", ["GET", "INCR", "DEL", "MGET", "SET"])
def test_what_has_expired_is_missing(pair: Pair, name: str) -> None:
    asked = one(command(name, "t", "new")) if name == "SET" else one(command(name, "t"))
    for each in (one(command("SET", "t", "41", "PX", 100)), one(command("GET", "t"))):
        assert talk(pair.compiled, [each]) == talk(pair.readable, [each])
    for passed_ms in (99, 100, 101):
        pair.at(1_000_000 + passed_ms)
        assert talk(pair.compiled, [asked]) == talk(pair.readable, [asked]), passed_ms
        pair.check()


@pytest.mark.parametrize(
    "value", ["", "-", "-0", "00", "+1", " 1", "1 ", "1.0", "1e1", "a", "-a", "9" * 19, "1" * 21]
)
def test_what_is_no_integer_gets_its_error(pair: Pair, value: str) -> None:
    for asked in (one(command("SET", "n", value)), one(command("INCR", "n")), one(command("GET", "n"))):
        assert talk(pair.compiled, [asked]) == talk(pair.readable, [asked])
    assert pair.compiled.declined == {"engine": 1}


@pytest.mark.parametrize(
    "number",
    [_SMALLEST, _SMALLEST + 1, -10, -1, 0, 9, 99, _LARGEST - 2, _LARGEST - 1, _LARGEST, _LARGEST + 1],
)
def test_integers_of_64_bits_are_counted(pair: Pair, number: int) -> None:
    for asked in (
        one(command("SET", "n", str(number))),
        one(command("INCR", "n")),
        one(command("INCR", "n")),
    ):
        assert talk(pair.compiled, [asked]) == talk(pair.readable, [asked])
    first = pair.compiled.declined.get("engine", 0)
    assert first == sum(number + more >= _LARGEST for more in (0, 1))


def test_writes_are_declined_while_events_are_listened_to(pair: Pair) -> None:
    http = pair.compiled.http
    words = memoryview(bytearray(8)).cast("Q")
    limits = pair.compiled.routes.commands.limits
    commands = core.commands.JsonCommands(
        pair.compiled.store.engine,  # type: ignore[arg-type]
        pair.compiled.routes.clock,  # type: ignore[arg-type]
        pair.compiled.counters,
        (Column.HITS, Column.MISSES, Column.PUTS, Column.DELETES),
        words,
        pair.compiled.routes.redis.run_one_of_several,
        max_key_bytes=limits.max_key,
        max_value_bytes=limits.max_value,
        max_batch=limits.max_batch,
        max_reply_bytes=limits.max_reply,
    )
    assert http.commands is not commands
    words[0] = 1
    before = memory_of(pair.compiled.store)
    for each in (command("SET", "a", "b"), command("INCR", "a"), command("DEL", "a")):
        assert commands.answer(each) is None
        assert commands.answer(b"[" + each + b"]", True) is None
    assert memory_of(pair.compiled.store) == before
    assert commands.answer(command("GET", "a")) == b'{"result":null}'
    words[0] = 0
    assert commands.answer(command("DEL", "a")) == b'{"result":0}'
    assert talk(pair.readable, [one(command("GET", "a"))])


PIPELINES: Final = (
    (command("GET", "a"),),
    ORDINARY,
    tuple(command("SET", f"k{number}", "v" * number) for number in range(100)),
    (command("MGET", "none", "neither"), command("GET", "a"), command("INCR", "text"), command("GET", "a")),
    (
        command("SET", "a", "1"),
        command("GET", "bytes"),
        command("MGET", "bytes", "a"),
        command("INCR", "last"),
    ),
    tuple(command("GET", "a") for _ in range(256)),
)
DECLINED_PIPELINES: Final = (
    b"",
    b"[]",
    b"[[]]",
    b"[",
    b"[[",
    b'[["GET","a"]',
    b'[["GET","a"],]',
    b'[["GET","a"],["GET"]]',
    b'[["SET","a","b"],["PING"]]',
    b'[["SET","a","b"],"GET"]',
    b'[["SET","a","b"]]]',
    b'[["SET","a","b"]] x',
    b'["GET","a"]',
    b'[["SET","a","b"],["GET","a"],null]',
    b"[%b]" % b",".join([command("GET", "a")] * 257),
    b"[%b]" % b",".join([command("SET", "a", "b")] * 1025),
    b"[%b]" % b",".join([command("MGET", *"ab" * 100)] * 2),
)


@pytest.mark.parametrize("fields", [b"", _BASE64])
def test_pipelines_get_the_same_replies(pair: Pair, fields: bytes) -> None:
    prepare(pair)
    for each in PIPELINES:
        asked = several(b"[%b]" % b",".join(each), fields)
        assert talk(pair.compiled, [asked]) == talk(pair.readable, [asked]), each
        pair.check()
    assert pair.compiled.declined == {}


def test_a_pipeline_is_declined_whole_and_changes_nothing(pair: Pair) -> None:
    prepare(pair)
    for body in DECLINED_PIPELINES:
        asked = several(body)
        before = memory_of(pair.compiled.store), list(pair.compiled.counters)
        assert pair.compiled.http.serve(asked, 0, 1) == (b"", 0, core.framing.DECLINED), body
        assert (memory_of(pair.compiled.store), list(pair.compiled.counters)) == before, body


def test_a_pipeline_has_a_bound_for_all_replies() -> None:
    with running_loop():
        both = Pair(max_reply_bytes=1 << 20, memory_bytes=32 << 20, max_value_bytes=8000)
        value = "v" * 7000
        reads = [command("GET", "a")] * 155
        for each in (
            [command("SET", "a", value)],
            reads,
            [*reads, command("SET", "b", "1")],
            [command("GET", "b")],
        ):
            asked = several(b"[%b]" % b",".join(each))
            assert talk(both.compiled, [asked]) == talk(both.readable, [asked])
        asked = several(b"[%b]" % command("MGET", *["a"] * 155))
        ours = talk(both.compiled, [asked])
        assert b"max-reply-bytes" in ours[0]
        assert ours == talk(both.readable, [asked])
        assert (
            both.compiled.counters[Column.REPLY_TOO_LONG]
            == both.readable.counters[Column.REPLY_TOO_LONG]
            > 10
        )
        assert both.compiled.declined == {}
        both.check()


def test_what_the_engine_declines_of_a_pipeline_is_done_in_its_place() -> None:
    """A store that evicts, and values in fragments."""
    with running_loop():
        both = Pair(memory_bytes=2 << 20, max_value_bytes=250_000, max_output_bytes=1 << 20)
        dice = random.Random(7)
        for number in range(150):
            each = [
                command("SET", f"k{dice.randrange(400)}", "v" * dice.choice((10, 900, 4000, 40_000)))
                for _ in range(20)
            ]
            each += [command("GET", f"k{dice.randrange(400)}") for _ in range(5)]
            each += [command("INCR", f"n{dice.randrange(400)}") for _ in range(5)]
            dice.shuffle(each)
            asked = several(b"[%b]" % b",".join(each))
            assert talk(both.compiled, [asked]) == talk(both.readable, [asked]), number
        both.check()
        assert both.compiled.store.engine.declines["large"] > 0  # type: ignore[union-attr]
        assert both.compiled.store.engine.declines["full"] > 0  # type: ignore[union-attr]
        assert set(both.compiled.declined) == {"engine"}  # where a large value was read
        assert both.compiled.declined["engine"] < 150


def test_commands_at_each_split(pair: Pair) -> None:
    bodies = (command("SET", "a", "1"), command("INCR", "a"), command("MGET", "a", "b"))
    whole = b"".join(map(one, bodies)) + several(b"[%b]" % b",".join(bodies)) + one(command("PING"))
    for at in range(len(whole) + 1):
        pieces = [each for each in (whole[:at], whole[at:]) if each]
        assert talk(pair.compiled, pieces) == talk(pair.readable, pieces), at
    pieces = [whole[at : at + 1] for at in range(len(whole))]
    assert talk(pair.compiled, pieces) == talk(pair.readable, pieces)


def test_a_token_is_asked_for() -> None:
    with running_loop():
        both = Pair(token="secret")
        for fields in (b"", b"Authorization: Bearer wrong\r\n", b"Authorization: Bearer secret\r\n"):
            for asked in (one(command("SET", "a", "1"), fields), several(b'[["INCR","a"]]', fields)):
                assert talk(both.compiled, [asked]) == talk(both.readable, [asked]), fields
        assert both.compiled.counters[Column.PUTS] == 2
        both.check()


def test_random_commands_leave_equal_arenas(pair: Pair) -> None:
    dice = random.Random(11)
    keys = [f"k{number}" for number in range(40)]
    for turn in range(300):
        pair.at(1_000_000 + 50 * turn)
        each = []
        for _ in range(dice.randrange(1, 12)):
            key = dice.choice(keys)
            each.append(
                dice.choice(
                    (
                        command("GET", key),
                        command("MGET", *dice.choices(keys, k=dice.randrange(1, 5))),
                        command("SET", key, dice.choice(STRINGS)),
                        command("SET", key, dice.randrange(-100, 100)),
                        command("SET", key, dice.choice(STRINGS), "PX", dice.randrange(1, 2000)),
                        command("SET", key, "5", "EX", dice.randrange(1, 4)),
                        command("INCR", key),
                        command("DEL", key),
                    )
                )
            )
        fields = dice.choice((b"", b"", _BASE64))
        asked = one(each[0], fields) if len(each) == 1 else several(b"[%b]" % b",".join(each), fields)
        assert talk(pair.compiled, [asked]) == talk(pair.readable, [asked]), each
        if turn % 20 == 0:
            pair.check()


def test_what_is_not_whole_is_declined(pair: Pair) -> None:
    """Of a body any beginning; that no byte behind it is looked at `make sanitize` sees."""
    commands = pair.compiled.http.commands
    for body, batch in itertools.product(ORDINARY[:48], (False, True)):
        whole = b"[%b]" % body if batch else body
        for size in range(len(whole.rstrip())):
            assert commands.answer(whole[:size], batch) is None, whole[:size]
