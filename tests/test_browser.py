"""Headless Chromium: a page of another origin reaches nothing of a server, an allowed one what it should.

What a page can do without being asked is tried in every way that it has; the server's counters tell that no
attempt came as far as a route.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from browser import Site, dump, needs_chromium, served
from server import Server, running

pytestmark = needs_chromium

TOKEN = "s3cret-T0ken"

# Each attempt is a function of the server's URL; it says what the page has got hold of, or "nothing". Where a
# page is never told (no-cors, beacons, frames) only the server's counters can say what came of it.
ATTEMPTS = r"""
const url = 'TARGET'
const pair = JSON.stringify({key: 'planted', value: '1'})
const caught = promise => promise.catch(() => 'nothing')
const element = (tag, fields, parent = document.body) => new Promise(done => {
  const made = Object.assign(document.createElement(tag), fields)
  made.onload = () => done('loaded')
  made.onerror = () => done('nothing')
  parent.append(made)
})
const framed = fill => new Promise(done => {
  const frame = Object.assign(document.createElement('iframe'), {name: 'f' + Math.random()})
  document.body.append(frame)
  frame.onload = () => {
    try { done(frame.contentDocument.body.textContent || 'nothing') } catch { done('nothing') }
  }
  fill(frame)
})
const read = async (path, options) => {
  const reply = await fetch(url + path, options)
  return reply.type === 'opaque' ? 'nothing' : reply.status + ' ' + await reply.text()
}
const attempts = {
  cors: () => read('/get?key=secret'),
  noCors: () => read('/get?key=secret', {mode: 'no-cors'}),
  withCredentials: () => read('/get?key=secret', {credentials: 'include'}),
  simplePost: () => read('/put', {method: 'POST', body: pair}),
  noCorsPost: () => read('/put', {method: 'POST', body: pair, mode: 'no-cors'}),
  form: () => framed(frame => {
    const form = Object.assign(document.createElement('form'),
      {action: url + '/put', method: 'POST', enctype: 'text/plain', target: frame.name})
    form.append(Object.assign(document.createElement('input'),
      {name: '{"key":"planted","value":"', value: '"}'}))
    document.body.append(form)
    form.submit()
  }),
  preflightedPut: () => read('/put', {method: 'PUT', body: pair}),
  preflightedDelete: () => read('/delete?key=secret', {method: 'DELETE'}),
  preflightedToken: () => read('/get?key=secret', {headers: {Authorization: 'Bearer x'}}),
  beacon: async () => { navigator.sendBeacon(url + '/put', pair); return 'nothing' },
  image: () => element('img', {src: url + '/get?key=secret'}),
  script: () => element('script', {src: url + '/get?key=secret'}),
  style: () => element('link', {rel: 'stylesheet', href: url + '/get?key=secret'}),
  frame: () => framed(frame => { frame.src = url + '/get?key=secret' }),
  events: () => new Promise(done => {
    const source = new EventSource(url + '/get?key=secret')
    source.onopen = source.onmessage = () => done('open')
    source.onerror = () => { source.close(); done('nothing') }
  }),
  socket: () => new Promise(done => {
    const socket = new WebSocket(url.replace('http', 'ws') + '/ws')
    socket.onopen = () => done('open')
    socket.onclose = () => done('nothing')
  }),
}
const outcome = {}
for (const [name, attempt] of Object.entries(attempts)) outcome[name] = await caught(attempt())
return outcome
"""
NAMES = (
    "cors", "noCors", "withCredentials", "simplePost", "noCorsPost", "form", "preflightedPut",
    "preflightedDelete", "preflightedToken", "beacon", "image", "script", "style", "frame", "events",
    "socket",
)  # fmt: skip
NOTHING = dict.fromkeys(NAMES, "nothing")

# The same in a frame without an origin of its own: what it sends says `Origin: null`.
SANDBOXED = """
return await new Promise(done => {
  addEventListener('message', event => done(event.data))
  const script = `(async () => { ATTEMPTS })().then(outcome => parent.postMessage(outcome, '*'))`
  const frame = Object.assign(document.createElement('iframe'),
    {srcdoc: '<body><script>' + script + '</' + 'script>'})
  frame.sandbox = 'allow-scripts allow-forms'
  document.body.append(frame)
})
"""

WELCOME = r"""
const url = 'TARGET', headers = HEADERS
const outcome = {}
const ask = async (name, path, options = {}) => {
  const reply = await fetch(url + path, {...options, headers})
  outcome[name] = [reply.status, await reply.json(), reply.headers.get('Allow')]
}
await ask('put', '/put', {method: 'PUT', body: JSON.stringify({key: 'a', value: 'é'})})
await ask('post', '/put', {method: 'POST', body: JSON.stringify({key: 'b', value: '2'})})
await ask('get', '/get?key=a')
await ask('delete', '/delete?key=b', {method: 'DELETE'})
await ask('missing', '/get?key=b')
await ask('wrong', '/stats', {method: 'PUT', body: ''})
const bare = await fetch(url + '/version')
outcome.bare = bare.status
return outcome
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def told(server: Server, fields: dict[str, str] | None = None) -> dict[str, int]:
    """The server's counters."""
    counted: dict[str, int] = json.loads(server.request("GET", "/stats", None, fields).body)
    return counted


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with a secret in it."""
    with running(workers=1) as started:
        assert started.request("PUT", "/put", '{"key":"secret","value":"s3cret"}').status == 200
        yield started
        assert started.stop() == 0


UNCHANGED = ("entries", "puts", "deletes", "hits", "misses", "bad_requests", "wrong_hosts", "internal_errors")


def check_that_nothing_came_through(before: dict[str, int], after: dict[str, int]) -> None:
    assert {name: after[name] for name in UNCHANGED} == {name: before[name] for name in UNCHANGED}
    # Each attempt was seen and refused; some are two, a preflight that is tried again for one.
    assert after["foreign_origins"] - before["foreign_origins"] >= len(NAMES)


def test_the_attempts_are_real(site: Site) -> None:
    """Where every origin is let in they do get through: what fails elsewhere is not just badly tried."""
    with running(workers=1, allow_origin="*") as server:
        server.request("PUT", "/put", '{"key":"secret","value":"s3cret"}')
        outcome = site.visit("evil.example", ATTEMPTS.replace("TARGET", url(server)))
        secret = '200 {"status":"OK","key":"secret","value":"s3cret"}'
        done = '200 {"status":"OK","message":"Key inserted/updated successfully."}'
        assert outcome["cors"] == secret
        assert outcome["simplePost"] == outcome["preflightedPut"] == done
        assert outcome["preflightedDelete"] == '200 {"status":"OK","message":"Key deleted successfully."}'
        counted = told(server)
        assert counted["foreign_origins"] == 0
        # The simple POST and the PUT, and those whose page is never told: no-cors, form, beacon.
        assert counted["puts"] == 1 + 5
        assert server.stop() == 0


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost"])
def test_a_page_of_another_origin_reaches_nothing(site: Site, server: Server, host: str) -> None:
    """Another site, the same site on another port, and another name of the same machine."""
    before = told(server)
    assert site.visit(host, ATTEMPTS.replace("TARGET", url(server))) == NOTHING
    check_that_nothing_came_through(before, told(server))


def test_a_page_without_an_origin_reaches_nothing(site: Site, server: Server) -> None:
    before = told(server)
    attempts = ATTEMPTS.replace("TARGET", url(server)).replace("\\", "\\\\").replace("`", "\\`")
    assert site.visit("127.0.0.1", SANDBOXED.replace("ATTEMPTS", attempts)) == NOTHING
    check_that_nothing_came_through(before, told(server))


def test_a_name_that_points_here_reaches_nothing(site: Site, server: Server) -> None:
    """DNS rebinding. The browser takes the name for no part of this machine, and says nothing of sites."""
    before = told(server)
    there = f"http://rebound.example:{server.port}"
    outcome = site.visit("evil.example", ATTEMPTS.replace("TARGET", there))
    assert outcome == NOTHING
    after = told(server)
    assert after["wrong_hosts"] - before["wrong_hosts"] >= len(NAMES)
    kept = [name for name in UNCHANGED if name != "wrong_hosts"]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    # As the page of that name itself would ask: to the browser it is the same origin.
    text = dump(f"{there}/get?key=secret")
    assert "--allowed-host" in text
    assert "s3cret" not in text


def test_the_user_may_look(server: Server) -> None:
    assert '"value":"s3cret"' in dump(f"{url(server)}/get?key=secret")


EXPECTED: dict[str, Any] = {
    "put": [200, {"status": "OK", "message": "Key inserted/updated successfully."}, None],
    "post": [200, {"status": "OK", "message": "Key inserted/updated successfully."}, None],
    "get": [200, {"status": "OK", "key": "a", "value": "é"}, None],
    "delete": [200, {"status": "OK", "message": "Key deleted successfully."}, None],
    "missing": [404, {"status": "ERROR", "message": "Key not found."}, None],
    "wrong": [
        405,
        {"status": "ERROR", "message": "This route takes GET, HEAD, OPTIONS only."},
        "GET, HEAD, OPTIONS",
    ],
}


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_page_of_an_allowed_origin_reaches_what_it_should(site: Site, token: str | None) -> None:
    headers = {"Content-Type": "application/json"}
    settings: dict[str, Any] = {"allow_origin": f"http://friend.example:{site.port}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
        settings["token"] = token
    with running(workers=1, **settings) as server:
        script = WELCOME.replace("TARGET", url(server)).replace("HEADERS", json.dumps(headers))
        outcome = site.visit("friend.example", script)
        assert outcome.pop("bare") == (200 if token is None else 401)
        assert outcome == EXPECTED
        counted = told(server, headers)
        assert (counted["entries"], counted["puts"], counted["deletes"]) == (1, 2, 1)
        assert counted["foreign_origins"] == 0
        # The same page under another name, or another page, is a stranger still.
        before = told(server, headers)
        assert site.visit("evil.example", ATTEMPTS.replace("TARGET", url(server))) == NOTHING
        check_that_nothing_came_through(before, told(server, headers))
        assert server.stop() == 0


# -- what is stored ------------------------------------------------------------------------------------------

# Says that it runs, and lets the browser send what only a page of the server's own origin may.
_MARK = "document.documentElement.setAttribute('class', 'script' + '-ran')"
_SCRIPT = (
    _MARK
    + """
