"""Where a server listens: both families, one port for all addresses, and machines without IPv6."""

import errno
import json
import re
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from kernel_helpers import memory_path, namespaced
from server import SERVE, Server, has_ipv6, read_reply, run_to_end, running

from fastkv.errors import StartError
from fastkv.listeners import Listeners
from fastkv.settings import Settings

tmp_path = memory_path

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")

NO_IPV6 = "proc/sys/net/ipv6/conf/all/disable_ipv6"
WITHOUT_THE_FAMILY = """
import errno, os, socket

class Socket(socket.socket):
    def __init__(self, family=socket.AF_INET, *args, **kwargs):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *args, **kwargs)

socket.socket = Socket
from fastkv.start import main
main()
"""


def status(server: Server, ip: str, host: str = "") -> int:
    """Ask for /health at an address; the status of the reply."""
    with closing(socket.create_connection((ip, server.port), 10)) as client:
        client.sendall(f"GET /health HTTP/1.1\r\nHost: {host or f'localhost:{server.port}'}\r\n\r\n".encode())
        with client.makefile("rb") as stream:
            return read_reply(stream).status


def refuses(server: Server, ip: str) -> bool:
    try:
        socket.create_connection((ip, server.port), 10).close()
    except OSError as error:
        return error.errno in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return False


# -- both families -------------------------------------------------------------------------------------------


@needs_ipv6
def test_by_default_both_loopback_addresses_are_served() -> None:
    with running() as server:
        assert server.ready.startswith(
            f"fastkv serves http://127.0.0.1:{server.port} and http://[::1]:{server.port} with "
        )
        assert status(server, "127.0.0.1") == status(server, "::1") == 200
        assert status(server, "::1", f"[::1]:{server.port}") == 200
        # The names of other sites are refused on both (DNS rebinding).
        assert status(server, "127.0.0.1", "evil.example") == status(server, "::1", "evil.example") == 421
        assert "may read and write every entry" not in server.log()


@needs_ipv6
@pytest.mark.parametrize("workers", [1, 2])
def test_all_addresses_take_ipv4_as_well(workers: int) -> None:
    with running(host="::", workers=workers) as server:
        assert server.ready.startswith(f"fastkv serves http://[::]:{server.port} with ")
        for ip in ("127.0.0.1", "127.0.0.2", "::1"):
            assert status(server, ip) == 200
        assert "may read and write every entry" in server.log()


@needs_ipv6
@pytest.mark.parametrize("hosts", [("0.0.0.0", "::"), ("::", "0.0.0.0")])
def test_both_wildcards_can_be_given(hosts: tuple[str, ...]) -> None:
    with running(host=hosts) as server:
        assert status(server, "127.0.0.1") == status(server, "::1") == 200


@needs_ipv6
def test_beside_an_ipv4_address_no_other_ipv4_address_is_served() -> None:
    with running(host=("127.0.0.1", "::")) as server:
        assert status(server, "127.0.0.1") == status(server, "::1") == 200
        assert refuses(server, "127.0.0.2")


@needs_ipv6
def test_a_port_that_ipv4_uses_is_in_use_for_both() -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, err = run_to_end(host="::", port=port)
    assert code == 1
    assert err.splitlines()[-1].startswith(f"fastkv: --port: {port} on :: is in use by another process; ")


def test_an_ipv4_address_that_is_mapped_is_one_of_ipv4() -> None:
    with running(host="::ffff:127.0.0.1") as server:
        assert server.ready.startswith(f"fastkv serves http://127.0.0.1:{server.port} with ")
        assert status(server, "127.0.0.1", "evil.example") == 421


@needs_ipv6
def test_the_access_log_says_addresses_as_their_family_does(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with running(host="::", workers=1, access_log=path, access_log_format="json") as server:
        assert status(server, "127.0.0.1") == status(server, "::1") == 200
        assert server.stop() == 0
    assert [json.loads(line)["client"] for line in path.read_text().splitlines()] == ["127.0.0.1", "::1"]


@needs_ipv6
def test_health_asks_a_server_of_all_addresses() -> None:
    with running(host="::") as server:
        url = re.findall(r"http://\S+", server.ready)[0]
        for given in (["--url", url], ["--host", "::", "--port", str(server.port)]):
            done = subprocess.run([*SERVE, "health", *given], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout) == (0, f"http://[::1]:{server.port} is healthy.\n")


# -- one port ------------------------------------------------------------------------------------------------


@namespaced
def test_port_0_is_one_that_is_free_on_every_address(tmp_path: Path) -> None:
    if not has_ipv6():
        pytest.skip("this namespace has no ::1")
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40015")
    with ExitStack() as others:
        for port in range(40000, 40015):
            other = others.enter_context(closing(socket.socket(socket.AF_INET6)))
            other.bind(("::1", port))
            other.listen()
        settings = Settings(host=("127.0.0.1", "::1"), port=0, workers=1, memory_bytes=4 << 20)
        with closing(Listeners(settings)) as made:
            assert made.addresses == ["http://127.0.0.1:40015", "http://[::1]:40015"]
        last = others.enter_context(closing(socket.socket(socket.AF_INET6)))
        last.bind(("::1", 40015))
        last.listen()
        with pytest.raises(StartError, match=r"--(host|port): "):
            Listeners(settings)


def test_nothing_listens_before_it_is_told_to() -> None:
    settings = Settings(host=("127.0.0.1",), port=0, workers=2, memory_bytes=4 << 20)
    with closing(Listeners(settings)) as made, closing(socket.socket()) as client:
        port = int(made.addresses[0].rpartition(":")[2])
        assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
        made.listen(16)
        assert [len(sockets) for sockets in made.by_worker] == [1, 1]
        with closing(socket.create_connection(("127.0.0.1", port), 10)):
            pass


# -- machines without IPv6 -----------------------------------------------------------------------------------


@namespaced
def test_without_its_addresses_a_server_starts_all_the_same(tmp_path: Path) -> None:
    try:
        Path("/", NO_IPV6).write_text("1")
    except FileNotFoundError:
        pytest.skip("this kernel has no IPv6 to be taken away")
    assert not has_ipv6()
    with running() as server:
        assert server.ready.startswith(f"fastkv serves http://127.0.0.1:{server.port} with ")
        assert status(server, "127.0.0.1") == 200
    for hosts in ("::", ("::", "0.0.0.0"), "localhost"):
        with running(host=hosts) as server:
            server.host = "127.0.0.1"
            assert status(server, "127.0.0.1") == 200


@pytest.mark.parametrize("settings", [{}, {"host": "::"}, {"host": ("0.0.0.0", "::")}, {"host": "localhost"}])
def test_without_the_family_a_server_starts_all_the_same(settings: dict[str, object]) -> None:
    program = (sys.executable, "-c", WITHOUT_THE_FAMILY)
    with running((*program, "serve"), **settings) as server:
        ip = "0.0.0.0" if "::" in str(settings) else "127.0.0.1"
        assert server.ready.startswith(f"fastkv serves http://{ip}:{server.port} with ")
        assert status(server, "127.0.0.1") == 200
