"""Every command, side by side with a Redis 7.0: the same replies, the same errors, the same events."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from commands_cases import CASES, DIFFERENCES, Case, Step
from commands_helpers import LIMITS, run_to_end
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_server import SERVER, RedisClient, running_redis
from store_helpers import KIB, MIB, open_store

from fastkv.clock import boot_ms
from fastkv.commands.context import Nobody
from fastkv.commands.execute import Commands
from fastkv.commands.replies import CommandError, Reply, Status
from fastkv.commands.session import Session
from fastkv.commands.table import COMMANDS
from fastkv.stats import ROW_WORDS, Column

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(SERVER is None, reason="there is no redis-server")

_END = b"the end"
# How often a reply is asked for that is to become nil: some seconds.
_MOST_ASKED = 1_000_000


class Both:
    """The commands here and a Redis, each with two connections, and the events of both."""

    def __init__(self, commands: Commands, told: list[tuple[bytes, bytes]], redis: list[RedisClient]) -> None:
        self.commands = commands
        self.told = told
        *self.redis, self.events, self.publisher = redis
        self.clients = [Nobody(), Nobody()]
        self.events.run([b"PSUBSCRIBE", b"__keyevent@0__:*"])

    def begin(self) -> None:
        """Forget all entries and transactions."""
        for client in self.clients:
            client.session = Session()
        for number in (0, 1):
            self.run(number, [b"DISCARD"])
            self.run(number, [b"UNWATCH"])
            self.run(number, [b"FLUSHALL"])
        self.redis_events()
        self.told.clear()

    def run(self, connection: int, words: list[bytes]) -> tuple[Reply, Reply]:
        """Run a command on both."""
        ours = run_to_end(self.commands, list(words), self.clients[connection])
        return ours, self.redis[connection].run(words)

    def step(self, step: Step) -> tuple[Reply, Reply]:
        """Run a step on both."""
        words = step.filled()
        if not step.awaits:
            return self.run(step.connection, words)
        for _ in range(_MOST_ASKED):
            replies = self.run(step.connection, words)
            if replies == (None, None):
                return replies
        raise AssertionError(f"{step.text}: it does not become nil")

    def redis_events(self) -> list[tuple[bytes, bytes]]:
        """The events of Redis since the last call; who expires is found out when it pleases either side."""
        self.publisher.run([b"PUBLISH", b"__keyevent@0__:" + _END, b""])
        events: list[tuple[bytes, bytes]] = []
        while True:
            push = self.events.read()
            assert isinstance(push, list)
            channel, key = push[2:]
            assert isinstance(channel, bytes)
            assert isinstance(key, bytes)
            event = channel.partition(b":")[2]
            if event == _END:
                return events
            if event != b"expired":
                events.append((event, key))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with (
        running_redis(tmp_path_factory.mktemp("redis")) as path,
        open_store(32 * MIB, shards=4, segment_bytes=64 * KIB) as store,
    ):
        clients = [RedisClient(path) for _ in range(4)]
        told: list[tuple[bytes, bytes]] = []
        counters = [0] * ROW_WORDS
        commands = Commands(
            store,
            boot_ms,
            counters,
            limits=replace(LIMITS, max_key=10_000, max_value=1 << 20, max_batch=100, max_reply=1 << 20),
            notify=lambda event, key: told.append((event, key)),
        )
        yield Both(commands, told, clients)
        for client in clients:
            client.close()
        assert counters[Column.INTERNAL_ERRORS] == 0


def alike(reply: Reply, other: Reply, step: Step) -> bool:
    """Whether two replies are the same, as a step compares them."""
    if isinstance(reply, CommandError) or isinstance(other, CommandError):
        return (
            isinstance(reply, CommandError) and isinstance(other, CommandError) and reply.text == other.text
        )
    if isinstance(reply, Status) is not isinstance(other, Status):
        return False
    if isinstance(reply, list) and isinstance(other, list) and step.compare != "like":
        if step.compare == "sorted":
            reply, other = sorted(reply, key=repr), sorted(other, key=repr)
        return len(reply) == len(other) and all(
            alike(one, two, step) for one, two in zip(reply, other, strict=True)
        )
    if step.compare == "like":
        return type(reply) is type(other)
    if step.tolerance and isinstance(reply, int) and isinstance(other, int):
        return abs(reply - other) <= step.tolerance and (reply < 0) is (other < 0)
    return type(reply) is type(other) and reply == other


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_case_is_answered_as_by_redis(both: Both, case: Case) -> None:
    both.begin()
    for step in case.steps:
        ours, theirs = both.step(step)
        assert alike(ours, theirs, step), f"{step.text}\nfastkv: {ours!r}\nredis:  {theirs!r}"
    assert both.told == both.redis_events()


@pytest.mark.parametrize("case", DIFFERENCES, ids=[case.name for case in DIFFERENCES])
def test_a_difference_exists(both: Both, case: Case) -> None:
    both.begin()
    *before, last = case.steps
    for step in before:
        ours, theirs = both.step(step)
        assert alike(ours, theirs, step), f"{step.text}\nfastkv: {ours!r}\nredis:  {theirs!r}"
    ours, theirs = both.step(last)
    assert not alike(ours, theirs, last), "there is no such difference any more"
    assert (ours.text if isinstance(ours, CommandError) else repr(ours)) == case.reply


def test_every_command_has_its_case() -> None:
    asked = {step.words[0].upper() for case in CASES for step in case.steps}
    # What is answered by messages has tests of its own.
    answered = {name for name, known in COMMANDS.items() if not known.handler.__module__.endswith("pubsub")}
    assert answered - asked == set()


def test_no_two_cases_have_one_name() -> None:
    names = [case.name for case in [*CASES, *DIFFERENCES]]
    assert len(names) == len(set(names))


def test_the_table_is_that_of_redis(both: Both) -> None:
    """Arity, where the keys stand, and who writes."""
    for name, command in COMMANDS.items():
        told = both.redis[0].run([b"COMMAND", b"INFO", name])
        assert isinstance(told, list)
        (theirs,) = told
        assert isinstance(theirs, list), name
        flags = theirs[2]
        assert isinstance(flags, list)
        keys = [command.first_key, command.last_key, command.key_step]
        assert [theirs[1], *theirs[3:6]] == [command.arity, *keys], name
        # PUBLISH changes no entry, but is nothing to be done by a mere GET.
        assert (b"write" in flags or name == b"PUBLISH") is command.writes, name


# -- any sequence of commands -----------------------------------------------------------------------------

KEYS = st.sampled_from([b"a", b"b", b"c"])
INTEGERS = st.one_of(
    st.integers(-20, 20),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**62, -(2**62), 2**31, 10**19]),
).map(lambda number: b"%d" % number)
VALUES = st.one_of(
    INTEGERS, st.sampled_from([b"", b"x", b"1.5", b" 1", b"01", b"-0", b"1e3"]), st.binary(max_size=8)
)
# Far enough from now on either side, that nothing expires as long as an example runs.
SECONDS = st.sampled_from([b"-1", b"0", b"1000", b"100000", b"x", b"9223372036854775807"])
UNIX_SECONDS = st.sampled_from(
    [b"-1", b"0", b"1", b"4102444800", b"4102444900", b"x", b"9223372036854775807"]
)


def command(*parts: bytes | st.SearchStrategy[bytes] | st.SearchStrategy[list[bytes]]) -> Any:
    """The words of a command, from what each may be."""
    drawn = [st.just(part) if isinstance(part, bytes) else part for part in parts]
    return st.tuples(*drawn).map(
        lambda words: [word for part in words for word in (part if isinstance(part, list) else [part])]
    )


def some(*options: bytes | Any) -> Any:
    """Up to three of some options."""
    drawn = [st.just([option]) if isinstance(option, bytes) else option for option in options]
    return st.lists(st.one_of(drawn), max_size=3).map(lambda parts: [word for part in parts for word in part])


LIVES = [
    command(b"EX", SECONDS),
    command(b"PXAT", UNIX_SECONDS.map(lambda word: word + b"000")),
    command(b"EXAT", UNIX_SECONDS),
]
COMMAND = st.one_of(
    command(b"SET", KEYS, VALUES),
    command(b"SET", KEYS, VALUES, some(b"NX", b"XX", b"GET", b"KEEPTTL", *LIVES)),
    command(b"GETEX", KEYS, some(b"PERSIST", *LIVES)),
    command(st.sampled_from([b"GET", b"GETDEL", b"INCR", b"DECR", b"STRLEN", b"TTL", b"EXPIRETIME"]), KEYS),
    command(st.sampled_from([b"PERSIST", b"EXISTS", b"TYPE", b"DEL", b"PEXPIRETIME"]), KEYS),
    command(st.sampled_from([b"GETSET", b"SETNX", b"APPEND"]), KEYS, VALUES),
    command(st.sampled_from([b"INCRBY", b"DECRBY"]), KEYS, INTEGERS),
    command(b"INCRBYFLOAT", KEYS, VALUES),
    command(st.sampled_from([b"GETRANGE", b"SUBSTR"]), KEYS, INTEGERS, INTEGERS),
    command(b"SETRANGE", KEYS, st.integers(-2, 20).map(lambda number: b"%d" % number), VALUES),
    command(b"SETEX", KEYS, SECONDS, VALUES),
    command(b"SETBIT", KEYS, st.sampled_from([b"0", b"7", b"8", b"30", b"-1"]), INTEGERS),
    command(b"BITCOUNT", KEYS, INTEGERS, INTEGERS, st.sampled_from([b"BIT", b"BYTE"])),
    # Not GT and LT: which of two that are so long from now is later depends on how fast one is.
    command(b"EXPIRE", KEYS, SECONDS, some(b"NX", b"XX")),
    command(b"EXPIREAT", KEYS, UNIX_SECONDS, some(b"NX", b"XX", b"GT", b"LT")),
    command(st.sampled_from([b"RENAME", b"RENAMENX"]), KEYS, KEYS),
    command(b"COPY", KEYS, KEYS, some(b"REPLACE")),
    command(st.sampled_from([b"MGET", b"DEL", b"EXISTS", b"TOUCH", b"UNLINK"]), st.lists(KEYS, max_size=4)),
    command(st.sampled_from([b"MSET", b"MSETNX"]), st.lists(st.one_of(KEYS, VALUES), max_size=6)),
    command(st.sampled_from([b"MULTI", b"EXEC", b"DISCARD", b"DBSIZE", b"UNWATCH"])),
    command(st.sampled_from([b"MULTI", b"EXEC"])),
    command(b"WATCH", KEYS),
)
NEARLY = Step("", [], tolerance=1)


def may_differ(words: list[bytes]) -> bool:
    """Whether it is a documented difference: the store takes no empty key."""
    return any(not word for word in words[1::2]) and words[0] in (b"MSET", b"MSETNX")


@given(st.lists(st.tuples(st.integers(0, 1), COMMAND), max_size=25))
@settings(max_examples=150)
def test_any_sequence_is_answered_as_by_redis(both: Both, asked: list[tuple[int, list[bytes]]]) -> None:
    both.begin()
    for number, words in asked:
        if not may_differ(words):
            ours, theirs = both.run(number, words)
            assert alike(ours, theirs, NEARLY), f"{words}\nfastkv: {ours!r}\nredis:  {theirs!r}"
    assert both.told == both.redis_events()


# -- patterns and numbers ---------------------------------------------------------------------------------

ODD_BYTES = [bytes([byte]) for byte in b"ab-^]*?[\\\x00\x7f\x80\xff"]
ODD_KEYS = [*ODD_BYTES, *[one + two for one in ODD_BYTES for two in ODD_BYTES], b"aab", b"a-b]", b"abab]"]
PIECES = st.sampled_from([*ODD_BYTES, b"\x7f-\x80", *rb"[^ [a [a- ]* a-b] [b-] \] \\".split()])


@given(st.lists(PIECES, max_size=5).map(b"".join))
@settings(max_examples=500)
def test_any_pattern_matches_what_it_matches_in_redis(both: Both, patterned: None, pattern: bytes) -> None:
    ours, theirs = both.run(0, [b"KEYS", pattern])
    assert isinstance(ours, list)
    assert isinstance(theirs, list)
    assert sorted(ours, key=repr) == sorted(theirs, key=repr)


@pytest.fixture(scope="module")
def patterned(both: Both) -> None:
    """Keys for patterns to match."""
    both.begin()
    for key in ODD_KEYS:
        both.run(0, [b"SET", key, b""])


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: repr(number).encode()),
    st.decimals(allow_nan=False, allow_infinity=False, places=17).map(lambda number: str(number).encode()),
    st.from_regex(rb"\A[+-]?[0-9]{0,25}\.?[0-9]{0,25}(e[+-]?[0-9]{1,4})?\Z"),
    st.from_regex(rb"\A[+-]?0x[0-9a-f]{0,18}\.?[0-9a-f]{0,18}(p[+-]?[0-9]{1,5})?\Z"),
)


@given(st.lists(NUMBERS, max_size=8))
@settings(max_examples=250)
def test_any_sum_is_that_of_redis(both: Both, numbers: list[bytes]) -> None:
    both.begin()
    for number in numbers:
        ours, theirs = both.run(0, [b"INCRBYFLOAT", b"a", number])
        assert alike(ours, theirs, NEARLY), f"{number!r}\nfastkv: {ours!r}\nredis:  {theirs!r}"
