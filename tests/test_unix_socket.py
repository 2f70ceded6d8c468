"""Who may connect to the unix socket, from the first moment on."""

import os
import socket
import stat
from pathlib import Path

import pytest

from fastkv.listeners import Listeners
from fastkv.settings import Settings


class Watched(socket.socket):
    """A socket that notes the permissions of its file as soon as there is one."""

    modes: list[int]

    def bind(self, address: "str | tuple[object, ...]") -> None:  # type: ignore[override]
        super().bind(address)
        if isinstance(address, str):
            self.modes.append(stat.S_IMODE(os.stat(address).st_mode))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", ["0600", "660", "0666", "0700"])
def test_the_unix_socket_is_never_open_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, mode: str
) -> None:
    """Its permissions are right when bind() returns, and whatever files are made next have theirs."""
    monkeypatch.setattr(Watched, "modes", [], raising=False)
    monkeypatch.setattr(socket, "socket", Watched)
    path = tmp_path / "fastkv.sock"
    before = os.umask(umask)
    try:
        made = Listeners(Settings(port=0, workers=2, memory_bytes=4 << 20, unix=path, unix_mode=mode))
        try:
            assert Watched.modes == [int(mode, 8)]
            assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        finally:
            made.close()
        after = os.umask(umask)
        assert after == umask
    finally:
        os.umask(before)


def test_by_default_it_is_the_owners_alone() -> None:
    assert Settings(memory_bytes=4 << 20).unix_mode == "0600"
