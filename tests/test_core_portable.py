"""The core as other machines build it: without vectors, and believing no order of Python's stores.

Built without optimisation, for no machine but this one; its tests run in processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from server import ROOT

from fastkv import core

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not core.COMPILED, reason=core.REASON)

_PORTABLE = "-O0 -g0 -DFASTKV_UNORDERED -U__SSE2__"
# What counts which operations the engine leaves to the readable one expects none to be left.
_TESTS = (
    "tests/test_core_text.py",
    "tests/test_core_headers.py",
    "tests/test_core_engine.py",
    "tests/test_core_walk.py",
    "tests/test_http_both.py::test_cases_in_a_row",
    *("-k", "not Equality and not hardly_ever and not closed_engine"),
)

# A hit counts if its record vouches for itself and for the word of its slot; misses do not, nor do several.
_VOUCHES = """
from types import SimpleNamespace

from fastkv import core
from store_helpers import MIB, SEED, clock
from test_core_engine import spy, store_of

store = store_of(MIB, 1, None, compiled=True)
declined = []
engine = core.engine.Engine(spy(store.readable, declined))
store.put(b"key", b"value", clock, metadata=b"metadata")
entry = engine.get(b"key", clock)
assert (entry[0], declined) == (b"value", [])
slot, word = entry[4:6]
record = 8 * (word & store.geometry.location_mask)
size = 12 + len(b"key" b"value" b"metadata") + 1 + 4
for bit in range(8 * size):
    store.counts[record + bit // 8] ^= 1 << bit % 8
    assert engine.get(b"key", clock) is None, bit
    store.counts[record + bit // 8] ^= 1 << bit % 8
assert len(declined) == 8 * size
store.words[slot] ^= 1 << store.geometry.version_shift
assert engine.get(b"key", clock) is None
store.words[slot] ^= 1 << store.geometry.version_shift
assert engine.get(b"none", clock) is None
assert len(declined) == 8 * size + 2
readable = SimpleNamespace(get_many=lambda keys, clock: [], count_many=lambda keys, clock: -1)
many = core.many.Many(engine, readable)
assert (many.get_many([b"key"], clock), many.count_many([b"key"], clock)) == ([], -1)
assert engine.get(b"key", clock) == entry
engine.close()
assert store.check() == []
"""


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a package whose core is built in that way."""
    place = tmp_path_factory.mktemp("portable")
    build = ("setup.py", "-q", "build", "--build-base", str(place), "--build-lib", str(place / "lib"))
    run(*build, CFLAGS=_PORTABLE)
    return place / "lib"


def run(*arguments: str, **variables: str) -> None:
    """Run Python, which has to succeed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"CORE_REQUIRED": "1", "PYTHONSAFEPATH": "1"} | variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_it_does_the_same(portable: Path) -> None:
    run("-m", "pytest", "-p", "no:cacheprovider", *_TESTS, PYTHONPATH=str(portable))


def test_it_believes_what_vouches_for_itself(portable: Path) -> None:
    run("-c", _VOUCHES, PYTHONPATH=f"{portable}{os.pathsep}{ROOT / 'tests'}")
