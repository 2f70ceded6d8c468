"""Fixtures of several test modules."""

import os
from collections.abc import Iterator

import pytest
from commands_helpers import Asked
from fake import Client, Worker, running_loop
from hypothesis import HealthCheck, settings
from store_helpers import open_store

from fastkv import core

# No example fails for being slow: what else the machine does is not what is tested.
# Where a change is judged, the examples are the same each time; elsewhere they search on.
settings.register_profile(
    "no clock",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("no clock")


def pytest_configure() -> None:
    """Run no tests where the core is missing and may not be: they would be skipped, and none would fail."""
    if os.environ.get("CORE_REQUIRED") and not core.COMPILED:
        raise pytest.UsageError(f"CORE_REQUIRED is set, but there is no compiled core. {core.REASON}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that choose the readable Python by themselves: they do the same where there is no core."""
    for item in items:
        names, call = getattr(item, "fixturenames", ()), getattr(item, "callspec", None)
        chosen = [call.params.get(name) for name in ("implementation", "memory_order")] if call else []
        if "readable_engine" in names or "readable" in chosen or "out of order" in chosen:
            item.add_marker("readable")


@pytest.fixture(scope="module", params=["compiled", "readable"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Requests are answered by the compiled core where it can, then by the readable path alone."""
    if request.param == "compiled" and not core.COMPILED:
        pytest.skip(core.REASON)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fake.READABLE", request.param == "readable")
        yield request.param


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker without sockets, with whom all has to be well in the end."""
    made = Worker()
    yield made
    made.verify()


@pytest.fixture
def client(worker: Worker) -> Iterator[Client]:
    """A connection to it, in a loop that runs nothing."""
    with running_loop():
        yield worker.client()


@pytest.fixture
def asked() -> Iterator[Asked]:
    """Commands over a small store, in which all has to be well in the end."""
    with open_store() as store:
        yield Asked(store)


@pytest.fixture(scope="module", params=["in order", "out of order"])
def memory_order(request: pytest.FixtureRequest) -> Iterator[str]:
    """Stores are made as for machines that show stores in their order, then as for those that may not.

    The latter by the readable engine alone, because the compiled one has fences.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "out of order":
            patch.setattr("fastkv.core.COMPILED", False)
        patch.setattr("fastkv.store.store.VERIFY_READS", request.param == "out of order")
        yield request.param


@pytest.fixture
def readable_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores are made without the compiled engine: for what counts the opcodes of the one in Python."""
    monkeypatch.setattr("fastkv.core.COMPILED", False)
