from typing import Self, final

from fastkv.core.engine import Engine

SOURCES: str

@final
class Fragments:
    def __new__(cls, engine: Engine) -> Self: ...
    def append(
        self, shard: int, key_hash: int, value: memoryview, floor: int, main: bool
    ) -> tuple[list[int], int]: ...
    def bury(self, shard: int, pieces: tuple[int, ...]) -> int: ...
