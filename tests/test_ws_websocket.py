"""RFC 6455 by an echo: at every split of its bytes, the short way and the long one answer alike."""

import asyncio
import gc
import zlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
import ws_frames
from fake import MAX_OUTPUT_BYTES, Client, Worker, in_loop
from hypothesis import given, settings
from hypothesis import strategies as st
from pubsub_helpers import settled
from ws_echo import Echo, make_worker
from ws_frames import BINARY, CLOSE, CONT, DEFLATE, HANDSHAKE, PING, PONG, TEXT, Frame, close, frame

from fastkv.flow import SWEEP_TURNS, Phase
from fastkv.stats import Column
from fastkv.ws.websocket import MAX_EMPTY_FRAGMENTS

LONGEST = 1000


def connect(worker: Worker, extra: bytes = b"") -> Client:
    """A client behind its handshake."""
    client = worker.client()
    reply = client.ask(HANDSHAKE % extra)
    assert reply.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    return client


def closed(code: int | None = None) -> Frame:
    """A close frame, by its code alone."""
    return Frame(CLOSE, b"" if code is None else code.to_bytes(2, "big"))


def told(client: Client) -> list[Frame]:
    """What the server has sent, of close frames the code alone."""
    return [
        Frame(CLOSE, found.payload[:2]) if found.opcode == CLOSE else found
        for found in ws_frames.read(client.take())
    ]


HELLO = "Hellö 😀".encode()
CASES: dict[str, tuple[bytes, list[Frame]]] = {
    "a text": (frame(TEXT, HELLO), [Frame(TEXT, HELLO)]),
    "nothing": (frame(TEXT) + frame(BINARY), [Frame(TEXT, b""), Frame(BINARY, b"")]),
    "bytes": (frame(BINARY, b"\xff\0"), [Frame(BINARY, b"\xff\0")]),
    "125, 126 and 127 bytes": (
        b"".join(frame(BINARY, bytes(size)) for size in (125, 126, 127)),
        [Frame(BINARY, bytes(size)) for size in (125, 126, 127)],
    ),
    "a length of more bytes than it needs": (
        frame(TEXT, b"a") + frame(TEXT, b"b", width=2) + frame(TEXT, b"c"),
        [Frame(TEXT, b"a"), closed(1002)],
    ),
    "fragments": (
        frame(TEXT, b"a", fin=False) + frame(CONT, b"", fin=False) + frame(CONT, b"b") + frame(TEXT, b"c"),
        [Frame(TEXT, b"ab"), Frame(TEXT, b"c")],
    ),
    "a code point over fragments": (
        frame(TEXT, HELLO[:5], fin=False) + frame(CONT, HELLO[5:9], fin=False) + frame(CONT, HELLO[9:]),
        [Frame(TEXT, HELLO)],
    ),
    "fragments of bytes that are no text": (
        frame(BINARY, b"\xff", fin=False) + frame(CONT, b"\xff"),
        [Frame(BINARY, b"\xff\xff")],
    ),
    "control frames between fragments": (
        frame(TEXT, b"a", fin=False) + frame(PING, b"1") + frame(PONG, b"2") + frame(CONT, b"b"),
        [Frame(PONG, b"1"), Frame(TEXT, b"ab")],
    ),
    "pings in order with messages": (
        frame(PING, b"1") + frame(TEXT, b"a") + frame(PING, b"2") + frame(PING, bytes(125)),
        [Frame(PONG, b"1"), Frame(TEXT, b"a"), Frame(PONG, b"2"), Frame(PONG, bytes(125))],
    ),
    "close": (frame(TEXT, b"a") + close(1000, b"bye") + frame(TEXT, b"b"), [Frame(TEXT, b"a"), closed(1000)]),
    "close without a code": (close(), [closed()]),
    "close between fragments": (frame(TEXT, b"a", fin=False) + close(1000), [closed(1000)]),
    "close of an application's own": (close(4999), [closed(4999)]),
    "a close of one byte": (frame(CLOSE, b"\x03"), [closed(1002)]),
    "a close whose reason is no text": (close(1000, b"\xff"), [closed(1007)]),
    "a long ping": (frame(PING, bytes(126)), [closed(1002)]),
    "a fragmented ping": (frame(PING, fin=False), [closed(1002)]),
    "a length of 16 bits that fits 7": (b"\x81\xfe\x00\x7d" + bytes(4 + 125), [closed(1002)]),
    "a length of 16 bits that needs them": (
        b"\x81\xfe\x00\x7e" + bytes(4) + b"a" * 126,
        [Frame(TEXT, b"a" * 126)],
    ),
    "a length of 64 bits that fits 16": (
        b"\x82\xff" + (65535).to_bytes(8, "big") + bytes(4 + 65535),
        [closed(1002)],
    ),
    "a ping whose length takes 16 bits": (b"\x89\xfe\x00\x01" + bytes(5), [closed(1002)]),
    "no mask": (frame(TEXT, b"a", mask=None), [closed(1002)]),
    "a continuation of nothing": (frame(TEXT, b"a") + frame(CONT, b"b"), [Frame(TEXT, b"a"), closed(1002)]),
    "a message among fragments": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), [closed(1002)]),
    "compression that was not agreed": (frame(TEXT, b"a", rsv=4), [closed(1002)]),
    "too long": (
        frame(TEXT, bytes(LONGEST)) + frame(TEXT, bytes(LONGEST + 1)),
        [Frame(TEXT, bytes(LONGEST)), closed(1009)],
    ),
    "too long in fragments": (
        frame(TEXT, bytes(LONGEST), fin=False) + frame(CONT, b"a", fin=False) + frame(CONT),
        [closed(1009)],
    ),
    "much too long": (frame(TEXT, b"", width=0)[:1] + b"\xff" + b"\x7f" * 8 + b"mask", [closed(1009)]),
    "no text": (frame(TEXT, b"a\xff"), [closed(1007)]),
    "half a code point": (frame(TEXT, b"\xf0\x9f"), [closed(1007)]),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), [closed(1007)]),
    "no text in the first fragment": (frame(TEXT, b"\xc0", fin=False), [closed(1007)]),
    "half a code point at the end of fragments": (
        frame(TEXT, b"a", fin=False) + frame(CONT, b"\xf0\x9f"),
        [closed(1007)],
    ),
}  # fmt: skip
for _rsv in (1, 2, 3):
    CASES[f"reserved bits {_rsv}"] = (frame(TEXT, b"a", rsv=_rsv), [closed(1002)])
