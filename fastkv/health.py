"""Asks a running server whether it is healthy: the client behind ``fastkv health``.

Enters: where the server listens, as `fastkv.settings` or a URL say it. Leaves: nothing where ``GET /health``
is answered with 200. Raises: `SettingsError` for a wrong value, `Unhealthy` for any other outcome. It runs
every few seconds for as long as the server does, so it imports little: no ``http.client``, and nothing that
only a server needs.
"""

import re
import socket
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastkv import __version__
from fastkv.errors import FastKVError, SettingsError
from fastkv.machine import has_ipv6_loopback
from fastkv.names import DEFAULT_PORTS, parse_address
from fastkv.options import Hosts, Option, Seconds, SocketPath, UnfitError, quote
from fastkv.settings import CONFIG_VARIABLE, OPTIONS, Settings

TOKEN = next(option for option in OPTIONS if option.name == "token")
TIMEOUT = Option(
    field="timeout",
    name="timeout",
    kind=Seconds(0.01, 3600),
    default=2.0,
    auto="",
    summary="Longest wait for the answer, everything included.",
)
ASKED = {
    "host": "Address that the server listens on; of several the first is asked.",
    "port": "TCP port that the server listens on.",
    "unix": "Unix socket that the server listens on.",
}
"""Settings that say where a server listens, and what they mean to who asks it."""

# The head of a reply has some 150 bytes; a server that sends more than this is no fastkv.
_MOST_HEAD_BYTES = 4096
_PROBE_SECONDS = 0.5
NO_HTTP = "what answers does not speak HTTP/1.1"
_ASK_BY_TLS = (
    "the port speaks TLS; ask it with --url https://{0.authority}, "
    "or set FASTKV_TLS_CERT to the certificate of the server"
)
_TLS_ALERT = b"\x15"  # the type of a record (RFC 8446, 5.1)
# X509_V_ERR_HOSTNAME_MISMATCH, _EMAIL_MISMATCH, _IP_ADDRESS_MISMATCH
_WRONG_NAME = frozenset((62, 63, 64))
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r\n")


