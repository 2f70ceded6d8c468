"""Readers that take no lock, and another process that steps in before each of their instructions.

What is read is an entry that the key had at some moment of the read: never torn, never another key's, never
one from before the read began. And a reader changes nothing but access counts, whatever has become of the
memory that it looked at.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import pytest
import stepping
from fake import Worker
from stepping import Reader, Stepped
from store_helpers import NOW_MS, SEED, at_opcode, clock, open_store, payload, snapshot
from xxhash import xxh3_64_intdigest

from fastkv import core
from fastkv.errors import StoreBusy
from fastkv.store import Retime
from fastkv.store.layout import (
    BUCKET_BYTES,
    BUCKET_WORDS,
    CLOSED,
    COUNT_MAX,
    FREE_PAGE,
    PAGE,
    SEG_STATE,
    SH_OPEN,
)
from fastkv.store.sweep import KEEP_ALL, KEEP_NONE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from fastkv.store import Entry, Store
    from fastkv.store.transaction import Transaction

stepping.require_core()

# The arena and the locks.
State: TypeAlias = tuple[bytes, bytes]

KEY = b"target"
# Another key with its tag, its first bucket and its home slot.
TWIN = b"elxvqp"
# And one more.
OTHER = b"fzvhcd"
OLD = b"old " * 10
NEW = b"new " * 10
NEWER = b"newer" * 8
LATER_MS = NOW_MS + 1000

# ``check`` takes as long as ten reads: it follows one read in this many.
_CHECKED = 40


# -- where a read begins -----------------------------------------------------------------------------------


def a_few(store: Store) -> None:
    for i in range(12):
        store.put(b"%d" % i, payload(i, i * 37 % 400), clock)
    store.put(KEY, OLD, clock)


def behind_a_twin(store: Store) -> None:
    """The first slot with the key's tag is another key's."""
    store.put(TWIN, OLD, clock)
    a_few(store)


def with_a_deadline_and_metadata(store: Store) -> None:
    a_few(store)
    store.put(KEY, OLD, clock, 3, LATER_MS, b"text/html")


def alone_in_its_segment(store: Store) -> None:
    """Once the key's record is dead its segment is free, and the first to be taken."""
    store.put(b"before", b"", clock)
    close_open(store)
    store.put(KEY, OLD, clock)
    close_open(store)
    store.put(b"behind", b"", clock)


def before_a_split(store: Store) -> None:
    """With one key more the page is split, and the key moves."""
    store.put(KEY, OLD, clock)
    pages = store.stats()["index_pages"]
    while store.stats()["index_pages"] == pages:
        restore = snapshot(store)
        put_one_more(store)
    restore()


def in_the_upper_page(store: Store) -> None:
    """Its page is one that is given back when the store is emptied."""
    before_a_split(store)
    put_one_more(store)


def put_one_more(store: Store) -> None:
    store.put(b"%d" % store.stats()["entries"], b"", clock)


# -- what another process does -----------------------------------------------------------------------------


def close_open(store: Store) -> None:
    """Close the segment that takes new records."""
    (shard,) = store._shards
    with store._guard.holding(shard):
        shard.close_open(shard.header + SH_OPEN)


def found_at(store: Store) -> tuple[int, int, int]:
    """The key's slot, and the segment and location of its record."""
    entry = store.get(KEY, clock)
    assert entry is not None
    location = entry[5] & store.geometry.location_mask
    return entry[4], store._segments.segment_of(location), location


def sweep(store: Store, rule: int) -> None:
    """Empty the key's segment, as eviction and cleaning do."""
    segment = found_at(store)[1]
    close_open(store)
    with store._guard.holding(store._shards[0]):
        store._eviction._empty(store._shards[0], segment, rule, clock)


def reuse(store: Store, segment: int, content: bytes) -> None:
    """Have a free segment filled with records."""
    state = store._segments.row(segment) + SEG_STATE
    for i in range(5000):
        if store.words[state] & 0xFF == CLOSED:
            return
        store.put(b"reuse %d" % i, content, clock)
    raise AssertionError("it was not taken again")


