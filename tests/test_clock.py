"""The clocks: milliseconds since boot, and what an arena's clock is ahead of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from fastkv import clock

if TYPE_CHECKING:
    from pathlib import Path


def test_the_arena_clock_is_ahead_by_the_offset() -> None:
    for offset_ms in (0, 5000, -7000):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        shown = clock.arena_clock(offset_ms)()
        assert before <= shown - offset_ms <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


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
