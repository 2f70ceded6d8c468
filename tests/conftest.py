"""Fixtures of several test modules."""

from collections.abc import Iterator

import pytest
from fake import Client, Worker, running_loop


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
