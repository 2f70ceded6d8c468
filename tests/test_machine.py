"""What the process may use, read from made-up trees of proc and control groups."""

from pathlib import Path

import pytest

from fastkv.machine import usable_cpus, usable_memory_bytes

GB = 1 << 30
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MEMORY = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V1_CPU = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"

# name: (/proc/self/cgroup, mounts, files under /sys/fs/cgroup, CPUs out of 8, memory out of 64 GiB)
CASES: dict[str, tuple[str, list[str], dict[str, str], int, int]] = {
    "no control groups": ("", [], {}, 8, 64 * GB),
    "v2, no limits": (
        "0::/a",
        [V2_MOUNT],
        {"a/cpu.max": "max 100000", "a/memory.max": "max", "a/memory.high": "max"},
        8,
        64 * GB,
    ),
    "v2, own limits, part of a CPU is one": (
        "0::/a/b",
        [V2_MOUNT],
        {"a/b/cpu.max": "150000 100000", "a/b/memory.max": f"{2 * GB}"},
        2,
        2 * GB,
    ),
    "v2, less than one CPU": ("0::/a", [V2_MOUNT], {"a/cpu.max": "1000 100000"}, 1, 64 * GB),
    "v2, an ancestor's limits are the smaller ones": (
        "0::/a/b/c",
        [V2_MOUNT],
        {
            "a/b/c/memory.max": f"{8 * GB}",
            "a/memory.max": f"{4 * GB}",
            "a/b/c/cpu.max": "600000 100000",
            "a/cpu.max": "300000 100000",
        },
        3,
        4 * GB,
    ),
    "v2, in a namespace the limits are at the mount itself": (
        "0::/",
        [V2_MOUNT],
        {"cpu.max": "200000 100000", "memory.max": f"{GB}"},
        2,
        GB,
    ),
    "v2, high counts as well": (
        "0::/a",
        [V2_MOUNT],
        {"a/memory.max": "max", "a/memory.high": f"{GB}"},
        8,
        GB,
    ),
    "v2, a mount of someone else's group": (
        "0::/a",
        [V2_MOUNT.replace(" / /sys", " /b /sys")],
        {"memory.max": f"{GB}", "cpu.max": "100000 100000"},
        8,
        64 * GB,
    ),
    "v2, a mount that was made outside the namespace": (
        "0::/",
        [V2_MOUNT.replace(" / /sys", " /../.. /sys")],
        {"memory.max": f"{GB}"},
        8,
        GB,
    ),
    "v2, a group outside the namespace": ("0::/../x", [V2_MOUNT], {"memory.max": f"{GB}"}, 8, 64 * GB),
    "v1, own and ancestors": (
        "4:memory:/a/b\n1:cpu,cpuacct:/a/b\n0::/",
        [V1_MEMORY.format(root="/"), V1_CPU.format(root="/")],
        {
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/a/memory.limit_in_bytes": f"{3 * GB}",
            "memory/a/b/memory.limit_in_bytes": f"{5 * GB}",
            "cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
            "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000",
        },
        3,
        3 * GB,
    ),
    "v1, in a container that sees the host's path": (
        "4:memory:/docker/0a\n1:cpu,cpuacct:/docker/0a",
        [V1_MEMORY.format(root="/docker/0a"), V1_CPU.format(root="/docker/0a")],
        {
            "memory/memory.limit_in_bytes": f"{GB}",
            "cpu,cpuacct/cpu.cfs_quota_us": "100000",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        1,
        GB,
    ),
    "both, the limits in version 1": (
        "4:memory:/a\n0::/b",
        [V1_MEMORY.format(root="/"), V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")],
        {"memory/a/memory.limit_in_bytes": f"{6 * GB}", "unified/b/cpu.max": "400000 100000"},
        4,
        6 * GB,
    ),
    "a blank in the path of the mount": (
        "0::/a",
        [V2_MOUNT.replace("/sys/fs/cgroup", "/sys/fs/cgroup/my\\040groups")],
        {"my groups/a/memory.max": f"{GB}"},
        8,
        GB,
    ),
    "nonsense in every file": (
        "x\n\n0::/a\n9",
        [V2_MOUNT, "", "1 2 3", "- - -"],
        {"a/cpu.max": "fast", "cpu.max": "0 0", "a/memory.max": "-1", "memory.max": "lots"},
        8,
        64 * GB,
    ),
}


def tree(root: Path, groups: str, mounts: list[str], files: dict[str, str]) -> Path:
    """Lay out a made-up machine under a directory."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(groups + "\n")
    (proc / "mountinfo").write_text("\n".join(["23 1 8:1 / / rw - ext4 /dev/sda1 rw", *mounts]) + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize("name", CASES)
def test_limits_of_control_groups_count(tmp_path: Path, name: str) -> None:
    groups, mounts, files, cpus, memory_bytes = CASES[name]
    root = tree(tmp_path, groups, mounts, files)
    assert usable_cpus(root, affinity=8) == cpus
    assert usable_memory_bytes(root, total=64 * GB) == memory_bytes


def test_the_machine_itself_bounds_a_larger_limit(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/", [V2_MOUNT], {"cpu.max": "900000 100000", "memory.max": f"{9 * GB}"})
    assert usable_cpus(root, affinity=2) == 2
    assert usable_memory_bytes(root, total=GB) == GB


def test_without_proc_the_machine_is_all_there_is(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, affinity=3) == 3
    assert usable_memory_bytes(tmp_path, total=GB) == GB


def test_this_machine_gives_something() -> None:
    assert usable_cpus() >= 1
    assert usable_memory_bytes() >= 1 << 20
