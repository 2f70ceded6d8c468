"""The commands of pub/sub, side by side with a Redis: same replies, same messages, same events."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from commands_helpers import LIMITS, run_to_end
from fake import in_loop
from pubsub_helpers import House, Listener, house, settled
from redis_server import SERVER, RedisClient, running_redis
from store_helpers import HandClock, open_store

from fastkv.commands.context import NOBODY, Nobody
from fastkv.commands.execute import Commands
from fastkv.commands.replies import CommandError, Reply, Several
from fastkv.commands.session import Session
from fastkv.jsonwire import answer
from fastkv.pubsub.events import Events
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastkv.pubsub.messages import Message
    from fastkv.store import Store


class Caller(Listener):
    """A connection that subscribes: as a client of the commands, and what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.client = Nobody()
        self.client.session = Session()
        self.client.subscriber = self
        self.pushed: list[Reply] = []

    def push(self, message: Message) -> None:
        head: list[Reply] = [b"message"] if message.pattern is None else [b"pmessage", message.pattern]
        self.pushed.append([*head, message.channel, message.payload])


class Here:
    """One worker's commands with a hub and events."""

    def __init__(self, place: House, store: Store) -> None:
        self.place = place
        self.store = store
        self.hub = place.hub(0)
        self.events = Events(self.hub, store.removals, "AKE", place.board.rows[0])
        self.clock = HandClock()
        self.commands = Commands(
            store,
            self.clock,
            place.board.rows[0],
            limits=LIMITS,
            notify=self.events.notify,
            hub=self.hub,
            ahead_ms=lambda: 1_000_000_000,
        )

    def run(self, text: str, caller: Caller | None = None) -> Reply:
        return run_to_end(self.commands, text.encode().split(), caller.client if caller else NOBODY)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if SERVER is None:
        pytest.skip("there is no redis-server")
    with running_redis(tmp_path_factory.mktemp("redis")) as path:
        yield path


@contextmanager
def two_clients(path: Path) -> Iterator[tuple[RedisClient, RedisClient]]:
    with closing(RedisClient(path)) as one, closing(RedisClient(path)) as two:
        yield one, two


CASES: dict[str, list[str]] = {
    "channels": [
        "SUBSCRIBE a b a",
        "PUBLISH a 1",
        "PUBLISH b 2",
        "PUBLISH c 3",
        "UNSUBSCRIBE b",
        "PUBLISH b 4",
    ],
    "patterns": ["PSUBSCRIBE a* ?b", "PUBLISH ab 1", "PUBLISH b 2", "PUNSUBSCRIBE a*", "PUBLISH ab 3"],
    "both": ["SUBSCRIBE x", "PSUBSCRIBE x x*", "PUBLISH x 1", "UNSUBSCRIBE x", "PUNSUBSCRIBE x x* none"],
    "all at once": [
        "SUBSCRIBE a",
        "UNSUBSCRIBE",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE",
        "PSUBSCRIBE p",
        "UNSUBSCRIBE",
    ],
    "never subscribed": ["UNSUBSCRIBE a b", "PUNSUBSCRIBE a", "PUBLISH a 1"],
    "lower case": ["subscribe A a", "publish a 1", "unsubscribe A"],
    "questions": [
        "PUBSUB CHANNELS",
        "SUBSCRIBE news",
        "PSUBSCRIBE n* m*",
        "@ PUBSUB CHANNELS",
        "@ PUBSUB CHANNELS n*",
        "@ PUBSUB CHANNELS x*",
        "@ PUBSUB NUMSUB",
        "@ PUBSUB NUMSUB news none n*",
        "@ PUBSUB NUMPAT",
        "@ pubsub numpat",
    ],
    "mistakes": [
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "PUBLISH a",
        "PUBLISH a b c",
        "PUBSUB",
        "PUBSUB NO",
        "PUBSUB CHANNELS a b",
        "PUBSUB NUMPAT a",
    ],
}


@pytest.mark.parametrize("name", CASES)
@in_loop
async def test_replies_and_messages_are_those_of_redis(name: str, redis: Path) -> None:
    with house() as place, open_store() as store, two_clients(redis) as (there, other):
        here, caller = Here(place, store), Caller()
        await settled()
        for line in CASES[name]:
            words = line.removeprefix("@ ").encode().split()
            alone = line.startswith(("@", "PUBLISH", "publish", "PUBSUB"))
            reply = here.run(line.removeprefix("@ "), None if alone else caller)
            await settled()
            told = reply if isinstance(reply, Several) else [reply]
            expected = [other.run(words) if alone else there.run(words)]
            expected += [there.read() for _ in told[1:]]
            assert list(map(_plain, told)) == list(map(_plain, expected)), line
            # Which of two patterns comes first is left to chance there.
            messages = [there.read() for _ in caller.pushed]
            assert sorted(caller.pushed, key=repr) == sorted(messages, key=repr), line
            caller.pushed.clear()
        assert store.check() == []


