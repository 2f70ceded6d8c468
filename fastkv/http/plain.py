"""The short ways of a request: from what was received to a whole reply, where nothing is out of the ordinary.

Ordinary is: ``GET /get?key=`` and a key, plain or encoded, or ``/put`` with line and section as they came
before, from a client that keeps its connection. For all else they return None, and the parsers and ``Routes``
are the whole of it and their readable twin. They are closures, because a cell is read in half the time of an
attribute of ``self``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastkv.errors import StoreBusy
from fastkv.http.request import KEEP_ALIVE
from fastkv.http.responses import HIT_CLOSE, HIT_MIDDLE, KEY_NOT_FOUND, value_reply
from fastkv.http.routes import PLAIN
from fastkv.http.urlform import PLAIN_KEY, decode_percent
from fastkv.outlet import LARGE_BYTES
from fastkv.stats import HIT, MISS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from fastkv.http.request import Head
    from fastkv.http.responses import Preludes
    from fastkv.http.routes import Routes

    GetPlain: TypeAlias = Callable[[bytes], bytes | None]
    PutPlain: TypeAlias = Callable[[bytes], bytes | None]
    GetTogether: TypeAlias = Callable[[list[bytes]], list[bytes] | None]

GET_LINE: Final = b"GET /get?key="
"""What the request line of a GET by key begins with; where a plain key follows, that is all of the line."""

_END: Final = b"\r\n\r\n"
# As ``PLAIN_KEY``, with all that an encoded key consists of as well.
_ENCODED_KEY: Final = bytes(ord("a") if byte in b"%+" else PLAIN_KEY[byte] for byte in range(256))
# What is answered in one piece; with more of them output is bounded reply by reply.
_MOST_TOGETHER: Final = 64
# With escapes for each of its bytes and all that is around it, a value that is no longer is no large reply.
_MAY_BE_LARGE: Final = LARGE_BYTES // 8


def plain_gets(routes: Routes, preludes: Preludes, most: int, max_line: int) -> tuple[GetPlain, GetTogether]:
    """Make the short ways of a worker.

    Args:
        routes: for the store, the clock, the limits and the tally; ``source`` is set as ``get`` does, and
            for all values that may be large.
        preludes: what replies begin with.
        most: how many may be answered before others have a turn.
        max_line: ``FastParser.max_line``; a longer line is left to the full parser, which counts the whole
            head.

    Returns:
        ``get_plain`` and ``get_together``.
    """
    get, get_small, clock = routes.store.get, routes.store.get_small, routes.clock
    max_raw = max_line - len(GET_LINE)
    tally, max_key = routes.tally.counts, min(routes.max_key, max_raw)
    heads, kept_alive, not_found = preludes.hits, preludes.kinds[KEEP_ALIVE], KEY_NOT_FOUND[1]
    join = b"".join
    most = min(most, _MOST_TOGETHER)

    def get_plain(line: bytes) -> bytes | None:
        """Answer one.

        Args:
            line: a request line without the version, or anything else.

        Returns:
            The whole reply; None if the usual way has to answer.

        Raises:
            HttpError, StoreBusy: as ``Routes.get``.
        """
        key = line.removeprefix(GET_LINE)
        if key is line:
            return None
        # Most keys are letters and digits, and to ask for that takes a third of asking for all that is plain.
        if not key.isalnum():
            if key.find(b" ") >= 0:  # several requests, and long: there is no need to look at all of it
                return None
            if not key.translate(PLAIN_KEY).isalnum():
                return get_encoded(key)
        if len(key) > max_key:
            return None
        entry = get(key, clock)
        if entry is None:
            tally[MISS] += 1
            return kept_alive[404] + not_found
        tally[HIT] = hits = tally[HIT] + 1
        if not hits & routes.offer_mask:
            routes.source = entry
        value = entry[0]
        if entry[1] != PLAIN:
            if len(value) > _MAY_BE_LARGE:
                routes.source = entry
            return value_reply(key, value, True, False, kept_alive[200])
        # ``value_reply`` written out: the call would take a third of its time.
        try:
            head = heads[len(key) + len(value)]
        except KeyError:
            head = preludes.hit(len(key) + len(value))
            if len(value) > _MAY_BE_LARGE:
                routes.source = entry
        return join((head, key, HIT_MIDDLE, value, HIT_CLOSE))

    def get_encoded(raw: bytes) -> bytes | None:
        """Answer one whose key has escapes.

        Args:
            raw: what follows ``GET_LINE``.

        Returns:
            As ``get_plain``.

        Raises:
            HttpError: 400 for a malformed escape.
            StoreBusy: as ``Routes.get``.
        """
        if len(raw) > max_raw or not raw.translate(_ENCODED_KEY).isalnum():
            return None
        key = decode_percent(raw.replace(b"+", b" "))
        if len(key) > max_key:
            return None
        entry = get(key, clock)
        if entry is None:
            tally[MISS] += 1
            return kept_alive[404] + not_found
        tally[HIT] = hits = tally[HIT] + 1
        if not hits & routes.offer_mask or len(entry[0]) > _MAY_BE_LARGE:
            routes.source = entry
        # Most of what is encoded need not have been.
        plain = key.translate(PLAIN_KEY).isalnum()
        return value_reply(key, entry[0], plain, entry[1] == PLAIN, kept_alive[200])

    def get_together(keys: list[bytes]) -> list[bytes] | None:
        """Answer several with one call into the store.

        Args:
            keys: what follows ``GET_LINE`` in each request line, one or more.

        Returns:
            The replies, in parts, which take half as long to join as each reply by itself; the first part is
            all of the first reply, and ``source`` is set for it. None if they have to be answered one by one.
        """
        if len(keys) > most:
            return None
        text = join(keys)
        if not text.translate(PLAIN_KEY).isalnum() or b"" in keys:
            return None
        if len(text) > max_key and max(map(len, keys)) > max_key:
            return None
        try:
            entries = get_small(keys, clock)
        except StoreBusy:
            return None
        if entries is None:
            return None
        missing = kept_alive[404] + not_found
        parts: list[bytes] = []
        misses = 0
        first = routes.source = entries[0]
        if first is None:
            parts.append(missing)
            misses = 1
        else:
            parts.append(value_reply(keys[0], first[0], True, first[1] == PLAIN, kept_alive[200]))
        for key, entry in zip(keys[1:], entries[1:], strict=True):
            if entry is None:
                parts.append(missing)
                misses += 1
                continue
            value = entry[0]
            if entry[1] != PLAIN:
                parts.append(value_reply(key, value, True, False, kept_alive[200]))
                continue
            try:
                head = heads[len(key) + len(value)]
            except KeyError:
                head = preludes.hit(len(key) + len(value))
            parts += head, key, HIT_MIDDLE, value, HIT_CLOSE
        tally[MISS] += misses
        tally[HIT] += len(keys) - misses
        return parts

    return get_plain, get_together


def plain_put(routes: Routes, preludes: Preludes, known: Mapping[bytes, Head]) -> PutPlain:
    """Make the short way of a worker's PUT.

    Args:
        routes: for the handler.
        preludes: what replies begin with.
        known: ``FastParser.before_bodies``.

    Returns:
        ``put_plain``.
    """
    put, kept_alive, find = routes.put, preludes.kinds[KEEP_ALIVE], known.get

    def put_plain(data: bytes) -> bytes | None:
        """Answer one.

        Args:
            data: what was received on a boundary between requests.

        Returns:
            The whole reply; None if the usual way has to answer.

        Raises:
            HttpError, StoreError: as ``Routes.put``.
        """
        before, _, body = data.partition(_END)
        head = find(before)
        if head is None or head.content_length != len(body) or head.persistence != KEEP_ALIVE:
            return None
        status, tail = put(b"", head, body)
        return kept_alive[status] + tail

    return put_plain