def overwrite(store: Store) -> None:
    store.put(KEY, NEW, clock)


def overwrite_twice(store: Store) -> None:
    store.put(KEY, NEW, clock)
    store.put(KEY, NEWER, clock)


def put_the_other(store: Store) -> None:
    store.put(OTHER, NEW, clock)


def delete_the_twin(store: Store) -> None:
    store.delete(TWIN, clock)


def delete(store: Store) -> None:
    store.delete(KEY, clock)


def delete_and_put(store: Store) -> None:
    store.delete(KEY, clock)
    store.put(KEY, NEW, clock)


def put_another_there(store: Store) -> None:
    """Another key's record lies where the key's was, and its word stands in the same slot."""
    put_there(store, TWIN)


def put_it_there_again(store: Store) -> None:
    put_there(store, KEY)


def put_there(store: Store, key: bytes) -> None:
    slot, _, location = found_at(store)
    store.delete(KEY, clock)
    close_open(store)
    store.put(key, NEW, clock)
    word = store.words[slot]
    assert word & store.geometry.location_mask == location, "it is not the very place"


def reuse_its_segment(store: Store) -> None:
    segment = found_at(store)[1]
    store.delete(KEY, clock)
    reuse(store, segment, b"\xff" * 300)


def evict(store: Store) -> None:
    sweep(store, KEEP_NONE)


def evict_and_reuse(store: Store) -> None:
    segment = found_at(store)[1]
    evict(store)
    reuse(store, segment, b"\xff" * 300)


def relocate(store: Store) -> None:
    sweep(store, KEEP_ALL)


def relocate_and_reuse(store: Store) -> None:
    segment = found_at(store)[1]
    relocate(store)
    reuse(store, segment, b"\0" * 300)


def split(store: Store) -> None:
    pages = store.stats()["index_pages"]
    put_one_more(store)
    assert store.stats()["index_pages"] > pages


def split_alone(store: Store) -> None:
    """Without the put that wants it."""
    (shard,) = store._shards
    with store._guard.holding(shard):
        assert shard.make_vacancy(xxh3_64_intdigest(KEY, SEED))


def split_and_overwrite(store: Store) -> None:
    split(store)
    store.put(KEY, NEW, clock)


def flush(store: Store) -> None:
    store.flush()


def flush_in_steps(store: Store) -> None:
    for _ in store.flush_in_steps():
        pass


def flush_and_fill(store: Store) -> None:
    """Whatever the pool has is written to; what records hold might be access counts."""
    store.flush()
    for i in range(150):
        store.put(b"fills %d" % i, b"\0" * 300, clock)


def flush_and_grow(store: Store) -> None:
    """What was its page is a page again, and has other keys."""
    page = store._segments.segment_of(found_at(store)[0])
    store.flush()
    for i in range(2000):
        store.put(b"grows %d" % i, b"", clock)
        if page in store._index.pages(0):
            return
    raise AssertionError("it was not taken again")


def retime(store: Store) -> None:
    store.update(KEY, lambda _: Retime(LATER_MS + 1000), clock, with_value=False)


def expire(store: Store) -> None:
    while store.look_after(lambda: LATER_MS):
        pass
    assert store.stats()["expired"] == 1


def transact(store: Store) -> None:
    """Both keys at one moment."""

    def body(transaction: Transaction) -> None:
        for key in (KEY, OTHER):
            transaction.put(key, NEW, clock)

    store.transact([KEY, OTHER], body, clock)


def overwrite_and_repair(store: Store) -> None:
    """After a death a repair lays heads of dead records over what is dead."""
    store.put(KEY, NEW, clock)
    (shard,) = store._shards
    with store._guard.holding(shard):
        shard.append(b"\xff" * 296, 37)
        store._guard.repair(shard)


