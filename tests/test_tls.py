"""TLS: real sockets, real clients, renewal under load."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from certificates import Pair, make_pair, needs_openssl
from replies import Reply
from server import (
    Server,
    has_ended,
    in_background,
    private_bytes,
    read_reply,
    run_to_end,
    running,
    wait_until,
)

pytestmark = needs_openssl

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
STATS = HEALTH.replace(b"/health", b"/stats")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    unix = tmp_path_factory.mktemp("unix") / "fastkv.sock"
    with running(**pair.settings, unix=unix, tls_handshake_seconds=0.5) as started:
        yield started
        assert started.stop() == 0
        assert "ERROR" not in started.log()
        assert "Traceback" not in started.log()


def connect(server: Server, cert: Path, **options: object) -> ssl.SSLSocket:
    """Open a connection to a server whose certificate is known."""
    context = ssl.create_default_context(cafile=cert)
    for name, value in options.items():
        setattr(context, name, value)
    return context.wrap_socket(server.connect(), server_hostname="localhost")


def ask(server: Server, cert: Path, request: bytes = HEALTH) -> Reply:
    """Send a request on a connection of its own."""
    with connect(server, cert) as client, client.makefile("rb") as stream:
        client.sendall(request)
        return read_reply(stream)


def test_the_last_reply_may_be_read_slowly(pair: Pair) -> None:
    """What TLS has encrypted nobody but the kernel sees; it has to go out before the connection ends."""
    value = b"v" * 1_000_000
    with running(**pair.settings, linger_seconds=0.2, workers=1) as server:
        head = b"PUT /kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(value)
        assert ask(server, pair.cert, head + value).status == 201
        with connect(server, pair.cert) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            client.sendall(b"GET /kv/k HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            time.sleep(2.5)
            taken = 0
            while piece := client.recv(1 << 16):
                taken += len(piece)
            assert taken > len(value)


def serial(server: Server, cert: Path) -> str:
    """Serial number of the certificate that a server shows; one that is not ``cert`` is refused."""
    with connect(server, cert) as client:
        shown = client.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


def test_unread_replies_take_a_bounded_memory(pair: Pair) -> None:
    """A transport with TLS says of an encrypted reply that it is gone; it is bounded all the same."""
    value = b"v" * 1_000_000
    limits = {"workers": 1, "max_buffer_bytes": "8mb", "output_seconds": 60}
    with running(**pair.settings, **limits) as server, ExitStack() as stack:  # type: ignore[arg-type]
        put = b"PUT /kv/big HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(value)
        assert ask(server, pair.cert, put + value).status == 201
        get = b"GET /kv/big HTTP/1.1\r\nHost: localhost\r\n\r\n"
        worker = server.workers()[0]
        before = private_bytes(worker)
        context = ssl.create_default_context(cafile=pair.cert)
        for _ in range(60):
            plain = stack.enter_context(socket.socket())
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect((server.host, server.port))
            client = stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
            client.sendall(get * 3)
        told = json.loads(ask(server, pair.cert, HEALTH.replace(b"/health", b"/stats")).body)
        assert told["slowest_closed"] >= 45
        # The bound, a reply that goes beyond it, and what the allocator keeps of all that was freed.
        assert private_bytes(worker) - before < 40 << 20


def test_whoever_reads_steadily_gets_all(pair: Pair) -> None:
    value = os.urandom(1_000_000)
    put = b"PUT /kv/big HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(value)
    with (
        running(**pair.settings, workers=1) as server,
        connect(server, pair.cert) as client,
        client.makefile("rb") as stream,
    ):
        client.sendall(put + value)
        assert read_reply(stream).status == 201
        client.sendall(b"GET /kv/big HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        for _ in range(20):
            assert read_reply(stream).body == value


def test_the_ready_line_says_https(server: Server) -> None:
    assert server.ready.startswith(f"fastkv serves https://127.0.0.1:{server.port} and ")
    assert " and unix:/" in server.ready


def test_curl(server: Server, pair: Pair) -> None:
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--cacert", str(pair.cert)]
    url = f"https://localhost:{server.port}"
    for arguments, expected in (
        (["-d", '{"key":"a","value":"1"}', f"{url}/put"], '"status":"OK"'),
        ([f"{url}/get?key=a", f"{url}/get?key=a"], '"value":"1"}{"status":"OK","key":"a"'),
        (["--tls-max", "1.2", "--http1.0", f"{url}/get?key=a"], '"value":"1"'),
        (["--http2", f"{url}/get?key=a"], '"value":"1"'),
        (["-H", f"Origin: {url}", f"{url}/version"], '"fastkv"'),
        (["-H", f"Origin: http://localhost:{server.port}", f"{url}/version"], "other origins"),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_versions_and_protocols(server: Server, pair: Pair) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with connect(server, pair.cert, minimum_version=version, maximum_version=version) as client:
            assert client.version() == version.name.replace("_", ".")
    context = ssl.create_default_context(cafile=pair.cert)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(server.connect(), server_hostname="localhost") as client:
        assert client.selected_alpn_protocol() == "http/1.1"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_versions_are_refused(server: Server, pair: Pair) -> None:
    context = ssl.create_default_context(cafile=pair.cert)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with server.connect() as client, pytest.raises(OSError, match=r"(?i)version|reset|EOF"):
        context.wrap_socket(client, server_hostname="localhost")


def test_plain_http_reads_what_is_wrong_and_the_unix_socket_is_plain(server: Server, pair: Pair) -> None:
    with server.connect() as client, client.makefile("rb") as stream:
        client.sendall(HEALTH)
        reply = read_reply(stream)
        assert (reply.status, reply.fields["connection"]) == (400, "close")
        assert b"https://" in reply.body
        assert stream.read() == b""
    path = server.ready.split("unix:")[1].split(" ")[0]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        client.sendall(HEALTH)
        with client.makefile("rb") as stream:
            assert read_reply(stream).status == 200


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_that_does_not_come_to_an_end_is_closed(server: Server, pair: Pair, said: bytes) -> None:
    with server.connect() as client:
        client.sendall(said)
        assert client.recv(4096) == b""
    assert ask(server, pair.cert).status == 200


def test_silent_clients_are_counted_from_the_accept_and_cost_next_to_nothing(pair: Pair) -> None:
    """OpenSSL and its buffers would be 30 MiB for a thousand, and what was once taken is not given back."""
    with running(**pair.settings, workers=1, max_connections=1000) as server:
        worker = psutil.Process(server.workers()[0])
        ask(server, pair.cert)
        before, files = private_bytes(worker.pid), worker.num_fds()
        for _ in range(2):
            with ExitStack() as stack:
                *_, last = [stack.enter_context(server.connect()) for _ in range(1400)]
                # A connection for which there is no place is closed in the next round of the event loop.
                with suppress(ConnectionResetError):
                    assert last.recv(1) == b""
                # Besides the places there are those of clients that may read why there is none.
                assert files + 1000 <= worker.num_fds() <= files + 1000 + 64
                assert private_bytes(worker.pid) - before < 12 << 20
            wait_until(lambda: worker.num_fds() <= files, "all are closed")
        told = json.loads(ask(server, pair.cert, STATS).body)
        assert told["connections_refused"] >= 2 * 336
        assert told["internal_errors"] == 0


def test_pipelined_and_at_any_split(server: Server, pair: Pair) -> None:
    value = "v" * 300_000
    body = json.dumps({"key": "big", "value": value}).encode()
    put = b"PUT /put HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    requests = put + b"GET /get?key=big HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20
    with connect(server, pair.cert) as client, client.makefile("rb") as stream:
        for at in range(0, len(requests), 70_001):
            client.sendall(requests[at : at + 70_001])
        assert read_reply(stream).status == 200
        for _ in range(20):
            assert json.loads(read_reply(stream).body)["value"] == value


def test_a_refused_upload_reads_its_refusal(server: Server, pair: Pair) -> None:
    """TLS has no half of a connection to close; the client must still read why, and may go on sending."""
    body = b"x" * (12 << 20)
    for _ in range(3):
        with connect(server, pair.cert) as client, client.makefile("rb") as stream:
            client.sendall(b"POST /put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
            client.sendall(body)
            reply = read_reply(stream)
            assert (reply.status, reply.fields["connection"]) == (413, "close")


@pytest.mark.parametrize("raw", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100])
def test_nonsense_is_told_so_and_closed(server: Server, pair: Pair, raw: bytes) -> None:
    with connect(server, pair.cert) as client, client.makefile("rb") as stream:
        client.sendall(raw)
        assert read_reply(stream).status == 400
        assert stream.read() == b""


def test_a_client_that_is_done_reads_its_reply_and_the_end(server: Server, pair: Pair) -> None:
    with connect(server, pair.cert) as client, client.makefile("rb") as stream:
        client.sendall(HEALTH * 2 + HEALTH.replace(b"Host", b"Connection: close\r\nHost"))
        assert [read_reply(stream).status for _ in range(3)] == [200] * 3
        assert stream.read() == b""


# -- renewal -----------------------------------------------------------------------------------------------


def _client(server: Server, trusted: Path, keep: int, seen: set[str]) -> Callable[[Callable[[], bool]], None]:
    """Ask again and again; ``keep`` requests at most on a connection."""

    def run(over: Callable[[], bool]) -> None:
        while not over():
            with connect(server, trusted) as client, client.makefile("rb") as stream:
                shown = client.getpeercert()
                assert shown is not None
                seen.add(str(shown["serialNumber"]))
                for _ in range(keep):
                    client.sendall(HEALTH)
                    reply = read_reply(stream)
                    assert reply.status == 200
                    if over() or reply.closes:
                        break

    return run


def _are_gone(server: Server, workers: set[int]) -> bool:
    return not workers & set(server.workers())


def _is_seen(shown: str, seen: set[str], failed: Callable[[], bool]) -> bool:
    return failed() or shown in seen


def test_renewal_under_load_fails_no_request(tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    current = make_pair(tmp_path, "current")
    certificates = [make_pair(tmp_path, f"new{number}") for number in range(3)]
    trusted.write_bytes(b"".join(p.cert.read_bytes() for p in (current, *certificates)))
    with running(**current.settings) as server:
        seen: set[str] = set()
        jobs = [_client(server, trusted, keep, seen) for keep in (1, 1, 3, 100)]
        with in_background(*jobs) as failed:
            for new in certificates:
                before = set(server.workers())
                shutil.copy(new.key, current.key)
                shutil.copy(new.cert, current.cert)
                server.send(signal.SIGHUP)
                wait_until(partial(_are_gone, server, before), "new workers")
                shown = serial(server, new.cert)  # no other is trusted here
                wait_until(partial(_is_seen, shown, seen, failed), "a request under the new one")
        assert len(seen) == 4
        assert server.stop() == 0
        assert "ERROR" not in server.log()


def test_a_bad_renewal_is_told_and_changes_nothing(tmp_path: Path) -> None:
    current = make_pair(tmp_path, "current")
    kept = shutil.copy(current.cert, tmp_path / "kept.pem")
    with running(**current.settings, workers=1) as server:
        before, first = server.workers(), serial(server, Path(kept))
        new = make_pair(tmp_path, "new")
        shutil.copy(new.cert, current.cert)  # and not the key
        server.send(signal.SIGHUP)
        why = f"--tls-key: '{current.key}' is not the key of the certificate in '{current.cert}'."
        sentence = f"SIGHUP: the workers go on as they are, because a file is wrong. {why}\n"
        wait_until(lambda: sentence in server.log(), "the sentence")
        assert server.workers() == before
        assert serial(server, Path(kept)) == first
        # A worker that is replaced meanwhile has what its predecessor had.
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: server.workers() not in (before, []), "another worker")
        assert serial(server, Path(kept)) == first
        shutil.copy(new.key, current.key)
        old = server.workers()
        server.send(signal.SIGHUP)
        wait_until(lambda: "All workers are replaced." in server.log(), "the renewal")
        wait_until(lambda: has_ended(*old), "nobody accepts any more who has the old one")
        assert serial(server, new.cert) != first
        assert server.stop() == 0


def test_a_new_token_comes_with_sighup(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    path.chmod(0o600)
    with running(token_file=path, workers=1) as server:

        def status(token: str) -> int:
            return server.request("GET", "/version", None, {"Authorization": f"Bearer {token}"}).status

        assert (status("first"), status("second")) == (200, 401)
        path.write_text("second\n")
        assert (status("first"), status("second")) == (200, 401)
        old = server.workers()
        server.send(signal.SIGHUP)
        wait_until(lambda: "All workers are replaced." in server.log(), "the new token")
        wait_until(lambda: has_ended(*old), "nobody accepts any more who has the old one")
        assert (status("first"), status("second")) == (401, 200)
        path.write_text("\n")
        server.send(signal.SIGHUP)
        wait_until(lambda: "the token is empty" in server.log(), "the sentence")
        assert (status(""), status("second")) == (401, 200)
        assert server.stop() == 0
        assert "first" not in server.log()
        assert "second" not in server.log()


def test_a_reload_in_the_midst_of_another(tmp_path: Path) -> None:
    """A worker that the first one started does not stay behind with what it was started with."""
    path = tmp_path / "token"
    path.write_text("t0")
    path.chmod(0o600)
    with running(token_file=path, workers=4) as server:
        for number in range(1, 5):
            before = len(_ever(server))
            path.write_text("another")
            server.send(signal.SIGHUP)
            wait_until(partial(_are_more, server, before), "a successor")
            path.write_text(f"t{number}")
            server.send(signal.SIGHUP)
            wait_until(partial(_have_ended, server, number), "the end of both")
            token = {"Authorization": f"Bearer t{number}"}
            assert {server.request("GET", "/version", None, token).status for _ in range(40)} == {200}
        assert server.stop() == 0


def _ever(server: Server) -> set[int]:
    """All workers that ever were."""
    server.workers()
    return server._seen


def _are_more(server: Server, before: int) -> bool:
    return len(_ever(server)) > before


def _have_ended(server: Server, times: int) -> bool:
    """Whether so many pairs of reloads have; the second one of a pair may begin after the first has ended.

    A worker that has been replaced accepts connections until it heeds that.
    """
    log = server.log()
    ends = log.rfind("All workers are replaced.") > log.rfind("SIGHUP: the workers")
    return log.count("SIGHUP: the workers") == 2 * times and ends and len(server.workers()) == 4


def test_a_server_with_a_bad_file_does_not_start(tmp_path: Path) -> None:
    pair = make_pair(tmp_path)
    pair.key.unlink()
    code, out, err = run_to_end(**pair.settings)
    assert (code, out) == (1, "")
    assert err == f"fastkv: --tls-key: '{pair.key}' cannot be read (No such file or directory).\n"
