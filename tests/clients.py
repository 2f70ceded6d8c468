"""HTTP clients made by others, each as a function that sends a request and returns the reply.

`EVERY_WAY` opens one by its name. Where its tool is missing the test is skipped.
"""

import asyncio
import base64
import http.client
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Protocol

import httpx
import pytest
from replies import Reply
from server import has_ipv6, read_reply

SECONDS = 30.0
"""No client waits longer for anything."""

_SCRIPT = Path(__file__).with_name("clients.mjs")


class Send(Protocol):
    """Send a request, on the connection of the one before if the client keeps any."""

    def __call__(
        self, method: str, target: str, body: bytes | None = None, fields: Mapping[str, str] = {}, /
    ) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server can be reached.

    Attributes:
        port: On 127.0.0.1, and on ::1 where there is one.
        unix: Its Unix socket.
    """

    port: int
    unix: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url6(self) -> str:
        if not has_ipv6():
            pytest.skip("this machine has no ::1")
        return f"http://[::1]:{self.port}"


def require(tool: str) -> None:
    """Skip the test where a tool is missing."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def run(*command: str | Path, text: bytes | None = None, code: int = 0) -> bytes:
    """Run a tool to its end, without proxies.

    Args:
        command: The tool and its arguments.
        text: Its input.
        code: The exit code that it must have.

    Returns:
        What it wrote to stdout.
    """
    require(str(command[0]))
    done = subprocess.run(
        command, input=text, env=_environment(), capture_output=True, timeout=SECONDS, check=False
    )
    assert done.returncode == code, (done.returncode, done.stderr.decode(), done.stdout[:1000])
    return done.stdout


def curl(*arguments: str | Path, text: bytes | None = None, code: int = 0) -> bytes:
    """Run curl as written: without a configuration, and with the path as it stands."""
    options = ("--disable", "--silent", "--show-error", "--globoff", "--path-as-is", "--max-time", "20")
    return run("curl", *options, *arguments, text=text, code=code)


def replies(text: bytes, method: str = "GET") -> list[Reply]:
    """What ``curl --include`` wrote: the replies, those that announce another one included."""
    stream, found = BytesIO(text), list[Reply]()
    while stream.tell() < len(text):
        found.append(read_reply(stream, method))
    return found


def node(*arguments: str | Path) -> bytes:
    """Run one of the scenarios of ``clients.mjs``."""
    return run("node", _SCRIPT, *arguments)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


# -- curl ----------------------------------------------------------------------------------------------------


@contextmanager
def _curl(url: str, *options: str | Path) -> Iterator[Send]:
    """A process for each request; the body on its stdin."""
    require("curl")

    def send(method: str, target: str, body: bytes | None = None, fields: Mapping[str, str] = {}, /) -> Reply:
        arguments = [*options, "--include", url + target]
        arguments += ["--head"] if method == "HEAD" else ["--request", method]
        arguments += [] if body is None else ["--data-binary", "@-"]
        for name, value in fields.items():
            arguments += ["--header", f"{name}: {value}"]
        return replies(curl(*arguments, text=body), method)[-1]

    yield send


# -- Python --------------------------------------------------------------------------------------------------


@contextmanager
def _http_client(url: str) -> Iterator[Send]:
    with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=SECONDS)) as connection:

        def send(
            method: str, target: str, body: bytes | None = None, fields: Mapping[str, str] = {}, /
        ) -> Reply:
            connection.request(method, target, body, dict(fields))
            return _reply(connection.getresponse())

        yield send


class _EveryStatus(urllib.request.HTTPErrorProcessor):
    """No status is an exception."""

    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        return response


@contextmanager
def _urllib(url: str) -> Iterator[Send]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _EveryStatus)

    def send(method: str, target: str, body: bytes | None = None, fields: Mapping[str, str] = {}, /) -> Reply:
        request = urllib.request.Request(url + target, body, dict(fields), method=method)
        with opener.open(request, timeout=SECONDS) as reply:
            return _reply(reply)

    yield send


