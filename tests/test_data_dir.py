"""What a start makes of its data directory: no start takes entries away unless it is told to."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from kept_helpers import GEOMETRY, REBOOTED, THEN, SameFile, leave, reopen
from old_arena import VERSIONS, read_model, unpack
from server import environment
from store_helpers import KIB, MIB, NOW_MS, HandClock, clock, dies_at, payload, value_of

from fastkv import clock as clocks
from fastkv import data_dir, machine
from fastkv.data_dir import Claim, plan_geometry
from fastkv.errors import StartError
from fastkv.notify import Notifier
from fastkv.settings import Settings
from fastkv.store import Store
from fastkv.store.datafile import DataDirectory
from fastkv.store.layout import LAYOUT_VERSION, SB_CLOCKS, SH_VERSION, Geometry
from fastkv.store.persist import Origin, find

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastkv.store.persist import Keeper
    from fastkv.store.superblock import Moment


@pytest.fixture(autouse=True)
def then(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, THEN)


def set_clock(monkeypatch: pytest.MonkeyPatch, now: Moment) -> None:
    monkeypatch.setattr(clocks, "now", lambda: now)
    monkeypatch.setattr(clocks, "boot_ms", lambda: now.boot_ms)
    monkeypatch.setattr(clocks, "arena_clock", lambda offset_ms: lambda: now.boot_ms + offset_ms)


class Told(Notifier):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[str, float]] = []

    def extend(self, status: str, seconds: float) -> None:
        self.messages.append((status, seconds))


def wanted(path: Path, **more: object) -> Settings:
    """The settings of a start: those of `GEOMETRY` but for what is given."""
    given = {"memory_bytes": MIB, "shards": 2, "segment_bytes": 4 * KIB, "max_value_bytes": 64 * KIB, **more}
    return Settings(workers=1, data_dir=path, **given)  # type: ignore[arg-type]


def open_kept(settings: Settings, notifier: Notifier | None = None) -> tuple[Store, Keeper, Claim]:
    """What a start does."""
    assert settings.data_dir is not None
    claim = Claim.take(settings, settings.data_dir)
    try:
        keeper = claim.open(settings, notifier or Told())
        assert keeper.arena.geometry == claim.geometry
        store = Store(0, kept=keeper)
        if keeper.origin is Origin.EMPTY:
            claim.directory.put_in_place(keeper.arena.mem)
    except BaseException:
        claim.directory.close()
        raise
    return store, keeper, claim


def start_and_stop(settings: Settings, model: dict[bytes, bytes], notifier: Notifier | None = None) -> Origin:
    """Start with these settings, find these entries and no others, and stop."""
    store, keeper, claim = open_kept(settings, notifier)
    with closing(claim.directory), closing(store):
        assert {key: value_of(store, key) for key in model} == model
        assert store.stats()["entries"] == len(model)
        store.verify()
        assert store.check() == []
        assert store.settle(THEN)
        assert sorted(os.listdir(claim.directory.path)) == ["arena", "lock"]
        return keeper.origin


def refuses(settings: Settings) -> str:
    """Start with these settings and fail; the one line, after which everything is as it was."""
    assert settings.data_dir is not None
    before = (settings.data_dir / "arena").read_bytes()
    with pytest.raises(StartError) as caught:
        open_kept(settings)
    assert (settings.data_dir / "arena").read_bytes() == before
    assert sorted(os.listdir(settings.data_dir)) == ["arena", "lock"]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- other measures ----------------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, object]] = {
    "more memory": {"memory_bytes": 3 * MIB},
    "a little more memory": {"memory_bytes": MIB + 64 * KIB},
    "other shards": {"shards": 8},
    "other segments": {"memory_bytes": 2 * MIB, "segment_bytes": 8 * KIB},
    "all of them": {"memory_bytes": 16 * MIB, "shards": 1, "segment_bytes": 64 * KIB},
}


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_entries_are_moved_there_and_back(tmp_path: Path, name: str, clean: bool) -> None:
    model = leave(tmp_path, clean=clean)
    for settings in (wanted(tmp_path, **OTHERS[name]), wanted(tmp_path)):
        assert start_and_stop(settings, model) is Origin.CLEAN
        assert start_and_stop(settings, model) is Origin.CLEAN


def test_the_same_measures_move_nothing(tmp_path: Path) -> None:
    model = leave(tmp_path, clean=True)
    inode = os.stat(tmp_path / "arena").st_ino
    for change in ("migrate", "refuse", "replace"):
        told = Told()
        start_and_stop(wanted(tmp_path, data_dir_change=change), model, told)
        assert told.messages == []
    # Memory counts in whole segments.
    start_and_stop(wanted(tmp_path, memory_bytes=MIB + 4095), model)
    assert os.stat(tmp_path / "arena").st_ino == inode


def test_a_start_says_how_far_it_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = leave(tmp_path, clean=True)
    monkeypatch.setattr(data_dir, "_PROGRESS_SECONDS", 0.0)
    told = Told()
    with caplog.at_level(logging.INFO, "fastkv"):
        start_and_stop(wanted(tmp_path, memory_bytes=2 * MIB), model, told)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        f"{tmp_path}: 300 entries are moved from 1mb in 2 shards with segments of 4kb (layout "
        f"{LAYOUT_VERSION}) to 2mb in 2 shards with segments of 4kb (layout {LAYOUT_VERSION}); until that is "
        "complete the old arena stays as it is."
    )
    assert lines[1] == f"{tmp_path}: 64 of 300 entries are moved (21%)."
    assert lines[-1].startswith(f"{tmp_path}: 300 entries were moved in ")
    assert lines[-1].endswith(" s.")
    assert [f"{tmp_path}: {status}" for status, _ in told.messages] == lines
    assert {seconds for _, seconds in told.messages} == {data_dir._EXTEND_SECONDS}


def test_what_does_not_fit_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(DataDirectory(tmp_path)) as directory:
        store, _ = reopen(directory, geometry=Geometry.plan(4 * MIB, 2, 4 * KIB))
        for i in range(6000):
            store.put(b"%d" % i, payload(i, 300), clock)
        store.settle(THEN)
        store.close()
    store, _, claim = open_kept(wanted(tmp_path))
    with closing(claim.directory), closing(store):
        there = store.stats()["entries"]
        assert 1000 < there < 4000
        assert store.stats()["evictions"] == 0  # of this run
        assert store.check() == []
    (last,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{there:,} entries were moved in " in last.getMessage()
    assert last.getMessage().endswith(f"; {6000 - there:,} did not fit and were evicted.")


def test_without_eviction_a_start_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with closing(DataDirectory(tmp_path)) as directory:
        store, _ = reopen(directory, geometry=Geometry.plan(4 * MIB, 2, 4 * KIB))
        for i in range(6000):
            store.put(b"%d" % i, payload(i, 300), clock)
        store.settle(THEN)
        store.close()
    said = refuses(wanted(tmp_path, eviction="none"))
    assert "do not fit into 1mb in 2 shards" in said
    assert "more --memory, with --memory 4mb --shards 2 --segment-bytes 4kb, or with" in said


def test_a_value_that_is_too_long_for_the_new_measures(tmp_path: Path) -> None:
    with closing(DataDirectory(tmp_path)) as directory:
        store, _ = reopen(directory, geometry=Geometry.plan(8 * MIB, 2, 16 * KIB))
        store.put(b"large", payload(1, 2 * MIB), clock)
        store.settle(THEN)
        store.close()
    said = refuses(wanted(tmp_path, memory_bytes=4 * MIB))
    assert f"a value has {2 * MIB} bytes; at most {MIB} fit." in said
    assert start_and_stop(wanted(tmp_path, data_dir_change="replace"), {}) is Origin.EMPTY


def test_what_is_longer_than_requests_may_be_is_kept(tmp_path: Path) -> None:
    """Limits of requests say what may be put from now on, as at a start that moves nothing."""
    model = leave(tmp_path, clean=True)
    settings = wanted(tmp_path, memory_bytes=2 * MIB, max_value_bytes=100, max_key_bytes=1)
    assert start_and_stop(settings, model) is Origin.CLEAN


def test_damaged_entries_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = leave(tmp_path, clean=False)
    arena = tmp_path / "arena"
    content = bytearray(arena.read_bytes())
    content[content.rindex(payload((77, 1), 77))] ^= 1
    with arena.open("r+b") as file:
        file.write(content)
    del model[b"77"]
    start_and_stop(wanted(tmp_path, memory_bytes=2 * MIB), model)
    assert "299 entries were moved" in caplog.text
    assert "1 were damaged and are lost." in caplog.text


# -- what belongs to an entry ------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
def test_deadlines_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: bool) -> None:
    with closing(DataDirectory(tmp_path)) as directory:
        store, keeper = reopen(directory)
        for key, deadline_ms in ((b"gone", 1000), (b"short", 3000), (b"long", 5000)):
            store.put(key, b"1", clock, deadline_ms=NOW_MS + deadline_ms)
        keeper.save_clocks(THEN)
        if clean:
            store.settle(THEN)
        store.close()
    later = THEN._replace(wall_ms=THEN.wall_ms + 2000)
    # After a clean stop in another boot: the arena's clock goes on by the wall clock.
    later = later._replace(boot_id=2, boot_ms=50) if clean else later._replace(boot_ms=NOW_MS + 2000)
    set_clock(monkeypatch, later)
    store, keeper, claim = open_kept(wanted(tmp_path, memory_bytes=2 * MIB))
    with closing(claim.directory), closing(store):
        at = HandClock(later.boot_ms + store.offset_ms)
        assert at() == NOW_MS + 2000
        assert [value_of(store, key, at) for key in (b"gone", b"short", b"long")] == [None, b"1", b"1"]
        assert store.stats()["entries"] == 2
        at.now_ms += 2000
        assert [value_of(store, key, at) for key in (b"short", b"long")] == [None, b"1"]
        store.settle(later)
    # And once more over a boot, with the clock that the move has written.
    set_clock(monkeypatch, later._replace(boot_id=3, boot_ms=7, wall_ms=later.wall_ms + 2500))
    store, _, claim = open_kept(wanted(tmp_path, memory_bytes=2 * MIB))
    with closing(claim.directory), closing(store):
        assert store.offset_ms + 7 == NOW_MS + 4500
        assert value_of(store, b"long", HandClock(store.offset_ms + 507)) is None


def test_versions_go_on(tmp_path: Path) -> None:
    """Also of a key that is there no more, by the counter of whatever shard it was in."""
    ahead = 10**17
    with closing(DataDirectory(tmp_path)) as directory:
        store, keeper = reopen(directory, first_version=ahead, geometry=Geometry.plan(MIB, 16, 4 * KIB))
        versions = {b"%d" % i: store.put(b"%d" % i, b"1", clock) for i in range(100) for _ in range(i)}
        gone = {key for key in versions if not key.endswith(b"7")}
        assert all(store.delete(key, clock) for key in gone)
        assert store.settle(THEN)
        store.close()
    store, keeper, claim = open_kept(wanted(tmp_path))
    with closing(claim.directory), closing(store):
        for key, version in versions.items():
            entry = store.get(key, clock)
            assert (entry and entry[2]) == (None if key in gone else version)
        for key, version in versions.items():
            assert store.put(key, b"2", clock) > version
        assert keeper.arena.words[store.geometry.shards_at + SH_VERSION] < ahead + 10**6


# -- what is not set stays as it is -----------------------------------------------------------------------


def test_measures_that_are_not_set_are_those_of_the_arena(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_memory_bytes", lambda: 64 * MIB)
    geometry = Geometry.plan(6 * MIB, 8, 8 * KIB)
    with closing(DataDirectory(tmp_path)) as directory:
        store, _ = reopen(directory, geometry=geometry)
        store.settle(THEN)
        store.close()
        found = find(directory, THEN)
    assert found is not None

    def chosen(**given: object) -> Geometry:
        return plan_geometry(Settings(workers=1, **given), found)  # type: ignore[arg-type]

    there: tuple[dict[str, object], ...] = (
        {},
        {"shards": 8},
        {"memory_bytes": 6 * MIB},
        {"segment_bytes": 8 * KIB},
        {"memory_bytes": "auto", "shards": "auto"},
    )
    for given in there:
        assert chosen(**given) == geometry
    # The memory stays where only something else is another one, and what suits the old memory goes with it.
    assert chosen(shards=4) == Geometry.plan(6 * MIB, 4)
    assert chosen(memory_bytes=8 * MIB) == Geometry.plan(8 * MIB)
    # A size that was found out by itself is none to insist on where it cannot be.
    assert chosen(max_value_bytes=3 * MIB) == Geometry.plan(16 * MIB)
    assert plan_geometry(Settings(workers=1), None) == Geometry.plan(16 * MIB)
    small = Settings(workers=1, max_value_bytes=64 * KIB)
    monkeypatch.setattr(machine, "usable_memory_bytes", lambda: 5 * MIB)
    assert plan_geometry(small, found) == Geometry.plan(16 * MIB)
    assert chosen(max_value_bytes=64 * KIB) == Geometry.plan(MIB)


# -- refuse, replace ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
def test_a_start_that_shall_refuse_names_both_and_the_ways_out(tmp_path: Path, name: str) -> None:
    model = leave(tmp_path, clean=True)
    said = refuses(wanted(tmp_path, data_dir_change="refuse", **OTHERS[name]))
    assert f"'{tmp_path}' has 1mb in 2 shards with segments of 4kb (layout {LAYOUT_VERSION})" in said
    assert "--data-dir-change migrate to keep" in said
    assert said.endswith("or with --memory 1mb --shards 2 --segment-bytes 4kb.")
    assert start_and_stop(wanted(tmp_path), model) is Origin.CLEAN


@pytest.mark.parametrize("name", OTHERS)
def test_a_start_that_shall_replace_begins_empty(tmp_path: Path, name: str) -> None:
    leave(tmp_path, clean=True)
    settings = wanted(tmp_path, data_dir_change="replace", **OTHERS[name])
    store, keeper, claim = open_kept(settings)
    with closing(claim.directory), closing(store):
        assert (keeper.origin, claim.replaces) == (Origin.EMPTY, True)
        assert keeper.why.startswith("The arena that was there had 1mb in 2 shards")
        assert store.stats()["entries"] == 0


def spoil(path: Path, at: int, length: int = 64) -> None:
    with (path / "arena").open("r+b") as file:
        file.seek(at)
        file.write(b"\x5a" * length)


UNREADABLE = ("superblock", "clocks", "hashes", "cut off", "copy in use", "rebooted", "layout of the future")


@pytest.mark.parametrize("change", ["migrate", "refuse", "replace"])
@pytest.mark.parametrize("spoiling", UNREADABLE)
def test_an_arena_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiling: str, change: str
) -> None:
    leave(tmp_path, clean=spoiling not in ("copy in use", "rebooted"))
    arena = tmp_path / "arena"
    if spoiling == "superblock":
        spoil(tmp_path, 0)
    elif spoiling == "clocks":
        spoil(tmp_path, SB_CLOCKS[0] * 8, 128)
    elif spoiling == "hashes":
        spoil(tmp_path, GEOMETRY.digests_at * 8)
    elif spoiling == "cut off":
        os.truncate(arena, MIB // 2)
    elif spoiling == "copy in use":
        (tmp_path / "copy").write_bytes(arena.read_bytes())
        os.rename(tmp_path / "copy", arena)
    elif spoiling == "rebooted":
        set_clock(monkeypatch, REBOOTED)
    else:
        spoil(tmp_path, 7, 1)
    for more in ({}, {"memory_bytes": 2 * MIB}):
        settings = wanted(tmp_path, data_dir_change=change, **more)
        if change == "replace":
            assert start_and_stop(settings, {}) is Origin.EMPTY
            break
        said = refuses(settings)
        assert said.startswith(f"--data-dir: '{arena}' ")
        assert "It stays as it is; start with --data-dir-change replace to begin empty in its place" in said


# -- the layout of the version before ----------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("version", [v for v in VERSIONS if v != LAYOUT_VERSION])
def test_the_layout_before_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, clean: bool
) -> None:
    monkeypatch.setattr(data_dir, "DataDirectory", SameFile)
    alive = {k: kept.value for k, kept in read_model(version).items() if not 0 < kept.deadline_ms <= NOW_MS}
    unpack(tmp_path, version, clean=clean)
    said = refuses(wanted(tmp_path, data_dir_change="refuse"))
    assert f"(layout {version}), and" in said
    assert said.endswith("or the release that made it.")
    for settings in (wanted(tmp_path), wanted(tmp_path, data_dir_change="refuse")):
        assert start_and_stop(settings, alive) is Origin.CLEAN


# -- no room ------------------------------------------------------------------------------------------------


def test_no_room_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out before anything is begun where the file system says so, else when room is reserved."""
    leave(tmp_path, clean=True)
    statvfs = os.statvfs

    def full(path: Path) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 1000, 10, 10, *statvfs(path)[5:]))

    def no_reserve(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    settings = wanted(tmp_path, memory_bytes=2 * MIB)
    for name, broken in (("statvfs", full), ("posix_fallocate", no_reserve)):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, broken)
            said = refuses(settings)
        assert said == (
            f"--data-dir: there is no room in '{tmp_path}' for 2mb beside the arena that is there, whose "
            "entries are to be moved; make some, start with --memory 1mb --shards 2 --segment-bytes 4kb, or "
            "save them with fastkv snapshot and start with --data-dir-change replace."
        )
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", full)
        said = refuses(wanted(tmp_path, memory_bytes=2 * MIB, data_dir_change="replace"))
        assert f"there is no room for 2mb in '{tmp_path}'; make some" in said
        # In the place of the old one there is.
        start_and_stop(wanted(tmp_path, shards=1, data_dir_change="replace"), {})


