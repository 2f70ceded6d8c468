"""Changes and their undoing: after a crash at any step, a refusal, another process, with a damaged record."""

import errno
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_helpers import (
    BOOT_ID,
    DROP_IN,
    PUBLISHED,
    Memory,
    as_nobody,
    changed,
    contents,
    directory_in_memory,
    every_step,
    in_child,
    is_killed_at,
    make_files,
    make_read_only,
    memory_path,
    namespaced,
    needs_cookies,
    new_network,
    plan_of,
    rows_of,
    tune,
)

from fastkv.errors import TuningError
from fastkv.kernel.profile import PROFILES, load
from fastkv.kernel.sysctl import Tree, network_namespace, parse_conf, path_of
from fastkv.kernel.tuning import PERSISTED, Change, Outcome, Tuner

tmp_path = memory_path

SOMAXCONN = "net.core.somaxconn"
RESERVED = "net.ipv4.ip_local_reserved_ports"
RANGE = "net.ipv4.ip_local_port_range"
WORSE: dict[str, str | None] = {
    "tcp_rmem": "4096\t87380\t33554432",
    "tcp_syncookies": "0",
    "ip_local_reserved_ports": "80,7172",
}
WRITTEN = {
    "net.core.somaxconn": ("4096", "16384"),
    "net.core.netdev_max_backlog": ("1000", "4096"),
    "net.ipv4.tcp_max_syn_backlog": ("2048", "16384"),
    "net.ipv4.tcp_syncookies": ("0", "1"),
    "net.ipv4.tcp_fin_timeout": ("60", "30"),
    "net.ipv4.tcp_rmem": ("4096 87380 33554432", "4096 131072 33554432"),
    "net.ipv4.ip_local_reserved_ports": ("80,7172", "80,7171-7172"),
}
"""What the recommended profile makes of a machine that is `WORSE`."""


def table(changes: list[Change]) -> dict[str, tuple[str | None, str | None]]:
    return {change.name: (change.before, change.after) for change in changes}


def outcomes(changes: list[Change]) -> dict[str, Outcome]:
    return {change.name: change.outcome for change in changes}


def record_of(state: Path, boot_id: str = BOOT_ID) -> dict[str, Any]:
    """The entries on disk, by what they belong to."""
    found = json.loads((state / f"tuning-{boot_id}.json").read_text())["spaces"]
    assert isinstance(found, dict)
    return found


def write_record(state: Path, entries: object, space: str = "global") -> None:
    state.mkdir(exist_ok=True)
    text = json.dumps({"format": 1, "spaces": {space: entries}})
    (state / f"tuning-{BOOT_ID}.json").write_text(text)


# -- applied and undone --------------------------------------------------------------------------------------


def test_a_profile_is_applied_once_and_undone(tmp_path: Path) -> None:
    tree = make_files(tmp_path, **WORSE)
    before = contents(tree)
    tuner = Tuner(tree, tmp_path / "state")
    changes = tuner.apply(plan_of(tree))
    assert table(changes) == WRITTEN
    assert set(outcomes(changes).values()) == {Outcome.CHANGED}
    assert contents(tree) == before | {name: after for name, (_, after) in WRITTEN.items()}
    record = record_of(tmp_path / "state")
    assert set(record) == {"global", network_namespace()}
    assert set(record["global"]) == {"net.core.netdev_max_backlog"}
    assert tuner.apply(plan_of(tree)) == []
    assert record_of(tmp_path / "state") == record
    undone = tuner.revert()
    assert table(undone) == {name: (after, was) for name, (was, after) in WRITTEN.items()}
    assert set(outcomes(undone).values()) == {Outcome.RESTORED}
    assert contents(tree) == before
    assert tuner.revert() == []
    assert os.listdir(tmp_path / "state") == ["tuning.lock"]


def test_what_was_written_last_is_undone_first(tmp_path: Path) -> None:
    tree = Memory()
    tuner = Tuner(tree, tmp_path)
    tuner.apply(plan_of(tree, "ultrafast"))
    written = [path for path in tree.written if path.startswith("proc/sys/net/ipv4/ip")]
    tree.written.clear()
    tuner.revert()
    assert [path for path in tree.written if path.startswith("proc/sys/net/ipv4/ip")] == written[::-1]


def test_a_start_that_fails_undoes_its_own_changes(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "machine", **WORSE)
    before = contents(tree)
    tuner = Tuner(tree, tmp_path / "state")
    changes = tuner.apply(plan_of(tree))
    undone = tuner.undo(changes)
    assert [change.name for change in undone] == [change.name for change in reversed(changes)]
    assert set(outcomes(undone).values()) == {Outcome.RESTORED}
    assert contents(tree) == before
    assert sorted(path.name for path in tmp_path.glob("state/*")) == ["tuning.lock"]
    assert tuner.revert() == []