def _reply(reply: http.client.HTTPResponse) -> Reply:
    return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())


@contextmanager
def _httpx(url: str, unix: Path | None = None) -> Iterator[Send]:
    transport = httpx.HTTPTransport(verify=False, uds=None if unix is None else str(unix))
    with httpx.Client(base_url=url, transport=transport, timeout=SECONDS) as client:

        def send(
            method: str, target: str, body: bytes | None = None, fields: Mapping[str, str] = {}, /
        ) -> Reply:
            reply = client.request(method, target, content=body, headers=fields)
            return Reply(reply.status_code, dict(reply.headers), reply.content)

        yield send


@contextmanager
def _httpx_asyncio(url: str) -> Iterator[Send]:
    client = async_client(url)
    with asyncio.Runner() as runner:

        def send(
            method: str, target: str, body: bytes | None = None, fields: Mapping[str, str] = {}, /
        ) -> Reply:
            reply = runner.run(client.request(method, target, content=body, headers=fields))
            return Reply(reply.status_code, dict(reply.headers), reply.content)

        try:
            yield send
        finally:
            runner.run(client.aclose())


def async_client(url: str) -> httpx.AsyncClient:
    """An asyncio client of httpx."""
    return httpx.AsyncClient(base_url=url, timeout=SECONDS, trust_env=False, verify=False)


# -- Node ----------------------------------------------------------------------------------------------------


@contextmanager
def _node(kind: str, url: str, *unix: Path) -> Iterator[Send]:
    """One process; each line that it reads is a request, each line that it writes a reply."""
    require("node")
    process = subprocess.Popen(
        ["node", _SCRIPT, kind, url, *unix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
    )

    def send(method: str, target: str, body: bytes | None = None, fields: Mapping[str, str] = {}, /) -> Reply:
        text = None if body is None else base64.b64encode(body).decode()
        request = {"method": method, "target": target, "body": text, "fields": dict(fields)}
        to_node.write(json.dumps(request).encode() + b"\n")
        to_node.flush()
        line = from_node.readline()  # it gives up by itself
        assert line, f"node ended with exit code {process.wait(SECONDS)}"
        told = json.loads(line)
        return Reply(told["status"], told["fields"], base64.b64decode(told["body"]))

    to_node, from_node = _pipe(process.stdin), _pipe(process.stdout)
    try:
        yield send
    finally:
        to_node.close()
        try:
            process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()
            from_node.close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


# -- all of them ---------------------------------------------------------------------------------------------

Open = Callable[[Address], AbstractContextManager[Send]]

CLIENTS: Mapping[str, Open] = {
    "curl": lambda at: _curl(at.url),
    "curl-1.0": lambda at: _curl(at.url, "--http1.0"),
    "http.client": lambda at: _http_client(at.url),
    "urllib": lambda at: _urllib(at.url),
    "httpx": lambda at: _httpx(at.url),
    "httpx-asyncio": lambda at: _httpx_asyncio(at.url),
    "fetch": lambda at: _node("fetch", at.url),
    "node:http": lambda at: _node("http", at.url),
}
"""Every client by its name."""

EVERY_WAY: Mapping[str, Open] = {
    **CLIENTS,
    "curl-h2c": lambda at: _curl(at.url, "--http2"),  # it asks to go on in HTTP/2, which is not done
    "curl-ipv6": lambda at: _curl(at.url6),
    "curl-unix": lambda at: _curl("http://localhost", "--unix-socket", at.unix),
    "http.client-ipv6": lambda at: _http_client(at.url6),
    "httpx-unix": lambda at: _httpx("http://localhost", at.unix),
    "fetch-ipv6": lambda at: _node("fetch", at.url6),
    "node:http-unix": lambda at: _node("http", "http://localhost", at.unix),
}
"""The same, and once more by other addresses."""

PERSISTENT = ("http.client", "httpx", "httpx-unix", "httpx-asyncio", "fetch", "node:http", "node:http-unix")
"""Those that keep a connection from one request to the next."""
