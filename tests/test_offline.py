"""``fastkv check``: what it says about a data directory, and that it leaves it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kept_helpers import THEN, SameFile, leave
from old_arena import VERSIONS, read_model, unpack
from server import running
from store_helpers import MIB, payload

from fastkv import clock, offline
from fastkv.cli import main
from fastkv.errors import StartError
from fastkv.store.layout import LAYOUT_VERSION

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: THEN)


def damage(path: Path, at: int) -> None:
    content = bytearray((path / "arena").read_bytes())
    content[at] ^= 1
    (path / "arena").write_bytes(content)


@pytest.mark.parametrize("clean", [True, False])
def test_all_is_well(tmp_path: Path, clean: bool) -> None:
    model = leave(tmp_path, clean=clean)
    before = (tmp_path / "arena").read_bytes()
    first, why, last = offline.check(tmp_path).sentences
    assert first.startswith(f"{tmp_path}: {len(model)} entries; ")
    assert first.endswith(" of 1mb are in use.")
    assert why == ("The last stop was a clean one." if clean else "The last server came to no clean stop.")
    assert last == "Everything is whole."
    assert (tmp_path / "arena").read_bytes() == before


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("version", [version for version in VERSIONS if version != LAYOUT_VERSION])
def test_the_layout_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, clean: bool
) -> None:
    monkeypatch.setattr(offline, "DataDirectory", SameFile)
    (tmp_path / "lock").touch()
    unpack(tmp_path, version, clean=clean)
    before = (tmp_path / "arena").read_bytes()
    finding = offline.check(tmp_path)
    assert finding.ok
    assert f"{len(read_model(version))} entries;" in finding.sentences[0]
    moves = f"It has layout version {version}; the next start moves its entries to {LAYOUT_VERSION}."
    assert moves in finding.sentences
    assert (tmp_path / "arena").read_bytes() == before


@pytest.mark.parametrize("clean", [True, False])
def test_damage(tmp_path: Path, clean: bool) -> None:
    leave(tmp_path, clean=clean)
    content = (tmp_path / "arena").read_bytes()
    damage(tmp_path, content.rindex(payload((77, 1), 77)))
    finding = offline.check(tmp_path)
    assert not finding.ok
    assert finding.sentences[-1].endswith("entries are damaged, and left out.")


def test_what_check_finds_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, clean=True)
    monkeypatch.setattr("fastkv.store.Store.check", lambda _: [f"shard {i} is odd" for i in range(150)])
    finding = offline.check(tmp_path)
    assert not finding.ok
    assert finding.sentences[2] == "Shard 0 is odd."
    assert finding.sentences[-1] == "There are 50 problems more."


def test_a_directory_without_an_arena(tmp_path: Path) -> None:
    wrong = {tmp_path: "holds no entries", tmp_path / "absent": "does not exist"}
    (tmp_path / "file").touch()
    wrong[tmp_path / "file"] = "is not a directory"
    for path, what in wrong.items():
        with pytest.raises(StartError) as caught:
            offline.check(path)
        assert str(caught.value) == (
            f"--data-dir: '{path}' {what}; give the directory that a server has had as its --data-dir."
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    leave(tmp_path, clean=True)
    (tmp_path / "arena").unlink()
    with pytest.raises(StartError, match=f"--data-dir: '{tmp_path}' holds no entries; "):
        offline.check(tmp_path)


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(("check", *args))
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTKV_DATA_DIR", raising=False)
    monkeypatch.delenv("FASTKV_CONFIG", raising=False)
    leave(tmp_path, clean=True)
    code, out, err = call(capsys, "--data-dir", str(tmp_path))
    assert (code, err) == (0, "")
    assert out.endswith("\nEverything is whole.\n")
    damage(tmp_path, MIB // 8)
    assert call(capsys, "--data-dir", str(tmp_path))[0] == 1
    assert call(capsys) == (2, "", "fastkv: --data-dir: say which directory is to be checked.\n")
    assert call(capsys, "--data-dir", str(tmp_path / "absent"))[0] == 1
    monkeypatch.setenv("FASTKV_DATA_DIR", str(tmp_path))
    assert call(capsys)[1].startswith(str(tmp_path))


def test_not_while_a_server_uses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(data_dir=tmp_path) as server:
        code, out, err = call(capsys, "--data-dir", str(tmp_path))
        assert (code, out) == (1, "")
        assert err.startswith(f"fastkv: --data-dir: '{tmp_path}' is in use by another fastkv;")
        assert server.stop() == 0
