"""What the servers are asked: which keys, in which proportion, how many at a time."""

from __future__ import annotations

from typing import Final, NamedTuple

from perf.bench.wires import NORMAL_BYTES, WEBSOCKET

CONNECTIONS: Final = 64
PIPELINE: Final = 16


class Workload(NamedTuple):
    """A workload.

    Attributes:
        name: as in results.
        draw: which key is next: "hot" (one), "zipf" (exponent 0.99) or "uniform".
        value_bytes: of the entries.
        keys: of how many is drawn, None for all that were loaded.
        put_percent: how many of 100 requests are PUTs, uniformly over the keys.
        depth: requests under way on a connection.
        reconnect: a connection for every request.
        wire: None for the server's own.
    """

    name: str
    draw: str
    value_bytes: int = NORMAL_BYTES
    keys: int | None = None
    put_percent: int = 0
    depth: int = 1
    reconnect: bool = False
    wire: str | None = None


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("hot", "hot"),
        Workload("zipf", "zipf"),
        Workload("uniform", "uniform"),
        Workload("mix", "uniform", put_percent=10),
        Workload("put", "uniform", put_percent=100),
        Workload("1 KiB", "uniform", value_bytes=1024, keys=10_000),
        Workload("64 KiB", "uniform", value_bytes=65536, keys=100),
        Workload("pipelined hot", "hot", depth=PIPELINE),
        Workload("pipelined uniform", "uniform", depth=PIPELINE),
        Workload("pipelined put", "uniform", put_percent=100, depth=PIPELINE),
        Workload("connection per request", "hot", reconnect=True),
        Workload("websocket", "uniform", wire=WEBSOCKET),
    )
}
# The hot key is asked for by so many connections as well.
MORE_CONNECTIONS: Final = (1, 1024, 8192)
# At a fixed rate.
FOR_LATENCY: Final = ("hot", "uniform")
# Of several workers, at a fixed rate too.
FOR_WORKERS: Final = ("hot", "zipf", "uniform", "mix", "put")
