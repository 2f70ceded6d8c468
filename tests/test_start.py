"""Where the command begins: plain command lines are read as `fastkv.cli` reads them, and nothing else is."""

import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from fastkv import cli, start
from fastkv.errors import StartError
from fastkv.options import Several, Switch
from fastkv.settings import OPTIONS, Settings
from fastkv.store import Store

PLAIN = [
    "serve",
    "serve --port 0 --host ::1 --host 127.0.0.1 --no-tune --workers 2",
    "serve --host a,b --host=c --memory=64mb --config x.toml --config=y.toml",
    "serve --tune --no-tune --port 1 --port 2",
    "serve --port= --unix= --state-dir a=b",
    "serve --workers many --memory 1mb",  # wrong, but plain: who reads the settings says so
    *(f"serve {o.flag} 2" for o in OPTIONS if not isinstance(o.kind, Switch)),
    *(
        f"serve {prefix}{o.flag[2:]}"
        for o in OPTIONS
        if isinstance(o.kind, Switch)
        for prefix in ("--", "--no-")
    ),
]
NOT_PLAIN = [
    "",
    "--version",
    "health",
    "check --data-dir x",
    "serve --help",
    "serve --prot 1",
    "serve --port",
    "serve --port -1",
    "serve --port=-1",
    "serve --tune=1",
    "serve --no-port",
    "serve --no-port 1",
    "serve 1",
    "serve -- --port 1",
    "serve --host --port 1",
    "serve --notes 1",
    "serve --por 1",
]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is to be served, of all that was typed, instead of a server."""
    seen: list[dict[str, Any]] = []

    def serve(typed: dict[str, Any]) -> int:
        seen.append({name: value for name, value in typed.items() if value not in (None, ())})
        return 7

    monkeypatch.setattr(start, "serve", serve)
    return seen


@pytest.mark.parametrize("line", PLAIN)
def test_a_plain_line_is_read_like_any_other(line: str, typed: list[dict[str, Any]]) -> None:
    for main in (start.main, cli.main):
        with pytest.raises(SystemExit) as caught:
            main(line.split())
        assert caught.value.code == 7
    ours, typers = typed
    lists = {option.name for option in OPTIONS if isinstance(option.kind, Several)}
    assert ours == {name: list(v) if name in lists else v for name, v in typers.items()}
    assert start.read_plain(line.split()) == ours


@pytest.mark.parametrize("line", NOT_PLAIN)
def test_every_other_line_is_not(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start.read_plain(line.split()) is None
    left: list[list[str]] = []
    monkeypatch.setattr(cli, "main", left.append)
    start.main(line.split())
    assert left == [line.split()]


def test_the_arguments_are_the_process_own(
    typed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fastkv", "serve", "--port", "0"])
    with pytest.raises(SystemExit):
        start.main()
    assert typed == [{"port": "0"}]


class Supervisor(ModuleType):
    """Stands in for `fastkv.launch`."""

    outcome: int | BaseException = 0

    def run(self, settings: Settings) -> int:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "code", "told"),
    [
        (0, 0, ""),
        (StartError("--port: taken."), 1, "fastkv: --port: taken.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_server_ends_with_its_code(
    outcome: int | BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = Supervisor("fastkv.launch")
    fake.outcome = outcome
    monkeypatch.setitem(sys.modules, "fastkv.launch", fake)
    with pytest.raises(SystemExit) as caught:
        start.main(["serve"])
    assert (caught.value.code, *capsys.readouterr()) == (code, "", told)


def test_a_server_imports_nothing_that_serving_does_not_need() -> None:
    script = (
        "import sys; from fastkv import start; start.read_plain(['serve', '--port', '0']); "
        "import fastkv.launch; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "uvloop" in loaded
    unwanted = {
        "typer",
        "click",
        "rich",
        "pydantic",
        "tomllib",
        "difflib",
        "http.client",
        "fastkv.kernel.tuning",
    }
    assert not loaded & unwanted


def test_a_store_begins_without_touching_its_segments() -> None:
    """Where it has 64 MiB of them or 8 GiB: only the tables before the first one are written."""

    def shared_bytes() -> int:
        with open("/proc/self/status") as status:
            found = re.search(r"RssShmem:\s+(\d+) kB", status.read())
        assert found
        return int(found[1]) << 10

    for memory_bytes in (64 << 20, 8 << 30):
        before = shared_bytes()
        store = Store(memory_bytes, seed=1)
        geometry = store.geometry
        locks = 64 * (4 + geometry.shards)
        tables = geometry.first_segment * geometry.segment_bytes
        assert shared_bytes() - before <= tables + locks + (64 << 10)
        store.put(b"a", b"b", lambda: 0)
        assert store.check() == []
        store.close()
