from collections.abc import Callable, Mapping
from typing import Protocol, final

from fastkv.core.commands import JsonCommands
from fastkv.core.engine import Clock, Engine
from fastkv.core.framing import Framing
from fastkv.core.headers import Sections

SOURCES: str

class _Templates(Protocol):
    @property
    def hit_head(self) -> tuple[bytes, ...]: ...
    @property
    def hit_body(self) -> tuple[bytes, ...]: ...
    @property
    def resource(self) -> tuple[bytes, ...]: ...
    @property
    def resource_ttl(self) -> tuple[bytes, ...]: ...
    @property
    def created(self) -> tuple[bytes, ...]: ...
    @property
    def replaced(self) -> tuple[bytes, ...]: ...
    @property
    def not_found(self) -> bytes: ...
    @property
    def put_ok(self) -> bytes: ...
    @property
    def delete_ok(self) -> bytes: ...
    @property
    def deleted(self) -> bytes: ...
    @property
    def isolation(self) -> bytes: ...

@final
class Http(Framing):
    @property
    def commands(self) -> JsonCommands: ...
    @property
    def declines(self) -> dict[str, int]: ...
    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        sections: Sections,
        templates: _Templates,
        content_fields: Callable[[bytes], bytes],
        commands: JsonCommands,
        row: memoryview[int],
        columns: tuple[int, int, int, int],
        wanted: memoryview[int],
        *,
        max_key_bytes: int,
        max_value_bytes: int,
        max_body_bytes: int,
        max_output_bytes: int,
        large_bytes: int,
    ) -> None: ...
    def set_prefixes(self, prefixes: Mapping[int, bytes]) -> None: ...
