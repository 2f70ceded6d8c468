"""The watchdog: which processes are stuck.

In: for each process a word that it changes as a sign of life, about twice a second. Out: the processes that
have not changed theirs although they could have run for long enough. Nothing is raised.

Time counts only as far as a process could have used it. While it waits (for a lock, for an event, stopped
by a signal) all of it counts. While it runs or is ready to run only the CPU time that it gets counts: on a
busy machine, under a CPU quota or at a low priority that is a part of the time that passes, and a process
that gets no CPU is not stuck. During an uninterruptible wait, for a disk or for memory, only CPU time
counts, too: the kernel would not end the process before that is over. Where the watchdog itself comes late
(a suspended machine, a stopped process group) the processes may have been held up with it, and again only
their CPU time counts.

Rejected: time that passes alone (KEYS over 990,000 entries with half a CPU was killed), and the time in the
run queue of ``/proc/PID/schedstat``, which the kernel adds up only when the process gets its CPU at last.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOOK_SECONDS: Final = 0.5
"""How often the processes should be looked at."""

_LATE_SECONDS: Final = 2 * LOOK_SECONDS
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# proc_pid_stat(5), counted from the field behind the name.
_STATE, _UTIME, _STIME = 0, 11, 12


class Usage(NamedTuple):
    """What a process makes of its time.

    Attributes:
        cpu_seconds: how long it has run, in user and kernel mode.
        waits: whether it neither runs nor would run if it got a CPU (or its memory or disk).
    """

    cpu_seconds: float
    waits: bool


def read_usage(pid: int, proc: Path = Path("/proc")) -> Usage | None:
    """What the main thread of a process makes of its time.

    Args:
        pid: its process id.
        proc: where the kernel shows processes.

    Returns:
        It; None if it cannot be read.
    """
    try:
        text = (proc / str(pid) / "task" / str(pid) / "stat").read_text()
        # The name may have blanks and brackets itself.
        fields = text[text.rindex(")") + 2 :].split()
        ticks = int(fields[_UTIME]) + int(fields[_STIME])
    except (OSError, ValueError, IndexError):
        return None
    return Usage(ticks / _TICKS_PER_SECOND, fields[_STATE] not in ("R", "D"))


@dataclass(slots=True)
class _Silence:
    """What is known of a process since its last sign of life.

    Attributes:
        word: its last sign of life.
        seconds: the time since then that it could have used.
        usage: what it had made of its time at the last look; None before the first one.
    """

    word: int
    seconds: float = 0.0
    usage: Usage | None = None


class Watchdog:
    """Watches processes."""

    __slots__ = ("_last_look", "_limit_seconds", "_silences", "_usage_of")

    def __init__(self, limit_seconds: float, usage_of: Callable[[int], Usage | None] = read_usage) -> None:
        """Begin with none.

        Args:
            limit_seconds: how long a process may be silent, of the time that it could have used.
            usage_of: what a process makes of its time; None where that is unknown, and it counts as waiting.
        """
        self._limit_seconds = limit_seconds
        self._usage_of = usage_of
        self._silences: dict[int, _Silence] = {}
        self._last_look = float("-inf")

    def stuck(self, now: float, words: Mapping[int, int]) -> list[int]:
        """Look at all processes; to be called every ``LOOK_SECONDS``.

        ``/proc`` is read only of those that were silent since the last look, and what they are charged with
        begins there: a stuck process is found up to three looks after the limit.

        Args:
            now: seconds on the monotonic clock.
            words: for each process id the word that it changes as a sign of life.

        Returns:
            The processes that are stuck; each is charged anew from here on.
        """
        elapsed, self._last_look = now - self._last_look, now
        silences: dict[int, _Silence] = {}
        stuck = []
        for pid, word in words.items():
            silence = self._silences.get(pid)
            if silence is None or silence.word != word:
                silences[pid] = _Silence(word)
                continue
            silences[pid] = silence
            if self._is_over(pid, silence, elapsed):
                stuck.append(pid)
        self._silences = silences
        return stuck

    def _is_over(self, pid: int, silence: _Silence, elapsed: float) -> bool:
        """Charge a process with the time since the last look, and tell whether that was the last straw."""
        before, after = silence.usage, self._usage_of(pid) or Usage(0.0, waits=True)
        silence.usage = after
        if before is None:
            return False
        if before.waits and after.waits and elapsed <= _LATE_SECONDS:
            silence.seconds += elapsed
        else:
            silence.seconds += max(0.0, after.cpu_seconds - before.cpu_seconds)
        if silence.seconds < self._limit_seconds:
            return False
        silence.seconds = 0.0
        return True
