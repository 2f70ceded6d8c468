"""The clocks: milliseconds since boot, and what an arena's clock is ahead of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastkv import clock

if TYPE_CHECKING:
    from pathlib import Path


def test_the_arena_clock_is_ahead_by_the_offset() -> None:
    for offset_ms in (0, 5000, -7000):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        shown = clock.arena_clock(offset_ms)()
        assert before <= shown - offset_ms <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def test_now() -> None:
    before, now, after = clock.boot_ms(), clock.now(), clock.boot_ms()
    assert now.boot_id == clock.now().boot_id > 0
    assert before <= now.boot_ms <= after


def test_a_kernel_that_does_not_say_which_boot_it_is(tmp_path: Path) -> None:
    assert clock.now(tmp_path / "absent").boot_id == 0
    (tmp_path / "odd").write_text("nothing\n")
    assert clock.now(tmp_path / "odd").boot_id == 0
