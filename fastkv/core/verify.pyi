from collections.abc import Callable
from typing import Self, final

from fastkv.core.engine import Engine

SOURCES: str

@final
class Surveyor:
    def __new__(cls, engine: Engine, shard: int, log: list[int]) -> Self: ...
    @property
    def entries(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    def look_through(
        self, base: int, covers: int, other: Callable[[int, int], tuple[int, int, list[int]] | None]
    ) -> None: ...
    def recount(self, header: int) -> None: ...
