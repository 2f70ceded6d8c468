"""What messages on ``/ws`` say and are told, in text and in bytes; who may speak; pushes."""

import asyncio
import json
from itertools import pairwise

import orjson
import pytest
from fake import MAX_OUTPUT_BYTES, Client, Worker, get, in_loop, put_pair
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_ws_websocket import closed, connect, inflated, told
from ws_frames import BINARY, CLOSE, DEFLATE, HANDSHAKE, TEXT, Frame, frame

from fastkv.commands.context import Nobody
from fastkv.jsonwire import NOT_TEXT
from fastkv.pubsub.messages import Message
from fastkv.stats import Column
from fastkv.steps import Unfinished, finish
from fastkv.ws import resp as ws_resp
from fastkv.ws import text as ws_text
from fastkv.ws.session import Session

NO_COMMAND = "ERR a command is an array of strings, numbers and booleans, and not an empty one"
NO_CMD = 'ERR an object has to have "cmd", an array'


def text(client: Client, message: str) -> str:
    """Ask in text; the reply."""
    client.send(frame(TEXT, message.encode()))
    (found,) = told(client)
    assert found.opcode == TEXT
    return found.payload.decode()


def error(message: str) -> str:
    """An error as it is told."""
    return json.dumps({"error": message}, separators=(",", ":"))


SAID = [
    ('["SET","k","v"]', '{"result":"OK"}'),
    ('["GET","k"]', '{"result":"v"}'),
    ('["get","k"]', '{"result":"v"}'),
    (' [ "GET" , "k" ] ', '{"result":"v"}'),
    ('["GET","missing"]', '{"result":null}'),
    ('["SET","ü","\\u0000\\ud83d\\ude00\\""]', '{"result":"OK"}'),
    ('["GET","ü"]', '{"result":"\\u0000😀\\""}'),
    ('["SET","n",12345678901234567890123]', '{"result":"OK"}'),
    ('["GET","n"]', '{"result":"12345678901234567890123"}'),
    ('["SET","n",1.10]', '{"result":"OK"}'),
    ('["GET","n"]', '{"result":"1.10"}'),
    ('["SET","n",true]', '{"result":"OK"}'),
    ('["SET","n",9223372036854775806]', '{"result":"OK"}'),
    ('["INCR","n"]', '{"result":9223372036854775807}'),
    ('["INCR","n"]', error("ERR increment or decrement would overflow")),
    ('["MGET","k","missing"]', '{"result":["v",null]}'),
    ('["GET"]', error("ERR wrong number of arguments for 'get' command")),
    ('["NOPE","a"]', error("ERR unknown command 'NOPE', with args beginning with: 'a' ")),
    ('{"id":7,"cmd":["GET","k"]}', '{"id":7,"result":"v"}'),
    ('{"cmd":["GET","k"]}', '{"result":"v"}'),
    ('{"cmd":["GET","k"],"id":null,"x":1}', '{"id":null,"result":"v"}'),
    ('{"id":"a","cmd":["GET"]}', '{"id":"a",' + error("ERR wrong number of arguments for 'get' command")[1:]),
    ('{"id":1.50,"cmd":["GET","k"]}', '{"id":1.50,"result":"v"}'),
    ('{"id":[1e400,{"a":-0.0}],"cmd":["GET","k"]}', '{"id":[1e400,{"a":-0.0}],"result":"v"}'),
    (
        '{"id":[123456789012345678901234567890,{"a":-0.0,"b":[]}],"cmd":["GET","k"]}',
        '{"id":[123456789012345678901234567890,{"a":-0.0,"b":[]}],"result":"v"}',
    ),
    (' { "id" : "a-1" , "cmd" : [ "GET" , "k" ] } ', '{"id":"a-1","result":"v"}'),
    ('{"id":-0,"cmd":["GET","k"]}', '{"id":-0,"result":"v"}'),
    ('{"id":"\\u0061","cmd":["GET","k"]}', '{"id":"a","result":"v"}'),
    ('{"id":01,"cmd":["GET","k"]}', error("ERR this is not valid JSON")),
    ('{"id":1,"cmd":["GET","k"],"x":[2]}', '{"id":1,"result":"v"}'),
    ('{"id":1,"cmd":["GET","none"],"cmd":["GET","k"]}', '{"id":1,"result":"v"}'),
    ('{"id":1,"cmd":["GET","k"]]}', error("ERR this is not valid JSON")),
    ('{"id":1,"cmd":[["GET","k"]]}', '{"id":1,' + error(NO_COMMAND)[1:]),
    ('{"id":1,"cmd":["GET",null]}', '{"id":1,' + error(NO_COMMAND)[1:]),
    ('{"id":1,"cmd":["SET","f",1.50]}', '{"id":1,"result":"OK"}'),
    ('{"id":2,"cmd":["GET","f"]}', '{"id":2,"result":"1.50"}'),
    ('{"id":7,"cmd":"GET"}', '{"id":7,' + error(NO_CMD)[1:]),
    ('{"id":true}', '{"id":true,' + error(NO_CMD)[1:]),
    (
        '{"id":' + "[" * 500 + "]" * 500 + ',"cmd":["GET","k"]}',
        error("ERR the id is nested too deeply"),
    ),
    ('[["SET","b","1"],["INCR","b"],["GET","b"]]', '[{"result":"OK"},{"result":2},{"result":"2"}]'),
    (
        '[{"id":1,"cmd":["INCR","b"]},["INCR","b"],{"id":2},7,[],["GET",null],["GET",["b"]],["GET",1.0]]',
        '[{"id":1,"result":3},{"result":4},'
        + ",".join(['{"id":2,' + error(NO_CMD)[1:], *[error(NO_COMMAND)] * 4, '{"result":null}]']),
    ),
    ("[]", error(NO_COMMAND)),
    ("[[]]", f"[{error(NO_COMMAND)}]"),
    ("[7]", error("ERR unknown command '7', with args beginning with: ")),
    ("7", error(NO_COMMAND)),
    ("null", error(NO_COMMAND)),
    ('["GET",null]', error(NO_COMMAND)),
    ('["GET","\\ud800"]', error("ERR this is not valid JSON")),
    ("", error("ERR this is not valid JSON")),
    ("[" * 5000, error("ERR this is not valid JSON")),
]


