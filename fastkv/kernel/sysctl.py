"""Single kernel settings: read, tried, written. Nothing here knows what a value means.

Enters: a root directory (tests and image builders give a tree of their own) and a path below it. Leaves: text
with single blanks between its numbers. May be raised: `OSError` by `Tree.write` alone.
"""

import errno
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CHOSEN = re.compile(r"\[(\w+)\]")
_MEMORY = re.compile(r"MemTotal: (\d{1,15}) kB")
_BOOT_ID = re.compile(r"[0-9a-f-]{1,64}")
_READ_BYTES: Final = 1 << 20
_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h; the socket module has no name for it


def path_of(name: str) -> str:
    """Return where sysctl(8) finds a name: ``net.core.somaxconn`` is ``proc/sys/net/core/somaxconn``."""
    return "proc/sys/" + name.replace(".", "/")


class Tree:
    """The files that the kernel offers below a root.

    Attributes:
        root: ``/``, or a tree that looks like it.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def read(self, path: str) -> str | None:
        """Read a value.

        Args:
            path: below the root.

        Returns:
            The value; of a line such as ``always [madvise] never`` the chosen word. None where there is no
            such file or it cannot be read.
        """
        try:
            text = _read_whole(self.root / path).decode("ascii", "replace")
        except OSError:
            return None
        chosen = _CHOSEN.search(text)
        return chosen[1] if chosen else " ".join(text.split())

    def is_writable(self, path: str) -> bool:
        """Tell by trying whether a value may be changed; nothing is written.

        Permission bits do not tell: a container's administrator has them all, and its ``/proc/sys`` is
        mounted read-only.
        """
        try:
            os.close(os.open(self.root / path, os.O_WRONLY))
        except OSError:
            return False
        return True

    def write(self, path: str, value: str) -> None:
        """Change a value, in a single write as far as the kernel takes it.

        Of a list of ports it takes a page at once, and adds what is written next.

        Args:
            path: below the root.
            value: the text.

        Raises:
            OSError: the kernel refuses the value, the file is not to be written, or there is none.
        """
        descriptor = os.open(self.root / path, os.O_WRONLY | os.O_TRUNC)
        try:
            rest = value.encode("ascii") + b"\n"
            while rest:
                taken = os.write(descriptor, rest)
                if not taken:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                rest = rest[taken:]
        finally:
            os.close(descriptor)

    def boot_id(self) -> str:
        """Return what names this run of the kernel; "unknown" where nothing does."""
        name = self.read("proc/sys/kernel/random/boot_id") or ""
        return name if _BOOT_ID.fullmatch(name) else "unknown"

    def memory_bytes(self) -> int:
        """Return the memory of the whole machine, 0 where it is not told.

        The limit of a control group does not matter here: what is scaled by it is the machine's.
        """
        total = _MEMORY.search(self.read("proc/meminfo") or "")
        return int(total[1]) * 1024 if total else 0


def _read_whole(path: Path) -> bytes:
    """Read a file in pieces so large that a value is one: a second read of a kernel setting is its end."""
    pieces = []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while piece := os.read(descriptor, _READ_BYTES):
            pieces.append(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces)


def network_namespace() -> str:
    """Return what names the process's network namespace among all of this boot.

    The cookie (Linux 5.14) is never given twice; an inode number may be, once a namespace is gone.
    """
    with socket.socket(socket.AF_UNIX) as any_socket:
        try:
            cookie = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
            return f"cookie-{int.from_bytes(cookie, 'little')}"
        except OSError:
            pass
    try:
        return f"inode-{os.stat('/proc/self/ns/net').st_ino}"
    except OSError:
        return "unknown"


def parse_conf(text: str) -> dict[str, str]:
    """Read a file of sysctl.d(5).

    Args:
        text: lines of ``name = value``; ``#`` and ``;`` start comments, a leading ``-`` allows the setting to
            fail.

    Returns:
        The values by name, in the order of the lines; of a name that comes twice the last value.

    Raises:
        ValueError: a line is none of these.
    """
    return dict(_assignments(text))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.removeprefix("-").partition("=")
        if not equals or not name.strip():
            raise ValueError(f"line {number} is not of the form name = value")
        yield name.strip().replace("/", "."), " ".join(value.split())
