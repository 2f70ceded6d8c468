"""The routes as an ASGI application over a dict, without a framework: what one would write instead."""

from typing import Any
from urllib.parse import parse_qs

import orjson

entries: dict[str, str] = {}
NOT_FOUND = b'{"status":"ERROR","message":"Key not found."}'
NO_ROUTE = b'{"status":"ERROR","message":"There is no such route."}'
DONE = b'{"status":"OK","message":"Key inserted/updated successfully."}'


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve a request, or a WebSocket."""
    if scope["type"] == "http":
        status, body = await respond(scope, receive)
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})
    elif scope["type"] == "websocket":
        await converse(receive, send)


async def respond(scope: dict[str, Any], receive: Any) -> tuple[int, bytes]:
    """Status and body."""
    if scope["path"] == "/get":
        key = parse_qs(scope["query_string"].decode())["key"][0]
        if key not in entries:
            return 404, NOT_FOUND
        return 200, orjson.dumps({"status": "OK", "key": key, "value": entries[key]})
    if scope["path"] == "/put":
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        entry = orjson.loads(body)
        entries[entry["key"]] = entry["value"]
        return 200, DONE
    return 404, NO_ROUTE


async def converse(receive: Any, send: Any) -> None:
    """Answer commands in JSON."""
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
            continue
        command = orjson.loads(message.get("text") or message["bytes"])
        await send(
            {"type": "websocket.send", "text": orjson.dumps({"result": entries.get(command[1])}).decode()}
        )
