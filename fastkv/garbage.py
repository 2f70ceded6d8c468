"""When a worker looks for garbage: cycles that nothing refers to, which reference counts cannot see.

Nothing on the way of a request makes any, so there is little to find; what matters is how long a look takes:
50 ns for each object that was made since the last one and is still there. Where they are too many, as after a
burst of connections, they are exempted instead of looked at: they go when the last reference does.
"""

from __future__ import annotations

import gc
from typing import Final

MOST_OBJECTS: Final = 15_000
"""So many objects are looked at at once: 1 ms, or some more where they are large or in no cache."""
# The youngest are looked at in each turn, those that lived on once a minute.
_TURNS_TO_OLD: Final = 240


class Garbage:
    """Looks for garbage in a process whose collector does not by itself.

    Attributes:
        exempted: how often objects were too many.
    """

    __slots__ = ("_grown", "_turns", "exempted")

    def __init__(self) -> None:
        """Begin."""
        self._turns = 0
        self._grown = 0  # that lived on since they were looked at once, and perhaps longer
        self.exempted = 0

    def turn(self) -> None:
        """Look at what was made since the last turn; to be called some times a second."""
        self._turns += 1
        young = gc.get_count()[0]
        if young > MOST_OBJECTS or self._grown + young > MOST_OBJECTS:
            gc.freeze()
            self._grown = 0
            self.exempted += 1
        elif self._turns % _TURNS_TO_OLD == 0:
            gc.collect(1)
            self._grown = 0
        else:
            self._grown += max(young, 0)
            gc.collect(0)
