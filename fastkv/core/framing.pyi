from typing import Final, final

from typing_extensions import disjoint_base

SOURCES: str
DONE: Final = 0
DECLINED: Final = -1

@final
class SharedWords: ...

@disjoint_base
class Framing:
    @property
    def served(self) -> int: ...
    def serve(self, data: bytes, at: int, most: int) -> tuple[bytes, int, int]: ...
