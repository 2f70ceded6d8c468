"""How many entries a budget holds before the first is evicted: fastkv's store, memcached and Redis.

    python -m perf.memory --save
    python -m perf.memory --bytes --save        where the bytes of fastkv's budget are then, to the last one

Also what a serving process tree takes: the proportional set size (PSS) of ``fastkv serve`` with two workers,
filled over HTTP, and that of the others.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastkv.store import Store
from fastkv.store.layout import (
    BUCKET_WORDS,
    GHOSTS,
    LOG_STATES,
    OPEN,
    OPEN_MAIN,
    PAGE,
    SEG_HEAD,
    SEG_STATE,
    WORD,
)
from fastkv.store.records import CHECKSUM_BYTES, head_bytes, record_words, unpack_head
from perf import rivals
from perf.report import save

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from perf.rivals import Cache, Pair

MIB: Final = 1 << 20
_BATCH: Final = 256
_SEED: Final = 7
# When so few segments are free the store is asked after every put.
_NEARLY_FULL: Final = 16
_MOMENTS: Final = ("at the first eviction", "after as many further ones")
_PURPOSES: Final = (
    "keys",
    "values",
    "heads",
    "checksums",
    "padding",
    "slots",
    "empty slots",
    "access counts",
    "dead records",
    "ends of full segments",
    "rest of open segments",
    "ghosts",
    "free segments",
    "tables",
)


class Shape(NamedTuple):
    """Sizes of entries.

    Attributes:
        name: what it is called in results.
        key_bytes: of every key.
        value_bytes: the size of the next value.
    """

    name: str
    key_bytes: int
    value_bytes: Callable[[random.Random], int]

    def pairs(self) -> Iterator[Pair]:
        """Entries without end, the same ones every time.

        Yields:
            Keys that are all different, and values.
        """
        chance = random.Random(_SEED)
        source = b"v" * 65_536
        number = 0
        # Text, so that it can be put as JSON too.
        while True:
            yield f"{number:0{self.key_bytes}x}".encode(), source[: self.value_bytes(chance)]
            number += 1


def fixed(key_bytes: int, value_bytes: int) -> Shape:
    """Entries of one size."""
    return Shape(f"{key_bytes}/{value_bytes}", key_bytes, lambda _: value_bytes)


SHAPES: Final = (
    fixed(16, 64),
    fixed(8, 8),
    fixed(32, 256),
    fixed(32, 4096),
    # Each power of two from 16 to 4,096 is as likely as the others, and what lies between as well.
    Shape("32/16 to 4,096", 32, lambda chance: int(2 ** chance.uniform(4, 12))),
)


def filled(shape: Shape, memory_bytes: int) -> tuple[Store, int, int]:
    """Fill a store until it evicts.

    Args:
        shape: of the entries.
        memory_bytes: its budget.

    Returns:
        The store, how many entries it took before its first eviction, and their bytes.
    """
    store = Store(memory_bytes, seed=_SEED)
    entries = payload = 0
    nearly_full = False
    for key, value in shape.pairs():
        store.put(key, value, _clock)
        if nearly_full or entries % _BATCH == 0:
            stats = store.stats()
            nearly_full = stats["segments_free"] < _NEARLY_FULL
            if stats["evictions"]:
                break
        entries += 1
        payload += len(key) + len(value)
    return store, entries, payload


def in_store(shape: Shape, memory_bytes: int) -> dict[str, Any]:
    """Fill a store.

    Args:
        shape: of the entries.
        memory_bytes: its budget.

    Returns:
        A row of figures.

    Raises:
        RuntimeError: if it left its budget.
    """
    store, entries, payload = filled(shape, memory_bytes)
    mapped, used, problems = store.geometry.memory_bytes, store.stats()["bytes"], store.check()
    store.close()
    if not used <= mapped <= memory_bytes or problems:
        raise RuntimeError(f"{mapped} bytes mapped, {used} used of {memory_bytes}; {problems}")
    return {"system": "fastkv", "entries": entries, "payload_bytes": payload, "mapped_bytes": mapped}


def by_purpose(shape: Shape, memory_bytes: int) -> list[dict[str, Any]]:
    """Fill a store, and tell what each of its bytes is for, then and after as many further entries.

    Args:
        shape: of the entries; none is as long as to be cut into fragments.
        memory_bytes: its budget.

    Returns:
        For each of the two moments the entries that are there, and bytes by purpose.

    Raises:
        RuntimeError: if they are not all of the arena's bytes.
    """
    store, entries, _ = filled(shape, memory_bytes)
    pairs = islice(shape.pairs(), entries + 1, entries * 2)
    rows = []
    for moment in _MOMENTS:
        rows.append({"moment": moment, "entries": store.stats()["entries"], "bytes": dict(purposes(store))})
        for key, value in pairs:
            store.put(key, value, _clock)
    problems = store.check()
    store.close()
    if problems or any(sum(row["bytes"].values()) != memory_bytes for row in rows):
        raise RuntimeError(f"{rows} {problems}")
    return rows


def purposes(store: Store) -> Counter[str]:
    """Tell what each byte of a store's arena is for; no entry may be in fragments."""
    geometry, words, mem = store.geometry, store.words, store._arena.mem
    size, past = geometry.segment_bytes, geometry.segment_words
    spent: Counter[str] = Counter(dict.fromkeys(_PURPOSES, 0))
    spent["tables"] = geometry.first_segment * size
    live: set[int] = set()
    logs: list[tuple[int, int]] = []
    for segment in range(geometry.first_segment, geometry.segments):
        row, base = store._segments.row(segment), store._segments.base(segment)
        state = words[row + SEG_STATE] & 0xFF
        if state == PAGE:
            page = words[base : base + past].tolist()
            del page[::BUCKET_WORDS]
            named = [word & geometry.location_mask for word in page if word]
            live.update(named)
            spent["access counts"] += size // BUCKET_WORDS
            spent["slots"] += len(named) * WORD
            spent["empty slots"] += (len(page) - len(named)) * WORD
        elif state in LOG_STATES:
            end = words[row + SEG_HEAD]
            logs.append((base, base + end))
            is_open = state in (OPEN, OPEN_MAIN)
            spent["rest of open segments" if is_open else "ends of full segments"] += (past - end) * WORD
        else:
            spent["ghosts" if state == GHOSTS else "free segments"] += size
    for base, end in logs:
        at = base
        while at < end:
            key_len, flags, content_len, _ = unpack_head(mem, at << 3)
            length = record_words(key_len, flags, content_len)
            if at in live:
                used = head_bytes(flags) + key_len + content_len + CHECKSUM_BYTES
                spent["keys"] += key_len
                spent["values"] += content_len
                spent["heads"] += head_bytes(flags)
                spent["checksums"] += CHECKSUM_BYTES
                spent["padding"] += length * WORD - used
            else:
                spent["dead records"] += length * WORD
            at += length
    return spent


