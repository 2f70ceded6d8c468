"""The directory that an arena is kept in: its lock, and the file that is mapped.

In: a path. Out: mappings. Raised: `StartError`, with a sentence about the directory. The lock is an open
file description's: whoever inherits it by fork holds it as well, so that nobody else gets at the file before
the last process of a server is gone. It is a file of its own, because the arena's may be replaced.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import time
from typing import TYPE_CHECKING, Final

from fastkv.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

ARENA_NAME: Final = "arena"
_LOCK_NAME: Final = "lock"
# The workers of a server that was killed end with it; that may take a moment.
_WAIT_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.01
_BLOCK_BYTES: Final = 512


class DataDirectory:
    """A directory, locked for as long as this object or a process that inherited it is open.

    Attributes:
        path: the directory.
        arena_path: the arena's file in it.
    """

    def __init__(self, path: Path, wait_seconds: float = _WAIT_SECONDS, *, create: bool = True) -> None:
        """Lock a directory.

        Args:
            path: the directory.
            wait_seconds: how long to wait for the process that has it.
            create: whether to make it if it is not there; else it has to hold an arena.

        Raises:
            StartError: if it cannot be used, or a server uses it.
        """
        self.path = path
        self.arena_path = path / ARENA_NAME
        try:
            if create:
                path.mkdir(0o700, parents=True, exist_ok=True)
            elif not self.arena_path.exists():
                raise StartError(
                    f"--data-dir: '{path}' {_what_is_wrong_with(path)}; "
                    "give the directory that a server has had as its --data-dir."
                )
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            self._lock = os.open(path / _LOCK_NAME, flags, 0o600)
        except OSError as error:
            raise self._error(error) from None
        until = time.monotonic() + wait_seconds
        while not self._try_lock():
            if time.monotonic() > until:
                os.close(self._lock)
                raise StartError(
                    f"--data-dir: '{path}' is in use by another fastkv; stop it or give another directory."
                )
            time.sleep(_POLL_SECONDS)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
                return False
            os.close(self._lock)
            raise self._error(error) from None
        return True

    def _error(self, error: OSError) -> StartError:
        return StartError(f"--data-dir: '{self.path}' cannot be used ({error.strerror or error}).")

    def head(self, length: int) -> bytes:
        """Read the beginning of the arena's file.

        Args:
            length: how many bytes.

        Returns:
            As many as there are; none if there is no file.

        Raises:
            StartError: if it cannot be read.
        """
        try:
            with open(self.arena_path, "rb") as file:
                return file.read(length)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._error(error) from None

    def size(self) -> int:
        """The length of the arena's file in bytes, which is there."""
        return os.stat(self.arena_path).st_size

    def inode(self) -> int:
        """The inode of the arena's file, which is there."""
        return os.stat(self.arena_path).st_ino

    def create(self, memory_bytes: int) -> mmap.mmap:
        """Make a file of zeros, in place of the one that is there.

        Args:
            memory_bytes: its length.

        Returns:
            The mapping, shared with whoever inherits it.

        Raises:
            StartError: if there is no room for it.
        """
        try:
            self.arena_path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error(error) from None
        return self._map(memory_bytes, os.O_CREAT | os.O_EXCL)

    def open(self, memory_bytes: int) -> mmap.mmap:
        """Map the file that is there.

        Args:
            memory_bytes: its length.

        Returns:
            As for ``create``.

        Raises:
            StartError: if it has holes for which there is no room.
        """
        return self._map(memory_bytes, 0)

    def open_copy(self, memory_bytes: int) -> mmap.mmap:
        """Map the file that is there so that what is written stays in this process.

        Args:
            memory_bytes: its length.

        Returns:
            The mapping.

        Raises:
            StartError: if it cannot be mapped.
        """
        try:
            with open(self.arena_path, "rb") as file:
                return mmap.mmap(file.fileno(), memory_bytes, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise StartError(f"'{self.arena_path}' cannot be mapped ({error}).") from None

    def _map(self, memory_bytes: int, flags: int) -> mmap.mmap:
        descriptor = -1
        try:
            descriptor = os.open(self.arena_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
            # Without its space reserved, the first write for which there is none would kill whoever writes.
            # To reserve again what is reserved takes longer than all the rest of a start.
            if os.fstat(descriptor).st_blocks * _BLOCK_BYTES < memory_bytes:
                os.posix_fallocate(descriptor, 0, memory_bytes)
            return mmap.mmap(descriptor, memory_bytes, mmap.MAP_SHARED)
        except OSError as error:
            if flags & os.O_CREAT and descriptor >= 0:
                self.arena_path.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise self._error(error) from None
            raise StartError(
                f"--data-dir: there is no room for {memory_bytes >> 20}mb in '{self.path}'; "
                "make some, give less --memory or another directory."
            ) from None
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of the lock in this process."""
        os.close(self._lock)


def _what_is_wrong_with(path: Path) -> str:
    """Why a path is no directory with an arena."""
    if path.is_dir():
        return "holds no entries"
    return "is not a directory" if path.exists() else "does not exist"
