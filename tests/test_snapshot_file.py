"""Snapshots on disk: whole or not there, and no byte of them unverified."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from server import ROOT, environment, wait_until

from fastkv.errors import SnapshotError
from fastkv.snapshot.file import SnapshotFile, new_snapshot
from fastkv.snapshot.format import Item, build_block, parse_block

BLOCKS: list[list[Item]] = [
    [(b"one", b"1", 1, 0, b"m"), (b"\xff\0", b"", 0, 1_790_000_000_000, b"")],
    [(b"two", bytes(range(64)), 2, 0, b"")],
]


def write(path: Path, *blocks: list[Item]) -> None:
    with new_snapshot(path, 1_790_000_000_000) as (_, add):
        for block in blocks:
            add(build_block(block))


def read(path: Path) -> list[Item]:
    file = SnapshotFile(path)
    try:
        return [item for block in file.blocks() for item in parse_block(block)]
    finally:
        file.close()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for blocks in (BLOCKS, BLOCKS[:1], []):
        write(path, *blocks)
        assert read(path) == [item for block in blocks for item in block]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.listdir(tmp_path) == ["a"]


def test_a_file_may_be_read_twice(tmp_path: Path) -> None:
    write(tmp_path / "a", *BLOCKS)
    file = SnapshotFile(tmp_path / "a")
    assert list(file.blocks()) == list(file.blocks()) == [build_block(block) for block in BLOCKS]
    assert (file.chain.blocks, file.chain.entries, file.chain.file_bytes) == (2, 3, file.size)
    file.close()


def test_every_byte_counts_and_so_does_the_length(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, *BLOCKS)
    whole = path.read_bytes()
    others = [whole[:size] for size in range(len(whole))] + [whole + b"\0", whole + whole]
    others += [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    for raw in others:
        path.write_bytes(raw)
        with pytest.raises(SnapshotError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{str(path)!r} cannot be loaded: ")
        assert str(caught.value).endswith(".")
    path.write_bytes(whole)
    assert len(read(path)) == 3


def test_a_length_that_lies_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, BLOCKS[1])
    raw = bytearray(path.read_bytes())
    raw[32 + 8 : 32 + 16] = (1 << 60).to_bytes(8, "little")
    path.write_bytes(raw)
    with pytest.raises(SnapshotError, match="cut off"):
        read(path)


def test_an_older_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, BLOCKS[0])
    older = path.read_bytes()
    for error in (SnapshotError("The server is gone."), KeyboardInterrupt(), ZeroDivisionError()):
        with pytest.raises(type(error)), new_snapshot(path, 0) as (_, add):  # noqa: PT012
            add(build_block(BLOCKS[1]))
            assert path.read_bytes() == older
            assert len(os.listdir(tmp_path)) == 2
            raise error
        assert path.read_bytes() == older
        assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "a"
    write(path, BLOCKS[0])

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(SnapshotError) as caught:
        write(path, BLOCKS[1])
    assert str(caught.value) == f"{str(path)!r} cannot be written: No space left on device."
    assert len(read(path)) == 2
    assert os.listdir(tmp_path) == ["a"]


def test_the_file_and_its_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(handle: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def watch_replace(name: str, target: Path) -> None:
        done.append("name")
        replace(name, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    write(tmp_path / "a", *BLOCKS)
    assert done == ["file", "name", "directory"]


def test_a_link_is_followed_and_nothing_else_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "a")
    write(link, *BLOCKS)
    assert link.is_symlink()
    assert len(read(tmp_path / "there" / "a")) == 3
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "there", tmp_path / "pipe"):
        with pytest.raises(SnapshotError, match="cannot be replaced: it is no regular file"):
            write(path)
        with pytest.raises(SnapshotError, match=r"Is a directory|it is no regular file"):
            read(path)
    with pytest.raises(SnapshotError, match="cannot be written: No such file or directory"):
        write(tmp_path / "nowhere" / "a")
    with pytest.raises(SnapshotError, match="cannot be written: Not a directory"):
        write(tmp_path / "there" / "a" / "b")
    with pytest.raises(SnapshotError, match="cannot be read: No such file or directory"):
        read(tmp_path / "nothing")


def test_a_long_name_fits(tmp_path: Path) -> None:
    for name in ("n" * 255, "ä" * 127):
        write(tmp_path / name, *BLOCKS)
        assert len(read(tmp_path / name)) == 3


_WRITES_FOR_EVER = """
import sys
from pathlib import Path
from fastkv.snapshot.file import new_snapshot
from fastkv.snapshot.format import build_block
with new_snapshot(Path(sys.argv[1]), 0) as (_, add):
    for i in range(20_000_000):
        add(build_block([(b"%d" % i, bytes(1000), 0, 0, b"")]))
"""


@pytest.mark.parametrize("limited", [False, True])
def test_killed_or_out_of_room_the_older_file_stays(tmp_path: Path, limited: bool) -> None:
    path = tmp_path / "a"
    write(path, *BLOCKS)
    script = _WRITES_FOR_EVER
    if limited:
        script = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n{script}"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, env=environment(), stderr=subprocess.PIPE
    )
    if not limited:
        wait_until(
            lambda: any(part.stat().st_size > 50_000 for part in tmp_path.glob(".a.*.part")), "it writes"
        )
        process.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    if limited:
        assert b"cannot be written: File too large." in err
        assert os.listdir(tmp_path) == ["a"]
    else:
        assert process.returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 2
    assert len(read(path)) == 3
