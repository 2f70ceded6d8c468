"""The routes as an application of FastAPI over a dict."""

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI()
entries: dict[str, str] = {}


class Entry(BaseModel):
    """The body of a PUT."""

    key: str
    value: str


@app.get("/get")
async def get(key: str) -> dict[str, str]:
    """The value of a key."""
    if key not in entries:
        raise HTTPException(404, "Key not found.")
    return {"status": "OK", "key": key, "value": entries[key]}


@app.post("/put")
async def put(entry: Entry) -> dict[str, str]:
    """Keep an entry."""
    entries[entry.key] = entry.value
    return {"status": "OK", "message": "Key inserted/updated successfully."}
