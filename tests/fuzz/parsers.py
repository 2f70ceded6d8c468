"""The fast parser against the full one, the full one against itself at another split, both against llhttp."""

from cases.case import MAX_BODY_BYTES, MAX_HEAD_BYTES
from llhttp import Llhttp
from reader import Reader, read

from fastkv.http.fast import FastParser
from fuzz import cut, unpack

# An end for the last head: the fast parser may wait for one where the full one knows better already.
_END = b"\r\n\r\n"


def check(data: bytes) -> None:
    """Raise where two readers differ.

    Args:
        data: The input.

    Raises:
        AssertionError: The fast parser, or another split, or llhttp led to other messages.
    """
    rng, stream = unpack(data)
    pieces = cut(rng, stream + _END)
    full = read([stream + _END], None)
    fast = FastParser(MAX_HEAD_BYTES, MAX_BODY_BYTES)
    _same(read(pieces, None), full)
    _same(read([stream + _END], fast), full)
    _same(read(pieces, fast), full)  # where it knows the sections
    # What llhttp refuses, and is right or wrong to refuse, says nothing of what comes before.
    others = Llhttp(stream).messages
    for (line, _, body), other in zip(full.messages, others, strict=False):
        assert other == (line, body) or b"://" in other[0], (other, line, body)


def _same(reader: Reader, full: Reader) -> None:
    assert reader.messages == full.messages
    assert reader.error == full.error
    assert reader.then is full.then
