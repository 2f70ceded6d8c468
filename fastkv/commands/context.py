"""What a command is given besides its words: where the entries are, the time, and who asks."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from fastkv.commands.replies import CommandError
from fastkv.errors import BatchTooLong, KeyTooLong, ReplyTooLong, ValueTooLong

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastkv.commands.session import Session
    from fastkv.glob import Glob
    from fastkv.pubsub.hub import Hub
    from fastkv.pubsub.messages import Subscriber
    from fastkv.steps import Steps
    from fastkv.store import Decide, Entry, Page

    T = TypeVar("T")

    Notify = Callable[[bytes, bytes], None]
    Publish = Callable[[bytes, bytes], int | None]


class Space(Protocol):
    """Where the entries are: the store, or a transaction on it. The methods are those of the store."""

    def get(self, key: bytes, clock: Callable[[], int]) -> Entry | None:
        """Look a key up."""

    def get_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[Entry | None]:
        """Look several keys up, as they were at one moment."""

    def get_values(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[bytes | None]:
        """Look the values of several keys up, as they were at one moment."""

    def count_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> int:
        """Count those of several keys that have an entry at one moment."""

    def put_many(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        clock: Callable[[], int],
        *,
        only_new: bool = False,
    ) -> bool:
        """Put several values at one moment, all or none."""

    def delete_many(self, keys: Sequence[bytes], clock: Callable[[], int]) -> list[bytes]:
        """Remove several entries at one moment; the keys of those that were there."""

    def put(
        self,
        key: bytes,
        value: bytes,
        clock: Callable[[], int],
        flags: int = 0,
        deadline_ms: int = 0,
        metadata: bytes = b"",
    ) -> int:
        """Insert or replace an entry."""

    def delete(self, key: bytes, clock: Callable[[], int]) -> bool:
        """Remove an entry."""

    def update(
        self, key: bytes, decide: Decide, clock: Callable[[], int], *, with_value: bool = True
    ) -> tuple[Entry | None, int]:
        """Read an entry and change it, with nobody in between."""

    def scan_keys(
        self,
        cursor: int,
        clock: Callable[[], int],
        limit_bytes: int,
        limit_entries: int,
        glob: Glob | None = None,
    ) -> Page[bytes]:
        """Read some of all keys, those that match a pattern."""

    def random_key(self, clock: Callable[[], int]) -> Steps[bytes | None]:
        """Pick an entry, each about as likely as any other."""

    def entries(self) -> int:
        """How many entries there are, those included that have expired and were not given back yet."""

    def flush(self) -> int:
        """Remove all entries at one moment; how many they were."""

    def flush_in_steps(self) -> Steps[int]:
        """Remove all entries shard by shard; how many they were."""

    def transact(
        self, keys: Sequence[bytes] | None, body: Callable[[Space], T], clock: Callable[[], int]
    ) -> T:
        """Do several things with some keys, or all, at one moment, all or none."""


class Counters(Protocol):
    """A row of counters, by ``fastkv.stats.Column``."""

    def __getitem__(self, column: int, /) -> int:
        """What was counted."""

    def __setitem__(self, column: int, count: int, /) -> None:
        """Count."""


class Client(Protocol):
    """Who asks: a connection, as far as commands are concerned.

    Attributes:
        session: what it keeps between its commands; None for one whose commands come alone.
    """

    session: Session | None

    @property
    def subscriber(self) -> Subscriber | None:
        """Who gets the messages that it subscribes to; None if nobody can."""


class Nobody:
    """A client that keeps nothing."""

    __slots__ = ("session", "subscriber")

    def __init__(self) -> None:
        self.session: Session | None = None
        self.subscriber: Subscriber | None = None


NOBODY: Final = Nobody()

ALWAYS: Final = (1,)
"""The word of listeners where changes are always told."""


def _to_nobody(channel: bytes, payload: bytes) -> int:
    """Publish where nobody passes messages on."""
    return 0


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of commands; ``fastkv.settings`` owns their defaults.

    Attributes:
        max_key, max_value: the longest that may be written, in bytes.
        max_batch: so many commands may come together, and so many keys.
        batch_seconds: how long a transaction may take.
        max_reply: the longest reply with several values, in bytes.
        max_keys: so many entries may be looked at by one command.
        max_transaction: what a connection may keep for its transaction, in bytes.
    """

    max_key: int
    max_value: int
    max_batch: int
    batch_seconds: float
    max_reply: int
    max_keys: int
    max_transaction: int


