"""What the settings name files for: the token, and the certificate with its key.

Enters: `Settings`. Leaves: `Credentials`. Raises: `StartError`, one sentence with the file and what is wrong
with it. The supervisor reads them, at the start and at each SIGHUP, so that a worker which takes another's
place cannot fail for a file that has gone bad meanwhile.
"""

from __future__ import annotations

import logging
import ssl
import stat
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

from fastkv.errors import SettingsError, StartError

if TYPE_CHECKING:
    from pathlib import Path

    from fastkv.settings import Settings

_log = logging.getLogger("fastkv")

# Longer than any token may be.
_MOST_LINE_BYTES: Final = 4096

# Below TLS 1.3, which has no others, only what keeps past talk secret (RFC 9325, 4.2).
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was read.

    Attributes:
        token: The token from its file; None where none is named.
        tls: The context for TCP connections; None where they are plain.
    """

    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    @classmethod
    def read(cls, settings: Settings) -> Self:
        """Read all files.

        Args:
            settings: For token_file, tls_cert and tls_key.

        Raises:
            StartError: One of them is missing, cannot be read, or is not what it should be.
        """
        token = None if settings.token_file is None else _read_token(settings, settings.token_file)
        tls = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            tls = _read_certificate(settings.tls_cert, settings.tls_key)
        return cls(token, tls)

    def fill_in(self, settings: Settings) -> Settings:
        """Return settings that hold the token itself in place of its file."""
        if self.token is None:
            return settings
        return replace(settings, token=self.token, token_file=None)


def _read_token(settings: Settings, path: Path) -> str:
    line = _first_line(path, "--token-file").strip()
    _warn_if_open_to_all(path, "--token-file")
    try:
        return str(replace(settings, token=line.decode("latin-1"), token_file=None).token)
    except SettingsError as error:
        raise StartError(f"--token-file: '{path}': {str(error).removeprefix('--token: ')}") from None


def _read_certificate(certificate: Path, key: Path) -> ssl.SSLContext:
    for path, flag in ((certificate, "--tls-cert"), (key, "--tls-key")):
        _first_line(path, flag)  # OpenSSL does not say which of the two it could not read
    _warn_if_open_to_all(key, "--tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    asked = False

    def no_password() -> str:
        """Called for an encrypted key; without it OpenSSL would ask at the terminal."""
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if asked:
            why = f"--tls-key: '{key}' is encrypted; allowed: a key without a password."
        elif error.reason == "KEY_VALUES_MISMATCH":
            why = f"--tls-key: '{key}' is not the key of the certificate in '{certificate}'."
        elif not _has_certificate(certificate):
            why = f"--tls-cert: '{certificate}' holds no certificate in PEM ({_reason(error)})."
        else:
            why = f"--tls-key: '{key}' holds no private key in PEM that fits ({_reason(error)})."
        raise StartError(why) from None
    return context


def _has_certificate(path: Path) -> bool:
    try:
        return bool(ssl.create_default_context(cafile=path))
    except ssl.SSLError:
        return False


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _first_line(path: Path, flag: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.readline(_MOST_LINE_BYTES)
    except OSError as error:
        raise StartError(f"{flag}: '{path}' cannot be read ({error.strerror}).") from None


def _warn_if_open_to_all(path: Path, flag: str) -> None:
    if path.stat().st_mode & stat.S_IROTH:
        _log.warning("%s: '%s' can be read by every user of the machine; chmod 600 prevents it.", flag, path)
