"""What the compiled core answers with: the constants of `responses` and `rest`, taken apart where they vary.

In: nothing. Out: bytes, made at import. Nothing is raised later.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, TypeAlias

from fastkv.http.responses import (
    DELETE_OK,
    HIT_CLOSE,
    HIT_MIDDLE,
    HIT_OPEN,
    ISOLATION,
    KEY_NOT_FOUND,
    PUT_OK,
    json_head,
)
from fastkv.http.rest import CREATED, DELETED, REPLACED, RESOURCE_HEAD, VALIDATORS, VALIDATORS_WITH_TTL

Parts: TypeAlias = tuple[bytes, ...]
"""A text without what varies in it, split there."""

_split = re.compile(rb"%[bdx]").split
_SOME_LENGTH: Final = 123456789


class Templates(NamedTuple):
    """Replies behind the prefix of their status.

    Attributes:
        hit_head: the fields of a hit in JSON, split at the length.
        hit_body: its body, split at key and value.
        resource: the fields of a value as it is, split at the lines on its content, length and version.
        resource_ttl: what takes the place of the last part where the entry has a deadline, split at the TTL.
        created: what answers a PUT of a new resource, split at the version.
        replaced: what answers a PUT of one that was there, split in the same way.
        deleted: what answers DELETE of a resource.
        not_found: what answers a request for a key that is not there; of a resource behind ``isolation``.
        put_ok: what answers a PUT in JSON.
        delete_ok: what answers DELETE in JSON.
        isolation: what precedes all of a reply about a resource.
    """

    hit_head: Parts
    hit_body: Parts
    resource: Parts
    resource_ttl: Parts
    created: Parts
    replaced: Parts
    deleted: bytes
    not_found: bytes
    put_ok: bytes
    delete_ok: bytes
    isolation: bytes


def _take_apart() -> Templates:
    before_length, behind_length = json_head(_SOME_LENGTH).split(b"%d" % _SOME_LENGTH)
    content, length, end_of_length, ranges, empty_line = _split(RESOURCE_HEAD)
    etag, end_of_etag = _split(VALIDATORS)
    _, ttl, end_of_ttl = _split(VALIDATORS_WITH_TTL)
    return Templates(
        hit_head=(before_length, behind_length),
        hit_body=(HIT_OPEN, HIT_MIDDLE, HIT_CLOSE),
        resource=(content, length, end_of_length + etag, end_of_etag + ranges + empty_line),
        resource_ttl=(ttl, end_of_ttl + ranges + empty_line),
        created=tuple(_split(CREATED)),
        replaced=tuple(_split(REPLACED)),
        deleted=DELETED[1],
        not_found=KEY_NOT_FOUND[1],
        put_ok=PUT_OK[1],
        delete_ok=DELETE_OK[1],
        isolation=ISOLATION,
    )


TEMPLATES: Final = _take_apart()
