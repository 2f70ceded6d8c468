"""What a server does to the machine before it binds: limits, kernel profile, and the backlog that then holds.

Enters: the settings. Leaves: log lines, one for each change and one that sums up. Nothing is raised: where a
machine cannot be tuned the server takes it as it is.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from fastkv.kernel.limits import raise_open_files
from fastkv.kernel.sysctl import Tree, path_of

if TYPE_CHECKING:
    from fastkv.settings import Settings

_log = logging.getLogger("fastkv")

_SOMAXCONN: Final = path_of("net.core.somaxconn")
_SOMAXCONN_UNKNOWN: Final = 4096  # the kernel's own since Linux 5.4


def prepare(settings: Settings, tree: Tree | None = None) -> int:
    """Raise the limit of open files, apply the kernel profile, and find out how many connections may wait.

    Args:
        settings: open_files, tune, profile, state_dir, port and backlog count.
        tree: the machine; this one when None.

    Returns:
        The backlog to listen with, 1 or more.
    """
    tree = tree or Tree()
    _raise_open_files(settings.open_files)
    if settings.tune:
        # Late: who leaves the kernel as it is does not wait for what judges and changes it.
        from fastkv.kernel.applying import apply_profile

        apply_profile(settings, tree)
    else:
        _log.info("The kernel's settings are left as they are (--no-tune).")
    return _backlog(settings, tree)


def _raise_open_files(wanted: int) -> None:
    files = raise_open_files(wanted)
    if files.soft >= wanted:
        _log.info("Each process may open %d files.", files.soft)
    else:
        _log.warning(
            "Each process may open %d files, and so many connections at most: the hard limit is %d, "
            "below the %d of --open-files; fastkv tune-kernel says where to raise it.",
            files.soft,
            files.hard,
            wanted,
        )


def _backlog(settings: Settings, tree: Tree) -> int:
    """The kernel cuts a longer backlog down without a word (listen(2))."""
    text = tree.read(_SOMAXCONN) or ""
    allowed = int(text) if text.isdecimal() else _SOMAXCONN_UNKNOWN
    if settings.backlog is None:
        return allowed
    if settings.backlog > allowed:
        _log.warning("--backlog %d: the kernel allows %d (net.core.somaxconn).", settings.backlog, allowed)
    return min(settings.backlog, allowed)
