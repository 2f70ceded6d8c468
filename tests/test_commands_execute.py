"""The way of a command: found, counted, told of, and never an exception."""

from __future__ import annotations

from dataclasses import replace

import pytest
from commands_helpers import LIMITS, Asked, error

from fastkv.commands.context import NOBODY
from fastkv.commands.replies import OK, CommandError
from fastkv.errors import StoreBusy, StoreFull
from fastkv.steps import finish
from fastkv.store import Store


@pytest.mark.parametrize("name", ["get", "GET", "gEt"])
def test_a_name_is_found_however_it_is_spelt(asked: Asked, name: str) -> None:
    asked.run("SET key value")
    assert asked.run(f"{name} key") == b"value"
    assert asked.commands.find(b"gett") is None
    found = asked.commands.find(name.encode())
    assert found
    assert (found.name, found.writes, found.keys([b"GET", b"key"])) == ("GET", False, [b"key"])


def test_what_is_done_is_counted_and_told_of(asked: Asked) -> None:
    for text in ("GET a", "SET a 1 EX 10", "GET a", "INCR a", "DEL a", "DEL a", "SET a 1 XX"):
        asked.run(text)
    assert asked.counted() == {"HITS": 1, "MISSES": 1, "PUTS": 2, "DELETES": 1}
    assert asked.told == [(b"set", b"a"), (b"expire", b"a"), (b"incrby", b"a"), (b"del", b"a")]


def test_no_words_and_no_such_command_are_errors(asked: Asked) -> None:
    assert error(asked.run_words([], NOBODY)) == "ERR empty command"
    assert (
        error(asked.run("FOO bar baz")) == "ERR unknown command 'FOO', with args beginning with: 'bar' 'baz' "
    )
    assert error(asked.run("GET")) == "ERR wrong number of arguments for 'get' command"
    assert asked.counted() == {}


def test_the_bounds_of_keys_and_values_are_errors_that_are_counted(asked: Asked) -> None:
    assert asked.run_words([b"SET", b"k" * 100, b"v" * 10_000], NOBODY) is OK
    too_long = error(asked.run_words([b"SET", b"k" * 101, b""], NOBODY))
    assert too_long == "ERR the key has 101 bytes; --max-key-bytes allows 100"
    too_large = error(asked.run_words([b"APPEND", b"k" * 100, b"v"], NOBODY))
    assert too_large == "ERR the value would have 10001 bytes; --max-value-bytes allows 10000"
    assert error(asked.run_words([b"SET", b"", b""], NOBODY)).startswith("ERR the key is empty")
    assert asked.counted() == {"PUTS": 1, "KEY_TOO_LONG": 1, "VALUE_TOO_LONG": 1}


@pytest.mark.parametrize(
    ("raised", "text", "column"),
    [
        (StoreFull("x"), "OOM command not allowed when used memory > 'maxmemory'.", "STORE_FULL"),
        (StoreBusy("Try again."), "TRYAGAIN Try again.", "LOCK_TIMEOUTS"),
        (ZeroDivisionError(), "ERR internal server error; see the server log", "INTERNAL_ERRORS"),
    ],
)
def test_what_the_store_raises_is_a_reply(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, raised: Exception, text: str, column: str
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(Store, "put", fail)
    assert error(asked.run("SET key value")) == text
    assert asked.counted() == {column: 1}


def test_more_commands_than_may_come_together_are_not_executed(asked: Asked) -> None:
    incr = [b"INCR", b"n"]
    assert finish(asked.commands.run_in_turn([incr] * 20, NOBODY)) == list(range(1, 21))
    for refused in (
        finish(asked.commands.run_in_turn([incr] * 21, NOBODY)),
        asked.commands.run_together([incr] * 21, NOBODY),
    ):
        assert isinstance(refused, CommandError)
        assert refused.text == "ERR 21 commands are too many together; --max-batch allows 20"
    assert asked.run("GET n") == b"20"
    assert asked.counted()["BATCH_TOO_LONG"] == 2


def test_a_transaction_of_a_connection_is_bounded_as_well(asked: Asked) -> None:
    asked.run("MULTI")
    for _ in range(20):
        asked.run("INCR n")
    assert error(asked.run("INCR n")) == "ERR 21 commands are too many together; --max-batch allows 20"
    assert error(asked.run("EXEC")).startswith("EXECABORT")
    assert asked.run("GET n") is None
    too_many = " ".join(f"key{i}" for i in range(21))
    assert error(asked.run(f"WATCH {too_many}")).startswith("ERR 21 commands are too many")


@pytest.mark.parametrize("begin", ["MULTI", "WATCH k"])
def test_what_waits_for_exec_is_bounded_in_bytes(asked: Asked, begin: str) -> None:
    long = "x" * 300_000
    asked.run(begin)
    session = asked.client.session
    assert session is not None
    words = "SET k" if begin == "MULTI" else "WATCH"
    for i in range(3):
        assert not isinstance(asked.run(f"{words} {i}{long}"), CommandError)
    held_bytes = session.held_bytes
    assert 900_000 < held_bytes < 901_000
    assert "--max-message-bytes allows 1048576" in error(asked.run(f"{words} 3{long}"))
    assert session.held_bytes == held_bytes
    assert asked.counted()["BATCH_TOO_LONG"] == 1
    if begin == "MULTI":
        assert error(asked.run("EXEC")).startswith("EXECABORT")
    else:
        assert asked.run("UNWATCH") == OK
    assert session.held_bytes == 0


def test_a_transaction_takes_no_longer_than_it_may(asked: Asked) -> None:
    context = asked.commands._context
    context.limits = replace(LIMITS, batch_seconds=-1.0)
    incr = [b"INCR", b"n"]
    refused = asked.commands.run_together([incr], NOBODY)
    assert isinstance(refused, CommandError)
    assert refused.text == "ERR the transaction takes longer than -1 s; see --batch-seconds"
    assert asked.counted() == {"BATCH_TOO_LONG": 1}
    # Commands in turn let others have turns, and may take as long as it takes.
    assert finish(asked.commands.run_in_turn([incr, incr], NOBODY)) == [1, 2]
    context.limits = LIMITS
    assert asked.commands.run_together([incr], NOBODY) == [3]


def test_replies_together_are_bounded_and_one_alone_is_not(asked: Asked) -> None:
    asked.run("SET a " + "x" * 9_000)
    get = [b"GET", b"a"]
    replies = finish(asked.commands.run_in_turn([get, get, get, get, [b"DEL", b"a"]], NOBODY))
    assert isinstance(replies, list)
    assert [len(reply) for reply in replies[:3] if isinstance(reply, bytes)] == [9_000] * 3
    for reply in replies[3:]:
        assert error(reply).startswith("ERR not executed")
    assert asked.run("EXISTS a") == 1
    assert (
        error(asked.run("MGET a a a"))
        == "ERR the reply would take 27000 bytes; --max-reply-bytes allows 20000"
    )
    assert len(asked.run("MGET a a") or []) == 2  # type: ignore[arg-type]
    assert asked.counted()["REPLY_TOO_LONG"] == 3


def test_a_transaction_whose_replies_are_too_long_changes_nothing(asked: Asked) -> None:
    asked.run("SET a " + "x" * 9_000)
    refused = asked.commands.run_together([[b"SET", b"b", b"1"], *[[b"GET", b"a"]] * 3], NOBODY)
    assert isinstance(refused, CommandError)
    assert refused.text.startswith("ERR the reply would take")
    assert asked.run("EXISTS b") == 0
