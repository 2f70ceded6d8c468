"""Builds the compiled core; everything else about the package stands in pyproject.toml.

What a declaration cannot say: the modules are those that fastkv/core/ has; each carries the hash of its
sources, by which it is known whether it has to be built; without a compiler the package has none of them.
"""

import runpy
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

try:
    from Cython.Build import cythonize
except ImportError:  # without it the package is installed, too
    cythonize = None

CORE = Path("fastkv/core")
# Not imported: fastkv.core imports the modules that are built here.
SOURCES = runpy.run_path(str(CORE / "sources.py"))


class BuildCore(build_ext):
    """Builds each module that is not there, or was made from other sources."""

    def run(self) -> None:
        """Build what has to be built; nothing is known from times, which a copy or a checkout changes."""
        self.extensions = [extension for extension in self.extensions if not self._is_current(extension)]
        self.force = True
        super().run()

    def build_extensions(self) -> None:
        """Build them, if anything can be built here, and say so: it takes seconds."""
        if lacking := self._lacking():
            self.warn(f"the core is not built, and fastkv runs in Python, slower: there is no {lacking}.")
            return
        for extension in self.extensions:
            sys.stderr.write(f"building {extension.name} …\n")
            # Not in threads, as what follows: Cython is not made for them.
            extension.sources = cythonize(extension, force=True, quiet=True, build_dir=self.build_temp)[
                0
            ].sources
        self.parallel = self.parallel or True
        super().build_extensions()

    def _lacking(self) -> str:
        if cythonize is None:
            return "Cython"
        with TemporaryDirectory() as directory:
            probe = Path(directory, "probe.c")
            probe.write_text("#include <Python.h>\n")
            try:
                self.compiler.compile([str(probe)], output_dir=directory)
            except CompileError:
                packages = "gcc libc6-dev python3-dev"
                return f"C compiler, or no Python.h (on Debian and Ubuntu: apt-get install {packages})"
        return ""

    def _is_current(self, extension: Extension) -> bool:
        built = Path(self.get_ext_fullpath(extension.name))
        name = extension.name.rpartition(".")[2]
        return built.is_file() and SOURCES["sources_hash"](name).encode() in built.read_bytes()


class BuildPython(build_py):
    """Puts conf/ into the package, as fastkv/conf."""

    def run(self) -> None:
        """Copy the package, then conf/."""
        super().run()
        if not self.editable_mode:
            self.copy_tree("conf", str(Path(self.build_lib, "fastkv/conf")))


# What an earlier build left behind is in no wheel: each has a directory of its own.
with TemporaryDirectory(prefix="fastkv-build-") as build_base:
    setup(
        cmdclass={"build_ext": BuildCore, "build_py": BuildPython},
        options={"build": {"build_base": build_base}},
        ext_modules=[
            Extension(
                f"fastkv.core.{name}",
                [str(CORE / f"{name}.pyx")],
                define_macros=[("FASTKV_CORE_SOURCES", f'"{SOURCES["sources_hash"](name)}"')],
                include_dirs=[str(CORE)],
                optional=True,
            )
            for name in SOURCES["module_names"]()
        ],
    )
