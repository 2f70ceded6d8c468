"""Certificates for tests, made by openssl: each signs itself, and is good for localhost and 127.0.0.1."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in PEM.

    Attributes:
        cert: Its path.
        key: That of the key.
    """

    cert: Path
    key: Path

    @property
    def settings(self) -> dict[str, Any]:
        """What a server is started with."""
        return {"tls_cert": self.cert, "tls_key": self.key}


def openssl(*arguments: str | Path) -> None:
    """Run openssl."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def make_pair(directory: Path, name: str = "server") -> Pair:
    """Make a new certificate with a new key, over an older one of the same name."""
    pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout", pair.key, "-out", pair.cert,
    )  # fmt: skip
    pair.key.chmod(0o600)
    return pair
