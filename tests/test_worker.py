"""What a worker does between requests, on a loop that only notes when it would be called again."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastkv.errors import StoreBusy
from fastkv.worker import Worker


def waits(answers: list[bool | Exception]) -> list[float]:
    """Seconds after each look at the store until the next one, given what the store says."""
    said = iter(answers)
    seconds: list[float] = []
    told: list[None] = []

    def look_after(clock: Any) -> bool:
        answer = next(said)
        if isinstance(answer, Exception):
            raise answer
        return answer

    worker = SimpleNamespace(
        _store=SimpleNamespace(look_after=look_after),
        _clock_ms=None,
        _events=SimpleNamespace(tell_removals=lambda: told.append(None)),
        _look_after_store=None,
        _look_seconds=0.05,
    )
    loop = SimpleNamespace(call_later=lambda delay, *_: seconds.append(delay))
    for _ in answers:
        Worker._look_after_store(cast("Worker", worker), cast("Any", loop))
    assert len(told) == len(answers)
    return seconds


def test_the_store_is_looked_after_soon_again_and_then_more_and_more_rarely() -> None:
    answers: list[bool | Exception] = [False, True, True, *[False] * 8, StoreBusy("stopped"), True]
    expected = [0.05, 0.001, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, *[0.05] * 4, 0.001]
    assert waits(answers) == pytest.approx(expected)