def test_a_start_that_fails_leaves_what_an_earlier_one_changed(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "machine", **WORSE)
    before = contents(tree)
    tuner = Tuner(tree, tmp_path / "state")
    tuner.apply(plan_of(tree))
    between, recorded = contents(tree), record_of(tmp_path / "state")
    changes = tuner.apply(plan_of(tree, "ultrafast"))
    assert len(changes) > 5
    tuner.undo(changes)
    assert contents(tree) == between
    # The originals of the first start are still on record.
    after = record_of(tmp_path / "state")
    for space, entries in recorded.items():
        assert {name: after[space][name]["original"] for name in entries} == {
            name: entry["original"] for name, entry in entries.items()
        }
    tuner.revert()
    assert contents(tree) == before


def test_a_start_that_fails_leaves_what_was_changed_since(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "machine", **WORSE)
    tuner = Tuner(tree, tmp_path / "state")
    changes = tuner.apply(plan_of(tree))
    tree.write(path_of(SOMAXCONN), "30000")
    assert outcomes(tuner.undo(changes))[SOMAXCONN] is Outcome.LEFT
    assert tree.read(path_of(SOMAXCONN)) == "30000"


def test_undo_of_no_change_makes_no_record(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "machine")
    tuner = Tuner(tree, tmp_path / "state")
    same = Change(SOMAXCONN, "4096", "4096", Outcome.FAILED, "the kernel did not take it.")
    assert tuner.undo([same]) == []
    assert not (tmp_path / "state").exists()


def test_the_originals_outlive_another_profile(tmp_path: Path) -> None:
    tree = make_files(tmp_path, **WORSE)
    before = contents(tree)
    tuner = Tuner(tree, tmp_path / "state")
    for profile in ("recommended", "ultrafast", "recommended", "ultrafast"):
        tuner.apply(plan_of(tree, profile))
    assert tree.read(path_of(SOMAXCONN)) == "131072"
    tuner.revert()
    assert contents(tree) == before


@pytest.mark.parametrize("profile", PROFILES)
@namespaced
def test_the_kernel_is_tuned_and_put_back_for_real(tmp_path: Path, profile: str) -> None:
    tree = Tree()
    for name, value in ((RESERVED, "80,9000-9100"), ("net.ipv4.tcp_wmem", "4096 8192 9000000")):
        tree.write(path_of(name), value)
    names = [s.name for s in load(profile).settings if s.name.startswith("net")]
    before = {name: tree.read(path_of(name)) for name in names}
    flags = ("--profile", profile, "--state-dir", tmp_path)

    assert tune("--check", *flags).code == 1
    first = tune("--apply", "--json", *flags)
    assert (first.code, first.err) == (0, "")
    now = {name: tree.read(path_of(name)) for name in names}
    assert now != before
    different = {name for name in names if now[name] != before[name]}
    assert changed(first.json) == {name: (before[name], now[name]) for name in different}
    assert now[RESERVED] == "80,7171,9000-9100"
    assert different >= {SOMAXCONN, RESERVED, "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_wmem"}
    if profile == "ultrafast":
        for name in set(PUBLISHED) & set(names) - {"net.ipv4.tcp_tw_recycle"}:
            assert now[name] in (PUBLISHED[name], None)
        assert {note for note in first.json["notes"] if note.startswith("Risky, ")}
    else:
        assert now["net.ipv4.tcp_wmem"] == "4096 16384 9000000"
    # fs.file-max is read-only here, and not what ultrafast wants.
    assert tune("--check", *flags).code == (1 if profile == "ultrafast" else 0)

    second = tune("--apply", "--json", *flags)
    assert (second.code, second.json["changes"]) == (0, [])
    record = record_of(tmp_path, tree.boot_id())
    assert record.keys() == {network_namespace()}
    assert {name: entry["original"] for name, entry in record[network_namespace()].items()} == {
        name: before[name] for name in different
    }
    undone = tune("--revert", "--json", *flags)
    assert undone.code == 0
    assert {name: tree.read(path_of(name)) for name in names} == before
    assert {change["outcome"] for change in undone.json["changes"]} == {"restored"}
    assert tune("--revert", "--json", *flags).json["changes"] == []


