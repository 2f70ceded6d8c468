"""The whole connection on a fake transport, with a closed list of outcomes."""

import asyncio
import atexit
from functools import cache

from cases.case import BODY, HOST, MAX_BODY_BYTES, MAX_HEAD_BYTES, Then
from fake import Client, Worker
from reader import Reader, read
from replies import Reply, read_replies

from fastkv.stats import Column
from fuzz import cut, unpack

STATUSES = frozenset(
    {100, 200, 201, 204, 206, 304, 400, 401, 403, 404, 405, 411, 412, 413, 414, 416, 417, 421, 431, 501, 505}
)

ON_THE_HEAD = frozenset({403, 404, 405, 413, 421, 501})
"""What a head may make certain, with these settings."""

_STORE = b"PUT /put HTTP/1.1\r\n" + HOST + b"Content-Length: 36\r\n\r\n" + BODY
_SMUGGLED = _STORE.replace(b'"name"', b'"evil"')
# Inputs for each worker: to make a store takes longer than to answer an input.
_INPUTS_PER_WORKER = 500


class _Fixture:
    """A worker, a loop, and how often both were used."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        atexit.register(self.loop.close)
        self.renew()

    def renew(self) -> None:
        self.used = 0
        self.worker = Worker(max_head_bytes=MAX_HEAD_BYTES, max_body_bytes=MAX_BODY_BYTES)


_fixture = cache(_Fixture)


def check(data: bytes) -> None:
    """Raise where a connection does what none may do.

    Args:
        data: The input.

    Raises:
        AssertionError: A reply is malformed, missing, one too many, or of an unknown status; what follows a
            refusal was read; the server made a mistake; the store is damaged.
    """
    fixture = _fixture()
    fixture.loop.run_until_complete(_converse(fixture.worker, data))
    fixture.used += 1
    if fixture.used == _INPUTS_PER_WORKER:
        fixture.worker.verify()
        fixture.renew()


async def _converse(worker: Worker, data: bytes) -> None:
    rng, stream = unpack(data)
    expected = read([stream])
    client = worker.client()
    client.transport.slow = rng.random() < 0.2
    await client.send_patiently(*cut(rng, stream))
    while not client.transport.reading:
        client.transport.client_reads()
        await asyncio.sleep(0)
    _check(client, expected)
    if client.transport.ended:
        sent = len(client.transport.sent)
        client.send(_SMUGGLED)
        assert len(client.transport.sent) == sent
    if rng.random() < 0.5:
        client.finish()
    client.transport.close()
    await asyncio.sleep(0)
    assert not client.transport.aborted
    assert not worker.service.connections
    assert worker.counters[Column.CONNECTIONS] == 0
    assert worker.counters[Column.INTERNAL_ERRORS] == 0


def _is_refused_on_head(final: list[Reply], expected: Reader) -> bool:
    """True where the last reply refuses a request by its head: its body had not come with it, or in part.

    Whether it had is chance here, so either is right: such a request is answered, or it is the last one.
    """
    if not final or not final[-1].closes or final[-1].status not in ON_THE_HEAD:
        return False
    asked = expected.messages[len(final) - 1 :]
    if asked:
        _, head, _ = asked[0]
        return head.chunked or head.content_length > 0
    return len(final) == len(expected.messages) + 1 and (
        expected.stream.in_body or expected.error is not None
    )


def _check(client: Client, expected: Reader) -> None:
    """Each message has its reply, a refusal its own, and there is no other."""
    methods = [line.partition(b" ")[0] for line, _, _ in expected.messages]
    # What is refused may be a body, asked for before it came.
    unfinished = expected.stream.in_body or expected.error is not None
    expecting = sum(head.expect_continue for _, head, _ in expected.messages) + unfinished
    refused = None
    ended = client.transport.ended
    replies = read_replies(bytes(client.transport.sent), [*methods, b"HEAD" if expected.headless else b""])
    final = [reply for reply in replies if reply.status >= 200]
    assert len(replies) - len(final) <= expecting
    if _is_refused_on_head(final, expected):
        assert ended
        assert not any(reply.closes for reply in final[:-1])
        return
    if expected.expects:
        assert replies[-1].status == 100
    assert {reply.status for reply in replies} <= STATUSES
    # The core may collect a body to the end that the parser refuses before it.
    if expected.error is not None and ended:
        refused = final.pop()
        assert refused.status == expected.error
        assert refused.closes
    assert len(final) == len(methods)
    assert [reply.closes for reply in final[:-1]] == [False] * (len(final) - 1)
    if refused is None:
        assert ended is (bool(final) and final[-1].closes)
        assert expected.error is not None or ended is (expected.then is Then.CLOSED)