class Disturbance(NamedTuple):
    """What is read, and what happens meanwhile.

    Attributes:
        prepare: brings the store to where the read begins.
        act: what another process does.
        away: whether the key has no entry at some moment of that.
        key: what is read.
    """

    prepare: Callable[[Store], None]
    act: Callable[[Store], None]
    away: bool = False
    key: bytes = KEY


DISTURBANCES: Final = {
    "overwrites": Disturbance(a_few, overwrite),
    "overwrites behind a twin": Disturbance(behind_a_twin, overwrite),
    "overwrites twice": Disturbance(a_few, overwrite_twice),
    "overwrites what has a deadline": Disturbance(with_a_deadline_and_metadata, overwrite),
    "deletes": Disturbance(a_few, delete),
    "deletes behind a twin": Disturbance(behind_a_twin, delete),
    "deletes and puts": Disturbance(a_few, delete_and_put, away=True),
    "puts another key at the very place": Disturbance(alone_in_its_segment, put_another_there),
    "puts it at the very place again": Disturbance(alone_in_its_segment, put_it_there_again, away=True),
    "reuses its segment": Disturbance(alone_in_its_segment, reuse_its_segment),
    "evicts": Disturbance(a_few, evict),
    "evicts and reuses": Disturbance(a_few, evict_and_reuse),
    "relocates": Disturbance(a_few, relocate),
    "relocates and reuses": Disturbance(a_few, relocate_and_reuse),
    "relocates and reuses behind a twin": Disturbance(behind_a_twin, relocate_and_reuse),
    "relocates what has a deadline, and reuses": Disturbance(
        with_a_deadline_and_metadata, relocate_and_reuse
    ),
    "splits its page": Disturbance(before_a_split, split),
    "splits its page and overwrites": Disturbance(before_a_split, split_and_overwrite),
    "empties": Disturbance(a_few, flush),
    "empties in steps": Disturbance(in_the_upper_page, flush_in_steps),
    "empties and fills": Disturbance(in_the_upper_page, flush_and_fill),
    "empties and grows": Disturbance(in_the_upper_page, flush_and_grow),
    "gives it another deadline": Disturbance(with_a_deadline_and_metadata, retime),
    "drops it as expired": Disturbance(with_a_deadline_and_metadata, expire),
    "puts it in a transaction": Disturbance(a_few, transact),
    "overwrites it and repairs": Disturbance(a_few, overwrite_and_repair),
    "puts what was not there": Disturbance(behind_a_twin, put_the_other, key=OTHER),
    "deletes the twin of what is not there": Disturbance(behind_a_twin, delete_the_twin, key=OTHER),
    "splits the page of what is not there": Disturbance(before_a_split, split, key=OTHER),
}


def seen(entry: Entry | None) -> tuple[object, ...] | None:
    """What a reader has found, without where."""
    return entry and (*entry[:4], entry[6])


def assert_only_counts_differ(store: Store, before: bytes) -> None:
    """Between what a reader found and what it left only access counts are other ones."""
    after = bytes(store.counts)
    if after == before:
        return
    size = store.geometry.segment_bytes
    for segment in range(store.geometry.segments):
        there = slice(segment * size, (segment + 1) * size)
        if after[there] == before[there]:
            continue
        changed = [at for at in range(there.start, there.stop) if after[at] != before[at]]
        state = store.words[store._segments.row(segment) + SEG_STATE] & 0xFF
        assert state in (PAGE, FREE_PAGE), f"bytes {changed} of segment {segment} in the state {state}"
        assert all(0 < at % BUCKET_BYTES < BUCKET_WORDS for at in changed), f"bytes {changed}"
        assert all(after[at] <= COUNT_MAX for at in changed), f"bytes {changed}"


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_read_is_undisturbed_at_each_instruction(name: str) -> None:
    prepare, act, away, key = DISTURBANCES[name]
    with open_store() as store:
        prepare(store)

        def read() -> object:
            return seen(store.get(key, clock))

        before = read()
        restore = snapshot(store)
        act(store)
        allowed = {before, read()} | ({None} if away else set())
        restore()
        found = set()
        with Reader(read, core.engine) as reader:
            for number in range(len(reader.path)):
                assert reader.stand_before(number), f"instruction {number}"
                act(store)
                disturbed = bytes(store.counts)
                entry = reader.result()
                assert entry in allowed, f"instruction {number} of {len(reader.path)}"
                assert_only_counts_differ(store, disturbed)
                if number % _CHECKED == 0:
                    assert store.check() == [], f"instruction {number} of {len(reader.path)}"
                found.add(entry)
                restore()
        # The first and the last instruction are before and behind all that it looks at.
        assert found >= {before}
        assert len(found) == len(allowed - ({None} if away else set()))


