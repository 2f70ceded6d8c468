"""Snapshots of a data directory that no server uses."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from kept_helpers import THEN, leave
from old_arena import VERSIONS, read_model, unpack
from server import running
from store_helpers import NOW_MS, payload

from fastkv import clock
from fastkv.cli import main
from fastkv.errors import KeyTooLong, StartError
from fastkv.settings import Settings
from fastkv.snapshot.file import SnapshotFile
from fastkv.snapshot.format import build_block, parse_block
from fastkv.snapshot.local import opened
from fastkv.store.layout import LAYOUT_VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from fastkv.snapshot.local import Local

SETTINGS = Settings(workers=1, memory_bytes=64 << 20)


@pytest.fixture
def then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: THEN)


def entries_of(local: Local) -> dict[bytes, bytes]:
    found, cursor = {}, 0
    while True:
        block, cursor = local.page(cursor)
        found.update({key: value for key, value, *_ in parse_block(block)})
        if not cursor:
            return found


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["snapshot", *map(str, args)])
    return int(caught.value.code or 0), *capsys.readouterr()


@pytest.mark.usefixtures("then")
@pytest.mark.parametrize("clean", [True, False])
def test_everything_is_there_and_stays(tmp_path: Path, clean: bool) -> None:
    model = leave(tmp_path, clean=clean)
    before = (tmp_path / "arena").read_bytes()
    with opened(tmp_path, SETTINGS, writing=False) as local:
        assert (str(local), local.damaged, local.total()) == (str(tmp_path), 0, len(model))
        assert entries_of(local) == model
    assert (tmp_path / "arena").read_bytes() == before


@pytest.mark.usefixtures("then")
@pytest.mark.parametrize("clean", [True, False])
def test_what_is_put_stays(tmp_path: Path, clean: bool) -> None:
    model = leave(tmp_path, clean=clean)
    with opened(tmp_path, SETTINGS, writing=True) as local:
        assert local.put(build_block([(b"new", b"value", 0, 0, b""), (b"1", b"other", 0, 0, b"")])) == (2, 0)
        with pytest.raises(KeyTooLong):
            local.put(build_block([(b"k" * 1025, b"", 0, 0, b"")]))
    with opened(tmp_path, SETTINGS, writing=False) as local:
        assert entries_of(local) == {**model, b"new": b"value", b"1": b"other"}


@pytest.mark.usefixtures("then")
def test_what_is_damaged_is_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = leave(tmp_path, clean=False)
    arena = tmp_path / "arena"
    content = bytearray(arena.read_bytes())
    content[content.rindex(payload((77, 1), 77))] ^= 1
    arena.write_bytes(content)
    code, _, err = call(capsys, "save", tmp_path / "a", "--data-dir", tmp_path)
    assert (code, err) == (0, f"fastkv: left out of {tmp_path}, because damaged: 1 entry.\n")
    with closing(SnapshotFile(tmp_path / "a")) as file:
        found = {key: value for block in file.blocks() for key, value, *_ in parse_block(block)}
    assert found == {key: value for key, value in model.items() if key != b"77"}


@pytest.mark.usefixtures("then")
@pytest.mark.parametrize("version", [version for version in VERSIONS if version != LAYOUT_VERSION])
def test_the_layout_before_is_read_and_not_written(tmp_path: Path, version: int) -> None:
    (tmp_path / "lock").touch()
    unpack(tmp_path, version, clean=True)
    before = (tmp_path / "arena").read_bytes()
    alive = {k: kept.value for k, kept in read_model(version).items() if not 0 < kept.deadline_ms <= NOW_MS}
    with opened(tmp_path, SETTINGS, writing=False) as local:
        local._clock = lambda: NOW_MS
        assert entries_of(local) == alive
    with (
        pytest.raises(StartError, match=f"has layout version {version}, into which nothing is loaded"),
        opened(tmp_path, SETTINGS, writing=True),
    ):
        pass
    assert (tmp_path / "arena").read_bytes() == before


@pytest.mark.parametrize("writing", [True, False])
def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writing: bool) -> None:
    with pytest.raises(StartError, match="holds no entries"), opened(tmp_path, SETTINGS, writing=writing):
        pass
    monkeypatch.setattr(clock, "now", lambda: THEN)
    leave(tmp_path, clean=False)
    before = (tmp_path / "arena").read_bytes()
    monkeypatch.setattr(clock, "now", lambda: THEN._replace(boot_id=2))
    with (
        pytest.raises(StartError, match="when the machine went down"),
        opened(tmp_path, SETTINGS, writing=writing),
    ):
        pass
    assert (tmp_path / "arena").read_bytes() == before


def test_a_server_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Memory and shards are changed by way of a snapshot, and what has a deadline keeps it."""
    one, other, path = tmp_path / "one", tmp_path / "other", tmp_path / "a"
    with running(data_dir=one, memory="32mb") as server:
        for key, ttl in ((b"a", 3600), (b"b", 0)):
            assert (
                server.request("PUT", f"/kv/{key.decode()}" + (f"?ttl={ttl}" if ttl else ""), b"value").status
                == 201
            )
        code, out, err = call(capsys, "save", path, "--data-dir", one)
        assert (code, out) == (1, "")
        assert err.startswith(f"fastkv: --data-dir: '{one}' is in use by another fastkv;")
        assert server.stop() == 0
    saved = f"Saved 2 entries of {one} in {path} ("
    code, out, err = call(capsys, "save", path, "--data-dir", one)
    assert (code, err) == (0, "")
    assert out.startswith(saved)
    with running(data_dir=other, memory="64mb") as server:
        assert server.stop() == 0
    done = f"Loaded 2 entries of {path} into {other}.\n"
    assert call(capsys, "load", path, "--data-dir", other) == (0, done, "")
    with running(data_dir=other, memory="64mb") as server:
        reply = server.request("GET", "/kv/a")
        assert (reply.status, reply.body) == (200, b"value")
        assert 3000 < float(reply.fields["ttl"]) <= 3600
        assert "ttl" not in server.request("GET", "/kv/b").fields
        assert "clean" in server.log()
        assert server.stop() == 0


def test_no_server_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "fastkv: --data-dir: no server is asked; leave out where it is, --timeout and --token.\n"
    for option in ("--url", "--host", "--port", "--unix", "--timeout", "--token"):
        assert call(capsys, "save", tmp_path / "a", "--data-dir", tmp_path, option, "1") == (2, "", sentence)
