"""The compiled path of requests against the readable one: the same replies, the same bytes in the arena.

The core is asked itself, without a connection, and the readable path gets only what the core has answered: an
input costs little more than its ordinary requests. `both` compares whole connections.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from test_core_http import Pair

from fastkv import core
from fuzz import unpack
from fuzz.requests import TOKEN, pieces

_SETTINGS: Final[Sequence[Mapping[str, Any]]] = ({}, {"token": TOKEN})
# To compare two arenas takes a thousand times as long as to answer an input.
_CHECKED_AFTER = 2000
# By then a store was full for a while.
_RENEWED_AFTER = 100_000
_END = b"\r\n\r\n"


class _Fixture:
    """Two workers, a connection to the readable one, and how often they were used."""

    def __init__(self, number: int) -> None:
        self._settings = _SETTINGS[number]
        self._renew()

    def _renew(self) -> None:
        self._used = 0
        self._pair = Pair(**self._settings)
        self._client = self._pair.readable.client()

    def check(self, reads: Sequence[bytes]) -> None:
        """Raise where the two answer otherwise."""
        for message, replies in self._answered(reads):
            self._client.send(message)
            sent = self._client.transport.sent
            assert sent == replies, message
            sent.clear()
        self._used += 1
        if self._used % _CHECKED_AFTER == 0:
            self._pair.check()
        if self._used % _RENEWED_AFTER == 0:
            self._renew()

    def _answered(self, reads: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """The messages that the core answers, as soon as they are there, and its replies to them.

        Of what it declines the head is passed over.
        """
        serve = self._pair.compiled.http.serve
        data = b""
        for read in reads:
            data += read
            while data:
                replies, used, more = serve(data, 0, 1)
                if more == core.framing.DECLINED:
                    _, end, behind = data.partition(_END)
                    if not end:
                        break
                    data = behind
                elif more > 0:
                    assert more > len(data)
                    break
                else:
                    yield data[:used], replies
                    data = data[used:]


_fixture = cache(_Fixture)


def check(data: bytes) -> None:
    """Raise where the two paths answer otherwise, or leave another arena.

    Args:
        data: The input: requests. The seed chooses where they are cut in reads, and the settings.
    """
    rng, stream = unpack(data)
    reads = pieces(rng, stream)
    _fixture(rng.randrange(len(_SETTINGS))).check(reads)
