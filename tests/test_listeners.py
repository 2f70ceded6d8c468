"""The listening sockets: what connections inherit from them, on connections that were really accepted."""

import errno
import os
import select
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kernel_helpers import namespaced

from fastkv.errors import StartError
from fastkv.kernel.sysctl import Tree, path_of
from fastkv.listeners import Listeners
from fastkv.settings import Settings

TCP = socket.IPPROTO_TCP
Where = tuple[int, int]
NODELAY: Where = (TCP, socket.TCP_NODELAY)
KEEPALIVE: Where = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
IDLE: Where = (TCP, socket.TCP_KEEPIDLE)
INTERVAL: Where = (TCP, socket.TCP_KEEPINTVL)
PROBES: Where = (TCP, socket.TCP_KEEPCNT)
FASTOPEN: Where = (TCP, socket.TCP_FASTOPEN)
DEFER: Where = (TCP, socket.TCP_DEFER_ACCEPT)
REUSE_PORT: Where = (socket.SOL_SOCKET, socket.SO_REUSEPORT)
REUSE_ADDRESS: Where = (socket.SOL_SOCKET, socket.SO_REUSEADDR)


@contextmanager
def listening(**values: object) -> Iterator[Listeners]:
    """Sockets on a free port."""
    settings = {"port": 0, "memory_bytes": 32 << 20, "workers": 2, **values}
    listeners = Listeners(Settings(**settings))  # type: ignore[arg-type]
    try:
        yield listeners
    finally:
        listeners.close()


def options(made: socket.socket, *which: Where) -> tuple[int, ...]:
    return tuple(made.getsockopt(*each) for each in which)


def accepted(listeners: list[socket.socket], client: socket.socket) -> socket.socket:
    """The server's end of a connection, from whichever of the sockets it was given to."""
    ready, _, _ = select.select(listeners, [], [], 5)
    assert len(ready) == 1, "The connection was given to none of the sockets."
    end, address = ready[0].accept()
    end.settimeout(5)
    assert address == client.getsockname()
    return end


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (1, 1, 60, 10, 5)),
        (
            {"keepalive_seconds": 7, "keepalive_interval_seconds": 3, "keepalive_probes": 2},
            (1, 1, 7, 3, 2),
        ),
        (
            {"keepalive_seconds": 32767, "keepalive_interval_seconds": 32767, "keepalive_probes": 127},
            (1, 1, 32767, 32767, 127),
        ),
        (
            {"keepalive_seconds": 1, "keepalive_interval_seconds": 1, "keepalive_probes": 1},
            (1, 1, 1, 1, 1),
        ),
    ],
)
def test_a_connection_inherits_what_is_set_once(
    host: str, values: dict[str, int], expected: tuple[int, ...]
) -> None:
    names = (NODELAY, KEEPALIVE, IDLE, INTERVAL, PROBES)
    with listening(host=(host,), workers=1, **values) as listeners:
        (own,) = listeners.by_worker
        assert options(own[0], *names) == expected
        with (
            closing(socket.create_connection(own[0].getsockname()[:2], 5)) as client,
            closing(accepted(own, client)) as end,
        ):
            assert options(end, *names) == expected
            # Of the client's own end nothing is inherited: the test sees the right one.
            assert options(client, NODELAY, KEEPALIVE) == (0, 0)


@pytest.mark.parametrize("length", [0, 1, 256, 65535])
def test_fast_open_has_a_queue_or_none(length: int) -> None:
    most = int(Tree().read(path_of("net.core.somaxconn")) or 0)
    with listening(fastopen=length) as listeners:
        for own in listeners.by_worker:
            # The kernel cuts it down to what may wait to be accepted.
            assert options(own[0], FASTOPEN) == (min(length, most),)


def test_every_worker_has_a_socket_of_its_own_on_every_address() -> None:
    with listening(workers=3, host=("127.0.0.1", "::1")) as listeners:
        ports = {each.getsockname()[1] for own in listeners.by_worker for each in own}
        assert len(ports) == 1
        assert [len(own) for own in listeners.by_worker] == [2, 2, 2]
        descriptors = {each.fileno() for own in listeners.by_worker for each in own}
        assert len(descriptors) == 6
        for own in listeners.by_worker:
            for each in own:
                assert options(each, REUSE_PORT, REUSE_ADDRESS, DEFER) == (1, 1, 0)
                assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                assert not each.getblocking()
        assert listeners.addresses == [
            f"http://127.0.0.1:{ports.copy().pop()}",
            f"http://[::1]:{ports.pop()}",
        ]


