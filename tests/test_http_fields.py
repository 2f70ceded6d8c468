"""The list of fields that are read: it has each name that the readable path asks for, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake import Client, Worker, running_loop

import fastkv
from fastkv.http.fields import TREATMENTS, Route, Treatment
from fastkv.http.request import Head

_is_name = re.compile(rb"[a-z][a-z-]*").fullmatch
SOURCES = sorted(Path(fastkv.__file__).parent.glob("**/*.py"))
# What is called with the name of a field, and what one is compared with: `head.get(b"…")`, `name == b"…"`.
_HEADS = {"head", "values"}
_NAMES = {"name", "field"}
_VALUES = [b"", b"1", b"*", b"true", b"base64", b"bytes=0-1", b"gzip", b"text/html", b'"1"', b"close"]

BODIES = {
    b"POST /put": b'{"key":"a","value":"b"}',
    b"PUT /put": b'{"key":"a","value":"b"}',
    b"PUT /kv/a": b"b",
    b"PUT /kv?key=a": b"b",
    b"POST /": b'["GET","a"]',
    b"POST /pipeline": b'[["GET","a"],["SET","b","c"]]',
}
LINES = {
    Route.READ_JSON: [b"GET /get?key=a", b"HEAD /get?key=a", b"GET /get?key=none"],
    Route.PUT_JSON: [b"POST /put", b"PUT /put"],
    Route.READ_RESOURCE: [b"GET /kv/a", b"HEAD /kv/a", b"GET /kv/none", b"GET /kv?key=a"],
    Route.PUT_RESOURCE: [b"PUT /kv/a", b"PUT /kv?key=a"],
    Route.RUN_COMMAND: [b"POST /", b"POST /pipeline"],
    Route.DELETE_ANY: [b"DELETE /delete?key=a", b"DELETE /kv/a", b"DELETE /kv?key=a"],
}


def literals(node: ast.AST) -> Iterator[bytes]:
    """The bytes in an expression that may be names of fields."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, bytes) and _is_name(each.value):
            yield each.value


def names_in(source: str) -> set[bytes]:
    """The names of fields that a module reads, and what it compares names with."""
    found: set[bytes] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            owner = node.func.value
            if isinstance(owner, ast.Name) and (
                (node.func.attr == "get" and owner.id in _HEADS)
                or (node.func.attr == "startswith" and owner.id in _NAMES)
            ):
                found.update(literals(node.args[0]))
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id in _NAMES:
            found.update(name for each in node.comparators for name in literals(each))
        elif isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id.endswith("_FIELDS") for each in targets):
                found.update(literals(node.value))
    return found


def reads(source: str) -> int:
    """How often a module looks at fields by other means than a literal name."""
    count = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "fields" and isinstance(node.ctx, ast.Load):
            count += isinstance(node.value, ast.Name) and node.value.id == "head"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "head":
                count += not any(literals(node.args[0]))
    return count


def test_each_name_that_is_read_is_listed_and_no_other() -> None:
    found = set().union(*(names_in(path.read_text()) for path in SOURCES))
    assert found == set(TREATMENTS)


def test_fields_are_read_by_name() -> None:
    """All fields at once are looked at where the names are compared with such that the test above finds."""
    root = Path(fastkv.__file__).parent
    found = {str(path.relative_to(root)): reads(path.read_text()) for path in SOURCES}
    assert {path: count for path, count in found.items() if count} == {
        "http/content.py": 1,
        "http/rest.py": 2,
        "ws/handshake.py": 1,  # hands them to the websockets package; no route of the core
    }


@pytest.mark.parametrize("source", [
    'head.get(b"x-new")', 'x = (head.get(b"x-new") or b"").lower()', 'values.get(b"x-new", [])',
    'any(name == b"x-new" for name, _ in head.fields)', 'name in (b"x-new", b"ttl")',
    'if name != b"x-new": pass',
    'name.startswith(b"x-new")', '_MORE_FIELDS = frozenset({b"x-new"}) | _OTHERS',
    '_FIELDS: Final = {b"x-new"}',
])  # fmt: skip
def test_a_name_that_is_read_later_is_found(source: str) -> None:
    assert b"x-new" in names_in(source)


@pytest.mark.parametrize("source", ["head.get(name)", "dict(head.fields)", "for n, v in head.fields: pass"])
def test_so_is_a_read_by_other_means(source: str) -> None:
    assert reads(source) == 1


def ask(client: Client, line: bytes, fields: bytes = b"") -> bytes:
    """Ask for what the entry `a`, which is there, makes of a request; without what is new each time."""
    client.ask(request(b"PUT /kv/a"))
    return re.sub(rb"(?:Date|ETag): [^\r]*\r\n", b"", client.ask(request(line, fields)))


def request(line: bytes, fields: bytes = b"") -> bytes:
    body = BODIES.get(line)
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return b"%b HTTP/1.1\r\nHost: 127.0.0.1\r\n%b%b\r\n%b" % (line, length, fields, body or b"")


@pytest.mark.parametrize("route", Route)
def test_routes_ask_for_no_other_names(monkeypatch: pytest.MonkeyPatch, route: Route) -> None:
    asked: set[bytes] = set()
    get = Head.get

    def recording(head: Head, name: bytes) -> bytes | None:
        asked.add(name)
        return get(head, name)

    monkeypatch.setattr(Head, "get", recording)
    with running_loop():
        client = Worker(token="t").client()
        for line in LINES[route]:
            for fields in (
                b"",
                b"If-Match: *\r\n",
                b"Range: bytes=0-0\r\nContent-Encoding: br\r\n",
                b"TTL: 1\r\n",
            ):
                ask(client, line, b"Authorization: Bearer t\r\n" + fields)
    assert b"host" in asked
    for name in asked:
        assert TREATMENTS[name][route] is not Treatment.IGNORED, name


@pytest.mark.parametrize("route", Route)
def test_no_reply_depends_on_a_field_that_is_ignored(route: Route) -> None:
    ignored = [name for name, treatments in TREATMENTS.items() if treatments[route] is Treatment.IGNORED]
    with running_loop():
        client = Worker().client()
        for line in LINES[route]:
            plain = ask(client, line)
            assert plain.startswith((b"HTTP/1.1 2", b"HTTP/1.1 404"))
            for name in (*ignored, b"x-any", b"cookie", b"te", b"accept", b"date", b"x-forwarded-host"):
                for value in _VALUES:
                    assert ask(client, line, b"%b: %b\r\n" % (name, value)) == plain, (name, value)


def test_these_are_declined_on_every_route() -> None:
    assert {name for name, treatments in TREATMENTS.items() if set(treatments) == {Treatment.DECLINED}} == {
        b"expect", b"transfer-encoding", b"upgrade", b"range", b"content-range", b"if-match",
        b"if-none-match", b"if-range",
    }  # fmt: skip
