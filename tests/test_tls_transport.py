"""TLS between a transport and a protocol, both of which a test looks into; the client is OpenSSL's."""

import asyncio
import gc
import ssl
from typing import TYPE_CHECKING

import pytest
from certificates import Pair, make_pair, needs_openssl
from fake import FakeTransport, Worker, in_loop

from fastkv.connection import Connection
from fastkv.handshake import Handshake
from fastkv.stats import Column
from fastkv.tls import OPENSSL_BYTES, RECORD_BYTES, SecureTransport

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = needs_openssl

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
PUT = b"PUT /kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"))


class TlsClient:
    """A client that speaks TLS to a worker without sockets.

    Attributes:
        lower: The transport below TLS.
        read: What the server has said, as plain bytes.
        ended: Whether it has said that nothing more comes.
    """

    def __init__(self, worker: Worker, pair: Pair, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        trusting = ssl.create_default_context(cafile=pair.cert)
        trusting.minimum_version = trusting.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.handshake = Handshake(worker.service, context, lambda: Connection(worker.service))
        self.lower = FakeTransport(self.handshake)
        self.handshake.connection_made(self.lower)
        self._taken = 0
        self.read = b""
        self.ended = False

    def shake(self) -> None:
        """Do all of the handshake but for sending its last message."""
        for _ in range(3):
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self.deliver(self.take_records())
                self._incoming.write(self.take_replies())

    def take_records(self) -> bytes:
        """What the client has to send."""
        return self._outgoing.read()

    def take_replies(self) -> bytes:
        """What the server has sent, as records."""
        new = bytes(self.lower.sent[self._taken :])
        self._taken += len(new)
        return new

    def deliver(self, records: bytes, size: int = 1 << 30) -> None:
        """Let records arrive, so many bytes at a time."""
        for at in range(0, len(records), size):
            self.lower.get_protocol().data_received(records[at : at + size])

    def say(self, plain: bytes) -> bytes:
        """Records for plain bytes."""
        self.tls.write(plain)
        return self.take_records()

    def hear(self) -> bytes:
        """Read what has been sent; all of it so far."""
        self._incoming.write(self.take_replies())
        try:
            while piece := self.tls.read(1 << 20):
                self.read += piece
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return self.read

    def is_read(self) -> bool:
        """Whether the server takes what this client sends."""
        return self.lower.reading

    def is_closed(self) -> bool:
        """Whether the server has closed."""
        return self.lower.closed

    @property
    def connection(self) -> Connection:
        """What has the connection."""
        secure = self.lower.get_protocol()
        assert isinstance(secure, SecureTransport)
        connection = secure.get_protocol()
        assert isinstance(connection, Connection)
        return connection


def ready(worker: Worker, pair: Pair) -> TlsClient:
    """A client whose handshake is done."""
    client = TlsClient(worker, pair)
    client.shake()
    client.deliver(client.take_records())
    return client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 7, 1 << 30])
@in_loop
async def test_at_any_split_and_behind_the_handshake(pair: Pair, size: int, version: ssl.TLSVersion) -> None:
    worker = Worker()
    client = TlsClient(worker, pair, version)
    client.shake()
    records = client.take_records()
    if version is ssl.TLSVersion.TLSv1_2:
        client.deliver(records)
        client.hear()
        records = b""
    client.deliver(records + client.say(HEALTH) + client.say(HEALTH[:9]), size)
    assert client.hear().count(b'{"status":"healthy"}') == 1
    client.deliver(client.say(HEALTH[9:]) + client.say(PUT + b"x" * 4000), size)
    assert client.hear().count(b'{"status":"healthy"}') == 2
    assert client.read.count(b"HTTP/1.1 201 ") == 1
    worker.verify()


