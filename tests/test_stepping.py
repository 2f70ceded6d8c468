"""The steps themselves: what they stop at, and that they would show a reader or a writer that is wrong."""

from __future__ import annotations

import _ctypes
import ctypes
import mmap
from itertools import pairwise

import pytest
import stepping
from stepping import Reader, Stepped, Stop
from xxhash import _xxhash, xxh32_intdigest  # type: ignore[attr-defined]

stepping.require()

SIZE = 4096


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, SIZE)


def test_a_writer_is_stopped_behind_each_instruction_that_changes_something(memory: mmap.mmap) -> None:
    new = bytes(range(1, 201))
    at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    seen = []
    with Stepped(lambda: ctypes.memmove(at, new, len(new)), _ctypes, (memory,)) as process:
        seen = [memory[:] for _ in process.changes()]
        assert process.stop is Stop.LEFT
        process.finish()
    assert seen[-1][: len(new)] == new
    assert len(seen) > 2
    assert len(set(seen)) == len(seen)
    for before, after in pairwise(seen):
        assert sum(a != b for a, b in zip(before, after, strict=True)) <= 64  # one store of the machine


def test_a_reader_that_trusts_what_it_reads_is_seen_torn(memory: mmap.mmap) -> None:
    """A checksum over shared memory, which is overwritten at each instruction of it in turn."""
    old, new = b"a" * 64, b"b" * 64
    memory[:64] = old
    view = memoryview(memory)[:64]
    whole = {xxh32_intdigest(old), xxh32_intdigest(new)}
    found = []
    with Reader(lambda: xxh32_intdigest(view), _xxhash) as reader:
        for number in range(len(reader.path)):
            assert reader.stand_before(number)
            memory[:64] = new
            found.append(reader.result())
            memory[:64] = old
    view.release()
    assert found[0] == xxh32_intdigest(new)
    assert found[-1] == xxh32_intdigest(old)
    assert not set(found) <= whole
