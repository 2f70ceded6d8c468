"""What this process may use of the machine: CPUs and memory, control groups counted, and IPv6.

A container's limit sits in a control group, its own or any ancestor, and every one of them binds. Both
generations are read: version 2, version 1, and the two side by side. What cannot be read is taken as no
limit. Nothing is raised.

Sources: cgroups(7), proc_pid_mountinfo(5), and the kernel's admin-guide/cgroup-v1 and cgroup-v2.
"""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

ROOT = Path("/")


def usable_cpus(root: Path = ROOT, affinity: int | None = None) -> int:
    """How many CPUs the process may keep busy.

    Args:
        root: Where ``proc`` and the control groups are looked for; tests give a made-up tree.
        affinity: CPUs in the scheduling mask; asked of the kernel when None (cpusets are in it already).

    Returns:
        The smaller of the mask and every quota, a part of a CPU counted as one; at least 1.
    """
    if affinity is None:
        affinity = len(os.sched_getaffinity(0))
    limits = [affinity]
    for group in _groups(root, "cpu"):
        if words := _read(group / "cpu.max").split():
            quota, period = words[0], words[-1]
        else:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        # Without a quota version 2 says "max" and version 1 says -1.
        if quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0:
            limits.append(-(-int(quota) // int(period)))
    return max(1, min(limits))


def usable_memory_bytes(root: Path = ROOT, total: int | None = None) -> int:
    """How many bytes of memory the process may use.

    Args:
        root: Where ``proc`` and the control groups are looked for; tests give a made-up tree.
        total: Bytes of memory in the machine; asked of psutil when None.

    Returns:
        The smallest of the machine's memory and every limit. ``memory.high`` counts like ``memory.max``:
        past it the kernel throttles a process so hard that a cache is of no use.
    """
    limits = [psutil.virtual_memory().total if total is None else total]
    for group in _groups(root, "memory"):
        texts = (_read(group / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes"))
        limits.extend(int(text) for text in texts if text.isdecimal())
    return min(limits)


def has_ipv6() -> bool:
    """Whether sockets of IPv6 can be made; in some containers they cannot."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def has_ipv6_loopback() -> bool:
    """Whether the machine has the address ::1."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the directories of the process's control groups for a controller, each with all its ancestors."""
    own = _memberships(root)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        places, kinds = head.split(), tail.split()
        if len(places) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2":
            path = own.get("")
        elif kinds[0] == "cgroup" and controller in kinds[2].split(","):
            path = own.get(controller)
        else:
            continue
        if path is None:
            continue
        mounted, point = PurePosixPath(_unescape(places[3])), root / _unescape(places[4]).lstrip("/")
        # A container without a cgroup namespace sees its own group mounted as the root of the tree, yet the
        # path that it is told counts from the host's root. Within a namespace the host's tree is mounted at
        # "/..": an ancestor, from which the way down is not told. Any other mount shows the groups of
        # someone else.
        if path.is_relative_to(mounted) and ".." not in path.parts:
            below = path.relative_to(mounted)
        elif set(mounted.parts[1:]) == {".."}:
            below = PurePosixPath()
        else:
            continue
        yield point / below
        if below.parts:
            yield from (point / parent for parent in below.parents)


def _memberships(root: Path) -> dict[str, PurePosixPath]:
    """Map each version 1 controller to the process's group in it, and "" to its version 2 group."""
    own = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            for controller in fields[1].split(","):
                own[controller] = PurePosixPath(fields[2])
    return own


def _unescape(path: str) -> str:
    """Undo mountinfo's octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _read(path: Path) -> str:
    """Return the text of a small file, stripped; "" where it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return ""
