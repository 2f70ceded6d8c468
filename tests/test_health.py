"""The health check: real servers, healthy and not, and fake ones that answer as none should."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from server import ROOT, Server, environment, in_background, running, wait_until

from fastkv import health, machine
from fastkv.cli import main
from fastkv.errors import SettingsError
from fastkv.health import Address, parse_url, server_address

Run = Callable[..., tuple[int, str, str]]
Answer = Callable[[socket.socket], object]

# Where an answer is expected the wait may be long, for the tests may share the CPU with whatever else runs.
PATIENT = ("--timeout", "30")
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without settings."""
    for name in list(os.environ):
        if name.startswith("FASTKV_"):
            monkeypatch.delenv(name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``fastkv health``; exit code, stdout and stderr."""

    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["health", *args])
        return int(caught.value.code or 0), *capsys.readouterr()

    return call


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# -- a real server -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("health") / "fastkv.sock"


@pytest.fixture(scope="module")
def server(socket_path: Path) -> Iterator[Server]:
    """A server on both loopback addresses and a Unix socket."""
    with running(workers=1, host=("127.0.0.1", "::1"), unix=socket_path) as started:
        yield started


def test_as_a_command(server: Server) -> None:
    """In a process of its own, as a container runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "fastkv", "health", "--port", str(server.port), *PATIENT],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"http://127.0.0.1:{server.port} is healthy.\n",
        "",
    )


@pytest.mark.parametrize(
    ("args", "address"),
    [
        ("--port {port}", "http://127.0.0.1:{port}"),
        ("--host localhost --port {port}", "http://localhost:{port}"),
        ("--host ::1 --port {port}", "http://[::1]:{port}"),
        ("--host [::1] --host 127.0.0.1 --port {port}", "http://[::1]:{port}"),
        ("--host 0.0.0.0 --port {port}", "http://127.0.0.1:{port}"),
        ("--host 0::0 --port {port}", "http://[::1]:{port}"),
        ("--unix {path}", "unix:{path}"),
        ("--unix {path} --port 1", "unix:{path}"),
        ("--url http://127.0.0.1:{port}", "http://127.0.0.1:{port}"),
        ("--url http://localhost:{port}/", "http://localhost:{port}"),
        ("--url http://[::]:{port}", "http://[::1]:{port}"),
        ("--url unix:{path}", "unix:{path}"),
    ],
)
def test_a_healthy_server(run: Run, server: Server, socket_path: Path, args: str, address: str) -> None:
    names = {"port": server.port, "path": socket_path}
    expected = f"{address} is healthy.\n".format(**names)
    assert run(*args.format(**names).split(), *PATIENT) == (0, expected, "")
    assert run(*args.format(**names).split(), *PATIENT, "--quiet") == (0, "", "")


def test_every_address_of_the_first_line_can_be_asked(run: Run, server: Server) -> None:
    addresses = server.ready.removeprefix("fastkv serves ").partition(" with ")[0].split(" and ")
    assert len(addresses) == 3
    for address in addresses:
        assert run("--url", address, *PATIENT) == (0, f"{address} is healthy.\n", "")


