from collections.abc import Callable
from typing import final

from fastkv.core.engine import Clock, Engine

SOURCES: str

@final
class JsonCommands:
    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        row: memoryview[int],
        columns: tuple[int, int, int, int],
        wanted: memoryview[int],
        run_readable: Callable[[list[bytes], int, bool], tuple[bytes, int]],
        *,
        max_key_bytes: int,
        max_value_bytes: int,
        max_batch: int,
        max_reply_bytes: int,
    ) -> None: ...
    def answer(self, body: bytes, batch: bool = False, in_base64: bool = False) -> bytes | None: ...
