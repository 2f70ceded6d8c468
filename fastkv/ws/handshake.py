"""The opening handshake (RFC 6455, 4.2; RFC 7692, 7): what a client asks for, and what is agreed.

In: the head of a request. Out: the fields of the 101 and the extensions that hold from then on. `HttpError`
is raised for what is no handshake: 426 where there is no usable offer, 400 where there is a mistake in it.
Who may speak was decided before, as for every request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol

from fastkv.http.request import HttpError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.extensions import Extension

    from fastkv.http.request import Head

_SWITCHING: Final = 101
_UPGRADE_REQUIRED: Final = 426

_UPGRADE: Final = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
_NO_OFFER: Final = "This route is for WebSockets: Upgrade: websocket, Sec-WebSocket-Version: 13."

# Nothing is kept from message to message, in neither direction, so that an idle connection has no window.
# What it takes while it compresses is 2^(12+2) + 2^(5+9) bytes.
_DEFLATE: Final = (
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=12,
        client_max_window_bits=12,
        compress_settings={"memLevel": 5, "level": 1},
    ),
)


def agree(head: Head, *, deflate: bool) -> tuple[bytes, Sequence[Extension]]:
    """Answer a handshake.

    Args:
        head: of a GET.
        deflate: whether messages may be compressed.

    Returns:
        The fields of a 101 with the empty line behind them, and the extensions.

    Raises:
        HttpError: 426 or 400.
    """
    version = head.get(b"sec-websocket-version")
    offers = (head.upgrade or b"").lower().split(b",")
    if b"websocket" not in (offer.strip() for offer in offers) or version != b"13":
        raise HttpError(_UPGRADE_REQUIRED, _NO_OFFER, extra=_UPGRADE)
    headers = Headers()
    for name, value in head.fields:
        # Of several protocols that are offered, it is this one.
        text = "websocket" if name == b"upgrade" else value.decode("latin-1")
        if name != b"upgrade" or "upgrade" not in headers:
            headers[name.decode()] = text
    protocol = ServerProtocol(extensions=_DEFLATE if deflate else ())
    response = protocol.accept(Request("", headers))
    if response.status_code != _SWITCHING:
        if response.status_code == _UPGRADE_REQUIRED:
            raise HttpError(_UPGRADE_REQUIRED, _NO_OFFER, extra=_UPGRADE)
        raise HttpError(400, "The WebSocket handshake is malformed: Sec-WebSocket-Key or -Extensions.")
    fields = [
        f"{name}: {value}\r\n" for name, value in response.headers.raw_items() if name.lower() != "date"
    ]
    return "".join(fields).encode("latin-1") + b"\r\n", protocol.extensions
