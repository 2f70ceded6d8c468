"""A connection's input: what is kept of it, and that no byte is lost or copied again and again."""

from cases.case import MAX_BODY_BYTES, MAX_HEAD_BYTES
from fake import Worker, in_loop

from fastkv.http.parser import Parser
from fastkv.http.stream import RequestStream

READ_BYTES = 250_000
A = b"GET /get?key=a HTTP/1.1\r\nHost: a\r\n\r\n"
PUT = b"PUT /kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n"
BODY = b"x" * 20


def stream() -> RequestStream:
    return RequestStream(lambda: Parser(MAX_HEAD_BYTES, MAX_BODY_BYTES))


def test_a_long_pipeline_is_read_where_it_lies() -> None:
    requests = stream()
    count = READ_BYTES // len(A)
    data = A * count
    requests.receive(data, 0)
    for number in range(1, count + 1):
        found = requests.next()
        assert isinstance(found, tuple)
        assert requests.data is data
        assert requests.at == number * len(A)
    assert requests.at_rest


def test_what_waits_for_its_turn_is_kept_once_and_counted() -> None:
    requests = stream()
    requests.receive(A + A * 9, len(A))
    requests.next()
    requests.keep()
    assert (requests.unread, requests.held_bytes) == (A * 8, len(A * 8))
    assert not requests.idle
    requests.receive(A, 0)
    assert requests.unread == A * 9
    for _ in range(9):
        assert isinstance(requests.next(), tuple)
    requests.keep()
    assert (requests.data, requests.held_bytes) == (b"", 0)
    assert requests.idle


def test_a_body_whose_head_was_judged_is_collected_once() -> None:
    for pieces in ([BODY + A], [b"", BODY[:7], BODY[7:] + A], [BODY[:19], BODY[19:] + A]):
        requests = stream()
        requests.receive(A + PUT + pieces[0][:3], len(A))
        requests.collect(len(PUT + BODY))
        assert (requests.in_body, requests.at_boundary, requests.more) == (True, False, False)
        arrived = len(pieces[0][:3])
        assert (requests.body_bytes, requests.missing_bytes) == (arrived, 20 - arrived)
        assert requests.held_bytes == len(PUT) + arrived
        assert requests.began
        requests.receive(pieces[0][3:], 0)
        for piece in pieces[1:]:
            requests.receive(piece, 0)
        assert (requests.at_boundary, requests.unread) == (True, PUT + BODY + A)
        found = requests.next()
        assert isinstance(found, tuple)
        assert found[2] == BODY


def test_a_body_is_collected_without_copying_it_at_each_byte() -> None:
    requests = stream()
    requests.receive(PUT, 0)
    requests.collect(len(PUT + BODY))
    collected = requests._collected
    for at in range(19):
        requests.receive(BODY[at : at + 1], 0)
        assert requests._collected is collected


def test_when_a_head_or_a_body_begins_is_said() -> None:
    requests = stream()
    said = []
    for piece in (A, A[:5], A[5:9], A[9:], PUT[:-1], PUT[-1:], BODY[:5], BODY[5:9]):
        requests.began = False
        requests.receive(piece, 0)
        requests.next()
        said.append(requests.began)
    assert said == [True, True, False, True, True, True, False, False]


@in_loop
async def test_a_long_read_of_tiny_chunks_lets_others_have_a_turn() -> None:
    worker = Worker()
    worker.service.turn_seconds = 0.0
    client = worker.client()
    client.send(
        b"PUT /kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"000000000001;a\r\nx\r\n" * 4000
        + b"0\r\n\r\n"
        + A
    )
    assert not client.transport.reading
    assert not client.take()
    await client.send_patiently(A)
    taken = client.take()
    assert taken.count(b"HTTP/1.1 201") == 1
    assert taken.count(b"HTTP/1.1 404") == 2