for _opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    CASES[f"reserved opcode {_opcode}"] = (frame(_opcode, b"a"), [closed(1002)])
for _code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535):
    CASES[f"close with {_code}"] = (close(_code), [closed(1002)])
for _code in (1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4000):
    CASES[f"close with {_code}"] = (close(_code), [closed(_code)])


@pytest.mark.parametrize(("data", "answer"), CASES.values(), ids=CASES)
@in_loop
async def test_at_every_split(data: bytes, answer: list[Frame]) -> None:
    worker = make_worker(longest_bytes=1024)
    worker.service.message_limit = LONGEST
    step = max(1, len(data) // 60)
    cuts = [[0, len(data)], [*range(0, len(data), step), len(data)]]
    cuts += [[0, at, len(data)] for at in range(1, len(data), step)]
    for cut in cuts:
        client = connect(worker)
        client.send(*(data[start:end] for start, end in pairwise(cut) if start < end))
        assert told(client) == answer
        ends = bool(answer) and answer[-1].opcode == CLOSE
        assert (client.transport.closed or client.transport.ended) is ends
        client.leave()
    worker.verify()


@in_loop
async def test_what_came_with_the_handshake() -> None:
    worker = make_worker()
    data = HANDSHAKE % b"" + frame(TEXT, b"a") + frame(PING, b"b")
    for at in range(1, len(data) + 1):
        client = worker.client()
        client.send(data[:at], *([data[at:]] if at < len(data) else []))
        head, _, rest = client.take().partition(b"\r\n\r\n")
        assert b"Sec-WebSocket-Accept: " + ws_frames.ACCEPT in head
        assert ws_frames.read(rest) == [Frame(TEXT, b"a"), Frame(PONG, b"b")]
        client.leave()
    worker.verify()


_messages = st.lists(
    st.tuples(
        st.sampled_from([TEXT, BINARY, PING]),
        st.text(max_size=20).map(str.encode) | st.binary(max_size=140),
        st.lists(st.integers(0, 140), max_size=3),
    ),
    max_size=6,
)


@given(_messages, st.data())
@settings(deadline=None, max_examples=150)
def test_any_messages_at_any_splits(
    messages: list[tuple[int, bytes, list[int]]], data: st.DataObject
) -> None:
    """Whole, in fragments, and in any reads: the same answers, to the byte."""
    sent, expected = bytearray(), []
    for opcode, given_payload, cuts in messages:
        payload = given_payload
        if opcode == PING:
            sent += frame(PING, payload[:125])
            expected.append(Frame(PONG, payload[:125]))
            continue
        if opcode == TEXT:
            payload = payload.decode("utf-8", "replace").encode()
        bounds = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
        for number, (start, end) in enumerate(pairwise(bounds)):
            last = number == len(bounds) - 2
            sent += frame(opcode if number == 0 else CONT, payload[start:end], fin=last)
        expected.append(Frame(opcode, payload))
    reads = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))

    async def scenario() -> None:
        worker = make_worker()
        client = connect(worker)
        client.send(
            *(bytes(sent[start:end]) for start, end in pairwise([0, *reads, len(sent)]) if start < end)
        )
        assert told(client) == expected
        worker.verify()

    asyncio.run(scenario())


