"""The compiled path of requests and of WebSockets' frames, put together from what a worker has.

In: the parts of a worker. Out: `fastkv.core.http.Http`, or None where the readable path answers everything,
and `fastkv.core.frames.TextFrames`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv import core
from fastkv.http.content import content_fields, metadata_from
from fastkv.http.fields import TREATMENTS
from fastkv.http.request import KEEP_ALIVE
from fastkv.http.templates import TEMPLATES
from fastkv.outlet import LARGE_BYTES
from fastkv.stats import Column

if TYPE_CHECKING:
    from fastkv.access import Access
    from fastkv.core.frames import TextFrames
    from fastkv.core.http import Http
    from fastkv.http.responses import Preludes
    from fastkv.http.routes import Routes
    from fastkv.settings import Settings

_COLUMNS = (Column.HITS, Column.MISSES, Column.PUTS, Column.DELETES)


def open_http(settings: Settings, routes: Routes, access: Access, preludes: Preludes) -> Http | None:
    """Put the compiled path of a worker's requests together.

    Args:
        settings: for limits.
        routes: for the store and its clock, the counters, and the word of listeners to keyspace events.
        access: decides which senders may speak.
        preludes: what replies begin with now; `Http.set_prefixes` renews it.

    Returns:
        The path; None where the store's engine or the clock of the routes is a readable one.
    """
    engine: object = routes.store.engine
    clock: object = routes.clock
    if not core.COMPILED:
        return None
    if not isinstance(engine, core.engine.Engine) or not isinstance(clock, core.engine.Clock):
        return None
    engine.clock = clock
    sections = core.headers.Sections(
        access.admits, metadata_from, TREATMENTS, settings.max_head_bytes, settings.max_fields
    )
    limits = routes.commands.limits
    commands = core.commands.JsonCommands(
        engine,
        clock,
        routes.counters,
        _COLUMNS,
        routes.wanted,
        routes.redis.run_one_of_several,
        max_key_bytes=limits.max_key,
        max_value_bytes=limits.max_value,
        max_batch=limits.max_batch,
        max_reply_bytes=limits.max_reply,
    )
    http = core.http.Http(
        engine,
        clock,
        sections,
        TEMPLATES,
        content_fields,
        commands,
        routes.counters,
        _COLUMNS,
        routes.wanted,
        max_key_bytes=routes.max_key,
        max_value_bytes=routes.max_value,
        max_body_bytes=settings.max_body_bytes or 0,
        max_output_bytes=settings.max_output_bytes,
        large_bytes=LARGE_BYTES,
    )
    http.set_prefixes(preludes.kinds[KEEP_ALIVE])
    return http


def open_frames(settings: Settings, routes: Routes, http: Http, max_reply_bytes: int) -> TextFrames:
    """Put the compiled path of a worker's WebSockets together.

    Args:
        settings: for limits.
        routes: for the counters.
        http: the compiled path of requests, whose commands it runs.
        max_reply_bytes: messages with longer replies are left to the readable path.
    """
    return core.frames.TextFrames(
        http.commands,
        routes.counters,
        Column.MESSAGES,
        max_message_bytes=settings.max_message_bytes or 0,
        max_reply_bytes=max_reply_bytes,
        max_output_bytes=settings.max_output_bytes,
        large_bytes=LARGE_BYTES,
    )
