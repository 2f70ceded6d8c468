"""What runs under callgrind: each path in a process of its own, and the reference loop.

    valgrind … python -m perf.instructions.counted MARKS NAME …

Every process is forked from the same one and makes a store of its own, so that a figure does not depend on
which others are counted. Each dumps what was counted once; a line of output says what it was and of how many
requests.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections import deque
from typing import TYPE_CHECKING, Final

from fastkv.settings import Settings
from fastkv.store import Store
from perf.instructions import reference
from perf.instructions.paths import COUNTED, HANDSHAKE, LOADED, PATHS, key, value
from perf.unplugged import clock, connected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perf.instructions.paths import Path

_MEMORY_BYTES: Final = 64 << 20
_SEED: Final = 7


class Marks:
    """Between these instructions are counted."""

    def __init__(self, library: str) -> None:
        """Load them.

        Args:
            library: what was built from ``marks.c``.
        """
        found = ctypes.CDLL(library)
        self._begin, self._end = found.begin, found.end
        self._begin.argtypes, self._end.argtypes = (), (ctypes.c_char_p,)

    def count(self, name: str, call: Callable[[bytes], None], each: Sequence[bytes]) -> None:
        """Count what calls take; they are made from C, as an event loop makes them.

        Args:
            name: under which it is written down.
            call: what is called.
            each: with what.
        """
        # What arrives on a socket is a new object, whose hash nobody has computed before.
        calls = map(call, [bytes(bytearray(data)) for data in each])
        told = name.encode()
        self._begin()
        deque(calls, 0)
        self._end(told)


def count_path(path: Path, marks: Marks) -> None:
    """Count a path, and see that it was the one that is meant.

    Args:
        path: the path.
        marks: count.

    Raises:
        RuntimeError: it was another one.
    """
    store = Store(_MEMORY_BYTES, seed=_SEED)
    for number in range(LOADED):
        store.put(key(number), value(number), clock, 1)
    settings = Settings(workers=1, memory_bytes=_MEMORY_BYTES)
    before, counted = path.reads()
    with connected(store, settings) as (sink, counters):
        if path.name.startswith("WebSocket"):
            sink.received(HANDSHAKE)
        received = sink.received
        for read in before:
            received(read)
        gc.collect()
        gc.freeze()
        gc.disable()
        earlier = counters[path.column]
        marks.count(path.name, received, counted)
        if counters[path.column] - earlier != COUNTED or not sink.reply.endswith(path.ends):
            raise RuntimeError(
                f"{path.name}: {counters[path.column] - earlier} of {COUNTED} requests went that way; "
                f"the last reply is {sink.reply!r}."
            )
    problems = store.check()
    store.close()
    if problems:
        raise RuntimeError(f"{path.name}: {problems}")


def count_reference(marks: Marks) -> None:
    """Count the reference loop."""
    reads = reference.reads(COUNTED)
    loop = reference.Loop()
    for read in reads:
        loop.turn(read)
    gc.collect()
    gc.freeze()
    gc.disable()
    marks.count(reference.NAME, loop.turn, reads)


def in_child(act: Callable[[], None]) -> bool:
    """Do something in a process of its own.

    Args:
        act: what.

    Returns:
        Whether it went well; what did not is on the standard error.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        except BaseException:  # noqa: BLE001 - it is shown, and nothing else happens in this process
            sys.excepthook(*sys.exc_info())
        os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Count what is named."""
    marks = Marks(sys.argv[1])
    names = sys.argv[2:]
    for name in names:
        if name == reference.NAME:
            act = lambda: count_reference(marks)
        else:
            path = next(path for path in PATHS if path.name == name)
            act = lambda path=path: count_path(path, marks)
        if not in_child(act):
            sys.exit(f"{name} could not be counted.")


if __name__ == "__main__":
    main()