# -- compression -------------------------------------------------------------------------------------------


def deflated(payload: bytes) -> bytes:
    """A payload compressed (RFC 7692, 7.2.1)."""
    packer = zlib.compressobj(wbits=-12)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(payload: bytes) -> bytes:
    """A compressed payload as it was."""
    return zlib.decompressobj(wbits=-12).decompress(payload + b"\0\0\xff\xff")


@in_loop
async def test_messages_that_are_compressed() -> None:
    worker = make_worker(longest_bytes=1 << 20)
    client = connect(worker, DEFLATE)
    short, long = b"a" * 100, b"b" * 100_000
    packed = deflated(long)
    client.send(frame(TEXT, deflated(short), rsv=4))
    assert told(client) == [Frame(TEXT, short)]
    client.send(frame(TEXT, short))
    assert told(client) == [Frame(TEXT, short)]
    for data in (
        frame(TEXT, long),
        frame(TEXT, packed, rsv=4),
        frame(TEXT, packed[:9], rsv=4, fin=False) + frame(CONT, packed[9:]),
    ):
        client.send(data)
        (found,) = told(client)
        assert (found.rsv, inflated(found.payload)) == (4, long)
    worker.verify()


@in_loop
async def test_a_bomb_is_no_longer_than_a_message_may_be() -> None:
    worker = make_worker(longest_bytes=1 << 20)
    for size, answer in ((1 << 20, TEXT), ((1 << 20) + 1, CLOSE), (100 << 20, CLOSE)):
        client = connect(worker, DEFLATE)
        client.send(frame(TEXT, deflated(bytes(size)), rsv=4))
        (found,) = told(client)
        assert found.opcode == answer
        assert answer == TEXT or found == closed(1009)
    assert worker.counters[Column.MESSAGE_TOO_LONG] == 2


@in_loop
async def test_what_is_not_deflate() -> None:
    worker = make_worker()
    client = connect(worker, DEFLATE)
    client.send(frame(TEXT, b"\xff\xff\xff", rsv=4))
    assert told(client) == [closed(1002)]


@in_loop
async def test_compression_can_be_off() -> None:
    client = make_worker(deflate=False).client()
    assert b"permessage-deflate" not in client.ask(HANDSHAKE % DEFLATE)


# -- bounds ------------------------------------------------------------------------------------------------


@in_loop
async def test_replies_that_are_not_read_stop_the_reading() -> None:
    worker = make_worker()
    client = connect(worker)
    client.transport.slow = True
    one = frame(BINARY, bytes(5000))
    client.send(one * 40)
    assert not client.is_read()
    assert MAX_OUTPUT_BYTES < client.transport.get_write_buffer_size() < MAX_OUTPUT_BYTES + 6000
    assert worker.counters[Column.OUTPUT_PAUSES] == 1
    session = client.transport.get_protocol()
    assert isinstance(session, Echo)
    assert session.phase is Phase.OUTPUT
    assert worker.service.flow.held_bytes >= MAX_OUTPUT_BYTES
    while not client.is_read():
        client.transport.client_reads()
        await asyncio.sleep(0)
    assert told(client) == [Frame(BINARY, bytes(5000))] * 40
    assert worker.service.flow.held_bytes == 0
    worker.verify()


@in_loop
async def test_others_have_a_turn() -> None:
    worker = make_worker()
    worker.service.pipeline_limit = 10
    client = connect(worker)
    client.send(frame(PING) * 25)
    for count in (10, 20, 25):
        assert not client.is_read() or count == 25
        assert len(ws_frames.read(bytes(client.transport.sent).partition(b"\r\n\r\n")[2])) == count
        await asyncio.sleep(0)
    assert client.is_read()
    assert worker.counters[Column.PIPELINE_PAUSES] == 2


