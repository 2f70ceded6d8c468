"""The compiled path of requests against the readable one: the same bytes out, the same bytes in the arena."""

from fake import running_loop
from test_core_http import Pair, talk

from fuzz import cut, unpack

# To make two stores takes longer than to answer an input.
_INPUTS_PER_PAIR = 200


class _Fixture:
    """Two workers, and how often they were used."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.used = 0


_fixtures: list[_Fixture] = []


def check(data: bytes) -> None:
    """Raise where the two paths answer otherwise, or leave another arena.

    Args:
        data: The input: requests, cut in reads.
    """
    rng, stream = unpack(data)
    pieces = cut(rng, stream)
    with running_loop():
        if not _fixtures:
            _fixtures.append(_Fixture())
        fixture = _fixtures[0]
        assert talk(fixture.pair.compiled, pieces) == talk(fixture.pair.readable, pieces)
        fixture.used += 1
        if fixture.used == _INPUTS_PER_PAIR:
            fixture.pair.check()
            _fixtures.clear()