@in_loop
async def test_text_in_order() -> None:
    worker = Worker()
    client = connect(worker)
    for message, reply in SAID:
        assert text(client, message) == reply, message
    client.leave()
    worker.verify()


@in_loop
async def test_text_all_at_once_and_byte_by_byte() -> None:
    data = b"".join(frame(TEXT, message.encode()) for message, _ in SAID * 3)
    for size in (len(data), 1, 7, 1000):
        worker = Worker()
        client = connect(worker)
        for at in range(0, len(data), size):
            await client.send_patiently(data[at : at + size])
        await client.send_patiently(frame(TEXT, b'["PING"]'))
        assert [found.payload.decode() for found in told(client)] == [
            *(reply for _, reply in SAID * 3),
            '{"result":"PONG"}',
        ]
        client.leave()
        worker.verify()


@in_loop
async def test_the_reply_to_a_command_with_an_id_has_it() -> None:
    worker = Worker()
    client = connect(worker)
    assert text(client, '["SET","k","v"]') == '{"result":"OK"}'
    for number in range(10):
        assert text(client, f'{{"id":{number},"cmd":["GET","k"]}}') == f'{{"id":{number},"result":"v"}}'
    worker.store.put(b"k", b"w" * 500, lambda: 0)
    for number in range(4):
        assert text(client, f'{{"id":"{number}","cmd":["GET","k"]}}') == (
            f'{{"id":"{number}","result":"{"w" * 500}"}}'
        )
    worker.store.delete(b"k", lambda: 0)
    assert text(client, '{"id":1,"cmd":["GET","k"]}') == '{"id":1,"result":null}'
    worker.store.put(b"k", b"x", lambda: 0)
    assert text(client, '["MULTI"]') == '{"result":"OK"}'
    assert text(client, '{"id":1,"cmd":["GET","k"]}') == '{"id":1,"result":"QUEUED"}'
    assert text(client, '{"id":2,"cmd":["EXEC"]}') == '{"id":2,"result":["x"]}'
    client.leave()
    worker.verify()