def _clock() -> int:
    return 0


def in_server(name: str, shape: Shape, memory_bytes: int, run: Callable[[int], Any]) -> dict[str, Any]:
    """Fill a server until it evicts.

    Args:
        name: of the server.
        shape: of the entries.
        memory_bytes: its budget.
        run: starts it.

    Returns:
        A row of figures.
    """
    started: AbstractContextManager[Cache] = run(memory_bytes)
    with started as cache:
        entries = payload = 0
        pairs = shape.pairs()
        while not (evicted := cache.evictions()):
            batch = [next(pairs) for _ in range(_BATCH)]
            cache.put(batch)
            entries += _BATCH
            payload += sum(len(key) + len(value) for key, value in batch)
        # The last batch counts up to its first eviction: from there on each put evicts about one.
        entries -= min(evicted, _BATCH)
        return {
            "system": name,
            "entries": entries,
            "payload_bytes": payload,
            "pss_bytes": rivals.pss_bytes(cache.pid),
        }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="Entries before the first eviction.")
    parser.add_argument("--memory", type=int, default=256, help="the budget in MiB")
    parser.add_argument("--shape", action="append", choices=[shape.name for shape in SHAPES])
    parser.add_argument(
        "--bytes", action="store_true", help="what each byte of the first shape's arena is for"
    )
    parser.add_argument(
        "--save", action="store_true", help="write perf/results/memory.json, or memory-bytes.json"
    )
    chosen = parser.parse_args()
    memory_bytes = chosen.memory * MIB
    if chosen.bytes:
        moments = by_purpose(SHAPES[0], memory_bytes)
        print(*moments, sep="\n")
        if chosen.save:
            save("memory-bytes", memory_bytes=memory_bytes, rows=moments)
        return
    rows = []
    servers: dict[str, str] = {}

    def note(shape: Shape, row: dict[str, Any]) -> None:
        rows.append({"shape": shape.name, **row})
        print(*(f"{name} {value}" for name, value in rows[-1].items()), sep=", ", flush=True)

    for shape in SHAPES:
        if chosen.shape and shape.name not in chosen.shape:
            continue
        note(shape, in_store(shape, memory_bytes))
        for rival in rivals.RIVALS:
            version = rival.version()
            if version:
                servers[rival.name] = version
                note(shape, in_server(rival.name, shape, memory_bytes, rival.run))
            else:
                print(
                    f"{rival.name} is skipped: there is no {rival.program} (Debian package {rival.package})"
                )
        if shape is SHAPES[0]:
            note(shape, in_server("fastkv serve --workers 2", shape, memory_bytes, rivals.fastkv))
    if chosen.save:
        save("memory", servers=servers, memory_bytes=memory_bytes, rows=rows)


if __name__ == "__main__":
    main()
