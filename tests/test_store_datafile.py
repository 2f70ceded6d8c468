"""A data directory: one at a time has it, its space is reserved, and every refusal is a sentence."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from server import environment, wait_until
from store_helpers import MIB, die, end_of, start

from fastkv.errors import StartError
from fastkv.store.datafile import DataDirectory, NoRoom

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def make(directory: DataDirectory, content: bytes = b"") -> None:
    """Make an arena, in place of the one that is there."""
    mem = directory.create(MIB)
    mem[: len(content)] = content
    directory.put_in_place(mem)
    mem.close()


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "some" / "where")
    make(directory)
    assert mode(directory.path) == 0o700
    assert [mode(file) for file in sorted(directory.path.iterdir())] == [0o600, 0o600]
    assert directory.size() == MIB
    assert os.stat(directory.arena_path).st_blocks * 512 >= MIB
    directory.close()


def test_what_is_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    assert directory.head(100) == b""
    make(directory, b"first")
    copy = directory.open_copy(MIB)
    copy[:5] = b"other"
    mem = directory.open(MIB)
    assert mem[:5] == directory.head(5) == b"first"
    mem.close()
    copy.close()
    make(directory)
    assert directory.head(5) == bytes(5)
    directory.close()


def test_a_new_arena_takes_the_place_of_the_old_one_when_it_is_complete(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    make(directory, b"first")
    before = directory.inode()
    mem = directory.create(2 * MIB)
    mem[:5] = b"other"
    assert (directory.head(5), directory.size(), directory.inode()) == (b"first", MIB, before)
    calls = []

    def stop() -> None:
        calls.append(1)
        raise InterruptedError

    with pytest.raises(StartError, match="cannot be used"):
        directory.put_in_place(mem, stop)
    assert directory.head(5) == b"first"
    new = directory.inode(directory.new_path)
    directory.put_in_place(mem, lambda: calls.append(2))
    assert (directory.head(5), directory.size(), directory.inode()) == (b"other", 2 * MIB, new)
    assert calls == [1, 2]
    assert not directory.new_path.exists()
    mem.close()
    directory.close()


def test_what_is_unfinished_is_made_anew(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.create(2 * MIB).close()
    directory.create(MIB).close()
    assert os.stat(directory.new_path).st_size == MIB
    assert directory.head(1) == b""
    directory.close()


def test_one_at_a_time(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with pytest.raises(StartError, match=f"'{tmp_path}' is in use by another fastkv; stop it or give"):
        DataDirectory(tmp_path, 0)
    directory.close()
    DataDirectory(tmp_path, 0).close()


def test_whoever_inherited_it_has_it_too(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    child = start(signal.pause)
    directory.close()
    with pytest.raises(StartError, match="is in use"):
        DataDirectory(tmp_path, 0)
    os.kill(child, signal.SIGKILL)
    DataDirectory(tmp_path, 20).close()
    end_of(child)


def test_a_kill_lets_go_of_it(tmp_path: Path) -> None:
    def take_and_die() -> None:
        DataDirectory(tmp_path)
        die()

    end_of(start(take_and_die))
    DataDirectory(tmp_path, 0).close()


def test_what_cannot_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StartError, match=f"--data-dir: '{path}' cannot be used"):
            DataDirectory(path)
    with pytest.raises(StartError, match="does not exist"):
        DataDirectory(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    directory = DataDirectory(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StartError, match=f"there is no room for 1mb in '{tmp_path}'; make some"):
        directory.create(MIB)
    assert not directory.new_path.exists()
    directory.close()


@pytest.mark.parametrize(("blocks", "free", "fits"), [(100, 256, True), (100, 255, False), (0, 0, True)])
def test_room_is_looked_for_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, free: int, fits: bool
) -> None:
    """A tmpfs without a limit says that it has no blocks at all."""
    directory = DataDirectory(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, blocks, free, 0, *[0] * 5)))
    if fits:
        directory.require_room(MIB, replaces=False)
    else:
        with pytest.raises(NoRoom, match="there is no room for 1mb"):
            directory.require_room(MIB, replaces=False)
    directory.close()


def test_the_room_of_what_is_replaced_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = DataDirectory(tmp_path)
    make(directory)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 100, 10, 0, *[0] * 5)))
    directory.require_room(MIB, replaces=True)
    with pytest.raises(NoRoom):
        directory.require_room(MIB, replaces=False)
    with pytest.raises(NoRoom):
        directory.require_room(2 * MIB, replaces=True)
    directory.close()


def test_a_full_file_system(tmp_path: Path) -> None:
    """A real one, where this process may mount it."""
    script = """
import sys; from pathlib import Path; from fastkv.store.datafile import DataDirectory
DataDirectory(Path(sys.argv[1])).create(1 << 20)
"""
    command = f"mount -t tmpfs -o size=512k none {tmp_path} && exec {sys.executable} -c '{script}' {tmp_path}"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert f"NoRoom: --data-dir: there is no room for 1mb in '{tmp_path}'" in done.stderr


def test_holes_are_filled(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.arena_path.touch()
    os.truncate(directory.arena_path, MIB)
    directory.open(MIB).close()
    wait_until(lambda: os.stat(directory.arena_path).st_blocks * 512 >= MIB, "its space is reserved")
    directory.close()
