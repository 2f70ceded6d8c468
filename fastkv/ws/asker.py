"""Who asks by WebSocket, as the codecs see a session."""

from __future__ import annotations

from typing import Final, Protocol

from fastkv.commands.context import Client

_SUBSCRIBING: Final = frozenset((b"SUBSCRIBE", b"PSUBSCRIBE"))
_SHORTEST: Final = min(map(len, _SUBSCRIBING))


class Asker(Client, Protocol):
    """A session, as far as the codecs are concerned.

    Attributes:
        pushes: the first byte of the frames that it is sent unasked: they come as it has subscribed.
    """

    pushes: int


def is_subscribing(words: list[bytes]) -> bool:
    """Whether a command subscribes.

    Args:
        words: of the command, at least one.
    """
    return len(words[0]) >= _SHORTEST and words[0].upper() in _SUBSCRIBING