@namespaced
def test_another_namespace_neither_sees_nor_undoes_what_was_changed_in_this_one(tmp_path: Path) -> None:
    tree = Tree()
    tune("--apply", "--state-dir", tmp_path)
    before = record_of(tmp_path, tree.boot_id())

    def elsewhere() -> None:
        new_network()
        fresh = tree.read(path_of(SOMAXCONN))
        assert fresh == "4096"
        assert tune("--revert", "--state-dir", tmp_path, "--json").json["changes"] == []
        tree.write(path_of(SOMAXCONN), "16384")
        assert tune("--revert", "--state-dir", tmp_path, "--json").json["changes"] == []
        assert tree.read(path_of(SOMAXCONN)) == "16384"
        assert record_of(tmp_path, tree.boot_id()) == before
        # It may have a record of its own beside it.
        tree.write(path_of(SOMAXCONN), "128")
        assert tune("--apply", "--state-dir", tmp_path).code == 0
        assert len(record_of(tmp_path, tree.boot_id())) == 2
        assert tune("--revert", "--state-dir", tmp_path).code == 0
        assert tree.read(path_of(SOMAXCONN)) == "128"

    in_child(elsewhere)
    assert record_of(tmp_path, tree.boot_id()) == before
    assert tree.read(path_of(SOMAXCONN)) == "16384"
    assert tune("--revert", "--state-dir", tmp_path).code == 0
    assert tree.read(path_of(SOMAXCONN)) == "4096"


@needs_cookies
@namespaced
def test_a_namespace_whose_inode_is_used_again_is_another_one(tmp_path: Path) -> None:
    inodes: list[int] = []
    (tmp_path / "x").touch()

    def first() -> None:
        new_network()
        assert tune("--apply", "--state-dir", tmp_path).code == 0
        os.truncate(tmp_path / "x", os.stat("/proc/self/ns/net").st_ino)

    def later() -> None:
        new_network()
        assert Tree().read(path_of(SOMAXCONN)) == "4096"
        Tree().write(path_of(SOMAXCONN), "16384")  # as if by an administrator
        assert tune("--revert", "--state-dir", tmp_path, "--json").json["changes"] == []
        assert Tree().read(path_of(SOMAXCONN)) == "16384"
        os.truncate(tmp_path / "x", os.stat("/proc/self/ns/net").st_ino)

    in_child(first)
    inodes.append((tmp_path / "x").stat().st_size)
    for _ in range(50):  # the kernel gives a number again when it likes, mostly at once
        in_child(later)
        inodes.append((tmp_path / "x").stat().st_size)
        if inodes[0] == inodes[-1]:
            break


def test_a_setting_of_the_machine_that_is_not_here_stays_on_record(tmp_path: Path) -> None:
    tree = make_files(tmp_path)
    name = "net.core.netdev_max_backlog"
    Tuner(tree, tmp_path / "state").apply(plan_of(tree))
    before = record_of(tmp_path / "state")["global"]
    assert name in before
    path = tmp_path / path_of(name)
    path.rename(tmp_path / "elsewhere")
    container = Tuner(tree, tmp_path / "state", "cookie-1")
    (change,) = container.revert()
    assert (change.name, change.outcome, change.after) == (name, Outcome.LEFT, None)
    assert record_of(tmp_path / "state")["global"] == before
    (tmp_path / "elsewhere").rename(path)
    assert outcomes(Tuner(tree, tmp_path / "state").revert())[name] is Outcome.RESTORED
    assert tree.read(path_of(name)) == "1000"


def test_what_somebody_else_has_changed_since_is_left(tmp_path: Path) -> None:
    tree = make_files(tmp_path)
    tuner = Tuner(tree, tmp_path / "state")
    tuner.apply(plan_of(tree))
    tree.write(path_of(SOMAXCONN), "20000")
    changes = tuner.revert()
    assert outcomes(changes).pop(SOMAXCONN) is Outcome.LEFT
    assert set(outcomes(changes).values()) == {Outcome.LEFT, Outcome.RESTORED}
    assert tree.read(path_of(SOMAXCONN)) == "20000"
    (left,) = (change for change in changes if change.outcome is Outcome.LEFT)
    assert str(left) == f"{SOMAXCONN} stays 20000: it was changed by somebody else since."
    assert tuner.revert() == []


def test_a_plan_that_is_out_of_date_lowers_nothing_and_buries_no_original(tmp_path: Path) -> None:
    """Another process applies, or undoes, between the judgement and the lock."""
    tree = make_files(tmp_path)
    tuner = Tuner(tree, tmp_path / "state")
    stale = plan_of(tree)
    Tuner(tree, tmp_path / "other").apply(plan_of(tree, "ultrafast"))
    tuner.apply(stale)
    assert tree.read(path_of(SOMAXCONN)) == "131072"
    tuner.revert()
    Tuner(tree, tmp_path / "other").revert()
    assert tree.read(path_of(SOMAXCONN)) == "4096"

    tuner.apply(plan_of(tree))
    stale = plan_of(tree, "ultrafast")
    assert rows_of(stale)[SOMAXCONN].current == "16384"
    tuner.revert()
    tuner.apply(stale)
    tuner.revert()
    assert tree.read(path_of(SOMAXCONN)) == "4096"


