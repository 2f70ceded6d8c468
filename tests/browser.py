"""Headless Chromium, and the web site that its pages come from."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    # Sites of the tests are on this machine, whatever their names.
    "--host-resolver-rules=MAP *.example 127.0.0.1",
)  # fmt: skip
_REPORT_SECONDS = 30.0

# A page runs the body of an async function and reports what that returns.
_PAGE = """<!doctype html><title>a page</title><body><script>
(async () => {
  let outcome
  try { outcome = await (async () => { %s })() } catch (error) { outcome = {failed: String(error)} }
  await fetch('/report', {method: 'POST', body: JSON.stringify(outcome)})
})()
</script>"""


class Site:
    """A web site of one page.

    Attributes:
        port: Where it is served, on 127.0.0.1.
    """

    def __init__(self) -> None:
        site = self
        self.reports: Queue[Any] = Queue()
        self._script = ""

        class Handler(BaseHTTPRequestHandler):
            """Serves the page, and takes its report."""

            def do_GET(self) -> None:
                self._reply(200 if self.path == "/" else 404, (_PAGE % site._script).encode())

            def do_POST(self) -> None:
                site.reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._reply(200, b"")

            def _reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def visit(self, host: str, script: str) -> Any:
        """Open the page in a browser that knows nothing yet.

        Args:
            host: The name under which the browser finds the site.
            script: The body of an async function.

        Returns:
            What it returned.
        """
        self._script = script
        with chromium(f"http://{host}:{self.port}/") as log:
            try:
                return self.reports.get(timeout=_REPORT_SECONDS)
            except Empty:
                raise AssertionError(f"The page did not report; the browser wrote:\n{log()}") from None

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def chromium(url: str) -> Iterator[Any]:
    """Have Chromium open a page until the end of the block; yields a function that returns what it wrote."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tempfile.TemporaryFile() as log:
        command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}/x", "--remote-debugging-port=0", url]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=profile)
        try:
            yield lambda: (log.seek(0), log.read().decode(errors="replace"))[1]
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def dump(url: str) -> str:
    """Return the text of a page that the user opens."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={Path(profile)}/x", "--dump-dom", url]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout


@contextmanager
def served(content_type: str, page: bytes) -> Iterator[str]:
    """Serve one page, whatever is asked for; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        """Serves the page."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
