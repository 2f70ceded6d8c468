"""What the memo keeps, and within which bound."""

from fastkv.memo import Memo, Remembered
from fastkv.store import Entry

PRELUDES = {200: b"HTTP/1.1 200 OK\r\n\r\n"}
ENTRY: Entry = (b"value", 1, 7, 0, 8 * 100 + 3, 0xABC, b"")


def memo(limit_bytes: int = 1 << 20) -> Memo:
    return Memo(limit_bytes, PRELUDES)


def offer(
    remember: Memo, request: bytes, tail: bytes = b"tail", entry: Entry = ENTRY, times: int = 2
) -> None:
    for _ in range(times):
        remember.offer(request, PRELUDES[200] + tail, entry)


def expected(tail: bytes = b"tail", entry: Entry = ENTRY) -> Remembered:
    # The access count is byte 3 of the bucket's first word.
    return entry[4], entry[5], 8 * 100 * 8 + 3, tail


def test_a_request_is_kept_at_its_second_sight_and_not_before() -> None:
    kept = memo()
    # One request in 256, another one in each process, has the mark of a place that saw none.
    request = next(name for name in (b"GET %d" % i for i in range(1000)) if hash(name) >> 13 & 0xFF)
    offer(kept, request, times=1)
    assert kept.get(request) is None
    offer(kept, request, times=1)
    assert kept.get(request) == expected()


def test_the_newest_reply_replaces_the_older_one_in_place() -> None:
    kept = memo()
    offer(kept, b"GET a")
    newer = (*ENTRY[:5], 0xDEF, b"")
    offer(kept, b"GET a", b"newer tail", newer, times=1)
    assert kept.get(b"GET a") == expected(b"newer tail", newer)


def test_what_may_go_by_itself_is_not_kept() -> None:
    kept = memo()
    offer(kept, b"GET a", entry=(*ENTRY[:3], 1, *ENTRY[4:]))
    assert kept.get(b"GET a") is None


def test_what_is_long_is_not_kept() -> None:
    kept = memo()
    offer(kept, b"GET " + b"a" * 5000)
    offer(kept, b"GET b", b"b" * 20_000)
    assert kept.get(b"GET " + b"a" * 5000) is None
    assert kept.get(b"GET b") is None


def test_nothing_is_kept_without_memory() -> None:
    kept = memo(0)
    offer(kept, b"GET a", times=5)
    assert kept.get(b"GET a") is None


def test_the_oldest_go_one_by_one_and_the_bound_holds() -> None:
    kept = memo(100_000)
    requests = [b"GET %d" % number for number in range(2000)]
    for request in requests:
        offer(kept, request)
    there = [request for request in requests if kept.get(request)]
    assert 0 < kept.evictions < 2000
    assert there == requests[-len(there) :]
    assert len(there) + kept.evictions == 2000
    assert 100_000 - 1000 < len(there) * (len(requests[-1]) + len(b"tail") + 400) <= 100_000
