"""What a client is told where a command failed, and where that is counted.

In: an exception. Out: a CommandError, to be the reply. Nothing is raised.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from fastkv.commands.replies import CommandError
from fastkv.errors import (
    BatchTooLong,
    KeyTooLong,
    ReplyTooLong,
    StoreBusy,
    StoreError,
    StoreFull,
    ValueTooLong,
    WalkTooLong,
)
from fastkv.stats import Column

if TYPE_CHECKING:
    from fastkv.commands.context import Counters

_log = logging.getLogger("fastkv")

OWN_FAULT: Final = (CommandError, KeyTooLong, ReplyTooLong, ValueTooLong, WalkTooLong)
"""What fails one command of a transaction and not the others."""

_OOM: Final = "OOM command not allowed when used memory > 'maxmemory'."
_FORESEEN: Final = (
    (BatchTooLong, Column.BATCH_TOO_LONG, "ERR {}"),
    (ReplyTooLong, Column.REPLY_TOO_LONG, "ERR {}"),
    (WalkTooLong, Column.WALK_TOO_LONG, "ERR {}"),
    (KeyTooLong, Column.KEY_TOO_LONG, "ERR {}"),
    (ValueTooLong, Column.VALUE_TOO_LONG, "ERR {}"),
    (StoreFull, Column.STORE_FULL, _OOM),
    (StoreBusy, Column.LOCK_TIMEOUTS, "TRYAGAIN {}"),
    (StoreError, Column.BAD_REQUESTS, "ERR {}"),
)


def failure(error: Exception, counters: Counters) -> CommandError:
    """What to answer where a command failed; it is counted.

    Args:
        error: a CommandError, an error of the store, or one that nobody foresaw.
        counters: the worker's row of the board.

    Returns:
        The reply. It does not hold the frames that the error came through.
    """
    if isinstance(error, CommandError):
        return error.with_traceback(None)
    for kind, column, text in _FORESEEN:
        if isinstance(error, kind):
            counters[column] += 1
            return CommandError(text.format(error), oversized=kind is ValueTooLong)
    counters[Column.INTERNAL_ERRORS] += 1
    _log.error("A command failed in a way that nobody foresaw.", exc_info=error)
    return CommandError("ERR internal server error; see the server log")
