"""Frames of WebSockets, in the core and on the readable path: the same bytes out, the same in the arena."""

from __future__ import annotations

import asyncio
import random
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from fake import Worker, in_loop, running_loop
from test_core_commands import DECLINED as DECLINED_COMMANDS
from test_core_commands import ORDINARY, STRINGS, command, prepare
from test_core_http import Pair, memory_of
from test_ws_websocket import connect
from ws_frames import BINARY, CLOSE, CONT, DEFLATE, HANDSHAKE, MASK, PING, PONG, TEXT, frame, read, xor

from fastkv import core
from fastkv.commands.context import NOBODY
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastkv.core.frames import TextFrames

pytestmark = pytest.mark.skipif(not core.COMPILED, reason=core.REASON or "compiled")

_COUNTED: Final = slice(Column.HITS, Column.OUTPUT_PAUSES)


class Both:
    """A WebSocket to each worker of a pair; what is sent to both is answered alike.

    Attributes:
        pair: the workers.
        frames: the compiled path.
    """

    def __init__(self, extra: bytes = b"", pair: Pair | None = None, **settings: Any) -> None:
        self.pair = pair or Pair(**settings)
        self.clients = [connect(worker, extra) for worker in (self.pair.compiled, self.pair.readable)]
        frames = self.pair.compiled.service.frames(1023 if extra else sys.maxsize)
        assert frames is not None
        self.frames: TextFrames = frames

    def compare(self, *pieces: bytes) -> bytes:
        """Send pieces to both; what both have got."""
        said = []
        for client in self.clients:
            for piece in pieces:
                if client.transport.reading and not client.transport.closed:
                    client.send(piece)
            said.append((client.take(), client.transport.ended, client.transport.closed))
        assert said[0] == said[1], pieces
        return said[0][0]

    def leave(self) -> None:
        """Both end."""
        for client in self.clients:
            if not client.transport.closed:
                client.leave()

    def check(self) -> None:
        """Both have counted and stored the same."""
        ours, theirs = self.pair.compiled, self.pair.readable
        assert list(ours.counters[_COUNTED]) == list(theirs.counters[_COUNTED])
        assert ours.counters[Column.MESSAGES] == theirs.counters[Column.MESSAGES]
        assert ours.counters[Column.BAD_MESSAGES] == theirs.counters[Column.BAD_MESSAGES]
        self.pair.check()

    @property
    def declined(self) -> dict[str, int]:
        """How many frames the core has declined, by reason."""
        return {reason: times for reason, times in self.frames.declines.items() if times}


@pytest.fixture
def both() -> Iterator[Both]:
    with running_loop():
        made = Both()
        yield made
        made.leave()
        made.check()


def text(body: bytes, **kind: Any) -> bytes:
    """A message of text."""
    return frame(TEXT, body, **kind)


def test_ordinary_commands_get_the_same_replies(both: Both) -> None:
    for each in ORDINARY:
        both.compare(text(each))
        both.compare(text(command("GET", "string")))
    assert both.declined == {}
    assert both.pair.compiled.counters[Column.MESSAGES] == 2 * len(ORDINARY)


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x80\0\x7f"])
def test_any_mask_and_any_length(both: Both, mask: bytes) -> None:
    for size in (*range(70), 100, 101, 102, 103, 110, 111, 112, 113, 114, 300, 4000, 4096):
        value = chr(0x61 + size % 26) * size
        both.compare(text(command("SET", "a", value), mask=mask))
        both.compare(text(command("GET", "a"), mask=mask))
    assert both.declined == {}


def test_long_replies_have_long_heads(both: Both) -> None:
    both.compare(text(command("SET", "a", '"' * 4096)))
    for count in (1, 4, 8, 16, 32):
        reply = both.compare(text(command("MGET", *["a"] * count)))
        assert len(reply) > 8192 * count
    assert both.declined == {}


