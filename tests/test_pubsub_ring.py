"""The ring: frames in one order for every process, deaths at each step, readers that come too late."""

from __future__ import annotations

import os
import random
import select
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from store_helpers import at_opcode, die, dies_at, end_of, start

from fastkv.errors import StoreBusy
from fastkv.pubsub.ring import Overrun, Ring

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = 4096
ROWS = 3


@contextmanager
def made(memory_bytes: int = MEMORY, lock_wait_ms: int = 1000) -> Iterator[Ring]:
    ring = Ring(memory_bytes, ROWS, lock_wait_ms)
    yield ring
    ring.close()


@pytest.fixture
def ring() -> Iterator[Ring]:
    with made() as one:
        yield one


def append(ring: Ring, frame: bytes, wake: tuple[int, ...] | None = ()) -> None:
    with ring.locked():
        ring.append(frame, wake)


def read(ring: Ring, cursor: int) -> tuple[list[bytes], int]:
    """All frames from a cursor to the head."""
    frames: list[bytes] = []
    while cursor != ring.head:
        with ring.locked():
            some, cursor = ring.read(cursor)
        frames += some
    return frames, cursor


def is_woken(ring: Ring, row: int) -> bool:
    return bool(select.select([ring.wakeups[row]], [], [], 0)[0])


# -- frames ------------------------------------------------------------------------------------------------


def test_frames_of_every_length_come_back_around_the_ring(ring: Ring) -> None:
    rng = random.Random(1)
    cursor = ring.head
    for _ in range(2000):
        sent = [rng.randbytes(rng.choice((0, 1, 5, 100, ring.most_bytes))) for _ in range(rng.randint(1, 3))]
        for frame in sent:
            append(ring, frame)
        got, cursor = read(ring, cursor)
        assert got == sent


def test_much_is_read_in_pieces_of_whole_frames() -> None:
    with made(1 << 20) as ring:
        frames = [bytes([i % 251]) * 3000 for i in range(100)]
        for frame in frames:
            append(ring, frame)
        with ring.locked():
            some, after = ring.read(0)
        assert 0 < len(some) < 30
        assert some + read(ring, after)[0] == frames


def test_a_long_frame_is_read_whole() -> None:
    with made(1 << 20) as ring:
        frame = random.Random(2).randbytes(ring.most_bytes)
        append(ring, frame)
        assert read(ring, 0) == ([frame], ring.head)


def test_who_has_read_all_reads_nothing(ring: Ring) -> None:
    append(ring, b"a")
    with ring.locked():
        assert ring.read(ring.head) == ([], ring.head)


