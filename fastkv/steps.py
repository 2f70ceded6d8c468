"""Work in steps: what takes long is a generator, so that its caller can stop between steps and go on later.

A step takes a few milliseconds at most; the generator yields behind it and returns its result at the end.
`fastkv.stalling` runs the steps of a connection in turns, `finish` runs all of them at once.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[float | None, None, T]
"""Work in steps, and its result. It yields None where others may have a turn, or the seconds after which to
go on where it waits for something. It holds no lock while it is suspended, and may be closed there."""


END_OF_TURN: Final = 1e-9
"""What a step yields behind which others have a turn in any case: the next one may take as long as a turn."""


class Unfinished(Exception):
    """Raised by a handler in place of a reply that takes steps.

    Attributes:
        steps: the work; its result is the reply.
    """

    def __init__(self, steps: Steps[Any]) -> None:
        super().__init__()
        self.steps = steps


def finish(steps: Steps[T]) -> T:
    """Run all steps at once, for callers that may not let others have a turn, as in a transaction.

    Args:
        steps: the work; it may not wait for anything.

    Returns:
        Its result.
    """
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