class Stranger(Nobody):
    """Asks by the way of all messages."""

    pushes = TEXT
    read: tuple[bytes, bytes] | None = None


@given(
    ident=st.one_of(
        st.integers(), st.text(max_size=10), st.booleans(), st.floats(allow_nan=False), st.none()
    ),
    words=st.one_of(
        st.just(["GET", "k"]),
        st.lists(
            st.one_of(st.sampled_from(["GET", "ECHO", "k", "\u00e9"]), st.text(max_size=5), st.integers())
        ),
    ),
    spaces=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r")]),
    broken=st.integers(0, 60),
)
def test_to_take_a_message_apart_changes_nothing(
    ident: object, words: list[object], spaces: tuple[str, str], broken: int
) -> None:
    """With an id: what the short way answers is what the way of all messages answers."""
    # Hypothesis takes words from the sources, too: these are answered otherwise each time.
    assume(not words or str(words[0]).upper() not in ("INFO", "TIME"))
    payload = json.dumps({"id": ident, "cmd": words}, separators=spaces, ensure_ascii=False).encode()
    if broken < len(payload) // 4:
        payload = payload[:broken] + payload[broken + 1 :]  # mostly no JSON any more
    try:
        payload.decode()
    except UnicodeDecodeError:
        return
    worker = Worker()
    worker.store.put(b"k", b"v", lambda: 0)
    try:
        expected = ws_text.reply_to(payload, worker.routes.commands, Stranger())
    except Unfinished as unfinished:
        expected = finish(unfinished.steps)

    async def scenario() -> None:
        client = connect(worker)
        for _ in range(4):
            assert text(client, payload.decode()).encode() == expected
        client.leave()

    asyncio.run(scenario())
    worker.verify()


