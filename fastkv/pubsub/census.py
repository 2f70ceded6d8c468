"""How many subscribers each worker has, as every worker knows it from the ring.

In: the news of rows, in the order of the ring. Out: how many would get a message, in which rows; which
channels there are. Whoever has read up to the head knows all rows, but for those whose answer to its hello is
still to come. Nothing is raised.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from fastkv.glob import Glob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fastkv.pubsub.wire import Counts


class Census:
    """The subscribers of all rows.

    Attributes:
        unknown: rows that may have subscribers which are not counted here.
    """

    __slots__ = ("_channels", "_fits", "_names", "_patterns", "unknown")

    def __init__(self) -> None:
        # By name and row, for those who publish; by row, for the day that it ends.
        self._channels: dict[bytes, dict[int, int]] = {}
        self._patterns: dict[bytes, dict[int, int]] = {}
        self._fits: dict[bytes, Callable[[bytes], bool]] = {}
        self._names: defaultdict[int, set[tuple[bool, bytes]]] = defaultdict(set)
        self.unknown: set[int] = set()

    def begin(self, others: Iterable[int]) -> None:
        """Forget everything: a hello has been said.

        Args:
            others: the rows from which an answer may come.
        """
        self._channels.clear()
        self._patterns.clear()
        self._fits.clear()
        self._names.clear()
        self.unknown = set(others)

    def forget(self, row: int) -> None:
        """Take note that a row has no subscribers.

        Args:
            row: the row.
        """
        for is_pattern, name in self._names.pop(row, ()):
            self._drop(row, name, is_pattern=is_pattern)
        self.unknown.discard(row)

    def learn(self, news: Counts) -> None:
        """Take note of what a row has told.

        Args:
            news: what.
        """
        row = news.row
        if news.first:
            incomplete = row in self.unknown
            self.forget(row)
            if incomplete:
                self.unknown.add(row)
        for is_pattern, name, count in news.counts:
            table = self._patterns if is_pattern else self._channels
            if count:
                table.setdefault(name, {})[row] = count
                self._names[row].add((is_pattern, name))
                if is_pattern and name not in self._fits:
                    self._fits[name] = Glob(name).matches
            elif row in table.get(name, ()):
                self._drop(row, name, is_pattern=is_pattern)
                self._names[row].discard((is_pattern, name))
        if news.last:
            self.unknown.discard(row)

    def _drop(self, row: int, name: bytes, *, is_pattern: bool) -> None:
        table = self._patterns if is_pattern else self._channels
        rows = table[name]
        del rows[row]
        if not rows:
            del table[name]
            if is_pattern:
                del self._fits[name]

    def receivers(self, channel: bytes) -> tuple[int, set[int]]:
        """Who would get a message.

        Args:
            channel: where it is published.

        Returns:
            How many subscribers, one that has it by several patterns counted as often; and the rows of their
            workers, those that are not known among them.
        """
        count, rows = 0, set(self.unknown)
        for found in self._matching(channel):
            count += sum(found.values())
            rows.update(found)
        return count, rows

    def _matching(self, channel: bytes) -> Iterator[dict[int, int]]:
        if channel in self._channels:
            yield self._channels[channel]
        for pattern, fits in self._fits.items():
            if fits(channel):
                yield self._patterns[pattern]

    @property
    def rows(self) -> list[int]:
        """The rows that have subscribers, or may have."""
        return [*{*self.unknown, *(row for row, names in self._names.items() if names)}]

    @property
    def channels(self) -> Iterable[bytes]:
        """The channels that have subscribers of their own."""
        return self._channels.keys()

    @property
    def patterns(self) -> int:
        """How many patterns have subscribers."""
        return len(self._patterns)

    def subscribers(self, channel: bytes) -> int:
        """How many subscribers a channel has, without those of patterns."""
        return sum(self._channels.get(channel, {}).values())