@in_loop
async def test_what_is_not_read_waits_as_plain_bytes_and_counts(pair: Pair) -> None:
    worker = Worker()
    worker.store.put(b"k", b"v" * 4000, lambda: 0)
    client = ready(worker, pair)
    client.hear()
    client.lower.slow = True
    client.deliver(client.say(b"GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400))
    below = client.lower.get_write_buffer_size()
    assert 64 << 10 < below < (64 << 10) + 2 * RECORD_BYTES
    assert not client.is_read()
    assert worker.service.flow.held_bytes >= client.connection.held_bytes > below
    for _ in range(1000):
        if client.read.count(b"v" * 4000) == 400:
            break
        client.lower.client_reads()
        await asyncio.sleep(0)
        client.hear()
    assert client.read.count(b"v" * 4000) == 400
    client.lower.client_reads()
    assert worker.service.flow.held_bytes == 0
    assert client.is_read()


@in_loop
async def test_what_has_begun_to_go_out_counts_as_a_whole_and_openssl_with_it(pair: Pair) -> None:
    worker = Worker()
    client = ready(worker, pair)
    client.hear()
    client.deliver(client.say(PUT + b"x" * 3000))
    assert worker.service.flow.held_bytes == 0  # too little to be counted
    json = b"PUT /put HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n"
    client.deliver(client.say(b"x" * 1000 + json + b"x" * 5000))
    assert worker.service.flow.held_bytes == len(json) + 5000 + OPENSSL_BYTES
    client.deliver(client.say(b"x" * 4000))
    assert worker.service.flow.held_bytes == 0
    secure = client.connection._transport
    assert isinstance(secure, SecureTransport)
    client.lower.slow = True
    client.connection.write_any(b"v" * 60_000)
    assert not client.is_read()
    client.lower.drain(59_000)
    assert worker.service.flow.held_bytes >= client.connection.held_bytes > 60_000 + OPENSSL_BYTES
    client.lower.client_reads()
    assert worker.service.flow.held_bytes == 0
    assert client.is_read()


@in_loop
async def test_a_long_reply_takes_no_second_copy(pair: Pair) -> None:
    """OpenSSL's buffer is as large as the largest piece that ever was in it."""
    client = ready(Worker(), pair)
    secure = client.connection._transport
    assert isinstance(secure, SecureTransport)
    client.lower.slow = True
    value = b"v" * 1_000_000
    secure.write(value)
    assert secure._backlog[0] is value
    assert len(secure._backlog) == 1
    assert secure.get_write_buffer_size() >= len(value)
    secure.write(b"end")
    while not client.read.endswith(b"end"):
        client.lower.client_reads()
        client.hear()
    assert client.read == value + b"end"


@in_loop
async def test_the_last_reply_ends_tls_and_what_follows_is_thrown_away(pair: Pair) -> None:
    worker = Worker()
    client = ready(worker, pair)
    client.deliver(client.say(HEALTH.replace(b"Host", b"Connection: close\r\nHost")))
    assert b"healthy" in client.hear()
    assert client.ended
    assert client.lower.ended
    assert not client.is_closed()
    client.deliver(client.say(HEALTH * 10))
    client.deliver(b"nonsense" * 1000)
    assert not client.lower.aborted
    assert client.hear().count(b"healthy") == 1
    assert client.lower.get_protocol().eof_received()
    assert client.is_closed()
    worker.verify()


@pytest.mark.parametrize("with_a_word", [True, False])
@in_loop
async def test_a_client_that_has_said_all_gets_what_is_due(pair: Pair, with_a_word: bool) -> None:
    worker = Worker()
    client = ready(worker, pair)
    client.lower.slow = True
    worker.store.put(b"k", b"v" * 4000, lambda: 0)
    client.deliver(client.say(b"GET /kv/k HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100))
    if with_a_word:
        with pytest.raises(ssl.SSLError):
            client.tls.unwrap()
        client.deliver(client.take_records())
    else:
        client.lower.get_protocol().eof_received()
    for _ in range(1000):
        if client.lower.closed:
            break
        client.lower.client_reads()
        await asyncio.sleep(0)
        if not with_a_word:
            client.hear()
    assert client.lower.closed
    assert with_a_word or client.read.count(b"HTTP/1.1 200 ") == 100


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\x00\x20" + b"x" * 32])
@in_loop
async def test_what_is_no_record_ends_the_connection(pair: Pair, junk: bytes) -> None:
    worker = Worker()
    client = ready(worker, pair)
    client.deliver(junk)
    assert client.lower.aborted
    worker.verify()


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x00\x05hello", b"\x16" * 100_000, b"\x16\x03\x01\xff\xff"])
@in_loop
async def test_what_is_no_handshake_ends_the_connection(pair: Pair, junk: bytes) -> None:
    worker = Worker()
    client = TlsClient(worker, pair)
    client.deliver(junk)
    assert client.lower.ended
    assert worker.counters[Column.HANDSHAKES_FAILED] == 1
    client.lower.close()
    await asyncio.sleep(0)
    assert worker.counters[Column.CONNECTIONS] == 0
    assert not worker.service.connections
    worker.verify()


@in_loop
async def test_a_place_is_taken_from_the_accept_on(pair: Pair) -> None:
    worker = Worker(max_connections=3)
    clients = [TlsClient(worker, pair) for _ in range(3)]
    assert worker.counters[Column.CONNECTIONS] == worker.counters[Column.ACCEPTED] == 3
    late = ready(worker, pair)
    assert b"HTTP/1.1 503 " in late.hear()
    assert late.ended
    assert worker.counters[Column.CONNECTIONS_REFUSED] == 1
    clients[0].shake()
    clients[0].deliver(clients[0].take_records() + clients[0].say(HEALTH))
    assert b"healthy" in clients[0].hear()
    assert worker.counters[Column.CONNECTIONS] == 3
    for client in (*clients, late):
        client.lower.get_protocol().connection_lost(None)
    assert worker.counters[Column.CONNECTIONS] == 0
    assert not worker.service.connections
    assert not worker.service.refused


@in_loop
async def test_of_many_refused_few_are_waited_for(pair: Pair) -> None:
    worker = Worker(max_connections=1)
    clients = [TlsClient(worker, pair) for _ in range(100)]
    assert sum(not client.lower.closed for client in clients) == 1 + 64


@in_loop
async def test_openssl_is_asked_for_when_a_handshake_begins_and_for_few_at_a_time(pair: Pair) -> None:
    worker = Worker(max_handshakes=2)
    clients = [TlsClient(worker, pair) for _ in range(4)]
    assert not worker.service.handshakes
    assert all(client.handshake.idle for client in clients)
    for client in clients[:3]:
        client.deliver(b"\x16\x03\x01")
    assert [client.lower.aborted for client in clients] == [True, False, False, False]
    assert worker.counters[Column.HANDSHAKES_CUT] == 1
    assert list(worker.service.handshakes) == [client.handshake for client in clients[1:3]]
    last = ready(worker, pair)
    assert clients[1].lower.aborted
    assert list(worker.service.handshakes) == [clients[2].handshake]
    last.deliver(last.say(HEALTH))
    assert b"healthy" in last.hear()


@in_loop
async def test_nothing_makes_a_cycle(pair: Pair) -> None:
    def live(client: TlsClient) -> None:
        client.shake()
        client.deliver(client.take_records() + client.say(HEALTH))
        client.hear()

    def fail(client: TlsClient) -> None:
        client.deliver(b"\x16" * 100)

    worker = Worker()
    ways: tuple[Callable[[TlsClient], None], ...] = (live, fail, lambda client: None)
    for way in ways:
        gc.collect()
        gc.disable()
        try:
            client = TlsClient(worker, pair)
            way(client)
            client.lower.get_protocol().connection_lost(None)
            client.lower.set_protocol(asyncio.Protocol())
            del client
            kinds = (Handshake, SecureTransport, Connection)
            assert not [thing for thing in gc.get_objects() if isinstance(thing, kinds)]
        finally:
            gc.enable()
