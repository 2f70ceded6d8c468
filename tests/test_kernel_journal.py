"""The record of the originals: kept whole, kept first, kept from whoever would misuse it."""

import fcntl
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from kernel_helpers import (
    BOOT_ID,
    as_nobody,
    in_child,
    is_killed_at,
    make_read_only,
    memory_path,
    namespaced,
    needs_root,
)

from fastkv.errors import TuningError
from fastkv.kernel import journal
from fastkv.kernel.journal import Entry, Journal, replace_file

tmp_path = memory_path

NAME = f"tuning-{BOOT_ID}.json"


def note(directory: Path, *notes: tuple[str, str, str, str], boot_id: str = BOOT_ID) -> None:
    """Note changes, and save."""
    with Journal.opened(directory, boot_id, create=True) as record:
        for each in notes:
            record.note(*each)
        record.save()


def spaces(directory: Path, boot_id: str = BOOT_ID) -> dict[str, dict[str, Entry]]:
    """What is on record."""
    with Journal.opened(directory, boot_id, create=False) as record:
        return record.spaces


def write_record(directory: Path, content: Any) -> Path:
    """Put something in the place of the record."""
    path = directory / NAME
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_first_original_stays_and_every_value_of_ours_is_known(tmp_path: Path) -> None:
    note(tmp_path, ("a", "x.y", "1", "2"), ("b", "x.y", "7", "8"))
    note(tmp_path, ("a", "x.y", "2", "3"), ("a", "x.y", "2", "3"), ("a", "x.z", "", "9"))
    assert spaces(tmp_path) == {
        "a": {"x.y": Entry("1", ["2", "3"]), "x.z": Entry("", ["9"])},
        "b": {"x.y": Entry("7", ["8"])},
    }


def test_an_empty_record_is_no_file(tmp_path: Path) -> None:
    assert spaces(tmp_path / "nothing") == {}
    assert not (tmp_path / "nothing").exists()
    note(tmp_path, ("a", "x.y", "1", "2"))
    with Journal.opened(tmp_path, BOOT_ID, create=False) as record:
        record.forget("a", "x.y")
        record.forget("a", "x.y")
        record.forget("b", "x.y")
        record.save()
    assert spaces(tmp_path) == {}
    assert os.listdir(tmp_path) == ["tuning.lock"]


def test_records_of_other_boots_and_half_written_ones_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = {
        "other.json",
        "tuning.toml",
        "tuning-a.json.bak",
        "tuning-ä b.json",
        ".tuning",
        "60-tuning-a.json",
    }
    gone = {"tuning-1.json", "tuning-unknown.json", f".{NAME}.17", ".tuning-1.json.4194304"}
    for name in kept | gone:
        (tmp_path / name).touch()
    note(tmp_path, ("a", "x.y", "1", "2"))
    assert set(os.listdir(tmp_path)) == kept | {NAME, "tuning.lock"}
    # What cannot be removed keeps nobody from the record.
    (tmp_path / "tuning-2.json").mkdir()
    note(tmp_path, ("a", "x.y", "1", "3"))
    assert spaces(tmp_path) == {"a": {"x.y": Entry("1", ["2", "3"])}}


def test_who_does_not_know_the_boot_removes_no_other_s_record(tmp_path: Path) -> None:
    note(tmp_path, ("a", "x.y", "1", "2"))
    note(tmp_path, ("a", "x.y", "3", "4"), boot_id="unknown")
    assert spaces(tmp_path) == {"a": {"x.y": Entry("1", ["2"])}}
    assert spaces(tmp_path, "unknown") == {"a": {"x.y": Entry("3", ["4"])}}


