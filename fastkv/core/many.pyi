from collections.abc import Callable, Sequence
from typing import Self, final

from fastkv.core.engine import Engine
from fastkv.store.multi_get import MultiGet
from fastkv.store.reading import Entry

SOURCES: str

@final
class Look:
    def __new__(cls, engine: Engine, keys: Sequence[bytes], clock: Callable[[], int], form: int) -> Self: ...

@final
class Many:
    @property
    def readable(self) -> MultiGet: ...
    def __new__(cls, engine: Engine, readable: MultiGet) -> Self: ...
    def get_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[Entry | None]: ...
    def get_values(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[bytes | None]: ...
    def count_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> int: ...