fetch('/put', {method: 'POST', body: '{"key":"planted","value":"1"}'})
new WebSocket('ws://' + location.host + '/ws')
"""
)
STORED = {
    "text/html": f"""<!doctype html><body>a page<script>{_SCRIPT}</script>
        <img src="/get?key=secret" onerror="{_MARK}"><link rel="stylesheet" href="/get?key=secret">
        <iframe src="/get?key=secret"></iframe><svg onload="{_MARK}"></svg>
        <script src="/kv/script"></script><body onload="{_MARK}">""",
    "text/html; charset=utf-8": f"<!doctype html><body>a page<script>{_SCRIPT}</script>",
    "image/svg+xml": f"""<svg xmlns="http://www.w3.org/2000/svg" onload="{_MARK}">
        <text y="20">a page</text><script>{_SCRIPT}</script><image href="/get?key=secret"/></svg>""",
    "application/xhtml+xml": f"""<html xmlns="http://www.w3.org/1999/xhtml"><body>a page
        <script>{_SCRIPT}</script><img src="/get?key=secret"/></body></html>""",
    "text/xml": f"""<html xmlns="http://www.w3.org/1999/xhtml"><body>a page
        <script>{_SCRIPT}</script></body></html>""",
}


@pytest.mark.parametrize("content_type", STORED)
def test_the_scripts_are_real(content_type: str) -> None:
    """Where nothing is said of isolation they run."""
    with served(content_type, STORED[content_type].encode()) as url:
        text = dump(url)
        assert "a page" in text
        assert "script-ran" in text


@pytest.mark.parametrize("target", ["/kv/page", "/kv?key=page"])
@pytest.mark.parametrize("content_type", STORED)
def test_what_is_stored_runs_no_script_and_loads_nothing(
    server: Server, content_type: str, target: str
) -> None:
    page = STORED[content_type].encode()
    for path, body, kind in (
        (target, page, content_type),
        ("/kv/script", _SCRIPT.encode(), "text/javascript"),
    ):
        assert server.request("PUT", path, body, {"Content-Type": kind}).status in (201, 204)
    reply = server.request("GET", target)
    assert (reply.body, reply.fields["content-type"]) == (page, content_type)
    before = told(server)
    text = dump(url(server) + target)
    assert "a page" in text
    assert "script-ran" not in text
    after = told(server)
    # The browser has asked for the page, and perhaps for an icon, which no handler has.
    assert after["hits"] - before["hits"] == 1
    names = ("puts", "entries", "misses", "messages", "foreign_origins", "internal_errors")
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
