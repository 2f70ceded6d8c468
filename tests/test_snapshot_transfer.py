"""From store to store, block by block."""

import pytest
from store_helpers import MIB, NOW_MS, HandClock, fill_until_evicted, open_store, payload, value_of

from fastkv.errors import KeyTooLong, SnapshotError, StoreError, ValueTooLong, WrongCursor
from fastkv.snapshot.format import BLOCK_BYTES, BLOCK_ENTRIES, build_block, parse_block
from fastkv.snapshot.transfer import Transfer, unix_ms
from fastkv.store import Store

UNIX_MS = 1_790_000_000_000


def transfer(store: Store, now: HandClock, unix_now: HandClock | None = None) -> Transfer:
    return Transfer(store, now, unix_now or HandClock(UNIX_MS))


def blocks(side: Transfer) -> list[bytes]:
    found = []
    cursor = 0
    while True:
        block, cursor = side.page(cursor)
        found.append(block)
        if not cursor:
            return found


def test_everything_but_versions_is_carried() -> None:
    now = HandClock()
    sizes = [0, 1, 500, 4000, 70_000]
    with open_store(2 * MIB) as one, open_store(8 * MIB, shards=8, segment_bytes=16 * 1024) as other:
        kept = {}
        for i in range(600):
            value = payload(i, sizes[i % 5] if i < 20 else i % 40)
            deadline_ms = NOW_MS + 1000 + i if i % 3 else 0
            one.put(b"\xff%d\0" % i, value, now, i % 256, deadline_ms)
            kept[b"\xff%d\0" % i] = value, i % 256, deadline_ms
        assert transfer(one, now).total() == 600
        later, done = HandClock(5_000_000), 0
        for block in blocks(transfer(one, now)):
            done += transfer(other, later).put(block)[0]
        assert done == 600
        for key, (value, flags, deadline_ms) in kept.items():
            entry = other.get(key, later)
            assert entry is not None
            assert entry[:2] == (value, flags)
            assert entry[3] == (deadline_ms and deadline_ms - NOW_MS + 5_000_000)


def test_a_page_is_bounded_unless_it_is_one_entry() -> None:
    now = HandClock()
    with open_store(8 * MIB, segment_bytes=64 * 1024) as store:
        for i in range(2000):
            store.put(b"%d" % i, bytes(4000 if i < 300 else 10), now)
        store.put(b"large", bytes(2 * MIB), now)
        pages = [parse_block(block) for block in blocks(transfer(store, now))]
        sizes = [sum(16 + len(key) + len(value) for key, value, *_ in page) for page in pages]
        assert max(map(len, pages)) == BLOCK_ENTRIES
        assert all(size <= BLOCK_BYTES or len(page) == 1 for page, size in zip(pages, sizes, strict=True))
        assert max(sizes) > 2 * MIB


def test_time_in_a_file_counts() -> None:
    with open_store() as one, open_store() as other:
        for ttl_ms in (1, 1000, 60_000):
            one.put(b"%d" % ttl_ms, b"v", HandClock(), 0, NOW_MS + ttl_ms)
        one.put(b"stays", b"v", HandClock())
        (block,) = blocks(transfer(one, HandClock()))
        there = HandClock(77)
        assert transfer(other, there, HandClock(UNIX_MS + 1000)).put(block) == (2, 2)
        entry = other.get(b"60000", there)
        assert entry is not None
        assert entry[3] == 77 + 59_000
        assert value_of(other, b"stays", there) == b"v"
        assert other.stats()["entries"] == 2


def test_of_two_the_later_counts_even_if_it_has_expired() -> None:
    with open_store() as store:
        twice = [(b"k", b"old", 0, 0, b""), (b"k", b"new", 0, UNIX_MS + 5, b""), (b"other", b"v", 0, 0, b"")]
        now, unix_now = HandClock(), HandClock(UNIX_MS)
        assert transfer(store, now, unix_now).put(build_block(twice)) == (3, 0)
        assert value_of(store, b"k", now) == b"new"
        now.now_ms += 5
        unix_now.now_ms += 5
        assert transfer(store, now, unix_now).put(build_block(twice)) == (2, 1)
        assert value_of(store, b"k", now) is None
        assert value_of(store, b"other", now) == b"v"


def test_a_clock_may_be_far_off() -> None:
    """A machine without a clock of its own begins in 1970."""
    for unix_now in (0, 1, (1 << 53) - 1):
        with open_store() as store:
            latest = [(b"k", b"v", 0, (1 << 53) - 1, b""), (b"soon", b"v", 0, 1, b"")]
            put, expired = transfer(store, HandClock(), HandClock(unix_now)).put(build_block(latest))
            assert (put, expired) == ((2, 0) if unix_now == 0 else (1, 1) if unix_now == 1 else (0, 2))


def test_a_wrong_block_changes_nothing() -> None:
    good = (b"k", b"v", 0, 0, b"")
    with open_store() as store:
        side = Transfer(store, HandClock(), HandClock(UNIX_MS), max_key=10, max_value=20)
        block = build_block([good])
        wrong: list[tuple[bytes, type[Exception]]] = [
            (block[:-1] + b"w", SnapshotError),
            (block[:-1], SnapshotError),
            (b"", SnapshotError),
            (build_block([good, (b"k" * 11, b"", 0, 0, b"")]), KeyTooLong),
            (build_block([good, (b"k", bytes(21), 0, 0, b"")]), ValueTooLong),
        ]
        for raw, error in wrong:
            with pytest.raises(error):
                side.put(raw)
            assert store.stats()["entries"] == 0
        assert side.put(build_block([(b"k" * 10, bytes(20), 0, 0, b"")])) == (1, 0)


def test_a_full_store_evicts_as_with_any_writing() -> None:
    with open_store() as one, open_store() as other:
        fill_until_evicted(one, "a", lambda _: bytes(300))
        fill_until_evicted(other, "b", lambda _: bytes(300))
        for block in blocks(transfer(one, HandClock())):
            transfer(other, HandClock()).put(block)
        assert other.stats()["evictions"] > 1000


def test_an_error_of_the_store_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store() as store:
        side = transfer(store, HandClock())
        with pytest.raises(WrongCursor, match="none of this store's"):
            side.page(12345)

        def full(*_: object) -> None:
            raise StoreError("No room.")

        monkeypatch.setattr(Store, "put", full)
        with pytest.raises(StoreError):
            side.put(build_block([(b"k", b"v", 0, 0, b"")]))


def test_unix_time_is_in_milliseconds() -> None:
    assert 1_700_000_000_000 < unix_ms() < 10_000_000_000_000
