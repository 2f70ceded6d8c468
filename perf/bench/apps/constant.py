"""What a server on uvloop cannot go below: every read is answered with one reply, nothing is parsed.

constant.py PORT VALUE_BYTES
"""

import asyncio
import sys

import uvloop

BODY = b'{"status":"OK","key":"k0000000001","value":"%b"}' % (b"v" * int(sys.argv[2]))
REPLY = (
    b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nCache-Control: no-store\r\n\r\n%b" % (len(BODY), BODY)
)


class Constant(asyncio.Protocol):
    """A connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is called."""
        self.write = transport.write  # type: ignore[attr-defined]

    def data_received(self, _data: bytes) -> None:
        """Answer."""
        self.write(REPLY)


async def main() -> None:
    """Serve."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Constant, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


uvloop.run(main())
