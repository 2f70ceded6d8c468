"""The access log: a line for each request, or for each so many, written where no request waits.

Enters: what `LoggedConnection` notes of a request and its reply. Leaves: lines in the Common Log Format with
the microseconds that the answer took at their end, or JSON, appended to a file by a thread of its own. A disk
that is slower than the clients costs lines, which are counted, and never a client.

Without an access log none of this is imported into a request's way: `LoggedConnection` takes the place of
`Connection`, and nothing is answered by the core, which notes nothing.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from fastkv.connection import Connection
from fastkv.errors import StartError
from fastkv.http.large import ROOM_BYTES
from fastkv.names import client_address
from fastkv.stats import Column

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastkv.http.request import Head, HttpError
    from fastkv.http.responses import Reply
    from fastkv.receiver import Data
    from fastkv.service import Service
    from fastkv.settings import Settings
    from fastkv.steps import Steps

_log = logging.getLogger("fastkv")

_MOST_WAITING: Final = 65_536
_WRITE_BYTES: Final = 64 << 10
# The name may have come with escapes: what decodes to it presents a token all the same.
_NAME = "".join(f"(?:{letter}|%{ord(letter):02x})" for letter in "_token").encode()
_token = re.compile(rb"(?<=[?&])((?i:%b)=)[^&]*" % _NAME)


class Noted(NamedTuple):
    """What is known of a request that was answered.

    Attributes:
        unix_ns: when its answer began.
        peer: the client's address, "-" where it has none.
        line: method, space and target; b"" where none could be read.
        version: b"1.0" or b"1.1".
        status: of the reply.
        body_bytes: of the reply.
        took_ns: what the answer took, without reading the request and sending the reply.
    """

    unix_ns: int
    peer: str
    line: bytes
    version: bytes
    status: int
    body_bytes: int
    took_ns: int


class AccessLog:
    """The access log of one worker."""

    def __init__(self, settings: Settings, counters: memoryview[int]) -> None:
        """Open it.

        Args:
            settings: access_log, access_log_format and access_log_every count.
            counters: this worker's row of the board.

        Raises:
            StartError: the file cannot be opened.
        """
        assert settings.access_log is not None
        self._file = _open(settings.access_log)
        self._format = _as_json if settings.access_log_format == "json" else _as_text
        self._every = settings.access_log_every
        self._counters = counters
        self._seen = 0
        self._waiting: list[Noted] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="access log")
        self._writing: Future[None] | None = None
        self._failing = False

    def note(self, noted: Noted) -> None:
        """Take note of a request, if it is its turn.

        Args:
            noted: the request.
        """
        self._seen += 1
        if self._seen % self._every:
            return
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(noted)
        else:
            self._counters[Column.ACCESS_LOG_DROPPED] += 1

    def turn(self) -> None:
        """Have the thread write what waits, unless it is still writing."""
        if self._waiting and (self._writing is None or self._writing.done()):
            batch, self._waiting = self._waiting, []
            self._writing = self._thread.submit(self._write, batch)

    def close(self) -> None:
        """Write what waits, and close the file; a last turn may still follow."""
        self._thread.shutdown(wait=True)
        batch, self._waiting = self._waiting, []
        self._write(batch)
        if self._file > 2:
            os.close(self._file)

    def _write(self, batch: Sequence[Noted]) -> None:
        """Write whole lines, so that those of other workers do not come in between (O_APPEND, open(2))."""
        pending: list[bytes] = []
        size = 0
        try:
            for noted in batch:
                pending.append(self._format(noted))
                size += len(pending[-1])
                if size > _WRITE_BYTES:
                    _write_all(self._file, b"".join(pending))
                    pending, size = [], 0
            _write_all(self._file, b"".join(pending))
        except OSError as error:
            self._counters[Column.ACCESS_LOG_DROPPED] += len(batch)
            if not self._failing:  # once, until it can be written again
                _log.error("The access log cannot be written: %s.", error.strerror or error)
            self._failing = True
        else:
            self._failing = False


class LoggedConnection(Connection):
    """A connection whose requests are noted."""

    __slots__ = ("_access_log", "_peer")

    def __init__(self, service: Service, access_log: AccessLog) -> None:
        """Make the protocol of a connection to be.

        Args:
            service: what it shares with the worker's others.
            access_log: where requests are noted.
        """
        super().__init__(service)
        self._access_log = access_log
        self._peer = ""

    def dispatch(self, line: bytes, head: Head, body: bytes) -> Data:
        """Answer a request, and note it."""
        began = time.time_ns()
        reply = super().dispatch(line, head, body)
        if self._work is not None:  # the reply takes further turns
            self._work = self._note_in_steps(self._work, began, line, head.version)
        else:
            self._note(began, line, head.version, reply)
        return reply

    def _note_in_steps(self, work: Steps[Data], began_ns: int, line: bytes, version: bytes) -> Steps[Data]:
        """Note a request whose reply takes steps, when it is there."""
        reply = yield from work
        self._note(began_ns, line, version, reply)
        return reply

    def error_reply(self, error: HttpError, line: bytes, *, headless: bool) -> bytes:
        """Reply to what is not read as a request, and note it."""
        reply = super().error_reply(error, line, headless=headless)
        self._note(time.time_ns(), line, b"1.1", reply)
        return reply

    def _end_with(self, reply: Reply) -> None:
        self._note(time.time_ns(), b"", b"1.1", b"HTTP/1.1 %d " % reply[0] + reply[1])
        super()._end_with(reply)

    def _note(self, began_ns: int, line: bytes, version: bytes, reply: Data) -> None:
        if not self._peer:
            name = self._transport.get_extra_info("peername") if self._transport is not None else None
            self._peer = client_address(str(name[0])) if isinstance(name, tuple) else "-"
        head = reply if isinstance(reply, bytes) else bytes(reply[:ROOM_BYTES])
        self._access_log.note(
            Noted(
                began_ns,
                self._peer,
                line,
                version,
                int(head[9:12]),
                len(reply) - head.index(b"\r\n\r\n") - 4,
                time.time_ns() - began_ns,
            )
        )


def check(path: Path) -> None:
    """See to it that the access log can be opened, before there are workers.

    Args:
        path: the file, or "-" for stderr.

    Raises:
        StartError: it cannot be.
    """
    opened = _open(path)
    if opened > 2:
        os.close(opened)


def _open(path: Path) -> int:
    if str(path) == "-":
        return sys.stderr.fileno()
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StartError(f"--access-log: '{path}' cannot be written ({error.strerror or error}).") from None


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _request(noted: Noted) -> str:
    """The request line without the token that it may carry."""
    if not noted.line:
        return "-"
    line = _token.sub(rb"\1***", noted.line)
    return f"{line.decode('ascii', 'replace')} HTTP/{noted.version.decode()}"


def _as_text(noted: Noted) -> bytes:
    when = datetime.fromtimestamp(noted.unix_ns / 1e9, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
    request = _request(noted).replace("\\", "\\x5C").replace('"', "\\x22")
    return (
        f'{noted.peer} - - [{when}] "{request}" {noted.status} {noted.body_bytes} {noted.took_ns // 1000}\n'
    ).encode()


def _as_json(noted: Noted) -> bytes:
    when = datetime.fromtimestamp(noted.unix_ns / 1e9, UTC)
    return orjson.dumps(
        {
            "time": when.isoformat(timespec="milliseconds"),
            "client": noted.peer,
            "request": _request(noted),
            "status": noted.status,
            "bytes": noted.body_bytes,
            "microseconds": noted.took_ns // 1000,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )
