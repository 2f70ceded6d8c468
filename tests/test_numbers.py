"""Numbers in JSON, of any size, in every position that a client can write them: none loses its spelling."""

import orjson
import pytest
import ws_frames
from fake import Client, Worker, get, put, running_loop

LITERALS = (
    "0", "-0", "-0.0", "7", "1.50", "1E5", "1e-400", "123456789012345678901234567890", "1e309", "-1e400",
    "9" * 310, "-" + "9" * 400 + ".5e+3",
)  # fmt: skip
_EACH = pytest.mark.parametrize("literal", LITERALS)


def ask(client: Client, route: str, body: str) -> tuple[int, bytes]:
    """Status and body of the reply to a POST."""
    raw = body.encode()
    client.send(
        b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (route.encode(), len(raw), raw)
    )
    head, _, told = client.take().partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), told


def say(client: Client, message: str) -> str:
    """The reply to a message of text."""
    client.send(ws_frames.frame(ws_frames.TEXT, message.encode()))
    (frame,) = ws_frames.read(client.take())
    assert frame.opcode == ws_frames.TEXT
    return frame.payload.decode()


@pytest.fixture
def socket(client: Client) -> Client:
    """A WebSocket."""
    assert client.ask(ws_frames.HANDSHAKE % b"").startswith(b"HTTP/1.1 101 ")
    return client


@_EACH
def test_a_word_of_a_command(client: Client, literal: str) -> None:
    assert ask(client, "/", f'["ECHO",{literal}]') == (200, b'{"result":"%b"}' % literal.encode())
    commands = f'[["SET","k",{literal}],["GET","k"],["ECHO",{literal}]]'
    for route in ("/pipeline", "/multi-exec"):
        status, body = ask(client, route, commands)
        assert (status, orjson.loads(body)) == (
            200,
            [{"result": "OK"}, {"result": literal}, {"result": literal}],
        )


@_EACH
def test_a_word_of_a_message(socket: Client, literal: str) -> None:
    told = f'{{"result":"{literal}"}}'
    assert say(socket, f'["ECHO",{literal}]') == told
    assert say(socket, f'[["ECHO",{literal}],["ECHO","a"]]') == f'[{told},{{"result":"a"}}]'
    assert say(socket, f'{{"id":1,"cmd":["ECHO",{literal}]}}') == f'{{"id":1,{told[1:]}'
    assert say(socket, f'{{"x":{literal},"cmd":["ECHO","a"]}}') == '{"result":"a"}'


@_EACH
@pytest.mark.parametrize("ident", ["%s", "[%s]", '{"a":[1,"%s",%s]}'])
def test_an_id(socket: Client, ident: str, literal: str) -> None:
    ident = ident.replace("%s", literal)
    told = f'{{"id":{ident},"result":"a"}}'
    assert say(socket, f'{{"id":{ident},"cmd":["ECHO","a"]}}') == told
    assert say(socket, f'{{"cmd":["ECHO","a"],"id":{ident}}}') == told
    assert say(socket, f'[{{"id":{ident},"cmd":["ECHO","a"]}},["ECHO",{literal}]]') == (
        f'[{told},{{"result":"{literal}"}}]'
    )


@_EACH
def test_a_member_that_put_ignores(client: Client, literal: str) -> None:
    for ignored in (literal, f"[{literal}]", f'{{"key":{literal}}}'):
        body = f'{{"key":"k","x":{ignored},"value":"\\u0041","ttl":5}}'.encode()
        assert client.ask(put(body)).startswith(b"HTTP/1.1 200 ")
        assert client.ask(get("k")).endswith(b'{"status":"OK","key":"k","value":"A"}')


@pytest.mark.parametrize(
    ("literal", "status"),
    [
        ("1e309", 400),
        ("-1e309", 400),
        ("9" * 310, 400),
        ("0", 400),
        ("-0", 400),
        ("1e-400", 400),
        ("1.5", 200),
    ],
)
def test_a_ttl(client: Client, literal: str, status: int) -> None:
    for rest in ("", ',"x":1e400'):
        found, body = ask(client, "/put", f'{{"key":"k","value":"v","ttl":{literal}{rest}}}')
        assert found == status
        if status == 400:
            assert orjson.loads(body)["message"].startswith("The ttl must be a number of seconds above 0")


@pytest.mark.parametrize("member", ['"key":1e309,"value":"v"', '"key":"k","value":1e309'])
def test_a_number_is_neither_key_nor_value(client: Client, member: str) -> None:
    status, body = ask(client, "/put", f"{{{member}}}")
    assert status == 400
    assert b"The body must have a " in body


@pytest.mark.parametrize(
    "item", ["NaN", "[Infinity]", "-Infinity", "01e400", "+1e400", '[1e309,"\\ud800"]', "[1e309", "1e309 1"]
)
def test_what_is_no_json_is_refused_beside_them(worker: Worker, item: str) -> None:
    with running_loop():
        for route in ("/", "/pipeline", "/multi-exec", "/put"):
            text = f'[["SET","k",{item}]]' if route != "/put" else f'{{"key":"k","value":"v","x":{item}}}'
            status, body = ask(worker.client(), route, text)
            assert (status, b"not valid JSON" in body) == (400, True)
        socket = worker.client()
        socket.ask(ws_frames.HANDSHAKE % b"")
        assert say(socket, f'["SET","k",{item}]') == '{"error":"ERR this is not valid JSON"}'
    assert worker.store.get(b"k", lambda: 0) is None
