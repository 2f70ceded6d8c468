"""Damage to an arena in a file: bits are flipped and pages are lost, and no wrong value may come out of it.

``python -m damage RUNS`` (``make damage``) does so many runs. In each, an image of an arena that was left in
order, or by a death at a random instruction, is damaged, taken over, read, written to, verified, and read
again. Whatever is read must be what was acknowledged last, or a miss.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kept_helpers import GEOMETRY, REBOOTED, THEN, SameFile, reopen
from store_helpers import NOW_MS, at_opcode, clock, die, end_of, payload, start

from fastkv.errors import StoreFull
from fastkv.store.persist import UnreadableArena

if TYPE_CHECKING:
    from fastkv.store import Store
    from fastkv.store.datafile import DataDirectory

PAGE = 4096
SHARED_MEMORY = Path("/dev/shm")

Value = tuple[bytes, int] | None
"""What may be found: value and deadline in ms, or nothing."""


@dataclass
class Image:
    """An arena as it was left, and what was in it.

    Attributes:
        clean: whether it was left in order.
        content: its bytes.
        before: its bytes some time before.
        model: for each key what may be found, besides nothing.
    """

    clean: bool
    content: bytes
    before: bytes
    model: dict[bytes, set[Value]] = field(default_factory=dict)


def change(store: Store, chance: random.Random, model: dict[bytes, set[Value]], serial: int) -> None:
    """Do something to one entry, and take it down."""
    key = b"%d" % chance.randrange(600)
    what = chance.random()
    if what < 0.1:
        model[key] = set()
        store.delete(key, clock)
        return
    size = chance.choice([0, 10, 60, 100, 400]) if what < 0.93 else chance.randrange(2000, 14_000)
    deadline_ms = chance.choice([0, 0, 0, NOW_MS - 5, NOW_MS + 5000])
    value = payload((key, serial), size)
    model[key] = {(value, deadline_ms)} if not 0 < deadline_ms <= NOW_MS else set()
    store.put(key, value, clock, deadline_ms=deadline_ms)


def make_image(directory: DataDirectory, seed: int) -> Image:
    """Fill an arena and leave it, in order where the seed is even."""
    chance = random.Random(seed)
    directory.arena_path.unlink(missing_ok=True)
    store, keeper = reopen(directory)
    model: dict[bytes, set[Value]] = {}
    changes = chance.choice([300, 900, 2000])
    before = b""
    for serial in range(changes):
        if serial == changes - chance.randrange(20, 200):
            before = bytes(store.counts)
        change(store, chance, model, serial)
    clean = not seed % 2
    keeper.save_clock(THEN)
    if clean:
        assert store.settle(THEN)
    else:
        was = dict(model)
        opcode = chance.randrange(1, 1500)
        last = random.Random(seed)
        end_of(start(lambda: at_opcode(opcode, die, lambda: change(store, last, {}, changes))))
        change_model(random.Random(seed), model, changes)
        for key in model:
            model[key] = model[key] | was.get(key, set())
    content = bytes(store.counts)
    store.close()
    return Image(clean, content, before or content, model)


def change_model(chance: random.Random, model: dict[bytes, set[Value]], serial: int) -> None:
    """Take down what ``change`` would do, without a store."""

    class Nowhere:
        def put(self, *args: object, **kwargs: object) -> None: ...

        def delete(self, *args: object) -> None: ...

    change(Nowhere(), chance, model, serial)  # type: ignore[arg-type]


def damage(image: Image, chance: random.Random) -> bytearray:
    """Flip bits and lose pages."""
    content = bytearray(image.content)
    kind = chance.random()
    if kind < 0.3:
        for _ in range(chance.randrange(1, 9)):
            at = chance.randrange(len(content) // PAGE) * PAGE
            old = image.clean and chance.random() < 0.6
            content[at : at + PAGE] = image.before[at : at + PAGE] if old else bytes(PAGE)
    if kind > 0.2:
        # Where all depends on a few words, half of the flips.
        ends = (len(content), GEOMETRY.first_segment * GEOMETRY.segment_bytes)
        for _ in range(chance.choice([1, 2, 8, 64])):
            content[chance.randrange(64, chance.choice(ends))] ^= chance.choice(
                [1 << chance.randrange(8), 255]
            )
    return content


def read(store: Store, key: bytes, way: int) -> Value:
    """Read an entry in one of the ways that there are."""
    entry = store.get_many([key], clock)[0] if way else store.get(key, clock)
    return None if entry is None else (entry[0], entry[3])


def assert_right(store: Store, model: dict[bytes, set[Value]], chance: random.Random, when: str) -> int:
    """Whatever is found is what was written last; returns how many were."""
    found = 0
    for key, allowed in model.items():
        value = read(store, key, chance.randrange(2))
        assert value is None or value in allowed, f"{when}: {key!r} has a value that is not its last one"
        found += value is not None
    return found


def run(directory: DataDirectory, image: Image, seed: int, counts: Counter[str]) -> None:
    """Damage an image, take it over, use it.

    Args:
        directory: where.
        image: the image.
        seed: of all that is random.
        counts: told what was seen.
    """
    chance = random.Random(seed)
    directory.arena_path.write_bytes(damage(image, chance))
    try:
        store, keeper = reopen(directory, chance.choice([THEN, REBOOTED]) if image.clean else THEN, 10**6)
    except UnreadableArena:
        counts["REFUSED"] += 1
        return
    model = dict(image.model)
    counts[keeper.origin.name] += 1
    counts["keys"] += sum(map(bool, model.values()))
    counts["found"] += assert_right(store, model, chance, "before")
    for serial in range(chance.randrange(30)):
        change(store, chance, model, 10_000 + serial)
    assert_right(store, model, chance, "meanwhile")
    store.verify()
    counts["dropped"] += store.stats()["dropped"]
    counts["found after"] += assert_right(store, model, chance, "after")
    assert store.check() == []
    if not seed % 4:  # what is left can be evicted, cleaned and overwritten
        for serial in range(400):
            change(store, chance, model, 20_000 + serial)
            with suppress(StoreFull):
                store.put(b"more %d" % serial, payload(serial, 2000), clock)
        assert_right(store, model, chance, "later")
        assert store.check() == []
    store.close()


def main(runs: int, seed: int = 0) -> Counter[str]:
    """Do so many runs, in turn with up to 40 images.

    Args:
        runs: how many.
        seed: of all that is random.

    Returns:
        What was seen.
    """
    counts: Counter[str] = Counter()
    where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as path:
        directory = SameFile(Path(path))
        images = [make_image(directory, seed + number) for number in range(min(-(-runs // 50), 40))]
        for number in range(runs):
            try:
                run(directory, images[number % len(images)], seed + number, counts)
            except BaseException as error:
                error.add_note(f"run {number} of seed {seed}, image {number % len(images)}")
                raise
        directory.close()
    return counts


if __name__ == "__main__":
    sys.stdout.write(f"{dict(main(*map(int, sys.argv[1:])))}\n")
