"""What a request is, and the validation of its lines.

In: single lines of a header section, without their CRLF. Out: a request line taken apart, fields, and a
`Head`, the facts that are derived once per header section. `HttpError` is raised for whatever RFC 9110 and
RFC 9112 forbid and for whatever two readers could frame differently; no repair is ever attempted.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Final, TypeAlias

KEEP_ALIVE: Final = 0
"""`Head.persistence`: HTTP/1.1 that stays open; the reply has no Connection field."""
CLOSE: Final = 1
"""`Head.persistence`: the connection ends after the reply, which says `Connection: close`."""
KEEP_ALIVE_1_0: Final = 2
"""`Head.persistence`: HTTP/1.0 that asked to stay open; the reply says `Connection: keep-alive`."""

MAX_FIELDS: Final = 100
"""Fields that a header section may have by default."""

Field: TypeAlias = tuple[bytes, bytes]
"""Lower-case name, value without the white space around it."""
Fields: TypeAlias = tuple[Field, ...]

# Each table maps what is allowed to itself (a name's capitals to lower case) and all else to a space: one
# `translate` and one search for a space check a whole string in C, in 90 ns where a regular expression takes
# 180 ns.
TOKEN_BYTES: Final = frozenset(
    b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
TARGET_BYTES: Final = frozenset(
    b"!$%&'()*+,-./:;=?@_~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
"""What path and query of a URL consist of (RFC 3986, 3.3 and 3.4); all else has to be percent-encoded."""
_TOKEN = bytes(byte if byte in TOKEN_BYTES else 0x20 for byte in range(256))
_NAME = _TOKEN.lower()
_TARGET = bytes(byte if byte in TARGET_BYTES else 0x20 for byte in range(256))
_SPACE = 0x20
_EXPECTATIONS: Final = frozenset({b"100-continue"})

_forbidden_in_value = re.compile(rb"[^\t\x20-\x7e\x80-\xff]").search
_match_version = re.compile(rb"HTTP/([0-9])\.([0-9])").fullmatch
_match_absolute = re.compile(rb"(?i:http(s?))://([^/?]*)(.*)", re.DOTALL).fullmatch
_match_authority = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|(?:[0-9A-Za-z\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?"
).fullmatch


class HttpError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: The status code of the reply, 400 to 599.
        message: One sentence for the client, the `message` of the JSON error.
        close: True where nothing that follows on the connection can be trusted to be a request.
        extra: Header lines for the reply, each with its CRLF, such as `Allow`.
    """

    def __init__(self, status: int, message: str, *, close: bool = False, extra: bytes = b"") -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.close = close
        self.extra = extra


class ValueRefused(HttpError):
    """A body that is longer than the value which it would become may be: 413, counted apart."""


