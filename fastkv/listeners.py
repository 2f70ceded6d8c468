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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastkv.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastkv.settings import Settings


_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; the socket module has no name for it


class _Reserved(NamedTuple):
    """An address that this process holds.

    Attributes:
        host: what the settings call it.
        family: AF_INET or AF_INET6.
        address: as bind() takes it, with the port.
        probe: a socket that is bound to it, and never listens.
    """

    host: str
    family: int
    address: tuple[Any, ...]
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
            port = settings.port
            for host in settings.host:
                port = self._reserve_tcp(host, port)
            if settings.unix is not None:
                self._reserve_unix(settings.unix)
        except BaseException:
            self.close()
            raise

    def _reserve_tcp(self, host: str, port: int) -> int:
        """Bind a socket to each address of a host.

        With SO_REUSEPORT alone a second server would quietly share the port: this bind asks for the port
        without it. The socket is held and never listens, so it takes no connection from the workers.

        Args:
            host: a name or an address.
            port: 0 for any; then the first address chooses for all.

        Returns:
            The port.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise StartError(f"--host: '{host}' is no address of this machine ({error}).") from None
        for family, _, _, _, address in dict.fromkeys(found):
            where = (address[0], port, *address[2:])
            if any(where == reserved.address for reserved in self._reserved):
                continue  # two names of one address
            try:
                probe = _bound(family, where, reuse_port=False)
            except OSError as error:
                raise StartError(_why_not(host, port, error)) from None
            port = probe.getsockname()[1]
            self._reserved.append(_Reserved(host, family, (address[0], port, *address[2:]), probe))
            shown = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
            self.addresses.append(f"{self._scheme}://{shown}:{port}")
        return port

    def _reserve_unix(self, path: Path) -> None:
        """Make the Unix socket. It listens at once: a second server removes one that nobody listens on."""
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
        for reserved in self._reserved:
            host, (_, port, *_) = reserved.host, reserved.address
            try:
                for sockets in self.by_worker:
                    listener = _bound(reserved.family, reserved.address, reuse_port=True)
                    sockets.append(listener)
                    _set_for_connections(listener, self._settings)
                    listener.listen(backlog)
            except OSError as error:
                raise StartError(_why_not(host, port, error)) from None
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
