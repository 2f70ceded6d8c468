"""Several commands at one moment: what is counted and told of when, and what is watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from commands_helpers import Asked, error

from fastkv.commands.context import NOBODY
from fastkv.commands.replies import OK, CommandError
from fastkv.errors import StoreFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.store import Store


def words_of(*texts: str) -> list[list[bytes]]:
    return [text.encode().split() for text in texts]


def test_commands_together_are_answered_one_by_one(asked: Asked) -> None:
    replies = asked.commands.run_together(
        words_of("SET a x", "INCR a", "APPEND a y", "GET a", "MSET b 1 c 2", "MGET a b d"), NOBODY
    )
    assert isinstance(replies, list)
    assert error(replies[1]) == "ERR value is not an integer or out of range"
    del replies[1]
    assert replies == [OK, 2, b"xy", OK, [b"xy", b"1", None]]
    assert asked.counted() == {"HITS": 3, "MISSES": 1, "PUTS": 4}
    assert asked.told == [(b"set", b"a"), (b"append", b"a"), (b"set", b"b"), (b"set", b"c")]
    assert asked.commands.run_together([], NOBODY) == []


def test_nothing_but_set_is_answered_and_told_of_as_among_others(asked: Asked) -> None:
    """Such transactions take one call of the store; of a key that is named twice the last value counts."""
    for texts in (["SET a 1", "SET b 2"], ["SET a 1", "SET b 2", "SET a 3"], ["SET a 1"]):
        alone = asked.commands.run_together(words_of(*texts), NOBODY)
        told, counted = list(asked.told), asked.counted()
        found = asked.run("MGET a b")
        asked.run("FLUSHALL")
        asked.told.clear()
        asked.counters[:] = [0] * len(asked.counters)
        among = asked.commands.run_together(words_of(*texts, "PING"), NOBODY)
        assert isinstance(among, list)
        assert alone == among[:-1] == [OK] * len(texts)
        assert (told, counted) == (asked.told, asked.counted())
        assert found == asked.run("MGET a b")
        asked.run("FLUSHALL")
        asked.told.clear()
        asked.counters[:] = [0] * len(asked.counters)
    replies = asked.commands.run_together(words_of("SET a 1", "SET b " + "x" * 10_001), NOBODY)
    assert isinstance(replies, list)
    assert replies[0] == OK
    assert error(replies[1]).startswith("ERR the value would have 10001 bytes")
    assert asked.counted() == {"PUTS": 1, "VALUE_TOO_LONG": 1}


@pytest.mark.parametrize("wrong", ["FOO", "GET"])
def test_one_that_is_wrong_keeps_all_from_being_executed(asked: Asked, wrong: str) -> None:
    refused = asked.commands.run_together(words_of("SET a 1", wrong), NOBODY)
    assert isinstance(refused, CommandError)
    assert error(refused) == "EXECABORT Transaction discarded because of previous errors."
    cause = refused.__cause__
    assert isinstance(cause, CommandError)
    assert error(cause) == error(asked.run(wrong))
    assert asked.run("EXISTS a") == 0


def test_the_bounds_of_one_command_are_an_error_among_the_replies(asked: Asked) -> None:
    replies = asked.commands.run_together(words_of("SET a 1", "SET b " + "x" * 10_001, "GET a"), NOBODY)
    assert isinstance(replies, list)
    assert error(replies[1]).startswith("ERR the value would have 10001 bytes")
    assert (replies[0], replies[2]) == (OK, b"1")
    assert asked.counted() == {"HITS": 1, "PUTS": 1, "VALUE_TOO_LONG": 1}


@pytest.mark.parametrize("text", ["MGET", "DEL", "EXISTS", "MSET", "MSETNX"])
def test_keys_are_no_more_than_commands_may_be(asked: Asked, text: str) -> None:
    most = asked.commands._context.limits.max_batch
    step = 2 if text.startswith("MSET") else 1
    words = [text.encode(), *[b"%d" % i for i in range(most * step)]]
    assert not isinstance(asked.run_words(words, NOBODY), CommandError)
    more = words + [b"more"] * step
    refusal = f"ERR {most + 1} keys are too many together; --max-batch allows {most}"
    assert error(asked.run_words(more, NOBODY)) == refusal
    assert error(asked.commands.run_together([words, [b"GET", b"more"]], NOBODY)) == refusal
    assert error(asked.commands.run_together([words, [b"GET", b"more"], [b"DBSIZE"]], NOBODY)) == refusal
    assert asked.run("EXISTS more") == 0
    assert asked.counted()["BATCH_TOO_LONG"] == 3


class Space:
    """A store whose transactions are run twice, or find no room in the end."""

    def __init__(self, store: Store, *, full: bool = False) -> None:
        self._store = store
        self._full = full

    def transact(self, keys: object, body: Callable[[Any], Any], clock: Callable[[], int]) -> Any:
        def forgotten(space: Any) -> None:
            body(space)
            raise StoreFull

        with pytest.raises(StoreFull):
            self._store.transact(None, forgotten, clock)
        if self._full:
            raise StoreFull
        return self._store.transact(None, body, clock)


@pytest.fixture
def sent(asked: Asked) -> list[tuple[bytes, bytes]]:
    """What is published: channels and messages."""
    messages: list[tuple[bytes, bytes]] = []

    def publish(channel: bytes, payload: bytes) -> int:
        messages.append((channel, payload))
        return 1

    asked.commands._context.publish = publish
    return messages


def test_a_body_that_is_repeated_is_counted_and_told_of_once(
    asked: Asked, sent: list[tuple[bytes, bytes]]
) -> None:
    asked.commands._context.space = Space(asked.store)  # type: ignore[assignment]
    words = words_of("SET a 1", "PUBLISH c first", "INCR a", "GET b", "PUBLISH c second")
    assert asked.commands.run_together(words, NOBODY) == [OK, 0, 2, None, 0]
    assert asked.counted() == {"MISSES": 1, "PUTS": 2}
    assert asked.told == [(b"set", b"a"), (b"incrby", b"a")]
    assert sent == [(b"c", b"first"), (b"c", b"second")]


def test_a_transaction_that_fails_is_not_told_of(asked: Asked, sent: list[tuple[bytes, bytes]]) -> None:
    asked.commands._context.space = Space(asked.store, full=True)  # type: ignore[assignment]
    words = words_of("SET a 1", "PUBLISH c message")
    assert error(asked.commands.run_together(words, NOBODY)).startswith("OOM")
    assert asked.counted() == {"STORE_FULL": 1}
    assert asked.told == []
    assert sent == []


@pytest.mark.parametrize("text", ["MULTI", "EXEC", "DISCARD", "WATCH a", "UNWATCH"])
def test_who_keeps_no_session_has_no_transaction(asked: Asked, text: str) -> None:
    reply = asked.run_words(text.encode().split(), NOBODY)
    assert error(reply).startswith(f"ERR {text.split()[0]} is for connections that keep a transaction")


@pytest.mark.parametrize("text", ["MULTI", "EXEC", "DISCARD", "WATCH a"])
def test_a_transaction_is_not_begun_or_ended_among_others(asked: Asked, text: str) -> None:
    replies = asked.commands.run_together(words_of("SET a 1", text, "GET a"), asked.client)
    assert isinstance(replies, list)
    assert error(replies[1]) == f"ERR {text.split()[0]} inside MULTI is not allowed"
    assert replies[2] == b"1"
    assert asked.client.session
    assert asked.client.session.queue is None


def test_a_walk_in_a_transaction_sees_what_it_has_changed(asked: Asked) -> None:
    for i in range(100):
        asked.store.put(b"old:%d" % i, bytes(100), asked.clock)
    replies = asked.commands.run_together(
        words_of(
            "DEL old:1 old:2", "SET new 1", "APPEND old:3 x", "KEYS old:?", "SCAN 0 COUNT 1000", "DBSIZE"
        ),
        NOBODY,
    )
    assert isinstance(replies, list)
    keys, scanned, size = replies[3:]
    assert isinstance(keys, list)
    assert isinstance(scanned, list)
    assert isinstance(scanned[1], list)
    assert set(keys) == {b"old:%d" % i for i in (0, *range(3, 10))}
    assert set(scanned[1]) == {b"new", *[b"old:%d" % i for i in (0, *range(3, 100))]}
    assert (len(scanned[1]), size) == (99, 99)


def test_what_expires_while_it_is_watched_has_changed(asked: Asked) -> None:
    asked.run("SET a 1 PX 10")
    asked.run("WATCH a")
    asked.clock.now_ms += 10
    asked.run("MULTI")
    asked.run("SET b 1")
    assert asked.run("EXEC") is None
    assert asked.run("EXISTS b") == 0


def test_what_was_there_when_exec_looked_at_what_is_watched_is_there_to_its_end(asked: Asked) -> None:
    asked.run("SET a 1 PX 10")
    asked.run("WATCH a")
    for text in ("MULTI", "GET a", "GET a", "DEL a"):
        asked.run(text)

    def ticking() -> int:
        asked.clock.now_ms += 9
        return asked.clock.now_ms

    asked.commands._context.clock = ticking
    assert asked.run("EXEC") == [b"1", b"1", 1]


def test_what_is_told_after_exec_was_done_in_one_moment(asked: Asked) -> None:
    """Nobody is told of the first change while the second one is not there yet."""
    seen: list[object] = []
    commands = asked.commands
    commands._context.notify = lambda event, key: seen.append(asked.store.get(b"b", asked.clock))
    commands.run_together(words_of("SET a 1", "SET b 1"), NOBODY)
    assert len(seen) == 2
    assert None not in seen
