"""Arenas as releases before this one left them, kept so that their migration is tried on the real thing.

``arenas/v4-clean.gz`` and ``arenas/v4-killed.gz`` were made by ``python -m old_arena`` at the last commit
whose layout was 4: 1 MiB in 2 shards, left by a clean stop and as a kill leaves it; ``v4.json`` says what is
in them. Those of layout 5 were made likewise. When the layout changes, run it once more before that, and add
a version to `VERSIONS`.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from kept_helpers import GEOMETRY, THEN, SameFile, reopen
from store_helpers import NOW_MS, clock

from fastkv.store.layout import LAYOUT_VERSION

ARENAS = Path(__file__).parent / "arenas"
VERSIONS = (4, 5)


class Kept(NamedTuple):
    """An entry as it was left.

    Attributes:
        value: its value.
        flags: the caller's.
        version: its version.
        deadline_ms: 0 for none.
    """

    value: bytes
    flags: int
    version: int
    deadline_ms: int


def value_of(number: int, size: int) -> bytes:
    """A value that tells whose it is, and can be compressed."""
    return (b"%d/" % number * (size // 2 + 1))[:size]


def read_model(version: int) -> dict[bytes, Kept]:
    """What the arenas of a layout hold.

    Args:
        version: of the layout.

    Returns:
        The entries by key.
    """
    listed = json.loads((ARENAS / f"v{version}.json").read_text())
    return {
        bytes.fromhex(key): Kept(value_of(number, size), flags, entry_version, deadline_ms)
        for key, number, size, flags, entry_version, deadline_ms in listed
    }


def unpack(path: Path, version: int, *, clean: bool) -> None:
    """Put an old arena into a directory; its keeper has to be a ``SameFile`` if it is not clean.

    Args:
        path: the directory.
        version: of the layout.
        clean: which of the two.
    """
    name = f"v{version}-{'clean' if clean else 'killed'}.gz"
    (path / "arena").write_bytes(gzip.decompress((ARENAS / name).read_bytes()))


def make() -> None:
    """Write the files of this release's layout: entries of every sort, some overwritten, some deleted."""
    with tempfile.TemporaryDirectory() as path:
        directory = SameFile(Path(path))
        store, keeper = reopen(directory, first_version=10**6)
        listed = []
        for number in range(150):
            key = [b"%d" % number, b"\x00\xff%d" % number, b"k" * 200 + b"%d" % number][number % 3]
            size = 12_000 if number % 50 == 1 else number % 7 * number
            flags = (0, 1, 0x80)[number % 3]
            deadline_ms = (0, NOW_MS + 5000, NOW_MS + 10**6, NOW_MS)[number % 4]
            if number % 5 == 0:
                store.put(key, b"old" * number, clock, flags ^ 1)
            version = store.put(key, value_of(number, size), clock, flags, deadline_ms)
            if number % 11 == 0:
                store.delete(key, clock)
            else:
                listed.append([key.hex(), number, size, flags, version, deadline_ms])
        keeper.save_clock(THEN)
        keeper.save_clock(THEN)
        for name in ("killed", "clean"):
            if name == "clean":
                assert store.settle(THEN)
            content = bytes(store.counts)
            packed = gzip.compress(content, 9, mtime=0)
            (ARENAS / f"v{LAYOUT_VERSION}-{name}.gz").write_bytes(packed)
        store.close()
        directory.close()
    lines = ",\n".join(json.dumps(entry) for entry in listed)
    (ARENAS / f"v{LAYOUT_VERSION}.json").write_text(f"[\n{lines}\n]\n")
    sys.stdout.write(f"{len(listed)} entries, {os.listdir(ARENAS)}, {GEOMETRY}\n")


if __name__ == "__main__":
    make()
