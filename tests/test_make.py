"""The Makefile: its help is complete and fits a terminal, and an installation says what it is at."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from server import ROOT

TARGET = re.compile(r"^([a-z-]+):.*## (.*)$", re.MULTILINE)

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")

# Stands in for Python: it makes virtual environments with itself in them, and says what it would install.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/fastkv" ;;
    "-m pip") echo "pip: $*" ;;
    "serve "*) echo "serving: $*" ;;
esac
"""


def make(*args: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@needs_make
def test_help_has_every_target_in_whole_lines() -> None:
    out = make("help")
    assert max(map(len, out.splitlines())) <= 80
    targets = TARGET.findall((ROOT / "Makefile").read_text())
    assert len(targets) > 15
    told = [" ".join(part.split()) for part in re.split(r"^  make ", out, flags=re.MULTILINE)[1:]]
    assert told == [f"{name} {' '.join(summary.split())}" for name, summary in targets]


@needs_make
def test_an_installation_says_what_it_is_at(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    out = make("serve", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}", "ARGS=--port 0")
    lines = out.splitlines()
    assert [line[:6] for line in lines if " of 3: " in line] == ["1 of 3", "2 of 3", "3 of 3"]
    asked = [line for line in lines if line.startswith("pip: ")]
    assert len(asked) == 2
    # Half a minute of silence looks like a fault.
    assert not [line for line in asked if "--quiet" in line or " -q" in line]
    assert lines[-1] == "serving: serve --no-tune --port 0"
    assert make("serve", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}") == "serving: serve --no-tune\n"


def test_the_distribution_the_image_and_the_compose_project_have_one_name() -> None:

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "ultrafastkv"
    assert project["scripts"] == {"fastkv": "fastkv.start:main"}
    compose = yaml.safe_load((ROOT / "conf/compose.yaml").read_text())
    assert (compose["name"], list(compose["services"])) == ("ultrafastkv", ["ultrafastkv"])
    assert compose["services"]["ultrafastkv"]["image"] == "ultrafastkv"
    assert "docker build --tag ultrafastkv ." in (ROOT / "Makefile").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "docker build -t ultrafastkv ." in readme
    assert "belongs to another project" in readme