def test_what_is_not_ordinary_is_declined_and_changes_nothing(both: Both) -> None:
    prepare(both.pair)
    for body, _ in DECLINED_COMMANDS:
        asked = text(body)
        before = memory_of(both.pair.compiled.store), list(both.pair.compiled.counters)
        assert both.frames.serve(asked, 0, 1) == (b"", 0, core.framing.DECLINED), body
        assert (memory_of(both.pair.compiled.store), list(both.pair.compiled.counters)) == before, body
        clients = Both(pair=both.pair)  # what is no text ends the connection
        clients.compare(asked)
        clients.leave()
        clients.check()


_GET: Final = command("GET", "a")
HOSTILE: Final = (
    text(_GET, mask=None),
    bytes((0x81, len(_GET))) + MASK + xor(_GET),  # its mask bit alone is missing
    text(_GET, rsv=1),
    text(_GET, rsv=2),
    text(_GET, rsv=4),
    text(_GET, rsv=7),
    text(_GET, fin=False),
    text(_GET, width=2),
    text(_GET, width=8),
    text(b""),
    frame(CONT, _GET),
    frame(BINARY, _GET),
    *(frame(opcode, _GET) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    frame(CLOSE, b"\x03\xe8"),
    frame(PING, b"x"),
    frame(PONG, b"x"),
    b"\x81\xff" + (1 << 63).to_bytes(8, "big") + MASK + xor(_GET),
    b"\x81\xff" + ((1 << 64) - 1).to_bytes(8, "big") + MASK + xor(_GET),
    b"\x81\xff" + (1 << 31).to_bytes(8, "big") + MASK + xor(_GET),
    b"\x81\xfe\xff\xff" + MASK + xor(_GET),
    b"\x81\xfe\x00\x0b" + MASK + xor(_GET),
    b"\x81\xfe\x00\x7d" + MASK + xor(_GET + b" " * (125 - len(_GET))),
    b"\x81\x7f" + bytes(8) + _GET,
    text(_GET[:-1] + b"\xff]"),
    text(b"\xff" + _GET),
    text(b" " * 30_000 + _GET),
)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_frame_is_never_taken(both: Both, hostile: bytes) -> None:
    ordinary = text(command("SET", "a", "b"))
    if hostile == HOSTILE[-1]:  # long, and no more than that
        both.compare(hostile)
        return
    before = memory_of(both.pair.compiled.store)
    for size in range(1, len(hostile) + 1):
        assert both.frames.serve(hostile[:size], 0, 9) == (b"", 0, core.framing.DECLINED)
    assert memory_of(both.pair.compiled.store) == before
    replies, used, more = both.frames.serve(ordinary + hostile, 0, 9)
    assert (used, more) == (len(ordinary), core.framing.DECLINED)
    assert [each.payload for each in read(replies)] == [b'{"result":"OK"}']
    run_readable(both, command("SET", "a", "b"))
    both.compare(ordinary + hostile + ordinary)


def run_readable(both: Both, body: bytes) -> None:
    """Have the readable worker do what only the compiled one was asked for."""
    words = [word.encode() for word in orjson.loads(body)]
    both.pair.readable.routes.commands.run(words, NOBODY)
    both.pair.readable.counters[Column.MESSAGES] += 1


def test_a_frame_is_whole_at_its_last_byte_only(both: Both) -> None:
    for body in (command("SET", "a", "1"), command("SET", "a", "v" * 200)):
        whole = text(body)
        for size in range(1, len(whole)):
            assert both.frames.serve(whole[:size], 0, 1) == (b"", 0, core.framing.DECLINED), size
        assert both.frames.serve(whole, 0, 1)[1:] == (len(whole), core.framing.DONE)
        run_readable(both, body)


CONVERSATION: Final = (
    text(command("SET", "a", "1")),
    text(command("INCR", "a")),
    frame(PING, b"p"),
    text(command("GET", "a")),
    text(command("GET", "a")[:5], fin=False),
    frame(PONG),
    frame(CONT, command("GET", "a")[5:]),
    text(b'{"id":1,"cmd":["GET","a"]}'),
    text(b'[["GET","a"],["INCR","a"]]'),
    text(command("NOPE")),
    text(command("SET", "l", "v" * 300)),
    text(command("GET", "l")),
    frame(BINARY, b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"),
    text(command("MGET", "a", "none", "neither")),
    text(command("DEL", "a")),
)


def test_a_conversation_at_each_split() -> None:
    with running_loop():
        pair = Pair()
        whole = b"".join(CONVERSATION)
        said = None
        for at in range(len(whole) + 1):
            both = Both(pair=pair)
            heard = both.compare(*(each for each in (whole[:at], whole[at:]) if each))
            assert said is None or heard == said
            said = heard
            both.leave()
        both = Both(pair=pair)
        both.compare(*(whole[at : at + 1] for at in range(len(whole))))
        both.leave()
        both.check()
        assert both.declined["incomplete"] > 0


def test_what_a_session_keeps_is_left_to_the_readable_path() -> None:
    with running_loop():
        both = Both()
        get, write = text(command("GET", "a")), text(command("SET", "a", "1"))
        steps: Sequence[tuple[bytes, int]] = (
            (get, 0),
            (text(command("MULTI")), 1),
            (write, 1),
            (get, 1),
            (text(command("EXEC")), 1),
            (get, 1),
            (text(command("WATCH", "a")), 2),
            (write, 2),
            (get, 2),
            (text(command("UNWATCH")), 2),
            (get, 2),
            (text(command("MULTI")), 3),
            (write + get + text(command("DISCARD")) + get, 3),
        )
        for asked, declined in steps:
            both.compare(asked)
            assert both.declined.get("command", 0) == declined, asked
        both.leave()
        both.check()


def test_a_message_that_came_with_the_handshake_is_answered() -> None:
    with running_loop():
        pair = Pair()
        said = []
        for worker in (pair.compiled, pair.readable):
            client = worker.client()
            client.send(HANDSHAKE % b"" + text(command("SET", "a", "1")) + text(command("GET", "a")))
            client.send(text(command("GET", "a")))
            said.append(client.take())
            client.leave()
        assert said[0] == said[1]
        assert said[0].endswith(b'\x81\x0e{"result":"1"}')
        pair.check()


def test_long_replies_are_compressed_where_that_was_agreed() -> None:
    with running_loop():
        both = Both(DEFLATE)
        for size in (0, 100, 1010, 1011, 1012, 1024, 4000):
            both.compare(text(command("SET", "a", "v" * size)))
            both.compare(text(command("GET", "a")))
            both.compare(text(command("MGET", "a", "a")))
            both.check()
        assert both.declined == {"engine": 9}
        both.leave()


def test_a_pipeline_has_turns() -> None:
    with running_loop():
        for most in (1, 2, 3, 7):
            both = Both(max_pipeline=most)
            for kinds in ((b"INCR",), (b"INCR", b"DECR"), (b"INCR", b"INCR", b"DECR", b"DECR")):
                both.compare(b"".join(text(b'["%b","n"]' % kind) for kind in kinds * 5))
                for _ in range(20):
                    for client in both.clients:
                        if not client.transport.reading:
                            client.transport.get_protocol()._go_on()  # type: ignore[attr-defined]
                    both.compare()
                assert both.clients[0].transport.reading
            pauses = [
                worker.counters[Column.PIPELINE_PAUSES] for worker in (both.pair.compiled, both.pair.readable)
            ]
            assert pauses[0] == pauses[1] > 0
            both.leave()
            both.check()


@in_loop
async def test_a_client_that_does_not_read_is_not_read() -> None:
    pair = Pair()
    said = []
    for worker in (pair.compiled, pair.readable):
        client = connect(worker)
        client.transport.slow = True
        asked = [text(command("SET", "a", "v" * 4000)), *[text(command("MGET", *["a"] * 4)) * 3] * 20]
        await client.send_patiently(*asked)
        while not client.transport.reading:
            client.transport.client_reads()
            await asyncio.sleep(0)
        said.append(client.take())
        client.leave()
    assert said[0] == said[1]
    assert len(said[0]) > 20 * 3 * 4 * 4000
    pair.check()


@in_loop
async def test_a_worker_that_drains_answers_and_closes() -> None:
    pair = Pair()
    said = []
    for worker in (pair.compiled, pair.readable):
        client = connect(worker)
        client.send(text(command("SET", "a", "1")))
        worker.service.drain()
        client.send(text(command("GET", "a")) + text(command("GET", "a")))
        said.append((client.take(), client.transport.ended, client.transport.closed))
        client.leave()
    assert said[0] == said[1]
    assert [each.opcode for each in read(said[0][0])] == [TEXT, TEXT, TEXT, CLOSE]


def test_with_an_access_log_nothing_is_compiled() -> None:
    with running_loop():
        worker = Worker(readable=True)
        assert worker.service.frames(5) is None


def test_arguments_are_checked() -> None:
    with running_loop():
        both = Both()
        limits = {"max_message_bytes": 1, "max_reply_bytes": 1, "max_output_bytes": 1, "large_bytes": 1}
        commands = both.pair.compiled.http.commands
        row = memoryview(bytearray(64)).cast("Q")
        with pytest.raises(ValueError, match="no such column"):
            core.frames.TextFrames(commands, row, 8, **limits)
        short = core.frames.TextFrames(commands, row, 7, **limits)
        assert short.serve(text(_GET), 0, 1) == (b"", 0, core.framing.DECLINED)
        for at in (-1, 1):
            with pytest.raises(ValueError, match="No message begins there"):
                short.serve(b"", at, 1)
        both.leave()


def _message(dice: random.Random) -> bytes:
    keys = [f"k{number}" for number in range(20)]
    key = dice.choice(keys)
    body = dice.choice(
        (
            command("GET", key),
            command("GET", key),
            command("SET", key, dice.choice(STRINGS)),
            command("SET", key, dice.randrange(-20, 20), "PX", dice.randrange(1, 500)),
            command("INCR", key),
            command("DEL", key),
            command("MGET", *dice.choices(keys, k=dice.randrange(1, 5))),
            b'{"id":%d,"cmd":["GET","%b"]}' % (dice.randrange(9), key.encode()),
            command("NOPE", key),
            command("MULTI"),
            command("EXEC"),
            command("WATCH", key),
        )
    )
    kind = dice.random()
    if kind < 0.05:
        return frame(PING, b"x" * dice.randrange(126), mask=dice.randbytes(4))
    if kind < 0.1:
        at = dice.randrange(len(body) + 1)
        return text(body[:at], fin=False) + frame(CONT, body[at:])
    return text(body, mask=dice.randbytes(4))


def test_random_conversations() -> None:
    dice = random.Random(5)
    with running_loop():
        pair = Pair()
        for turn in range(250):
            pair.at(1_000_000 + 20 * turn)
            both = Both(dice.choice((b"", b"", DEFLATE)), pair=pair)
            stream = b"".join(_message(dice) for _ in range(dice.randrange(1, 30)))
            if dice.random() < 0.1:
                at = dice.randrange(len(stream))
                stream = stream[:at] + dice.randbytes(1) + stream[at + 1 :]
            cuts = sorted(dice.randrange(len(stream) + 1) for _ in range(dice.randrange(6)))
            bounds = [0, *cuts, len(stream)]
            both.compare(*(stream[a:b] for a, b in pairwise(bounds) if a < b))
            for client in both.clients:
                if not client.transport.closed:
                    client.leave()
            if turn % 25 == 0:
                both.check()
        both.check()
