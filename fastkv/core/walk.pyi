from typing import Any, Self, final

from fastkv.core.engine import Engine
from fastkv.glob import Glob
from fastkv.store.scan import Stretch, Walker

SOURCES: str

@final
class Walk:
    def __new__(cls, engine: Engine, readable: Walker[Any], with_values: bool) -> Self: ...
    def slots(
        self,
        base: int,
        start: int,
        end: int,
        room: int,
        most: int,
        now_ms: int,
        first: bool,
        glob: Glob | None,
    ) -> Stretch[Any]: ...
    def key_at(self, slot: int, now_ms: int) -> bytes | None: ...

@final
class Log:
    def __new__(cls, engine: Engine) -> Self: ...
    def give_back(self, shard: int, segments: list[int]) -> int: ...