def test_the_environment_and_the_file_say_where(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    healthy = (0, f"http://[::1]:{server.port} is healthy.\n", "")
    config = tmp_path / "x.toml"
    config.write_text(f'host = "::1"\nport = {server.port}')
    assert run("--config", str(config), *PATIENT) == healthy
    monkeypatch.setenv("FASTKV_CONFIG", str(config))
    assert run(*PATIENT) == healthy
    monkeypatch.delenv("FASTKV_CONFIG")
    monkeypatch.setenv("FASTKV_HOST", "::,127.0.0.1")
    monkeypatch.setenv("FASTKV_PORT", str(server.port))
    assert run(*PATIENT) == healthy


def test_a_server_that_drains(run: Run) -> None:
    with running(workers=1, drain_seconds=60) as server, server.connect() as client:
        address = f"http://127.0.0.1:{server.port}"
        assert run("--url", address, *PATIENT)[0] == 0
        client.sendall(b"PUT /put HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        # The connection has to be accepted before, else there is nothing to drain.
        wait_until(lambda: b'"connections":2' in server.request("GET", "/stats").body, "it is accepted")
        server.send(signal.SIGTERM)
        wait_until(lambda: run("--url", address, *PATIENT)[0] == 1, "it is not healthy any more")
        assert server.process.poll() is None
        assert run("--url", address, *PATIENT) == (
            1,
            "",
            f"fastkv: {address} is not healthy: Connection refused.\n",
        )


def test_a_server_that_hangs(run: Run) -> None:
    with running(workers=1, stuck_seconds=3600) as server:
        for pid in server.workers():
            os.kill(pid, signal.SIGSTOP)
        assert run("--port", str(server.port), "--timeout", "0.1") == (
            1,
            "",
            f"fastkv: http://127.0.0.1:{server.port} is not healthy: no answer within 0.1 seconds.\n",
        )


# -- nobody there ------------------------------------------------------------------------------------------


def test_nobody_listens(run: Run, tmp_path: Path) -> None:
    port = free_port()
    refused = f"fastkv: http://127.0.0.1:{port} is not healthy: Connection refused.\n"
    assert run("--port", str(port), *PATIENT) == (1, "", refused)
    assert run("--port", str(port), *PATIENT, "--quiet") == (1, "", "")
    missing = f"fastkv: unix:{tmp_path}/no is not healthy: No such file or directory.\n"
    assert run("--unix", f"{tmp_path}/no", *PATIENT) == (1, "", missing)


def test_a_name_that_nobody_has(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **named: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    unknown = (
        "fastkv: http://fastkv.invalid:7171 is not healthy: 'fastkv.invalid' cannot be resolved "
        "(Name or service not known); give another --host, or an address.\n"
    )
    assert run("--host", "fastkv.invalid", *PATIENT) == (1, "", unknown)


def test_a_look_up_that_takes_for_ever(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: ours.recv(1) and [])
    late = "fastkv: http://fastkv.invalid:7171 is not healthy: no answer within 0.05 seconds.\n"
    with ours, theirs:
        assert run("--host", "fastkv.invalid", "--timeout", "0.05") == (1, "", late)
        theirs.send(b"x")


# -- answers that no server should give --------------------------------------------------------------------


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[int, list[bytes]]]:
    """Listen, and answer one request.

    Args:
        answer: Is given the connection when the request has arrived; it is closed afterwards.

    Yields:
        The port, and a list that the request is put into.
    """
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def serve(stop: Callable[[], bool]) -> None:
            client = listener.accept()[0]
            with client:
                request = b""
                while not request.endswith(b"\r\n\r\n") and (piece := client.recv(4096)):
                    request += piece
                requests.append(request)
                answer(client)

        with in_background(serve):
            yield listener.getsockname()[1], requests


def send(data: bytes) -> Answer:
    """Answer with these bytes, and take what the client still has to say."""

    def answer(client: socket.socket) -> None:
        with suppress(OSError):  # it may have heard enough
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass

    return answer


NO_HTTP = "what answers does not speak HTTP/1.1"
ANSWERS = {
    "draining": (b"HTTP/1.1 503 Whatever\r\n\r\n", "the answer is 503 Service Unavailable"),
    "another server": (b"HTTP/1.0 404 Not Found\r\n\r\n", "the answer is 404 Not Found"),
    "elsewhere": (b"HTTP/1.1 302\r\nLocation: /x\r\n\r\n", "the answer is 302 Found"),
    "unknown status": (b"HTTP/1.1 299 \r\n\r\n", "the answer is 299"),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + HEALTHY, "the answer is 100 Continue"),
    "nothing": (b"", NO_HTTP),
    "half a line": (b"HTTP/1.1 200", NO_HTTP),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", NO_HTTP),
    "other protocol": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", NO_HTTP),
    "garbage": (bytes(range(256)) * 32, NO_HTTP),
    "HTTP/2": (b"HTTP/2 200 OK\r\n\r\n", NO_HTTP),
    "long status": (b"HTTP/1.1 2000 OK\r\n\r\n", NO_HTTP),
    "no digits": (b"HTTP/1.1 2\xb200 OK\r\n\r\n", NO_HTTP),
    "late status": (b"\r\n" + HEALTHY, NO_HTTP),
    "huge line": (b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n", NO_HTTP),
    "huge head": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", NO_HTTP),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_other_than_healthy(run: Run, name: str) -> None:
    data, why = ANSWERS[name]
    with answering(send(data)) as (port, _):
        expected = f"fastkv: http://127.0.0.1:{port} is not healthy: {why}.\n"
        assert run("--port", str(port), *PATIENT) == (1, "", expected)


@pytest.mark.parametrize(
    "data", [HEALTHY, b"HTTP/1.0 200\r\n\r\n", b"HTTP/1.1 200 \xff\r\nX: y\r\n\r\n" + b"x" * 1_000_000]
)
def test_an_answer_that_is_healthy(run: Run, data: bytes) -> None:
    with answering(send(data)) as (port, _):
        assert run("--port", str(port), *PATIENT)[0] == 0


def test_a_reset_connection(run: Run) -> None:
    def reset(client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with answering(reset) as (port, _):
        expected = f"fastkv: http://127.0.0.1:{port} is not healthy: Connection reset by peer.\n"
        assert run("--port", str(port), *PATIENT) == (1, "", expected)


def test_a_trickle_does_not_hold_it(run: Run) -> None:
    """Each byte comes in good time; the deadline is over all of them."""
    done: list[str] = []

    def trickle(client: socket.socket) -> None:
        client.settimeout(0.01)
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2_000 + b"\r\n\r\n":
            if done:
                return
            client.send(bytes([byte]))
            try:
                client.recv(1)
            except TimeoutError:
                continue

    with answering(trickle) as (port, _):
        expected = f"fastkv: http://127.0.0.1:{port} is not healthy: no answer within 0.2 seconds.\n"
        assert run("--port", str(port), "--timeout", "0.2") == (1, "", expected)
        done.append("enough")


# -- the request -------------------------------------------------------------------------------------------


def test_the_request(run: Run) -> None:
    with answering(send(HEALTHY)) as (port, requests):
        assert run("--port", str(port), *PATIENT)[0] == 0
    line, *fields = requests[0].decode().removesuffix("\r\n\r\n").split("\r\n")
    assert line == "GET /health HTTP/1.1"
    assert fields[0] == f"Host: 127.0.0.1:{port}"
    assert fields[1].startswith("User-Agent: fastkv/")
    assert fields[2:] == ["Connection: close"]


@pytest.mark.parametrize(
    ("address", "authority"),
    [
        (Address("http", "::1", 80), "[::1]:80"),
        (Address("http", "fe80::1%eth0", 80), "[fe80::1]:80"),
        (Address("http", "cache", 7171), "cache:7171"),
        (Address("unix", "/x y"), "localhost"),
    ],
)
def test_the_host_of_the_request(address: Address, authority: str) -> None:
    assert address.authority == authority


def test_a_path_is_told_on_one_line() -> None:
    assert str(Address("unix", "/x\ny")) == "unix:/x\\ny"


@pytest.mark.parametrize(
    ("flags", "env", "sent"),
    [
        (["--token", "s3cret"], {}, "s3cret"),
        ([], {"FASTKV_TOKEN": "s3cret"}, "s3cret"),
        (["--token", "s3cret"], {"FASTKV_TOKEN": "other"}, "s3cret"),
        (["--token", ""], {"FASTKV_TOKEN": "other"}, None),
        ([], {"FASTKV_TOKEN": ""}, None),
    ],
)
@pytest.mark.parametrize("reply", [HEALTHY, b"HTTP/1.1 401 s3cret\r\n\r\n", b"s3cret\r\n\r\n"])
def test_the_token_is_sent_and_never_shown(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    env: dict[str, str],
    sent: str | None,
    reply: bytes,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with answering(send(reply)) as (port, requests):
        _, out, err = run("--port", str(port), *flags, *PATIENT)
    assert "s3cret" not in out + err
    fields = requests[0].decode().split("\r\n")
    assert [field for field in fields if field.startswith("Authorization")] == (
        [f"Authorization: Bearer {sent}"] if sent else []
    )


@pytest.mark.parametrize("token", ["s3cret\r\nX: y", "s3 cret", "s3crét", "s3cret\n"])
def test_a_token_that_cannot_be_sent(run: Run, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    why = "the token has a character that none may have; allowed: 1 to 1024 visible ASCII characters.\n"
    assert run("--token", token) == (2, "", f"fastkv: --token: {why}")
    monkeypatch.setenv("FASTKV_TOKEN", token)
    assert run() == (2, "", f"fastkv: FASTKV_TOKEN (environment): {why}")


# -- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that nobody but itself vouches for, and its key, in one file."""
    return make_certificate(tmp_path_factory, "IP:127.0.0.1")


@pytest.fixture(scope="module")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of a host that this machine is not known as."""
    return make_certificate(tmp_path_factory, "DNS:cache.example")


def make_certificate(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("There is no openssl to make a certificate with.")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    options = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=fastkv -addext subjectAltName={name}"
    made = subprocess.run(
        [program, *options.split(), "-keyout", "-", "-out", "-"], capture_output=True, check=True, timeout=60
    )
    path.write_bytes(made.stdout)
    return path


@contextmanager
def answering_tls(certificate: Path) -> Iterator[int]:
    """Answer one request that comes over TLS with 200, and a handshake that fails not at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def serve(stop: Callable[[], bool]) -> None:
            client = listener.accept()[0]
            with suppress(OSError), client, context.wrap_socket(client, server_side=True) as wrapped:
                wrapped.recv(4096)
                wrapped.sendall(HEALTHY)

        with in_background(serve):
            yield listener.getsockname()[1]


def test_the_servers_own_certificate_is_right_whatever_host_it_names(
    run: Run, monkeypatch: pytest.MonkeyPatch, certificate: Path, other_certificate: Path
) -> None:
    monkeypatch.setenv("FASTKV_TLS_CERT", str(other_certificate))
    monkeypatch.setenv("FASTKV_TLS_KEY", str(other_certificate))
    with answering_tls(other_certificate) as port:
        assert run("--port", str(port), *PATIENT) == (0, f"https://127.0.0.1:{port} is healthy.\n", "")
    with answering_tls(certificate) as port:
        code, out, err = run("--port", str(port), *PATIENT)
        assert (code, out) == (1, "")
        assert "certificate" in err


def test_https_is_verified(run: Run, monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with answering_tls(certificate) as port:
        url = f"https://127.0.0.1:{port}"
        assert run("--url", url, *PATIENT) == (0, f"{url} is healthy.\n", "")
    with answering_tls(certificate) as port:
        code, out, err = run("--url", f"https://localhost:{port}", *PATIENT)
        assert (code, out) == (1, "")
        assert err == (
            f"fastkv: https://localhost:{port} is not healthy: its certificate is for another name (Hostname "
            "mismatch, certificate is not valid for 'localhost'); ask by a name that it is for.\n"
        )
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    with answering_tls(certificate) as port:
        code, out, err = run("--url", f"https://127.0.0.1:{port}", *PATIENT)
        assert (code, out) == (1, "")
        assert err == (
            f"fastkv: https://127.0.0.1:{port} is not healthy: its certificate is not trusted (self-signed "
            "certificate); set SSL_CERT_FILE to it, or to that of its authority.\n"
        )
    with answering_tls(certificate) as port:
        code, out, err = run("--url", f"http://127.0.0.1:{port}", *PATIENT)
        assert (code, out) == (1, "")


def test_plain_http_is_asked_of_a_port_that_speaks_tls(run: Run, certificate: Path, tmp_path: Path) -> None:
    pem = certificate.read_bytes()
    key = tmp_path / "key.pem"
    key.write_bytes(pem)
    key.chmod(0o600)
    with running(workers=1, tls_cert=certificate, tls_key=key) as server:
        code, out, err = run("--port", str(server.port), *PATIENT)
        assert (code, out) == (1, "")
        assert err == (
            f"fastkv: http://127.0.0.1:{server.port} is not healthy: the port speaks TLS; ask it with "
            f"--url https://127.0.0.1:{server.port}, or set FASTKV_TLS_CERT to the certificate of the "
            "server.\n"
        )


def test_tls_is_asked_of_a_port_that_speaks_plain_http(run: Run, server: Server) -> None:
    code, out, err = run("--url", f"https://127.0.0.1:{server.port}", *PATIENT)
    assert (code, out) == (1, "")
    assert re.fullmatch(
        rf"fastkv: https://127\.0\.0\.1:{server.port} is not healthy: there is no TLS on this port \(.+\); "
        rf"a plain server is asked with http://127\.0\.0\.1:{server.port}\.\n",
        err,
    )


# -- where to ask ------------------------------------------------------------------------------------------

DEFAULT = Address("http", "127.0.0.1", 7171)
SOCKET = Address("unix", "/x.sock")
PLACES: list[tuple[dict[str, Any], dict[str, str], Address]] = [
    ({}, {}, DEFAULT),
    ({"host": ["::", "10.0.0.1"], "port": "1"}, {"FASTKV_PORT": "2"}, Address("http", "::1", 1)),
    ({}, {"FASTKV_HOST": "auto"}, DEFAULT),
    ({}, {"FASTKV_HOST": "0.0.0.0"}, DEFAULT),
    ({}, {"FASTKV_HOST": "cache.example,0.0.0.0"}, Address("http", "cache.example", 7171)),
    ({}, {"FASTKV_UNIX": "/x.sock"}, SOCKET),
    ({}, {"FASTKV_UNIX": "/x.sock", "FASTKV_PORT": "0"}, SOCKET),
    ({"unix": "/x.sock", "port": "1"}, {}, SOCKET),
    ({"unix": ""}, {"FASTKV_UNIX": "/x.sock"}, DEFAULT),
    ({"port": "7171"}, {"FASTKV_UNIX": "/x.sock"}, DEFAULT),
    ({"host": ["0.0.0.0"]}, {"FASTKV_UNIX": "/x.sock"}, DEFAULT),
    # What is no business of the check: other people's variables, and how much memory there is here.
    ({}, {"FASTKV_PROT": "1"}, DEFAULT),
    ({}, {"FASTKV_PORT": "tcp://10.0.0.1:7171", "FASTKV_SERVICE_PORT": "7171"}, DEFAULT),
    ({}, {"FASTKV_MAX_VALUE_BYTES": "512mb", "FASTKV_MEMORY": "1mb"}, DEFAULT),
]


@pytest.fixture
def ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has ::1, whatever the tests run on."""
    monkeypatch.setattr("fastkv.health.has_ipv6_loopback", lambda: True)


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize(("flags", "env", "address"), PLACES)
def test_where_it_asks(
    flags: dict[str, Any],
    env: dict[str, str],
    address: Address,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> int:
        raise AssertionError("The machine was looked at.")

    monkeypatch.setattr(machine, "usable_memory_bytes", fail)
    monkeypatch.setattr(machine, "usable_cpus", fail)
    assert server_address(flags, env) == address
    assert caplog.messages == []


def test_where_there_is_no_ipv6_all_addresses_are_asked_at_that_of_ipv4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastkv.health.has_ipv6_loopback", lambda: False)
    assert server_address({}, {"FASTKV_HOST": "::"}) == DEFAULT
    assert parse_url("http://[::]:7171") == DEFAULT


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:7171", DEFAULT),
        ("HTTP://0.0.0.0:7171/", DEFAULT),
        ("http://[::]:1", Address("http", "::1", 1)),
        ("http://cache", Address("http", "cache", 80)),
        ("https://cache", Address("https", "cache", 443)),
        ("https://[::1]:7171", Address("https", "::1", 7171)),
        ("unix:/x.sock", SOCKET),
        ("unix:x.sock", Address("unix", "x.sock")),
    ],
)
def test_a_url(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:7171", "cache", "ftp://cache", "redis://cache:7171", "http://", "http://:7171"),
        *("http://cache:0", "http://cache:65536", "http://cache:x", "http://a,b:1", "http://a b:1"),
        *("http://[::1:1", "http://u:p@cache:1", "http://@cache:1", "http://cache:1/health"),
        *("http://cache:1?x", "http://cache:1#x", "unix:", "unix:" + "x" * 108),
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(
        SettingsError, match=r"^--url: .* is not the address of a server; allowed: http://HOST"
    ):
        parse_url(url)


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(health, "_ask", fail)
    with pytest.raises(ZeroDivisionError):
        health.check(DEFAULT)


def test_it_imports_nothing_that_it_does_not_need(server: Server) -> None:
    """A check every few seconds should cost little; to import any of these takes longer than the answer."""
    program = (
        "import atexit, sys; from fastkv.cli import main;"
        f"atexit.register(lambda: print(*sys.modules)); main(['health', '--port', '{server.port}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    healthy, imported = done.stdout.splitlines()
    assert healthy == f"http://127.0.0.1:{server.port} is healthy."
    needless = (
        "uvloop asyncio httptools orjson xxhash rich pydantic ssl http.client fastkv.store fastkv.supervisor"
    )
    assert set(needless.split()) & set(imported.split()) == set()