@namespaced
def test_two_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    tree = Tree()
    before = tree.read(path_of(SOMAXCONN))
    for _ in range(5):
        pids = []
        for profile in (*PROFILES, *PROFILES):
            pid = os.fork()
            if not pid:
                try:
                    os._exit(tune("--apply", "--profile", profile, "--state-dir", tmp_path).code)
                finally:
                    os._exit(17)
            pids.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
        assert tree.read(path_of(SOMAXCONN)) == "131072"
        assert tune("--revert", "--state-dir", tmp_path).code == 0
        assert tree.read(path_of(SOMAXCONN)) == before


# -- crashes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_a_crash_at_any_step_of_applying_can_be_undone(tmp_path: Path, profile: str) -> None:
    step, partial = 0, 0
    while True:
        root, state = tmp_path / str(step), tmp_path / str(step) / "state"
        tree = make_files(root, **WORSE)
        before = contents(tree)
        tuner = Tuner(tree, state)
        killed = is_killed_at(step, lambda: tuner.apply(plan_of(tree, profile)))  # noqa: B023
        crashed = contents(tree)
        if crashed != before:
            originals = {
                name: entry["original"]
                for space in record_of(state).values()
                for name, entry in space.items()
            }
            assert {name for name in crashed if crashed[name] != before[name]} <= originals.keys()
            partial += 1
        if step % 2:  # who tries again buries nothing
            tuner.apply(plan_of(tree, profile))
        tuner.revert()
        assert contents(tree) == before, f"killed at step {step}"
        assert tuner.revert() == []
        tuner.apply(plan_of(tree, profile))
        tuner.revert()
        assert os.listdir(state) == ["tuning.lock"]
        if not killed:
            break
        step += 1
    assert partial > len(WRITTEN)


def test_a_crash_at_any_step_of_undoing_can_be_undone(tmp_path: Path) -> None:
    step = 0
    while True:
        root, state = tmp_path / str(step), tmp_path / str(step) / "state"
        tree = make_files(root, **WORSE)
        before = contents(tree)
        tuner = Tuner(tree, state)
        tuner.apply(plan_of(tree))
        killed = is_killed_at(step, tuner.revert)
        tuner.revert()
        assert contents(tree) == before, f"killed at step {step}"
        assert tuner.revert() == []
        if not killed:
            break
        step += 1
    assert step > 2 * len(WRITTEN)


@namespaced
def test_a_crash_at_any_step_is_undone_for_real(tmp_path: Path) -> None:
    tree = Tree()
    tree.write(path_of(RESERVED), "80,7172")
    names = [s.name for s in load("ultrafast").settings if s.name.startswith("net")]
    before = {name: tree.read(path_of(name)) for name in names}
    step = 0
    while is_killed_at(step, lambda: tune("--apply", "--profile", "ultrafast", "--state-dir", tmp_path)):
        undone = tune("--revert", "--state-dir", tmp_path, "--json")
        assert undone.code == 0
        assert {change["outcome"] for change in undone.json["changes"]} <= {"restored"}
        assert {name: tree.read(path_of(name)) for name in names} == before, f"killed at step {step}"
        step += 1
    assert step > 2 * 12
    tune("--revert", "--state-dir", tmp_path)
    assert {name: tree.read(path_of(name)) for name in names} == before


def test_the_originals_are_on_disk_before_the_first_write(tmp_path: Path) -> None:
    tree = make_files(tmp_path, **WORSE)
    steps: list[str] = []
    first: dict[str, Any] = {}

    def step(name: str) -> None:
        steps.append(name)
        if name == "before write" and not first:
            first.update(record_of(tmp_path / "state"))

    with every_step(step):
        Tuner(tree, tmp_path / "state").apply(plan_of(tree))
    noted = {name: entry["original"] for space in first.values() for name, entry in space.items()}
    assert noted == {name: was for name, (was, _) in WRITTEN.items()}
    # Through to the disk: the file, its name, then the settings.
    until = steps[: steps.index("before write")]
    assert [name for name in until if name.endswith(("fsync", "replace"))] == [
        "before fsync", "after fsync", "before replace", "after replace", "before fsync", "after fsync",
    ]  # fmt: skip