class Unhealthy(FastKVError):
    """The server is not there, does not answer in time, or does not say that it is healthy."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is asked.

    Attributes:
        scheme: ``http``, ``https`` or ``unix``.
        place: A host without brackets, or the path of a Unix socket.
        port: The TCP port; 0 for a Unix socket.
        certificate: Path of the one certificate that is right, whatever host it names; "" for any valid one.
    """

    scheme: str
    place: str
    port: int = 0
    certificate: str = ""

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{repr(self.place)[1:-1]}"  # on one line, whatever the name holds
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """What a request's Host says."""
        if self.scheme == "unix":
            return "localhost"
        # A zone (fe80::1%eth0) is this machine's own business, and no part of a Host (RFC 9110, 7.2).
        host = self.place.partition("%")[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def connect(self, timeout_seconds: float | None = None) -> socket.socket:
        """Open a connection.

        Args:
            timeout_seconds: Longest wait of each operation, those to come included; None for ever.

        Returns:
            The connection, for ``https`` with the server's certificate and name verified.

        Raises:
            OSError: There is none to be had.
        """
        if self.scheme == "unix":
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.settimeout(timeout_seconds)
                made.connect(self.place)
            except BaseException:
                made.close()
                raise
            return made
        made = socket.create_connection((self.place, self.port), timeout_seconds)
        if self.scheme == "http":
            return made
        import ssl  # late: it takes as long to import as all the rest of this module

        context = ssl.create_default_context(cafile=self.certificate or None)
        if self.certificate:
            # Asked on a loopback address, it names another host; and it need not be its own issuer's.
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with made:  # a handshake that succeeds takes the socket over
            return context.wrap_socket(made, server_hostname=self.place)


class _AsWritten(Settings):
    """Settings of which every value is checked, but not whether they suit this machine.

    The server has seen to that, and it may have been given flags, or more memory, that are not known here.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        """Find out nothing, compare nothing."""


def read_asking(
    typed: Mapping[str, Any], env: Mapping[str, str], timeout: Option
) -> tuple[Address, str | None, float]:
    """Read what a command line says of the server to ask, and of how.

    Args:
        typed: Raw values of url, host, port, unix, config, timeout and token; None is a flag not given.
        env: The environment, as for `Settings.load`.
        timeout: The option that the timeout is.

    Returns:
        The address, the token, if any, and the longest wait in seconds.

    Raises:
        SettingsError: A value is wrong, or `url` is given besides what it says.
    """
    seconds = timeout.parse(timeout.default if typed["timeout"] is None else typed["timeout"], timeout.flag)
    token = find_token(typed["token"], env)
    url, config = typed["url"], typed["config"]
    if url is None:
        flags = {name: typed[name] for name in ASKED}
        return server_address(flags, env, None if config is None else Path(config)), token, seconds
    if all(typed[name] is None for name in ("config", *ASKED)):
        return parse_url(url), token, seconds
    raise SettingsError("--url: it says all; leave out --host, --port, --unix and --config.")


def server_address(flags: Mapping[str, Any], env: Mapping[str, str], config: Path | None = None) -> Address:
    """Find the address that ``fastkv serve`` listens on with the same settings.

    A Unix socket is preferred, unless only a host or port is given by flag: there is no doubt whose it is,
    and it needs neither a name nor a certificate. Of several hosts the first is asked, and of all addresses
    of the machine (``0.0.0.0``, ``::``) the loopback one.

    Args:
        flags: Raw values of host, port and unix; None is a flag not given.
        env: The environment, as for `Settings.load`.
        config: TOML file, as for `Settings.load`.

    Returns:
        The address.

    Raises:
        SettingsError: As `Settings.load`, or the port is 0 and thus not known.
    """
    # Unknown variables are left to the server, which warns of each once, and not with every check.
    # The token says nothing of the address, and `find_token` reads it.
    variables = {CONFIG_VARIABLE, *(option.variable for option in OPTIONS)} - {TOKEN.variable}
    known = {name: env[name] for name in variables if name in env}
    settings = _AsWritten.load(flags, known, config)
    by_tcp = flags.get("host") is not None or flags.get("port") is not None
    if settings.unix is not None and (flags.get("unix") is not None or not by_tcp):
        return Address("unix", str(settings.unix))
    if settings.port == 0:
        raise SettingsError(
            "--port: 0 takes a free port when the server starts; "
            "give the one that its first line names, with --port or --url."
        )
    # Without a host the server has 127.0.0.1 in any case.
    host = _reachable(settings.host[0] if settings.host else "127.0.0.1")
    if settings.tls_cert is not None:
        return Address("https", host, settings.port, str(settings.tls_cert))
    return Address("http", host, settings.port)


def parse_url(url: str) -> Address:
    """Read an address as the first line of ``fastkv serve`` writes it.

    Args:
        url: ``http://HOST:PORT``, ``https://HOST:PORT`` or ``unix:PATH``; without a port it is 80 or 443.

    Returns:
        The address; for ``0.0.0.0`` and ``::`` the loopback address.

    Raises:
        SettingsError: It is none of these.
    """
    try:
        if url.startswith("unix:"):
            path = SocketPath().parse(url.removeprefix("unix:"))
            if path is not None:
                return Address("unix", str(path))
        else:
            parts = urlsplit(url)
            default_port = DEFAULT_PORTS[parts.scheme]
            port = default_port if parts.port is None else parts.port
            (host,) = Hosts().parse(parts.hostname)
            if port and "@" not in parts.netloc and f"{parts.path}{parts.query}{parts.fragment}" in ("", "/"):
                return Address(parts.scheme, _reachable(host), port)
    except (UnfitError, KeyError, ValueError):
        pass
    raise SettingsError(
        f"--url: {quote(url)} is not the address of a server; "
        "allowed: http://HOST:PORT, https://HOST:PORT or unix:PATH."
    )


def find_token(flag: str | None, env: Mapping[str, str]) -> str | None:
    """Find the token to send.

    Args:
        flag: What ``--token`` says; None where it was not given.
        env: The environment; ``FASTKV_TOKEN`` counts where the flag was not given.

    Returns:
        The token; None where there is none, or an empty one.

    Raises:
        SettingsError: It cannot be sent as it is. The sentence does not show it.
    """
    token, source = env.get(TOKEN.variable), f"{TOKEN.variable} (environment)"
    if flag is not None:
        token, source = flag, TOKEN.flag
    parsed: str | None = TOKEN.parse(token, source) if token else None
    return parsed


def check(address: Address, token: str | None = None, timeout_seconds: float = 2.0) -> None:
    """Ask a server for ``/health``; nothing happens where it is healthy.

    Args:
        address: Where.
        token: Sent as ``Authorization: Bearer``, if any.
        timeout_seconds: Longest wait, from the look-up of the name to the end of the answer's head.

    Raises:
        Unhealthy: The answer is not 200, or there is none.
    """
    outcome: list[int | str | BaseException] = []

    def ask() -> None:
        try:
            outcome.append(_ask(address, token))
        except OSError as error:
            outcome.append(explain(address, error))
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            outcome.append(error)

    # A thread, because the look-up of a name cannot be given a timeout; and what bounds that bounds connect,
    # handshake and a server that sends byte by byte. It ends with the process, or with the connection.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout_seconds)
    if not outcome:
        raise _unhealthy(address, f"no answer within {timeout_seconds:g} seconds")
    match outcome[0]:
        case 200:
            return
        case int(status):
            raise _unhealthy(address, f"the answer is {name_of_status(status)}")
        case str(why):
            raise _unhealthy(address, why)
        case error:
            raise error


def _ask(address: Address, token: str | None) -> int | str:
    """Return the status of the answer, or where it is not one of HTTP, a sentence about that."""
    fields = [f"Host: {address.authority}", f"User-Agent: fastkv/{__version__}", "Connection: close"]
    if token:
        fields.append(f"Authorization: Bearer {token}")
    request = "\r\n".join(("GET /health HTTP/1.1", *fields, "", ""))
    with closing(address.connect()) as connection:
        connection.sendall(request.encode("ascii"))
        head = b""
        while b"\r\n\r\n" not in head:
            piece = connection.recv(_MOST_HEAD_BYTES - len(head))
            if not piece:  # the end of the connection, or of what is read of an answer
                break
            head += piece
    status = _STATUS_LINE.match(head) if b"\r\n\r\n" in head else None
    if status is None:
        return NO_HTTP if head[:1] not in (b"", _TLS_ALERT) else explain(address, None)
    # A TLS port may say in plain HTTP that it takes none.
    return _ASK_BY_TLS.format(address) if status[1] == b"400" and _speaks_tls(address) else int(status[1])


def explain(address: Address, error: OSError | None) -> str:
    """Say why a server could not be asked, and where it is known, what helps.

    Args:
        address: Where it was asked.
        error: What happened; None where the connection ended without an answer.

    Returns:
        A part of a sentence, without a full stop.
    """
    if isinstance(error, socket.gaierror):
        return f"'{address.place}' cannot be resolved ({error.strerror}); give another --host, or an address"
    if address.scheme == "https" and error is not None:
        return _explain_tls(address, error)
    if (error is None or isinstance(error, ConnectionResetError)) and _speaks_tls(address):
        return _ASK_BY_TLS.format(address)
    return NO_HTTP if error is None else error.strerror or str(error)


def _explain_tls(address: Address, error: OSError) -> str:
    import ssl

    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if not isinstance(error, ssl.SSLCertVerificationError):
        reason = (error.reason or "").replace("_", " ").lower() or str(error)
        return f"there is no TLS on this port ({reason}); a plain server is asked with http://{address.authority}"
    why = error.verify_message.removesuffix(".")
    if address.certificate:
        return (
            f"its certificate is not the one in '{address.certificate}' ({why}); "
            "give the file that the server has, and send the server SIGHUP if that is new"
        )
    if error.verify_code in _WRONG_NAME:
        return f"its certificate is for another name ({why}); ask by a name that it is for"
    return f"its certificate is not trusted ({why}); set SSL_CERT_FILE to it, or to that of its authority"


def _speaks_tls(address: Address) -> bool:
    """Try a handshake with a server that has closed a plain connection without an answer."""
    if address.scheme != "http":
        return False
    import ssl

    context = ssl.create_default_context()
    # Nothing is sent, and nothing that comes is believed.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address.place, address.port), _PROBE_SECONDS) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except OSError:
        return False


def _reachable(host: str) -> str:
    """Return a host that one can connect to where a server listens on this one."""
    match parse_address(host):
        case "0.0.0.0":
            return "127.0.0.1"
        case "::":
            # It takes IPv4 as well, or stands for 0.0.0.0, where there is no ::1.
            return "::1" if has_ipv6_loopback() else "127.0.0.1"
    return host


def name_of_status(status: int) -> str:
    """Return a status with its phrase: never the server's own words, which might repeat the token."""
    from http import HTTPStatus

    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _unhealthy(address: Address, why: str) -> Unhealthy:
    return Unhealthy(f"{address} is not healthy: {why}.")