@dataclass(frozen=True, slots=True)
class Head:
    """The facts of a header section and the version it came with.

    Attributes:
        fields: Name and value of every field, in the order of arrival.
        version: b"1.1", or b"1.0" for a client of that version.
        persistence: `KEEP_ALIVE`, `CLOSE` or `KEEP_ALIVE_1_0`.
        content_length: Bytes of the body as declared; 0 where no Content-Length was given.
        has_length: True where the request said how long its body is, with Content-Length or as chunks.
        chunked: True for a chunked body.
        expect_continue: True where the client may wait for 100 before it sends the body.
        upgrade: The value of Upgrade where Connection names it too, else None.
    """

    fields: Fields
    version: bytes
    persistence: int
    content_length: int
    has_length: bool
    chunked: bool
    expect_continue: bool
    upgrade: bytes | None

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field.

        Args:
            name: The field's name in lower case.

        Returns:
            The value, several of them joined by a comma and a space (RFC 9110, 5.3), or None.
        """
        values = [value for field, value in self.fields if field == name]
        return b", ".join(values) if values else None


Message: TypeAlias = tuple[bytes, Head, bytes]
"""(line, head, body): the line is method, space and target in origin-form, the body is free of any coding."""


def parse_request_line(line: bytes, *, secure: bool = False) -> tuple[bytes, bytes | None, bytes]:
    """Take a request line apart and bring its target into origin-form (RFC 9112, 3).

    Args:
        line: The line without its CRLF.
        secure: The connection is secured, so that an https URL may be asked for.

    Returns:
        Method, space and target in origin-form (or `*`); the authority of a target in absolute-form, else
        None; the version, b"1.0" or b"1.1". A higher minor version is read as 1.1 (RFC 9110, 2.5).

    Raises:
        HttpError: 400 for a malformed line, 405 for CONNECT, 421 for an https URL, 505 for another major
            version.
    """
    parts = line.split(b" ")
    if len(parts) != 3:
        raise _refused("The request line must be a method, a target and a version.")
    method, target, protocol = parts
    if not method or _SPACE in method.translate(_TOKEN):
        raise _refused("The method is malformed.")
    version = _match_version(protocol)
    if version is None:
        raise _refused("The protocol version is malformed.")
    if version[1] != b"1":
        raise HttpError(505, "This server supports HTTP/1.1 and HTTP/1.0 only.", close=True)
    target, authority = _origin_form(method, target, secure)
    odd = target.translate(_TARGET).find(_SPACE)
    if odd >= 0:
        raise _refused(
            f"The request target has the byte 0x{target[odd]:02X} as it is; write it as %{target[odd]:02X}."
        )
    return method + b" " + target, authority, b"1.0" if version[2] == b"0" else b"1.1"


def _origin_form(method: bytes, target: bytes, secure: bool) -> tuple[bytes, bytes | None]:
    """Return a target in origin-form and the authority that an absolute-form named (RFC 9112, 3.2)."""
    if method == b"CONNECT":
        raise HttpError(
            405,
            "CONNECT is for proxies.",
            close=True,
            extra=b"Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n",
        )
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, None
    absolute = _match_absolute(target)
    if absolute is None:
        raise _refused("The request target is neither a path nor an http URL.")
    if absolute[1] and not secure:
        # What was asked for in private must not be answered in public (RFC 9110, 7.4).
        raise HttpError(421, "This connection is not secured, as an https URL demands.", close=True)
    authority, path = absolute[2], absolute[3]
    if not is_authority(authority):
        raise _refused("The host of the request target is malformed.")
    if not path and method == b"OPTIONS":
        return b"*", authority
    return path if path.startswith(b"/") else b"/" + path, authority


def parse_field(line: bytes) -> Field:
    """Parse one field line (RFC 9112, 5).

    Args:
        line: The line without its CRLF.

    Returns:
        The name in lower case and the value without the white space around it.

    Raises:
        HttpError: 400 for a folded line, white space around the name, a name that is no token, a missing
            colon, or a control character.
    """
    if line[:1] in (b" ", b"\t"):
        raise _refused("A header field must not be folded over several lines.")
    name, colon, value = line.partition(b":")
    name = name.translate(_NAME)
    if not colon or not name or _SPACE in name:
        raise _refused("A header field has a malformed name.")
    value = value.strip(b" \t")
    if _forbidden_in_value(value):
        raise _refused("A header field has a control character in its value.")
    return name, value


def build_head(version: bytes, fields: Fields, authority: bytes | None = None) -> Head:
    """Validate a header section as a whole and derive its facts.

    Args:
        version: b"1.1" or b"1.0".
        fields: What `parse_field` made of its lines.
        authority: The authority of a target in absolute-form; it takes the place of Host (RFC 9112, 3.2.2).

    Returns:
        The head.

    Raises:
        HttpError: 400 for a Host that is missing, repeated or malformed, or a body that could be framed in
            two ways; 417 for an unknown expectation; 501 for an unknown transfer coding. The connection
            closes after each.
    """
    values: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    _check_host(version, values.get(b"host", []))
    if authority is not None:
        fields = ((b"host", authority), *(field for field in fields if field[0] != b"host"))
    chunked = _parse_transfer_encoding(version, values.get(b"transfer-encoding", []))
    lengths = values.get(b"content-length", [])
    if chunked and lengths:
        raise _refused("A request must not have both Transfer-Encoding and Content-Length.")
    connection = _parse_list(values.get(b"connection", []))
    persistence = _persistence(version, connection)
    has_length = chunked or bool(lengths)
    return Head(
        fields=fields,
        version=version,
        persistence=persistence,
        content_length=_parse_content_length(lengths),
        has_length=has_length,
        chunked=chunked,
        expect_continue=_parse_expect(version, values.get(b"expect", [])),
        upgrade=_parse_upgrade(version, connection, values.get(b"upgrade", [])),
    )


def _check_host(version: bytes, hosts: list[bytes]) -> None:
    """Host exactly once in HTTP/1.1, at most once in HTTP/1.0, and an authority either way (RFC 9112, 3.2).

    An empty Host is refused as well: it means that the target has no authority, and an http URL must have one
    (RFC 9110, 4.2.1). So a decision by Host does not have to consider it.
    """
    if len(hosts) > 1:
        raise _refused("The Host header field is repeated.")
    if not hosts and version != b"1.0":
        raise _refused("The Host header field is missing.")
    if hosts and not is_authority(hosts[0]):
        raise _refused("The Host header field is malformed.")


def is_authority(value: bytes) -> bool:
    """True for a host with an optional port and without user information (RFC 3986, 3.2).

    A comma is refused, though a name may have one by the letter: a reader of lists would see two hosts.
    """
    match = _match_authority(value)
    if match is None or int(match[2] or 0) > 65535:
        return False
    if match[1] is not None:
        try:
            IPv6Address(match[1].decode())
        except AddressValueError:
            return False
    return True


def _parse_content_length(values: list[bytes]) -> int:
    """Return the Content-Length or 0; two are refused even where they agree (RFC 9112, 6.3)."""
    if not values:
        return 0
    if len(values) > 1:
        raise _refused("The Content-Length header field is repeated.")
    value = values[0]
    # Nineteen digits fit the 64 bits that any peer counts with; int() alone would take signs, spaces and
    # underscores.
    if not value.isdigit() or len(value) > 19:
        raise _refused("The Content-Length header field is malformed.")
    return int(value)


def _parse_transfer_encoding(version: bytes, values: list[bytes]) -> bool:
    """Return True for `chunked`, the one transfer coding that is spoken here (RFC 9112, 6.1)."""
    if not values:
        return False
    if version == b"1.0":
        raise _refused("HTTP/1.0 has no Transfer-Encoding.")
    codings = _parse_list(values)
    if codings == [b"chunked"]:
        return True
    if (
        any(not coding or _SPACE in coding.translate(_TOKEN) for coding in codings)
        or b"chunked" in codings[:-1]
    ):
        raise _refused("The Transfer-Encoding header field is malformed.")
    raise HttpError(501, "Only the transfer coding chunked is known.", close=True)


def _parse_expect(version: bytes, values: list[bytes]) -> bool:
    """Return True where the client expects 100; one of HTTP/1.0 cannot (RFC 9110, 10.1.1)."""
    expectations = {member for member in _parse_list(values) if member}
    if not expectations <= _EXPECTATIONS:
        raise HttpError(417, "The only expectation that this server meets is 100-continue.", close=True)
    return bool(expectations) and version != b"1.0"


def _parse_list(values: list[bytes]) -> list[bytes]:
    """Return the members of a list that one field or several hold, in lower case (RFC 9110, 5.6.1).

    Empty members, which a recipient has to ignore, are among them.
    """
    return [member.strip(b" \t").lower() for value in values for member in value.split(b",")]


def _persistence(version: bytes, connection: list[bytes]) -> int:
    """Return whether the connection outlives the reply (RFC 9112, 9.3)."""
    if b"close" in connection:
        return CLOSE
    if version != b"1.0":
        return KEEP_ALIVE
    return KEEP_ALIVE_1_0 if b"keep-alive" in connection else CLOSE


def _parse_upgrade(version: bytes, connection: list[bytes], values: list[bytes]) -> bytes | None:
    """Return the offered protocols, where Connection names them and the version has them (RFC 9110, 7.8)."""
    if version == b"1.0" or b"upgrade" not in connection:
        return None
    return b", ".join(values) or None


def _refused(message: str) -> HttpError:
    """A malformed request: 400, and nothing that follows is read."""
    return HttpError(400, message, close=True)
