"""Snapshots on disk: written whole or not at all, and read with every byte verified.

A new snapshot grows under another name in the same directory, readable by its owner alone, and takes the
place of an older one when it is complete and on the disk. What stops it before that leaves the older one as
it was.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from fastkv.errors import SnapshotError
from fastkv.snapshot.format import (
    BLOCK_HEAD_BYTES,
    END_BYTES,
    HEADER_BYTES,
    Chain,
    is_end,
    parse_block,
    parse_block_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def new_snapshot(path: Path, created_ms: int) -> Iterator[tuple[Chain, Callable[[bytes], None]]]:
    """Write a snapshot; it is there once the block has ended, unless it has failed.

    Args:
        path: where; what a symbolic link leads to is replaced, not the link.
        created_ms: Unix time in ms.

    Yields:
        What has been written so far, and what writes a block.

    Raises:
        SnapshotError: if it cannot be written.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise SnapshotError(f"{str(path)!r} cannot be replaced: it is no regular file.")
        # mkstemp lets nobody but the owner read it. Some room in the name, of 255 bytes, has to be left.
        prefix = os.fsdecode(b".%b." % os.fsencode(target.name)[:200])
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                chain = Chain(created_ms)
                file.write(chain.build_header())

                def write(block: bytes) -> None:
                    file.write(block)
                    chain.add(block)

                yield chain, write
                file.write(chain.build_end())
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        _sync_directory(target.parent)
    except OSError as error:
        raise _cannot("written", path, error) from None


def _sync_directory(directory: Path) -> None:
    """Have the new name outlive a loss of power."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class SnapshotFile:
    """A snapshot that is read, and may be read again.

    Attributes:
        chain: what was read so far; complete behind the last of ``blocks``.
        size: bytes of the file.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Args:
            path: where.

        Raises:
            SnapshotError: if it cannot be read, or is none.
        """
        self._path = path
        with self._reading():
            # Without waiting, lest a named pipe keeps it for ever.
            self._file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - ``close`` does it
        try:
            with self._reading():
                status = os.fstat(self._file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise SnapshotError("It is no regular file.")
                self.size = status.st_size
                self.chain = self._begin()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def blocks(self) -> Iterator[bytes]:
        """Read all blocks from the beginning; each is verified before it is given away.

        Yields:
            The blocks, byte for byte.

        Raises:
            SnapshotError: at the first byte that is wrong, missing, or too many.
        """
        with self._reading():
            chain = self.chain = self._begin()
            while not is_end(head := self._file.read(BLOCK_HEAD_BYTES)):
                _, size = parse_block_head(head, self.size - self._file.tell())
                block = head + self._file.read(size)
                parse_block(block)
                chain.add(block)
                yield block
            # One byte more than an end has: nothing may follow it.
            chain.check_end(head + self._file.read(END_BYTES - BLOCK_HEAD_BYTES + 1))

    def _begin(self) -> Chain:
        self._file.seek(0)
        return Chain.parse_header(self._file.read(HEADER_BYTES))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say which file it is that something is wrong with."""
        try:
            yield
        except OSError as error:
            raise _cannot("read", self._path, error) from None
        except SnapshotError as error:
            why = str(error)
            raise SnapshotError(f"{str(self._path)!r} cannot be loaded: {why[0].lower()}{why[1:]}") from None


def _open_at_once(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)


def _cannot(what: str, path: Path, error: OSError) -> SnapshotError:
    return SnapshotError(f"{str(path)!r} cannot be {what}: {error.strerror or error}.")
