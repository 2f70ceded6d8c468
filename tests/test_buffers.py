"""The bound of what connections keep: on made-up connections and a made-up time, and on a real worker."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from fake import in_loop
from server import running

from fastkv.buffers import Buffers
from fastkv.heap import TRIM_BYTES, Heap
from fastkv.kernel.limits import raise_open_files
from fastkv.stats import Column
from perf.pressure import Load, burst

LIMIT = 1000


class Body:
    """A connection on which a body arrives.

    Attributes:
        progress: Bytes that have arrived.
        length: Bytes that it has.
        reading: Whether more of it is read.
        was_cut: Whether it was ended for others.
        leaves: Whether its memory is gone only when it is forgotten.
    """

    def __init__(self, scene: "Scene", length: int, *, leaves: bool = False) -> None:
        self.since = 0.0
        self.progress = 0
        self.length = length
        self.reading = True
        self.was_cut = False
        self.leaves = leaves
        self._scene = scene
        scene.bodies.append(self)

    @property
    def missing_bytes(self) -> int:
        return self.length - self.progress

    def cut(self) -> bool:
        self.was_cut = True
        return not self.leaves

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True

    def receive(self, size: int) -> None:
        """So much arrives, as a connection tells it; the last byte ends it."""
        assert self.reading
        assert not self.was_cut
        self.progress += size
        buffers = self._scene.buffers
        buffers.hold(self, self.progress, self._scene.now)
        if not self.was_cut:
            if self.missing_bytes:
                buffers.wait(self)
            else:
                buffers.forget(self)
        assert buffers.held_bytes <= LIMIT


class Scene:
    """Bodies, a clock and the bound."""

    def __init__(self) -> None:
        self.now = 0.0
        self.bodies: list[Body] = []
        self.counters = [0] * 64
        self.buffers = Buffers(LIMIT, self.counters, lambda: self.bodies)  # type: ignore[arg-type]

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass, a turn of the sweep every 50 ms."""
        for _ in range(round(seconds * 20)):
            self.now += 0.05
            self.buffers.turn(self.now)
            for body in self.bodies:
                self.buffers.measure(body, self.now)


def test_past_three_quarters_bodies_wait_and_go_on_when_all_of_them_has_room() -> None:
    scene = Scene()
    first, second, third = Body(scene, 580), Body(scene, 600), Body(scene, 600)
    first.receive(400)
    second.receive(300)
    third.receive(100)
    assert [body.reading for body in scene.bodies] == [True, True, False]
    second.receive(10)
    assert [body.reading for body in scene.bodies] == [True, False, False]
    first.receive(100)  # nobody is passed over for it: they would not fit anyhow
    assert [body.reading for body in scene.bodies] == [True, False, False]
    first.receive(80)
    assert [body.reading for body in (second, third)] == [False, True]  # the third waited first
    third.receive(500)
    assert [body.reading for body in (second, third)] == [True, True]
    second.receive(290)
    assert scene.counters[Column.BODIES_DELAYED] == 3
    assert not any(body.was_cut for body in scene.bodies)
    assert scene.buffers.held_bytes == 0


def test_a_steady_upload_outlives_those_that_stall() -> None:
    """Five that sent nearly all of a body at once and then nothing, before it and after."""
    for place in range(4):
        scene = Scene()
        stalled: list[Body] = []
        steady = None
        for number in range(6):
            if number == place:
                steady = Body(scene, 900)
                steady.receive(50)
                continue
            body = Body(scene, 300)
            stalled.append(body)
            if not scene.buffers.full and scene.buffers.held_bytes < 700:
                body.receive(290)
            else:
                body.receive(100)
        assert steady is not None
        for _ in range(400):
            if steady.missing_bytes and steady.reading:
                steady.receive(min(50, steady.missing_bytes))
            assert not steady.was_cut
            scene.pass_seconds(0.3)
        assert not steady.missing_bytes
        assert any(body.was_cut for body in stalled)


