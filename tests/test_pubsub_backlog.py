"""What waits for subscribers that are behind: order, memory to the byte, and who is too slow."""

from __future__ import annotations

import random
from collections import deque

import pytest
from pubsub_helpers import Listener

from fastkv.pubsub.backlog import Backlog
from fastkv.pubsub.messages import Message

LAG_BYTES = 1 << 20
SECONDS = 5.0


def make(limit_bytes: int = 1 << 24) -> Backlog:
    return Backlog(limit_bytes, LAG_BYTES, SECONDS, 512)


def _short(message: Message) -> bytes:
    return message.payload[:1]


def _long(message: Message) -> bytes:
    return b"{%b}" % message.payload * 2


def test_each_has_its_messages_in_order_and_each_message_counts_once() -> None:
    rng = random.Random(1)
    backlog = make()
    waiting: dict[Listener, deque[Message]] = {}
    listeners = [Listener() for _ in range(5)]
    for i in range(5000):
        action = rng.random()
        listener = rng.choice(listeners)
        if action < 0.3:
            message = Message(b"c", b"%d" % i + bytes(rng.randint(0, 3000)))
            for target in rng.sample(listeners, rng.randint(1, 5)):
                backlog.add(target, message)
                waiting.setdefault(target, deque()).append(message)
        elif action < 0.9 and listener in waiting:
            assert listener in backlog
            message = backlog.take(listener)
            assert message is waiting[listener].popleft()
            if not waiting[listener]:
                del waiting[listener]
            message.as_sent(rng.choice([_short, _long]))
            backlog.recount(message)
        elif action < 0.95:
            backlog.forget(listener)
            waiting.pop(listener, None)
        assert [listener in backlog for listener in listeners] == [
            listener in waiting for listener in listeners
        ]
        distinct = {message for queue in waiting.values() for message in queue}
        references = sum(map(len, waiting.values()))
        assert backlog.held_bytes == sum(message.size for message in distinct) + 16 * references
    for listener in listeners:
        backlog.forget(listener)
    assert backlog.held_bytes == 0


def test_a_message_takes_what_it_has_and_what_was_built_of_it() -> None:
    message = Message(b"channel", bytes(1000))
    assert message.size >= 1007
    before = message.size
    for _ in range(2):
        message.as_sent(_long)
    assert message.size == before + 2004


# name: (bytes that wait for it, bytes that it takes each second, whether the backlog is more than half full,
# whether it is too slow)
CASES: dict[str, tuple[int, int, bool, bool]] = {
    "far behind, takes nothing": (2 * LAG_BYTES, 0, False, True),
    "far behind, takes less than min_rate": (2 * LAG_BYTES, 511, False, True),
    "far behind, takes min_rate": (2 * LAG_BYTES, 512, False, False),
    "not far behind, takes nothing": (LAG_BYTES, 0, False, False),
    "not far behind, under pressure": (100, 0, True, True),
    "takes min_rate, under pressure": (100, 512, True, True),
    "takes enough, under pressure": (100, LAG_BYTES // 16 // 5 + 1, True, False),
}


@pytest.mark.parametrize("name", CASES)
def test_who_is_too_slow(name: str) -> None:
    waiting_bytes, rate, pressed, is_slow = CASES[name]
    backlog = make(8 << 20 if pressed else 1 << 30)
    listener, other = Listener(), Listener()
    backlog.add(listener, Message(b"c", bytes(waiting_bytes)))
    if pressed:
        backlog.add(other, Message(b"c", bytes(5 << 20)))
    assert backlog.under_pressure == pressed
    for quarter in range(19):
        assert backlog.without_progress(quarter / 4) == []
        other.taken_bytes += 1 << 20
        listener.taken_bytes = rate * (quarter + 1) // 4
    listener.taken_bytes = rate * 5
    other.taken_bytes += 1 << 20
    assert backlog.without_progress(5.0) == [listener] * is_slow


def test_progress_counts_lately() -> None:
    """What a client has taken before does not help one that has stopped."""
    backlog, listener = make(), Listener()
    backlog.add(listener, Message(b"c", bytes(2 * LAG_BYTES)))
    assert backlog.without_progress(0.0) == []
    listener.taken_bytes = 1 << 30
    assert backlog.without_progress(5.0) == []
    assert backlog.without_progress(9.9) == []
    assert backlog.without_progress(10.0) == [listener]


def test_those_farthest_behind_come_first() -> None:
    backlog = make()
    listeners = [Listener() for _ in range(3)]
    for listener, sizes in zip(listeners, ([10, 10], [50], [30, 1]), strict=True):
        for size in sizes:
            backlog.add(listener, Message(b"c", bytes(size)))
    assert backlog.farthest_behind() == [listeners[1], listeners[2], listeners[0]]


def test_what_waited_at_a_moment_is_taken_whatever_comes_later() -> None:
    backlog, listener = make(), Listener()
    assert backlog.until_taken(listener)()
    for _ in range(2):
        backlog.add(listener, Message(b"c", b""))
    is_taken = backlog.until_taken(listener)
    backlog.take(listener)
    backlog.add(listener, Message(b"c", b""))
    assert not is_taken()
    backlog.take(listener)
    assert is_taken()
    is_taken = backlog.until_taken(listener)
    backlog.take(listener)
    backlog.add(listener, Message(b"c", b""))  # it is behind anew
    assert is_taken()
    is_taken = backlog.until_taken(listener)
    backlog.forget(listener)
    assert is_taken()
