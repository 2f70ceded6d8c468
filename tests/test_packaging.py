"""The distributions: built from a copy of the sources, and installed where nothing else is.

Nothing is fetched: a bare environment borrows what fastkv needs from the one of the tests, which has fastkv
itself only by a line that such an environment does not read.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from server import ROOT

from fastkv import __version__, core
from fastkv.core.sources import module_names

needs_compiler = pytest.mark.skipif(not core.COMPILED, reason=core.REASON)

# No test measures what these builds make.
QUICKLY = {"CFLAGS": "-O0 -g0"}
_BUILD = (sys.executable, "setup.py", "-q", "build_ext", "--inplace")
_BUILT = re.compile(r"building fastkv\.core\.(\w+) …")
# What a checkout collects, and no distribution has.
_LEFT_OUT = (
    ".*_cache",
    ".fuzzed",
    ".git",
    ".hypothesis",
    ".sanitized",
    ".venv*",
    "__pycache__",
    "build",
    "node_modules",
)
_ASK = """
from fastkv import core
from fastkv.kernel import profile
profile.load("recommended")
print(core.__file__)
"""


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command that has to succeed; what it wrote."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("FASTKV_", "PYTHONPATH"))
    }
    done = subprocess.run(
        command,
        cwd=cwd,
        env=kept | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def copy_sources(target: Path) -> Path:
    """Copy the repository without what was built."""
    ignored = shutil.ignore_patterns(*_LEFT_OUT, "*.so", "*.egg-info")
    return Path(shutil.copytree(ROOT, target, ignore=ignored, symlinks=True))


class Environment:
    """A virtual environment into which nothing but fastkv is installed."""

    def __init__(self, path: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", path, cwd=path.parent)
        self.python = path / "bin/python"
        self._place = path.parent
        packages = next(path.glob("lib/python*/site-packages"))
        (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, *what: str | Path, **variables: str) -> str:
        """Install with pip, which builds with what the tests have; what it wrote."""
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python)
        offline = ("--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir")
        return run(*pip, "install", *offline, *what, cwd=self._place, **variables)

    def version(self) -> str:
        """What ``fastkv version`` says."""
        return run(self.python.parent / "fastkv", "version", cwd=self._place)

    def package(self) -> Path:
        """Where the package is; its profile of the kernel can be read there."""
        return Path(run(self.python, "-P", "-c", _ASK, cwd=self._place).strip()).parent.parent


def tracked() -> set[str]:
    """The files of the repository, those to be added included."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listed = run(
        *("git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"),
        cwd=ROOT,
    )
    return {name for name in listed.splitlines() if (ROOT / name).exists()}


def test_the_source_distribution_has_what_the_repository_has(tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")
    # As after an installation from there: what it left behind is not taken for a source.
    (sources / "fastkv/core/hashing.cpython-311-x86_64-linux-gnu.so").touch()
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path, cwd=sources)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {name for name in names if name.startswith("ultrafastkv.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == tracked()


@needs_compiler
def test_a_wheel_of_the_source_distribution(tmp_path: Path) -> None:
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path, cwd=copy_sources(tmp_path / "a"))
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", *offline, "-w", tmp_path, next(tmp_path.glob("*.tar.gz")), cwd=tmp_path, **QUICKLY)
    wheel = next(tmp_path.glob("*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert {name for name in package if not name.startswith("fastkv/")} == set()
    modules = {name for name in package if name.endswith(".so")}
    assert {Path(name).name.partition(".")[0] for name in modules} == set(module_names())
    sources = {path for path in (ROOT / "fastkv").rglob("*") if path.is_file()}
    wanted = {str(path.relative_to(ROOT)) for path in sources if path.suffix not in (".pyc", ".so", ".c")}
    assert package - modules == wanted | {f"fastkv/conf/{path.name}" for path in (ROOT / "conf").iterdir()}
    assert any(name.endswith("/LICENSE") for name in names)
    one = Environment(tmp_path / "bare")
    one.install(wheel)
    assert one.version() == f"fastkv {__version__} (compiled core)\n"
    assert one.package().is_relative_to(tmp_path / "bare")


@needs_compiler
def test_an_editable_installation_builds_what_has_changed(tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")
    one = Environment(tmp_path / "bare")
    one.install("--editable", sources, **QUICKLY)
    assert one.version() == f"fastkv {__version__} (compiled core)\n"
    assert one.package() == sources / "fastkv"
    # A line with the directory, and no import hook.
    lines = [path.read_text() for path in one.python.parent.parent.glob("lib/python*/site-packages/*.pth")]
    assert f"{sources}" in "".join(lines).split()
    assert "import" not in "".join(lines)

    def build() -> list[str]:
        """The modules that a build builds."""
        return _BUILT.findall(run(*_BUILD, cwd=sources, **QUICKLY))

    assert build() == []
    with (sources / "fastkv/core/hashing.pyx").open("a") as file:
        file.write("\n")
    assert "readable Python: fastkv.core.hashing was built from other sources" in one.version()
    assert build() == ["hashing"]
    assert build() == []
    assert one.version() == f"fastkv {__version__} (compiled core)\n"
    with (sources / "fastkv/store/layout.py").open("a") as file:
        file.write("\n")
    assert "readable Python: " in one.version()
    assert "the core is not built" in run(*_BUILD, cwd=sources, CC="/bin/false")


@pytest.mark.parametrize("lacks", ["a compiler", "Python.h"])
def test_without_a_compiler_the_readable_python_is_installed(tmp_path: Path, lacks: str) -> None:
    variables = {"CC": "/bin/false"} if lacks == "a compiler" else {"CFLAGS": "-nostdinc"}
    one = Environment(tmp_path / "bare")
    one.install(copy_sources(tmp_path / "sources"), **variables)
    said = one.version()
    assert said.startswith(f"fastkv {__version__} (readable Python: fastkv.core.")
    assert "is not built, for want of a C compiler or of Python.h" in said
    assert one.package().is_relative_to(tmp_path / "bare")
