"""Which implementation runs: all of the core's modules or none, and what is said about it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from server import ROOT, environment, running

from fastkv import core, settings
from fastkv.core.sources import module_names, sources_hash

needs_core = pytest.mark.skipif(not core.COMPILED, reason=core.REASON)

PACKAGE = Path(core.__file__).parent.parent

_ASK = """
import json
from fastkv import core
there = any(getattr(core, name) for name in core.module_names())
print(json.dumps([core.COMPILED, core.REASON, there]))
"""


def test_no_module_is_there_without_the_others() -> None:
    found = {name: getattr(core, name) is not None for name in module_names()}
    assert found == dict.fromkeys(found, core.COMPILED)
    assert bool(core.REASON) != core.COMPILED


@needs_core
def test_each_module_says_what_it_was_made_from() -> None:
    assert {name: getattr(core, name).SOURCES for name in module_names()} == {
        name: sources_hash(name) for name in module_names()
    }


def ask(package: Path, **variables: str) -> tuple[bool, str, bool]:
    """Import the core of a package: whether it is compiled, why not, and whether any module is there."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        env=environment() | {core.PURE_VARIABLE: ""} | variables | {"PYTHONPATH": str(package.parent)},
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compiled, reason, there = json.loads(done.stdout)
    return compiled, reason, there


@pytest.mark.parametrize(("value", "forces"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_a_variable_forces_the_readable_python(value: str, forces: bool) -> None:
    compiled, reason, there = ask(PACKAGE, FASTKV_PURE=value)
    assert compiled == there
    assert (reason == "FASTKV_PURE is set.") == forces


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, its modules included."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "fastkv", ignore=shutil.ignore_patterns("__pycache__")))


@needs_core
def test_a_copy_is_as_good(copy: Path) -> None:
    assert ask(copy) == (True, "", True)


@needs_core
@pytest.mark.parametrize(
    "source", ["core/hashing.pyx", "core/hashing.pxd", "core/native.h", "store/layout.py"]
)
def test_a_stale_module_is_never_used(copy: Path, source: str) -> None:
    with (copy / source).open("a") as file:
        file.write("\n")
    compiled, reason, there = ask(copy)
    assert (compiled, there) == (False, False)
    assert re.fullmatch(r"fastkv\.core\.\w+ was built from other sources .*: make core\.", reason)


@needs_core
def test_a_module_that_is_missing_is_explained(copy: Path) -> None:
    next(copy.glob("core/hashing.*.so")).unlink()
    compiled, reason, there = ask(copy)
    assert (compiled, there) == (False, False)
    assert re.fullmatch(
        r"fastkv\.core\.hashing is not built, .* C compiler .* Python\.h .*: make core\.", reason
    )


@needs_core
def test_a_module_that_is_broken_is_explained(copy: Path) -> None:
    next(copy.glob("core/hashing.*.so")).write_bytes(b"no module")
    compiled, reason, there = ask(copy)
    assert (compiled, there) == (False, False)
    assert re.fullmatch(r"fastkv\.core\.\w+ cannot be loaded \(.*\); .*: make core\.", reason)


def test_tests_that_require_the_core_do_not_run_without_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", __file__],
        env=environment() | {core.PURE_VARIABLE: "1", "CORE_REQUIRED": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "there is no compiled core. FASTKV_PURE is set." in done.stderr


def test_that_variable_is_no_setting() -> None:
    notes = settings.Settings.load({}, {core.PURE_VARIABLE: "1"}, None).notes
    assert [note for note in notes if "PURE" in note[1]] == []


def test_a_server_says_why_the_readable_python_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(core.PURE_VARIABLE, "1")
    with running(workers=1) as server:
        assert server.ready.endswith(", readable Python\n")
        assert "slower than the compiled core: FASTKV_PURE is set." in server.log()
        assert json.loads(server.request("GET", "/version").body)["core_reason"] == "FASTKV_PURE is set."
        assert json.loads(server.request("GET", "/stats").body)["core"] == "readable"


def test_python_takes_the_modules_from_the_package_alone() -> None:
    """A module imported past `fastkv.core` could be a stale one."""
    names = "|".join(module_names())
    found = [
        path
        for path in PACKAGE.rglob("*.py")
        if re.search(rf"^(from|import) fastkv\.core\.({names})\b", path.read_text(), re.MULTILINE)
    ]
    assert found == []


# Each number of the readable Python is another one in turn, in a process that is to import the engine then.
_CHANGE_EACH = """
import importlib, os, sys
from fastkv.store import layout, records, segments
for name in sys.argv[1:]:
    module = next(module for module in (layout, records, segments) if hasattr(module, name))
    if not os.fork():
        setattr(module, name, getattr(module, name) + 1)
        try:
            importlib.import_module("fastkv.core.engine")
        except ImportError as error:
            refused = f"made for another layout: {name} is " in str(error)
            os._exit(not refused)
        os._exit(1)
    if os.wait()[1]:
        print(name)
"""


@needs_core
def test_an_engine_of_another_layout_is_never_used() -> None:
    """A build makes the hash of the sources right, whatever numbers stand in them."""
    numbers = re.findall(r"^    ([A-Z_]+) = ", (PACKAGE / "core/layout.pxd").read_text(), re.MULTILINE)
    assert len(numbers) > 50
    done = subprocess.run(
        [sys.executable, "-c", _CHANGE_EACH, *numbers],
        env=environment() | {core.PURE_VARIABLE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "")


@needs_core
def test_the_stubs_say_what_the_modules_have() -> None:
    modules = [f"fastkv.core.{name}" for name in module_names()]
    allowed = ("--allowlist", "tests/stubtest.txt", "--ignore-unused-allowlist", "--ignore-disjoint-bases")
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", *modules, *allowed],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
