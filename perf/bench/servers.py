"""Who takes part: how each server is started, what it needs, and what it cannot be asked."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from fastkv import __version__
from perf.bench.build import APPS, NATIVE, UnavailableError, compile_c, compile_go
from perf.bench.wires import HTTP, MEMCACHED, RESP
from perf.report import version_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FASTKV: Final = "fastkv"
MANY: Final = "fastkv, N workers"
UNIX: Final = "fastkv, unix socket"
CEILING: Final = "C epoll, constant reply"

_BACKLOG: Final = 4096
# What nginx and fastkv wait for the next request; on 8,192 connections of a slow server it takes a while.
_IDLE_SECONDS: Final = 75
_MEMORY: Final = "512mb"
_MOST_CONNECTIONS: Final = 16_384
_ONE_BY_ONE: Final = frozenset({"pipelined hot", "pipelined uniform", "pipelined put"})
_LARGE: Final = frozenset({"1 KiB", "64 KiB"})
_NGINX: Final = """
daemon off; master_process off; worker_processes 1;
pid {directory}/nginx.pid; error_log {directory}/nginx.log;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
  access_log off; keepalive_requests 1000000000; default_type application/json;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{
    listen 127.0.0.1:{port} backlog={backlog};
    location / {{ return 200 '{{"status":"OK","key":"k0000000001","value":"{value}"}}'; }}
  }}
}}
"""


class Place(NamedTuple):
    """Where a server is to be started.

    Attributes:
        directory: for what it needs: programs that were compiled, configuration, sockets.
        port: where it listens, on 127.0.0.1.
        python: the interpreter that has the Python rivals.
        value_bytes: of the value in a constant reply.
        workers: how many processes serve, of a server that has several.
    """

    directory: Path
    port: int
    python: str
    value_bytes: int = 64
    workers: int = 2

    @property
    def socket(self) -> str:
        """The unix socket beside the port."""
        return str(self.directory / f"{self.port}.sock")


class Server(NamedTuple):
    """A server.

    Attributes:
        word: what it is called on the command line.
        name: as in results.
        command: starts it.
        version: says which one is installed, and compiles what has to be; raises UnavailableError.
        wire: what it speaks.
        constant: whether all its replies are one, and it keeps nothing.
        several: whether it has several workers.
        process_of: another server, whose process this one is too, by its unix socket.
        websocket: whether it takes commands over a WebSocket.
        cannot: names of workloads that make no sense for it.
    """

    word: str
    name: str
    command: Callable[[Place], list[str]]
    version: Callable[[Path, str], str]
    wire: str = HTTP
    constant: bool = False
    several: bool = False
    process_of: str = ""
    websocket: bool = False
    cannot: frozenset[str] = frozenset()

    def takes(self, workload: str) -> bool:
        """Whether it can be asked a workload of that name."""
        return workload not in self.cannot and (workload != "websocket" or self.websocket)


# -- versions ----------------------------------------------------------------------------------------------


def _own(_directory: Path, _python: str) -> str:
    return __version__


def _program(name: str, flag: str, package: str) -> Callable[[Path, str], str]:
    def version(_directory: Path, _python: str) -> str:
        if not shutil.which(name):
            raise UnavailableError(f"there is no {name} (Debian package {package})")
        done = subprocess.run([name, flag], capture_output=True, text=True, check=False)
        found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        return found[0] if found else "unknown"

    return version


def _packages(*names: str) -> Callable[[Path, str], str]:
    """The version of the first of these packages of the rivals' interpreter, if it has all."""

    def version(_directory: Path, python: str) -> str:
        ask = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        try:
            done = subprocess.run([python, "-c", ask, *names], capture_output=True, text=True, check=False)
        except OSError as error:
            raise UnavailableError(f"there is no interpreter {python}") from error
        if done.returncode:
            missing = done.stderr.strip().rpartition(" ")[2]
            raise UnavailableError(f"{missing} is not installed (perf/bench/requirements.txt)")
        return done.stdout.split()[0]

    return version


def _ceiling(directory: Path, _python: str) -> str:
    compile_c(NATIVE / "ceiling.c", directory / "ceiling")
    return f"by gcc {_program('gcc', '--version', 'gcc')(directory, '')}"


def _go(directory: Path, _python: str) -> str:
    compile_go(APPS / "original.go", directory / "original")
    return f"by go {_program('go', 'version', 'golang-go')(directory, '')}"


def _uvloop(_directory: Path, _python: str) -> str:
    return version_of("uvloop") or "unknown"


# -- commands ----------------------------------------------------------------------------------------------


