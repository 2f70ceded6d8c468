"""Long arrays of strings: the core writes them as orjson and the readable builder of RESP2 do."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv import core
from fastkv.commands.replies import OK, CommandError
from fastkv.jsonwire import answer, answer_in_steps
from fastkv.steps import finish
from fastkv.ws.resp import build_reply

if not core.COMPILED:
    pytest.skip(core.REASON, allow_module_level=True)

PARTS = st.lists(
    st.one_of(st.none(), st.binary(max_size=20), st.text(max_size=20).map(str.encode)), max_size=9
)


def is_text(part: bytes | None) -> bool:
    """Whether it has a place in JSON."""
    try:
        return part is None or part.decode() is not None
    except UnicodeDecodeError:
        return False


@given(PARTS)
def test_arrays_are_those_of_the_readable_ones(parts: list[bytes | None]) -> None:
    expected = None
    if all(map(is_text, parts)):
        expected = orjson.dumps([None if part is None else part.decode() for part in parts])
    assert core.arrays.json_array(parts) == expected
    assert core.arrays.bulk_strings(parts) == b"".join(map(build_reply, parts))


@pytest.mark.parametrize(
    "part", [1, OK, CommandError("ERR"), [b"a"], True, bytearray(b"a"), b"x" * (1 << 22)]
)
def test_what_is_left_to_the_readable_ones(part: object) -> None:
    assert core.arrays.json_array([b"a", part]) is None
    assert core.arrays.bulk_strings([part]) is None


@pytest.mark.parametrize("odd", [None, b"\xff", 7, b'"\\\n\x1f\xc3\xa9', b""])
@pytest.mark.parametrize("count", [4096, 4097, 8192, 9000])
def test_long_replies_are_answered_alike(count: int, odd: bytes | int | None) -> None:
    reply = [b"%d" % number for number in range(count)]
    for at in (0, 4095, count - 1):
        some = [*reply[:at], odd, *reply[at + 1 :]]
        expected = orjson.dumps(answer([*some]))
        assert finish(answer_in_steps([*some])) == expected