@namespaced
def test_ctrl_c_in_the_middle_is_no_traceback_and_can_be_undone(tmp_path: Path) -> None:
    tree = Tree()
    before = tree.read(path_of(SOMAXCONN)), tree.read(path_of(RESERVED))
    writes = 0

    def step(name: str) -> None:
        nonlocal writes
        writes += name == "after write"
        if writes == 2:
            writes += 1
            os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    with every_step(step):
        ran = tune("--apply", "--state-dir", tmp_path)
    assert ran.code not in (0, 2)
    assert "Traceback" not in ran.err
    assert tree.read(path_of(SOMAXCONN)) == "16384"
    assert tree.read(path_of(RESERVED)) == before[1]
    assert tune("--revert", "--state-dir", tmp_path).code == 0
    assert (tree.read(path_of(SOMAXCONN)), tree.read(path_of(RESERVED))) == before


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_refusal_keeps_nobody_from_the_rest(tmp_path: Path, profile: str, number: int) -> None:
    names = [row.name for row in plan_of(Memory(), profile).rows if row.writes]
    for name in names:
        tree = Memory()
        before = dict(tree.values)
        tree.refused = {path_of(name): number}
        tuner = Tuner(tree, tmp_path)
        changes = tuner.apply(plan_of(tree, profile))
        assert outcomes(changes) == {
            other: Outcome.FAILED if other == name else Outcome.CHANGED for other in names
        }
        (failed,) = (change for change in changes if change.outcome is Outcome.FAILED)
        assert failed.before == failed.after == tree.named(name)
        assert f"the kernel did not take {rows_of(plan_of(Memory(), profile))[name].wanted} (" in str(failed)
        assert os.strerror(number) in str(failed)
        assert not any(name in space for space in record_of(tmp_path).values())
        tuner.revert()
        assert tree.values == before


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_read_back_differently_is_told_and_undone(tmp_path: Path, profile: str) -> None:
    for name in [row.name for row in plan_of(Memory(), profile).rows if row.writes]:
        tree = Memory()
        before = dict(tree.values)
        tree.clamped = {path_of(name): "5 5 5" if "mem" in name else "5 6" if name == RANGE else "59"}
        tuner = Tuner(tree, tmp_path)
        (failed,) = (c for c in tuner.apply(plan_of(tree, profile)) if c.outcome is Outcome.FAILED)
        assert failed.name == name
        assert str(failed).endswith("was written, but this is what is read back.")
        tree.clamped.clear()
        assert tuner.revert()
        assert tree.values == before


def test_what_the_kernel_improves_on_is_no_failure(tmp_path: Path) -> None:
    tree = Memory()
    before = dict(tree.values)
    tree.clamped = {path_of(SOMAXCONN): "20000", path_of(RESERVED): "7000-8000"}
    tuner = Tuner(tree, tmp_path)
    assert set(outcomes(tuner.apply(plan_of(tree))).values()) == {Outcome.CHANGED}
    tree.clamped.clear()
    tuner.revert()
    assert tree.values == before


@namespaced
def test_a_real_refusal_is_exit_1_and_the_rest_is_done_and_undone(tmp_path: Path) -> None:
    tree = Tree()
    # The kernel then refuses a range of ports that begins below it.
    tree.write(path_of("net.ipv4.ip_unprivileged_port_start"), "2000")
    before = tree.read(path_of(SOMAXCONN)), tree.read(path_of(RANGE))
    ran = tune("--apply", "--profile", "ultrafast", "--state-dir", tmp_path, "--json")
    assert (ran.code, ran.json["ok"]) == (1, False)
    failed = [change for change in ran.json["changes"] if change["outcome"] != "changed"]
    assert [(change["name"], change["outcome"]) for change in failed] == [(RANGE, "failed")]
    assert failed[0]["reason"] == "the kernel did not take 1024 65535 (Invalid argument)."
    assert tree.read(path_of(SOMAXCONN)) == "131072"
    text = tune("--apply", "--profile", "ultrafast", "--state-dir", tmp_path)
    assert text.code == 1
    assert f"{RANGE} stays 32768 60999: the kernel did not take 1024 65535 (Invalid argument).\n" in text.out
    assert tune("--revert", "--state-dir", tmp_path).code == 0
    assert (tree.read(path_of(SOMAXCONN)), tree.read(path_of(RANGE))) == before


def test_what_cannot_be_restored_stays_on_record_for_the_next_try(tmp_path: Path) -> None:
    tree = Memory()
    before = dict(tree.values)
    tuner = Tuner(tree, tmp_path)
    tuner.apply(plan_of(tree))
    tree.refused = {path_of(SOMAXCONN): errno.EROFS}
    assert outcomes(tuner.revert())[SOMAXCONN] is Outcome.FAILED
    assert [set(space) for space in record_of(tmp_path).values()] == [{SOMAXCONN}]
    tree.refused, tree.clamped = {}, {path_of(SOMAXCONN): "17"}
    assert outcomes(tuner.revert()) == {SOMAXCONN: Outcome.FAILED}
    tree.clamped = {}
    tree.values[path_of(SOMAXCONN)] = "16384"
    assert outcomes(tuner.revert()) == {SOMAXCONN: Outcome.RESTORED}
    assert tree.values == before


