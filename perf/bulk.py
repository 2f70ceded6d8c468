"""What bulk work costs the server, beside Redis: many keys in one command, walks, large values, FLUSHALL.

    python -m perf.bulk [--only 'KEYS *' …] [--entries 1000000] [--rounds 5] [--save]

Both servers run at once and have the same entries, keys of 16 bytes and values of 64. A round of a row is one
turn of each server: the CPU time of the process that serves, until it has replied and rests. A ratio is made
within a round. A round before the first is not counted. Every reply is compared with what it has to be.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from perf.bulk_servers import cpu_ns, start_fastkv, start_redis
from perf.report import ROOT, save
from perf.rivals import RIVALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from perf.bulk_servers import Server

PICKED: Final = 10_000
_FEW: Final = 1_000
_VALUE: Final = "v" * 64
_PREFIX: Final = "key:000000012"
LEAST_ENTRIES: Final = 13_000
"""The fewest entries of which some keys have the prefix."""
_LARGE: Final = os.urandom(1 << 20) * 63
_SETTLE_SECONDS: Final = 0.05
_MS: Final = 1_000_000


class Data:
    """The entries that both servers have.

    Attributes:
        keys: of all entries, in order.
        known: the same without order.
        picked: some of them, at random.
        absent: keys of no entry.
    """

    def __init__(self, entries: int) -> None:
        self.keys = [f"key:{number:012}" for number in range(entries)]
        self.known = frozenset(self.keys)
        self.picked = random.Random(7).sample(self.keys, PICKED)
        self.absent = [f"not{key[3:]}" for key in self.picked]


def mset(server: Server, keys: Sequence[str]) -> Any:
    """Put entries with one command."""
    return server.ask("MSET", *(word for key in keys for word in (key, _VALUE)))


def keys(server: Server, pattern: str) -> list[str]:
    """The keys that a pattern matches, sorted."""
    return sorted(server.ask("KEYS", pattern))


def scan(server: Server, count: int) -> list[str]:
    """All keys, sorted, by as many SCANs as it takes."""
    cursor, found = server.ask("SCAN", "0", "COUNT", str(count))
    while cursor != "0":
        cursor, more = server.ask("SCAN", cursor, "COUNT", str(count))
        found += more
    return sorted(set(found))  # Redis may return a key more than once


def random_keys(server: Server, data: Data) -> int:
    """How many of the keys that RANDOMKEY chooses are those of entries."""
    return sum(server.ask("RANDOMKEY") in data.known for _ in range(_FEW))


def _nothing(_: Server) -> None:
    """What most rows need before and after."""


class Row(NamedTuple):
    """A kind of bulk work.

    Attributes:
        name: as in the table.
        run: what is measured.
        right: what it has to return.
        before: brings the entries in place for it; not measured.
        after: puts them back; not measured.
        once: whether it can be done only once.
    """

    name: str
    run: Callable[[Server], Any]
    right: object
    before: Callable[[Server], object] = _nothing
    after: Callable[[Server], object] = _nothing
    once: bool = False


def rows(data: Data) -> tuple[Row, ...]:
    """What is measured, in this order: the large value stays, and in the end everything goes."""
    picked, absent, every = data.picked, data.absent, data.keys
    halves = *picked[: PICKED // 2], *absent[PICKED // 2 :]
    sets = [("SET", key, _VALUE) for key in picked[:_FEW]]

    def put_picked(server: Server) -> Any:
        return mset(server, picked)

    def delete_picked(server: Server) -> Any:
        return server.ask("DEL", *picked)

    def put_large(server: Server) -> None:
        server.put("large", _LARGE)

    return (
        Row("MGET of 10,000 keys", lambda server: server.ask("MGET", *picked), [_VALUE] * PICKED),
        Row("EXISTS of 10,000 keys, half of them absent", lambda s: s.ask("EXISTS", *halves), PICKED // 2),
        Row("MSET of 10,000 keys", put_picked, "OK"),
        Row("MSET of 10,000 new keys", put_picked, "OK", before=delete_picked),
        Row("DEL of 10,000 keys", delete_picked, PICKED, after=put_picked),
        Row("MULTI and EXEC of 1,000 SETs", lambda server: server.transaction(sets), ["OK"] * _FEW),
        Row("KEYS *", lambda server: keys(server, "*"), every),
        Row("KEYS *9", lambda server: keys(server, "*9"), every[9::10]),
        Row("KEYS prefix*", lambda server: keys(server, _PREFIX + "*"), every[12_000:13_000]),
        Row("SCAN of all, COUNT 1000", lambda server: scan(server, 1000), every),
        Row("SCAN of all, COUNT 100", lambda server: scan(server, 100), every),
        Row("1,000 times RANDOMKEY", lambda server: random_keys(server, data), _FEW),
        Row("PUT of 63 MiB", put_large, None),
        Row("GET of 63 MiB", lambda server: server.get("large"), _LARGE, before=put_large),
        Row("FLUSHALL", lambda server: server.ask("FLUSHALL"), "OK", once=True),
    )


NAMES: Final = [row.name for row in rows(Data(LEAST_ENTRIES))]
"""Of the rows."""


def turn(row: Row, server: Server) -> int:
    """Have a server do a row's work once.

    Returns:
        Nanoseconds of its CPU time.

    Raises:
        RuntimeError: if its reply is wrong.
    """
    row.before(server)
    time.sleep(_SETTLE_SECONDS)  # until the kernel has accounted for what has run last
    before = cpu_ns(server.pid)
    reply = row.run(server)
    time.sleep(_SETTLE_SECONDS)
    spent = cpu_ns(server.pid) - before
    if reply != row.right:
        raise RuntimeError(f"{server.name} gave a wrong reply to {row.name}: {str(reply)[:200]}")
    row.after(server)
    return spent


def figures(name: str, fastkv_ns: Sequence[int], redis_ns: Sequence[int]) -> dict[str, Any]:
    """Sum up the rounds of a row.

    Args:
        name: the row's.
        fastkv_ns: CPU time of each round.
        redis_ns: the same of the other server, each more than 0.

    Returns:
        ``row``, ``n``, medians in ms, and of the ratios the median, the ``least`` and the ``greatest``.
    """
    ratios = [own / other for own, other in zip(fastkv_ns, redis_ns, strict=True)]
    return {
        "row": name,
        "n": len(ratios),
        "fastkv_ms": statistics.median(fastkv_ns) / _MS,
        "redis_ms": statistics.median(redis_ns) / _MS,
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)},
    }


def _load(server: Server, data: Data) -> None:
    for begin in range(0, len(data.keys), PICKED):
        mset(server, data.keys[begin : begin + PICKED])


def _check(server: Server, data: Data) -> None:
    if server.ask("DBSIZE") < len(data.keys):
        raise RuntimeError(f"{server.name} has lost entries.")


def _measure(row: Row, servers: Sequence[Server], rounds: int) -> dict[str, Any]:
    spent = [[turn(row, server) for server in servers] for _ in range(1 if row.once else rounds + 1)]
    fastkv_ns, redis_ns = zip(*spent[0 if row.once else 1 :], strict=True)
    return figures(row.name, fastkv_ns, redis_ns)


def run(entries: int, rounds: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Measure.

    Args:
        entries: how many both servers have, ``LEAST_ENTRIES`` at least.
        rounds: how often each server has its turn.
        names: of the rows.

    Yields:
        The figures of each row.
    """
    data = Data(entries)
    with ExitStack() as stack:
        servers = (start_fastkv(stack), start_redis(stack))
        for server in servers:
            _load(server, data)
        for row in rows(data):
            if row.name in names:
                for server in servers:
                    _check(server, data)
                yield _measure(row, servers, rounds)


def main() -> None:
    """Measure, print, and save if asked."""
    parser = argparse.ArgumentParser(prog="perf.bulk", description="Measure bulk work beside Redis.")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="ROW")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write perf/results/bulk.json")
    options = parser.parse_args()
    redis = RIVALS[-1]
    if (version := redis.version()) is None:
        parser.exit(1, f"There is no {redis.program} (Debian package {redis.package}).\n")
    if options.entries < LEAST_ENTRIES:
        parser.error(f"--entries must be {LEAST_ENTRIES} or more")
    measured = []
    for row in run(options.entries, options.rounds, options.only):
        measured.append(row)
        ratio = "{median:.2f} ({least:.2f} to {greatest:.2f})".format(**row["ratio"])
        print(f"{row['row']:44} {row['fastkv_ms']:9.2f} ms {row['redis_ms']:9.2f} ms  {ratio}", flush=True)
    if options.save:
        saved = save("bulk", servers={"Redis": version}, entries=options.entries, rows=measured)
        print(saved.relative_to(ROOT))


if __name__ == "__main__":
    main()