def test_a_file_system_without_room_for_both(tmp_path: Path) -> None:
    """A real one, where this process may mount it."""
    script = tmp_path / "script.py"
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    script.write_text("""
import os, sys
from pathlib import Path
from kept_helpers import THEN, leave
from test_data_dir import clocks, open_kept, wanted
from fastkv.errors import StartError
clocks.now = lambda: THEN
path = Path(sys.argv[1])
model = leave(path, clean=True)
before = (path / "arena").read_bytes()
try:
    open_kept(wanted(path, memory_bytes=1_500_000))
except StartError as error:
    print(error)
assert (path / "arena").read_bytes() == before
print(sorted(os.listdir(path)))
""")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    command = f"mount -t tmpfs -o size=2m none {mounted} && exec {sys.executable} {script} {mounted}"
    paths = os.pathsep.join((environment()["PYTHONPATH"], os.path.dirname(__file__)))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env=environment() | {"PYTHONPATH": paths},
    )
    assert f"there is no room in '{mounted}'" in done.stdout, done.stderr
    assert done.stdout.endswith("['arena', 'lock']\n")


# -- the end in the middle -----------------------------------------------------------------------------------


@pytest.fixture
def to_be_stopped() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    yield
    signal.sigtimedwait((signal.SIGTERM, signal.SIGINT), 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.usefixtures("to_be_stopped")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["begin", "step", "go_on", "alive"])
