"""What a value is: its Content-Type and Content-Encoding, kept with the entry (RFC 9110, 8.3 and 8.4).

In: the head of a PUT, or an entry's metadata. Out: metadata, or header lines. `HttpError` is raised for
fields that are malformed (400) or longer than an entry can keep (431). Metadata is the type, and behind a NUL
byte the encoding where there is one. It may also come from a foreign snapshot, so what is no
valid field is never sent: such a value is ``application/octet-stream``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from fastkv.http.request import HttpError
from fastkv.store import MAX_METADATA_BYTES

if TYPE_CHECKING:
    from fastkv.http.request import Head

CONTENT_FIELDS: Final = frozenset({b"content-type", b"content-encoding"})
"""The fields that `metadata_of` reads."""

MAX_CONTENT_BYTES: Final = MAX_METADATA_BYTES - 1
"""How long both may be together."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
# RFC 9110, 8.3.1 and 5.6.6. Nothing is given back once it has matched: a hostile value takes linear time.
_match_type = re.compile(
    rb"%b/%b(?:[ \t]*+;[ \t]*+(?:%b=(?:%b|%b))?+)*+" % (_TOKEN, _TOKEN, _TOKEN, _TOKEN, _QUOTED)
).fullmatch
_match_codings = re.compile(rb"%b(?:, %b)*+" % (_TOKEN, _TOKEN)).fullmatch

_SEPARATOR = b"\0"
_UNKNOWN: Final = b"Content-Type: application/octet-stream\r\n"


def metadata_of(head: Head) -> bytes:
    """What is kept of the head of a PUT.

    Args:
        head: the head.

    Returns:
        Metadata for the store; empty where the head has neither field.

    Raises:
        HttpError: 400 for a malformed field and for a Content-Type that is repeated; 431 if both are longer
            together than ``MAX_CONTENT_BYTES``.
    """
    types = [value for name, value in head.fields if name == b"content-type"]
    return _metadata(types, head.get(b"content-encoding"))


def metadata_from(content_type: bytes | None, content_encoding: bytes | None) -> bytes:
    """What ``metadata_of`` makes of a head with these two fields, each there once or not at all.

    Args:
        content_type: the value of Content-Type; None where the field is absent.
        content_encoding: that of Content-Encoding.

    Raises:
        HttpError: as ``metadata_of``.
    """
    return _metadata([] if content_type is None else [content_type], content_encoding)


def _metadata(types: list[bytes], encoding: bytes | None) -> bytes:
    # An empty member of a list counts for nothing (RFC 9110, 5.6.1); identity is what no coding is.
    members = [member.strip(b" \t") for member in (encoding or b"").split(b",")]
    codings = b", ".join(member for member in members if member and member.lower() != b"identity")
    size = sum(map(len, types)) + len(codings)
    if size > MAX_CONTENT_BYTES:
        raise HttpError(
            431,
            f"Content-Type and Content-Encoding have {size} bytes; at most {MAX_CONTENT_BYTES} are kept.",
        )
    if len(types) > 1:
        raise HttpError(400, "The Content-Type header field is repeated.")
    if types and not _match_type(types[0]):
        raise HttpError(400, "The Content-Type header field must be a media type, such as text/plain.")
    if codings and not _match_codings(codings):
        raise HttpError(400, "The Content-Encoding header field must be a list of codings, such as gzip.")
    return b"".join(types) + (_SEPARATOR + codings if codings else b"")


@lru_cache(1024)
def content_fields(metadata: bytes) -> bytes:
    """The header lines that say what a value is.

    Args:
        metadata: an entry's.

    Returns:
        Content-Type, and Content-Encoding where there is one, each with its CRLF.
    """
    content_type, _, codings = metadata.partition(_SEPARATOR)
    if (content_type and not _match_type(content_type)) or (codings and not _match_codings(codings)):
        return _UNKNOWN
    lines = b"Content-Type: %b\r\n" % content_type if content_type else _UNKNOWN
    return lines + b"Content-Encoding: %b\r\n" % codings if codings else lines
