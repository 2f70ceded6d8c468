"""What ``fastkv check`` does, without its command line: looks at a data directory that no server uses.

Enters: a directory. Leaves: sentences, and whether all is well. May be raised: `StartError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastkv import clock
from fastkv.options import format_size
from fastkv.store import LAYOUT_VERSION, Store
from fastkv.store.datafile import DataDirectory
from fastkv.store.persist import Keeper, find_any

if TYPE_CHECKING:
    from pathlib import Path

# Of what a damaged table may bring about there can be one for each entry.
_MOST_PROBLEMS = 100


class Finding(NamedTuple):
    """What was found.

    Attributes:
        sentences: for a person, each on a line of its own.
        ok: whether nothing is damaged.
    """

    sentences: list[str]
    ok: bool


def check(path: Path) -> Finding:
    """Verify what a data directory holds. It stays as it is: a copy in memory is looked at.

    Args:
        path: the directory.

    Returns:
        What was found.

    Raises:
        StartError: if a server uses it, or there is nothing that one would go on with.
    """
    directory = DataDirectory(path, 0, create=False)
    try:
        found = find_any(directory, clock.now())
        keeper = Keeper.copy(directory, found)
        store = Store(0, kept=keeper)
        store.verify()
        problems = store.check()
        stats = store.stats()
        dropped = stats["dropped"]
        used, size = format_size(stats["bytes"]), format_size(stats["memory_bytes"])
        sentences = [
            f"{path}: {stats['entries']} entries; {used} of {size} are in use.",
            keeper.why,
        ]
        if found.outdated:
            sentences.append(
                f"It has layout version {found.layout}; the next start moves its entries to {LAYOUT_VERSION}."
            )
        store.close()
    finally:
        directory.close()
    if dropped:
        sentences.append(f"{dropped} entries are damaged, and left out.")
    sentences += [f"{problem[:1].upper()}{problem[1:]}." for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        sentences.append(f"There are {len(problems) - _MOST_PROBLEMS} problems more.")
    ok = not problems and not dropped and not keeper.lost
    if ok:
        sentences.append("Everything is whole.")
    return Finding(sentences, ok)
