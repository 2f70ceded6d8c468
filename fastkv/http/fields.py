"""The request fields that fastkv reads, and what the compiled core does with each on each of its routes.

In: nothing. Out: `TREATMENTS`, a table by field name and route. A field that is not listed is read by no
route, so that it does not change an answer: the core ignores it, as the readable path does. Tests find each
name that the readable path reads and compare it with this table; a field that a route begins to read has to
be listed first, and the core declines it until it understands it.
"""

from enum import IntEnum
from typing import Final


class Route(IntEnum):
    """The routes that the compiled core answers, numbered as in `core/headers.pxd`."""

    READ_JSON = 0
    """GET and HEAD of `/get`."""
    PUT_JSON = 1
    """PUT and POST of `/put`."""
    READ_RESOURCE = 2
    """GET and HEAD of `/kv`."""
    PUT_RESOURCE = 3
    """PUT of `/kv`."""
    DELETE_ANY = 4
    """DELETE of `/delete` and `/kv`."""
    RUN_COMMAND = 5
    """POST of `/` and `/pipeline`."""


class Treatment(IntEnum):
    """What the core does with a field, numbered as in `core/headers.pyx`.

    Each field that is listed may be there once; a request that repeats one is declined on every route.
    """

    IGNORED = 0
    """No answer of the route depends on it."""
    DECLINED = 1
    """The readable path reads the request."""
    CONNECTION = 2
    """Declined unless its value is keep-alive."""
    CONTENT_LENGTH = 3
    """Digits, the length of the body."""
    HOST = 4
    """Judged together with the three that follow (`Access.admits`). A request without Host is declined."""
    ORIGIN = 5
    FETCH_SITE = 6
    AUTHORIZATION = 7
    CONTENT_TYPE = 8
    """Metadata of the value, as `content.metadata_from` makes it of both."""
    CONTENT_ENCODING = 9
    TTL = 10
    """Digits, the seconds for which the entry is kept."""
    RESULT_ENCODING = 11
    """Strings of the reply are in base64 where the value says so."""


_EVERY: Final = frozenset(Route)
_PUT_RESOURCE: Final = frozenset({Route.PUT_RESOURCE})
_ELSEWHERE: Final[frozenset[Route]] = frozenset()
"""Only routes that the core does not answer read the field."""

_USES: Final[dict[bytes, tuple[Treatment, frozenset[Route]]]] = {
    b"host": (Treatment.HOST, _EVERY),
    b"origin": (Treatment.ORIGIN, _EVERY),
    b"sec-fetch-site": (Treatment.FETCH_SITE, _EVERY),
    b"authorization": (Treatment.AUTHORIZATION, _EVERY),
    b"connection": (Treatment.CONNECTION, _EVERY),
    b"content-length": (Treatment.CONTENT_LENGTH, _EVERY),
    b"content-type": (Treatment.CONTENT_TYPE, _PUT_RESOURCE),
    b"content-encoding": (Treatment.CONTENT_ENCODING, _PUT_RESOURCE),
    b"ttl": (Treatment.TTL, _PUT_RESOURCE),
    b"x-ttl": (Treatment.TTL, _PUT_RESOURCE),
    b"upstash-encoding": (Treatment.RESULT_ENCODING, frozenset({Route.RUN_COMMAND})),
    # Framing, protocol, conditions and parts are the readable path's, also where a route does not read them.
    # Besides these the core declines every field that begins with `if-`.
    b"expect": (Treatment.DECLINED, _EVERY),
    b"transfer-encoding": (Treatment.DECLINED, _EVERY),
    b"upgrade": (Treatment.DECLINED, _EVERY),
    b"range": (Treatment.DECLINED, _EVERY),
    b"content-range": (Treatment.DECLINED, _EVERY),
    b"if-match": (Treatment.DECLINED, _EVERY),
    b"if-none-match": (Treatment.DECLINED, _EVERY),
    b"if-range": (Treatment.DECLINED, _EVERY),
    b"access-control-request-headers": (Treatment.IGNORED, _ELSEWHERE),
    b"access-control-request-method": (Treatment.IGNORED, _ELSEWHERE),
    b"access-control-request-private-network": (Treatment.IGNORED, _ELSEWHERE),
    b"sec-websocket-version": (Treatment.IGNORED, _ELSEWHERE),
}

TREATMENTS: Final[dict[bytes, tuple[Treatment, ...]]] = {
    name: tuple(treatment if route in routes else Treatment.IGNORED for route in Route)
    for name, (treatment, routes) in _USES.items()
}
"""By the name of a field in lower case: its treatment on each route, in the order of `Route`."""