def test_a_signal_ends_it_and_everything_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, number: int
) -> None:
    leave(tmp_path, clean=True)
    original = getattr(data_dir.Progress, moment)

    def interrupted(self: object, *args: object) -> object:
        signal.raise_signal(number)  # in this thread, which blocks it; others may not
        return original(self, *args)

    monkeypatch.setattr(data_dir.Progress, moment, interrupted)
    said = refuses(wanted(tmp_path, memory_bytes=2 * MIB))
    assert said == f"--data-dir: stopped while entries were moved; '{tmp_path}' is as it was."


@pytest.mark.parametrize(("modules", "stride"), [("*", 15_013), ("datafile", 11), ("digests persist", 2011)])
def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path, modules: str, stride: int) -> None:
    model = leave(tmp_path, clean=True)
    content = (tmp_path / "arena").read_bytes()
    settings = wanted(tmp_path, memory_bytes=MIB + MIB // 2)

    def start() -> None:
        open_kept(settings)

    outcomes = {"before": 0, "after": 0}
    number = 1
    while dies_at(number, start, modules):
        found = (tmp_path / "arena").read_bytes()
        outcomes["before" if len(found) == len(content) else "after"] += 1
        assert found == content or len(found) == settings.memory_bytes
        # With the old settings or the new ones, whatever is there.
        start_and_stop(wanted(tmp_path, memory_bytes=MIB if number % 2 else 2 * MIB), model)
        (tmp_path / "arena").write_bytes(content)
        number += stride
    assert outcomes["before"] > 5
    assert outcomes["after"] or modules != "datafile"


def test_what_a_kill_has_left_unfinished_is_removed(tmp_path: Path) -> None:
    model = leave(tmp_path, clean=True)
    (tmp_path / "arena.new").write_bytes(b"unfinished")
    assert start_and_stop(wanted(tmp_path), model) is Origin.CLEAN


def test_a_first_start_that_is_killed_leaves_nothing_that_cannot_be_read(tmp_path: Path) -> None:
    number = 1
    seen = 0
    while dies_at(number, lambda: open_kept(wanted(tmp_path)), "datafile persist superblock store"):
        start_and_stop(wanted(tmp_path), {})
        (tmp_path / "arena").unlink()
        number += 97
        seen += 1
    assert seen > 10