DAMAGED: list[Any] = [
    "",
    "{",
    "null",
    "[]",
    "17",
    '"text"',
    "\ud800",
    "[" * 100_000,
    '{"format": ' + "9" * 5000 + "}",
    {},
    {"format": 2, "spaces": {}},
    {"format": "\x1b[31m\nred", "spaces": {}},
    {"format": 1},
    {"format": 1, "spaces": []},
    {"format": 1, "spaces": {"a": []}},
    {"format": 1, "spaces": {"a": {"x.y": []}}},
    {"format": 1, "spaces": {"a": {"x.y": {"original": "1"}}}},
    {"format": 1, "spaces": {"a": {"x.y": {"original": 1, "ours": []}}}},
    {"format": 1, "spaces": {"a": {"x.y": {"original": None, "ours": []}}}},
    {"format": 1, "spaces": {"a": {"x.y": {"original": "1", "ours": [2]}}}},
    {"format": 1, "spaces": {"a": {"x.y": {"original": "1", "ours": None}}}},
    {"format": 1, "spaces": {"a": {"../../etc/passwd": {"original": "1", "ours": []}}}},
    {"format": 1, "spaces": {"a": {"x\ny": {"original": "1", "ours": []}}}},
    {"format": 1, "spaces": {"a": {"\x1b[2J": {"original": "1", "ours": []}}}},
    {"format": 1, "spaces": {"a": {"x" * 200: {"original": "1", "ours": []}}}},
    '{"format": 1, "spaces": {}}' + " " * (5 << 20),
]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: str(content)[:50].encode("ascii", "replace"))
def test_a_damaged_record_is_one_sentence_and_stays(tmp_path: Path, content: Any) -> None:
    path = tmp_path / NAME
    if content == "\ud800":
        path.write_bytes(b"\xff\xfe")
    else:
        write_record(tmp_path, content)
    before = path.read_bytes()
    with (
        pytest.raises(TuningError) as caught,
        Journal.opened(tmp_path, BOOT_ID, create=True),
    ):
        pass
    sentence = str(caught.value)
    assert sentence.startswith(f"--state-dir: the record '{path}' ")
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert len(sentence) < len(str(path)) + 300
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["directory", "fifo", "loop", "device"])
def test_what_is_no_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / NAME
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "device":
            path.symlink_to("/dev/zero")

    def read() -> None:
        signal.alarm(20)  # rather than wait for a writer that never comes
        with (
            pytest.raises(TuningError, match="cannot be read"),
            Journal.opened(tmp_path, BOOT_ID, create=True),
        ):
            pass

    in_child(read)


def test_the_lock_keeps_others_out_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_WAIT_SECONDS", 0.05)
    with (
        Journal.opened(tmp_path, BOOT_ID, create=True),
        pytest.raises(
            TuningError, match=f"^--state-dir: another process works on the record in '{tmp_path}'.$"
        ),
        Journal.opened(tmp_path, BOOT_ID, create=True),
    ):
        pass
    note(tmp_path, ("a", "x.y", "1", "2"))


def test_who_waits_for_the_lock_sees_what_the_other_saved(tmp_path: Path) -> None:
    note(tmp_path, ("a", "x.y", "1", "2"))
    started, found = threading.Event(), []

    def second() -> None:
        started.set()
        found.append(spaces(tmp_path))

    with Journal.opened(tmp_path, BOOT_ID, create=True) as record:
        other = threading.Thread(target=second)
        other.start()
        started.wait(10)
        record.note("a", "x.y", "2", "3")
        record.save()
    other.join(10)
    assert found == [{"a": {"x.y": Entry("1", ["2", "3"])}}]


def test_a_file_system_without_locks_is_a_sentence_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refuse(descriptor: int, operation: int) -> None:
        calls.append(operation)
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(TuningError, match="No locks available"):
        note(tmp_path, ("a", "x.y", "1", "2"))
    assert len(calls) == 1


