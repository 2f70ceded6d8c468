"""Commands and replies as JSON: what requests over REST and text frames of WebSockets share.

In: JSON text, and replies as `fastkv.commands.replies` has them. Out: the words of commands as bytes, and
what orjson makes JSON of. CommandError is raised for what is no command.

JSON has no strings of any bytes. A reply with a string that is not valid UTF-8 is therefore an error unless
base64 was asked for, and has no ``result`` that could be taken for text. The command has been executed by
then, so what it came to is beside the error under a name of its own: what GETDEL has removed is not lost.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import orjson

from fastkv import core
from fastkv.commands.replies import OK, CommandError, empty_in_steps

if TYPE_CHECKING:
    from typing import TypeGuard

    from fastkv.commands.replies import Reply
    from fastkv.steps import Steps

# Parts of a reply that a step of `answer_in_steps` puts in JSON, 0.2 µs each.
_PARTS: Final = 4096
_ARRAY: Final = b'{"result":['
_NOT_JSON: Final = "ERR this is not valid JSON"
_NO_COMMAND: Final = "ERR a command is an array of strings, numbers and booleans, and not an empty one"
NOT_TEXT: Final = (
    "ERR a string of the result is not valid UTF-8: result_base64 has all strings in base64, as result has "
    'with Upstash-Encoding: base64 or, on a WebSocket, "encoding":"base64"'
)
"""What is said of a result that is no text."""


_NUMBER_STARTS: Final = frozenset("-0123456789")
# Escapes in valid JSON that stand for a character; a lone surrogate stands for none (RFC 8259, 8.2).
_drop_escapes = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u(?![dD][89a-fA-F])|[^u])").sub


def load(text: bytes) -> Any:
    """Read JSON (RFC 8259).

    Args:
        text: UTF-8.

    Returns:
        Numbers as orjson has them, or all as `load_exactly` where one of them is beyond a double: orjson
        refuses that one, and JSON has no largest number.

    Raises:
        CommandError: if it is no JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if error.doc[error.pos : error.pos + 1] in _NUMBER_STARTS:
            return load_exactly(text)
        raise CommandError(_NOT_JSON) from None


def load_exactly(text: bytes) -> Any:
    """Read JSON with its numbers as they were written, of any size; several times slower than orjson.

    Args:
        text: UTF-8.

    Returns:
        As `load`, with the bytes of each number in its place.

    Raises:
        CommandError: if it is no JSON, or nested too deeply.
    """
    try:
        # A class of numbers of our own would take ten times as long.
        item = json.loads(
            text.decode(), parse_int=str.encode, parse_float=str.encode, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise CommandError(_NOT_JSON) from None
    if text.find(b"\\u") >= 0 and _drop_escapes(b"", text).find(b"\\") >= 0:
        raise CommandError(_NOT_JSON)
    return item


def _refuse_constant(name: str) -> None:
    """NaN and Infinity, which the standard library takes, are no JSON."""
    raise ValueError(name)


class InexactError(Exception):
    """A number may not have been kept as it was written: `load_exactly` has to read the text."""


def words_of(command: Any) -> list[bytes]:
    """Turn a command into its words.

    Args:
        command: what `load` or `load_exactly` returned, or a part of it.

    Returns:
        The words: strings as UTF-8, numbers as they were written, booleans as ``true`` and ``false``.

    Raises:
        CommandError: if it is not an array, is empty, or has other things in it.
        InexactError: if orjson has read a fraction, an integer of more than 64 bits, or a zero.
    """
    if command.__class__ is not list or not command:
        raise CommandError(_NO_COMMAND)
    try:
        return [word.encode() for word in command]
    except AttributeError:
        return [_word_of(word) for word in command]


def _word_of(word: Any) -> bytes:
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, bytes):
        return word
    if isinstance(word, bool):
        return b"true" if word else b"false"
    if is_inexact(word):
        raise InexactError
    if isinstance(word, int):
        return b"%d" % word
    raise CommandError(_NO_COMMAND)


def is_inexact(item: Any) -> bool:
    """True for a number of orjson's that may have been written otherwise: a fraction, and 0, which -0 is too.

    Args:
        item: what `load` returned, or a part of it.
    """
    return item.__class__ is float or (item.__class__ is int and not item)


def answer(reply: Reply, *, in_base64: bool = False) -> dict[str, Any]:
    """Put a reply as it stands in JSON.

    Args:
        reply: a reply.
        in_base64: whether all strings are to be in base64, but for the server's own ``OK``.

    Returns:
        ``{"result": …}`` or ``{"error": …}``, for orjson; ``{"error": …, "result_base64": …}`` for a result
        that is no text where base64 was not asked for.
    """
    if reply.__class__ is CommandError:
        return {"error": reply.text}
    if not in_base64:
        try:
            return {"result": _as_text(reply)}
        except UnicodeDecodeError:
            return {"error": NOT_TEXT, "result_base64": _as_base64(reply)}
    return {"result": _as_base64(reply)}


def answer_in_steps(reply: Reply, *, in_base64: bool = False) -> Steps[bytes]:
    """``answer``, as JSON, some parts of a long array at a time.

    Args:
        reply: a reply; a long array is empty afterwards.
        in_base64: as for ``answer``.

    Returns:
        What orjson makes of ``answer``.
    """
    if not is_long(reply):
        return orjson.dumps(answer(reply, in_base64=in_base64))
    text = BytesIO()
    yield from write_in_steps(text, reply, in_base64=in_base64)
    return text.getvalue()


def is_long(reply: Reply) -> TypeGuard[list[Reply]]:
    """Whether a reply is an array that takes several steps to put in JSON."""
    return isinstance(reply, list) and len(reply) > _PARTS


def write_in_steps(text: BytesIO, reply: list[Reply], *, in_base64: bool) -> Steps[None]:
    """``answer_in_steps`` of a long array, behind what is written already.

    Args:
        text: what is written to. Its memory grows in place: to join a million pieces is one copy, of 15 ms.
        reply: the array; it is empty afterwards.
        in_base64: as for ``answer``.
    """
    begin = text.tell()
    text.write(_ARRAY)
    for at in range(0, len(reply), _PARTS):
        array = _array_of(reply[at : at + _PARTS], in_base64=in_base64)
        if array is None:  # one string that is no text changes the whole reply
            text.seek(begin)
            text.truncate()
            text.write(orjson.dumps(answer(reply, in_base64=in_base64)))
            return
        text.write(array[1:-1])
        text.write(b"," if at + _PARTS < len(reply) else b"]}")
        yield None
    yield from empty_in_steps(reply)


def _array_of(parts: list[Reply], *, in_base64: bool) -> bytes | None:
    """Some parts as an array; None if one is no text."""
    array = core.arrays.json_array(parts) if core.COMPILED and not in_base64 else None
    if array is None:
        told = answer(parts, in_base64=in_base64)
        array = orjson.dumps(told["result"]) if "error" not in told else None
    return array


def _as_text(reply: Reply) -> Any:
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list):
        # Most parts are strings; a call for each would take as long as all else.
        return [part.decode() if part.__class__ is bytes else _as_text(part) for part in reply]
    return {"error": reply.text} if isinstance(reply, CommandError) else reply


def _as_base64(reply: Reply) -> Any:
    if isinstance(reply, bytes):
        return "OK" if reply is OK else b64encode(reply).decode()
    if isinstance(reply, list):
        return [_as_base64(part) for part in reply]
    return {"error": reply.text} if isinstance(reply, CommandError) else reply