class Context:
    """What a command is given besides its words.

    Attributes:
        space: where the entries are.
        clock: milliseconds now, on the clock of the entries' deadlines.
        ahead_ms: what Unix time is ahead of that clock.
        counters: where hits, misses, puts and deletes are counted.
        notify: is told of each change, once it is done: the event's name as Redis has it, and the key.
        wanted: a view of a word; as long as it is 0 ``notify`` does nothing.
        client: who asks.
        limits: the bounds.
        hub: who passes messages on; None where there is nobody.
        publish: sends a message on a channel; says how many get it, None if there is no room for it yet.
        stats: what the server tells of itself.
        walks: how many clients collect keys just now.
    """

    __slots__ = (
        "ahead_ms",
        "client",
        "clock",
        "counters",
        "hub",
        "limits",
        "notify",
        "publish",
        "space",
        "stats",
        "walks",
        "wanted",
    )

    def __init__(
        self,
        space: Space,
        clock: Callable[[], int],
        ahead_ms: Callable[[], int],
        counters: Counters,
        notify: Notify,
        *,
        client: Client,
        limits: Limits,
        hub: Hub | None,
        wanted: Sequence[int] = ALWAYS,
        stats: Callable[[], Mapping[str, int | str]],
    ) -> None:
        """See the attributes."""
        self.space = space
        self.clock = clock
        self.ahead_ms = ahead_ms
        self.counters = counters
        self.notify = notify
        self.wanted = wanted
        self.client = client
        self.limits = limits
        self.hub = hub
        self.publish: Publish = hub.publish if hub else _to_nobody
        self.stats = stats
        self.walks = 0

    def check(self, key: bytes, value_len: int = 0) -> None:
        """Find out whether an entry may be written.

        Args:
            key: its key.
            value_len: bytes of its value.

        Raises:
            CommandError: if the key is empty.
            KeyTooLong: if the key is longer than ``max_key``.
            ValueTooLong: if the value is longer than ``max_value``.
        """
        if not key:
            raise CommandError("ERR the key is empty; a key has at least one byte here")
        if len(key) > self.limits.max_key:
            raise KeyTooLong(f"the key has {len(key)} bytes; --max-key-bytes allows {self.limits.max_key}")
        if value_len > self.limits.max_value:
            raise ValueTooLong(
                f"the value would have {value_len} bytes; --max-value-bytes allows {self.limits.max_value}"
            )

    def check_all(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Find out whether several entries may be written; otherwise as ``check``.

        Args:
            keys: their keys, one at least.
            values: their values.
        """
        limits = self.limits
        if not all(keys) or max(map(len, keys)) > limits.max_key or max(map(len, values)) > limits.max_value:
            for key, value in zip(keys, values, strict=True):
                self.check(key, len(value))

    def notify_all(self, event: bytes, keys: Sequence[bytes]) -> None:
        """Tell of the same change of several keys.

        Args:
            event: as for ``notify``.
            keys: the keys.
        """
        if self.wanted[0]:
            for key in keys:
                self.notify(event, key)

    def check_batch(self, count: int) -> None:
        """Find out whether so many commands may come together.

        Args:
            count: how many.

        Raises:
            BatchTooLong: if they are more than ``max_batch``.
        """
        most = self.limits.max_batch
        if count > most:
            raise BatchTooLong(f"{count} commands are too many together; --max-batch allows {most}")

    def check_keys(self, count: int) -> None:
        """Find out whether one command or transaction may name so many keys: it locks out others meanwhile.

        Args:
            count: how many.

        Raises:
            BatchTooLong: if they are more than ``max_batch``.
        """
        if count > self.limits.max_batch:
            raise BatchTooLong(
                f"{count} keys are too many together; --max-batch allows {self.limits.max_batch}"
            )

    def check_reply(self, size: int) -> None:
        """Find out whether a reply may be so long.

        Args:
            size: bytes of its values.

        Raises:
            ReplyTooLong: if not.
        """
        if size > self.limits.max_reply:
            raise ReplyTooLong(
                f"the reply would take {size} bytes; --max-reply-bytes allows {self.limits.max_reply}"
            )

    def within(self, space: Space, counters: Counters, notify: Notify, publish: Publish) -> Context:
        """The context of a command in a transaction.

        Args:
            space: the transaction.
            counters: what is added to this context's once it is committed.
            notify: keeps what is told once it is committed.
            publish: keeps what is sent once it is committed; says how many would get it now.
        """
        inner = copy(self)
        inner.walks = 0  # in a transaction there is no waiting
        inner.space, inner.counters, inner.notify, inner.publish = space, counters, notify, publish
        inner.wanted = ALWAYS
        return inner