@in_loop
async def test_messages_that_take_long_leave_others_a_turn() -> None:
    worker = make_worker()
    client = connect(worker)
    worker.service.turn_seconds = -1.0
    client.send(frame(TEXT, b"a") * 3)
    for count in (1, 2, 3):
        assert len(ws_frames.read(bytes(client.transport.sent).partition(b"\r\n\r\n")[2])) == count
        await asyncio.sleep(0)
    assert worker.counters[Column.PIPELINE_PAUSES] == 2


@in_loop
async def test_a_message_that_arrives_counts_as_memory_held() -> None:
    worker = make_worker()
    client = connect(worker)
    data = frame(BINARY, bytes(50_000), fin=False) + frame(CONT, bytes(60_000))
    client.send(data[:40_000])
    assert worker.service.flow.held_bytes == 40_000
    client.send(data[40_000:80_000])
    assert 79_000 < worker.service.flow.held_bytes < 81_000
    client.send(data[80_000:])
    assert worker.service.flow.held_bytes == 0
    assert told(client) == [Frame(BINARY, bytes(110_000))]


@in_loop
async def test_what_is_not_kept_of_a_message_does_not_count_as_memory_held() -> None:
    worker = make_worker()
    client = connect(worker)
    client.send(frame(BINARY, bytes(5000), fin=False))
    assert worker.service.flow.held_bytes == 5000
    for part in frame(PING, bytes(125)), frame(CONT, b"", fin=False):
        client.send(part * 500)
        await asyncio.sleep(0)
        client.take()
        assert worker.service.flow.held_bytes == 5000
    client.send(frame(CONT, bytes(100)))
    assert worker.service.flow.held_bytes == 0
    assert told(client)[-1] == Frame(BINARY, bytes(5100))
    worker.verify()


# -- time --------------------------------------------------------------------------------------------------


def pass_time(worker: Worker, session: Echo, seconds: float) -> None:
    """Let the sweeps see that so much time has passed."""
    session.since -= seconds
    for _ in range(SWEEP_TURNS):
        worker.service.turn()


def session_of(client: Client) -> Echo:
    """The session of a client."""
    session = client.transport.get_protocol()
    assert isinstance(session, Echo)
    return session


@in_loop
async def test_a_silent_client_is_asked_and_closed_if_it_does_not_answer() -> None:
    worker = make_worker()
    client = connect(worker)
    session = session_of(client)
    pass_time(worker, session, 0)
    pass_time(worker, session, 29)
    assert told(client) == []
    pass_time(worker, session, 2)
    assert told(client) == [Frame(PING, b"")]
    client.send(frame(PONG))
    pass_time(worker, session, 29)
    pass_time(worker, session, 31)
    assert told(client) == [Frame(PING, b"")]
    pass_time(worker, session, 19)
    assert session.phase is Phase.PONG
    pass_time(worker, session, 2)
    assert told(client) == [closed(1008)]
    assert worker.counters[Column.PONG_TIMEOUTS] == 1
    pass_time(worker, session, 10)
    assert client.transport.aborted


@pytest.mark.parametrize(
    "begun", [frame(TEXT, b"abc")[:-1], frame(TEXT, b"abc")[:1], frame(TEXT, b"a", fin=False)]
)
@in_loop
async def test_a_message_that_does_not_end(begun: bytes) -> None:
    worker = make_worker()
    client = connect(worker)
    client.send(begun)
    session = session_of(client)
    assert session.phase is Phase.BODY
    assert not session.idle
    pass_time(worker, session, 21)
    assert told(client) == [closed(1008)]
    assert worker.counters[Column.BODY_TIMEOUTS] == 1


NOTHING = b"\x00\x00\x00\xff\xff"  # a stored block of no bytes (RFC 1951, 3.2.4)
# name: (fields of the handshake, the beginning of a message, what adds nothing to it)
EMPTY: dict[str, tuple[bytes, bytes, bytes]] = {
    "text": (b"", frame(TEXT, b"a", fin=False), frame(CONT, fin=False)),
    "bytes, from the first fragment on": (b"", frame(BINARY, fin=False), frame(CONT, fin=False)),
    "among control frames": (
        b"",
        frame(TEXT, b"a", fin=False),
        frame(PING, b"1") + frame(CONT, fin=False) + frame(PONG),
    ),
    "compressed": (
        DEFLATE,
        frame(TEXT, NOTHING, fin=False, rsv=4),
        frame(CONT, NOTHING, fin=False),
    ),
}