def test_a_trickle_is_no_progress_for_much_memory() -> None:
    scene = Scene()
    trickling, steady = Body(scene, 700), Body(scene, 900)
    trickling.receive(640)
    steady.receive(60)
    for _ in range(100):
        if not trickling.was_cut and trickling.reading and trickling.progress < 690:
            trickling.receive(1)
        if steady.missing_bytes and steady.reading:
            steady.receive(min(60, steady.missing_bytes))
        scene.pass_seconds(0.2)
    assert trickling.was_cut
    assert not steady.was_cut
    assert not steady.missing_bytes


def test_nobody_waits_for_ever_where_all_wait_for_each_other() -> None:
    scene = Scene()
    bodies = [Body(scene, 600) for _ in range(4)]
    for body in bodies:
        body.receive(240)
    for _ in range(100):
        for body in bodies:
            if not body.was_cut and body.missing_bytes and body.reading:
                body.receive(min(60, body.missing_bytes))
        scene.pass_seconds(0.2)
    assert [body.was_cut or not body.missing_bytes for body in bodies] == [True] * 4
    assert sum(body.was_cut for body in bodies) < 3
    assert scene.buffers.held_bytes == 0


def test_one_alone_may_keep_what_its_own_bounds_allow() -> None:
    scene = Scene()
    body = Body(scene, 5 * LIMIT)
    scene.buffers.hold(body, 3 * LIMIT, 0.0)
    scene.buffers.wait(body)
    assert body.reading
    assert not body.was_cut


@in_loop
async def test_where_what_was_cut_is_still_in_memory_all_stop_for_two_rounds() -> None:
    scene = Scene()
    for _ in range(10):
        Body(scene, 10_000, leaves=True).receive(140)
        if scene.counters[Column.BUFFER_STOPS]:
            break
    assert scene.buffers.used_bytes > LIMIT + LIMIT // 8
    assert not any(body.reading for body in scene.bodies)
    for body in scene.bodies:
        if body.was_cut:
            scene.buffers.forget(body)
    assert scene.buffers.used_bytes <= LIMIT
    for _ in range(3):
        await asyncio.sleep(0)
    assert any(body.reading for body in scene.bodies)


def test_memory_is_given_back_once_much_of_it_was_freed() -> None:
    given: list[int] = []
    heap = Heap(SimpleNamespace(malloc_trim=given.append))
    assert not heap.turn(TRIM_BYTES - 1)
    assert not heap.turn(0)
    assert not heap.turn(5 * TRIM_BYTES)
    assert not heap.turn(4 * TRIM_BYTES + 1)
    assert heap.turn(4 * TRIM_BYTES)
    assert not heap.turn(3 * TRIM_BYTES + 1)
    assert heap.turn(0)
    assert given == [0, 0]
    assert not Heap(SimpleNamespace()).turn(0)  # a library that has neither


@pytest.mark.parametrize("reads", [False, True], ids=["senders", "readers"])
def test_a_burst_takes_what_it_may_and_gives_it_back(reads: bool) -> None:
    """150 MB of bodies, or replies, at once for 16."""
    raise_open_files(4096)
    settings: dict[str, Any] = {"workers": 1, "memory": "64mb", "max_buffer_bytes": "16mb"}
    load = Load(250, 600 << 10, reads, 1, 16)
    with running(**settings) as server:
        assert server.request("PUT", "/kv/value", bytes(load.bytes)).status == 201
        figures = burst(server.port, server.workers(), load)
        # The bound, an eighth of it that is about to go, and what a reply or two take while they are built.
        assert figures.peak - figures.before < 24 << 20
        assert figures.after - figures.before < 10 << 20
        # A client reads why, or gets on; none is cut off in the midst of its body.
        assert reads or set(figures.outcomes) <= {"201", "503"}
        assert reads or figures.outcomes["201"] >= 20
        assert b'"internal_errors":0' in server.request("GET", "/stats").body
