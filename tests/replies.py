"""Reads what a server has sent, strictly: whatever is not exactly as fastkv sends it is a failure."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

_HEAD = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [A-Za-z0-9 '-]+\r\n((?:[A-Za-z-]+: [^\r\n]*\r\n)*)\r\n")
_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


@dataclass(frozen=True)
class Reply:
    """One reply.

    Attributes:
        status: The status code.
        fields: The header fields by lower-case name.
        body: The body.
    """

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """True where it says that it is the connection's last."""
        return self.fields.get("connection") == "close"


def read_replies(sent: bytes, methods: Iterable[bytes]) -> list[Reply]:
    """Take replies apart, interim ones included (RFC 9112, 4 and 6.3).

    Args:
        sent: All that a server has sent on a connection.
        methods: Of the requests, in order; a reply to HEAD has no body.

    Returns:
        The replies.

    Raises:
        AssertionError: Something is not as it has to be: a status line, a field, a length, a missing Date, an
            error that is no JSON, a reply that nobody asked for or that is not all there.
    """
    replies = []
    due = iter(methods)
    while sent:
        match = _HEAD.match(sent)
        assert match, sent[:200]
        sent = sent[match.end() :]
        status = int(match[1])
        lines = match[2].decode("latin-1").splitlines()
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert len(fields) == len(lines), lines
        if status < 200:
            assert not fields
            replies.append(Reply(status, fields, b""))
            continue
        method = next(due, None)
        assert method is not None, "a reply to no request"
        assert _DATE.fullmatch(fields["date"])
        assert fields.get("connection", "keep-alive") in ("close", "keep-alive")
        if status == 204:
            assert "content-length" not in fields
            length = 0
        else:
            length = 0 if method == b"HEAD" else int(fields["content-length"])
        body, sent = sent[:length], sent[length:]
        assert len(body) == length
        reply = Reply(status, fields, body)
        if status >= 400:
            _check_error(reply, method)
        replies.append(reply)
    return replies


def _check_error(reply: Reply, method: bytes) -> None:
    """An error is one sentence in JSON, and says what it has to say besides; that of a command is Redis'."""
    assert reply.fields["content-type"] == "application/json"
    if method != b"HEAD":
        error = json.loads(reply.body)
        of_command = error.pop("error", None)
        assert error.keys() == ({"status", "message"} if error or of_command is None else set())
        if error:
            assert error["status"] == "ERROR"
            assert error["message"].endswith(".")
            assert of_command in (None, f"ERR {error['message']}")
    assert ("allow" in reply.fields) >= (reply.status == 405)
    assert ("retry-after" in reply.fields) >= (reply.status == 503)
