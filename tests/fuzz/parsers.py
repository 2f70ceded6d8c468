"""The parser against itself at another split, and against llhttp."""

from llhttp import Llhttp
from reader import read

from fuzz import cut, unpack

_END = b"\r\n\r\n"


def check(data: bytes) -> None:
    """Raise where two readers differ.

    Args:
        data: The input.

    Raises:
        AssertionError: Another split, or llhttp, led to other messages.
    """
    rng, stream = unpack(data)
    whole, pieces = read([stream + _END]), read(cut(rng, stream + _END))
    assert pieces.messages == whole.messages
    assert pieces.error == whole.error
    assert pieces.then is whole.then
    # What llhttp refuses, and is right or wrong to refuse, says nothing of what comes before.
    others = Llhttp(stream).messages
    for (line, _, body), other in zip(whole.messages, others, strict=False):
        assert other == (line, body) or b"://" in other[0], (other, line, body)
