"""The store against a dict: a hit is the newest value, a miss has its reason, versions only rise."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_helpers import KIB, MIB, SEED, HandClock, payload

from fastkv.errors import ValueTooLong
from fastkv.store import DELETE, LEAVE, Change, Entry, Retime, Store, Transaction, new_value

pytestmark = pytest.mark.usefixtures("memory_order")

# name: (memory, shards, segment bytes)
SHAPES: dict[str, tuple[int, int, int]] = {
    "one shard": (MIB, 1, 4 * KIB),
    "many shards, few segments": (MIB, 32, 4 * KIB),
    "few large segments": (MIB, 1, 64 * KIB),
    "not a power of two": (MIB + 37 * KIB, 8, 8 * KIB),
}

KEY_NAMES = [b"key%d" % i for i in range(31)]
KEYS = st.sampled_from(KEY_NAMES)
SIZES = st.one_of(
    st.sampled_from(
        [0, 1, 7, 8, 500, 512, 513, 4076, 4077, 4096, 8192, 20_000, 65_536, 150_000, 262_144, 300_000]
    ),
    st.integers(0, 10_000),
)
DEADLINES = st.one_of(st.just(0), st.integers(1, 40))
METADATA = st.one_of(st.just(b""), st.binary(max_size=255), st.just(b"\xff" * 255))

OPERATIONS = st.one_of(
    st.tuples(st.just("put"), KEYS, SIZES, st.integers(0, 255), DEADLINES),
    st.tuples(st.just("put"), KEYS, SIZES, st.integers(0, 255), DEADLINES, METADATA),
    st.tuples(
        st.just("update"),
        KEYS,
        st.sampled_from(["leave", "delete", "fail", "put", "add", "append", "append", "retime"]),
        SIZES,
        DEADLINES,
        METADATA,
    ),
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("wait"), st.integers(1, 30)),
    st.tuples(st.just("look_after")),
    st.tuples(
        st.just("crowd"), st.sampled_from([(400, 0), (60, 300), (40, 3000), (5, 40_000), (2, 150_000)])
    ),
    st.tuples(st.just("check")),
    st.tuples(st.just("flush")),
)
# Several of the above at once; the last word says whether it comes to its end.
TRANSACTIONS = st.tuples(
    st.just("transact"),
    st.lists(
        OPERATIONS.filter(lambda operation: operation[0] in ("put", "update", "get", "delete")), max_size=8
    ),
    st.booleans(),
)


@dataclass
class Model:
    """A dict beside a store.

    Attributes:
        store: the store.
        now: the clock of both.
        entries: key to value, flags, deadline, metadata and version.
        versions: the newest version that a key ever had.
        evicted: how many entries were missed for no other reason than eviction.
        count: of writes, so that no two values are equal.
        space: the store, or the transaction that is under way.
    """

    store: Store
    now: HandClock = field(default_factory=HandClock)
    entries: dict[bytes, tuple[bytes, int, int, bytes, int]] = field(default_factory=dict)
    versions: dict[bytes, int] = field(default_factory=dict)
    evicted: int = 0
    count: int = 0
    space: Store | Transaction = field(init=False)

    def __post_init__(self) -> None:
        self.space = self.store

    def put(self, key: bytes, size: int, flags: int, ttl_ms: int, metadata: bytes = b"") -> None:
        self.count += 1
        value = payload(self.count, size)
        deadline_ms = self.now() + ttl_ms if ttl_ms else 0
        if size > self.store.max_value_bytes:
            with pytest.raises(ValueTooLong):
                self.space.put(key, value, self.now, flags, deadline_ms, metadata)
            return
        version = self.space.put(key, value, self.now, flags, deadline_ms, metadata)
        assert version > self.versions.get(key, 0)
        self.versions[key] = version
        self.entries[key] = value, flags, deadline_ms, metadata, version

    def get(self, key: bytes) -> None:
        entry = self.space.get(key, self.now)
        self.saw(key, entry)
        assert entry is None or not entry[4] or self.store.words[entry[4]] == entry[5]

    def update(self, key: bytes, action: str, size: int, ttl_ms: int, metadata: bytes) -> None:
        self.count += 1
        more = payload(self.count, size)
        deadline_ms = self.now() + ttl_ms if ttl_ms else 0
        asked: list[Entry | None] = []
        decided: list[Change] = []

        def decide(entry: Entry | None) -> Change:
            asked.append(entry)
            change: Change = LEAVE if action == "leave" or (action == "add" and entry) else DELETE
            if action == "retime":
                change = Retime(deadline_ms)
            if action == "fail":
                raise ZeroDivisionError
            if action == "append":
                change = new_value(entry, entry[0] + more if entry else more)
            elif action == "put" or (action == "add" and not entry):
                change = more, size % 256, deadline_ms, metadata
            decided.append(change)
            return change

        version = None
        try:
            before, version = self.space.update(key, decide, self.now)
            assert before is asked[-1]
        except ZeroDivisionError:
            assert action == "fail"
        except ValueTooLong:
            assert self.space is not self.store or len(decided[-1][0]) > self.store.max_value_bytes  # type: ignore[index]
        self.saw(key, asked[-1])
        if version is None or decided[-1] is LEAVE:
            assert version is None or version == (asked[-1][2] if asked[-1] else 0)
        elif isinstance(change := decided[-1], Retime):
            assert version == (asked[-1][2] if asked[-1] else 0)
            if asked[-1]:
                value, flags, _, metadata, version = self.entries[key]
                self.entries[key] = value, flags, change.deadline_ms, metadata, version
        elif not isinstance(change, tuple):
            assert change is DELETE
            assert version == 0
            self.entries.pop(key, None)
        else:
            value, flags, deadline_ms, metadata = change
            assert version > self.versions.get(key, 0)
            self.versions[key] = version
            self.entries[key] = value, flags, deadline_ms, metadata, version

    def saw(self, key: bytes, entry: Entry | None) -> None:
        if entry is not None:
            value, flags, version, deadline_ms, _, _, metadata = entry
            assert (value, flags, deadline_ms, metadata, version) == self.entries.get(key)
            assert not deadline_ms or deadline_ms > self.now()
        else:
            self.missed(key)

    def delete(self, key: bytes) -> None:
        if self.space.delete(key, self.now):
            _, _, deadline_ms, *_ = self.entries.pop(key)
            assert not deadline_ms or deadline_ms > self.now()
        else:
            self.missed(key)
        assert self.space.get(key, self.now) is None

    def missed(self, key: bytes) -> None:
        """Only who was never there, was deleted, has expired or was evicted may be missed."""
        if key in self.entries:
            _, _, deadline_ms, *_ = self.entries.pop(key)
            self.evicted += not deadline_ms or deadline_ms > self.now()
        assert self.evicted <= self.store.stats()["evictions"]

    def look_after(self) -> None:
        while self.store.look_after(self.now):
            pass

    def wait(self, ms: int) -> None:
        self.now.now_ms += ms

    def crowd(self, what: tuple[int, int]) -> None:
        for i in range(what[0]):
            self.put(b"crowd%d" % i, what[1], 0, 0)

    def check(self) -> None:
        assert self.store.check() == []

    def flush(self) -> None:
        living = sum(not ms or ms > self.now() for _, _, ms, *_ in self.entries.values())
        assert self.store.flush() >= living - self.store.stats()["evictions"]
        assert self.store.entries() == 0
        self.entries.clear()

    def transact(self, operations: list[tuple[object, ...]], completes: bool) -> None:
        saved = self.entries, self.versions, self.evicted

        def begin() -> None:
            self.entries, self.versions, self.evicted = saved[0].copy(), saved[1].copy(), saved[2]

        def body(transaction: Transaction) -> None:
            begin()
            self.space = transaction
            for operation, *arguments in operations:
                getattr(self, str(operation))(*arguments)
            if not completes:
                raise ZeroDivisionError

        try:
            self.store.transact(None, body, self.now)
        except (ZeroDivisionError, ValueTooLong):
            begin()
        finally:
            self.space = self.store
        there = [key for key in KEY_NAMES if key in self.entries]
        for key, entry in zip(there, self.store.get_many(there, self.now), strict=True):
            self.saw(key, entry)


@pytest.mark.parametrize("name", SHAPES)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.lists(st.one_of(OPERATIONS, TRANSACTIONS), min_size=5, max_size=60))
def test_the_store_is_a_dict_that_forgets_only_what_it_may(
    name: str, operations: list[tuple[object, ...]]
) -> None:
    memory_bytes, shards, segment_bytes = SHAPES[name]
    store = Store(memory_bytes, shards=shards, segment_bytes=segment_bytes, seed=SEED)
    model = Model(store)
    for operation, *arguments in operations:
        getattr(model, str(operation))(*arguments)
    for key in list(model.entries):
        model.get(key)
    model.check()
    assert store.stats()["entries"] >= len(model.entries)
    store.close()