def test_a_kernel_without_fast_open_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., None] = socket.socket.setsockopt

    class Old(socket.socket):
        def setsockopt(self, *args: object) -> None:
            if args[:2] == FASTOPEN:
                raise OSError(errno.ENOPROTOOPT, "Protocol not available")
            real(self, *args)

    monkeypatch.setattr(socket, "socket", Old)
    with listening() as listeners:
        assert options(listeners.by_worker[0][0], NODELAY, FASTOPEN) == (1, 0)


def test_a_unix_socket_is_shared_and_has_no_options(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with listening(unix=path) as listeners:
        first, second = (own[-1] for own in listeners.by_worker)
        assert first is second
        assert first.family == socket.AF_UNIX
        assert options(first, KEEPALIVE) == (0,)
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(os.fspath(path))
            client.sendall(b"hello")
            first.settimeout(5)
            with closing(first.accept()[0]) as end:
                assert end.recv(10) == b"hello"
        assert listeners.addresses[-1] == f"unix:{path}"
    assert not path.exists()


def test_a_port_that_is_served_cannot_be_shared() -> None:
    with listening() as listeners:
        port = listeners.by_worker[0][0].getsockname()[1]
        sentence = rf"^--port: {port} on 127\.0\.0\.1 is in use by another process; "
        with pytest.raises(StartError, match=sentence), listening(port=port):
            pass
    with listening(port=port):  # and at once again, whatever is in TIME_WAIT
        pass


def test_a_worker_keeps_its_own_sockets_alone(tmp_path: Path) -> None:
    with listening(workers=3, unix=tmp_path / "x.sock") as listeners:
        own = listeners.keep_only(1)
        assert own == listeners.by_worker[1]
        assert all(each.fileno() >= 0 for each in own)
        assert {each.fileno() for worker in (0, 2) for each in listeners.by_worker[worker][:-1]} == {-1}


# -- TCP Fast Open -------------------------------------------------------------------------------------------


def passive_fast_opens() -> int:
    """How many connections of this namespace brought their request in the SYN."""
    text = Path("/proc/self/net/netstat").read_text()
    names, values = (line.split() for line in text.splitlines()[:2])
    return int(dict(zip(names, values, strict=True))["TCPFastOpenPassive"])


def ask(own: list[socket.socket], number: int) -> None:
    """Send a request in the SYN, as far as client and server may, and answer it."""
    request = b"GET /%d" % number
    with closing(socket.socket()) as client:
        # Blocking: without a cookie the call has to wait for the handshake.
        assert client.sendto(request, socket.MSG_FASTOPEN, own[0].getsockname()) == len(request)
        client.settimeout(5)
        with closing(accepted(own, client)) as end:
            assert end.recv(100) == request
            end.sendall(b"fine")
            assert client.recv(100) == b"fine"


@pytest.mark.parametrize(
    ("kernel", "length", "opened"), [("3", 256, [0, 1, 2]), ("3", 0, [0, 0, 0]), ("1", 256, [0, 0, 0])]
)
@namespaced
def test_a_second_request_comes_in_the_syn_where_both_allow_it(
    kernel: str, length: int, opened: list[int]
) -> None:
    Tree().write(path_of("net.ipv4.tcp_fastopen"), kernel)
    with listening(workers=1, fastopen=length) as listeners:
        found = []
        for number in range(3):  # the first asks for the cookie
            ask(listeners.by_worker[0], number)
            found.append(passive_fast_opens())
    assert found == opened


@namespaced
def test_the_port_is_fast_for_every_worker() -> None:
    Tree().write(path_of("net.ipv4.tcp_fastopen"), "3")
    with listening(workers=2) as listeners:
        own = [sockets[0] for sockets in listeners.by_worker]
        for number in range(12):
            ask(own, number)
        assert passive_fast_opens() == 11


class Watched(socket.socket):
    """A socket that notes the permissions of its file as soon as there is one."""

    modes: list[int]

    def bind(self, address: "str | tuple[object, ...]") -> None:  # type: ignore[override]
        super().bind(address)
        if isinstance(address, str):
            self.modes.append(stat.S_IMODE(os.stat(address).st_mode))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", ["0600", "660", "0666", "0700"])
def test_the_unix_socket_is_never_open_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, mode: str
) -> None:
    """Its permissions are right when bind() returns, and whatever files are made next have theirs."""
    monkeypatch.setattr(Watched, "modes", [], raising=False)
    monkeypatch.setattr(socket, "socket", Watched)
    path = tmp_path / "fastkv.sock"
    before = os.umask(umask)
    try:
        made = Listeners(Settings(port=0, workers=2, memory_bytes=4 << 20, unix=path, unix_mode=mode))
        try:
            assert Watched.modes == [int(mode, 8)]
            assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        finally:
            made.close()
        after = os.umask(umask)
        assert after == umask
    finally:
        os.umask(before)


def test_by_default_it_is_the_owners_alone() -> None:
    assert Settings(memory_bytes=4 << 20).unix_mode == "0600"
