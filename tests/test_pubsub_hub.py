"""Hubs of several workers on one ring: who gets what, in which order, how many; deaths, overruns, bounds."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from fake import in_loop
from pubsub_helpers import House, Listener, house, settled, until

from fastkv.errors import StoreBusy
from fastkv.pubsub.bounds import CannotPublish, CannotSubscribe
from fastkv.pubsub.messages import Message
from fastkv.pubsub.ring import Ring
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastkv.pubsub.hub import Hub
    from fastkv.steps import Steps


async def hubs(of: House, number: int = 2) -> list[Hub]:
    made = [of.hub(row) for row in range(number)]
    await settled()
    assert [hub._census.unknown for hub in made] == [set()] * number
    return made


# -- who gets what -----------------------------------------------------------------------------------------


@in_loop
async def test_a_message_reaches_every_subscriber_of_every_worker_once() -> None:
    with house() as place:
        one, two, three = await hubs(place, 3)
        listeners = [Listener() for _ in range(6)]
        for hub, listener in zip((one, one, two, two, three, three), listeners, strict=True):
            assert hub.subscribe(listener, b"c") == 1
        assert one.publish(b"c", b"hello") == 6
        await until(lambda: all(listener.got for listener in listeners), "all have it")
        await settled()
        assert [listener.got for listener in listeners] == [[(None, b"c", b"hello")]] * 6
        assert one.publish(b"other", b"x") == 0


@in_loop
async def test_patterns_and_channels_count_and_come_separately() -> None:
    with house() as place:
        one, two = await hubs(place)
        both, pattern = Listener(), Listener()
        one.subscribe(both, b"news.a")
        assert one.subscribe(both, b"news.*", pattern=True) == 2
        two.subscribe(pattern, b"n[ae]ws.?", pattern=True)
        assert two.publish(b"news.a", b"1") == 3
        assert two.publish(b"news.b", b"2") == 2
        await until(lambda: len(both.got) == 3 and len(pattern.got) == 2, "all have it")
        assert both.got == [
            (None, b"news.a", b"1"),
            (b"news.*", b"news.a", b"1"),
            (b"news.*", b"news.b", b"2"),
        ]
        assert pattern.got == [(b"n[ae]ws.?", b"news.a", b"1"), (b"n[ae]ws.?", b"news.b", b"2")]


@in_loop
async def test_a_subscriber_gets_what_is_published_after_its_confirmation_and_nothing_from_before() -> None:
    with house() as place:
        one, two = await hubs(place)
        early, late = Listener(), Listener()
        two.subscribe(early, b"c")
        assert one.publish(b"c", b"1") == 1  # the second worker has not read it yet
        two.subscribe(late, b"c")
        assert one.publish(b"c", b"2") == 2  # nor has the first had a turn to hear of the subscription
        await until(lambda: len(early.got) == 2, "both are there")
        assert late.payloads == [b"2"]


@contextmanager
def just_before_the_lock(place: House, act: Callable[[], object]) -> Iterator[None]:
    """Let another worker do something between the last look of one without the lock and its taking it."""
    locked, acts = place.ring.locked, [act]

    @contextmanager
    def late() -> Iterator[None]:
        if acts:
            acts.pop()()
        with locked():
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ring, "locked", lambda _ring: late())
        yield


@in_loop
async def test_who_subscribes_just_before_a_message_is_appended_gets_it_and_is_counted() -> None:
    with house() as place:
        one, two = await hubs(place)
        listener = Listener()
        with just_before_the_lock(place, lambda: two.subscribe(listener, b"c")):
            assert one.publish(b"c", b"1") == 1
        await settled()
        assert listener.payloads == [b"1"]


@in_loop
async def test_what_is_published_just_before_a_subscription_is_not_for_it() -> None:
    with house() as place:
        one, two = await hubs(place)
        early, late = Listener(), Listener()
        one.subscribe(early, b"c")
        await settled()
        with just_before_the_lock(place, lambda: two.publish(b"c", b"1")):
            one.subscribe(late, b"c")
        await settled()
        assert early.payloads == [b"1"]
        assert late.payloads == []


@in_loop
async def test_unsubscribing_gets_what_was_published_before_and_nothing_from_after() -> None:
    with house() as place:
        one, two = await hubs(place)
        listener, other = Listener(), Listener()
        two.subscribe(listener, b"c")
        two.subscribe(listener, b"d")
        two.subscribe(other, b"c")
        one.publish(b"c", b"1")
        assert two.unsubscribe(listener, b"c") == 1
        assert listener.payloads == [b"1"]
        assert one.publish(b"c", b"2") == 1
        await until(lambda: len(other.got) == 2, "the other one has both")
        assert listener.payloads == [b"1"]
        assert two.unsubscribe(listener, b"c") == 1
        assert two.unsubscribe(listener, b"d") == 0
        assert two.subscriptions(listener) == []
        assert one.publish(b"d", b"x") == 0


@in_loop
async def test_subscribing_twice_is_one_subscription() -> None:
    with house() as place:
        (one,) = await hubs(place, 1)
        listener = Listener()
        assert one.subscribe(listener, b"c") == 1
        assert one.subscribe(listener, b"c") == 1
        assert one.publish(b"c", b"1") == 1
        await settled()
        assert listener.payloads == [b"1"]
        assert one.subscriptions(listener) == [b"c"]


@in_loop
async def test_who_ends_is_not_counted_any_more() -> None:
    with house() as place:
        one, two = await hubs(place)
        listener = Listener()
        two.subscribe(listener, b"c")
        two.subscribe(listener, b"p*", pattern=True)
        assert (one.channels(), one.patterns(), one.subscribers(b"c")) == ([b"c"], 1, 1)
        two.forget(listener)
        await settled()
        assert one.publish(b"c", b"1") == 0
        assert (one.channels(), one.patterns(), one.subscribers(b"c")) == ([], 0, 0)
        assert place.count(Column.SUBSCRIPTIONS) == 0


@in_loop
async def test_channels_are_told_over_all_workers() -> None:
    with house() as place:
        one, two = await hubs(place)
        one.subscribe(Listener(), b"a1")
        two.subscribe(Listener(), b"a2")
        two.subscribe(Listener(), b"a2")
        two.subscribe(Listener(), b"b")
        assert sorted(one.channels()) == [b"a1", b"a2", b"b"]
        assert [one.subscribers(name) for name in (b"a1", b"a2", b"no")] == [1, 2, 0]


@in_loop
async def test_nobody_listening_means_that_nothing_is_written() -> None:
    with house() as place:
        one, two = await hubs(place)
        head = place.ring.head
        for _ in range(100):
            assert one.publish(b"c", bytes(1000)) == 0
        assert two.unsubscribe(Listener(), b"c") == 0
        assert place.ring.head == head
        assert place.count(Column.MESSAGES_PUBLISHED) == 0


# -- order -------------------------------------------------------------------------------------------------


@in_loop
async def test_all_subscribers_see_one_order_of_many_publishers() -> None:
    with house() as place:
        made = await hubs(place, 3)
        listeners = [Listener() for _ in range(9)]
        for i, listener in enumerate(listeners):
            made[i % 3].subscribe(listener, b"c")
        rng = random.Random(3)
        for i in range(600):
            rng.choice(made).publish(b"c", b"%d" % i)
            if rng.random() < 0.1:
                await settled(rng.randint(1, 5))
        await until(lambda: all(len(listener.got) == 600 for listener in listeners), "all have all")
        assert [listener.payloads for listener in listeners] == [[b"%d" % i for i in range(600)]] * 9


@in_loop
async def test_a_worker_delivers_nothing_within_the_command_that_published_it() -> None:
    with house() as place:
        (one,) = await hubs(place, 1)
        listener = Listener()
        one.subscribe(listener, b"c")
        for i in range(3):
            one.publish(b"c", b"%d" % i)
        assert listener.got == []
        await settled()
        assert listener.payloads == [b"0", b"1", b"2"]


@in_loop
async def test_a_fan_out_lets_others_have_a_turn_and_keeps_the_order() -> None:
    with house() as place:
        one, two = await hubs(place)
        listeners = [Listener() for _ in range(3000)]
        for listener in listeners:
            two.subscribe(listener, b"c")
        await settled()
        one.publish(b"c", b"1")
        one.publish(b"c", b"2")
        most = before = 0
        while not all(len(listener.got) == 2 for listener in listeners):
            await settled(1)
            now = sum(len(listener.got) for listener in listeners)
            most, before = max(most, now - before), now
        assert most <= 250
        assert {tuple(listener.payloads) for listener in listeners} == {(b"1", b"2")}


@in_loop
async def test_who_leaves_or_comes_in_the_midst_of_a_fan_out() -> None:
    with house() as place:
        (one,) = await hubs(place, 1)
        listeners = [Listener() for _ in range(2000)]
        for listener in listeners:
            one.subscribe(listener, b"c")
        await settled()
        one.publish(b"c", b"1")
        one.publish(b"c", b"2")
        await until(lambda: listeners[0].got, "it has begun")
        last, gone, late = listeners[-1], listeners[-2], Listener()
        assert not last.got
        one.unsubscribe(last, b"c")
        assert last.payloads == [b"1", b"2"]
        one.forget(gone)
        one.subscribe(late, b"c")
        one.publish(b"c", b"3")
        await until(lambda: late.got, "it has ended")
        await settled()
        assert last.payloads == [b"1", b"2"]
        assert gone.payloads == []
        assert late.payloads == [b"3"]
        assert {tuple(listener.payloads) for listener in listeners[:-2]} == {(b"1", b"2", b"3")}


@in_loop
async def test_a_publisher_sends_some_itself_before_more_waits_than_may() -> None:
    with house() as place:
        (one,) = await hubs(place, 1)
        listener = Listener()
        one.subscribe(listener, b"c")
        for i in range(5000):
            one.publish(b"c", b"%d" % i)
            assert len(one._delivery._queue) <= 3000
        await until(lambda: len(listener.got) == 5000, "all are there")
        assert listener.payloads == [b"%d" % i for i in range(5000)]
        assert place.count(Column.PUBSUB_OVERRUNS) == 0


def test_a_wire_builds_its_bytes_once() -> None:
    message, built = Message(b"c", b"p"), []

    def build(message: Message) -> bytes:
        built.append(message)
        return b"bytes"

    assert [message.as_sent(build) for _ in range(3)] == [b"bytes"] * 3
    assert built == [message]


# -- slow ones ---------------------------------------------------------------------------------------------


@in_loop
async def test_a_burst_waits_for_a_subscriber_that_reads() -> None:
    with house() as place:
        one, two = await hubs(place)
        fast, behind, own = Listener(), Listener(room=10), Listener(room=3)
        two.subscribe(fast, b"c")
        two.subscribe(behind, b"c")
        two.subscribe(behind, b"*", pattern=True)
        one.subscribe(own, b"c")
        for i in range(100):
            assert one.publish(b"c", b"%d" % i) == 4
        await until(lambda: len(fast.got) == 100, "the fast one has all")
        assert (len(behind.got), len(own.got)) == (10, 3)
        while behind.read(two) + own.read(one):
            await settled()
        in_order = [b"%d" % i for i in range(100)]
        assert own.payloads == fast.payloads == in_order
        assert behind.got == [(p, b"c", payload) for payload in in_order for p in (None, b"*")]
        assert (one._backlog.held_bytes, two._backlog.held_bytes) == (0, 0)
        assert place.count(Column.SLOW_SUBSCRIBERS) == 0
        # From here on it is pushed to at once again.
        one.publish(b"c", b"last")
        await settled()
        assert behind.payloads[-2:] == [b"last", b"last"]


@in_loop
async def test_all_see_one_order_however_far_behind_they_are() -> None:
    rng = random.Random(5)
    with house(memory_bytes=4 << 20) as place:
        made = await hubs(place, 3)
        listeners = [(hub, Listener(rng.choice([1, 7, 50]))) for hub in made for _ in range(4)]
        for hub, listener in listeners:
            hub.subscribe(listener, b"c")
        for i in range(500):
            assert rng.choice(made).publish(b"c", b"%d" % i) == 12
            if rng.random() < 0.2:
                hub, listener = rng.choice(listeners)
                listener.read(hub)
                await settled(rng.randint(0, 3))
        for hub, listener in listeners:
            await until(lambda: listener.read(hub) >= 0 < len(listener.got) == 500, "it has all")  # noqa: B023
        assert {tuple(listener.payloads) for _, listener in listeners} == {
            tuple(b"%d" % i for i in range(500))
        }


@in_loop
async def test_a_subscriber_too_far_behind_is_closed_if_it_makes_no_progress() -> None:
    with house(memory_bytes=4 << 20, max_push_bytes=100_000) as place:
        (one,) = await hubs(place, 1)
        still, reads, near, fast = Listener(1), Listener(1), Listener(1), Listener()
        for listener in (still, reads, fast):
            one.subscribe(listener, b"c")
        one.subscribe(near, b"d")
        for i in range(40):
            one.publish(b"c", b"%d" % i + bytes(5000))
            one.publish(b"d", b"x")
            await settled(3)
        for _ in range(14):
            assert still.reason is None
            place.now += 0.4
            reads.read(one)
            one.turn()
            await settled(3)
        assert still.reason == "Messages are not read as fast as they come."
        assert place.count(Column.SLOW_SUBSCRIBERS) == 1
        for _ in range(30):  # one that is not far behind has all the time that its connection has
            place.now += 1
            reads.read(one)
            one.turn()
            await settled(3)
        assert (reads.reason, near.reason) == (None, None)
        assert len(reads.got) == len(fast.got) == 40
        assert one.publish(b"c", b"x") == 2
        near.read(one)
        await settled()
        assert one._backlog.held_bytes == 0 or near.read(one) >= 0


async def fill(hub: Hub, *sizes: int, turns: int = 3) -> int:
    """Publish on c until there is no room for a message without payload either.

    Args:
        hub: Publishes.
        sizes: Of the payloads, each until there is no room for it.
        turns: Of all workers after each message.

    Returns:
        How many bytes were in the messages.
    """
    published_bytes = 0
    for size in (*sizes, 1000, 0):
        while hub.publish(b"c", bytes(size)) is not None:
            published_bytes += size
            await settled(turns)
    return published_bytes


@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("size", [100, 4000, 200_000])
@in_loop
async def test_memory_is_bounded_and_holds_publishers_back_until_it_is_read(size: int, is_own: bool) -> None:
    with house(memory_bytes=1 << 20) as place:
        one, two = await hubs(place)
        subscribed = one if is_own else two
        behind, fast = Listener(1), Listener()
        subscribed.subscribe(behind, b"c")
        subscribed.subscribe(fast, b"c")
        await settled()
        # A worker that is full itself cannot publish; the others can until the ring is.
        published_bytes = await fill(one, size) + await fill(two, size)
        assert one.publish(b"c", b"") is two.publish(b"c", b"") is None
        assert published_bytes < 3 * (1 << 20)
        assert subscribed._backlog.held_bytes <= 1 << 20
        published = place.count(Column.MESSAGES_PUBLISHED)
        while behind.read(subscribed):
            await settled(3)
        assert one.publish(b"c", b"end") == 2
        await until(lambda: behind.read(subscribed) >= 0 < len(behind.got) == published + 1, "it has all")
        assert behind.payloads == fast.payloads
        assert len(fast.got) == published + 1
        assert (behind.reason, fast.reason) == (None, None)
        assert subscribed._backlog.held_bytes == 0


@in_loop
async def test_who_holds_publishers_back_has_to_read_some_or_is_closed() -> None:
    with house(memory_bytes=1 << 20, max_push_bytes=1 << 20) as place:
        one, two = await hubs(place)
        still, little, enough = Listener(1), Listener(1), Listener(1)
        for listener in (still, little, enough):
            two.subscribe(listener, b"c")
        await settled()
        await fill(one, 30_000)
        for second in range(6):
            assert one.publish(b"c", b"") is None
            place.now += 1
            place.beat(0, 1)
            enough.read(two)
            if second == 3:
                little.read(two)
            two.turn()
            await settled(3)
        assert still.reason is not None
        assert little.reason is not None  # a sixteenth of max_push_bytes in push_seconds is progress
        assert enough.reason is None
        await until(lambda: enough.read(two) >= 0 and one.publish(b"c", b"") == 1, "there is room again")
        assert place.count(Column.SLOW_SUBSCRIBERS) == 2


def run_steps(steps: Steps[int], place: House, *, seconds: float = 0.0) -> int | None:
    """One step, for which time passes; the result if there is one."""
    try:
        wait = next(steps)
    except StopIteration as done:
        result: int = done.value
        return result
    assert wait is not None
    assert 0 < wait <= 0.05
    place.now += seconds
    return None


@in_loop
async def test_a_publisher_that_is_held_back_goes_on_when_there_is_room() -> None:
    with house(memory_bytes=1 << 20) as place:
        one, two = await hubs(place)
        behind = Listener(1)
        two.subscribe(behind, b"c")
        await settled()
        await fill(one, 100_000)
        steps = one.publish_in_steps(b"c", b"held")
        for _ in range(20):
            assert run_steps(steps, place) is None
        while behind.read(two):
            await settled(3)
        assert run_steps(steps, place) == 1
        assert place.count(Column.PUBLISHERS_HELD) == 1
        await settled()
        assert behind.payloads[-1] == b"held" or behind.read(two)


@in_loop
async def test_a_message_without_room_for_too_long_is_an_error_to_its_publisher() -> None:
    """Which is seldom: here no worker looks after its subscribers."""
    with house(memory_bytes=1 << 20) as place:
        one, two = await hubs(place)
        behind = Listener(1)
        two.subscribe(behind, b"c")
        await settled()
        await fill(one, 100_000)
        steps = one.publish_in_steps(b"c", b"held")
        while place.now <= 1010:
            assert run_steps(steps, place, seconds=1.0) is None
            place.beat(0, 1)
        with pytest.raises(CannotPublish, match="read more slowly"):
            next(steps)
        assert place.count(Column.MESSAGES_REFUSED) == 1
        assert behind.reason is None


@in_loop
async def test_unsubscribing_while_behind_waits_for_what_was_published_before() -> None:
    with house() as place:
        (one,) = await hubs(place, 1)
        behind = Listener(2)
        one.subscribe(behind, b"c")
        one.subscribe(behind, b"d")
        for i in range(7):
            one.publish(b"c", b"c%d" % i)
        await settled()
        one.publish(b"c", b"c7")  # it is still on its way to all
        assert one.unsubscribe(behind, b"c") == 1
        waiting = one.until_taken(behind)
        one.publish(b"c", b"too late")
        one.publish(b"d", b"d")
        while next(waiting, None) is not None:
            assert len(behind.got) < 8
            behind.read(one)
            await settled()
        assert behind.payloads[:8] == [b"c%d" % i for i in range(8)]
        behind.read(one)
        await settled()
        assert behind.payloads[8:] == [b"d"]


@in_loop
async def test_to_subscribe_waits_while_the_worker_cannot_read_on() -> None:
    with house(memory_bytes=1 << 20) as place:
        one, two = await hubs(place)
        behind, late = Listener(1), Listener()
        two.subscribe(behind, b"c")
        await settled()
        await fill(one)
        waiting = two.until_ready()
        assert next(waiting)
        with pytest.raises(StoreBusy):
            two.subscribe(late, b"c")
        assert place.count(Column.SUBSCRIPTIONS) == 1
        while behind.read(two):
            await settled(3)
        assert next(waiting, None) is None
        assert two.subscribe(late, b"c") == 1
        one.publish(b"c", b"x")
        await settled()
        assert late.payloads == [b"x"]


# -- what cannot wait --------------------------------------------------------------------------------------


@in_loop
async def test_what_cannot_wait_is_sent_in_order_once_there_is_room() -> None:
    with house(memory_bytes=4 << 20) as place:
        one, two = await hubs(place)
        behind = Listener(1)
        two.subscribe(behind, b"c")
        await settled()
        await fill(one, 300_000)
        before = place.count(Column.MESSAGES_PUBLISHED)
        for i in range(50):
            one.post(b"c", b"%d" % i)
        assert place.count(Column.MESSAGES_PUBLISHED) == before
        assert one.publish(b"c", b"50") is None
        assert behind.reason is None
        while one.publish(b"c", b"50") is None:
            behind.read(two)
            await settled(3)
        await until(lambda: behind.read(two) >= 0 and behind.payloads[-1] == b"50", "it has all")
        assert behind.payloads[-51:] == [b"%d" % i for i in range(51)]


@pytest.mark.parametrize("is_own", [False, True])
@in_loop
async def test_what_cannot_wait_closes_those_that_are_farthest_behind(is_own: bool) -> None:
    with house(memory_bytes=1 << 20) as place:
        one, two = await hubs(place)
        subscribed = one if is_own else two
        behind, fast, near = Listener(1), Listener(), Listener(1)
        subscribed.subscribe(behind, b"c")
        subscribed.subscribe(fast, b"c")
        subscribed.subscribe(near, b"d")
        one.publish(b"d", b"1")
        one.publish(b"d", b"2")
        posted = [b"%d" % i + bytes(200) for i in range(12_000)]
        for i, payload in enumerate(posted):
            one.post(b"c", payload)
            assert one._outbox_bytes <= 1 << 18
            assert subscribed._backlog.held_bytes <= 1 << 20
            if i % 20 == 0:
                await settled(2)
        await until(lambda: len(fast.got) == len(posted), "it has all")
        assert fast.payloads == posted
        assert behind.reason is not None
        assert near.reason is None
        assert place.count(Column.SLOW_SUBSCRIBERS) == 1
        assert place.count(Column.PUBSUB_OVERRUNS) == 0


@in_loop
async def test_what_cannot_wait_overruns_a_worker_that_stands_still() -> None:
    with house(memory_bytes=1 << 20) as place:
        one, two = await hubs(place)
        lost, kept = Listener(), Listener()
        two.subscribe(lost, b"c")
        one.subscribe(kept, b"c")
        await settled()
        for i in range(3000):
            one.post(b"c", b"%d" % i + bytes(1000))
            assert one._outbox_bytes <= 1 << 18
            one._take_turn()  # the second one has no turn
        await settled()
        await until(lambda: len(kept.got) == 3000, "it has all")
        assert lost.reason is not None
        assert place.count(Column.PUBSUB_OVERRUNS) == 1
        assert place.count(Column.SUBSCRIBERS_OVERRUN) == 1


@in_loop
async def test_a_subscriber_that_fails_is_closed_and_hurts_nobody() -> None:
    class Broken(Listener):
        def push(self, message: Message) -> None:
            raise ZeroDivisionError

    with house() as place:
        (one,) = await hubs(place, 1)
        broken, other = Broken(), Listener()
        one.subscribe(broken, b"c")
        one.subscribe(other, b"c")
        one.publish(b"c", b"1")
        await settled()
        assert broken.aborted
        assert other.payloads == [b"1"]
        assert place.count(Column.INTERNAL_ERRORS) == 1


# -- workers that stand still ------------------------------------------------------------------------------


@in_loop
async def test_a_worker_that_was_stopped_for_a_moment_loses_nothing() -> None:
    with house() as place:
        one, two = await hubs(place)
        stayed, stopped = Listener(), Listener()
        one.subscribe(stayed, b"c")
        two.subscribe(stopped, b"c")
        await settled()
        # While the first one publishes, the second has no turn.
        await fill(one, 50_000, turns=0)
        published = place.count(Column.MESSAGES_PUBLISHED)
        place.now += 4.9
        place.beat(0)
        assert one.publish(b"c", b"") is None
        await settled()
        place.beat(1)
        assert one.publish(b"c", b"end") == 2
        await settled()
        assert stayed.payloads == stopped.payloads
        assert len(stopped.got) == published + 1
        assert place.count(Column.PUBSUB_OVERRUNS) == 0


@in_loop
async def test_a_worker_without_subscribers_or_without_a_process_holds_nobody_back() -> None:
    with house() as place:
        one, two, three = await hubs(place, 3)
        stayed, gone = Listener(), Listener()
        one.subscribe(stayed, b"c")
        three.subscribe(gone, b"c")
        left = Listener()
        two.subscribe(left, b"c")
        two.forget(left)
        await settled()
        place.lose(2, three)
        one.turn()
        for i in range(100):
            assert one.publish(b"c", b"%d" % i + bytes(50_000)) == 1
            one._take_turn()
        assert len(stayed.got) == 100


@in_loop
async def test_a_worker_that_stood_still_closes_all_its_subscribers_and_goes_on() -> None:
    with house() as place:
        one, two = await hubs(place)
        stayed, lost, pattern = Listener(), Listener(), Listener()
        one.subscribe(stayed, b"c")
        two.subscribe(lost, b"c")
        two.subscribe(pattern, b"__key*", pattern=True)
        await settled()
        # While the first one publishes, the second has no turn.
        held = 0
        for i in range(40):
            while one.publish(b"c", b"%d" % i + bytes(50_000)) is None:
                held += 1
                place.now += 0.5
                place.beat(0)
            one._take_turn()
        assert held == 10  # once for push_seconds, and never again
        await settled()
        assert len(stayed.got) == 40
        told = "Messages were lost because the server was stopped for too long."
        assert (lost.reason, pattern.reason) == (told, told)
        assert lost.got == []
        assert place.count(Column.PUBSUB_OVERRUNS) == 1
        assert place.count(Column.SUBSCRIBERS_OVERRUN) == 2
        assert place.count(Column.SLOW_SUBSCRIBERS) == 0
        assert place.ring.listening[0] == 0
        # From now on it works as before, and soon everybody knows everybody.
        again = Listener()
        two.subscribe(again, b"c")
        assert one.publish(b"c", b"x") == 2
        assert (two.publish(b"c", b"y") or 0) >= 1
        await until(lambda: len(again.got) == 2, "it has both")
        for _ in range(8):
            two.turn()
            await settled()
        assert two._census.unknown == set()
        assert two.publish(b"c", b"z") == 2


# -- deaths and successors ---------------------------------------------------------------------------------


@in_loop
async def test_a_dead_workers_subscribers_are_forgotten_by_whoever_looks() -> None:
    with house() as place:
        one, two = await hubs(place)
        two.subscribe(Listener(), b"c")
        two.subscribe(Listener(), b"*", pattern=True)
        assert one.publish(b"c", b"1") == 2
        assert place.ring.listening[0] == 1
        place.lose(1, two)
        one.turn()
        assert one.publish(b"c", b"1") == 0
        assert place.ring.listening[0] == 0


@in_loop
async def test_a_successor_begins_without_the_subscribers_of_its_predecessor() -> None:
    with house() as place:
        one, two = await hubs(place)
        kept = Listener()
        one.subscribe(kept, b"c")
        two.subscribe(Listener(), b"c")
        two.subscribe(Listener(), b"*", pattern=True)
        place.lose(1, two)
        two = place.hub(1)
        assert one.publish(b"c", b"1") == 1
        assert place.ring.listening[0] == 0
        await settled()
        assert two._census.unknown == set()
        assert two.publish(b"c", b"2") == 1
        assert kept.payloads == [b"1"]
        await settled()
        assert kept.payloads == [b"1", b"2"]


@in_loop
async def test_who_does_not_know_all_others_yet_publishes_to_be_safe() -> None:
    with house() as place:
        (one,) = await hubs(place, 1)
        kept = Listener()
        one.subscribe(kept, b"c")
        await settled()
        two = place.hub(1)  # the first had no turn to answer
        two.publish(b"c", b"1")
        await settled()
        assert kept.payloads == [b"1"]


@in_loop
async def test_a_worker_that_ends_in_order_says_so() -> None:
    with house() as place:
        one, two = await hubs(place)
        two.subscribe(Listener(), b"*", pattern=True)
        two.stop()
        assert one.publish(b"c", b"1") == 0
        assert place.ring.listening[0] == 0


@in_loop
async def test_both_generations_of_a_reload_get_everything() -> None:
    with house() as place:
        old, new = await hubs(place)
        listeners = Listener(), Listener()
        for hub, listener in zip((old, new), listeners, strict=True):
            hub.subscribe(listener, b"c")
        assert (old.publish(b"c", b"1"), new.publish(b"c", b"2")) == (2, 2)
        await settled()
        assert [listener.payloads for listener in listeners] == [[b"1", b"2"]] * 2


# -- who listens to keys -----------------------------------------------------------------------------------

# A channel or a pattern, whether it is a pattern, whether it may carry events of keys, and `expired` ones.
LISTENS: list[tuple[bytes, bool, bool, bool]] = [
    (b"news", False, False, False),
    (b"__keyspace@0__:k", False, True, True),
    (b"__keyevent@0__:set", False, True, False),
    (b"__keyevent@0__:expired", False, True, True),
    (b"__keyevent@0__:expired2", False, True, False),
    (b"__keyevent@1__:set", False, False, False),
    (b"*", False, False, False),
    (b"*", True, True, True),
    (b"?_key*", True, True, True),
    (b"__key*", True, True, True),
    (b"__keyspace@0__:user:*", True, True, True),
    (b"__keyspace@0__:user", True, True, True),
    (b"__keyevent@0__:*", True, True, True),
    (b"__keyevent@0__:e*", True, True, True),
    (b"__keyevent@0__:[de]*", True, True, True),
    (b"__keyevent@0__:[ab]*", True, True, False),
    (b"__keyevent@0__:expired", True, True, True),
    (b"__keyevent@0__:set", True, True, False),
    (b"__key", True, False, False),
    (b"", True, False, False),
    (b"news.*", True, False, False),
    (b"_\\_key*", True, True, True),
]


@pytest.mark.parametrize(("name", "pattern", "keys", "expired"), LISTENS)
@in_loop
async def test_what_may_be_about_keys(name: bytes, pattern: bool, keys: bool, expired: bool) -> None:
    with house() as place:
        (one,) = await hubs(place, 1)
        listener, other = Listener(), Listener()
        words = place.ring.listening, place.ring.listening_expired
        one.subscribe(listener, name, pattern=pattern)
        assert [word[0] for word in words] == [keys, expired]
        one.subscribe(other, name, pattern=pattern)
        one.unsubscribe(listener, name, pattern=pattern)
        assert [word[0] for word in words] == [keys, expired]
        one.forget(other)
        await settled()
        assert [word[0] for word in words] == [0, 0]


# -- bounds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"max_subscriptions": 3}, [b"0", b"1", b"2", b"3"]),
        ({"max_worker_subscriptions": 2}, [b"0", b"1", b"2"]),
        ({"max_channel_bytes": 16}, [bytes(16), bytes(17)]),
        ({"max_channel_bytes": 1 << 16}, [bytes([i]) * 65_536 for i in range(3)]),
    ],
)
@in_loop
async def test_bounds(settings: dict[str, Any], names: list[bytes]) -> None:
    with house(**settings) as place:
        (one,) = await hubs(place, 1)
        listener = Listener()
        *allowed, last = names
        if "max_channel_bytes" in settings and len(names) == 3:
            allowed, last = names[:1], names[1]  # half of a quarter of the ring
        for name in allowed:
            one.subscribe(listener, name)
        head = place.ring.head
        with pytest.raises(CannotSubscribe):
            one.subscribe(listener, last)
        assert place.ring.head == head
        assert place.count(Column.SUBSCRIPTIONS_REFUSED) == 1
        assert one.subscriptions(listener) == allowed
        assert place.count(Column.SUBSCRIPTIONS) == len(allowed)


@in_loop
async def test_a_message_that_is_too_long_is_an_error_to_its_publisher() -> None:
    with house() as place:
        one, two = await hubs(place)
        listener = Listener()
        two.subscribe(listener, b"c")
        most = place.ring.most_bytes - 6
        assert one.publish(b"c", bytes(most)) == 1
        with pytest.raises(CannotPublish, match=str(most + 1)):
            one.publish(b"c", bytes(most + 1))
        await settled()
        assert listener.payloads == [bytes(most)]
        assert place.count(Column.MESSAGES_REFUSED) == 1


@in_loop
@pytest.mark.parametrize(
    ("settings", "most"),
    [({"max_channel_bytes": 900, "max_key_bytes": 512}, 900), ({"max_key_bytes": 3000}, 3015)],
)
async def test_a_channel_that_is_too_long_is_an_error_to_its_publisher(
    settings: dict[str, int], most: int
) -> None:
    with house(**settings) as place:
        one, two = await hubs(place)
        listener = Listener()
        two.subscribe(listener, b"*", pattern=True)
        assert one.publish(bytes(most), b"fits") == 1
        with pytest.raises(CannotPublish, match=f"{most + 1} bytes; at most {most} "):
            one.publish(bytes(most + 1), b"does not")
        with pytest.raises(CannotPublish):
            one.receivers(bytes(most + 1), b"does not")
        await settled()
        assert listener.payloads == [b"fits"]
        assert place.count(Column.MESSAGES_REFUSED) == 2


@in_loop
async def test_all_names_of_a_worker_are_told_in_frames_that_fit() -> None:
    with house(max_channel_bytes=1024) as place:
        one, two = await hubs(place)
        names = [b"%d:" % i + bytes(900) for i in range(100)]
        listener = Listener()
        for name in names:
            one.subscribe(listener, name)
        await settled()
        place.lose(1, two)
        two = place.hub(1)
        await settled()
        assert sorted(two.channels()) == sorted(names)
        one.forget(listener)
        await settled()
        assert two.channels() == []
