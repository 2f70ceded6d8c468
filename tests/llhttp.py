"""A third reader of requests, as an oracle: llhttp, behind httptools."""

from contextlib import suppress

import httptools


class Llhttp:
    """What httptools makes of a connection, up to where it stops.

    Args:
        data: What a client has sent.

    Attributes:
        messages: Line and body of each message that it says is complete.
    """

    def __init__(self, data: bytes) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self._url = self._body = b""
        self._upgrade = False
        parser = httptools.HttpRequestParser(self)
        self._parser = parser
        with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            parser.feed_data(data)
        del self._parser

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        # It does not look for a body behind an upgrade.
        if not self._parser.should_upgrade():
            self.messages.append((self._parser.get_method() + b" " + self._url, self._body))
        self._url = self._body = b""
