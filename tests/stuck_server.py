"""The server, with commands that hold their worker: ``python stuck_server.py serve …`` is ``fastkv serve …``.

``HOLD s`` ends when the worker has had so many seconds of CPU for it, ``HOLD inf`` never. ``WORK s`` is the
same, but reports progress meanwhile.
"""

import time

from fastkv.commands.context import Context
from fastkv.commands.replies import OK, Reply
from fastkv.commands.table import command
from fastkv.progress import PROGRESS
from fastkv.start import main


@command("HOLD", 2)
def _hold(context: Context, words: list[bytes]) -> Reply:
    end = time.process_time() + float(words[1])
    while time.process_time() < end:
        pass
    return OK


@command("WORK", 2)
def _work(context: Context, words: list[bytes]) -> Reply:
    end = time.process_time() + float(words[1])
    while time.process_time() < end:
        PROGRESS.made()
    return OK


if __name__ == "__main__":
    main()
