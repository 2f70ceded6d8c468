"""Which senders may speak: the token, browsers' origins, and the host that a request names.

In: a request line and a `Head`. Out: a `Verdict`. Nothing is raised, nothing is read or logged; the decision
depends on the settings, the line and the head, and on nothing else. A refusal for Origin or Host says what to
log of it: it may be the owner's own page that is kept out.

The readable path judges each request (`Access.judge`). The compiled core asks once for each combination of
the four fields that decide (`Access.admits`), keeps the last few that are admitted, for any target, and
compares Authorization in constant time; it declines every other request.

Three kinds of request are refused, by what a browser or a stranger can do without the owner's will:

- A page of another site lets the browser send requests here (cross-site request forgery). The browser says so
  in Origin and Sec-Fetch-Site (Fetch, 3.1; Fetch Metadata, 2.3), which no page can forge: 403.
- A page lets the name of its own site point to this machine (DNS rebinding): to the browser it is no other
  site then. But the request names that host: 421, where the server may be reachable from here alone.
- Where there is a token, a request must present it (RFC 6750): 401.
"""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, NamedTuple

from fastkv.http.request import Head, HttpError, is_authority
from fastkv.http.responses import isolation_of
from fastkv.http.urlform import form_values
from fastkv.names import (
    DEFAULT_PORTS,
    build_origin,
    is_local_name,
    may_be_loopback,
    parse_address,
    parse_origin,
    split_authority,
)
from fastkv.options import quote
from fastkv.stats import Column

if TYPE_CHECKING:
    from fastkv.http.responses import Handler, Reply
    from fastkv.settings import Settings

ANY_ORIGIN: Final = "*"
"""What ``--allow-origin`` says for every origin."""

OPEN_PATH: Final = b"/health"
"""The path that needs no token, whatever the method."""

TOKEN_PARAMETER: Final = b"_token"

# Fields of replies that scripts may read besides those of the CORS safelist (Fetch, 2.2.6).
_EXPOSED = b"Accept-Ranges, Allow, Content-Range, Date, ETag, Next-Cursor, Retry-After, TTL, WWW-Authenticate"
# Two hours, Chromium's own bound. What a browser remembers of a preflight allows nothing: each request that
# follows is judged for itself.
_PREFLIGHT: Final = (
    b"Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE\r\nAccess-Control-Max-Age: 7200\r\n"
)
_LIST_OF_NAMES: Final = frozenset(
    b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz, "
)
_FOREIGN_SITES: Final = frozenset((b"cross-site", b"same-site"))

_NO_TOKEN: Final = "This needs the token of the server: Authorization: Bearer TOKEN, or ?_token=TOKEN."
_WRONG_ORIGIN: Final = "Pages of other origins may not speak to this server; --allow-origin lets them."
_WRONG_HOST: Final = "This server is not known by the name in Host; --allowed-host adds names."

_STRANGE_ORIGIN: Final = "A page of the Origin {} was refused; --allow-origin lets pages of an origin in."
_STRANGE_SITE: Final = "A page without Origin was refused (Sec-Fetch-Site {}); --allow-origin * lets all in."
_STRANGE_HOST: Final = "A request for the unknown Host {} was refused; --allowed-host adds names."
# More than a log line shows of a header field.
_SHOWN_BYTES: Final = 100


class SenderRefused(HttpError):
    """A request with an Origin or a Host that may not speak.

    Attributes:
        column: Where it is counted.
    """

    def __init__(self, status: int, message: str, column: Column, complaint: str, given: bytes) -> None:
        super().__init__(status, message)
        self.column = column
        self._complaint = complaint
        self._given = given

    @property
    def warning(self) -> str:
        """What to log: the refused value, quoted and of bounded length, and the option that lets it in."""
        given = quote(self._given[:_SHOWN_BYTES].decode("latin-1"))
        counter = self.column.name.lower()
        return f"{self._complaint.format(given)} Further ones are only counted, in {counter} of /stats."


class Verdict(NamedTuple):
    """What is to be done with a request.

    Attributes:
        handler: What answers in place of the route, which is not asked then; None where the route does.
        fields: Header lines that the reply has to have besides, each with its CRLF.
    """

    handler: Handler | None
    fields: bytes


