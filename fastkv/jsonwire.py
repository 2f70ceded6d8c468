"""Commands and replies as JSON: what requests over REST and text frames of WebSockets share.

In: JSON text, and replies as `fastkv.commands.replies` has them. Out: the words of commands as bytes, and
what orjson makes JSON of. CommandError is raised for what is no command.

JSON has no strings of any bytes. Where one in a reply is not valid UTF-8, all strings of that reply are in
base64, and ``"encoding":"base64"`` beside the result says so.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final

import orjson

from fastkv.commands.replies import OK, CommandError

if TYPE_CHECKING:
    from fastkv.commands.replies import Reply

_NOT_JSON: Final = "ERR this is not valid JSON"
_NO_COMMAND: Final = "ERR a command is an array of strings, numbers and booleans, and not an empty one"


class Number(str):
    """A number as it was written."""

    __slots__ = ()


def load(text: bytes) -> Any:
    """Read JSON. Integers of 64 bits are exact; of others `words_of` cannot tell what was written.

    Args:
        text: UTF-8.

    Raises:
        CommandError: if it is none.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise CommandError(_NOT_JSON) from None


def load_exactly(text: bytes) -> Any:
    """Read JSON with its numbers as they were written; 10 times slower than `load`.

    Args:
        text: UTF-8, which `load` has read already.

    Returns:
        As `load`, with a `Number` for each number.

    Raises:
        CommandError: if it is nested too deeply.
    """
    try:
        return json.loads(text, parse_int=Number, parse_float=Number)
    except (ValueError, RecursionError):
        raise CommandError(_NOT_JSON) from None


class InexactError(Exception):
    """A number was not kept as it was written: `load_exactly` has to read the text."""


def words_of(command: Any) -> list[bytes]:
    """Turn a command into its words.

    Args:
        command: what `load` or `load_exactly` returned, or a part of it.

    Returns:
        The words: strings as UTF-8, numbers as they were written, booleans as ``true`` and ``false``.

    Raises:
        CommandError: if it is not an array, is empty, or has other things in it.
        InexactError: if `load` has read a fraction, or an integer of more than 64 bits.
    """
    if command.__class__ is not list or not command:
        raise CommandError(_NO_COMMAND)
    try:
        return [word.encode() for word in command]
    except AttributeError:
        return [_word_of(word) for word in command]
    except UnicodeEncodeError:  # a lone surrogate, which only the slower reader lets in
        raise CommandError(_NOT_JSON) from None


def _word_of(word: Any) -> bytes:
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, bool):
        return b"true" if word else b"false"
    if isinstance(word, int):
        return b"%d" % word
    if isinstance(word, float):
        raise InexactError
    raise CommandError(_NO_COMMAND)


def answer(reply: Reply, *, in_base64: bool = False) -> dict[str, Any]:
    """Put a reply as it stands in JSON.

    Args:
        reply: a reply.
        in_base64: whether all strings are to be in base64, but for the server's own ``OK``.

    Returns:
        ``{"result": …}`` or ``{"error": …}``, for orjson.
    """
    if reply.__class__ is CommandError:
        return {"error": reply.text}
    if not in_base64:
        try:
            return {"result": _as_text(reply)}
        except UnicodeDecodeError:
            return {"result": _as_base64(reply), "encoding": "base64"}
    return {"result": _as_base64(reply)}


def _as_text(reply: Reply) -> Any:
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list):
        return [_as_text(part) for part in reply]
    return {"error": reply.text} if isinstance(reply, CommandError) else reply


def _as_base64(reply: Reply) -> Any:
    if isinstance(reply, bytes):
        return "OK" if reply is OK else b64encode(reply).decode()
    if isinstance(reply, list):
        return [_as_base64(part) for part in reply]
    return {"error": reply.text} if isinstance(reply, CommandError) else reply
