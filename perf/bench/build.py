"""Compiles what is not Python, into a directory of the run: load generator, C ceiling, Go server."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
NATIVE: Final = HERE / "native"
APPS: Final = HERE / "apps"


class UnavailableError(Exception):
    """Something is not there; the text says what, and what would bring it."""


def compile_c(source: Path, target: Path) -> Path:
    """Compile a file of C, once for a directory.

    Args:
        source: the file.
        target: where the program goes.

    Returns:
        The program.

    Raises:
        UnavailableError: if there is no compiler, or it fails.
    """
    if target.exists():
        return target
    if not shutil.which("gcc"):
        raise UnavailableError(
            "there is no gcc, which compiles the load generator (Debian packages gcc and libc6-dev)"
        )
    _run(["gcc", "-O2", "-Wall", "-Wextra", "-I", NATIVE, "-o", target, source, "-lm"])
    return target


def compile_go(source: Path, target: Path) -> Path:
    """Compile a program of Go with the libraries that Debian packages; the rest as for ``compile_c``."""
    if target.exists():
        return target
    packages = "golang-go and golang-github-valyala-fasthttp-dev"
    if not shutil.which("go") or not Path("/usr/share/gocode/src/github.com/valyala/fasthttp").exists():
        raise UnavailableError(f"there is no Go or no fasthttp (Debian packages {packages})")
    _run(["go", "build", "-o", target, source], GO111MODULE="off", GOPATH="/usr/share/gocode")
    return target


def _run(command: list[str | Path], **variables: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )
    if done.returncode:
        raise UnavailableError(f"{command[0]} fails: {done.stderr.strip()}")
