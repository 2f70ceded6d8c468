"""What a server does for its data directory: it opens the store, has it verified, and leaves it in order.

Where the last server came to no orderly stop, a child of the supervisor verifies shard after shard; the
workers serve meanwhile. It dies with the supervisor, and is started anew if it ends before it is through.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from fastkv import clock
from fastkv.descent import die_with_parent
from fastkv.errors import StoreBusy
from fastkv.store import Store
from fastkv.store.persist import Keeper, Origin
from fastkv.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.data_dir import Claim
    from fastkv.notify import Notifier
    from fastkv.settings import Settings
    from fastkv.store import Geometry

_log = logging.getLogger("fastkv")

# A shard takes 2 s at most; a process that does none for so long is stuck.
_STUCK_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 1.0
_TRIES: Final = 5
# To leave 1 GiB in order takes 0.1 s. What takes longer than this is verified at the next start.
SETTLE_SECONDS: Final = 10.0
"""How long leaving the arena in order may take."""


def open_store(
    settings: Settings, geometry: Geometry, claim: Claim | None, notifier: Notifier
) -> tuple[Store, Keeping | None]:
    """Make the store, with what is in the data directory if there is one.

    Args:
        settings: the settings.
        geometry: the store's measures.
        claim: the data directory, if there is one.
        notifier: told how far a migration has come.

    Returns:
        The store, and what looks after its directory.

    Raises:
        StartError: if the memory or the directory is not to be had.
    """
    keeper = claim.open(settings, notifier) if claim else None
    store = Store(
        geometry.memory_bytes,
        shards=geometry.shards,
        segment_bytes=geometry.segment_bytes,
        first_version=time.time_ns() // 1000,
        lock_wait_ms=settings.lock_wait_ms,
        evicts=settings.eviction != "none",
        kept=keeper,
    )
    if claim is None or keeper is None:
        return store, None
    if keeper.origin is Origin.EMPTY:
        # Not before a store has begun in it: what stands there is an arena at every moment.
        claim.directory.put_in_place(keeper.arena.mem)
    _tell(store, keeper, claim, settings)
    return store, Keeping(store)


def _tell(store: Store, keeper: Keeper, claim: Claim, settings: Settings) -> None:
    entries = store.stats()["entries"]
    if keeper.origin is Origin.EMPTY:
        level = logging.WARNING if claim.replaces else logging.INFO
        _log.log(level, "%s: a cold start. %s", settings.data_dir, keeper.why)
    elif keeper.origin is Origin.CLEAN:
        _log.info("%s: a warm start with %d entries. %s", settings.data_dir, entries, keeper.why)
    else:
        _log.warning(
            "%s: a warm start with about %d entries, which are verified meanwhile. %s",
            settings.data_dir,
            entries,
            keeper.why,
        )


class Keeping:
    """Looks after a data directory for as long as the server runs."""

    def __init__(self, store: Store) -> None:
        """Begin.

        Args:
            store: the store in it.
        """
        self._store = store
        self._pid = 0
        self._left = store.unverified()
        self._tries = 0
        self._not_before = time.monotonic()
        self._watchdog = Watchdog(_STUCK_SECONDS)

    def turn(self, close_sockets: Callable[[], object]) -> None:
        """To be called about twice a second.

        Args:
            close_sockets: what a child closes that has no use for them.
        """
        self._store.save_clock(clock.now())
        if not self._left:
            return
        now = time.monotonic()
        self._left = left = self._store.unverified()
        if not left:
            stats = self._store.stats()
            _log.info("%d entries are verified; %d were damaged.", stats["entries"], stats["dropped"])
        elif self._pid:
            if self._watchdog.stuck(now, {self._pid: left}):
                _log.error("The process that verifies the entries gives no sign of life; it is killed.")
                self.stop()
        elif now >= self._not_before and self._tries < _TRIES:
            self._tries += 1
            self._pid = self._fork(close_sockets)

    def _fork(self, close_sockets: Callable[[], object]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            die_with_parent(parent)
            close_sockets()
            self._store.verify()
            code = 0
        except BaseException:  # noqa: BLE001 - nothing may unwind into the supervisor's stack
            _log.exception("The entries could not be verified.")
        finally:
            logging.shutdown()
            os._exit(code)

    def ended(self, pid: int) -> bool:
        """Take note of a child's end.

        Args:
            pid: its process id.

        Returns:
            Whether it was the one that verifies.
        """
        if pid != self._pid:
            return False
        self._pid = 0
        self._not_before = time.monotonic() + _PAUSE_SECONDS
        if self._store.unverified():
            _log.error(
                "The process that verified the entries ended before it was through%s.",
                "" if self._tries < _TRIES else "; from here on those who write do it",
            )
        return True

    def stop(self) -> None:
        """End the process that verifies, if there is one."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def settle(self, alive: Callable[[], object]) -> None:
        """Leave the arena in order. All other processes have ended.

        Args:
            alive: called now and then meanwhile.
        """
        deadline = time.monotonic() + SETTLE_SECONDS

        def go_on() -> bool:
            alive()
            return time.monotonic() < deadline

        try:
            settled = self._store.settle(clock.now(), go_on)
        except StoreBusy:
            settled = False
        if settled:
            _log.info("The entries are kept, and in order.")
        else:
            _log.warning("The entries are kept; the next start will have to verify them.")