def _fastkv(place: Place, workers: int = 1) -> list[str]:
    flags = {
        "port": place.port,
        "workers": workers,
        "memory": _MEMORY,
        "unix": place.socket,
        "log-level": "error",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "fastkv", "serve", "--no-tune", *words]


def _nginx(place: Place) -> list[str]:
    path = place.directory / f"nginx-{place.port}.conf"
    path.write_text(
        _NGINX.format(
            directory=place.directory,
            files=_MOST_CONNECTIONS,
            port=place.port,
            backlog=_BACKLOG,
            value="v" * place.value_bytes,
        )
    )
    return ["nginx", "-c", str(path)]


def _redis(place: Place) -> list[str]:
    options = {
        "port": place.port,
        "bind": "127.0.0.1",
        "save": "",
        "appendonly": "no",
        "protected-mode": "no",
        "maxclients": _MOST_CONNECTIONS,
        "tcp-backlog": _BACKLOG,
        "dir": place.directory,
    }
    return ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def _memcached(place: Place) -> list[str]:
    user = pwd.getpwuid(os.getuid()).pw_name
    options = {
        "l": "127.0.0.1",
        "p": place.port,
        "m": 1024,
        "t": 1,
        "c": _MOST_CONNECTIONS,
        "b": _BACKLOG,
        "u": user,
    }
    return ["memcached", *(word for name, value in options.items() for word in (f"-{name}", str(value)))]


def _uvicorn(application: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        options = ["--no-access-log", "--log-level", "critical", "--loop", "uvloop", "--http", "httptools"]
        options += ["--backlog", str(_BACKLOG), "--timeout-keep-alive", str(_IDLE_SECONDS)]
        options += ["--port", str(place.port), "--ws-per-message-deflate", "false"]
        return [place.python, "-m", "uvicorn", "--app-dir", str(APPS), *options, application]

    return command


# Its bound of concurrent requests is its backlog, unless told otherwise.
def _granian(place: Place) -> list[str]:
    options = [
        "--interface",
        "asgi",
        "--workers",
        "1",
        "--runtime-threads",
        "1",
        "--loop",
        "uvloop",
        "--http",
        "1",
    ]
    options += ["--no-log", "--backlog", str(_BACKLOG), "--port", str(place.port), "--working-dir", str(APPS)]
    options += ["--backpressure", str(_MOST_CONNECTIONS)]
    return [place.python, "-m", "granian", *options, "bare:app"]


def _robyn(place: Place) -> list[str]:
    options = ["--processes", "1", "--workers", "1", "--log-level", "ERROR", "--disable-openapi"]
    return [place.python, str(APPS / "robyn_app.py"), str(place.port), *options]


SERVERS: Final = {
    server.name: server
    for server in (
        Server(
            "ceiling",
            CEILING,
            lambda place: [str(place.directory / "ceiling"), str(place.port), str(place.value_bytes)],
            _ceiling,
            constant=True,
        ),
        Server(
            "uvloop",
            "uvloop, constant reply",
            lambda place: [
                sys.executable,
                str(APPS / "constant.py"),
                str(place.port),
                str(place.value_bytes),
            ],
            _uvloop,
            constant=True,
            cannot=_ONE_BY_ONE,
        ),
        # A parameter of its configuration has 4 KiB at most, and bodies are read for nothing.
        Server(
            "nginx",
            "nginx, constant reply",
            _nginx,
            _program("nginx", "-v", "nginx-light"),
            constant=True,
            cannot=_LARGE | {"put", "mix", "pipelined put"},
        ),
        Server("fastkv", FASTKV, _fastkv, _own, websocket=True),
        Server("workers", MANY, lambda place: _fastkv(place, place.workers), _own, several=True),
        Server("unix", UNIX, _fastkv, _own, process_of=FASTKV),
        Server(
            "go",
            "Go fasthttp",
            lambda place: [str(place.directory / "original"), str(place.port)],
            _go,
        ),
        Server("redis", "Redis", _redis, _program("redis-server", "--version", "redis-server"), wire=RESP),
        Server(
            "memcached",
            "memcached",
            _memcached,
            _program("memcached", "--version", "memcached"),
            wire=MEMCACHED,
        ),
        Server(
            "uvicorn",
            "uvicorn, bare ASGI",
            _uvicorn("bare:app"),
            _packages("uvicorn", "uvloop", "httptools", "orjson", "websockets"),
            websocket=True,
        ),
        Server("granian", "Granian", _granian, _packages("granian", "uvloop", "orjson"), websocket=True),
        Server(
            "fastapi",
            "FastAPI",
            _uvicorn("fastapi_app:app"),
            _packages("fastapi", "uvicorn", "uvloop", "httptools"),
        ),
        Server("robyn", "Robyn", _robyn, _packages("robyn", "orjson")),
    )
}