@pytest.mark.parametrize("name", EMPTY)
@in_loop
async def test_empty_fragments_of_a_message_are_bounded(name: str) -> None:
    """Those of a message that ends in time count for it alone."""
    extra, begun, empty = EMPTY[name]
    worker = make_worker()
    client = connect(worker, extra)
    last = frame(CONT, b"\0" if extra else b"")  # of a compressed message it ends the last block
    for _ in range(2):
        client.send(begun + empty * (MAX_EMPTY_FRAGMENTS - 1) + last)
        await settled()
        *pongs, answer = told(client)
        assert answer.opcode in (TEXT, BINARY)
        assert {pong.opcode for pong in pongs} <= {PONG}
    client.send(begun)
    sent = 1
    while not client.transport.ended:
        client.send(empty)
        sent += 1
        assert sent <= MAX_EMPTY_FRAGMENTS + 2
    assert told(client)[-1] == closed(1008)
    assert sent >= MAX_EMPTY_FRAGMENTS
    assert worker.counters[Column.BAD_MESSAGES] == 1


@pytest.mark.parametrize("name", EMPTY)
@in_loop
async def test_what_adds_nothing_to_a_message_buys_it_no_time(name: str) -> None:
    extra, begun, empty = EMPTY[name]
    worker = make_worker()
    client = connect(worker, extra)
    client.send(begun)
    client.send(empty * (MAX_EMPTY_FRAGMENTS // 2))
    session = session_of(client)
    assert session.phase is Phase.BODY
    assert session.progress <= 1
    client.take()
    pass_time(worker, session, 21)
    assert told(client) == [closed(1008)]
    assert worker.counters[Column.BODY_TIMEOUTS] == 1


# -- ends --------------------------------------------------------------------------------------------------


@in_loop
async def test_a_drain_says_goodbye_and_waits_for_the_answer() -> None:
    worker = make_worker()
    clients = [connect(worker) for _ in range(3)]
    clients[1].send(frame(TEXT, b"a", fin=False))
    worker.service.drain()
    clients[2].send(frame(TEXT, b"b"))
    assert told(clients[2]) == [Frame(TEXT, b"b"), closed(1001)]
    worker.service.close_all(idle_only=True)
    assert [told(client) for client in clients] == [[closed(1001)], [], []]
    clients[1].send(frame(CONT, b"c"))
    assert told(clients[1]) == [Frame(TEXT, b"ac"), closed(1001)]
    for client in clients:
        client.send(frame(TEXT, b"late") + close(1001))
        assert client.transport.closed
        assert told(client) == []
    await asyncio.sleep(0)
    assert worker.service.drained.is_set()
    worker.verify()


@in_loop
async def test_a_client_that_has_said_all() -> None:
    worker = make_worker()
    client = connect(worker)
    client.finish()
    assert client.transport.closed
    await asyncio.sleep(0)
    client = connect(worker)
    client.transport.slow = True
    client.send(frame(BINARY, bytes(5000)) * 40)
    client.finish()
    while not client.transport.closed:
        client.transport.client_reads()
        await asyncio.sleep(0)
    assert told(client) == [Frame(BINARY, bytes(5000))] * 40
    worker.verify()


@in_loop
async def test_a_mistake_of_the_server_ends_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker()

    def fail(self: Echo, first: int, payload: bytes) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(Echo, "_answer", fail)
    client = connect(worker)
    client.send(frame(TEXT, b"a"))
    assert client.transport.aborted
    assert worker.counters[Column.INTERNAL_ERRORS] == 1


def _run(pieces: Iterable[bytes]) -> None:
    async def scenario() -> None:
        worker = make_worker()
        client = connect(worker, DEFLATE)
        client.send(*pieces)
        if not client.transport.closed:
            client.leave()
        await asyncio.sleep(0)

    asyncio.run(scenario())


@pytest.mark.parametrize("last", [b"", close(1000), frame(TEXT, b"\xff"), frame(TEXT, b"a", fin=False)])
def test_nothing_is_left_behind(last: bytes) -> None:
    _run([frame(TEXT, b"a"), frame(PING)])
    gc.collect()
    gc.disable()
    try:
        _run([frame(TEXT, b"a"), frame(PING), frame(TEXT, deflated(b"a"), rsv=4), *([last] if last else [])])
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Echo)]
    finally:
        gc.enable()
