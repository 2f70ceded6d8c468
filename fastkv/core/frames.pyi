from typing import final

from fastkv.core.commands import JsonCommands
from fastkv.core.framing import Framing

SOURCES: str

@final
class TextFrames(Framing):
    @property
    def declines(self) -> dict[str, int]: ...
    def __init__(
        self,
        commands: JsonCommands,
        row: memoryview[int],
        column: int,
        *,
        max_message_bytes: int,
        max_reply_bytes: int,
        max_output_bytes: int,
        large_bytes: int,
    ) -> None: ...
