"""A restart: what was there is there, or the start is a cold one that says why."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from kept_helpers import GEOMETRY, REBOOTED, THEN, fill, kept_store, leave, reopen
from store_helpers import MIB, NOW_MS, HandClock, clock, open_store, payload, value_of

from fastkv.errors import StartError
from fastkv.store import Store, persist
from fastkv.store.datafile import DataDirectory
from fastkv.store.layout import SB_CLOCKS, SB_DIGEST, SB_SEED, WORD
from fastkv.store.persist import Keeper, Origin, UnreadableArena, find, find_any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fastkv.store.superblock import Moment


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    directory = DataDirectory(tmp_path)
    yield directory
    directory.close()


def values(store: Store, model: dict[bytes, bytes]) -> dict[bytes, bytes | None]:
    return {key: value_of(store, key) for key in model}


# -- warm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [THEN, REBOOTED])
def test_after_a_clean_stop_everything_is_there(tmp_path: Path, now: Moment) -> None:
    model = leave(tmp_path, clean=True)
    directory = DataDirectory(tmp_path)
    with kept_store(directory, now) as (store, keeper):
        assert (keeper.origin, keeper.why) == (Origin.CLEAN, "The last stop was a clean one.")
        assert store.unverified() == 0
        assert store.stats()["entries"] == len(model)
        assert values(store, model) == model
        assert keeper.arena.words[SB_DIGEST] == 0
    directory.close()


def test_after_a_kill_everything_is_there_before_and_after_it_is_verified(tmp_path: Path) -> None:
    model = leave(tmp_path, clean=False)
    directory = DataDirectory(tmp_path)
    with kept_store(directory) as (store, keeper):
        assert (keeper.origin, keeper.why) == (Origin.UNVERIFIED, "The last server came to no clean stop.")
        assert store.unverified() == 2
        assert store.stats()["entries"] == len(model)
        assert values(store, model) == model
        assert store.get(b"absent", clock) is None
        assert store.unverified() == 2
        store.verify()
        assert store.unverified() == store.stats()["dropped"] == store.stats()["repairs"] == 0
        assert store.stats()["entries"] == len(model)
        assert values(store, model) == model
    directory.close()


def test_whoever_writes_first_verifies(tmp_path: Path) -> None:
    model = leave(tmp_path, clean=False)
    directory = DataDirectory(tmp_path)
    with kept_store(directory) as (store, _):
        assert store.put(b"1", b"new", clock)
        assert store.unverified() == 1
        assert values(store, model) == model | {b"1": b"new"}
        for key in model:
            assert store.delete(key, clock)
        assert store.unverified() == 0
        assert store.stats()["entries"] == 0
    directory.close()


def test_a_read_that_nobody_verified_is_not_recognised_by_its_slot(tmp_path: Path) -> None:
    leave(tmp_path, clean=False)
    directory = DataDirectory(tmp_path)
    with kept_store(directory) as (store, _):
        entry = store.get(b"1", clock)
        assert entry is not None
        assert store.words[entry[4]] != entry[5]
    directory.close()


def test_a_restart_in_the_middle_of_verifying(tmp_path: Path) -> None:
    model = leave(tmp_path, clean=False)
    for _ in range(3):
        directory = DataDirectory(tmp_path)
        store, keeper = reopen(directory)
        assert keeper.origin is Origin.UNVERIFIED
        assert store.put(b"1", model[b"1"], clock)
        assert store.unverified() == 1
        assert not store.settle(THEN)
        assert values(store, model) == model
        store.close()
        directory.close()


def test_the_seed_stays(directory: DataDirectory) -> None:
    seeds = set()
    for _ in range(3):
        store, keeper = reopen(directory)
        seeds.add(keeper.arena.words[SB_SEED])
        store.settle(THEN)
        store.close()
    assert len(seeds) == 1


@pytest.mark.parametrize("clean", [True, False])
def test_versions_go_on(tmp_path: Path, clean: bool) -> None:
    leave(tmp_path, clean=clean)
    directory = DataDirectory(tmp_path)
    for first_version in (1, 10**6, 17):
        with kept_store(directory, first_version=first_version) as (store, _):
            before = store.get(b"1", clock)
            assert before is not None
            assert store.put(b"1", b"", clock) > max(before[2], first_version)
            if clean:
                store.settle(THEN)
    directory.close()


def test_counters_begin_anew(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with kept_store(directory) as (store, _):
        for i in range(2000):
            store.put(b"%d" % i, payload(i, 1000), clock)
        assert store.stats()["evictions"] > 0
        assert store.settle(THEN)
    with kept_store(directory) as (store, _):
        assert store.stats()["evictions"] == 0
        assert store.stats()["entries"] > 0
    directory.close()


@pytest.mark.parametrize("clean", [True, False])
def test_a_full_store_goes_on_evicting(tmp_path: Path, clean: bool) -> None:
    directory = DataDirectory(tmp_path)
    with kept_store(directory) as (store, _):
        for i in range(3000):
            store.put(b"%d" % i, payload(i, i % 1500), clock)
            store.get(b"%d" % (i // 2), clock)
        if clean:
            assert store.settle(THEN)
    with kept_store(directory) as (store, _):
        for i in range(3000, 6000):
            store.put(b"%d" % i, payload(i, i % 1500), clock)
            assert value_of(store, b"%d" % i) == payload(i, i % 1500)
        assert store.unverified() == store.stats()["dropped"] == 0
    directory.close()


# -- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("wall_ms", [10**12 + 4000, 1, 10**15])
def test_deadlines_after_a_restart(directory: DataDirectory, clean: bool, wall_ms: int) -> None:
    """The wall clock may do what it likes while the machine stays up."""
    store, keeper = reopen(directory)
    store.put(b"short", b"1", clock, deadline_ms=NOW_MS + 3000)
    store.put(b"long", b"2", clock, deadline_ms=NOW_MS + 5000)
    store.put(b"gone", b"3", clock, deadline_ms=NOW_MS)
    keeper.save_clock(THEN._replace(wall_ms=77))
    if clean:
        store.settle(THEN)
    store.close()
    now = THEN._replace(boot_ms=NOW_MS + 4000, wall_ms=wall_ms)
    with kept_store(directory, now) as (store, keeper):
        assert keeper.offset_ms == 0
        at = HandClock(now.boot_ms + store.offset_ms)
        found = [value_of(store, key, at) for key in (b"short", b"long", b"gone")]
        assert found == [None, b"2", None]


def test_deadlines_after_a_reboot(directory: DataDirectory) -> None:
    """The time in which the machine was down counts, by the wall clock; it never goes back."""
    store, _ = reopen(directory)
    store.put(b"short", b"1", clock, deadline_ms=NOW_MS + 3000)
    store.put(b"long", b"2", clock, deadline_ms=NOW_MS + 5000)
    store.put(b"gone", b"3", clock, deadline_ms=NOW_MS)
    assert store.settle(THEN)
    store.close()
    now = REBOOTED._replace(boot_ms=20, wall_ms=THEN.wall_ms + 4000)
    with kept_store(directory, now) as (store, _):
        at = HandClock(now.boot_ms + store.offset_ms)
        assert at() == NOW_MS + 4000
        assert [value_of(store, key, at) for key in (b"short", b"long", b"gone")] == [None, b"2", None]
        assert store.settle(now._replace(boot_ms=520, wall_ms=THEN.wall_ms + 4500))
    # Another boot, and a wall clock that was put back by a year.
    now = moment(3, 40, THEN.wall_ms - 31_536_000_000)
    with kept_store(directory, now) as (store, _):
        at = HandClock(now.boot_ms + store.offset_ms)
        assert at() == NOW_MS + 4500
        assert [value_of(store, key, at) for key in (b"short", b"long", b"gone")] == [None, b"2", None]
        at.now_ms += 500
        assert value_of(store, b"long", at) is None


def moment(boot_id: int, boot_ms: int, wall_ms: int) -> Moment:
    return THEN._replace(boot_id=boot_id, boot_ms=boot_ms, wall_ms=wall_ms)


# -- refused -------------------------------------------------------------------------------------------------


def cut(directory: DataDirectory) -> None:
    os.truncate(directory.arena_path, MIB - 1)


def lengthen(directory: DataDirectory) -> None:
    os.truncate(directory.arena_path, MIB + 1)


def spoil(at: int, length: int) -> Callable[[DataDirectory], None]:
    def do(directory: DataDirectory) -> None:
        with open(directory.arena_path, "r+b") as file:
            file.seek(at)
            file.write(b"\x5a" * length)

    return do


def copy(directory: DataDirectory) -> None:
    shutil.copy(directory.arena_path, directory.path / "copy")
    os.replace(directory.path / "copy", directory.arena_path)


SPOILS: dict[str, tuple[Callable[[DataDirectory], None], str]] = {
    "cut off": (cut, f"has {MIB - 1} bytes of {MIB}"),
    "longer": (lengthen, f"has {MIB + 1} bytes of {MIB}"),
    "nothing but a beginning": (lambda d: os.truncate(d.arena_path, 100), "is too short for one"),
    "no superblock": (spoil(0, 64), "has a damaged superblock"),
    "no clocks": (spoil(SB_CLOCKS[0] * WORD, 128), "has a damaged clock, so that deadlines cannot be told"),
    "no hashes": (spoil(GEOMETRY.digests_at * WORD, 64), "is damaged since, hashes included"),
}


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("name", SPOILS)
def test_what_cannot_be_gone_on_with_is_refused_and_stays(tmp_path: Path, name: str, clean: bool) -> None:
    model = leave(tmp_path, clean=clean)
    directory = DataDirectory(tmp_path)
    spoiling, why = SPOILS[name]
    spoiling(directory)
    before = directory.arena_path.read_bytes()
    if name == "no hashes" and not clean:
        with kept_store(directory) as (store, _):
            assert values(store, model) == model
    else:
        with pytest.raises(UnreadableArena, match=f"'{directory.arena_path}' .*{why}"):
            find(directory, THEN)
        assert directory.arena_path.read_bytes() == before
    directory.close()


def test_at_first_there_is_none(directory: DataDirectory) -> None:
    assert find(directory, THEN) is None
    with kept_store(directory) as (_, keeper):
        assert (keeper.origin, keeper.why) == (Origin.EMPTY, "There is no arena yet.")


def test_killed_and_rebooted(tmp_path: Path) -> None:
    """Of its pages some may have reached the disk and others not."""
    leave(tmp_path, clean=False)
    directory = DataDirectory(tmp_path)
    with pytest.raises(UnreadableArena, match="was in use when the machine went down"):
        find(directory, REBOOTED)
    directory.close()


@pytest.mark.parametrize("clean", [True, False])
def test_a_copy_counts_only_if_it_is_of_a_clean_stop(tmp_path: Path, clean: bool) -> None:
    model = leave(tmp_path, clean=clean)
    directory = DataDirectory(tmp_path)
    copy(directory)
    if clean:
        with kept_store(directory) as (store, keeper):
            assert keeper.origin is Origin.CLEAN
            assert values(store, model) == model
    else:
        with pytest.raises(UnreadableArena, match="is a copy of an arena that was in use"):
            find(directory, THEN)
    directory.close()


# -- damaged, large, looked at ----------------------------------------------------------------------------


def test_of_a_clean_stop_only_what_is_damaged_is_lost(tmp_path: Path) -> None:
    model = leave(tmp_path, clean=True)
    directory = DataDirectory(tmp_path)
    store, _ = reopen(directory)
    entry = store.get(b"77", clock)
    assert entry is not None
    location = entry[5] & (1 << GEOMETRY.location_bits) - 1
    assert store.settle(THEN)
    store.close()
    spoil(location * WORD, 1)(directory)
    with kept_store(directory, REBOOTED) as (store, keeper):
        assert (keeper.origin, keeper.why) == (
            Origin.UNVERIFIED,
            "Of what the last stop left 1 segments are damaged.",
        )
        found = values(store, model)
        lost = [key for key in model if found[key] is None]
        assert b"77" in lost
        assert len(lost) < 100
        assert {key: found[key] for key in model if key not in lost} == {
            key: model[key] for key in model if key not in lost
        }
        store.verify()
        assert values(store, model) == found
        assert store.stats()["dropped"] == len(lost)
    directory.close()


def test_what_is_too_large_to_hash_is_verified_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = leave(tmp_path, clean=True)
    monkeypatch.setattr(persist, "_MOST_HASHED_BYTES", MIB - 1)
    directory = DataDirectory(tmp_path)
    store, keeper = reopen(directory)
    assert keeper.origin is Origin.UNVERIFIED
    assert "there is too much to look at all of it first" in keeper.why
    assert values(store, model) == model
    store.verify()
    assert store.settle(THEN)
    store.close()
    # After a reboot there is no other way to be sure.
    store, keeper = reopen(directory, REBOOTED)
    assert keeper.origin is Origin.CLEAN
    assert values(store, model) == model
    store.close()
    directory.close()


@pytest.mark.parametrize("clean", [True, False])
def test_to_look_at_it_changes_nothing(tmp_path: Path, clean: bool) -> None:
    model = leave(tmp_path, clean=clean)
    directory = DataDirectory(tmp_path)
    before = directory.arena_path.read_bytes()
    store = Store(0, kept=Keeper.copy(directory, find_any(directory, THEN)))
    assert values(store, model) == model
    assert store.put(b"1", b"2", clock)
    assert store.check() == []
    store.close()
    assert directory.arena_path.read_bytes() == before
    directory.close()


def test_there_may_be_nothing_to_look_at(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with pytest.raises(StartError, match=f"'{tmp_path}': There is no arena yet."):
        find_any(directory, THEN)
    directory.close()


def test_a_store_without_a_file_is_left_as_it_is(tmp_path: Path) -> None:
    with open_store() as store:
        fill(store)
        store.save_clock(THEN)
        assert not store.settle(THEN)
        assert (store.offset_ms, store.unverified()) == (0, 0)
