"""What a start makes of its data directory.

First it is claimed: locked and looked at, and it is decided what is to happen, before the start changes
anything. Then it is opened: with the arena that is there, with its entries in an arena of other measures, or
with an empty one. No start takes entries away unless ``--data-dir-change replace`` says so; an arena that
cannot be read is refused and stays as it is.

Enters: settings and clocks. Leaves: an arena's keeper. May be raised: `StartError`.
"""

from __future__ import annotations

import logging
import signal
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastkv import clock, machine
from fastkv.errors import KeyTooLong, StartError, StoreFull, ValueTooLong
from fastkv.options import format_size
from fastkv.store import LAYOUT_VERSION, Geometry, Store
from fastkv.store.datafile import DataDirectory, NoRoom
from fastkv.store.migrate import Moved, migrate
from fastkv.store.persist import Found, Keeper, UnreadableArena, find

if TYPE_CHECKING:
    from pathlib import Path

    from fastkv.notify import Notifier
    from fastkv.settings import Settings

_log = logging.getLogger("fastkv")

_MIGRATE: Final = "migrate"
_REPLACE: Final = "replace"
_PROGRESS_SECONDS: Final = 5.0
# A service manager is asked for so much more time with each line of progress and with each step that is long.
_EXTEND_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A data directory that is locked, and what is to happen to it.

    Attributes:
        directory: the directory.
        found: the arena that is there and is kept, None where there is none or it is to be replaced.
        geometry: the measures that the store will have.
        why: what the log says of a start without entries.
        replaces: whether there is something that is to be replaced.
    """

    directory: DataDirectory
    found: Found | None
    geometry: Geometry
    why: str = ""
    replaces: bool = False

    @classmethod
    def take(cls, settings: Settings, path: Path) -> Claim:
        """Lock a directory and decide what is to happen to it. Nothing that is there is changed.

        Args:
            settings: memory, shards and segments, where they are given, and ``data_dir_change``.
            path: the directory; it is made if it is not there.

        Returns:
            The claim.

        Raises:
            StartError: if it is in use, or what is there is to stay; the sentence says what to do.
        """
        # It stays locked until the last process that has inherited it ends.
        directory = DataDirectory(path)
        try:
            directory.remove(directory.new_path)  # a start that was killed has left it unfinished
            return cls._decided(directory, settings)
        except BaseException:
            directory.close()
            raise

    @classmethod
    def _decided(cls, directory: DataDirectory, settings: Settings) -> Claim:
        replaces = settings.data_dir_change == _REPLACE
        try:
            found = find(directory, clock.now())
        except UnreadableArena as error:
            if not replaces:
                raise StartError(
                    f"--data-dir: {error} It stays as it is; start with --data-dir-change replace to begin "
                    "empty in its place, or give another directory."
                ) from None
            found, why = None, str(error)
        else:
            why = "There is no arena yet."
            replaces = replaces and found is not None
        geometry = plan_geometry(settings, found)
        if found is not None:
            if found.geometry == geometry and not found.outdated:
                return cls(directory, found, geometry)
            if settings.data_dir_change not in (_MIGRATE, _REPLACE):
                raise StartError(
                    f"--data-dir: '{directory.path}' has {_described(found.geometry, found.layout)}, and the "
                    f"settings want {_described(geometry, LAYOUT_VERSION)}; start with "
                    "--data-dir-change migrate to keep its entries, with replace to begin empty, or "
                    f"{_way_back(found)}."
                )
            if replaces:
                why = f"The arena that was there had {_described(found.geometry, found.layout)}."
                found = None
        try:
            directory.require_room(geometry.memory_bytes, replaces=replaces)
        except NoRoom as error:
            raise StartError(_no_room(directory, found, geometry) if found else str(error)) from None
        return cls(directory, found, geometry, why, replaces)

    def open(self, settings: Settings, notifier: Notifier) -> Keeper:
        """Open what is there, after its entries were moved where that is to be, or make an empty arena.

        Args:
            settings: eviction and lock wait.
            notifier: told how far a migration has come.

        Returns:
            Its keeper; an empty arena has to be put in place once a store has begun in it.

        Raises:
            StartError: if there is no room, or not all entries fit, or a signal asks for the end; then what
                was there still is.
        """
        found = self.found
        if found is not None and (found.outdated or found.geometry != self.geometry):
            try:
                self._migrate(found, settings, Progress(self.directory, notifier))
            except BaseException:
                self.directory.remove(self.directory.new_path)
                raise
            found = find(self.directory, clock.now())
            assert found is not None
        if found is not None:
            return Keeper.go_on(self.directory, found, clock.now())
        if self.replaces:
            self.directory.remove(self.directory.arena_path)
        keeper = Keeper.create(self.directory, self.geometry, clock.now())
        keeper.why = self.why
        return keeper

    def _migrate(self, found: Found, settings: Settings, progress: Progress) -> None:
        """Put an arena in place that has all entries of the one that is there."""
        try:
            keeper = Keeper.create(self.directory, self.geometry, clock.now(), found.offset_ms)
        except NoRoom:
            raise StartError(_no_room(self.directory, found, self.geometry)) from None
        first_version = time.time_ns() // 1000
        old = Store(0, first_version=first_version, kept=Keeper.copy(self.directory, found))
        new = Store(
            0,
            # No key gets a version again that it had in any shard of the old arena.
            first_version=old.newest_version(),
            seed=old.seed,
            evicts=settings.eviction != "none",
            kept=keeper,
        )
        with closing(old), closing(new):
            progress.begin(old.stats()["entries"], found, self.geometry)
            try:
                moved = migrate(old, new, clock.arena_clock(found.offset_ms), progress.step)
            except (KeyTooLong, ValueTooLong, StoreFull) as error:
                raise StartError(
                    f"--data-dir: the entries of '{self.directory.path}' do not fit into "
                    f"{_described(self.geometry, LAYOUT_VERSION)}: {_lowered(error)} They stay as they are; "
                    f"start with more --memory, {_way_back(found)}, or with --data-dir-change "
                    "replace to begin empty."
                ) from None
            new.settle(clock.now(), progress.go_on)
            self.directory.put_in_place(keeper.arena.mem, progress.alive)
        progress.end(moved)


def plan_geometry(settings: Settings, found: Found | None) -> Geometry:
    """Choose the measures of the store: what is not set stays as it is in the arena that is there.

    Args:
        settings: memory, shards and segments.
        found: the arena that is there.

    Returns:
        The measures.

    Raises:
        StartError: if the memory is too little.
    """
    memory_bytes = settings.memory_bytes
    if found is not None:
        there = found.geometry
        if "memory_bytes" in settings.automatic and _suits(there, settings):
            memory_bytes = there.memory_bytes
        if (
            memory_bytes // there.segment_bytes * there.segment_bytes == there.memory_bytes
            and settings.shards in (None, there.shards)
            and settings.segment_bytes in (None, there.segment_bytes)
        ):
            return there
    return Geometry.plan(memory_bytes, settings.shards, settings.segment_bytes)


def _suits(geometry: Geometry, settings: Settings) -> bool:
    """Whether a size that was found earlier can go on: it fits into memory, and keys and values into it."""
    return (
        geometry.memory_bytes <= machine.usable_memory_bytes()
        and geometry.longest_key >= settings.max_key_bytes
        and geometry.longest_value >= settings.max_value_bytes
    )


class Progress:
    """Logs how far a migration has come, asks a service manager for patience, and ends it on a signal."""

    def __init__(self, directory: DataDirectory, notifier: Notifier) -> None:
        """Begin.

        Args:
            directory: the directory.
            notifier: told of each line.
        """
        self._path = directory.path
        self._notifier = notifier
        self._total = self._read = 0
        self._began = self._told = time.monotonic()

    def begin(self, total: int, found: Found, geometry: Geometry) -> None:
        """Say what is to be done.

        Args:
            total: how many entries there are, about.
            found: the arena that is there.
            geometry: the measures of the new one.
        """
        self._total = total
        self._say(
            f"{total:,} entries are moved from {_described(found.geometry, found.layout)} to "
            f"{_described(geometry, LAYOUT_VERSION)}; until that is complete the old arena stays as it is."
        )

    def step(self, read: int) -> None:
        """Take note of entries that were read.

        Args:
            read: how many so far.

        Raises:
            StartError: if a signal asks for the end.
        """
        self._read = read
        self.alive()

    def alive(self) -> None:
        """Say something if it is time for it.

        Raises:
            StartError: if a signal asks for the end.
        """
        if signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
            raise StartError(f"--data-dir: stopped while entries were moved; '{self._path}' is as it was.")
        if time.monotonic() >= self._told + _PROGRESS_SECONDS:
            percent = min(100 * self._read // max(self._total, 1), 100)
            self._say(f"{self._read:,} of {self._total:,} entries are moved ({percent}%).")

    def go_on(self) -> bool:
        """``alive``, for whom asks whether there is time left."""
        self.alive()
        return True

    def end(self, moved: Moved) -> None:
        """Say what became of the entries.

        Args:
            moved: that.
        """
        sentence = f"{moved.entries:,} entries were moved in {time.monotonic() - self._began:.1f} s"
        left_out = {
            "did not fit and were evicted": moved.evicted,
            "had expired": moved.expired,
            "were damaged and are lost": moved.damaged,
        }
        parts = [f"{count:,} {what}" for what, count in left_out.items() if count]
        level = logging.WARNING if moved.evicted or moved.damaged else logging.INFO
        self._say(f"{'; '.join((sentence, *parts))}.", level)

    def _say(self, sentence: str, level: int = logging.INFO) -> None:
        self._told = time.monotonic()
        _log.log(level, "%s: %s", self._path, sentence)
        self._notifier.extend(sentence, _EXTEND_SECONDS)


def _described(geometry: Geometry, layout: int) -> str:
    return (
        f"{format_size(geometry.memory_bytes)} in {geometry.shards} shards with segments of "
        f"{format_size(geometry.segment_bytes)} (layout {layout})"
    )


def _way_back(found: Found) -> str:
    """How a server goes on with an arena without moving its entries; words that follow "start"."""
    if found.outdated:
        return "the release that made it"
    return (
        f"with --memory {format_size(found.geometry.memory_bytes)} --shards {found.geometry.shards} "
        f"--segment-bytes {format_size(found.geometry.segment_bytes)}"
    )


def _no_room(directory: DataDirectory, found: Found, geometry: Geometry) -> str:
    return (
        f"--data-dir: there is no room in '{directory.path}' for {format_size(geometry.memory_bytes)} beside "
        f"the arena that is there, whose entries are to be moved; make some, start "
        f"{_way_back(found)}, or save them with fastkv snapshot and start with --data-dir-change "
        "replace."
    )


def _lowered(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]
