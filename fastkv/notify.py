"""What the supervisor tells a service manager: the protocol of sd_notify(3), without its library.

Messages are datagrams of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names. Without it nothing
is sent, and a manager that is gone or does not listen is no reason to stop serving: nothing is raised.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_log = logging.getLogger("fastkv")

# A manager that does not read lets its socket fill up; the supervisor has workers to look after meanwhile.
_SEND_SECONDS: Final = 0.5


class Notifier:
    """Tells a service manager what the service is doing.

    Each message has a socket of its own: they are few, and no worker inherits anything.
    """

    __slots__ = ("_address", "_watchdog_due", "_watchdog_seconds")

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        """Remember who is told.

        Args:
            address: path of the manager's socket, or ``@`` and an abstract name; "" for nobody.
            watchdog_seconds: how often a sign of life is due; 0 for never.
        """
        self._address = address
        self._watchdog_seconds = watchdog_seconds
        self._watchdog_due = 0.0

    @classmethod
    def take(cls, env: MutableMapping[str, str] = os.environ) -> Self:
        """Make one of what a service manager has put into the environment.

        Args:
            env: the environment; the variables are removed, so that no child takes them for its own.

        Returns:
            The notifier; without a manager it does nothing.
        """
        address, usec, pid = (
            env.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        watched = usec.isdecimal() and pid in ("", str(os.getpid()))
        # Half of what is allowed, as sd_watchdog_enabled(3) advises.
        return cls(address, int(usec) / 2e6 if watched else 0.0)

    def ready(self, status: str) -> None:
        """Say that the service serves, for the first time or again after ``reloading``.

        Args:
            status: a sentence for a person.
        """
        self._send("READY=1", f"STATUS={status}")

    def reloading(self, status: str) -> None:
        """Say that a reload has begun; ``ready`` ends it.

        Args:
            status: a sentence for a person.
        """
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", f"STATUS={status}")

    def extend(self, status: str, seconds: float) -> None:
        """Ask for patience while the service starts.

        Args:
            status: a sentence for a person.
            seconds: how long the next sign of life may take, whatever the manager's own limit is.
        """
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", f"STATUS={status}")

    def stopping(self, status: str, seconds: float) -> None:
        """Say that the service is about to end.

        Args:
            status: a sentence for a person.
            seconds: how long that may take, whatever the manager's own limit is.
        """
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", f"STATUS={status}")

    def alive(self) -> None:
        """Give the watchdog a sign of life if one is due; cheap enough to be called again and again."""
        now = time.monotonic()
        if self._watchdog_seconds and now >= self._watchdog_due:
            self._watchdog_due = now + self._watchdog_seconds
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        """Send one message; what hinders it is logged at most."""
        if not self._address:
            return
        # An abstract name begins with a zero byte, which no variable can hold.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_SECONDS)
                sender.sendto("\n".join(lines).encode(errors="surrogateescape"), address)
        except (OSError, ValueError) as error:
            _log.debug("The service manager was not told %s: %s.", lines[0], error)
