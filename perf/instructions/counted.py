"""What runs under callgrind: the reference loop and the paths, each in a process of its own.

    valgrind … python -m perf.instructions.counted MARKS LAYOUT NAME …

Every process is forked from the same one and makes a store of its own, so that a figure does not depend on
what else is counted. Each dumps once, under the name of what it has counted.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from fastkv.http.routes import PLAIN
from fastkv.settings import Settings
from fastkv.store import Store
from perf.instructions import reference
from perf.instructions.paths import COUNTED, HANDSHAKE, LOADED, PATHS, key, value
from perf.unplugged import clock, connected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perf.instructions.paths import Path

_MEMORY_BYTES: Final = 32 << 20
# The pages of the index are then as full as those of 1 GiB with a million entries.
_SHARDS: Final = 1
_SEED: Final = 7
# As where versions begin at the Unix time in µs.
_FIRST_VERSION: Final = 1_700_000_000_000_000

_elsewhere: Final[list[object]] = []


class Counter(Protocol):
    """What counts."""

    def count(self, name: str, call: Callable[[bytes], None], each: Sequence[bytes]) -> None:
        """Make some calls, from C as an event loop makes them, and count what they take.

        Args:
            name: under which it is written down.
            call: what is called.
            each: with what.
        """


class Marks:
    """Counts between marks that callgrind sees."""

    def __init__(self, library: str) -> None:
        """Load the marks.

        Args:
            library: what was built from ``marks.c``.
        """
        marks = ctypes.CDLL(library)
        self._begin, self._end = marks.begin, marks.end
        self._begin.argtypes, self._end.argtypes = (), (ctypes.c_char_p,)

    def count(self, name: str, call: Callable[[bytes], None], each: Sequence[bytes]) -> None:
        """As `Counter`."""
        told = name.encode()
        calls = map(call, each)
        self._begin()
        deque(calls, 0)
        self._end(told)


def count_path(path: Path, counter: Counter) -> None:
    """Count a path, and see that it was the one that is meant.

    Args:
        path: the path.
        counter: counts.

    Raises:
        RuntimeError: it was another one.
    """
    store = Store(_MEMORY_BYTES, shards=_SHARDS, first_version=_FIRST_VERSION, seed=_SEED)
    for number in range(LOADED):
        store.put(key(number), value(number), clock, PLAIN)
    before, counted = path.make_reads()
    # What arrives on a socket is a new object each time, whose hash nobody has computed.
    counted = [bytes(bytearray(read)) for read in counted]
    with connected(store, Settings(workers=1, memory_bytes=_MEMORY_BYTES)) as (client, counted_as):
        if path.websocket:
            client.received(HANDSHAKE)
        received = client.received
        for read in before:
            received(read)
        earlier = counted_as(path.column)
        counter.count(path.name, received, counted)
        came = counted_as(path.column) - earlier
        reply = client.reply
    store.close()
    if came != COUNTED or not reply.endswith(path.ending):
        raise RuntimeError(f"{came} of {COUNTED} requests went this way; the last reply was {reply!r}.")


def count_reference(counter: Counter) -> None:
    """Count the reference loop.

    Args:
        counter: counts.
    """
    loop = reference.Loop()
    for read in reference.make_reads(COUNTED):
        loop.turn(read)
    counter.count(reference.NAME, loop.turn, reference.make_reads(COUNTED))


def move(layout: int) -> None:
    """Make all that follows stand elsewhere in memory, and give types other versions.

    The interpreter finds methods in a cache of 4096 places, by the address of the name and the version of the
    type. Two that are needed in turns and have the same place cost 350 instructions each time; which ones do
    is chance.

    Args:
        layout: a small number, for each another place.
    """
    for _ in range(layout):
        _elsewhere.extend(bytes(size) for size in range(1, 480, 16))
        getattr(type("Layout", (), {}), "version", None)


def _in_child(act: Callable[[], None]) -> bool:
    """Do something in a process of its own.

    Args:
        act: what.

    Returns:
        Whether it went well; why it did not is told on standard error.
    """
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
    acts: dict[str, Callable[[], None]] = {path.name: partial(count_path, path, marks) for path in PATHS}
    acts[reference.NAME] = partial(count_reference, marks)
    gc.disable()  # as workers do
    move(int(sys.argv[2]))
    for name in sys.argv[3:]:
        if not _in_child(acts[name]):
            sys.exit(f"{name} could not be counted.")


if __name__ == "__main__":
    main()
