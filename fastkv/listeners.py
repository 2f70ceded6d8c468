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
from typing import TYPE_CHECKING, Final

from fastkv.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

    from fastkv.settings import Settings


_TCP_NOTSENT_LOWAT: Final = 25  # linux/tcp.h; the socket module has no name for it


class Listeners:
    """The sockets of all workers.

    Attributes:
        by_worker: for each worker the sockets that it accepts from.
        addresses: where the server can be reached, as a person would write it.
    """

    def __init__(self, settings: Settings) -> None:
        """Bind and listen.

        Args:
            settings: host, port, unix, workers, backlog, fastopen and keepalive count.

        Raises:
            StartError: if an address cannot be had; the sentence says which and why.
        """
        self.by_worker: list[list[socket.socket]] = [[] for _ in range(settings.workers)]
        self.addresses: list[str] = []
        self._held: list[socket.socket] = []
        self._bound: set[tuple[object, ...]] = set()
        self._unix: Path | None = None
        self._settings = settings
        self._backlog = settings.backlog or socket.SOMAXCONN
        self._scheme = "https" if settings.tls_cert else "http"
        self._unix_mode = int(settings.unix_mode, 8)
        try:
            port = settings.port
            for host in settings.host:
                port = self._listen_tcp(host, port)
            if settings.unix is not None:
                self._listen_unix(settings.unix)
        except BaseException:
            self.close()
            raise

    def _listen_tcp(self, host: str, port: int) -> int:
        """Listen on all addresses of a host.

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
                    _set_for_connections(listener, self._settings)
                    listener.listen(self._backlog)
            except OSError as error:
                raise StartError(_why_not(host, port, error)) from None
            shown = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
            self.addresses.append(f"{self._scheme}://{shown}:{port}")
        return port

    def _listen_unix(self, path: Path) -> None:
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._held.append(listener)
        try:
            # The umask rather than a chmod afterwards: at no moment may others connect. This process has one
            # thread, so that nobody makes a file of theirs meanwhile.
            umask = os.umask(0o777 & ~self._unix_mode)
            try:
                listener.bind(os.fspath(path))
            finally:
                os.umask(umask)
            self._unix = path
            listener.listen(self._backlog)
        except OSError as error:
            raise StartError(
                f"--unix: no socket can be made at '{path}' ({error.strerror or error})."
            ) from None
        listener.setblocking(False)
        for sockets in self.by_worker:
            sockets.append(listener)
        self.addresses.append(f"unix:{path}")

    def keep_only(self, worker: int | None) -> list[socket.socket]:
        """In a child, close the sockets of the others.

        Args:
            worker: its number; None for one that serves nobody.

        Returns:
            The worker's own.
        """
        own = [] if worker is None else self.by_worker[worker]
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