def test_the_lock_and_the_new_file_follow_no_link(tmp_path: Path) -> None:
    state, target = tmp_path / "state", tmp_path / "target"
    state.mkdir()
    (state / "tuning.lock").symlink_to(target)
    with pytest.raises(TuningError, match="cannot be recorded"):
        note(state, ("a", "x.y", "1", "2"))
    assert not target.exists()
    (state / "tuning.lock").unlink()
    target.write_text("precious")
    (state / f".{NAME}.{os.getpid()}").symlink_to(target)
    note(state, ("a", "x.y", "1", "2"))
    assert target.read_text() == "precious"
    assert spaces(state) == {"a": {"x.y": Entry("1", ["2"])}}
    # And the record itself is put in a link's place.
    (state / NAME).unlink()
    target.unlink()
    (state / NAME).symlink_to(target)
    note(state, ("a", "x.y", "3", "4"))
    assert not target.exists()
    assert not (state / NAME).is_symlink()


UNUSABLE = (
    r"^--state-dir: what the settings were cannot be recorded in '.*' \(.*\); without that nothing is chan"
)


def test_a_directory_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "link")
    for directory in (tmp_path / "file", tmp_path / "file/below", tmp_path / "link", tmp_path / ("x" * 300)):
        with pytest.raises(TuningError, match=UNUSABLE):
            note(directory, ("a", "x.y", "1", "2"))
    assert spaces(tmp_path / "file/below") == {}
    with pytest.raises(TuningError, match=UNUSABLE):
        spaces(tmp_path / ("x" * 300))


@needs_root
def test_another_user_s_directory_is_a_sentence(tmp_path: Path) -> None:
    note(tmp_path / "state", ("a", "x.y", "1", "2"))

    def look() -> None:
        os.chdir(descriptor)
        for create in (True, False):
            with (
                pytest.raises(TuningError, match=r"Permission denied"),
                Journal.opened(Path("state"), BOOT_ID, create=create),
            ):
                pass

    tmp_path.chmod(0o755)
    (tmp_path / "state").chmod(0o700)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    as_nobody(look)
    os.close(descriptor)


@namespaced
def test_a_read_only_directory_is_a_sentence(tmp_path: Path) -> None:
    note(tmp_path, ("a", "x.y", "1", "2"))
    make_read_only(str(tmp_path))
    with pytest.raises(TuningError, match="Read-only file system"):
        note(tmp_path, ("a", "x.y", "2", "3"))


def test_a_full_disk_leaves_the_record_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, ("a", "x.y", "1", "2"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TuningError, match="No space left on device"):
        note(tmp_path, ("a", "x.y", "2", "3"))
    assert spaces(tmp_path) == {"a": {"x.y": Entry("1", ["2"])}}
    assert sorted(os.listdir(tmp_path)) == [NAME, "tuning.lock"]


def test_a_killed_process_leaves_the_old_record_or_the_new(tmp_path: Path) -> None:
    step = 0
    seen = set()
    while True:
        directory = tmp_path / str(step)
        note(directory, ("a", "x.y", "1", "2"))
        killed = is_killed_at(step, lambda: note(directory, ("a", "x.y", "2", "3")))  # noqa: B023
        seen.add(tuple(spaces(directory)["a"]["x.y"].ours))
        note(directory, ("a", "x.y", "3", "4"))
        assert spaces(directory)["a"]["x.y"].original == "1"
        assert sorted(os.listdir(directory)) == [NAME, "tuning.lock"]
        if not killed:
            break
        step += 1
    assert step >= 8
    assert seen == {("2",), ("2", "3")}


def test_a_file_is_replaced_whole_and_is_for_everybody_to_read(tmp_path: Path) -> None:
    def replace() -> None:
        os.umask(0o022)
        replace_file(tmp_path / "x", "new é\n")

    (tmp_path / "x").write_text("old")
    in_child(replace)
    assert (tmp_path / "x").read_text(encoding="utf-8") == "new é\n"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["x"]


def test_no_umask_makes_a_file_that_others_may_write(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        replace_file(tmp_path / "x", "y\n")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644