class Access:
    """Decides which senders may speak to a worker.

    Args:
        settings: For token, allow_origin, allowed_host, host, and tls_cert, which makes the scheme https.
    """

    __slots__ = ("_any_origin", "_digest", "_guards_host", "_hosts", "_origins", "_scheme")

    def __init__(self, settings: Settings) -> None:
        self._digest = None if settings.token is None else _digest(settings.token.encode())
        self._scheme = "https" if settings.tls_cert else "http"
        self._any_origin = ANY_ORIGIN in settings.allow_origin
        self._origins = frozenset(settings.allow_origin)
        # The names that it listens on are its own; addresses among them are allowed anyway.
        self._hosts = list(filter(None, map(split_authority, (*settings.allowed_host, *settings.host))))
        self._guards_host = self._digest is None and any(map(may_be_loopback, settings.host))

    def admits(
        self, host: bytes | None, origin: bytes | None, site: bytes | None, authorization: bytes | None
    ) -> bool:
        """Decide on all four fields that name a sender; none of them means anything without the others.

        One verdict for each field would let a page of an allowed host in by the name of another one.

        Args:
            host: The value of Host; None where the field is absent, likewise below.
            origin: Origin.
            site: Sec-Fetch-Site.
            authorization: Authorization.

        Returns:
            True where every request with these four is answered as one without Origin and Authorization is;
            False where it is refused, gets header lines besides, or depends on its target. A malformed
            Host is not admitted either.
        """
        return (
            (host is None or is_authority(host))
            and self._names_us(host)
            and self._allowed_origin(origin) is None
            and not self._is_foreign(host, origin, site)
            and (self._digest is None or self._bears_token(authorization))
        )

    def judge(self, line: bytes, head: Head) -> Verdict:
        """Decide on one request.

        Args:
            line: Method, space and target in origin-form.
            head: Its head.

        Returns:
            The verdict; refusals are handlers that raise `HttpError` 400, 401, 403 or 421.
        """
        host, raw_origin, site = head.get(b"host"), head.get(b"origin"), head.get(b"sec-fetch-site")
        if not self._names_us(host):
            error = SenderRefused(421, _WRONG_HOST, Column.WRONG_HOSTS, _STRANGE_HOST, host or b"")
            return _refusal(error, b"")
        origin = self._allowed_origin(raw_origin)
        if origin is None and self._is_foreign(host, raw_origin, site):
            return _refusal(_foreign(raw_origin, site), b"")
        fields = b""
        if origin is not None:
            fields = b"Access-Control-Allow-Origin: %b\r\nVary: Origin\r\n" % origin.encode()
            if line.startswith(b"OPTIONS ") and head.get(b"access-control-request-method"):
                # Before the token: a preflight cannot carry one (Fetch, 4.8).
                return Verdict(_preflight, fields + isolation_of(line))
            fields += b"Access-Control-Expose-Headers: %b\r\n" % _EXPOSED
        path, _, query = line.partition(b" ")[2].partition(b"?")
        if (
            self._digest is not None
            and path != OPEN_PATH
            and not self._bears_token(head.get(b"authorization"))
        ):
            try:
                given = form_values(query, TOKEN_PARAMETER)
            except HttpError as error:
                return _refusal(error, fields)
            if len(given) != 1 or not self._is_token(given[0]):
                return _refusal(HttpError(401, _NO_TOKEN, extra=b"WWW-Authenticate: Bearer\r\n"), fields)
        return Verdict(None, fields)

    def _bears_token(self, authorization: bytes | None) -> bool:
        """True where Authorization presents the token; where it is repeated, it presents none."""
        scheme, _, token = (authorization or b"").partition(b" ")
        return scheme.lower() == b"bearer" and self._is_token(token.lstrip(b" "))

    def _is_token(self, given: bytes) -> bool:
        """Compare digests, in a time that says nothing of where they differ, nor how long the token is."""
        return self._digest is not None and compare_digest(_digest(given), self._digest)

    def _allowed_origin(self, raw: bytes | None) -> str | None:
        """Return the origin that is let in by a setting, as the browser wrote it."""
        if raw is None or not self._origins:
            return None
        text = raw.decode("latin-1")
        origin = parse_origin(text)
        if origin in self._origins or (self._any_origin and (origin or text == "null")):
            return text
        return None

    def _is_foreign(self, host: bytes | None, raw: bytes | None, site: bytes | None) -> bool:
        """True where a browser sends for a page that is not the server's own; whether it is allowed is known.

        Without Origin only ``*`` excuses Sec-Fetch-Site: the page is not known then. A value that is
        not defined counts for nothing (Fetch Metadata, 2.3).
        """
        if raw is not None:
            own = build_origin(self._scheme, (host or b"").decode("latin-1"))
            if own is None or parse_origin(raw.decode("latin-1")) != own:
                return True
        elif self._any_origin:
            return False
        return any(each.strip() in _FOREIGN_SITES for each in (site or b"").lower().split(b","))

    def _names_us(self, raw: bytes | None) -> bool:
        """True where the host of a request cannot be a stranger's name for this machine.

        Browsers always send Host, so without one there is nothing to fear.
        """
        if not self._guards_host:
            return True
        if raw is None:
            return True
        parts = split_authority(raw.decode("latin-1"))
        if parts is None:
            return False
        host, port = parts
        port = port or DEFAULT_PORTS[self._scheme]
        return (
            "." not in host
            or is_local_name(host)
            or parse_address(host) is not None
            or any(
                own_port in (None, port) and (host == own or (own[0] == "." and f".{host}".endswith(own)))
                for own, own_port in self._hosts
            )
        )


def _foreign(origin: bytes | None, site: bytes | None) -> SenderRefused:
    """The refusal of a request that a browser sends for another site's page."""
    if origin is not None:
        return SenderRefused(403, _WRONG_ORIGIN, Column.FOREIGN_ORIGINS, _STRANGE_ORIGIN, origin)
    return SenderRefused(403, _WRONG_ORIGIN, Column.FOREIGN_ORIGINS, _STRANGE_SITE, site or b"")


def _preflight(_query: bytes, head: Head, _body: bytes) -> Reply:
    """Answer for an allowed origin what may be sent: any fields, for none of them is harmful by itself."""
    fields = _PREFLIGHT
    names = head.get(b"access-control-request-headers") or b""
    if names and _LIST_OF_NAMES.issuperset(names):
        fields += b"Access-Control-Allow-Headers: %b\r\n" % names
    # Private Network Access: a page of the Internet asks to speak to this machine.
    if head.get(b"access-control-request-private-network") == b"true":
        fields += b"Access-Control-Allow-Private-Network: true\r\n"
    return 204, fields + b"\r\n"


def _refusal(error: HttpError, fields: bytes) -> Verdict:
    def refuse(_query: bytes, _head: Head, _body: bytes) -> Reply:
        raise error

    return Verdict(refuse, fields)


def _digest(token: bytes) -> bytes:
    """Digest a token: digests have one length, so a comparison does not show that of the token."""
    return sha256(token).digest()
