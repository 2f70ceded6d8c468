"""``fastkv snapshot``: from a real server to a file and back, and what goes wrong on the way."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from certificates import make_pair, needs_openssl
from server import ROOT, Server, environment, in_background, running, wait_until

from fastkv.cli import main
from fastkv.snapshot import remote
from fastkv.snapshot.file import SnapshotFile, new_snapshot
from fastkv.snapshot.format import Item, build_block, parse_block
from fastkv.snapshot.transfer import unix_ms

Run = Callable[..., tuple[int, str, str]]
EMPTY = build_block([])


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without settings."""
    for name in list(os.environ):
        if name.startswith("FASTKV_"):
            monkeypatch.delenv(name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``fastkv snapshot``; exit code, stdout and stderr."""

    def call(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["snapshot", *map(str, args)])
        return int(caught.value.code or 0), *capsys.readouterr()

    return call


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def fill(server: Server, items: list[Item]) -> None:
    """Put entries by the route that is tested elsewhere."""
    large = [[item] for item in items if len(item[1]) > 2000]
    small = [item for item in items if len(item[1]) <= 2000]
    for part in large + [small[at : at + 200] for at in range(0, len(small), 200)]:
        reply = server.request("POST", "/snapshot", build_block(part))
        assert reply.status == 200, reply


def write(path: Path, *blocks: list[Item]) -> None:
    with new_snapshot(path, unix_ms()) as (_, add):
        for block in blocks:
            add(build_block(block))


def read(path: Path) -> list[Item]:
    with closing(SnapshotFile(path)) as file:
        return [item for block in file.blocks() for item in parse_block(block)]


SOME: list[Item] = [
    (b"name", b"value", 1, 0, b"text/html"),
    (b"\x00\xff/?", bytes(range(256)), 0, 0, b"m" * 255),
    (b"empty", b"", 255, 0, b"text/plain\0gzip"),
    (b"large", os.urandom(3 << 20), 2, 0, b"image/png"),
    (b"soon", b"gone", 3, unix_ms() + 3_600_000, b""),
    *[(b"key%d" % i, b"v" * (i % 50), 1, 0, b"") for i in range(3000)],
]


# -- there and back ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled() -> Iterator[Server]:
    """A server with ``SOME``."""
    with running(memory="64mb", max_value_bytes="4mb") as server:
        fill(server, SOME)
        yield server


def same(found: list[Item], wanted: list[Item]) -> bool:
    """True for the same entries, the deadlines to within what two clocks differ by."""
    apart = {key: deadline_ms for key, _, _, deadline_ms, _ in wanted}

    def without_deadline(items: list[Item]) -> list[tuple[bytes, bytes, int, bytes]]:
        return sorted((key, value, flags, metadata) for key, value, flags, _, metadata in items)

    return without_deadline(found) == without_deadline(wanted) and all(
        abs(deadline_ms - apart[key]) < 1000 for key, _, _, deadline_ms, _ in found
    )


def test_there_and_back(run: Run, filled: Server, tmp_path: Path) -> None:
    path, url = tmp_path / "a", url_of(filled)
    size = sum(16 + len(key) + len(value) + len(metadata) for key, value, _, _, metadata in SOME)
    code, out, err = run("save", path, "--url", url)
    assert (code, err) == (0, "")
    match = re.fullmatch(rf"Saved 3,005 entries of {url} in {path} \(([0-9,]+) bytes\)\.\n", out)
    assert match
    assert int(match[1].replace(",", "")) == path.stat().st_size > size
    assert same(read(path), SOME)
    with running(memory="128mb", workers=1, max_value_bytes="4mb", segment_bytes="16kb") as other:
        there = url_of(other)
        loaded = f"Loaded 3,005 entries of {path} into {there}.\n"
        assert run("load", path, "--url", there) == (0, loaded, "")
        assert run("load", path, "--host", "127.0.0.1", "--port", other.port, "--no-verify") == (
            0,
            loaded,
            "",
        )
        assert run("save", tmp_path / "b", "--port", other.port, "--quiet") == (0, "", "")
        assert same(read(tmp_path / "b"), SOME)
        assert other.request("GET", "/get?key=name").body == b'{"status":"OK","key":"name","value":"value"}'


@needs_openssl
def test_a_unix_socket_tls_and_a_token(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    path, place = tmp_path / "a", tmp_path / "s"
    with running(workers=1, unix=place, token="secret", **pair.settings) as server:
        tls = f"https://localhost:{server.port}"
        monkeypatch.setenv("SSL_CERT_FILE", str(pair.cert))
        write(path, SOME[:3])
        assert run("load", path, "--url", f"unix:{place}", "--token", "secret")[0] == 0
        for where in (["--url", tls], ["--unix", place]):
            code, out, err = run("save", tmp_path / "b", *where)
            assert (code, out) == (1, "")
            assert err.endswith(
                " answers 401 Unauthorized: This needs the token of the server: Authorization: Bearer TOKEN, "
                "or ?_token=TOKEN.\n"
            ), err
            assert not (tmp_path / "b").exists()
        monkeypatch.setenv("FASTKV_TOKEN", "secret")
        assert run("save", tmp_path / "b", "--url", tls)[0] == 0
        assert same(read(tmp_path / "b"), SOME[:3])


def test_an_empty_server(run: Run, tmp_path: Path) -> None:
    with running(workers=1) as server:
        assert run("save", tmp_path / "a", "--url", url_of(server))[0] == 0
        assert read(tmp_path / "a") == []
        assert run("load", tmp_path / "a", "--url", url_of(server)) == (
            0,
            f"Loaded 0 entries of {tmp_path / 'a'} into {url_of(server)}.\n",
            "",
        )


def test_whoever_stays_is_saved_while_others_come_and_go(run: Run, tmp_path: Path) -> None:
    """In two workers pages are split, entries are overwritten, deleted and evicted meanwhile."""
    with running(memory="16mb", workers=2) as server:
        stay: list[Item] = [(b"stay%d" % i, b"value%d" % i, 0, 0, b"") for i in range(2000)]
        fill(server, stay)

        def write_all_the_time(number: int) -> Callable[[Callable[[], bool]], None]:
            def job(is_over: Callable[[], bool]) -> None:
                turn = 0
                while not is_over():
                    turn += 1
                    fill(
                        server,
                        [(b"%d/%d/%d" % (number, turn, i), bytes(i % 400), 0, 0, b"") for i in range(2000)],
                    )
                    server.request("DELETE", f"/kv/{number}/{turn}/1")
                    fill(server, [(b"busy%d" % i, b"%d" % turn, 0, 0, b"") for i in range(200)])
                    for item in stay[::20]:
                        server.request("GET", f"/kv/{item[0].decode()}")

            return job

        def stats() -> dict[str, int]:
            told: dict[str, int] = json.loads(server.request("GET", "/stats").body)
            return told

        pages = stats()["index_pages"]
        saved = 0
        with in_background(write_all_the_time(1), write_all_the_time(2)):
            while stats()["evictions"] == 0:
                assert run("save", tmp_path / "a", "--url", url_of(server), "--quiet") == (0, "", "")
                found = read(tmp_path / "a")
                if stats()["evictions"] == 0:
                    saved += 1
                    assert set(stay) <= set(found)
                assert {value for key, value, *_ in found if key.startswith(b"stay")} <= {i[1] for i in stay}
            assert run("save", tmp_path / "a", "--url", url_of(server), "--quiet") == (0, "", "")
            assert read(tmp_path / "a")
        assert saved
        assert stats()["index_pages"] > pages


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_workers_may_come_and_go_meanwhile(run: Run, tmp_path: Path, number: signal.Signals) -> None:
    """A page is asked for again on a new connection, and whoever answers goes on."""
    with running(memory="32mb", workers=2) as server:
        items: list[Item] = [(b"%d" % i, bytes(200), 0, 0, b"") for i in range(20_000)]
        fill(server, items)

        def disturb(is_over: Callable[[], bool]) -> None:
            # A worker that ends more often is not replaced at once.
            for _ in range(5):
                before = set(server.workers())
                if number == signal.SIGHUP:
                    server.send(number)
                else:
                    os.kill(min(before), number)
                wait_until(partial(newcomers, before), "there is a new worker")
                if is_over():
                    return

        def newcomers(before: set[int]) -> set[int]:
            return set(server.workers()) - before

        with in_background(disturb):
            for _ in range(5):
                code, _, err = run("save", tmp_path / "a", "--url", url_of(server))
                assert (code, err) == (0, "")
                assert sorted(read(tmp_path / "a")) == sorted(items)
                assert run("load", tmp_path / "a", "--url", url_of(server))[0] == 0


# -- what goes wrong -----------------------------------------------------------------------------------------


def test_wrong_options(run: Run, tmp_path: Path) -> None:
    for args, sentence in (
        ([], "FILE: it is missing; give the path of the snapshot."),
        ([""], "FILE: it is missing; give the path of the snapshot."),
        (
            ["a", "--url", "ftp://a"],
            (
                "--url: 'ftp://a' is not the address of a server; "
                "allowed: http://HOST:PORT, https://HOST:PORT or unix:PATH."
            ),
        ),
        (
            ["a", "--url", "http://a", "--port", "1"],
            "--url: it says all; leave out --host, --port, --unix and --config.",
        ),
        (["a", "--timeout", "0"], "--timeout: '0' is out of range; allowed: 0.01 to 3600 seconds."),
    ):
        for command in ("save", "load"):
            assert run(command, *args) == (2, "", f"fastkv: {sentence}\n")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for args in (["--help"], ["save", "--help"], ["load", "--help"]):
        code, out, err = run(*args)
        assert (code, err) == (0, "")
        assert max(map(len, out.splitlines())) <= columns


def test_nobody_is_there(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    write(tmp_path / "a", SOME[:1])
    older = (tmp_path / "a").read_bytes()
    refused = f"the request to http://127.0.0.1:{port} failed: Connection refused."
    assert run("save", tmp_path / "a", "--port", port) == (1, "", f"fastkv: {refused}\n")
    assert run("load", tmp_path / "a", "--port", port) == (1, "", f"fastkv: {refused} Nothing was loaded.\n")
    assert (tmp_path / "a").read_bytes() == older
    assert os.listdir(tmp_path) == ["a"]


def test_a_damaged_file_loads_nothing_or_what_is_whole(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, SOME[:2], SOME[2:3], SOME[4:6])
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.write_bytes(raw)
    with running(workers=1) as server:
        why = f"fastkv: {str(path)!r} cannot be loaded: the checksum of a block does not fit."
        assert run("load", path, "--url", url_of(server)) == (1, "", f"{why}\n")
        assert server.request("GET", "/kv/empty").status == 404
        told = f"{why} Loaded before that: 3 entries.\n"
        assert run("load", path, "--url", url_of(server), "--no-verify") == (1, "", told)
        assert server.request("GET", "/kv/empty").status == 200
        path.write_bytes(raw[:-32])
        assert run("load", path, "--url", url_of(server))[0] == 1
        assert run("load", tmp_path / "b", "--url", url_of(server)) == (
            1,
            "",
            f"fastkv: {str(tmp_path / 'b')!r} cannot be read: No such file or directory.\n",
        )


def test_a_server_with_shorter_limits(run: Run, tmp_path: Path) -> None:
    """Its bodies may be shorter than a block; its keys and values are no matter of this command."""
    path = tmp_path / "a"
    small: list[Item] = [(b"key%d" % i, bytes(500), 0, 0, b"") for i in range(250)]
    write(path, small, [(b"late", b"v", 0, 1, b"")])
    with running(workers=1, max_value_bytes="1kb", max_key_bytes=16) as server:
        done = f"Loaded 250 entries of {path} into {url_of(server)}; 1 more had expired.\n"
        assert run("load", path, "--url", url_of(server)) == (0, done, "")
        assert run("save", tmp_path / "b", "--url", url_of(server))[0] == 0
        assert same(read(tmp_path / "b"), small)
        for item, sentence in (
            (
                (b"k", bytes(1025), 0, 0, b""),
                " Too Large: A value has 1025 bytes; --max-value-bytes allows 1024.",
            ),
            ((b"k" * 17, b"", 0, 0, b""), "400 Bad Request: A key has 17 bytes; --max-key-bytes allows 16."),
        ):
            write(path, small[:1], [small[1], item])
            code, out, err = run("load", path, "--url", url_of(server))
            assert (code, out) == (1, "")
            assert err.startswith(f"fastkv: {url_of(server)} answers ")
            assert sentence in err
            assert err.endswith(" Loaded before that: 1 entry.\n")


def test_the_disk_is_full(run: Run, filled: Server, tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, SOME[:1])
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        f"from fastkv.cli import main; main(['snapshot', 'save', {str(path)!r}, '--url', {url_of(filled)!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"fastkv: {str(path)!r} cannot be written: File too large.\n"
    assert read(path) == SOME[:1]
    assert os.listdir(tmp_path) == ["a"]


# -- others than a fastkv ------------------------------------------------------------------------------------

Answer = Callable[[str, int], bytes | None]
"""From the target of a request and how many came before it to the reply; None to hang up."""


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[int, list[str]]]:
    """A server that answers so; its port, and the targets that it was asked for."""
    asked: list[str] = []

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            while line := stream.readline():
                length = 0
                while (field := stream.readline()) not in (b"\r\n", b""):
                    if field.lower().startswith(b"content-length:"):
                        length = int(field.split(b":")[1])
                stream.read(length)
                target = line.split(b" ")[1].decode()
                asked.append(target)
                reply = answer(target, len(asked) - 1)
                if reply is None:
                    return
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)


def reply(body: bytes, fields: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), fields, body)


STATS = reply(b'{"entries":3}')
FIRST_PAGE = build_block(SOME[:2])
FIRST = reply(FIRST_PAGE, b"Next-Cursor: 7\r\n")
LAST = reply(build_block(SOME[2:3]), b"Next-Cursor: 0\r\n")


def test_what_may_pass_is_tried_again(run: Run, tmp_path: Path) -> None:
    """A worker ends, another one is busy, and the page is asked for again."""
    busy = reply(b'{"status":"ERROR","message":"Busy."}', status=b"503 Service Unavailable")
    replies = [STATS, FIRST, None, busy, LAST]
    with answering(lambda _, number: replies[number]) as (port, asked):
        assert run("save", tmp_path / "a", "--port", port)[0] == 0
        assert asked == ["/stats", "/snapshot?cursor=0", *["/snapshot?cursor=7"] * 3]
    assert read(tmp_path / "a") == SOME[:3]


def test_what_does_not_pass_leaves_the_older_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE_SECONDS", 0.001)
    path = tmp_path / "a"
    write(path, SOME[:1])
    html = reply(b"<html>hello</html>")
    gone = reply(b'{"status":"ERROR","message":"There is no such route."}', status=b"404 Not Found")
    tells = reply(b'{"message":"Your token is t0k3n."}', status=b"403 Forbidden")
    odd = reply(b'{"message":"a\\u001b[2Jb"}', status=b"299 Odd")
    other = reply(
        b'{"status":"ERROR","message":"The cursor is none of this store\'s."}', status=b"400 Bad Request"
    )
    for replies, sentence in (
        ([html], "What answers at {} is no fastkv."),
        ([reply(b"[]")], "What answers at {} is no fastkv."),
        ([reply(b'{"entries":"many"}')], "What answers at {} is no fastkv."),
        ([STATS, gone], "{} answers 404 Not Found: There is no such route."),
        ([tells], "{} answers 403 Forbidden."),
        ([odd], "{} answers 299."),
        ([STATS, FIRST, other], "{} answers 400 Bad Request: The cursor is none of this store's."),
        ([STATS, FIRST, html], "The checksum of a block does not fit."),
        ([STATS, FIRST, reply(EMPTY)], "{} does not say where the next page begins."),
        ([STATS, FIRST, reply(EMPTY, b"Next-Cursor: -1\r\n")], "{} does not say where the next page begins."),
        (
            [STATS, FIRST] + [None] * 6,
            "the request to {} failed: Remote end closed connection without response.",
        ),
        ([STATS, FIRST] + [FIRST[:-1]] * 6, "the request to {} failed: timed out."),
        (
            [b"SSH-2.0-OpenSSH\r\n"],
            "the request to {} failed: what answers does not speak HTTP/1.1, or stops in the middle.",
        ),
    ):
        with answering(lambda _, number, replies=replies: replies[number]) as (port, _):  # type: ignore[misc]
            code, out, err = run("save", path, "--port", port, "--token", "t0k3n", "--timeout", "1")
            assert (code, out) == (1, "")
            if html in replies[1:]:
                assert err in ("fastkv: A block is cut off.\n", "fastkv: A block is malformed.\n")
            else:
                assert err.rstrip() == f"fastkv: {sentence.format(f'http://127.0.0.1:{port}')}"
        assert read(path) == SOME[:1]
        assert os.listdir(tmp_path) == ["a"]


def test_who_hangs_is_left(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        code, out, err = run("save", tmp_path / "a", "--url", url, "--timeout", "0.1")
    assert (code, out, err) == (1, "", f"fastkv: the request to {url} failed: timed out.\n")


# Tests in the background may ignore SIGINT, those under nohup SIGHUP, and so would all that they start.
HEEDS_SIGNALS = """
import signal
from fastkv.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_is_stopped_tidies_up(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "a"
    write(path, SOME[:1])
    with answering(lambda target, _: STATS if target == "/stats" else FIRST) as (port, asked):
        process = subprocess.Popen(
            [sys.executable, "-c", HEEDS_SIGNALS, "snapshot", "save", str(path), "--port", str(port)],
            env=environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            wait_until(lambda: len(asked) > 20, "pages are asked for")
            assert len(os.listdir(tmp_path)) == 2
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (1, b"", b"fastkv: stopped before the end.\n")
    assert os.listdir(tmp_path) == ["a"]
    assert read(path) == SOME[:1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("bar", [False, True])
def test_who_is_stopped_in_a_finaliser_stops(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, bar: bool
) -> None:
    """What is raised there goes nowhere."""
    lost: list[object] = []

    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def page(self: remote.Remote, cursor: int) -> tuple[bytes, int]:
        if cursor:
            Dying()
        return FIRST_PAGE, cursor + 1 if cursor < 50 else 0

    monkeypatch.setattr(sys, "unraisablehook", lambda told: lost.append(told.exc_type))
    monkeypatch.setattr(remote.Remote, "total", lambda self: 3)
    monkeypatch.setattr(remote.Remote, "page", page)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: bar)
    path = tmp_path / "a"
    write(path, SOME[:1])
    # Where the tests run in the background, SIGINT is ignored, and would stay so.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        code, out, err = run("save", path, "--port", 1)
    finally:
        signal.signal(number, before)
    assert lost == [KeyboardInterrupt]
    assert (code, out) == (1, "")
    assert err.endswith("fastkv: stopped before the end.\n")
    assert ("Saving" in err) == bar
    assert os.listdir(tmp_path) == ["a"]
    assert read(path) == SOME[:1]


def test_signals_that_were_ignored_stay_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background of a shell, and with nohup."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]

    def total(self: remote.Remote) -> int:
        for number in numbers:
            signal.raise_signal(number)
        return 0

    monkeypatch.setattr(remote.Remote, "total", total)
    monkeypatch.setattr(remote.Remote, "page", lambda self, cursor: (EMPTY, 0))
    try:
        assert run("save", tmp_path / "a", "--port", 1, "--quiet") == (0, "", "")
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * 2
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


# -- on a terminal -------------------------------------------------------------------------------------------


def in_terminal(*args: object) -> tuple[int, str]:
    """Run the command with its stderr on a terminal of 80 columns; exit code and what that shows."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastkv", "snapshot", *map(str, args)],
        env={**environment(), "COLUMNS": "80", "TERM": "xterm"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    with suppress(OSError):  # how the end of a terminal is told
        while piece := os.read(leader, 65536):
            shown += piece
    os.close(leader)
    return process.wait(30), shown.decode()


def test_a_bar_on_a_terminal_and_nothing_with_quiet(filled: Server, tmp_path: Path) -> None:
    path = tmp_path / "a"
    for args, labels in ((["save"], ["Saving"]), (["load"], ["Verifying", "Loading"])):
        code, shown = in_terminal(args[0], path, "--url", url_of(filled))
        assert code == 0
        lines = [re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", shown)]
        assert max(map(len, lines)) < 80
        for label in labels:
            bars = [line for line in lines if line.startswith(label)]
            assert re.fullmatch(rf"{label} +\[#+\]  100% *", bars[-1]), bars[-1]
        assert in_terminal(args[0], path, "--url", url_of(filled), "--quiet") == (0, "")
