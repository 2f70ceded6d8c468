"""A connection's input: how much of it the parsers are given at once, and that nothing of it is lost."""

from fake import Worker, in_loop

from fastkv.http.fast import FastParser
from fastkv.http.full import FullParser
from fastkv.http.stream import RequestStream

READ_BYTES = 250_000
A = b"GET /get?key=a HTTP/1.1\r\nHost: a\r\n\r\n"
B = b"GET /get?key=a HTTP/1.1\r\nHost: b\r\n\r\n"


class Watched(FastParser):
    """A fast parser that notes the most it was given."""

    most = 0

    def parse(self, data: bytes):  # type: ignore[no-untyped-def]
        self.most = max(self.most, len(data))
        return super().parse(data)


def stream(fast: FastParser) -> RequestStream:
    return RequestStream(fast, lambda: FullParser(32 << 10, 1 << 20))


def test_requests_that_differ_do_not_cost_the_length_of_all_that_has_arrived() -> None:
    fast = Watched(32 << 10, 1 << 20)
    requests = stream(fast)
    count = READ_BYTES // len(A + B)
    requests.receive((A + B) * count)
    for _ in range(2 * count):
        found = requests.next(1)
        assert isinstance(found, tuple)
        assert len(found[0]) == 1
    assert requests.next(1) is None
    assert requests.at_rest
    assert fast.most < READ_BYTES / 10


def test_what_waits_for_its_turn_is_kept_as_bytes_and_counted() -> None:
    requests = stream(FastParser(32 << 10, 1 << 20))
    data = b"\r\n" + A * (READ_BYTES // len(A))
    requests.receive(data)
    assert requests.next(1)
    assert requests.held_bytes > 0.9 * READ_BYTES
    count = 1
    while requests.next(1):
        count += 1
    assert count == READ_BYTES // len(A)
    assert requests.at_rest


@in_loop
async def test_a_long_read_of_tiny_chunks_lets_others_have_a_turn() -> None:
    worker = Worker()
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