def test_without_a_record_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tree = Memory()
    for profile in PROFILES:
        with pytest.raises(TuningError, match="without that nothing is changed"):
            Tuner(tree, tmp_path / "file/state").apply(plan_of(tree, profile))
    assert tree.written == []


def test_a_disk_that_is_full_after_the_first_write_keeps_the_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Memory()
    before = dict(tree.values)
    tree.refused = {path_of("net.ipv4.tcp_fin_timeout"): errno.EINVAL}
    tree.clamped = {path_of(SOMAXCONN): "5"}
    tuner = Tuner(tree, tmp_path)
    real = os.fsync

    def full(descriptor: int) -> None:
        if tree.written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    changes = tuner.apply(plan_of(tree))
    assert list(outcomes(changes).values()).count(Outcome.FAILED) == 2
    monkeypatch.undo()
    tree.values[path_of(SOMAXCONN)] = "16384"
    tree.refused, tree.clamped = {}, {}
    tuner.revert()
    assert tree.values == before


@namespaced
def test_a_state_directory_that_cannot_be_written_is_one_sentence_and_exit_1(tmp_path: Path) -> None:
    tree = Tree()
    before = tree.read(path_of(SOMAXCONN))
    make_read_only(str(tmp_path))
    for flags in (("--apply",), ("--apply", "--json"), ("--apply", "--persist")):
        ran = tune(*flags, "--state-dir", tmp_path / "state")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == (
            f"fastkv: --state-dir: what the settings were cannot be recorded in '{tmp_path}/state' "
            "(Read-only file system); without that nothing is changed.\n"
        )
    assert tree.read(path_of(SOMAXCONN)) == before
    assert not DROP_IN.exists()


# -- records that others wrote -------------------------------------------------------------------------------

ODD_ENTRIES: list[tuple[str, Any]] = [
    ("../../../etc/passwd", {"original": "1", "ours": ["0"]}),
    ("kernel.core_pattern", {"original": "|/bin/sh", "ours": ["core"]}),
    ("kernel.core_pattern", {"original": "1", "ours": ["core"]}),
    (SOMAXCONN, {"original": "1\n2", "ours": ["4096"]}),
    (SOMAXCONN, {"original": "|/bin/sh", "ours": ["4096"]}),
    (SOMAXCONN, {"original": "1 " * 300_000, "ours": ["4096"]}),
    (SOMAXCONN, {"original": "\ud800", "ours": ["4096"]}),
    (SOMAXCONN, {"original": "٣", "ours": ["4096"]}),
    ("net.ipv4.tcp_tw_recycle", {"original": "1", "ours": ["0"]}),
    ("vm.overcommit_memory", {"original": "2", "ours": ["0"]}),
    ("fs.nr_open", {"original": "64", "ours": ["1048576"]}),
    ("transparent_hugepage.shmem_enabled", {"original": "force", "ours": ["never"]}),
    ("nofile", {"original": "1", "ours": []}),
]


@pytest.mark.parametrize(("name", "entry"), ODD_ENTRIES)
def test_a_record_that_others_wrote_changes_only_what_could_have_been_changed(
    tmp_path: Path, name: str, entry: Any
) -> None:
    root = tmp_path / "root"
    make_files(root)
    for path, value in (("etc/passwd", "root"), ("proc/sys/kernel/core_pattern", "core")):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(value)
    (root / path_of("net.ipv4.tcp_tw_recycle")).write_text("0\n")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for space in ("global", network_namespace()):
        write_record(tmp_path / "state", {name: entry}, space)
        ran = tune("--revert", "--json", "--root", root, "--state-dir", tmp_path / "state")
        if ran.out:
            (change,) = ran.json["changes"]
            assert change["outcome"] == "left"
            assert ran.err == ""
        else:
            assert ran.code == 1
            assert ran.err.count("\n") == 1
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
        # To a person, the same in words.
        assert tune("--revert", "--root", root, "--state-dir", tmp_path / "state").out.isascii()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.one_of(
    JSON,
    st.fixed_dictionaries({"format": st.just(1), "spaces": JSON}),
    st.fixed_dictionaries(
        {
            "format": st.just(1),
            "spaces": st.fixed_dictionaries(
                {
                    "global": st.dictionaries(
                        st.sampled_from([SOMAXCONN, "fs.file-max", "a"]), JSON, max_size=2
                    )
                }
            ),
        }
    ),
)