REQUESTS: Final = {
    "/get": b"GET /get?key=target HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "/kv": b"GET /kv/target HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET": b'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\n\r\n["GET","target"]',
    # Of two moments it would be two values.
    "MGET": b'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 26\r\n\r\n["MGET","target","target"]',
}
# What differs most for a reply: other bytes at the place, no page there, nothing at all.
ASKED: Final = (
    ("/get", "overwrites"),
    ("/get", "puts another key at the very place"),
    ("/get", "evicts and reuses"),
    ("/get", "relocates what has a deadline, and reuses"),
    ("/get", "empties and fills"),
    ("/get", "puts what was not there"),
    ("GET", "overwrites"),
    ("GET", "evicts and reuses"),
    ("MGET", "overwrites"),
    ("MGET", "overwrites what has a deadline"),
    ("/kv", "overwrites what has a deadline"),
    ("/kv", "puts it at the very place again"),
    ("/kv", "splits its page and overwrites"),
)


@pytest.mark.parametrize(("path", "name"), ASKED)
def test_a_request_is_undisturbed_at_each_instruction(path: str, name: str) -> None:
    """The same for the whole of a request; where it declines, the readable path reads."""
    prepare, act, away, key = DISTURBANCES[name]
    request = REQUESTS[path].replace(KEY, key)
    with open_store() as store:
        prepare(store)
        http = Worker(store).service.http
        assert http is not None

        def ask() -> object:
            reply, used, _ = http.serve(request, 0, 1)
            return reply if used else None

        before = ask()
        restore = snapshot(store)
        act(store)
        allowed = {before, ask()}
        if away:
            store.delete(key, clock)
            allowed.add(ask())
        restore()
        assert None not in allowed, "it is none that the core answers"
        found = Counter[object]()
        with Reader(ask, core.framing) as reader:
            for number in range(len(reader.path)):
                assert reader.stand_before(number), f"instruction {number}"
                act(store)
                disturbed = bytes(store.counts)
                reply = reader.result()
                assert reply in (*allowed, None), f"instruction {number} of {len(reader.path)}"
                assert_only_counts_differ(store, disturbed)
                found[reply] += 1
                restore()
        assert found[before] > 0
        assert found.keys() >= allowed if not away else len(found) > 1


def transact_with_missing(store: Store) -> None:
    """One that was missing is made while another one is replaced."""
    store.put_many([KEY, b"missing"], [NEW, NEW], clock)


@pytest.mark.parametrize("misses", [False, True])
@pytest.mark.parametrize(
    "act", [transact, transact_with_missing, delete, flush, relocate_and_reuse], ids=lambda act: act.__name__
)
def test_several_reads_are_of_one_moment_at_each_instruction(
    act: Callable[[Store], None], *, misses: bool
) -> None:
    keys = [KEY, b"3", OTHER] + ([b"missing"] if misses else [])
    with open_store(lock_wait_ms=0) as store:
        a_few(store)
        store.put(OTHER, OLD, clock)

        def read() -> object:
            return [seen(entry) for entry in store.get_many(keys, clock)]

        restore = snapshot(store)
        allowed = [read()]
        act(store)
        allowed.append(read())
        restore()
        with Reader(read, core.many) as reader:
            passed = 0
            for number in range(len(reader.path)):
                if not reader.stand_before(number):  # an allocation went another way
                    passed += 1
                    continue
                with suppress(StoreBusy):  # where it looks again at what is missing
                    act(store)
                disturbed = bytes(store.counts)
                assert reader.result() in allowed, f"instruction {number} of {len(reader.path)}"
                assert_only_counts_differ(store, disturbed)
                restore()
            assert passed < len(reader.path) // 20


