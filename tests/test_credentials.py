"""The files that settings name: what is read, and the sentence for each that is wrong."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Pair, make_pair, needs_openssl, openssl
from server import running

from fastkv.credentials import Credentials
from fastkv.errors import StartError
from fastkv.settings import Settings


def made(**settings: object) -> Settings:
    return Settings(workers=1, memory_bytes=4 << 20, **settings)  # type: ignore[arg-type]


def test_without_files_there_is_nothing() -> None:
    settings = made()
    credentials = Credentials.read(settings)
    assert credentials == Credentials()
    assert credentials.fill_in(settings) is settings
    settings = made(token="a")
    assert Credentials.read(settings).fill_in(settings).token == "a"


# -- the token ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["s3cret", "s3cret\n", "  s3cret\t\r\n", "s3cret\nother\n", "s3cret\n\0\xff", "s3cret" + " " * 2000],
)
def test_the_first_line_is_the_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(text.encode("latin-1"))
    settings = made(token_file=path)
    credentials = Credentials.read(settings)
    assert credentials.token == "s3cret"
    filled = credentials.fill_in(settings)
    assert (filled.token, filled.token_file) == ("s3cret", None)
    for shown in (repr(credentials), repr(filled)):
        assert "s3cret" not in shown


ALLOWED = "allowed: 1 to 1024 visible ASCII characters."
BAD_TOKENS: dict[bytes, str] = {
    b"": f"the token is empty; {ALLOWED}",
    b"\ns3cret": f"the token is empty; {ALLOWED}",
    b" \t\n": f"the token is empty; {ALLOWED}",
    b"s3 cret": f"the token has a character that none may have; {ALLOWED}",
    "s3crét".encode(): f"the token has a character that none may have; {ALLOWED}",
    b"\xef\xbb\xbfs3cret": f"the token has a character that none may have; {ALLOWED}",
    b"s3cret\0": f"the token has a character that none may have; {ALLOWED}",
    b"s3cret" * 200: f"the token is too long; {ALLOWED}",
    b"s3cret" * 2_000_000: f"the token is too long; {ALLOWED}",
}


@pytest.mark.parametrize("text", BAD_TOKENS, ids=lambda text: repr(text[:20]))
def test_a_bad_token_is_one_clear_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(text)
    with pytest.raises(StartError) as caught:
        Credentials.read(made(token_file=path))
    assert str(caught.value) == f"--token-file: '{path}': {BAD_TOKENS[text]}"


def test_a_token_file_that_is_none(tmp_path: Path) -> None:
    for path, why in {tmp_path / "no": "No such file or directory", tmp_path: "Is a directory"}.items():
        with pytest.raises(StartError) as caught:
            Credentials.read(made(token_file=path))
        assert str(caught.value) == f"--token-file: '{path}' cannot be read ({why})."


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o604, True), (0o644, True)])
def test_a_token_that_everybody_can_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret")
    path.chmod(mode)
    Credentials.read(made(token_file=path))
    sentence = f"--token-file: '{path}' can be read by every user of the machine; chmod 600 prevents it."
    assert caplog.messages == [sentence] * warned


def test_the_token_is_nowhere_to_be_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  s3cret \r\nsecond line\n")
    path.chmod(0o600)
    unix = tmp_path / "fastkv.sock"
    with running(token_file=path, unix=unix, log_level="debug") as server:
        right = {"Authorization": "Bearer s3cret"}
        assert server.request("GET", "/version", None, right).status == 200
        replies = [
            server.request("GET", "/stats", None, right),
            server.request("GET", "/stats", None, {"Authorization": "Bearer s3cretx"}),
            server.request("GET", "/get?key=%zz&_token=s3cret"),
            server.request("GET", "/nothing?_token=s3cret"),
            server.request("PUT", "/put?_token=s3cret", "{"),
            server.request("DELETE", "/get?_token=s3cret", None, right),
            server.request("GET", "/get?_token=s3cret%zz"),
        ]
        assert [reply.status for reply in replies] == [200, 401, 400, 404, 400, 405, 400]
        for reply in replies:
            assert "s3cret" not in f"{reply.fields} {reply.body!r}"
        for pid in (server.pid, *server.workers()):
            assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        server.workers()
        assert server.stop() == 0
        assert "s3cret" not in server.log() + server.ready


# -- the certificate ---------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path)


@needs_openssl
def test_a_certificate(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    tls = Credentials.read(made(**pair.settings)).tls
    assert tls is not None
    assert tls.minimum_version == ssl.TLSVersion.TLSv1_2
    older = {cipher["name"] for cipher in tls.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
    assert older
    assert all(cipher.startswith("ECDHE-") and "-CBC" not in cipher for cipher in older)
    assert caplog.messages == []
    pair.key.chmod(0o644)
    Credentials.read(made(**pair.settings))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"--tls-key: '{pair.key}' can be read by every user")


def _write(path: Path, text: bytes) -> None:
    path.write_bytes(text)


def _encrypt(pair: Pair) -> None:
    openssl("ec", "-in", pair.key, "-out", f"{pair.key}.new", "-aes256", "-passout", "pass:x")
    os.replace(f"{pair.key}.new", pair.key)


def _other_key(pair: Pair) -> None:
    os.replace(make_pair(pair.key.parent, "other").key, pair.key)


# What is done to a good pair, and what is said then; cert and key are paths.
BAD_PAIRS: dict[str, tuple[Callable[[Pair], object], str]] = {
    "no certificate": (
        lambda p: p.cert.unlink(),
        "--tls-cert: '{cert}' cannot be read (No such file or directory).",
    ),
    "no key": (
        lambda p: p.key.unlink(),
        "--tls-key: '{key}' cannot be read (No such file or directory).",
    ),
    "another key": (_other_key, "--tls-key: '{key}' is not the key of the certificate in '{cert}'."),
    "encrypted": (_encrypt, "--tls-key: '{key}' is encrypted; allowed: a key without a password."),
    "empty certificate": (
        lambda p: _write(p.cert, b""),
        "--tls-cert: '{cert}' holds no certificate in PEM (",
    ),
    "binary": (
        lambda p: _write(p.cert, b"\0\xff" * 99),
        "--tls-cert: '{cert}' holds no certificate in PEM (",
    ),
    "cut": (
        lambda p: _write(p.cert, p.cert.read_bytes()[:200]),
        "--tls-cert: '{cert}' holds no certificate in PEM (",
    ),
    "empty key": (lambda p: _write(p.key, b""), "--tls-key: '{key}' holds no private key in PEM that fits ("),
    "cut key": (
        lambda p: _write(p.key, p.key.read_bytes()[:90]),
        "--tls-key: '{key}' holds no private key in PEM that fits (",
    ),
}


@needs_openssl
@pytest.mark.parametrize("wrong", BAD_PAIRS)
def test_a_bad_pair_is_one_clear_line(pair: Pair, wrong: str) -> None:
    spoil, sentence = BAD_PAIRS[wrong]
    spoil(pair)
    with pytest.raises(StartError) as caught:
        Credentials.read(made(**pair.settings))
    told = str(caught.value)
    assert told.startswith(sentence.format(cert=pair.cert, key=pair.key))
    assert "\n" not in told
    assert told.endswith(".")