@settings(max_examples=100, deadline=None)
@given(record=RECORDS)
def test_no_record_is_a_traceback(record: Any) -> None:
    tree = Memory()
    with directory_in_memory() as state:
        (state / f"tuning-{BOOT_ID}.json").write_text(json.dumps(record))
        told = ""
        try:
            Tuner(tree, state).revert()
        except TuningError as error:
            told = str(error)
    assert told.isprintable()
    assert tree.written == []


# -- for every boot ------------------------------------------------------------------------------------------


def test_the_file_for_every_boot_has_what_was_changed_and_no_more(tmp_path: Path) -> None:
    tree = make_files(tmp_path, **WORSE)
    tuner = Tuner(tree, tmp_path / "state")
    path = tuner.persist(plan_of(tree))
    assert path == tmp_path / PERSISTED
    text = path.read_text()
    assert parse_conf(text) == {name: after for name, (_, after) in WRITTEN.items()}
    # What a namespace does not have may fail.
    assert [line for line in text.splitlines() if line.startswith("-")] == [
        "-net.core.netdev_max_backlog = 4096"
    ]
    assert contents(tree) == contents(make_files(tmp_path / "again", **WORSE))
    assert tuner.unpersist() == path
    assert not path.exists()
    assert tuner.unpersist() is None


def test_the_file_can_be_written_before_or_after_applying_and_again(tmp_path: Path) -> None:
    tree = make_files(tmp_path, **WORSE)
    tuner = Tuner(tree, tmp_path / "state")
    first = tuner.persist(plan_of(tree)).read_text()
    tuner.apply(plan_of(tree))
    assert tuner.persist(plan_of(tree)).read_text() == first
    tuner.unpersist()
    assert tuner.persist(plan_of(tree)).read_text() == first
    # After a boot from it: no record, nothing to change, and still all of it.
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    assert tuner.persist(plan_of(tree)).read_text() == first


def test_ultrafast_for_every_boot_is_the_list_without_what_is_gone(tmp_path: Path) -> None:
    tree = make_files(tmp_path)
    values = parse_conf(Tuner(tree, tmp_path / "state").persist(plan_of(tree, "ultrafast")).read_text())
    wanted = {**PUBLISHED, RESERVED: "7171"}
    del wanted["net.ipv4.tcp_tw_recycle"]
    assert values == wanted


@namespaced
def test_it_is_written_where_every_boot_reads_it_and_removed_again(tmp_path: Path) -> None:
    ran = tune("--apply", "--persist", "--state-dir", tmp_path, "--json")
    assert (ran.code, ran.json["persisted"]) == (0, str(DROP_IN))
    assert stat.S_IMODE(DROP_IN.stat().st_mode) == 0o644
    assert os.listdir(DROP_IN.parent) == [DROP_IN.name]
    values = parse_conf(DROP_IN.read_text())
    assert values.items() >= {name: after for name, (_, after) in changed(ran.json).items()}.items()
    gone = tune("--revert", "--state-dir", tmp_path, "--json")
    assert (gone.code, gone.json["persisted"]) == (0, str(DROP_IN))
    assert f"{DROP_IN} is removed." in gone.json["notes"]
    assert os.listdir(DROP_IN.parent) == []
    # Alone it writes the file and no setting.
    assert tune("--persist", "--state-dir", tmp_path).code == 0
    assert parse_conf(DROP_IN.read_text()) == values
    assert Tree().read(path_of(SOMAXCONN)) == "4096"
    assert not list(tmp_path.glob("tuning-*"))


FOREIGN = f"'{DROP_IN}' was not written by fastkv; it is left alone."


@namespaced
def test_a_file_of_that_name_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    for content in ("net.core.somaxconn = 1\n", "", "# Mine\n", "\xff"):
        DROP_IN.write_text(content, encoding="latin-1")
        alone = tune("--persist", "--state-dir", tmp_path)
        assert (alone.code, alone.out, alone.err) == (1, "", f"fastkv: {FOREIGN}\n")
        # What was changed and restored is told all the same.
        both = tune("--apply", "--persist", "--state-dir", tmp_path, "--json")
        assert (both.code, both.json["ok"], both.json["persisted"]) == (1, False, None)
        assert FOREIGN in both.json["notes"]
        assert changed(both.json)[SOMAXCONN] == ("4096", "16384")
        undone = tune("--revert", "--state-dir", tmp_path, "--json")
        assert undone.code == 1
        assert FOREIGN in undone.json["notes"]
        assert changed(undone.json)[SOMAXCONN] == ("16384", "4096")
        assert DROP_IN.read_text(encoding="latin-1") == content


