from collections.abc import Callable, Mapping, Sequence

SOURCES: str

class Sections:
    def __init__(
        self,
        admits: Callable[[bytes | None, bytes | None, bytes | None, bytes | None], bool],
        metadata_of: Callable[[bytes | None, bytes | None], bytes],
        treatments: Mapping[bytes, Sequence[int]],
        max_head_bytes: int,
        max_fields: int,
    ) -> None: ...
