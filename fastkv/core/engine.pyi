from collections.abc import Callable
from typing import Never, Self, final

from fastkv.store.engine import Engine as ReadableEngine
from fastkv.store.reading import Entry

SOURCES: str

@final
class Clock:
    def __new__(cls, offset_ms: int = 0) -> Self: ...
    def __call__(self, *args: Never, **kwargs: Never) -> int: ...
    def freeze(self, now_ms: int | None) -> None: ...

@final
class Engine:
    clock: Clock
    def __new__(cls, readable: ReadableEngine) -> Self: ...
    @property
    def declines(self) -> dict[str, int]: ...
    def close(self) -> None: ...
    def get(self, key: bytes, clock: Callable[[], int]) -> Entry | None: ...
    def put(
        self,
        key: bytes,
        value: bytes,
        clock: Callable[[], int],
        flags: int = 0,
        deadline_ms: int = 0,
        metadata: bytes = b"",
    ) -> int: ...
    def delete(self, key: bytes, clock: Callable[[], int]) -> bool: ...