@namespaced
def test_what_is_no_file_there_is_a_sentence(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for link in ("/dev/null", None, DROP_IN):  # the first is how a file is switched off
        if link is None:
            DROP_IN.mkdir()
        else:
            DROP_IN.symlink_to(link)
        before = os.lstat(DROP_IN)
        for flag in ("--persist", "--revert"):
            ran = tune(flag, "--state-dir", tmp_path)
            assert ran.code == 1
            assert "Traceback" not in ran.err
        after = os.lstat(DROP_IN)  # but for the time of the last access: it was looked at
        assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
            before.st_ino,
            before.st_mode,
            before.st_mtime_ns,
        )
        DROP_IN.rmdir() if stat.S_ISDIR(before.st_mode) else DROP_IN.unlink()
    # A link to nowhere, and one that the new file would have been written through.
    target.write_text("precious")
    DROP_IN.symlink_to(tmp_path / "nowhere")
    DROP_IN.with_name(f".{DROP_IN.name}.{os.getpid()}").symlink_to(target)
    assert tune("--persist", "--state-dir", tmp_path).code == 0
    assert target.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert not DROP_IN.is_symlink()


@namespaced
def test_a_read_only_etc_is_a_sentence_and_what_was_changed_is_told(tmp_path: Path) -> None:
    assert tune("--persist", "--state-dir", tmp_path).code == 0
    make_read_only("/etc/sysctl.d")
    told = f"--persist: '{DROP_IN}' cannot be written (Read-only file system)."
    ran = tune("--persist", "--state-dir", tmp_path)
    assert (ran.code, ran.err) == (1, f"fastkv: {told}\n")
    both = tune("--apply", "--persist", "--state-dir", tmp_path, "--json")
    assert (both.code, changed(both.json)[SOMAXCONN]) == (1, ("4096", "16384"))
    assert told in both.json["notes"]
    undone = tune("--revert", "--state-dir", tmp_path, "--json")
    assert (undone.code, changed(undone.json)[SOMAXCONN]) == (1, ("16384", "4096"))
    assert f"'{DROP_IN}' cannot be removed (Read-only file system)." in undone.json["notes"]


@namespaced
def test_an_unprivileged_user_gets_sentences(tmp_path: Path) -> None:
    def look() -> None:
        state = "/var/lib/mine"
        assert tune("--state-dir", state).code == 0
        applied = tune("--apply", "--state-dir", state, "--json")
        assert (applied.code, applied.json["changes"]) == (0, [])
        assert tune("--check", "--state-dir", state).code == 1
        refused = tune("--persist", "--state-dir", state)
        assert (refused.code, refused.err.count("\n")) == (1, 1)
        assert "Permission denied" in refused.err
        assert tune("--revert", "--state-dir", state).code == 0
        hidden = tune("--revert", "--state-dir", "/var/lib/hidden")
        assert (hidden.code, hidden.err.count("\n")) == (1, 1)
        assert "Permission denied" in hidden.err

    for name, mode in (("mine", 0o777), ("hidden", 0o700)):
        os.mkdir(f"/var/lib/{name}")
        os.chmod(f"/var/lib/{name}", mode)
    for form in ((), ("--json",)):  # what is imported on the way may be out of that user's reach
        assert tune("--state-dir", tmp_path, *form).code == 0
    as_nobody(look)


@namespaced
def test_a_killed_write_leaves_no_half_file(tmp_path: Path) -> None:
    step = 0
    while is_killed_at(step, lambda: tune("--persist", "--state-dir", tmp_path)):
        assert not DROP_IN.exists() or DROP_IN.read_text().endswith("\n")
        step += 1
        # What is left behind is not read at boot: only names that end in .conf are.
        assert all(name == DROP_IN.name or not name.endswith(".conf") for name in os.listdir(DROP_IN.parent))
    assert DROP_IN.exists()
    assert step >= 4


def test_a_change_is_a_line() -> None:
    assert str(Change("a.b", "", "7171", Outcome.CHANGED)) == "a.b: empty → 7171"
    assert str(Change("a.b", "7171", "", Outcome.RESTORED)) == "a.b: 7171 → empty"
    assert str(Change("a.b", "1", "1", Outcome.FAILED, "why.")) == "a.b stays 1: why."
    assert str(Change("a.b", None, None, Outcome.LEFT, "why.")) == "a.b is left: why."
    assert str(Change("a.b", "1", "1", Outcome.RESTORED)) == "a.b: 1, as it was"
    assert str(DROP_IN) == f"/{PERSISTED}"
