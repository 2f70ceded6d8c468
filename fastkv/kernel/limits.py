"""The limits of this process: how many files it may have open.

Enters: the wanted number. Leaves: what there is, and what was reached. Nothing is raised: a limit that stays
low is a warning, never a refusal to start.
"""

import resource
from dataclasses import dataclass
from typing import Final

# Of a worker's open files, what is not for clients: listeners, logs, and connections that are refused.
_SPARE_FILES: Final = 128


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """The limits of open files (RLIMIT_NOFILE, getrlimit(2)).

    Attributes:
        soft: what holds.
        hard: how far this process may raise it without privileges.
        reachable: how far it may raise it with those that it has.
        wanted: what it should be.
    """

    soft: int
    hard: int
    reachable: int
    wanted: int

    @classmethod
    def look(cls, wanted: int) -> "OpenFiles":
        """Find out what there is, and by trying whether the hard limit can be raised.

        Args:
            wanted: what it should be.

        Returns:
            The limits; they are afterwards what they were before.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        reachable = hard
        if hard < wanted:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, wanted))
                reachable = wanted
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            except (OSError, ValueError):
                pass
        return cls(soft, hard, reachable, wanted)


def raise_open_files(wanted: int) -> OpenFiles:
    """Raise the soft limit to the wanted number, or as far as this process may; it is never lowered.

    Args:
        wanted: what it should be.

    Returns:
        The limits that hold now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        # The hard limit goes up with privileges alone, and not above fs.nr_open.
        for limits in ((wanted, max(hard, wanted)), (hard, hard)):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                break
            except (OSError, ValueError):
                continue
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OpenFiles(soft, hard, hard, wanted)


def clients_per_worker(files: int, rows: int) -> int:
    """How many clients a worker serves at once: each costs a file.

    Args:
        files: the worker's limit of open files.
        rows: rows of the board, of all workers and their successors; each has an eventfd in every process.

    Returns:
        The number, 1 or more.
    """
    return max(1, files - _SPARE_FILES - rows)
