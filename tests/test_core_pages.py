"""Compiled copies of index pages: splits and merges leave what readable ones leave, byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from store_helpers import KIB, MIB, clock, open_store
from test_core_engine import Pair

from fastkv import core

if TYPE_CHECKING:
    from collections.abc import Callable

if not core.COMPILED:
    pytest.skip(core.REASON, allow_module_level=True)

SHAPES: Final = ((2 * MIB, 1, 4 * KIB), (4 * MIB, 4, 16 * KIB), (16 * MIB, 1, 256 * KIB))


@pytest.mark.parametrize("shape", SHAPES)
def test_arenas_are_equal_after_splits_and_merges(shape: Any) -> None:
    pair = Pair(*shape)
    pages, splits = pair.stores[0].stats()["index_pages"], 0
    for number in range(shape[0] // 120):
        key = b"%d" % number
        pair.do(lambda store: store.put(key, b"", pair.clock))  # noqa: B023 - called at once
        pair.do(lambda store: store.get(b"%d" % (number // 3), pair.clock))  # noqa: B023 - called at once
        if pair.stores[0].stats()["index_pages"] > pages:
            pages = pair.stores[0].stats()["index_pages"]
            splits += 1
            pair.compare()
    assert splits >= 2
    pair.do(lambda store: store.flush())
    pair.compare()
    assert pair.stores[0].stats()["index_pages"] == len(pair.stores[0]._shards)
    for number in range(shape[0] // 240):
        key = b"again %d" % number
        pair.do(lambda store: store.put(key, b"", pair.clock))  # noqa: B023 - called at once
    pair.compare()
    pair.close()


def test_what_can_be_no_page_is_refused_and_nothing_is_written() -> None:
    with open_store() as store:
        store.put(b"key", b"value", clock)
        pages = store._index.compiled
        assert pages is not None
        geometry = store.geometry
        (page,) = store._index.pages(0)
        base = store._segments.base(page)
        other = base + geometry.segment_words
        before = bytes(store.counts)
        wrong: list[Callable[[], object]] = [
            lambda: pages.copy(base, base, 0),
            lambda: pages.copy(base, other, 16),
            lambda: pages.copy(base, 0, 0),
            lambda: pages.copy(0, other, 0),
            lambda: pages.copy(base + 8, other, 0),
            lambda: pages.copy(base, geometry.segments * geometry.segment_words, 0),
            lambda: pages.clear(0, 0),
            lambda: pages.clear(base, 1 << 63),
            lambda: pages.name(0, 1 << 63, base),
            lambda: pages.name(geometry.shards << geometry.directory_bits, 1, base),
            lambda: pages.name(0, 1, 8),
        ]
        for call in wrong:
            with pytest.raises(ValueError, match=r"there is no such|has no such bit"):
                call()
        assert bytes(store.counts) == before


def test_of_a_closed_store_nothing_is_a_page() -> None:
    with open_store() as store:
        pages = store._index.compiled
        base = store._segments.base(store._index.pages(0)[0])
    assert pages is not None
    with pytest.raises(ValueError, match="no such page"):
        pages.clear(base, 0)
