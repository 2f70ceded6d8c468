"""What messages of text say: commands as JSON in, their replies as JSON out.

In: a message: a command ``["GET","k"]``, or ``{"id":…,"cmd":[…],"encoding":"base64"}``, of which ``cmd``
alone has to be there, or an array of such, which is a batch. Out: the reply, one array for a batch, with the
ids that were given. What is no command is answered with an error. Nothing is raised but UnicodeDecodeError,
for what is no text, and `Unfinished`, for a reply that takes steps.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from fastkv.commands.replies import CommandError
from fastkv.jsonwire import InexactError, answer, answer_in_steps, is_inexact, load, load_exactly, words_of
from fastkv.steps import Unfinished
from fastkv.ws import frames
from fastkv.ws.asker import is_subscribing

if TYPE_CHECKING:
    from fastkv.commands.execute import Commands
    from fastkv.commands.replies import Reply
    from fastkv.pubsub.messages import Message
    from fastkv.steps import Steps
    from fastkv.ws.asker import Asker

_Ident: TypeAlias = "str | int | orjson.Fragment | None"
_Asked: TypeAlias = "tuple[list[bytes] | CommandError, _Ident, bool]"
"""(its words, or why there are none; its id, as orjson takes it, None where it has none; whether the strings
of the reply are to be in base64)."""

_ONLY_LISTS: Final = {list}
_NO_COMMAND: Final = 'ERR an object has to have "cmd", an array'
_DEEP_ID: Final = "ERR the id is nested too deeply"
_NO_ENCODING: Final = 'ERR "encoding" is "text" or "base64"'


def reply_to(payload: bytes, commands: Commands, asker: Asker) -> bytes:
    """Execute what a message says.

    Args:
        payload: the message.
        commands: the commands.
        asker: who asks.

    Returns:
        The reply: JSON.

    Raises:
        UnicodeDecodeError: if the message is not UTF-8; nothing was executed then.
        Unfinished: for a batch, and commands that may take long.
    """
    try:
        said = load(payload)
    except CommandError as error:
        payload.decode()
        return orjson.dumps(answer(error))
    if said.__class__ is list and said and said[0].__class__ is str:
        # By far the most: one command without an id.
        return _reply_to_one(said, payload, commands, asker)
    plain = _plain_batch(said)
    if plain is not None:
        raise Unfinished(_reply_to_plain(plain, commands, asker))
    try:
        is_batch, asked = _parse(said)
    except InexactError:  # nothing was executed yet
        is_batch, asked = _parse(load_exactly(payload))
    known = [words for words, _, _ in asked if words.__class__ is list]
    if any(map(is_subscribing, known)):
        asker.pushes = frames.TEXT
    if is_batch:
        raise Unfinished(_reply_to_batch(asked, known, commands, asker))
    words, ident, in_base64 = asked[0]
    reply = commands.run(words, asker) if words.__class__ is list else words
    if isinstance(reply, Generator):
        raise Unfinished(_reply_in_steps(reply, ident, in_base64=in_base64))
    return orjson.dumps(_tell(reply, ident, in_base64=in_base64))


def _reply_to_batch(
    asked: list[_Asked], known: list[list[bytes]], commands: Commands, asker: Asker
) -> Steps[bytes]:
    """Execute a batch.

    Args:
        asked: all of its parts.
        known: the words of those that are commands.
        commands: the commands.
        asker: who asks.
    """
    replies = yield from commands.run_in_turn(known, asker)
    if isinstance(replies, CommandError):
        return orjson.dumps(answer(replies))
    in_order = iter(replies)
    told = []
    for words, ident, in_base64 in asked:
        reply = next(in_order) if words.__class__ is list else words
        told.append((yield from _tell_in_steps(reply, ident, in_base64=in_base64)))
        yield None
    return b"[%b]" % b",".join(told)


def _reply_in_steps(steps: Steps[Reply], ident: _Ident, *, in_base64: bool = False) -> Steps[bytes]:
    return (yield from _tell_in_steps((yield from steps), ident, in_base64=in_base64))


def _tell_in_steps(reply: Any, ident: _Ident, *, in_base64: bool) -> Steps[bytes]:
    """``_tell``, as JSON, some parts of a long array at a time."""
    if reply.__class__ is not list:
        return orjson.dumps(_tell(reply, ident, in_base64=in_base64))
    told = yield from answer_in_steps(reply, in_base64=in_base64)
    return told if ident is None else with_id(orjson.dumps(ident), told)


def with_id(ident: bytes, told: bytes) -> bytes:
    """Put an id before a reply.

    Args:
        ident: JSON.
        told: a reply without an id: a JSON object.
    """
    return b'{"id":%b,%b' % (ident, told[1:])


def push(message: Message) -> bytes:
    """What a subscriber is sent.

    Args:
        message: the message.

    Returns:
        ``{"push":["message",channel,payload]}``, of a pattern ``["pmessage",pattern,channel,payload]``; JSON.
        Where one of these is not UTF-8 all are in base64, and the kind is another one: a client that does not
        know it does not take them for text.
    """
    kind, parts = "message", [message.channel, message.payload]
    if message.pattern is not None:
        kind, parts = "pmessage", [message.pattern, *parts]
    try:
        told = [kind, *[part.decode() for part in parts]]
    except UnicodeDecodeError:
        told = [f"{kind}_base64", *[b64encode(part).decode() for part in parts]]
    return orjson.dumps({"push": told})


def _reply_to_one(said: list[Any], payload: bytes, commands: Commands, asker: Asker) -> bytes:
    """Execute one command without an id.

    Args:
        said: its words.
        payload: the same as JSON.
        commands: the commands.
        asker: who asks.
    """
    try:
        words = words_of(said)
    except CommandError as error:
        return orjson.dumps(answer(error))
    except InexactError:
        words = words_of(load_exactly(payload))
    if is_subscribing(words):
        asker.pushes = frames.TEXT
    reply = commands.run(words, asker)
    if reply.__class__ is bytes:
        try:
            return b'{"result":%b}' % orjson.dumps(reply.decode())
        except UnicodeDecodeError:
            pass
    if isinstance(reply, Generator):
        raise Unfinished(_reply_in_steps(reply, None))
    return orjson.dumps(answer(reply))


def _plain_batch(said: Any) -> list[list[bytes]] | None:
    """Return the commands of a batch without ids, all of whose words are strings; else None.

    With `_reply_to_plain`, it takes half the time that `_parse` and `_tell` take.
    """
    if said.__class__ is not list or set(map(type, said)) != _ONLY_LISTS or not all(said):
        return None
    try:
        return [[word.encode() for word in part] for part in said]
    except AttributeError:
        return None


def _reply_to_plain(known: list[list[bytes]], commands: Commands, asker: Asker) -> Steps[bytes]:
    if any(map(is_subscribing, known)):
        asker.pushes = frames.TEXT
    replies = yield from commands.run_in_turn(known, asker)
    if isinstance(replies, CommandError):
        return orjson.dumps(answer(replies))
    told = []
    for reply in replies:
        told.append((yield from _tell_in_steps(reply, None, in_base64=False)))
        yield None
    return b"[%b]" % b",".join(told)


def _parse(said: Any) -> tuple[bool, list[_Asked]]:
    """Return whether a message is a batch, and its commands."""
    if said.__class__ is list and said and said[0].__class__ in (list, dict):
        return True, [_asked(part) for part in said]
    return False, [_asked(said)]


def _asked(said: Any) -> _Asked:
    ident: _Ident = None
    try:
        if said.__class__ is not dict:
            return words_of(said), None, False
        if "id" in said:
            ident = _ident(said["id"])
        if said.get("cmd").__class__ is not list:
            raise CommandError(_NO_COMMAND)
        encoding = said.get("encoding", "text")
        if encoding not in ("text", "base64"):
            raise CommandError(_NO_ENCODING)
        return words_of(said["cmd"]), ident, encoding == "base64"
    except CommandError as error:
        return error.with_traceback(None), ident, False


def _ident(given: Any) -> _Ident:
    """Return an id as it was given."""
    if given.__class__ is str or (given.__class__ is int and given):
        return given
    _check_numbers(given)
    try:
        return orjson.Fragment(orjson.dumps(given, orjson.Fragment))
    except orjson.JSONEncodeError:
        raise CommandError(_DEEP_ID) from None


def _check_numbers(given: Any) -> None:
    """See whether numbers in an id were kept as they were written.

    Args:
        given: the id, or a part of it.

    Raises:
        InexactError: if one was not.
    """
    waiting = [given]
    while waiting:
        part = waiting.pop()
        if is_inexact(part):
            raise InexactError
        if part.__class__ is list:
            waiting += part
        elif part.__class__ is dict:
            waiting += part.values()


def _tell(reply: Any, ident: _Ident, *, in_base64: bool) -> dict[str, Any]:
    """Return what a reply is in JSON; of strings, which most are, without asking `answer`."""
    if reply.__class__ is bytes and not in_base64:
        try:
            told: dict[str, Any] = {"result": reply.decode()}
        except UnicodeDecodeError:
            told = answer(reply)
    else:
        told = answer(reply, in_base64=in_base64)
    return told if ident is None else {"id": ident, **told}
