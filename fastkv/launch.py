"""How a server starts: everything that can be wrong is found before anything of the machine is changed.

Enters: the settings. Leaves: the exit code, when the server has stopped. Raises: `StartError`. The steps, in
the order of `run`:

1. The settings fit the machine: memory, lengths of keys and values. The data directory is locked, and what is
   in it can be used.
2. The files can be used: access log, token, certificate.
3. The addresses are resolved and reserved. Nothing listens on a TCP port yet.
4. The store is opened: its memory is mapped. Where the arena is to be another one its entries are moved,
   which may take minutes.
5. The limit of open files is raised, then the kernel profile applied.
6. The sockets listen: net.core.somaxconn counts when listen() is called.
7. The workers start, and the supervisor looks after them.

A start that fails in step 6 or 7 puts back the kernel settings that step 5 changed.
"""

from __future__ import annotations

import dataclasses
import errno
import gc
import logging
import signal
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Final

from fastkv import access_log, core, machine
from fastkv.credentials import Credentials
from fastkv.data_dir import Claim, plan_geometry
from fastkv.errors import StartError
from fastkv.keeping import open_store
from fastkv.kernel.start import prepare, raise_limits
from fastkv.listeners import Listeners
from fastkv.names import may_be_loopback
from fastkv.notify import Notifier
from fastkv.options import format_size
from fastkv.pubsub.ring import Ring
from fastkv.stats import Board
from fastkv.supervisor import SIGNALS, Supervisor

if TYPE_CHECKING:
    from fastkv.settings import Settings
    from fastkv.store import Geometry

_log = logging.getLogger("fastkv")

# Of an OSError: the machine has no more files, processes or memory to give.
_SCARCE: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM))


def run(settings: Settings) -> int:
    """Start a server, and serve until SIGTERM or SIGINT.

    Args:
        settings: the settings.

    Returns:
        The exit code: 0.

    Raises:
        StartError: an address, the memory, a file or a worker cannot be had.
    """
    _log_to_stderr(settings)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        _serve(settings)
    except OSError as error:
        if error.errno not in _SCARCE:
            raise
        raise StartError(
            f"--workers: {settings.workers} are too many for the limits of this machine ({error.strerror}); "
            "give fewer, or raise the limit."
        ) from None
    _log.info("Stopped.")
    return 0


def _serve(settings: Settings) -> None:
    notifier = Notifier.take()
    with ExitStack() as cleanup:
        geometry, claim = _plan_store(settings)
        credentials = _read_files(settings)
        listeners = cleanup.enter_context(closing(Listeners(settings)))
        store, keeping = open_store(settings, geometry, claim, notifier)
        if keeping is not None:
            # Also when the start fails: the next one then finds the entries as after a clean stop.
            cleanup.callback(keeping.settle, notifier.alive)
        board = Board(2 * settings.workers + 1)
        raise_limits(settings, len(board.rows))
        ring = Ring(settings.pubsub_memory_bytes, len(board.rows), settings.lock_wait_ms)
        prepared = prepare(settings)
        try:
            settings = dataclasses.replace(settings, backlog=prepared.backlog)
            listeners.listen(prepared.backlog)
            _warn_if_open_to_all(settings, credentials, listeners)
            # The collector never looks at what start-up made, in workers and their successors neither.
            gc.freeze()
            gc.enable()
            supervisor = Supervisor(settings, store, board, ring, listeners, keeping, notifier, credentials)
            supervisor.start()
        except BaseException:
            listeners.close()  # to undo needs open files, which the sockets may have used up
            prepared.undo()
            raise
        supervisor.run()


def _log_to_stderr(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    for level, sentence in settings.notes:
        _log.log(level, "%s", sentence)
    if not core.COMPILED:
        level = logging.INFO if core.FORCED else logging.WARNING
        _log.log(level, "The readable Python serves, slower than the compiled core: %s", core.REASON)


def _plan_store(settings: Settings) -> tuple[Geometry, Claim | None]:
    """Find the measures of the store, and claim the data directory if there is one.

    Raises:
        StartError: there is not so much memory, a key or a value of the allowed length does not fit, or the
            data directory cannot be used.
    """
    usable = machine.usable_memory_bytes()
    if settings.memory_bytes > usable:
        raise StartError(
            f"--memory: {format_size(settings.memory_bytes)} is more than the {usable >> 20}mb "
            "that this process may use."
        )
    claim = Claim.take(settings, settings.data_dir) if settings.data_dir else None
    geometry = claim.geometry if claim else plan_geometry(settings, None)
    if settings.max_value_bytes > geometry.longest_value:
        raise StartError(
            f"--max-value-bytes: a store of {format_size(geometry.memory_bytes)} with segments of "
            f"{format_size(geometry.segment_bytes)} takes values of at most "
            f"{format_size(geometry.longest_value)}."
        )
    if settings.max_key_bytes > geometry.longest_key:
        raise StartError(
            f"--max-key-bytes: segments of {format_size(geometry.segment_bytes)} take keys of at most "
            f"{format_size(geometry.longest_key)}."
        )
    return geometry, claim


def _read_files(settings: Settings) -> Credentials:
    """Read the token and the certificate, and open the access log once.

    Raises:
        StartError: one of them cannot be used.
    """
    if settings.access_log is not None:
        access_log.check(settings.access_log)
    return Credentials.read(settings)


def _warn_if_open_to_all(settings: Settings, credentials: Credentials, listeners: Listeners) -> None:
    if settings.token is None and credentials.token is None and not all(map(may_be_loopback, settings.host)):
        _log.warning(
            "Every client that reaches %s may read and write every entry; --token-file requires a token.",
            ", ".join(listeners.addresses),
        )
