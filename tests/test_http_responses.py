"""Replies byte for byte, as the contract has them."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.http import responses
from fastkv.http.request import CLOSE, KEEP_ALIVE, KEEP_ALIVE_1_0
from fastkv.http.responses import Preludes, error_reply, is_plain, json_reply, value_reply, without_body


def _body(tail: bytes) -> bytes:
    """Return the body and check that Content-Length says how long it is."""
    head, _, body = tail.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n"))
    assert fields[b"Content-Type"] == b"application/json"
    assert int(fields[b"Content-Length"]) == len(body)
    return body


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        (responses.PUT_OK, 200, b'{"status":"OK","message":"Key inserted/updated successfully."}'),
        (responses.DELETE_OK, 200, b'{"status":"OK","message":"Key deleted successfully."}'),
        (responses.HEALTHY, 200, b'{"status":"healthy"}'),
        (responses.KEY_NOT_FOUND, 404, b'{"status":"ERROR","message":"Key not found."}'),
        (responses.DRAINING, 503, b'{"status":"ERROR","message":"The server is draining."}'),
        (json_reply(200, b"{}"), 200, b"{}"),
        (
            error_reply(405, 'Not "so".', b"Allow: GET\r\n"),
            405,
            b'{"status":"ERROR","message":"Not \\"so\\"."}',
        ),
    ],
)
def test_replies(reply: responses.Reply, status: int, body: bytes) -> None:
    assert (reply[0], _body(reply[1])) == (status, body)
    assert without_body(reply) == (status, reply[1].removesuffix(body))


def test_extra_fields() -> None:
    assert b"\r\nRetry-After: 1\r\n" in responses.DRAINING[1]
    assert b"\r\nAllow: GET\r\n\r\n{" in error_reply(405, "No.", b"Allow: GET\r\n")[1]


def test_a_hit() -> None:
    assert value_reply(b"name", b"UltraFastKV", True, True) == (
        b"Content-Type: application/json\r\nContent-Length: 50\r\nCache-Control: no-store\r\n\r\n"
        b'{"status":"OK","key":"name","value":"UltraFastKV"}'
    )


@given(st.binary(), st.binary())
def test_a_hit_says_what_was_stored(key: bytes, value: bytes) -> None:
    told = json.loads(_body(value_reply(key, value, False, False)))
    for name, raw, encoding in (("key", key, "key_encoding"), ("value", value, "encoding")):
        if told.get(encoding) == "base64":
            assert base64.b64decode(told[name]) == raw
            with pytest.raises(UnicodeDecodeError):
                raw.decode()
        else:
            assert told[name].encode() == raw


@given(st.text(max_size=2000))
def test_plain_strings_stand_as_they_are(text: str) -> None:
    raw = text.encode()
    assert is_plain(text, raw) is (json.dumps(text, ensure_ascii=False) == f'"{text}"')
    if is_plain(text, raw):
        assert value_reply(raw, raw, True, True) == value_reply(raw, raw, False, False)


@pytest.mark.parametrize("size", [0, 1, 900, 980, 1020, 1021, 1022, 1023, 1024, 5000])
def test_lengths_around_the_end_of_the_table(size: int) -> None:
    assert json.loads(_body(value_reply(b"k", b"v" * size, True, True)))["value"] == "v" * size


def test_not_plain() -> None:
    assert is_plain("é€😀 \x7f/'", "é€😀 \x7f/'".encode())
    for character in '"\\\0\n\x1f':
        assert not is_plain(character, character.encode())


def test_preludes_change_in_place() -> None:
    preludes = Preludes(784111777)
    kinds = preludes.kinds
    date = b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    assert kinds[KEEP_ALIVE][200] == date
    assert kinds[CLOSE][200] == date + b"Connection: close\r\n"
    assert kinds[KEEP_ALIVE_1_0][200] == date + b"Connection: keep-alive\r\n"
    preludes.set_date(951782400)
    assert preludes.kinds is kinds
    assert (
        kinds[CLOSE][404]
        == b"HTTP/1.1 404 Not Found\r\nDate: Tue, 29 Feb 2000 00:00:00 GMT\r\nConnection: close\r\n"
    )


def test_every_status_of_the_contract_has_a_prelude() -> None:
    statuses = {200, 201, 204, 206, 304, 400, 401, 403, 404, 405, 408, 411, 412, 413, 414, 416, 417, 421, 431}
    assert statuses | {500, 501, 503, 505, 507} <= set(Preludes(0).kinds[KEEP_ALIVE])
