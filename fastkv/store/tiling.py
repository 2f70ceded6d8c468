"""Which pages of a shard cover which tags: each tag has to be covered by one page.

What a page covers is a number: a 1 and then the leading bits of the tags. It is a node of a binary tree whose
root is 1; the pages are leaves that leave out nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


def deepened(covers: int, others: Collection[int]) -> int:
    """What a page covers once the split that it was in is finished.

    Args:
        covers: what it says that it covers.
        others: what the committed pages of the shard say.

    Returns:
        Its lower half, if its upper half has a page of its own; else the same.
    """
    return covers << 1 if covers << 1 | 1 in others else covers


def clear(covers: Collection[int], bits: int) -> set[int]:
    """Those that cover no tag that another one covers as well.

    Args:
        covers: what each page covers; one that comes twice is in its own way.
        bits: how many leading bits of a tag can tell pages apart.

    Returns:
        Of those that overlap none: nobody can say which is right.
    """
    good: set[int] = set()
    reached, last = 0, 0
    for start, end, node in sorted((*_span(node, bits), node) for node in covers if 0 < node < 2 << bits):
        if start >= reached:
            good.add(node)
            reached, last = end, node
        else:
            good.discard(last)
            if end > reached:
                reached, last = end, node
    return good


def is_whole(covers: Collection[int], bits: int) -> bool:
    """Tell whether pages that do not overlap leave out nothing."""
    return sum(1 << bits + 1 - node.bit_length() for node in covers) == 1 << bits


def holes(covers: Collection[int], node: int = 1) -> Iterator[int]:
    """What the pages leave out.

    Args:
        covers: what each page covers; none overlap.
        node: where to look, and below.

    Yields:
        As few nodes as cover it.
    """
    if node in covers:
        return
    depth = node.bit_length()
    if any(other.bit_length() > depth and other >> other.bit_length() - depth == node for other in covers):
        yield from holes(covers, node << 1)
        yield from holes(covers, node << 1 | 1)
    else:
        yield node


def _span(node: int, bits: int) -> tuple[int, int]:
    """The directory entries of a node: the first, and the one after the last."""
    free = bits - node.bit_length() + 1
    start = (node << free) - (1 << bits)
    return start, start + (1 << free)