def _plain(reply: Reply) -> Reply | str:
    if isinstance(reply, list):
        return [_plain(part) for part in reply]  # type: ignore[misc]
    return reply.text if isinstance(reply, CommandError) else reply


# Sequences whose events are compared, those of both kinds of channels.
EVENTS: list[str] = [
    "SET k v",
    "SET k v EX 100",
    "SETEX k 100 v",
    "SETNX k v",
    "SETNX n v",
    "GETSET k w",
    "GETEX k PERSIST",
    "GETEX k EX 10",
    "GETDEL k",
    "GETDEL k",
    "SET a 1",
    "SET b 2 PX 100000 KEEPTTL",
    "SET b 2",
    "INCR a",
    "DECRBY a 3",
    "INCRBYFLOAT a 1.5",
    "APPEND b x",
    "SETRANGE b 1 yy",
    "EXPIRE a 100",
    "EXPIRE nobody 100",
    "PEXPIRE a 100000",
    "PERSIST a",
    "PERSIST a",
    "EXPIRE a -1",
    "MSET a 1 b 2",
    "MSETNX a 1 c 2",
    "MSETNX f 1 g 2",
    "RENAME f g",
    "COPY g h",
    "DEL g h nobody",
    "DEL b",
    "DEL n",
    "DEL nobody",
    "UNLINK k",
    "GET a",
    "TOUCH n",
    "INCR n",
    "SET n x NX",
    "EXPIREAT n 1",
    "FLUSHALL",
]


@in_loop
async def test_events_are_those_of_redis(redis: Path) -> None:
    with house() as place, open_store() as store, two_clients(redis) as (there, other):
        here, caller = Here(place, store), Caller()
        await settled()
        other.run([b"FLUSHALL"])
        there.run([b"PSUBSCRIBE", b"__key*__:*"])
        here.run("PSUBSCRIBE __key*__:*", caller)
        for line in EVENTS:
            words = line.encode().split()
            reply, expected = here.run(line), other.run(words)
            if isinstance(reply, CommandError) and "unknown command" in reply.text:
                continue  # a command that is not in the table
            assert _plain(reply) == _plain(expected), line
            other.run([b"PUBLISH", b"__keyend__:", b"end"])
            events = []
            while (event := there.read()) != [b"pmessage", b"__key*__:*", b"__keyend__:", b"end"]:
                events.append(event)
            await settled()
            assert caller.pushed == events, line
            caller.pushed.clear()


def test_json_has_an_array_of_confirmations() -> None:
    told = Several([[b"subscribe", b"a", 1], [b"subscribe", b"b", 2]])
    assert answer(told) == {"result": [["subscribe", "a", 1], ["subscribe", "b", 2]]}


@in_loop
async def test_who_cannot_get_messages_cannot_subscribe() -> None:
    with house() as place, open_store() as store:
        here = Here(place, store)
        for name in ("SUBSCRIBE", "PSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE"):
            reply = here.run(f"{name} a")
            assert isinstance(reply, CommandError)
            assert reply.text.startswith(f"ERR {name} is for connections that stay")


@in_loop
async def test_transactions_publish_when_they_are_done_and_do_not_subscribe() -> None:
    with house() as place, open_store() as store:
        here, caller = Here(place, store), Caller()
        await settled()
        here.run("SUBSCRIBE a", caller)
        assert here.run("MULTI", caller) == b"OK"
        assert here.run("PUBLISH a 1", caller) == b"QUEUED"
        reply = here.run("SUBSCRIBE b", caller)
        assert isinstance(reply, CommandError)
        assert reply.text == "ERR SUBSCRIBE inside MULTI is not allowed"
        await settled()
        assert caller.pushed == []
        assert here.run("EXEC", caller) == [1]
        await settled()
        assert caller.pushed == [[b"message", b"a", b"1"]]


@in_loop
async def test_bounds_are_errors() -> None:
    with house(max_subscriptions=2) as place, open_store() as store:
        here, caller = Here(place, store), Caller()
        await settled()
        assert _plain(here.run("SUBSCRIBE a b c d", caller)) == [
            [b"subscribe", b"a", 1],
            [b"subscribe", b"b", 2],
            "ERR a connection may have 2 subscriptions",
        ]
        long = here.commands.run([b"PUBLISH", b"a", bytes(1 << 20)], NOBODY)
        assert isinstance(long, CommandError)
        assert "bytes together" in long.text
        assert place.count(Column.INTERNAL_ERRORS) == 0


def test_without_a_hub_nobody_is_reached() -> None:
    with open_store() as store:
        commands = Commands(
            store,
            HandClock(),
            place_row(),
            limits=LIMITS,
            ahead_ms=lambda: 0,
        )
        assert commands.run([b"PUBLISH", b"a", b"b"], NOBODY) == 0
        assert isinstance(commands.run([b"PUBSUB", b"NUMPAT"], NOBODY), CommandError)


def place_row() -> memoryview[int]:
    """A row of counters."""
    return memoryview(bytearray(1024)).cast("Q")