@in_loop
async def test_values_that_are_no_text() -> None:
    worker = Worker()
    client = connect(worker)
    client.send(frame(BINARY, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\xff\0\r\n"))
    assert told(client) == [Frame(BINARY, b"+OK\r\n")]
    coded = orjson.dumps({"error": NOT_TEXT, "result_base64": "/wA="}).decode()[1:]
    for _ in range(4):
        assert text(client, '["GET","k"]') == "{" + coded
        assert text(client, '{"id":1,"cmd":["GET","k"]}') == '{"id":1,' + coded
        assert text(client, '[["GET","k"],["PING"]]') == "[{" + coded + ',{"result":"PONG"}]'
    assert json.loads(text(client, '["MGET","k","x"]')) == {
        "error": NOT_TEXT,
        "result_base64": ["/wA=", None],
    }
    worker.verify()


@in_loop
async def test_base64_for_those_who_ask() -> None:
    worker = Worker()
    client = connect(worker)
    client.send(frame(BINARY, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\xff\0\r\n"))
    assert told(client) == [Frame(BINARY, b"+OK\r\n")]
    for _ in range(4):
        coded = '{"id":1,"cmd":["GET","k"],"encoding":"base64"}'
        assert text(client, coded) == '{"id":1,"result":"/wA="}'
        assert text(client, coded.replace("base64", "text")).startswith('{"id":1,"error":"ERR a string')
    assert text(client, '{"cmd":["MGET","k","x"],"encoding":"base64"}') == '{"result":["/wA=",null]}'
    assert text(client, '{"cmd":["SET","a","b"],"encoding":"base64"}') == '{"result":"OK"}'
    assert text(client, '[{"cmd":["GET","a"],"encoding":"base64"},["GET","a"]]') == (
        '[{"result":"Yg=="},{"result":"b"}]'
    )
    assert text(client, '{"cmd":["KEYS","*"],"encoding":"base64"}') in (
        '{"result":["aw==","YQ=="]}',
        '{"result":["YQ==","aw=="]}',
    )
    wrong: object
    for wrong in ("hex", "Base64", 1, None, ["base64"], {}):
        asked = json.dumps({"id": "x", "cmd": ["SET", "a", "changed"], "encoding": wrong})
        assert json.loads(text(client, asked)) == {"id": "x", "error": 'ERR "encoding" is "text" or "base64"'}
    assert text(client, '["GET","a"]') == '{"result":"b"}'
    worker.verify()


def resp(*words: bytes) -> bytes:
    """A command in RESP2."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


WRONG = b"-ERR Protocol error: expected an array of bulk strings\r\n"
CUT = b"-ERR Protocol error: the last command is not complete\r\n"
LONG = b"-ERR Protocol error: invalid multibulk length\r\n"
RESP = [
    (resp(b"SET", b"k", b"\0\xff\r\n"), b"+OK\r\n", False),
    (resp(b"GET", b"k"), b"$4\r\n\0\xff\r\n\r\n", False),
    (resp(b"GET", b"k"), b"$4\r\n\0\xff\r\n\r\n", False),
    (resp(b"GET", b"k"), b"$4\r\n\0\xff\r\n\r\n", False),
    (resp(b"GET", b"missing"), b"$-1\r\n", False),
    (resp(b"MGET", b"k", b"x") + resp(b"PING"), b"*2\r\n$4\r\n\0\xff\r\n\r\n$-1\r\n+PONG\r\n", False),
    (resp(b"INCR", b"n") * 3, b":1\r\n:2\r\n:3\r\n", False),
    (resp(b"GET"), b"-ERR wrong number of arguments for 'get' command\r\n", False),
    (resp(b"a\r\nb"), b"-ERR unknown command 'a  b', with args beginning with: \r\n", False),
    (resp(b"SET", b"big", b"*99999999\r\n"), b"+OK\r\n", False),
    (resp() + resp(b"PING"), b"+PONG\r\n", False),
    (b"PING\r\n", WRONG, True),
    (resp(b"PING") + b"PING\r\n", b"+PONG\r\n" + WRONG, True),
    (b"*1\r\n:1\r\n", WRONG, True),
    (b"*1\r\n$-1\r\n", WRONG, True),
    (b"*1\r\n*1\r\n$4\r\nPING\r\n", WRONG, True),
    (b"*1\r\n+PING\r\n", WRONG, True),
    (b"$4\r\nPING\r\n", WRONG, True),
    (b"*-1\r\n", WRONG, True),
    (b"%1\r\n*0\r\n*0\r\n", WRONG, True),
    (b"*01\r\n$4\r\nPING\r\n", WRONG, True),
    (resp(b"PING")[:-1], CUT, True),
    (resp(b"PING") + b"*", b"+PONG\r\n" + CUT, True),
    (b"*2000000000\r\n", LONG, True),
    (b"*1\r\n*2000000000\r\n", LONG, True),
    (resp(b"x" * 5000) + b"*9999\r\n$1\r\na\r\n", LONG, True),
    (b"*99999999999999999999999999\r\n", LONG, True),
]


@pytest.mark.parametrize("alone", [True, False])
@in_loop
async def test_bytes(alone: bool) -> None:
    worker = Worker()
    client = connect(worker)
    for message, reply, ends in RESP:
        data = frame(BINARY, message)
        client.send(*([data] if alone else [data[:3], data[3:]]))
        expected = [Frame(BINARY, reply), *([closed(1003)] if ends else [])]
        assert told(client) == expected, message
        if ends:
            client.leave()
            client = connect(worker)
    client.send(frame(BINARY))
    assert told(client) == []
    worker.verify()


@in_loop
async def test_a_batch_is_bounded() -> None:
    worker = Worker(max_batch=3)
    client = connect(worker)
    refused = error("ERR 4 commands are too many together; --max-batch allows 3")
    assert text(client, json.dumps([["SET", "a", "1"]] * 4)) == refused
    assert text(client, json.dumps([{"id": 1, "cmd": ["SET", "a", "1"]}] * 4)) == refused
    client.send(frame(BINARY, resp(b"SET", b"a", b"1") * 4))
    assert told(client)[0].payload.startswith(b"-ERR 4 commands")
    assert text(client, '["EXISTS","a"]') == '{"result":0}'
    assert worker.counters[Column.BATCH_TOO_LONG] == 3


_pieces = st.lists(
    st.builds(
        frame,
        st.integers(0, 15) | st.sampled_from([TEXT, TEXT, BINARY, BINARY]),
        st.binary(max_size=140)
        | st.sampled_from([message.encode() for message, _ in SAID] + [message for message, _, _ in RESP]),
        fin=st.booleans() | st.just(True),
        rsv=st.sampled_from([0, 0, 0, 0, 4, 1]),
        mask=st.sampled_from([b"abcd", b"abcd", b"abcd", None]),
        width=st.sampled_from([None, None, None, 2, 8]),
    )
    | st.binary(max_size=30),
    max_size=8,
)


@given(_pieces, st.booleans(), st.data())
@settings(deadline=None, max_examples=300)
def test_any_bytes_at_all(pieces: list[bytes], deflate: bool, data: st.DataObject) -> None:
    """Nothing that a client may send is a surprise, and what it is told are whole frames."""
    sent = b"".join(pieces)
    reads = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))

    async def scenario() -> None:
        worker = Worker()
        client = connect(worker, DEFLATE if deflate else b"")
        bounds = pairwise([0, *reads, len(sent)])
        await client.send_patiently(*(sent[start:end] for start, end in bounds if start < end))
        closes = [found.opcode == CLOSE for found in told(client)]
        assert True not in closes[:-1]
        assert (client.transport.ended or client.transport.closed) is (closes[-1:] == [True])
        assert not client.transport.aborted
        if not client.transport.closed:
            client.leave()
        await asyncio.sleep(0)
        assert not worker.service.connections
        worker.verify()

    asyncio.run(scenario())


# -- what is stored is what is said ------------------------------------------------------------------------


@in_loop
async def test_what_is_said_is_never_old() -> None:
    worker = Worker()
    one, other, http = connect(worker), connect(worker), worker.client()
    ask = ('["GET","k"]', frame(BINARY, resp(b"GET", b"k")))
    for value in ("1", "2", "x" * 100, "3"):
        http.ask(put_pair("k", value))
        for _ in range(4):
            for client in (one, other):
                assert text(client, ask[0]) == f'{{"result":"{value}"}}'
                client.send(ask[1])
                assert told(client) == [Frame(BINARY, b"$%d\r\n%b\r\n" % (len(value), value.encode()))]
    text(one, '["DEL","k"]')
    assert text(other, ask[0]) == '{"result":null}'
    text(one, '["SET","k","4","PX","1000"]')
    for _ in range(4):
        assert text(other, ask[0]) == '{"result":"4"}'
    worker.now_ms += 1000
    assert text(other, ask[0]) == '{"result":null}'
    text(one, '["SET","k","5"]')
    for _ in range(4):
        text(one, ask[0])
    one.send(frame(BINARY, ask[0].encode()))
    assert told(one)[-1] == closed(1003)
    assert b" 400 " in worker.client().ask(b'["GET","k"]\r\n\r\n')
    worker.verify()


@in_loop
async def test_a_transaction_queues_what_was_answered_before() -> None:
    worker = Worker()
    client, other = connect(worker), connect(worker)
    text(client, '["SET","k","1"]')
    for _ in range(4):
        text(client, '["GET","k"]')
    for begin in (lambda: text(client, '["MULTI"]'), lambda: client.send(frame(BINARY, resp(b"MULTI")))):
        begin()
        client.take()
        assert text(client, '["GET","k"]') == '{"result":"QUEUED"}'
        client.send(frame(TEXT, b'["GET","k"]') * 2)
        assert [found.payload for found in told(client)] == [b'{"result":"QUEUED"}'] * 2
        assert text(other, '["GET","k"]') == '{"result":"1"}'
        assert text(client, '["DISCARD"]') == '{"result":"OK"}'
        assert text(client, '["GET","k"]') == '{"result":"1"}'
    worker.verify()


@in_loop
async def test_what_waits_for_exec_counts_as_memory_held() -> None:
    worker = Worker()
    client = connect(worker)
    client.send(frame(TEXT, b'["MULTI"]') + frame(TEXT, b'["SET","k","%b"]' % (b"x" * 10_000)))
    assert 10_000 < worker.service.flow.held_bytes < 11_000
    for part in frame(TEXT, b'["SET","l","%b"]' % (b"x" * 10_000)), frame(TEXT, b'["GET","k"]'):
        client.send(part[:50])
        client.send(part[50:])
        assert 20_000 < worker.service.flow.held_bytes < 22_000
    client.take()
    text(client, '["EXEC"]')
    worker.service.flow.turn([*worker.service.connections])
    assert worker.service.flow.held_bytes == 0
    worker.verify()


@in_loop
async def test_each_client_gets_the_compression_that_it_agreed() -> None:
    worker = Worker()
    packed, plain = connect(worker, DEFLATE), connect(worker)
    value = "x" * 3000
    text(plain, json.dumps(["SET", "k", value]))
    for _ in range(4):
        packed.send(frame(TEXT, b'["GET","k"]'))
        (found,) = told(packed)
        assert found.rsv == 4
        assert inflated(found.payload) == b'{"result":"%b"}' % value.encode()
    for _ in range(4):
        assert text(plain, '["GET","k"]') == f'{{"result":"{value}"}}'
    worker.verify()


# -- the handshake -----------------------------------------------------------------------------------------

OPEN = HANDSHAKE % b""
REFUSED = [
    ("no upgrade", get("a").replace(b"/get?key=a", b"/ws"), 426),
    ("another protocol", OPEN.replace(b"websocket\r\n", b"h2c\r\n"), 426),
    ("no version", OPEN.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 426),
    ("another version", OPEN.replace(b"Version: 13", b"Version: 8"), 426),
    ("two versions", OPEN.replace(b"Version: 13", b"Version: 13, 8"), 426),
    ("Connection without it", OPEN.replace(b"Connection: Upgrade", b"Connection: keep-alive"), 426),
    ("HTTP/1.0", OPEN.replace(b"HTTP/1.1", b"HTTP/1.0"), 426),
    ("no key", OPEN.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""), 400),
    ("a short key", OPEN.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhl"), 400),
    ("a key that is no base64", OPEN.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"!" * 24), 400),
    ("two keys", HANDSHAKE % b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 400),
    ("malformed extensions", HANDSHAKE % b"Sec-WebSocket-Extensions: ,;=\r\n", 400),
    ("POST", OPEN.replace(b"GET", b"POST").replace(b"Host", b"Content-Length: 0\r\nHost"), 405),
    ("no token", OPEN, 401),
    ("another token", OPEN.replace(b"/ws", b"/ws?_token=x"), 401),
    ("a foreign page", HANDSHAKE % b"Origin: http://evil.example\r\n", 403),
    ("a page of no origin", HANDSHAKE % b"Origin: null\r\n", 403),
    ("Sec-Fetch-Site", HANDSHAKE % b"Sec-Fetch-Site: cross-site\r\n", 403),
    ("another host", OPEN.replace(b"Host: a", b"Host: a.example"), 421),
]


@pytest.mark.parametrize(("name", "request_", "status"), REFUSED, ids=[case[0] for case in REFUSED])
@in_loop
async def test_no_handshake(name: str, request_: bytes, status: int) -> None:
    worker = Worker(token="secret") if status == 401 else Worker()
    client = worker.client()
    reply = client.ask(request_)
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    if status == 426:
        assert b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" in reply
    assert isinstance(client.transport.get_protocol(), type(client.connection))
    worker.verify()


@in_loop
async def test_who_may_speak() -> None:
    worker = Worker(token="secret", allow_origin="https://good.example")
    for request in (
        HANDSHAKE % b"Authorization: Bearer secret\r\n",
        OPEN.replace(b"/ws", b"/ws?_token=secret"),
        (HANDSHAKE % b"Origin: https://good.example\r\n").replace(b"/ws", b"/ws?_token=secret"),
    ):
        client = worker.client()
        assert client.ask(request).startswith(b"HTTP/1.1 101 ")
        assert text(client, '["PING"]') == '{"result":"PONG"}'


# -- pushes ------------------------------------------------------------------------------------------------

PUSHED: list[tuple[Message, str, bytes]] = [
    (
        Message(b"c", b"hi"),
        '{"push":["message","c","hi"]}',
        b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
    ),
    (
        Message(b"c", b"\xff", b"*"),
        '{"push":["pmessage_base64","Kg==","Yw==","/w=="]}',
        b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$1\r\n\xff\r\n",
    ),
]


@pytest.mark.parametrize(("message", "as_text", "as_bytes"), PUSHED)
@in_loop
async def test_pushes(message: Message, as_text: str, as_bytes: bytes) -> None:
    client = connect(Worker())
    session = client.transport.get_protocol()
    assert isinstance(session, Session)
    session.push(message)
    session.pushes = 0x82
    session.push(message)
    assert told(client) == [Frame(TEXT, as_text.encode()), Frame(BINARY, as_bytes)]


@in_loop
async def test_pushes_go_the_way_that_was_subscribed() -> None:
    client = connect(Worker())
    session = client.transport.get_protocol()
    assert isinstance(session, Session)
    asks = [
        (frame(BINARY, resp(b"subscribe", b"c")), 0x82),
        (frame(TEXT, b'["GET","c"]'), 0x82),
        (frame(TEXT, b'{"id":1,"cmd":["PSUBSCRIBE","c"]}'), 0x81),
        (frame(BINARY, resp(b"PING") + resp(b"SUBSCRIBE", b"c")), 0x82),
        (frame(TEXT, b'["Subscribe","c"]'), 0x81),
        (frame(BINARY, resp(b"SUBSCRIBE", b"c")), 0x82),
        (frame(TEXT, b'[["PING"],["SUBSCRIBE","c"]]'), 0x81),
    ]
    for ask, pushes in asks:
        client.send(ask)
        client.take()
        assert session.pushes == pushes


@in_loop
async def test_a_subscriber_takes_what_its_output_holds_and_is_told_why_it_is_closed() -> None:
    client = connect(Worker())
    client.transport.slow = True
    session = client.transport.get_protocol()
    assert isinstance(session, Session)
    count = 0
    while session.takes(1000):
        session.push(Message(b"c", b"x" * 1000))
        count += 1
        assert count < 2 * MAX_OUTPUT_BYTES / 1000
    assert session.held_bytes > MAX_OUTPUT_BYTES
    session.give_up("Enough.")
    assert client.transport.ended
    found = told(client)
    assert len(found) == count + 1
    assert found[-1] == closed(1013)
    assert found[0].opcode != CLOSE
    session.push(Message(b"c", b"more"))
    session.give_up("Enough.")
    assert told(client) == []


_words = st.one_of(st.binary(max_size=6), st.sampled_from([b"\r\n", b"$1", b"*1", b"", b"x" * 1100]))


@given(
    st.lists(st.lists(_words, max_size=4), max_size=4),
    st.integers(0, 80),
    st.one_of(st.none(), st.sampled_from([b"", b"\r\n", b"*1\r\n", b"$", b"0", b"+", b"-1"])),
)
def test_the_short_way_of_resp_reads_what_the_long_one_reads(
    said: list[list[bytes]], at: int, damage: bytes | None
) -> None:
    payload = b"".join(resp(*words) for words in said)
    if damage is not None:
        payload = payload[:at] + damage + payload[at + len(damage) % 2 :]
    short = ws_resp._split(payload)
    asked, problem = ws_resp._commands_of(payload)
    if damage is None:
        assert (asked, problem) == ([words for words in said if words], "")
        plain = not any(b"\r\n" in word or len(word) > 1000 for words in said for word in words)
        assert (short is not None) is (plain and all(said))
    if short is not None:
        assert (asked, problem) == (short, "")
