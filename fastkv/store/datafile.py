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
    from collections.abc import Callable
    from pathlib import Path

_ARENA_NAME: Final = "arena"
_NEW_NAME: Final = "arena.new"
_LOCK_NAME: Final = "lock"
# So much is written back to a disk before the next sign of life.
_FLUSH_BYTES: Final = 32 << 20
# The workers of a server that was killed end with it; that may take a moment.
_WAIT_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.01
_BLOCK_BYTES: Final = 512


class NoRoom(StartError):
    """The file system has no room for an arena."""


class DataDirectory:
    """A directory, locked for as long as this object or a process that inherited it is open.

    Attributes:
        path: the directory.
        arena_path: the arena's file in it.
        new_path: the file of an arena that is being made, which takes its place once it is complete.
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
        self.arena_path = path / _ARENA_NAME
        self.new_path = path / _NEW_NAME
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

    def inode(self, path: Path | None = None) -> int:
        """The inode of a file that is there.

        Args:
            path: one of the two files; None: the arena's.
        """
        return os.stat(path or self.arena_path).st_ino

    def require_room(self, memory_bytes: int, *, replaces: bool) -> None:
        """Find out that there is no room for an arena before anything is changed.

        What the file system says is taken for its word only where it says no; ``create`` reserves the room.

        Args:
            memory_bytes: its length.
            replaces: whether the arena that is there is removed before.

        Raises:
            NoRoom: if there is not.
        """
        try:
            system = os.statvfs(self.path)
            free = system.f_bfree * system.f_frsize
            if replaces and self.arena_path.exists():
                free += os.stat(self.arena_path).st_blocks * _BLOCK_BYTES
        except OSError as error:
            raise self._error(error) from None
        if system.f_blocks and free < memory_bytes:  # a tmpfs without a limit says 0 of everything
            raise self._no_room(memory_bytes)

    def create(self, memory_bytes: int) -> mmap.mmap:
        """Make a file of zeros for a new arena; the one that is there stays until ``put_in_place``.

        Args:
            memory_bytes: its length.

        Returns:
            The mapping, shared with whoever inherits it.

        Raises:
            NoRoom: if there is no room for it.
            StartError: if it cannot be made.
        """
        self.remove(self.new_path)
        return self._map(self.new_path, memory_bytes, os.O_CREAT | os.O_EXCL)

    def put_in_place(self, mem: mmap.mmap, alive: Callable[[], object] = lambda: None) -> None:
        """Make the new arena the one that is there, at one moment, and not before all of it is on the disk.

        Args:
            mem: its mapping.
            alive: called now and then; what it raises ends it, and the arena that is there stays.

        Raises:
            StartError: if it cannot be written.
        """
        try:
            for start in range(0, len(mem), _FLUSH_BYTES):
                alive()
                mem.flush(start, min(_FLUSH_BYTES, len(mem) - start))
            self._sync(self.new_path)
            os.rename(self.new_path, self.arena_path)
            self._sync(self.path)
        except OSError as error:
            raise self._error(error) from None

    @staticmethod
    def _sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there.

        Args:
            path: one of the two.

        Raises:
            StartError: if that is not possible.
        """
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error(error) from None

    def open(self, memory_bytes: int) -> mmap.mmap:
        """Map the file that is there.

        Args:
            memory_bytes: its length.

        Returns:
            As for ``create``.

        Raises:
            StartError: if it has holes for which there is no room.
        """
        return self._map(self.arena_path, memory_bytes, 0)

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

    def _map(self, path: Path, memory_bytes: int, flags: int) -> mmap.mmap:
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
            # Without its space reserved, the first write for which there is none would kill whoever writes.
            # To reserve again what is reserved takes longer than all the rest of a start.
            if os.fstat(descriptor).st_blocks * _BLOCK_BYTES < memory_bytes:
                os.posix_fallocate(descriptor, 0, memory_bytes)
            return mmap.mmap(descriptor, memory_bytes, mmap.MAP_SHARED)
        except OSError as error:
            if flags & os.O_CREAT and descriptor >= 0:
                path.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise self._error(error) from None
            raise self._no_room(memory_bytes) from None
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _no_room(self, memory_bytes: int) -> NoRoom:
        return NoRoom(
            f"--data-dir: there is no room for {memory_bytes >> 20}mb in '{self.path}'; "
            "make some, give less --memory or another directory."
        )

    def close(self) -> None:
        """Let go of the lock in this process."""
        os.close(self._lock)


def _what_is_wrong_with(path: Path) -> str:
    """Why a path is no directory with an arena."""
    if path.is_dir():
        return "holds no entries"
    return "is not a directory" if path.exists() else "does not exist"
