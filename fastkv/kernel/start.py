"""What a server does to the machine before it listens: limits, kernel profile, the backlog that then holds.

Enters: the settings. Leaves: log lines, one for each change and one that sums up, and a way to put everything
back. Nothing is raised: where a machine cannot be tuned the server takes it as it is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastkv.kernel.limits import clients_per_worker, raise_open_files
from fastkv.kernel.sysctl import Tree, path_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.settings import Settings

_log = logging.getLogger("fastkv")

# Where fewer clients fit, the limit of open files is a warning.
_MANY_CLIENTS: Final = 10_000
_SOMAXCONN: Final = path_of("net.core.somaxconn")
_SOMAXCONN_UNKNOWN: Final = 4096  # the kernel's own since Linux 5.4


@dataclass(frozen=True, slots=True)
class Prepared:
    """A machine that is ready to be served from.

    Attributes:
        backlog: connections that may wait on a socket, 1 or more.
        undo: puts back the kernel settings that were changed here; for a start that fails.
    """

    backlog: int
    undo: Callable[[], None]


def raise_limits(settings: Settings, rows: int) -> None:
    """Raise the limit of open files, which the workers inherit, and log how many clients fit.

    Args:
        settings: open_files, workers and max_connections count.
        rows: rows of the board, see `clients_per_worker`.
    """
    files = raise_open_files(settings.open_files)
    clients = settings.workers * clients_per_worker(files.soft, rows)
    enough = clients >= min(_MANY_CLIENTS, settings.max_connections or _MANY_CLIENTS)
    reached = files.soft >= settings.open_files
    _log.log(
        logging.INFO if enough else logging.WARNING,
        "Each process may open %d files, so all workers together serve at most %d clients at once%s",
        files.soft,
        clients,
        "."
        if reached
        else f": the hard limit is {files.hard}, below the {settings.open_files} of --open-files; "
        "fastkv tune-kernel says where to raise it.",
    )


def prepare(settings: Settings, tree: Tree | None = None) -> Prepared:
    """Apply the kernel profile, and find out how many connections may wait.

    Args:
        settings: tune, profile, state_dir, port and backlog count.
        tree: the machine; this one when None.

    Returns:
        The backlog to listen with, and how to undo.
    """
    tree = tree or Tree()
    if not settings.tune:
        _log.info("The kernel's settings are left as they are (--no-tune).")
        return Prepared(_backlog(settings, tree), lambda: None)
    # Late: with --no-tune a start does not wait for these imports.
    from fastkv.kernel.applying import apply_profile

    undo = apply_profile(settings, tree)
    return Prepared(_backlog(settings, tree), undo)


def _backlog(settings: Settings, tree: Tree) -> int:
    """The kernel cuts a longer backlog down without a word (listen(2))."""
    text = tree.read(_SOMAXCONN) or ""
    allowed = int(text) if text.isdecimal() else _SOMAXCONN_UNKNOWN
    if settings.backlog is None:
        return allowed
    if settings.backlog > allowed:
        _log.warning("--backlog %d: the kernel allows %d (net.core.somaxconn).", settings.backlog, allowed)
    return min(settings.backlog, allowed)
