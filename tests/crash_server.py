"""The server, with workers that kill themselves in the midst of changing the store.

``python crash_server.py SEED serve …`` is ``fastkv serve …``, but each worker process, once it is a little
older than a second (so that its death is none of those that are followed by a pause), dies by SIGKILL at a
random instruction of the code that runs under the locks. Half of them wait for the rarer places: segments
that are taken, closed and given back, pages that are split, cleaning, repair. SIGUSR1 to the supervisor ends
that. When the server has stopped, ``check()`` looks at the store: exit code 3 where it finds something.
"""

import itertools
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from fastkv import cli, keeping, worker
from fastkv.store import Store, eviction, expiry, ghosts, index, log, repair, segments, shard, sweep

Tracer = Callable[[FrameType, str, Any], Any]

EXIT_PROBLEMS = 3

_AGE_SECONDS = (1.05, 1.5)
_PATIENCE_SECONDS = 1.0
_RARE = {module.__file__ for module in (eviction, expiry, ghosts, repair, sweep)}
_OFTEN = _RARE | {shard.__file__, log.__file__, segments.__file__}
_RARE_NAMES = {"take", "close", "give_back", "enqueue", "dequeue", "rebuild_free_list", "split", "map_page"}
_RARE_NAMES |= {
    "open_page",
    "_append_free",
    "append_pieces",
    "bury_pieces",
    "relocate",
}


def _is_rare(code: CodeType) -> bool:
    if code.co_filename in _RARE:
        return True
    return code.co_filename in {*_OFTEN, index.__file__} and code.co_name in _RARE_NAMES


def _is_often(code: CodeType) -> bool:
    return code.co_filename in _OFTEN or _is_rare(code)


def _arm(chance: random.Random, disarmed: memoryview) -> Tracer:
    """Make a tracer that ends its process; see the module."""
    born = time.monotonic()
    awake = born + chance.uniform(*_AGE_SECONDS)
    rare_until = awake + (_PATIENCE_SECONDS if chance.random() < 0.5 else 0)
    # Some calls, so that not only the first function of a way is hit, then some instructions.
    calls = chance.randrange(30)
    instructions = chance.choice([chance.randrange(1, 40), chance.randrange(1, 400)])

    def enter(frame: FrameType, event: str, argument: Any) -> Tracer | None:
        nonlocal calls
        if not _is_often(frame.f_code):
            return None
        now = time.monotonic()
        if now < awake or disarmed[0] or (now < rare_until and not _is_rare(frame.f_code)):
            return None
        calls -= 1
        if calls > 0 and now > rare_until:
            return None
        frame.f_trace_opcodes = True
        return step

    def step(frame: FrameType, event: str, argument: Any) -> Tracer:
        nonlocal instructions
        instructions -= event == "opcode"
        if instructions <= 0 and not disarmed[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return step

    return enter


def main(seed: int, arguments: list[str]) -> int:
    """Serve, then check the store.

    Args:
        seed: Of the random choices.
        arguments: For the command.

    Returns:
        The exit code of the server, `EXIT_PROBLEMS` where `check()` found some.
    """
    disarmed = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
    stores: list[Store] = []
    numbers = itertools.count()
    serve = worker.serve

    def keep_store(*args: Any, **kwargs: Any) -> Store:
        stores.append(Store(*args, **kwargs))
        return stores[-1]

    def serve_and_die(*args: Any) -> int:
        # The row was counted up by no other process, so the process id is what tells the workers apart.
        sys.settrace(_arm(random.Random(seed * 1_000_003 + next(numbers) + os.getpid()), disarmed))
        return serve(*args)

    def disarm(number: int, frame: FrameType | None) -> None:
        disarmed[0] = 1

    signal.signal(signal.SIGUSR1, disarm)
    setattr(keeping, "Store", keep_store)  # noqa: B010 - it is no type, as an assignment would have to be
    setattr(worker, "serve", serve_and_die)  # noqa: B010 - its arguments are any, which mypy would not take
    try:
        cli.main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    problems = [problem for store in stores for problem in store.check()]
    for problem in problems:
        sys.stderr.write(f"check: {problem}\n")
    return EXIT_PROBLEMS if problems else code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
