"""Redis' commands over REST, as Upstash defined it: its client libraries work unchanged.

``POST /`` runs one command, ``POST /pipeline`` several, ``POST /multi-exec`` several at one moment, all from
JSON; in the path style the words stand in the path, as in ``/set/k/v/EX/60``. A handler takes the query, the
head and the body and returns a reply; `HttpError` is raised for a malformed escape, `Unfinished` for a reply
that takes steps. What a command means `fastkv.commands` knows.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import orjson

from fastkv.commands.context import NOBODY
from fastkv.commands.replies import OK, CommandError, size_of
from fastkv.http.large import ROOM_BYTES, LargeTail
from fastkv.http.responses import Reply, json_head, json_reply, without_body
from fastkv.http.urlform import decode_percent, form_pairs
from fastkv.jsonwire import (
    InexactError,
    answer,
    answer_in_steps,
    is_long,
    load,
    load_exactly,
    words_of,
    write_in_steps,
)
from fastkv.steps import END_OF_TURN, Unfinished, finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.commands.execute import Commands
    from fastkv.commands.replies import Reply as Answer
    from fastkv.http.request import Head
    from fastkv.http.responses import Handler
    from fastkv.steps import Steps

PATH_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT")
"""The methods that the path style takes."""

TOKEN_PARAMETER: Final = b"_token"

# A batch of more commands waits for a turn of its own.
_MANY_COMMANDS: Final = 100

# What the JSON of an error begins with.
_ERROR: Final = b'{"error":'

_OK: Final = orjson.dumps(answer(OK))

_NOT_BY_GET: Final = json_reply(
    405, b'{"error":"ERR by GET this command needs a token; by POST it does not"}', b"Allow: POST, PUT\r\n"
)


class RedisRest:
    """The handlers of commands.

    Attributes:
        handlers: by method, space and path.
    """

    __slots__ = ("_believes_queries", "_commands", "handlers")

    def __init__(self, commands: Commands, *, believes_queries: bool) -> None:
        """Bind to a worker's commands.

        Args:
            commands: the commands.
            believes_queries: whether a token in a query counts as one where none was asked for.
        """
        self._commands = commands
        self._believes_queries = believes_queries
        self.handlers: dict[bytes, Handler] = {
            b"POST /": self.one,
            b"POST /pipeline": self.pipeline,
            b"POST /multi-exec": self.multi_exec,
        }

    def one(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``POST /`` with ``["SET", "k", "v"]``."""
        try:
            words = _read(body, words_of)
        except CommandError as error:
            return _reply(error)
        return self._run(words, head)

    def pipeline(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``POST /pipeline`` with ``[["SET", "k", "v"], ["GET", "k"]]``: each with its result or error."""
        try:
            commands = _read(body, _commands_of)
        except CommandError as error:
            return _reply(error)
        raise Unfinished(self._run_in_turn(commands, head))

    def run_one_of_several(self, words: list[bytes], room: int, in_base64: bool) -> tuple[bytes, int]:
        """Execute one command of a pipeline that the compiled core has begun and could not do itself.

        Args:
            words: of a command without steps.
            room: as for ``Commands.run_within``.
            in_base64: whether strings of the reply are to be in base64.

        Returns:
            The reply as JSON, and how much of the room it takes.
        """
        reply = self._commands.run_within(words, NOBODY, room)
        if isinstance(reply, Generator):
            reply = finish(reply)
        return orjson.dumps(answer(reply, in_base64=in_base64)), size_of(reply)

    def multi_exec(self, query: bytes, head: Head, body: bytes) -> Reply:
        """``POST /multi-exec``, as ``pipeline``, at one moment."""
        try:
            commands = _read(body, _commands_of)
        except CommandError as error:
            return _reply(error)
        raise Unfinished(self._run_together(commands, head))

    def find(self, route: bytes) -> Handler | None:
        """Find what answers a command in the path style.

        Args:
            route: method, space and path.

        Returns:
            The handler; None if the path does not begin with a command's name, or for another method.
        """
        method, _, path = route.partition(b" ")
        name, *words = path[1:].split(b"/")
        if method not in PATH_METHODS or self._commands.find(name) is None:
            return None
        return partial(self._from_path, method, [name, *words])

    def takes(self, path: bytes) -> bool:
        """Whether a path begins with the name of a command."""
        return self._commands.find(path[1:].partition(b"/")[0]) is not None

    def _from_path(
        self, method: bytes, raw_words: list[bytes], query: bytes, head: Head, body: bytes
    ) -> Reply:
        """The path style; a body is the next word, and parameters of the query are those behind it."""
        words = [decode_percent(word) for word in raw_words]
        parameters = form_pairs(query)
        if body:
            words.append(body)
        for name, value in parameters:
            if name != TOKEN_PARAMETER:
                words += [name] if value is None else [name, value]
        command = self._commands.find(words[0])
        safe = method in (b"GET", b"HEAD")
        if safe and command is not None and command.writes and not self._presents_token(parameters, head):
            # What a page may embed, a crawler follow or a browser fetch ahead must not change anything.
            reply = _NOT_BY_GET
        else:
            reply = self._run(words, head, bodiless=method == b"HEAD")
        return without_body(reply) if method == b"HEAD" else reply

    def _run(self, words: list[bytes], head: Head, *, bodiless: bool = False) -> Reply:
        reply = self._commands.run(words, NOBODY)
        if isinstance(reply, Generator):
            raise Unfinished(self._reply_in_steps(reply, head, bodiless=bodiless))
        return _reply(reply, in_base64=_wants_base64(head))

    def _reply_in_steps(
        self, steps: Steps[Answer], head: Head, *, bodiless: bool
    ) -> Steps[Reply | tuple[int, LargeTail]]:
        result = yield from steps
        if is_long(result) and not bodiless:
            return (yield from _large_reply(result, in_base64=_wants_base64(head)))
        body = yield from answer_in_steps(result, in_base64=_wants_base64(head))
        reply = json_reply(_status_of(result, body), body)
        yield None
        return without_body(reply) if bodiless else reply

    def _run_in_turn(self, commands: list[list[bytes]], head: Head) -> Steps[Reply]:
        replies = yield from self._commands.run_in_turn(commands, NOBODY)
        return (yield from _reply_to_several(replies, head))

    def _run_together(self, commands: list[list[bytes]], head: Head) -> Steps[Reply]:
        if len(commands) > _MANY_COMMANDS:
            yield END_OF_TURN  # to read them was a step already
        replies = self._commands.run_together(commands, NOBODY)
        return (yield from _reply_to_several(replies, head))

    def _presents_token(self, parameters: list[tuple[bytes, bytes | None]], head: Head) -> bool:
        """Whether a request presents a token; whether it is the right one was asked before.

        Where any will do, one in the query may be made up by a stranger's page, in the address of an image;
        to set Authorization it would have to ask first.
        """
        scheme, _, token = (head.get(b"authorization") or b"").partition(b" ")
        return (scheme.lower() == b"bearer" and bool(token)) or (
            self._believes_queries and any(name == TOKEN_PARAMETER and value for name, value in parameters)
        )


def _commands_of(item: Any) -> list[list[bytes]]:
    if item.__class__ is not list or not item:
        raise CommandError("ERR an array of commands is needed, and not an empty one")
    return [words_of(command) for command in item]


def _read(body: bytes, parse: Callable[[Any], Any]) -> Any:
    """Parse JSON, anew with exact numbers where that matters."""
    try:
        return parse(load(body))
    except InexactError:
        return parse(load_exactly(body))


def _reply(result: Answer, *, in_base64: bool = False) -> Reply:
    """Put what one command, or all together, came to into a reply."""
    body = orjson.dumps(answer(result, in_base64=in_base64))
    return json_reply(_status_of(result, body), body)


def _large_reply(result: list[Answer], *, in_base64: bool) -> Steps[tuple[int, LargeTail]]:
    """``_reply`` for a long array, whose JSON is not copied any more."""
    text = BytesIO(bytes(ROOM_BYTES))
    text.seek(ROOM_BYTES)
    yield from write_in_steps(text, result, in_base64=in_base64)
    tail = LargeTail(text.getbuffer())
    tail.fields = json_head(len(tail.body))
    yield END_OF_TURN  # to send as much as the socket takes is a step, too
    return _status_of(result, bytes(tail.body[: len(_ERROR)])), tail


def _status_of(result: Answer, body: bytes) -> int:
    """The status of a reply: 200 where it has a result and no error."""
    if isinstance(result, CommandError) and result.oversized:
        return 413
    return 400 if body.startswith(_ERROR) else 200


def _reply_to_several(replies: list[Answer] | CommandError, head: Head) -> Steps[Reply]:
    if isinstance(replies, CommandError):
        return _reply(replies)
    in_base64 = _wants_base64(head)
    bodies = []
    for reply in replies:
        if reply is OK:
            bodies.append(_OK)
            continue
        bodies.append((yield from answer_in_steps(reply, in_base64=in_base64)))
        yield None
    return json_reply(200, b"[%b]" % b",".join(bodies))


def _wants_base64(head: Head) -> bool:
    return (head.get(b"upstash-encoding") or b"").lower() == b"base64"