def test_who_comes_too_late_is_told(ring: Ring) -> None:
    cursor = ring.head
    for _ in range(MEMORY // 104):
        append(ring, bytes(100))
    assert len(read(ring, cursor)[0]) == MEMORY // 104
    append(ring, bytes(100))
    with ring.locked(), pytest.raises(Overrun):
        ring.read(cursor)
    # The newest ones are there as long as three of the longest follow them.
    cursor = ring.head
    for _ in range(4):
        append(ring, bytes(ring.most_bytes))
    assert len(read(ring, cursor)[0]) == 4


def test_only_what_no_row_needs_is_written_over(ring: Ring) -> None:
    """Messages leave an eighth of the ring to frames that cannot wait."""
    rng = random.Random(4)
    with ring.locked():
        needed: list[tuple[int, int]] = []  # (row, from where on)
        for _ in range(3000):
            size = rng.randint(0, ring.most_bytes)
            behind = ring.behind(size)
            reach = ring.head + 4 + size + MEMORY // 8 - MEMORY
            assert behind == sorted(row for row, cursor in needed if cursor < reach)
            if behind and rng.random() < 0.9:
                row = rng.choice(behind)
                needed = [(other, cursor) for other, cursor in needed if other != row]
                if rng.random() < 0.8:
                    needed.append((row, ring.head))
                ring.need(row, ring.head if (row, ring.head) in needed else None)
            else:
                ring.append(bytes(size), ())
                # What was written over is lost to a row, which is not waited for any more.
                needed = [(row, cursor) for row, cursor in needed if cursor >= ring.head - MEMORY]
                idle = {0, 1, 2} - {row for row, _ in needed}
                if idle and rng.random() < 0.3:
                    row = idle.pop()
                    needed.append((row, ring.head))
                    ring.need(row, ring.head)


def test_processes_write_and_all_read_one_order() -> None:
    writers, each = 4, 300
    with made(1 << 20) as ring:
        out_read, out_write = os.pipe()

        def reader() -> None:
            cursor, got = 0, b""
            while got.count(b",") < writers * each:
                select.select([ring.wakeups[0]], [], [], 0.05)
                ring.heard(0)
                frames, cursor = read(ring, cursor)
                got += b"".join(frame + b"," for frame in frames)
            os.write(out_write, got[:60_000])

        def writer(number: int) -> None:
            for i in range(each):
                append(ring, b"%d:%d" % (number, i), (0,))

        pids = [start(reader), *(start(partial(writer, number)) for number in range(writers))]
        assert [end_of(pid) for pid in pids] == [0] * len(pids)
        elsewhere = os.read(out_read, 1 << 20).rstrip(b",").split(b",")
        here, _ = read(ring, 0)
        assert here == elsewhere
        for number in range(writers):
            own = [int(frame.split(b":")[1]) for frame in here if frame.startswith(b"%d:" % number)]
            assert own == list(range(each))
        os.close(out_read)
        os.close(out_write)


# -- waking ------------------------------------------------------------------------------------------------


def test_only_who_waits_is_woken_and_only_once(ring: Ring) -> None:
    ring.rest(0, waits=True)
    ring.rest(1, waits=False)
    ring.rest(2, waits=True)
    append(ring, b"a", (0, 1))
    assert [is_woken(ring, row) for row in range(ROWS)] == [True, False, False]
    ring.heard(0)
    append(ring, b"b", (0,))  # it has not rested since
    assert not is_woken(ring, 0)
    ring.rest(0, waits=True)
    append(ring, b"c", (0,))
    assert is_woken(ring, 0)


def test_some_frames_wake_everybody(ring: Ring) -> None:
    ring.rest(0, waits=True)
    ring.rest(1, waits=False)
    append(ring, b"a", None)
    assert [is_woken(ring, row) for row in range(ROWS)] == [True, True, True]


def test_who_sleeps_is_woken_before_it_is_overrun(ring: Ring) -> None:
    cursor = ring.head
    ring.rest(1, waits=False)
    while not is_woken(ring, 1):
        append(ring, bytes(50))
    append(ring, bytes(ring.most_bytes))
    frames, _ = read(ring, cursor)
    assert len(frames) > 10


def test_a_wakeup_that_nobody_sent_is_harmless(ring: Ring) -> None:
    ring.heard(0)


# -- who listens -------------------------------------------------------------------------------------------


def test_the_word_of_those_who_listen_counts_rows(ring: Ring) -> None:
    assert (ring.listening[0], ring.listening_expired[0]) == (0, 0)
    for row, keys, expired, counts in (
        (0, True, False, (1, 0)),
        (2, True, True, (2, 1)),
        (2, True, True, (2, 1)),
        (0, False, False, (1, 1)),
        (2, True, False, (1, 0)),
        (2, False, False, (0, 0)),
    ):
        with ring.locked():
            ring.listen(row, keys=keys, expired=expired)
        assert (ring.listening[0], ring.listening_expired[0]) == counts
        assert ring.listens(row) == (keys, expired)


# -- deaths ------------------------------------------------------------------------------------------------


def test_death_at_each_step_of_an_append_leaves_all_of_a_frame_or_nothing() -> None:
    before = [bytes([i]) * 200 for i in range(18)]
    new, more = b"n" * 900, b"m" * 900
    outcomes: set[object] = set()
    at = 1
    while True:
        # The ring is nearly full, so that the frame goes over its end and over older ones.
        with made() as ring:
            for frame in before:
                append(ring, frame)
            head = ring.head
            died = dies_at(at, lambda ring=ring: append(ring, new, None), "ring")  # type: ignore[misc]
            assert ring.head in (head, head + 904), at
            frames, cursor = read(ring, head)
            assert frames in ([], [new]), at
            outcomes.add(len(frames))
            # What the dead has begun to write over is gone, or it is as it was.
            with ring.locked():
                try:
                    assert ring.read(0)[0] == before, at
                except Overrun:
                    outcomes.add("overrun")
            append(ring, more)
            assert read(ring, cursor)[0] == [more], at
        if not died:
            break
        at += 1
    assert at > 50
    assert outcomes == {0, 1, "overrun"}


def test_death_at_each_step_of_listening_leaves_a_count_that_is_right_for_the_next_owner() -> None:
    at, died = 1, True
    while died:
        with made() as ring:

            def change(ring: Ring = ring) -> None:
                with ring.locked():
                    ring.listen(0, keys=True, expired=True)

            died = dies_at(at, change, "ring")
            with ring.locked():
                pass
            assert (ring.listening[0], ring.listening_expired[0]) == ring.listens(0), at
        at += 1
    assert at > 15


def test_death_of_a_reader_hurts_nobody() -> None:
    at, died = 1, True
    while died:
        with made() as ring:
            append(ring, b"a")
            died = dies_at(at, lambda ring=ring: read(ring, 0), "ring")  # type: ignore[misc]
            append(ring, b"b")
            assert read(ring, 0)[0] == [b"a", b"b"], at
        at += 1
    assert at > 30


def test_an_exception_in_the_block_lets_go(ring: Ring) -> None:
    with pytest.raises(ZeroDivisionError), ring.locked():
        raise ZeroDivisionError
    append(ring, b"a")
    assert read(ring, 0)[0] == [b"a"]


def test_a_lock_that_is_not_given_back_is_an_answer() -> None:
    with made(lock_wait_ms=20) as ring:
        parent, child = os.pipe()

        def hold() -> None:
            with ring.locked():
                os.write(child, b"x")
                os.read(parent2, 1)

        parent2, child2 = os.pipe()
        pid = start(hold)
        os.read(parent, 1)
        with pytest.raises(StoreBusy), ring.locked():
            pass
        os.write(child2, b"x")
        assert end_of(pid) == 0
        append(ring, b"a")
        for descriptor in (parent, child, parent2, child2):
            os.close(descriptor)


def test_the_helper_kills_where_it_says(ring: Ring) -> None:
    """That the tests above kill within an append at all."""
    steps = at_opcode(0, die, lambda: append(ring, b"a"), "ring")
    assert dies_at(steps, lambda: append(ring, b"a"), "ring")
    assert not dies_at(steps + 1, lambda: append(ring, b"a"), "ring")
