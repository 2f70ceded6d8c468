"""The listening sockets: made once by the supervisor, inherited by every worker.

For TCP each worker has a socket of its own per address (SO_REUSEPORT): the kernel spreads connections by
their hash. With one socket shared by all, a single worker accepts a whole burst before another wakes up.
The price is that connections in a dead worker's queue wait for its successor, some 10 ms. A unix socket has
no such option and is shared.

What a connection needs is set on the socket that it is accepted from, and inherited: no call for each
connection, and nothing that depends on the machine's defaults.

- TCP_NODELAY: a reply is one write, and waits for no acknowledgement of an earlier one.
- SO_KEEPALIVE with its times: a client whose machine is gone is noticed within two minutes, not two hours.
- TCP_NOTSENT_LOWAT: the kernel takes no more of the replies of a client that does not read than the server
  itself would, and what the server keeps is counted. 200 such clients that had asked eight times for 1 MiB
  had 18 MiB in the kernel's buffers, without it 752.
- TCP_FASTOPEN: offered, and in force only where an administrator has set the server's bit of
  net.ipv4.tcp_fastopen: a repeated SYN repeats its request (RFC 7413, section 2.1).
- SO_REUSEADDR: a restart does not wait for connections in TIME_WAIT.
- Not TCP_DEFER_ACCEPT: a client that connects and says nothing would be neither seen nor counted.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from fastkv.addresses import BindAddress, resolve
from fastkv.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fastkv.settings import Settings


# Of --port 0: ports that are free on one address and in use on another.
_MOST_REFUSED_PORTS: Final = 100
_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; the socket module has no name for it


class _Reserved(NamedTuple):
    """An address that this process holds.

    Attributes:
        address: the address.
        port: the port.
        probe: a socket that is bound to both, and never listens.
    """

    address: BindAddress
    port: int
    probe: socket.socket


class Listeners:
    """The sockets of all workers: reserved when this is made, and listening after `listen`.

    Attributes:
        by_worker: for each worker the sockets that it accepts from; empty before `listen`.
        addresses: where the server can be reached, as a person would write it.
    """

    def __init__(self, settings: Settings) -> None:
        """Resolve the hosts and reserve every address. No TCP port listens yet.

        Args:
            settings: host, port, unix, workers, fastopen and keepalive count.

        Raises:
            StartError: an address cannot be had; the sentence says which and why.
        """
        self.by_worker: list[list[socket.socket]] = [[] for _ in range(settings.workers)]
        self.addresses: list[str] = []
        self._reserved: list[_Reserved] = []
        self._unix_listener: socket.socket | None = None
        self._unix: Path | None = None
        self._settings = settings
        self._scheme = "https" if settings.tls_cert else "http"
        self._unix_mode = int(settings.unix_mode, 8)
        try:
            self._reserved = _reserve(resolve(settings.host), settings.port)
            for address, port, _ in self._reserved:
                shown = f"[{address.ip}]" if ":" in address.ip else address.ip
                self.addresses.append(f"{self._scheme}://{shown}:{port}")
            if settings.unix is not None:
                self._reserve_unix(settings.unix)
        except BaseException:
            self.close()
            raise

    def _reserve_unix(self, path: Path) -> None:
        """Make the Unix socket. It listens at once: a second server removes a socket without a listener."""
        _remove_stale(path)
        self._unix_listener = listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The umask rather than a chmod afterwards: at no moment may others connect. This process has one
            # thread, so no other file is made meanwhile.
            umask = os.umask(0o777 & ~self._unix_mode)
            try:
                listener.bind(os.fspath(path))
            finally:
                os.umask(umask)
            self._unix = path
            listener.listen()
        except OSError as error:
            raise StartError(
                f"--unix: no socket can be made at '{path}' ({error.strerror or error})."
            ) from None
        listener.setblocking(False)
        self.addresses.append(f"unix:{path}")

    def listen(self, backlog: int) -> None:
        """Make each worker's sockets, and accept connections into their queues.

        Args:
            backlog: connections that may wait on each socket, 1 or more.

        Raises:
            StartError: an address cannot be listened on after all.
        """
        for address, port, _ in self._reserved:
            try:
                for sockets in self.by_worker:
                    listener = address.bound(port, reuse_port=True)
                    sockets.append(listener)
                    _set_for_connections(listener, self._settings)
                    listener.listen(backlog)
            except OSError as error:
                raise StartError(_why_not(address.host, port, error)) from None
        if self._unix_listener is not None:
            self._unix_listener.listen(backlog)
            for sockets in self.by_worker:
                sockets.append(self._unix_listener)

    def keep_only(self, worker: int | None) -> list[socket.socket]:
        """In a child, close the sockets of the others.

        Args:
            worker: its number; None for one that serves nobody.

        Returns:
            The worker's own.
        """
        own = [] if worker is None else self.by_worker[worker]
        for each in self._all():
            if each not in own:
                each.close()
        return own

    def close(self) -> None:
        """Close all and remove the unix socket: from now on connections are refused."""
        for each in self._all():
            each.close()
        if self._unix is not None:
            self._unix.unlink(missing_ok=True)
            self._unix = None

    def _all(self) -> Iterator[socket.socket]:
        """Every socket; that of the Unix socket's path several times."""
        for reserved in self._reserved:
            yield reserved.probe
        if self._unix_listener is not None:
            yield self._unix_listener
        for sockets in self.by_worker:
            yield from sockets


def _reserve(addresses: Sequence[BindAddress], wanted: int) -> list[_Reserved]:
    """Bind a socket to each address, all at the same port.

    With SO_REUSEPORT alone a second server would quietly share the port: this bind asks for the port without
    it. The sockets are held and never listen, so they take no connection from the workers.

    Args:
        addresses: where.
        wanted: the port; 0 for one that is free on all addresses.

    Returns:
        What is held.

    Raises:
        StartError: an address or the port cannot be had.
    """
    refused: list[_Reserved] = []  # held, so that the next try gets another port
    try:
        while True:
            port = wanted
            reserved: list[_Reserved] = []
            try:
                for address in addresses:
                    probe = address.bound(port)
                    port = probe.getsockname()[1]
                    reserved.append(_Reserved(address, port, probe))
            except OSError as error:
                refused += reserved
                in_use = error.errno == errno.EADDRINUSE and reserved and not wanted
                if not in_use or len(refused) > _MOST_REFUSED_PORTS:
                    raise StartError(_why_not(address.host, port, error)) from None
            else:
                return reserved
    finally:
        for held in refused:
            held.probe.close()


def _set_for_connections(listener: socket.socket, settings: Settings) -> None:
    """Set what every connection accepted from a TCP socket inherits."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, settings.keepalive_seconds)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, settings.keepalive_interval_seconds)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, settings.keepalive_probes)
    listener.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, settings.max_output_bytes)
    if settings.fastopen:
        with suppress(OSError):  # a kernel without it serves all the same
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, settings.fastopen)


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
