"""What the documents say is what the program does: no route, counter or option without a line in them."""

import re
from pathlib import Path

import pytest
from test_store_repair import DEATHS

from fastkv.http.routes import Routes
from fastkv.pubsub.hub import Hub
from fastkv.pubsub.ring import Ring
from fastkv.settings import OPTIONS, Settings
from fastkv.stats import Board
from fastkv.store import Store
from fastkv.wires import open_wires

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs/protocol.md").read_text()


@pytest.fixture(scope="module")
def routes() -> Routes:
    settings = Settings(workers=1, memory_bytes=4 << 20)
    board = Board(1)
    hub = Hub(Ring(1 << 20, 1, 1000), board, 0, settings)
    made = Routes(Store(settings.memory_bytes), settings, board, board.rows[0], lambda: 0, hub)
    open_wires(made, settings)
    return made


def test_every_route_is_in_the_protocol(routes: Routes) -> None:
    exact = [rf"\b{route.decode()}\b" for route in routes.handlers]
    keyed = [rf"\b{route.decode()}\{{\w+\}}" for route in routes.keyed]
    assert [route for route in exact + keyed if not re.search(route, PROTOCOL)] == []


def test_every_statistic_is_in_the_protocol_and_no_other() -> None:
    table = PROTOCOL.split("## Statistics")[1].split("## ")[0]
    told = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert told == set(Board(1).summary(Store(1 << 20)))


def test_every_option_that_the_documents_name_exists() -> None:
    names = {option.name for option in OPTIONS}
    flags = {option.flag.removeprefix("--") for option in OPTIONS} | {"config", "help", "version", "no-tune"}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        assert set(re.findall(r"`((?:max|lock|drain|stuck)_\w+(?:bytes|ms|seconds))`", text)) <= names, path
        serve = re.findall(r"fastkv serve ([^`\n]*)", text)
        assert set(re.findall(r"--([a-z-]+)", " ".join(serve))) <= flags, path


def test_every_test_that_the_contract_names_exists() -> None:
    contract = (ROOT / "docs/concurrency.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", contract))
    files = (path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    there = {name for text in files for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)}
    assert len(named) > 20
    assert named - there == set()
    table = contract.split("## What each death leaves")[1]
    cases = {
        case for row in table.splitlines() if row.startswith("| ") for case in re.findall(r"“(.+?)”", row)
    }
    assert len(cases) > 15
    assert cases - set(DEATHS) == set()
