from typing import Self, final

from _typeshed import ReadableBuffer

from fastkv.core.engine import Engine

SOURCES: str

@final
class Sweeper:
    def __new__(cls, engine: Engine) -> Self: ...
    def stretch(
        self,
        shard: int,
        segment: int,
        least: int,
        promotes: bool,
        now_ms: int,
        location: int,
        end: int,
        looks: int,
        moves: int,
        deadlines: list[int] | None,
    ) -> tuple[int, int, int, int, int, bytes]: ...
    def remember(self, key_hashes: ReadableBuffer) -> None: ...
