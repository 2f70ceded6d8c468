"""A running server's entries as blocks of a snapshot: the client of ``/snapshot``.

In: where the server is, and a token. Out: what ``fastkv.snapshot.transfer`` gives for a store in this
process. One connection is kept. Once the server has answered, what fails for a reason that may pass is tried
again on a new one: a page can be asked for, and a block be put, as often as one likes. Raised:
``SnapshotError``, one sentence.
"""

from __future__ import annotations

import json
import socket
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, Final

from fastkv import __version__
from fastkv.errors import SnapshotError
from fastkv.health import Address, explain, name_of_status
from fastkv.snapshot.format import build_block, parse_block

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRIES: Final = 6
_FIRST_PAUSE_SECONDS: Final = 0.1
_MOST_MESSAGE: Final = 300


class _Connection(HTTPConnection):
    """An HTTP connection to an `Address`."""

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        super().__init__(address.place, timeout=timeout_seconds)
        self._address = address

    def connect(self) -> None:
        """Open it, whatever it goes over."""
        self.sock = self._address.connect(self.timeout)
        if self.sock.family != socket.AF_UNIX:
            # A request goes out in two pieces, and the second would wait for the first's acknowledgement.
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Remote:
    """The two ways of a running server."""

    def __init__(self, address: Address, token: str | None, timeout_seconds: float) -> None:
        """Nothing is sent yet.

        Args:
            address: where it is.
            token: sent as ``Authorization: Bearer``, if any.
            timeout_seconds: the longest wait for the next bytes of an answer.
        """
        self._address = address
        self._token = token
        self._connection = _Connection(address, timeout_seconds)
        self._tries = 1
        self._fields = {"Host": address.authority, "User-Agent": f"fastkv/{__version__}"}
        if token:
            self._fields["Authorization"] = f"Bearer {token}"

    def __str__(self) -> str:
        return str(self._address)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def total(self) -> int:
        """How many entries there are."""
        status, _, body = self._ask("GET", "/stats")
        return int(self._number(self._object(status, body), "entries"))

    def page(self, cursor: int) -> tuple[bytes, int]:
        """Read some entries.

        Args:
            cursor: 0, or what the call before returned.

        Returns:
            A block, perhaps without entries, and the next cursor, 0 if there is nothing left.

        Raises:
            SnapshotError: if it cannot be had.
        """
        status, fields, body = self._ask("GET", f"/snapshot?cursor={cursor}")
        if status != 200:
            raise self._refused(status, body)
        parse_block(body)
        after = fields.get("next-cursor", "")
        if not after.isdecimal():
            raise SnapshotError(f"{self} does not say where the next page begins.")
        return body, int(after)

    def put(self, block: bytes) -> tuple[int, int]:
        """Put what a block has.

        Args:
            block: a block.

        Returns:
            How many entries were put, and of how many the deadline had passed.

        Raises:
            SnapshotError: if the server does not take it.
        """
        status, _, body = self._ask("POST", "/snapshot", block)
        items = parse_block(block) if status == 413 else []
        if len(items) > 1:  # bodies may be shorter there than where it comes from
            middle = len(items) // 2
            halves = [self.put(build_block(half)) for half in (items[:middle], items[middle:])]
            return halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]
        answer = self._object(status, body)
        return self._number(answer, "entries"), self._number(answer, "expired")

    def _ask(
        self, method: str, target: str, body: bytes | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request, several times if need be.

        Returns:
            Status, fields by lower-case name, and body of the answer.
        """
        pause = _FIRST_PAUSE_SECONDS
        attempt = 1
        while True:
            try:
                answer = self._ask_once(method, target, body)
                if answer[0] != 503 or attempt >= self._tries:
                    self._tries = _TRIES
                    return answer
            except (OSError, HTTPException) as error:
                self._connection.close()
                if attempt >= self._tries:
                    # Not what came instead: a stranger may have sent anything.
                    why = "what answers does not speak HTTP/1.1, or stops in the middle"
                    if isinstance(error, OSError):
                        # A server that has answered before speaks the right protocol.
                        first = self._tries < _TRIES
                        why = explain(self._address, error) if first else error.strerror or str(error)
                    raise SnapshotError(f"the request to {self} failed: {why}.") from None
            attempt += 1
            time.sleep(pause)
            pause *= 2

    def _ask_once(self, method: str, target: str, body: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        try:
            self._connection.request(method, target, body, self._fields)
        except (BrokenPipeError, ConnectionResetError):
            # It may have said why before it stopped reading.
            if self._connection.sock is None:
                raise
        response: HTTPResponse = self._connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return response.status, fields, response.read()

    def _object(self, status: int, body: bytes) -> dict[str, Any]:
        """The JSON object of an answer."""
        if status != 200:
            raise self._refused(status, body)
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise SnapshotError(f"What answers at {self} is no fastkv.")
        return answer

    def _number(self, answer: dict[str, Any], name: str) -> int:
        number = answer.get(name)
        if not isinstance(number, int):
            raise SnapshotError(f"What answers at {self} is no fastkv.")
        return number

    def _refused(self, status: int, body: bytes) -> SnapshotError:
        """What is raised for an answer that is none of those hoped for, with the server's reason."""
        try:
            why = json.loads(body)["message"]
        except (ValueError, LookupError, TypeError):
            why = ""
        # Whoever answers there may be a stranger, and may even repeat the token.
        if not isinstance(why, str) or not why.isprintable() or len(why) > _MOST_MESSAGE:
            why = ""
        if self._token and self._token in why:
            why = ""
        return SnapshotError(f"{self} answers {name_of_status(status)}{f': {why}' if why else '.'}")
