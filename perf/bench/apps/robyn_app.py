"""The routes as an application of Robyn over a dict: rust.py PORT."""

import sys

import orjson
from robyn import Request, Response, Robyn

port = int(sys.argv.pop(1))  # what is left is Robyn's
app = Robyn(__file__)
entries: dict[str, str] = {}
JSON = {"content-type": "application/json"}


@app.get("/get")
async def get(request: Request) -> Response:
    """The value of a key."""
    key = request.query_params.get("key", "")
    if key not in entries:
        return Response(404, JSON, b'{"status":"ERROR","message":"Key not found."}')
    return Response(200, JSON, orjson.dumps({"status": "OK", "key": key, "value": entries[key]}))


@app.post("/put")
async def put(request: Request) -> Response:
    """Keep an entry."""
    entry = orjson.loads(request.body)
    entries[entry["key"]] = entry["value"]
    return Response(200, JSON, b'{"status":"OK","message":"Key inserted/updated successfully."}')


app.start(host="127.0.0.1", port=port)