# -- in the midst of what another process does ---------------------------------------------------------------


def states(store: Store, operation: Callable[[], object], modules: str, stride: int) -> list[State]:
    """The arena and the locks as they are before some of the opcodes of an operation."""
    found: list[State] = []
    mem, locks = stepping.shared(store)
    at_opcode(1, lambda: found.append((mem[:], locks[:])), operation, modules, stride=stride)
    return found


def stepped_states(
    store: Store, operation: Callable[[], object], module: ModuleType | None = None
) -> list[State]:
    """The same behind each instruction of the engine, or of another module, that has changed something."""
    mem, locks = stepping.shared(store)
    with Stepped(operation, module or core.engine, (mem, locks)) as writer:
        found = [(mem[:], locks[:]) for _ in writer.changes()]
        writer.finish()
    return found


MIDSTS: Final[dict[str, tuple[Callable[[Store], None], Callable[[Store], list[State]]]]] = {
    "overwriting": (a_few, lambda store: stepped_states(store, lambda: overwrite(store))),
    "overwriting a twin": (
        behind_a_twin,
        lambda store: stepped_states(store, lambda: store.put(TWIN, NEW, clock)),
    ),
    "deleting": (a_few, lambda store: stepped_states(store, lambda: delete(store))),
    "splitting": (
        before_a_split,
        lambda store: states(store, lambda: split(store), "index segments", 7),
    ),
    "copying words of a page": (
        before_a_split,
        lambda store: stepped_states(store, lambda: split_alone(store), core.pages)[::16],
    ),
    "emptying": (in_the_upper_page, lambda store: states(store, store.flush, "commit index segments", 97)),
    "a transaction": (a_few, lambda store: states(store, lambda: transact(store), "commit redo", 37)),
    "relocating": (a_few, lambda store: states(store, lambda: relocate(store), "sweep segments", 7)),
    "relocating records": (
        a_few,
        lambda store: stepped_states(store, lambda: relocate(store), core.sweep),
    ),
}


@pytest.mark.parametrize("name", MIDSTS)
def test_a_read_in_the_midst_of_a_change_is_right_or_waits(name: str) -> None:
    """Another process stands still somewhere in an operation, with its locks, while the reader goes on.

    The reader has begun in another such state, or before.
    """
    prepare, take = MIDSTS[name]
    chance = random.Random(name)
    with open_store(lock_wait_ms=0) as store:
        prepare(store)

        def read() -> object:
            try:
                return seen(store.get(KEY, clock))
            except StoreBusy:
                return "busy"

        restore = snapshot(store)
        before = read()
        restore()
        mem, locks = stepping.shared(store)
        midst = [(mem[:], locks[:]), *take(store)]
        after = read()
        restore()
        found = Counter[object]()
        with Reader(read, core.engine) as reader:
            undisturbed = []
            for mem[:], locks[:] in midst:
                undisturbed.append(reader.result())
            for number in range(len(reader.path)):
                for _ in range(3):
                    first, second = sorted(chance.choices(range(len(midst)), k=2))
                    mem[:], locks[:] = midst[first]
                    if not reader.stand_before(number):
                        continue
                    mem[:], locks[:] = midst[second]
                    entry = reader.result()
                    # What one read has found no later one may find replaced by what was before.
                    allowed = (after,) if undisturbed[first] == after else (before, after)
                    assert entry in (*allowed, "busy"), f"instruction {number}, {first}, {second}"
                    assert_only_counts_differ(store, midst[second][0])
                    found[entry] += 1
        restore()
        assert found[before]
