"""A result of the benchmark as its schema has it, with made-up figures: for tests of what is made from it."""

from typing import Any

SERVERS = {
    "C epoll, constant reply": 6.2,
    "uvloop, constant reply": 7.7,
    "nginx, constant reply": 9.1,
    "fastkv": 7.4,
    "fastkv, 2 workers": 7.9,
    "fastkv, unix socket": 5.1,
    "Go fasthttp": 11.3,
    "Redis": 6.9,
    "memcached": 5.9,
    "uvicorn, bare ASGI": 61.0,
    "FastAPI": 187.0,
    "Granian": 44.5,
    "Robyn": 93.0,
}
WORKLOADS = {
    "hot": 1.0,
    "zipf": 1.3,
    "uniform": 1.9,
    "mix": 2.0,
    "put": 2.4,
    "1 KiB": 1.2,
    "64 KiB": 9.0,
    "pipelined hot": 0.2,
    "pipelined uniform": 0.5,
    "connection per request": 11.0,
    "websocket": 1.1,
}
CONNECTIONS = {1: 1.6, 64: 1.0, 1024: 1.2, 8192: 1.7}


def _summary(median: float) -> dict[str, float]:
    return {"n": 5, "median": median, "lower": median * 0.97, "upper": median * 1.06}


def _row(server: str, workload: str, connections: int) -> dict[str, Any]:
    us = SERVERS[server] * WORKLOADS[workload] * CONNECTIONS[connections]
    row: dict[str, Any] = {
        "server": server,
        "workload": workload,
        "connections": connections,
        "workers": 2 if server == "fastkv, 2 workers" else 1,
        "cpu_us": _summary(us),
        "user_us": _summary(us * 0.4),
        "system_us": _summary(us * 0.6),
        "rps": _summary(1e6 / us),
    }
    if workload != "put":
        row["ratio"] = _summary(us / SERVERS["C epoll, constant reply"])
    return row


def sample() -> dict[str, Any]:
    """Everything that may be in it; what is made from it may change it."""
    return {
        "machine": "2 CPUs, made up",
        "python": "CPython 3.11",
        "commit": "0000000",
        "versions": {"uvloop": "0"},
        "servers": {"Redis": "7.0.15"},
        "skipped": {"socketify": "it does not install here"},
        "rows": [
            _row(server, workload, count)
            for workload in WORKLOADS
            for server in SERVERS
            for count in (CONNECTIONS if workload == "hot" else (64,))
        ],
        "latency": [
            {
                "server": server,
                "workload": "zipf",
                "connections": 64,
                "rate": 20_000,
                **{
                    f"{name}_us": _summary(us * times)
                    for name, times in (("p50", 20), ("p99", 70), ("p999", 190), ("max", 900))
                },
            }
            for server, us in SERVERS.items()
        ],
        "memory": [
            {
                "server": server,
                "entries": 1_000_000,
                "pss_bytes": int(us * 2e7),
                "idle_connection_bytes": int(us * 900),
            }
            for server, us in SERVERS.items()
        ],
    }
