"""Conditional requests and ranges as pure functions (RFC 9110, 13 and 14).

In: a `Head`, the ETag of what is there, its length. Out: whether the request's conditions hold, and which
bytes it wants. `HttpError` is raised for a list of entity tags that is none (400) and for a range that lies
past the end (416).

An entry has an ETag, always a strong one, and no date: `If-Modified-Since` and `If-Unmodified-Since` are
passed over, as they are for whatever has no modification date (RFC 9110, 13.1.3 and 13.1.4).
"""

import re
from dataclasses import dataclass
from typing import Final

from fastkv.http.request import Head, HttpError

_split_tags = re.compile(rb'((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")').split
_match_range = re.compile(rb"([0-9]*)-([0-9]*)").fullmatch

_ANY: Final = b"*"
_PAST_EVERY_END: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a request demands of the entity tag.

    Attributes:
        match: The members of If-Match, None without one.
        none_match: Those of If-None-Match, without the mark of weak ones, which makes no difference there.
    """

    match: frozenset[bytes] | None
    none_match: frozenset[bytes] | None

    def is_match(self, etag: bytes | None) -> bool:
        """Evaluate If-Match by strong comparison (RFC 9110, 13.1.1).

        Args:
            etag: The ETag of what is there, None for nothing.

        Returns:
            True where it holds, or was not sent.
        """
        return self.match is None or (etag is not None and not self.match.isdisjoint((_ANY, etag)))

    def is_none_match(self, etag: bytes | None) -> bool:
        """Evaluate If-None-Match by weak comparison (RFC 9110, 13.1.2); arguments as for `is_match`."""
        return self.none_match is None or etag is None or self.none_match.isdisjoint((_ANY, etag))

    def hold(self, etag: bytes | None) -> bool:
        """Evaluate both, for a method whose answer is 412 if one fails (RFC 9110, 13.2.2)."""
        return self.is_match(etag) and self.is_none_match(etag)


def conditions_of(head: Head) -> Conditions | None:
    """Read a request's conditions.

    Args:
        head: Its head.

    Returns:
        Them, or None where there are none.

    Raises:
        HttpError: 400 for what is neither `*` nor a list of entity tags: to guess could overwrite what the
            client meant to keep.
    """
    match, none_match = head.get(b"if-match"), head.get(b"if-none-match")
    if match is None and none_match is None:
        return None
    return Conditions(
        None if match is None else frozenset(_parse_tags(match)),
        None if none_match is None else frozenset(tag.removeprefix(b"W/") for tag in _parse_tags(none_match)),
    )


def _parse_tags(value: bytes) -> list[bytes]:
    """Return the entity tags of a list, quotes included (RFC 9110, 8.8.3), or the one member `*`.

    A tag may hold commas, so the list is not split at them.
    """
    if value == _ANY:
        return [_ANY]
    parts = _split_tags(value)
    between = parts[::2]
    if b"".join(between).strip(b" \t,") or not all(b"," in part for part in between[1:-1]):
        raise HttpError(400, "If-Match and If-None-Match take * or a list of entity tags in quotes.")
    return parts[1::2]


def range_of(head: Head, size: int, etag: bytes) -> tuple[int, int] | None:
    """Find out which part of a value a GET wants (RFC 9110, 14.2).

    Another unit than bytes, several ranges and what is malformed get the whole, as does an If-Range (13.1.5)
    that names another entity tag or a date.

    Args:
        head: The request's head.
        size: Bytes of the value.
        etag: Its ETag.

    Returns:
        Where the part begins and where it has ended, or None for the whole.

    Raises:
        HttpError: 416 for a range that has no byte of the value.
    """
    value = head.get(b"range")
    if value is None or head.get(b"if-range") not in (None, etag):
        return None
    unit, _, ranges = value.partition(b"=")
    match = _match_range(ranges.strip(b" \t,"))
    if unit.lower() != b"bytes" or match is None:
        return None
    first, last = match.groups()
    if not first:
        return _suffix(last, size)
    start = _position(first)
    end = _position(last) + 1 if last else size
    if last and end <= start:
        return None
    if start >= size:
        raise _not_satisfiable(size)
    return start, min(end, size)


def _suffix(length: bytes, size: int) -> tuple[int, int] | None:
    """Return the last bytes of a value; an empty one has no part that could be named, so it is sent whole."""
    if not length or (not size and _position(length)):
        return None
    start = max(size - _position(length), 0)
    if start >= size:
        raise _not_satisfiable(size)
    return start, size


def _position(digits: bytes) -> int:
    """Return a number; what has more than 19 digits is past every end, and int() would choke on thousands."""
    return int(digits) if len(digits) < 20 else _PAST_EVERY_END


def _not_satisfiable(size: int) -> HttpError:
    return HttpError(
        416,
        f"The value has {size} bytes; the range begins after them.",
        extra=b"Content-Range: bytes */%d\r\n" % size,
    )
