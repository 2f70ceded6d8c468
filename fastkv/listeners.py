"""The listening sockets: made once by the supervisor, inherited by every worker.

For TCP each worker has a socket of its own per address (SO_REUSEPORT): the kernel spreads connections by
their hash. With one socket shared by all, a single worker accepts a whole burst before another wakes up.
The price is that connections in a dead worker's queue wait for its successor, some 10 ms. A unix socket has
no such option and is shared.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from fastkv.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

    from fastkv.settings import Settings


class Listeners:
    """The sockets of all workers.

    Attributes:
        by_worker: for each worker the sockets that it accepts from.
        addresses: where the server can be reached, as a person would write it.
    """

    def __init__(self, settings: Settings) -> None:
        """Bind and listen.

        Args:
            settings: host, port, unix, workers and backlog count.

        Raises:
            StartError: if an address cannot be had; the sentence says which and why.
        """
        self.by_worker: list[list[socket.socket]] = [[] for _ in range(settings.workers)]
        self.addresses: list[str] = []
        self._held: list[socket.socket] = []
        self._bound: set[tuple[object, ...]] = set()
        self._unix: Path | None = None
        try:
            port = settings.port
            for host in settings.host:
                port = self._listen_tcp(host, port, settings.backlog)
            if settings.unix is not None:
                self._listen_unix(settings.unix, settings.backlog)
        except BaseException:
            self.close()
            raise

    def _listen_tcp(self, host: str, port: int, backlog: int) -> int:
        """Listen on all addresses of a host.

        Args:
            host: a name or an address.
            port: 0 for any; then the first address chooses for all.
            backlog: connections that may wait.

        Returns:
            The port.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise StartError(f"--host: '{host}' is no address of this machine ({error}).") from None
        for family, _, _, _, address in dict.fromkeys(found):
            where = (address[0], port, *address[2:])
            if where in self._bound:
                continue  # two names of one address
            try:
                # With SO_REUSEPORT alone a second server would quietly share the port: the first bind asks
                # for the port without it. Held but not listening, it is in nobody's way.
                probe = _bound(family, where, reuse_port=False)
                self._held.append(probe)
                port = probe.getsockname()[1]
                self._bound.add((address[0], port, *address[2:]))
                for sockets in self.by_worker:
                    listener = _bound(family, (address[0], port, *address[2:]), reuse_port=True)
                    sockets.append(listener)
                    listener.listen(backlog)
            except OSError as error:
                raise StartError(_why_not(host, port, error)) from None
            self.addresses.append(
                f"http://[{address[0]}]:{port}" if ":" in str(address[0]) else f"http://{address[0]}:{port}"
            )
        return port

    def _listen_unix(self, path: Path, backlog: int) -> None:
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._held.append(listener)
        try:
            listener.bind(os.fspath(path))
            self._unix = path
            listener.listen(backlog)
        except OSError as error:
            raise StartError(
                f"--unix: no socket can be made at '{path}' ({error.strerror or error})."
            ) from None
        listener.setblocking(False)
        for sockets in self.by_worker:
            sockets.append(listener)
        self.addresses.append(f"unix:{path}")

    def keep_only(self, worker: int) -> list[socket.socket]:
        """In a worker, close the sockets of the others.

        Args:
            worker: its number.

        Returns:
            The worker's own.
        """
        own = self.by_worker[worker]
        for listener in [*self._held, *(s for sockets in self.by_worker for s in sockets)]:
            if listener not in own:
                listener.close()
        return own

    def close(self) -> None:
        """Close all and remove the unix socket: from now on connections are refused."""
        for listener in [*self._held, *(s for sockets in self.by_worker for s in sockets)]:
            listener.close()
        if self._unix is not None:
            self._unix.unlink(missing_ok=True)
            self._unix = None


def _bound(family: int, address: tuple[object, ...], *, reuse_port: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1
            )  # so that 0.0.0.0 can be given as well
        made.setblocking(False)
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port: {port} on {host} is in use by another process; stop it or give another port."
    if error.errno == errno.EACCES:
        return f"--port: {port} on {host} may not be bound by this user; ports below 1024 need privileges."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host: '{host}' is no address of this machine."
    return f"--host: {host}, port {port} cannot be listened on ({error.strerror or error})."


def _remove_stale(path: Path) -> None:
    """Remove what a killed server left behind, and nothing else.

    Args:
        path: of a unix socket.

    Raises:
        StartError: if a server answers there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"--unix: '{path}' exists and is no socket; it is left alone.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(os.fspath(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except OSError as error:
        raise StartError(f"--unix: '{path}' cannot be looked at ({error.strerror or error}).") from None
    raise StartError(f"--unix: '{path}' is in use by another process; stop it or give another path.")
