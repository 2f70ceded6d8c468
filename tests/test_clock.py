"""The clocks: milliseconds since boot, and what an arena's clock is ahead of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from fastkv import clock, core

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


IMPLEMENTATIONS = [clock.ArenaClock, *([core.engine.Clock] if core.COMPILED else [])]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("offset_ms", [0, 5000, -7000])
def test_an_arena_clock_is_ahead_by_its_offset(
    implementation: type[clock.ArenaClock | core.engine.Clock], offset_ms: int
) -> None:
    before = clock.boot_ms()
    shown = implementation(offset_ms)()
    assert before <= shown - offset_ms <= clock.boot_ms()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_arena_clock_can_be_frozen(implementation: type[clock.ArenaClock | core.engine.Clock]) -> None:
    frozen = implementation(5000)
    shows: Callable[[], int] = frozen.__call__
    for now_ms in (0, 1, 1 << 60):
        frozen.freeze(now_ms)
        assert shows() == shows() == now_ms
    frozen.freeze(None)
    assert shows() >= clock.boot_ms()


def test_the_clock_of_an_arena_is_compiled_where_that_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(clock.arena_clock(7), IMPLEMENTATIONS[-1])
    monkeypatch.setattr("fastkv.core.COMPILED", False)
    assert isinstance(clock.arena_clock(7), clock.ArenaClock)


@pytest.mark.parametrize("offset_ms", [0, 5000, -7000])
@pytest.mark.parametrize("passed_ns", [0, 1, 499_999, 600_000, 1_000_000])
@pytest.mark.parametrize("between_ns", [0, 300_000])
def test_unix_time_is_ahead_by_the_same_whenever_one_looks(
    monkeypatch: pytest.MonkeyPatch, offset_ms: int, passed_ns: int, between_ns: int
) -> None:
    """Both clocks are read one after the other, and in the middle of a millisecond."""
    boot_ns, unix_ns = 123_456_700_000, 1_700_000_000_400_700_000
    monkeypatch.setattr(time, "time_ns", lambda: unix_ns + passed_ns)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: boot_ns + passed_ns + between_ns)
    assert clock.unix_ahead_ms(offset_ms) == (unix_ns - boot_ns) // 1_000_000 - offset_ms


def test_now() -> None:
    before, now, after = clock.boot_ms(), clock.now(), clock.boot_ms()
    assert now.boot_id == clock.now().boot_id > 0
    assert before <= now.boot_ms <= after


def test_a_kernel_that_does_not_say_which_boot_it_is(tmp_path: Path) -> None:
    assert clock.now(tmp_path / "absent").boot_id == 0
    (tmp_path / "odd").write_text("nothing\n")
    assert clock.now(tmp_path / "odd").boot_id == 0
