from collections.abc import Callable, Mapping, Sequence
from typing import final

from _typeshed import ReadableBuffer

SOURCES: str

@final
class Sections:
    def __init__(
        self,
        admits: Callable[[bytes | None, bytes | None, bytes | None, bytes | None], bool],
        metadata_of: Callable[[bytes | None, bytes | None], bytes],
        treatments: Mapping[bytes, Sequence[int]],
        max_head_bytes: int,
        max_fields: int,
    ) -> None: ...
    def examine(
        self, data: ReadableBuffer, route: int, at: int = 0, line_bytes: int = 0, times: int = 1
    ) -> tuple[int, int, int, bytes] | None: ...
    def known_sections(self, route: int) -> list[tuple[bytes, bytes]]: ...
