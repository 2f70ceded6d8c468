"""The harnesses find nothing in what they found interesting before, nor in a run that is always the same."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cases import CASES
from fuzz.__main__ import CORE_NAMES, NAMES
from fuzz.grammar import mutate

from fastkv import core

HERE = Path(__file__).parent
CORPUS = HERE / "fuzz" / "corpus"
_EACH = pytest.mark.parametrize("name", [*NAMES, *(CORE_NAMES if core.COMPILED else ())])
_SECONDS = 120  # at most; how many inputs there are does not depend on how fast they are
# The same inputs each time: what a chance input finds is for `make fuzz`, not for the test of another change.
_SHORT = ("-runs=3000", "-seed=1")


@_EACH
def test_the_corpus_and_what_is_near_it(name: str) -> None:
    harness = importlib.import_module(f"fuzz.{name}")
    check = harness.check
    for number, path in enumerate(sorted((CORPUS / name).iterdir())):
        check(path.read_bytes())
        check(mutate(path.read_bytes(), 3000, number))
    for case in CASES:
        check(b"\0\0" + case.data)
    if name == "http":  # its clients stay connected, and other tests look for connections that are left
        harness._fixture.cache_clear()


@pytest.mark.skipif(not core.COMPILED, reason=core.REASON)
def test_random_requests_are_answered_alike(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("fuzz.both").main(3000, 1)
    found = re.search(
        r"^3,0\d\d requests were answered alike, (\d+)\.\d% by the core;",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    assert found
    assert int(found[1]) > 50


def test_corpora_are_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert len(sizes) > 100
    assert sum(sizes) < 200_000


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: make fuzz")
def test_a_short_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", str(_SECONDS), *_SHORT],
        env={
            **os.environ,
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in NAMES:
        assert re.search(rf"^{name}: [1-9][0-9,]* executions, nothing found$", done.stdout, re.MULTILINE)
