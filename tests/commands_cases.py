r"""The cases of the commands: sequences that are run here and on a Redis, from ``cases/commands.toml``.

A line is a command, its words as redis-cli has them: blanks between them, ``"\x00"`` in double quotes.
A word may have ``{now+10}`` in it, Unix time in seconds, ``{ms+10000}``, the same in milliseconds, or
``{x*5000}``, so many of a letter. What stands before the command says how the replies are compared:

    ~50         as numbers, which may be 50 apart
    sorted      lists in any order
    like        only what types they are of
    await       again and again, until the reply is nil
    @2          by the second connection
"""

from __future__ import annotations

import re
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "cases/commands.toml"

_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_PLACEHOLDER = re.compile(rb"\{(now|ms)([+-][0-9]+)\}|\{(.)\*([0-9]+)\}")
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


@dataclass(frozen=True)
class Step:
    """A command of a case.

    Attributes:
        text: its line.
        words: its words, placeholders among them.
        tolerance: how far numbers may be apart.
        compare: "exactly", "sorted" or "like".
        awaits: whether it is repeated until the reply is nil.
        connection: 0 or 1.
    """

    text: str
    words: list[bytes]
    tolerance: int = 0
    compare: str = "exactly"
    awaits: bool = False
    connection: int = 0

    def filled(self) -> list[bytes]:
        """Its words, with the time that it is now."""
        now_ms = time.time_ns() // 1_000_000
        return [_PLACEHOLDER.sub(lambda match: _fill(match, now_ms), word) for word in self.words]


@dataclass(frozen=True)
class Case:
    """A sequence of commands.

    Attributes:
        name: what is special in it.
        steps: the commands.
        reason: why the last reply is another than Redis'; empty if it is not.
        reply: what is said instead.
    """

    name: str
    steps: list[Step]
    reason: str = ""
    reply: str = ""


def _fill(match: re.Match[bytes], now_ms: int) -> bytes:
    if match[3]:
        return match[3] * int(match[4])
    return b"%d" % ((now_ms if match[1] == b"ms" else now_ms // 1000) + int(match[2]))


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else _LETTERS.get(match[2], match[2])


def parse_step(line: str) -> Step:
    """Read a line of a case."""
    words = [
        bare.encode() if bare else _ESCAPE.sub(_unescape, quoted.encode())
        for quoted, bare in _WORD.findall(line)
    ]
    told: dict[str, object] = {}
    while words:
        if words[0].startswith(b"~"):
            told["tolerance"] = int(words[0][1:])
        elif words[0] in (b"sorted", b"like"):
            told["compare"] = words[0].decode()
        elif words[0] == b"await":
            told["awaits"] = True
        elif words[0] == b"@2":
            told["connection"] = 1
        else:
            break
        del words[0]
    return Step(line, words, **told)  # type: ignore[arg-type]


def _load(table: str) -> list[Case]:
    return [
        Case(
            case["name"],
            [parse_step(line) for line in case["run"].splitlines() if line.strip()],
            case.get("reason", ""),
            case.get("reply", ""),
        )
        for case in tomllib.loads(FILE.read_text())[table]
    ]


CASES = _load("case")
DIFFERENCES = _load("difference")
